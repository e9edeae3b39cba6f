"""Where radii are attached to votes: the noise's slack is allowed for once, and thresholds of something else are refused."""

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smoothing import Gaussian, InvalidArgumentError, Laplace, Norm, SmoothedClassifier, Status
from smoothing.certificate import Certificate, check_thresholds, issue_certificate
from smoothing.estimators.base import Decision, Estimate, Look, Phase
from smoothing.estimators.sequential import SequentialEstimator
from smoothing.estimators.thresholds import thresholds
from smoothing.integer import PhiloxIntNoise
from smoothing.rounding import complement_down, sum_up

LAW = Gaussian((4,), sigma=0.5)
GRID = (0.0, 0.25, 0.5, 1.0)


def estimate(q_upper: float, **changes: Any) -> Estimate:
    looks = (Look(Phase.ESTIMATE, 10, (10, 0, 0)),)
    fields = {
        "status": Status.CERTIFIED,
        "prediction": 0,
        "p_lower": complement_down(q_upper),
        "q_upper": q_upper,
        "rival_upper": None,
        "alpha": 0.001,
        "looks": looks,
        **changes,
    }
    return Estimate(**fields)


def issue(found: Estimate, slack: float = 0.0, **changes: Any) -> Certificate:
    return issue_certificate(
        found, LAW, Norm.L2, index=0, seed=0, noise_version="v", probability_slack=slack, **changes
    )


@given(st.floats(0.0, 1.0), st.floats(0.0, 0.4999))
def test_sums_of_bounds_are_never_below_the_exact_sum_and_next_to_it(bound: float, slack: float) -> None:
    total = sum_up(bound, slack)
    exact = Fraction(bound) + Fraction(slack)
    assert Fraction(total) >= exact
    assert Fraction(total) <= exact * (1 + Fraction(1, 2**52))
    assert sum_up(bound, 0.0) == bound


@pytest.mark.parametrize("slack", [0.0, 1e-17, 1e-6, 0.01])
def test_the_slack_is_added_to_a_bound_once(slack: float) -> None:
    certificate = issue(estimate(0.1), slack)
    q = sum_up(0.1, slack)
    assert certificate.radius == LAW.radius(complement_down(q), "l2", q_upper=q)
    assert certificate.q_upper == 0.1
    assert certificate.probability_slack == slack
    assert Certificate.from_dict(certificate.to_dict()) == certificate


def test_a_lead_smaller_than_the_slack_is_none() -> None:
    certificate = issue(estimate(0.4999), 0.001)
    assert (certificate.status, certificate.prediction, certificate.radius) == (Status.ABSTAINED, None, 0.0)


def test_both_bounds_of_a_two_sided_certificate_get_the_slack() -> None:
    certificate = issue(estimate(0.45, rival_upper=0.2), 0.01)
    q, rival = sum_up(0.45, 0.01), sum_up(0.2, 0.01)
    assert certificate.radius == LAW.radius(complement_down(q), "l2", q_upper=q, rival_upper=rival)
    assert issue(estimate(0.6, rival_upper=0.39), 0.011).status is Status.ABSTAINED


def test_the_radii_of_a_grid_stand_as_they_were_decided() -> None:
    statuses = (Status.CERTIFIED, Status.CERTIFIED, Status.UNDECIDED, Status.REFUTED)
    decisions = tuple(map(Decision, GRID, statuses))
    certificate = issue(estimate(0.3, decisions=decisions), 0.01)
    assert (certificate.radius, certificate.prediction, certificate.status) == (0.25, 0, Status.CERTIFIED)
    none = tuple(Decision(radius, Status.UNDECIDED) for radius in GRID)
    certificate = issue(estimate(1.0, decisions=none, status=Status.UNDECIDED, prediction=None))
    assert (certificate.radius, certificate.prediction, certificate.status) == (0.0, None, Status.UNDECIDED)


@pytest.mark.parametrize("slack", [0.0, 4e-17, 1e-11, 1e-4])
def test_thresholds_belong_to_their_law_norm_and_noise(slack: float) -> None:
    grid = thresholds(LAW, "l2", GRID, slack=slack)
    check_thresholds(grid, LAW, Norm.L2, probability_slack=slack)
    for law, norm, more in (
        (LAW, Norm.LINF, slack),
        (Gaussian((4,), sigma=0.49), Norm.L2, slack),
        (Laplace((4,), sigma=0.5), Norm.L1, slack),
        (LAW, Norm.L2, slack + 1e-4),
    ):
        with pytest.raises(InvalidArgumentError, match="thresholds must be made for the law, norm and noise"):
            check_thresholds(grid, law, norm, probability_slack=more)


def test_a_forgotten_slack_is_noticed_by_the_library() -> None:
    law = Gaussian((2,), sigma=0.5)
    smoothed = SmoothedClassifier(lambda x: (x[:, 0] < 0.2).long(), law, 2, noise_version="philox-int-v1")
    x = torch.tensor([[1.0, 128 / 255], [0.0, 0.0]])
    slack = PhiloxIntNoise(law).probability_slack
    good = SequentialEstimator(thresholds(law, "l2", (0.0, 0.5), slack=slack), cap=400)
    first, second = smoothed.certify(x, estimator=good, labels=[0, 0])
    assert (first.prediction, first.radius) == (0, 0.5)
    assert (second.prediction, second.radius) == (None, 0.0)
    assert first.noise_version == "philox-int-v1"
    bad = SequentialEstimator(thresholds(law, "l2", (0.0, 0.5)), cap=400)
    with pytest.raises(InvalidArgumentError, match="the noise being off by up to"):
        smoothed.certify(x, estimator=bad, labels=[0, 0])
    with pytest.raises(InvalidArgumentError, match="labels must be one per input"):
        smoothed.certify(x, estimator=good, labels=[0])
    with pytest.raises(InvalidArgumentError, match="grid k/255"):
        smoothed.certify(torch.tensor([[0.1, 0.2]]), n=100)
