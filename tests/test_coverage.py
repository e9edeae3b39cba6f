"""Are certificates false as rarely as alpha says? On classifiers whose true radius is known exactly.

Every certification here goes through `SmoothedClassifier.certify`, on inputs at several distances from the decision
boundary, the boundary itself among them, where any certificate is false. False alarms of the checks have probability
`FALSE_ALARM` at most over the choice of the seeds, which are fixed; the checks are shown to have the power to see an error
probability of twice alpha, and shown to fail when the code is broken on purpose.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import binom, norm
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor

import smoothing.estimators.fixed
import smoothing.integer.source
import smoothing.noise
import smoothing.votes
from smoothing import Gaussian, Laplace, Phase, SmoothedClassifier, SmoothingDistribution, Uniform

FALSE_ALARM = 1e-6
SIGMA = 0.5
N0, N = 127, 640
MARGINS = (0.0, 0.4, 0.8, 1.0, 1.2)
"""Distances from the decision boundary in units of sigma."""
REPEATS = 600
"""Inputs per distance."""


# --- Classifiers with a known radius ----------------------------------------------------------------------------------

WEIGHT = torch.tensor([2.0, -1.0, 2.0, 4.0])  # of length 5
BIAS = 1.0


def linear(x: Tensor) -> Tensor:
    """Class 1 where w.x + b > 0.

    Under Gaussian noise w.(x + z) + b is normal with mean w.x + b, so that g(x) = 1 exactly where w.x + b > 0. Within the
    l2 ball of radius r around x, w.x + b falls by r ||w||_2 at most, and does so in the direction -w: g's true l2 radius
    is |w.x + b| / ||w||_2.
    """
    return ((x * WEIGHT).sum(1) + BIAS > 0).long()


def threshold(x: Tensor) -> Tensor:
    """Class 1 where x_1 + b > 0.

    The law of z_1 is symmetric and has positive density around 0, so that P(x_1 + z_1 + b > 0) > 1/2 exactly where
    x_1 + b > 0. A perturbation v changes that iff v_1 has the opposite sign and |v_1| >= |x_1 + b|; the one of least l1 norm
    that does has no other coordinate, so that g's true l1 radius is |x_1 + b|.
    """
    return (x[:, 0] + BIAS > 0).long()


@dataclass(frozen=True)
class Case:
    """A law, a classifier, and everything about them in closed form, in units of sigma.

    Attributes:
        top: Probability of the top class at a distance from the boundary.
        radius: The radius at p > 1/2, from textbook formulas and scipy only.
    """

    law: SmoothingDistribution
    norm: str
    classifier: Callable[[Tensor], Tensor]
    place: Callable[[Tensor], Tensor]
    top: Callable[[float], float]
    radius: Callable[[Any], Any]


def along_weight(distance: Tensor) -> Tensor:
    """Inputs at signed distances from the hyperplane, elsewhere spread over it."""
    spread = torch.stack([torch.arange(len(distance)) % 7, torch.arange(len(distance)) % 5], 1).float() / 4
    on_plane = torch.cat([spread[:, :1], 2 * spread[:, :1], spread[:, 1:] * 2, -spread[:, 1:]], 1)
    return on_plane + (distance[:, None] - BIAS / 5) * WEIGHT / 5


def along_first_axis(distance: Tensor) -> Tensor:
    return torch.stack([distance - BIAS, torch.arange(len(distance)) % 7 / 4], 1)


CASES = {
    "gaussian-l2": Case(Gaussian((4,), sigma=SIGMA), "l2", linear, along_weight, lambda m: float(ndtr(m)), ndtri),
    "laplace-l1": Case(
        Laplace((2,), sigma=SIGMA),
        "l1",
        threshold,
        along_first_axis,
        lambda m: 1 - 0.5 * math.exp(-m * math.sqrt(2)),
        lambda p: -np.log(2 * (1 - p)) / math.sqrt(2),
    ),
    "uniform-l1": Case(
        Uniform((2,), sigma=SIGMA),
        "l1",
        threshold,
        along_first_axis,
        lambda m: min(0.5 + m / (2 * math.sqrt(3)), 1.0),
        lambda p: (2 * p - 1) * math.sqrt(3),
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What was certified, and what is true.

    Attributes:
        radii: Certified radius, 0 where abstained.
        truths: True radius of g for the class certified; 0 where that class is wrong.
    """

    radii: np.ndarray
    truths: np.ndarray


def certify(
    case: Case, alpha: float, margins: tuple[float, ...], repeats: int, *, n0: int = N0, n: int = N, seed: int = 0
) -> Outcome:
    """Certify `repeats` inputs at each distance, on both sides of the boundary in turn."""
    distances = SIGMA * torch.tensor(margins, dtype=torch.float64).repeat(repeats)
    signs = 1 - 2 * (torch.arange(len(distances)) // len(margins) % 2)
    signed = distances * signs
    model = SmoothedClassifier(case.classifier, case.law, 2, batch_size=4096)
    certificates = model.certify(
        case.place(signed).float(), case.norm, n0=n0, n=n, alpha=alpha, seed=seed, indices=range(len(signed))
    )
    # On the boundary neither class is g's; elsewhere the one on whose side the input lies.
    true_class = (signed > 0).long().tolist()
    truths = [
        float(distance) if certificate.prediction == label else 0.0
        for certificate, label, distance in zip(certificates, true_class, distances, strict=True)
    ]
    return Outcome(np.array([certificate.radius for certificate in certificates]), np.array(truths))


# --- The checks -------------------------------------------------------------------------------------------------------


def most_errors(total: int, alpha: float, false_alarm: float) -> int:
    """The number of errors that Bin(total, alpha) exceeds with probability `false_alarm` at most."""
    return int(binom.isf(false_alarm, total, alpha))


def check_coverage(outcome: Outcome, alpha: float, false_alarm: float = FALSE_ALARM) -> None:
    """Fail if more radii are above the truth than alpha explains: exact one-sided binomial test."""
    total = len(outcome.radii)
    above = int((outcome.radii > outcome.truths).sum())
    limit = most_errors(total, alpha, false_alarm)
    assert above <= limit, f"{above} of {total} radii are above the truth, at most {limit} may be at alpha={alpha}"


def moments(case: Case, margin: float, alpha: float) -> tuple[float, float]:
    """Mean and variance of the certified radius at a distance from the boundary, in units of sigma and sigma^2.

    Summed over k ~ Bin(N, p), with statsmodels' Clopper-Pearson bound. N0 is odd: there are no ties in the selection.
    """
    k = np.arange(N + 1)
    lower, _ = proportion_confint(k, N, alpha=2 * alpha, method="beta")
    with np.errstate(invalid="ignore", divide="ignore"):
        radius = np.where(lower > 0.5, case.radius(lower), 0.0)
    p = case.top(margin)
    chosen = binom.sf(N0 // 2, N0, p)
    weights = chosen * binom.pmf(k, N, p) + (1 - chosen) * binom.pmf(k, N, 1 - p)
    mean = float(weights @ radius)
    return mean, float(weights @ radius**2) - mean**2


def check_mean_radius(outcome: Outcome, case: Case, alpha: float) -> None:
    """Fail if the mean radius is more than 1 % from its expectation; that is beyond chance."""
    exact = [moments(case, margin, alpha) for margin in MARGINS]
    expected = SIGMA * sum(mean for mean, _ in exact) / len(MARGINS)
    error = SIGMA * math.sqrt(sum(variance for _, variance in exact) / len(MARGINS) / len(outcome.radii))
    assert 2 * norm.sf(0.01 * expected / error) < FALSE_ALARM, "1 % must be far beyond the sampling error"
    mean = float(outcome.radii.mean())
    assert abs(mean - expected) < 0.01 * expected, f"the mean radius is {mean:.5f}, expected {expected:.5f}"


@pytest.fixture(autouse=True)
def remembered_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is a pure function of three numbers and is asked for the same ones all the time: compute each once."""
    bound = functools.cache(smoothing.estimators.fixed.failure_upper_bound)
    monkeypatch.setattr(smoothing.estimators.fixed, "failure_upper_bound", bound)


@pytest.fixture(autouse=True)
def unchecked_shapes() -> Iterator[None]:
    """Thousands of certificates a test: run-time checks of types and shapes, which other tests have, would double it."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


# --- The claim --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "alpha"), [(3000, 0.05), (3000, 0.1), (2000, 0.05), (1000, 0.1)])
def test_the_check_has_its_stated_errors(total: int, alpha: float) -> None:
    """For every number of certifications used below: false alarms at alpha, and power against twice alpha."""
    limit = most_errors(total, alpha, FALSE_ALARM)
    assert binom.sf(limit, total, alpha) <= FALSE_ALARM
    assert binom.sf(limit, total, 2 * alpha) > 0.99


@pytest.mark.parametrize("alpha", [0.05, 0.1])
@pytest.mark.parametrize("name", CASES)
def test_radii_are_above_the_truth_no_more_often_than_alpha(name: str, alpha: float) -> None:
    case = CASES[name]
    outcome = certify(case, alpha, MARGINS, REPEATS, seed=round(1000 * alpha))
    assert len(outcome.radii) >= 3000
    check_coverage(outcome, alpha)
    check_mean_radius(outcome, case, alpha)
    # Each distance on its own, the boundary first: the bound holds at every p, not only on average.
    for place in range(len(MARGINS)):
        at = slice(place, None, len(MARGINS))
        check_coverage(Outcome(outcome.radii[at], outcome.truths[at]), alpha, FALSE_ALARM / len(MARGINS))
    # And alpha is used, not just respected: the bound is exact, so that errors are not much rarer either.
    above = int((outcome.radii > outcome.truths).sum())
    assert above >= binom.isf(1 - FALSE_ALARM, len(outcome.radii), 0.6 * alpha)


# --- Breaking the code on purpose -------------------------------------------------------------------------------------


def boundary(alpha: float, *, n: int = 119, repeats: int = 2000) -> Outcome:
    """Certify on the boundary only, where every certificate is false.

    At n = 119 the bound errs with probability .0493 and .0996 at alpha = .05 and .1: next to nothing is lost to the
    discreteness of the counts, so that a doubled alpha doubles the errors.
    """
    return certify(CASES["gaussian-l2"], alpha, (0.0,), repeats, n0=119, n=n)


def test_on_the_boundary_the_unbroken_code_passes() -> None:
    check_coverage(boundary(0.05), 0.05)


def test_doubled_alpha_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = smoothing.estimators.fixed.failure_upper_bound
    monkeypatch.setattr(smoothing.estimators.fixed, "failure_upper_bound", lambda f, n, alpha: bound(f, n, 2 * alpha))
    outcome = boundary(0.05)
    with pytest.raises(AssertionError, match="above the truth"):
        check_coverage(outcome, 0.05)


def test_doubled_alpha_is_noticed_in_the_mean_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = smoothing.estimators.fixed.failure_upper_bound
    monkeypatch.setattr(smoothing.estimators.fixed, "failure_upper_bound", lambda f, n, alpha: bound(f, n, 2 * alpha))
    case = CASES["uniform-l1"]
    outcome = certify(case, 0.05, MARGINS, REPEATS)
    with pytest.raises(AssertionError, match="the mean radius is"):
        check_mean_radius(outcome, case, 0.05)


def test_reused_selection_votes_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(smoothing.noise._PHASES, Phase.ESTIMATE, smoothing.noise._PHASES[Phase.SELECT])
    outcome = boundary(0.05)
    with pytest.raises(AssertionError, match="above the truth"):
        check_coverage(outcome, 0.05)


def integer_boundary(alpha: float) -> Outcome:
    """The same with integer noise: the tie of a symmetric law goes to a third class, so that no class has a majority."""
    number = torch.arange(2000)
    images = torch.stack([torch.full_like(number, 100), number % 256, number // 256], 1) / 255

    def side(x: Tensor) -> Tensor:
        steps = (255 * x[:, 0]).round()
        return torch.where(steps > 100, 0, torch.where(steps < 100, 1, 2))

    model = SmoothedClassifier(
        side, Gaussian((3,), sigma=SIGMA), 3, batch_size=4096, noise_version="philox-int-v1", grid=255
    )
    certificates = model.certify(images, n0=119, n=119, alpha=alpha, indices=range(2000))
    return Outcome(np.array([certificate.radius for certificate in certificates]), np.zeros(2000))


def test_reused_selection_votes_of_integer_noise_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    check_coverage(integer_boundary(0.05), 0.05)
    phases = smoothing.integer.source.PHASES
    monkeypatch.setitem(phases, Phase.ESTIMATE, phases[Phase.SELECT])
    outcome = integer_boundary(0.05)
    with pytest.raises(AssertionError, match="above the truth"):
        check_coverage(outcome, 0.05)


def test_a_repeated_block_of_noise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    seed_of = smoothing.noise.block_seed
    monkeypatch.setattr(smoothing.noise, "block_seed", lambda base, phase, block: seed_of(base, phase, 0))
    outcome = boundary(0.1, n=512, repeats=1000)
    with pytest.raises(AssertionError, match="above the truth"):
        check_coverage(outcome, 0.1)


def half_broken(x: Tensor) -> Tensor:
    """Scores for class 0 in 40 % of the votes, NaN in the others: no class has a majority, so any certificate is false."""
    scores = torch.tensor([1.0, 0.0]).expand(len(x), 2)
    return torch.where((x[:, :1] > SIGMA * float(ndtri(0.6))), scores, float("nan"))


def broken_outcome() -> Outcome:
    model = SmoothedClassifier(half_broken, Gaussian((2,), sigma=SIGMA), 2, batch_size=4096)
    certificates = model.certify(torch.zeros(1000, 2), n0=N0, n=128, alpha=0.1, indices=range(1000))
    return Outcome(np.array([certificate.radius for certificate in certificates]), np.zeros(1000))


def test_votes_that_are_not_a_number_certify_nothing() -> None:
    check_coverage(broken_outcome(), 0.1)


def test_nan_counted_for_class_0_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoothing.votes, "read_outcomes", lambda output, batch, num_classes: output.argmax(1))
    outcome = broken_outcome()
    with pytest.raises(AssertionError, match="above the truth"):
        check_coverage(outcome, 0.1)
