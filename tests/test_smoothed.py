"""SmoothedClassifier: what certify and predict promise, abstention, keys of the noise, and certificates as data."""

import dataclasses
import doctest
import importlib
import json
import math
import pkgutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import beta, binom
from torch import Tensor

import smoothing
from smoothing import (
    Certificate,
    ClassifierError,
    Estimate,
    FixedEstimator,
    Gaussian,
    InvalidArgumentError,
    Laplace,
    Norm,
    Phase,
    SmoothedClassifier,
    SmoothingDistribution,
    Status,
    Uniform,
    UnsupportedNormError,
    convert_radius,
)
from smoothing.certificate import issue_certificate
from smoothing.noise import NOISE_VERSION, draw_block, input_base
from smoothing.statistics.rank import rank_test


def halfplane(x: Tensor) -> Tensor:
    """Class 1 where the first coordinate is positive: exact in any batch."""
    return (x.flatten(1)[:, 0] > 0).long()


def smoothed(
    classifier: Callable[[Tensor], Tensor] = halfplane, law: SmoothingDistribution | None = None, classes: int = 3
) -> SmoothedClassifier:
    return SmoothedClassifier(classifier, law or Gaussian((2,), sigma=0.5), classes, batch_size=512)


def points(*first: float) -> Tensor:
    return torch.tensor([[value, 0.25] for value in first])


# --- certify ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("law", "norm"),
    [(Gaussian((2,), sigma=0.5), "l2"), (Gaussian((2,), sigma=0.5), Norm.LINF), (Laplace((2,), sigma=0.5), "l1")],
)
def test_a_certificate_follows_from_its_votes(law: SmoothingDistribution, norm: Norm | str) -> None:
    x = points(0.4, -0.7, 0.1)
    for index, certificate in enumerate(
        smoothed(law=law).certify(x, norm, n0=20, n=2000, alpha=0.01, seed=5, indices=[0, 1, 2])
    ):
        select, estimate = certificate.looks
        assert (select.phase, select.n, estimate.phase, estimate.n) == (Phase.SELECT, 20, Phase.ESTIMATE, 2000)
        assert (certificate.n0, certificate.n, certificate.alpha, certificate.seed) == (20, 2000, 0.01, 5)
        assert certificate.index == index
        assert certificate.norm is Norm.parse(norm)
        # The votes, drawn again one block at a time.
        for look in (select, estimate):
            base = input_base(5, law, index)
            generator = torch.Generator()
            blocks = [draw_block(generator, law, x[index], base, look.phase, b) for b in range(-(-look.n // 128))]
            labels = halfplane(torch.cat(blocks)[: look.n])
            assert list(look.counts) == torch.bincount(labels, minlength=4).tolist()
        # The bound, by another library; its own error is 5e-8 at most.
        top = int(np.argmax(select.counts[:-1]))
        failures = 2000 - estimate.counts[top]
        q = beta.isf(0.01, failures + 1, 2000 - failures)
        assert certificate.q_upper == pytest.approx(q, rel=1e-7)
        assert certificate.p_lower <= 1 - certificate.q_upper
        assert certificate.rival_upper is None
        if certificate.prediction is None:
            assert certificate.q_upper >= 0.5
            continue
        assert certificate.prediction == top == int(x[index, 0] > 0)
        assert certificate.status is Status.CERTIFIED
        expected = law.radius(certificate.p_lower, norm, q_upper=certificate.q_upper)
        assert certificate.radius == expected > 0
        if isinstance(law, Gaussian):
            scale = 0.5 / (math.sqrt(2) if certificate.norm is Norm.LINF else 1)
            assert certificate.radius == pytest.approx(-scale * ndtri(q), rel=1e-6)
        assert certificate.law == law.describe()
        assert certificate.rebuild_law().identity == law.identity
        assert certificate.noise_version == NOISE_VERSION
        assert certificate.precision == "fp32"
        assert certificate.converted_from is None
        assert certificate.invalid == 0


def test_abstaining_means_no_class_and_radius_zero() -> None:
    [certificate] = smoothed().certify(points(0.0), n=1000)
    assert certificate.prediction is None
    assert certificate.radius == 0.0
    assert certificate.status is Status.ABSTAINED
    assert certificate.q_upper >= 0.5


def test_only_the_selection_votes_choose_the_class() -> None:
    """Estimation votes that are unanimous for another class give no certificate for it."""
    state = FixedEstimator(n0=10, n=1000, alpha=0.001).start()
    state.update(Phase.SELECT, np.array([6, 4, 0]))
    state.update(Phase.ESTIMATE, np.array([0, 1000, 0]))
    estimate = state.result()
    assert estimate.status is Status.ABSTAINED
    assert estimate.prediction is None
    assert estimate.q_upper == 1.0


@pytest.mark.parametrize(
    ("select", "chosen"), [([5, 5, 0], 0), ([0, 5, 5], 1), ([0, 4, 6], 1), ([0, 0, 10], 0), ([1, 2, 7], 1)]
)
def test_ties_go_to_the_lowest_class_and_invalid_is_never_chosen(select: list[int], chosen: int) -> None:
    state = FixedEstimator(n0=10, n=100, alpha=0.01).start()
    state.update(Phase.SELECT, np.array(select))
    counts = np.zeros(3, dtype=np.int64)
    counts[chosen] = 100
    state.update(Phase.ESTIMATE, counts)
    assert state.result().prediction == chosen


def test_an_estimator_state_takes_nothing_but_what_it_asked_for() -> None:
    state = FixedEstimator(n0=10, n=100, alpha=0.01).start()
    with pytest.raises(InvalidArgumentError, match="result\\(\\) needs both looks"):
        state.result()
    for phase, counts in ((Phase.ESTIMATE, [10, 0]), (Phase.SELECT, [9, 0]), (Phase.SELECT, [9, 2])):
        with pytest.raises(InvalidArgumentError, match="the look must be the one that is wanted"):
            state.update(phase, np.array(counts))
    state.update(Phase.SELECT, np.array([10, 0]))
    state.update(Phase.ESTIMATE, np.array([100, 0]))
    assert state.next_look() is None
    with pytest.raises(InvalidArgumentError, match="the look must be the one that is wanted"):
        state.update(Phase.ESTIMATE, np.array([100, 0]))


def broken(x: Tensor) -> Tensor:
    return torch.full((len(x), 3), float("nan"))


def mostly_broken(x: Tensor) -> Tensor:
    """Class 0 in 30 % of the votes, a label that does not exist in the others."""
    return torch.where(x[:, 1] > 0.25 + 0.5 * 0.524, 0, 17)


def test_votes_that_are_all_invalid_certify_and_predict_nothing() -> None:
    x = points(0.3, -0.3)
    for classifier, share in ((broken, 1.0), (mostly_broken, 0.7)):
        model = smoothed(classifier)
        for certificate in model.certify(x, n0=50, n=2000):
            assert certificate.prediction is None
            assert certificate.radius == 0.0
            assert certificate.invalid == pytest.approx(share * 2050, abs=0 if share == 1 else 150)
        assert model.predict(x, n=2000) == [None, None]


def test_invalid_votes_count_against_the_class() -> None:
    """80 % for the class and 20 % invalid certifies what 80 % against 20 % does."""

    def fails_on_the_left(label: int) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.where(x[:, 0] > 0, 1, label)

    x = points(0.42)
    [invalid] = smoothed(fails_on_the_left(-5)).certify(x, n=2000)
    [rival] = smoothed(fails_on_the_left(2)).certify(x, n=2000)
    assert invalid.prediction == rival.prediction == 1
    assert invalid.radius == rival.radius > 0
    assert invalid.invalid > 300
    assert rival.invalid == 0


def test_an_estimator_of_ones_own_replaces_the_numbers() -> None:
    estimator = FixedEstimator(n0=5, n=50, alpha=0.1)
    [certificate] = smoothed().certify(points(5.0), n0=77, n=777, alpha=0.3, estimator=estimator)
    assert (certificate.n0, certificate.n, certificate.alpha) == (5, 50, 0.1)
    assert certificate.q_upper == estimator.best_q_upper == pytest.approx(1 - 0.1 ** (1 / 50), rel=1e-9)


# --- Keys of the noise ------------------------------------------------------------------------------------------------


def test_results_belong_to_the_index_and_not_to_the_position() -> None:
    x = points(*np.linspace(-0.3, 0.3, 130).tolist())  # more inputs than are in flight at a time
    model = smoothed()
    indices = list(range(1000, 1130))
    together = model.certify(x, n0=10, n=200, indices=indices)
    assert [certificate.index for certificate in together] == indices
    backwards = model.certify(x.flip(0), n0=10, n=200, indices=indices[::-1])
    assert backwards[::-1] == together
    for position in (0, 64, 129):
        alone = model.certify(x[position : position + 1], n0=10, n=200, indices=[indices[position]])
        assert alone == [together[position]]
    other = SmoothedClassifier(halfplane, Gaussian((2,), sigma=0.5), 3, batch_size=7)
    assert other.certify(x[:5], n0=10, n=200, indices=indices[:5]) == together[:5]
    predictions = model.predict(x, n=100, indices=indices)
    assert model.predict(x.flip(0), n=100, indices=indices[::-1])[::-1] == predictions


def test_another_index_or_seed_is_other_noise() -> None:
    x = points(0.2, 0.2, 0.2)
    looks = [c.looks for c in smoothed().certify(x, n0=10, n=5000, indices=[1, 2, 3])]
    looks += [c.looks for c in smoothed().certify(x, n0=10, n=5000, seed=1, indices=[1, 2, 3])]
    assert len(set(looks)) == 6


def test_without_indices_the_content_is_the_key() -> None:
    x = points(0.1, 0.2, 0.1, 0.3)
    model = smoothed()
    first = model.certify(x, n0=10, n=500)
    assert first[0] == first[2]
    assert len({certificate.index for certificate in first}) == 3
    assert all(0 <= certificate.index < 2**63 for certificate in first)
    assert model.certify(x.flip(0), n0=10, n=500) == first[::-1]
    assert model.certify(x[1:2], n0=10, n=500) == first[1:2]
    # The engine runs in float32, so that the key of a float64 input is that of its float32 value.
    assert model.certify(x.double(), n0=10, n=500) == first
    assert model.predict(x, n=300) == model.predict(x.flip(0), n=300)[::-1]


@pytest.mark.parametrize("indices", [[1, 1], [0], [0, 1, 2], [-1, 2], []])
def test_keys_must_be_distinct_and_one_per_input(indices: list[int]) -> None:
    for call in (smoothed().certify, smoothed().predict):
        with pytest.raises(InvalidArgumentError, match="indices must be 2 distinct integers of at least 0"):
            call(points(0.1, 0.2), n=10, indices=indices)


def test_no_inputs_no_certificates() -> None:
    assert smoothed().certify(torch.zeros(0, 2)) == []
    assert smoothed().predict(torch.zeros(0, 2)) == []


# --- predict ----------------------------------------------------------------------------------------------------------


def test_predict_returns_the_class_or_abstains() -> None:
    assert smoothed().predict(points(1.0, -1.0, 0.0), n=1000) == [1, 0, None]


def test_predict_has_noise_of_its_own() -> None:
    seen: list[Tensor] = []

    def spy(x: Tensor) -> Tensor:
        seen.append(x[:128].clone())
        return halfplane(x)

    model = smoothed(spy)
    model.predict(points(0.5), n=128, indices=[0])
    model.certify(points(0.5), n0=128, n=128, indices=[0])
    predict, select, estimate = seen[0], seen[1], seen[2]
    rows = torch.cat([predict, select, estimate])
    assert len(torch.unique(rows, dim=0)) == 3 * 128


@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.001])
@pytest.mark.parametrize("n", [1, 10, 101, 1000])
def test_rank_test_errs_with_at_most_alpha_at_a_tie(n: int, alpha: float) -> None:
    """At p = (1/2, 1/2) every answer is an error; summed exactly. One-sided, the error would be nearly 2 alpha."""
    returned = [k for k in range(n + 1) if rank_test(np.array([k, n - k, 0]), alpha) is not None]
    error = float(binom.pmf(returned, n, 0.5).sum())
    assert error <= alpha * (1 + 1e-12)
    if n == 1000:
        assert error > 0.7 * alpha  # and it is not just silent
    one_sided = [k for k in range(n + 1) if binom.sf(max(k, n - k) - 1, n, 0.5) <= alpha]
    if n == 1000:
        assert binom.pmf(one_sided, n, 0.5).sum() > 1.4 * alpha


def test_predict_at_a_tie_answers_as_rarely_as_alpha_allows() -> None:
    """4,000 predictions on the decision boundary at alpha = 0.1: the number of answers is Bin(4000, at most 0.1)."""
    tests, alpha = 4000, 0.1
    x = torch.zeros(tests, 2)
    answers = smoothed(classes=2).predict(x, n=100, alpha=alpha, indices=range(tests))
    count = sum(answer is not None for answer in answers)
    limit = int(binom.isf(1e-6, tests, alpha))
    assert count <= limit
    assert binom.cdf(limit, tests, 2 * alpha) < 0.01  # the power of this test against 2 alpha
    # Both classes win, and about as often.
    wins = [answers.count(0), answers.count(1)]
    assert abs(wins[0] - wins[1]) < 5 * math.sqrt(count)


# --- Wrong arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, r"alpha must be in \(0, 1\), got alpha=0.0"),
        ({"alpha": 1.0}, r"alpha must be in \(0, 1\)"),
        ({"alpha": math.nan}, r"alpha must be in \(0, 1\)"),
        ({"alpha": -0.1}, r"alpha must be in \(0, 1\)"),
        ({"n": 0}, "n must be an integer of at least 1, got n=0"),
        ({"n": -5}, "n must be an integer of at least 1"),
        ({"seed": -1}, "seed must be an integer in"),
        ({"seed": 2**63}, "seed must be an integer in"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    for call in (smoothed().certify, smoothed().predict):
        with pytest.raises(InvalidArgumentError, match=message):
            call(points(0.5), **arguments)


def test_bad_selection_size_and_norm_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="n0 must be an integer of at least 1, got n0=0"):
        smoothed().certify(points(0.5), n0=0)
    with pytest.raises(
        UnsupportedNormError, match=r"no radius is proved for laplace noise in norm l0; proved norms: .*l1"
    ):
        smoothed(law=Laplace((2,), sigma=0.5)).certify(points(0.5), "l0")
    with pytest.raises(InvalidArgumentError, match="norm must be one of"):
        smoothed().certify(points(0.5), "l4")


def test_bad_inputs_are_refused() -> None:
    for call in (smoothed().certify, smoothed().predict):
        with pytest.raises(InvalidArgumentError, match=r"x must have shape \(batch, 2\), got \(2, 3\)"):
            call(torch.zeros(2, 3))
        for value in (math.nan, math.inf):
            with pytest.raises(InvalidArgumentError, match="x must be finite"):
                call(points(value))


@pytest.mark.parametrize("integer", [int, np.int64, np.uint8, torch.tensor], ids=lambda kind: kind.__name__)
def test_integers_of_every_kind_are_the_same(integer: Callable[[int], Any]) -> None:
    def results(number: Callable[[int], Any]) -> Any:
        g = SmoothedClassifier(
            halfplane,
            Gaussian((2,), sigma=0.5),
            number(3),
            batch_size=number(64),
            grid=number(4),
            noise_version="philox-int-v1",
        )
        x = torch.tensor([[0.5, 0.25], [-0.5, 0.25]])
        keys = [number(4), number(9)]
        return (
            g.certify(x, n0=number(10), n=number(100), seed=number(7), indices=keys, labels=[number(1), number(0)]),
            g.predict(x, n=number(100), seed=number(7), indices=keys),
        )

    certificates, predictions = results(integer)
    assert (certificates, predictions) == results(int)
    assert {type(value) for c in certificates for value in (c.n0, c.n, c.seed, c.index)} == {int}


@pytest.mark.parametrize(
    "wrong", [50.0, np.float64(50), True, np.True_, torch.tensor(True), "50", None, [50]], ids=repr
)
def test_what_is_no_integer_is_refused_everywhere(wrong: Any, untyped: None) -> None:
    g = smoothed()
    calls: dict[str, Callable[[], object]] = {
        "num_classes": lambda: SmoothedClassifier(halfplane, g.distribution, wrong),
        "batch_size": lambda: SmoothedClassifier(halfplane, g.distribution, 3, batch_size=wrong),
        "seed": lambda: g.predict(points(0.5), seed=wrong),
        "n0": lambda: g.certify(points(0.5), n0=wrong),
        "n": lambda: g.certify(points(0.5), n=wrong),
        "indices": lambda: g.certify(points(0.5), n=50, indices=[wrong]),
        "labels": lambda: g.certify(points(0.5), n=50, labels=[wrong]),
    }
    for name, call in calls.items():
        with pytest.raises(InvalidArgumentError, match=rf"^{name} must be (an integer|integers)"):
            call()
    with pytest.raises(InvalidArgumentError, match=r"^n must be an integer"):
        g.predict(points(0.5), n=wrong)
    with pytest.raises(InvalidArgumentError, match=r"^seed must be an integer"):
        g.certify(points(0.5), seed=wrong)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor], ids=lambda kind: kind.__name__)
def test_labels_and_indices_are_any_sequence(kind: Callable[[Any], Any]) -> None:
    g, x = smoothed(), points(0.5, -0.5)
    found = g.certify(x, n=100, indices=kind([3, 1]), labels=kind([2, 0]))
    assert [certificate.index for certificate in found] == [3, 1]
    assert g.predict(x, n=100, indices=kind([3, 1])) == [1, 0]


def test_labels_that_are_no_classes_are_refused(untyped: None) -> None:
    """Whether the estimator looks at them or not: a mistake in them is one in what is measured with them."""
    g, x = smoothed(classes=2), points(0.5, -0.5)
    for labels in ([0, 2], [-1, 0], [7, 8], torch.tensor([0, 2])):
        with pytest.raises(InvalidArgumentError, match=r"labels must be in 0..1, got \["):
            g.certify(x, n=100, labels=labels)
    for name in ("labels", "indices"):
        for wrong in (
            torch.zeros(2, 1, dtype=torch.long),
            np.zeros((2, 1), int),
            torch.zeros(2, device="meta").long(),
            3,
        ):
            with pytest.raises(InvalidArgumentError, match=f"{name} must be integers, one per input, got"):
                g.certify(x, n=100, **{name: wrong})


def test_inputs_and_devices_that_cannot_be_used_are_refused(untyped: None) -> None:
    x = points(0.5)
    wrong: list[tuple[Any, str]] = [
        (x.numpy(), r"x must be a torch.Tensor \[batch, \*shape\], got ndarray"),
        (x.tolist(), "x must be a torch.Tensor .*, got list"),
        (x.to("meta"), "x must be a dense tensor with values, got a meta tensor"),
        (x.to_sparse(), "x must be a dense tensor with values, got layout torch.sparse_coo"),
    ]
    for value, message in wrong:
        for call in (smoothed().certify, smoothed().predict):
            with pytest.raises(InvalidArgumentError, match=message):
                call(value)
    absent = f"cuda:{torch.cuda.device_count()}"
    for device in ("foo", absent, "meta", "cpu:x", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(InvalidArgumentError, match=f"device must be one that .*, got device='{device}'"):
            SmoothedClassifier(halfplane, Gaussian((2,), sigma=0.5), 3, device=device)


def test_bad_construction_and_classifiers_are_refused() -> None:
    law = Gaussian((2,), sigma=0.5)
    with pytest.raises(InvalidArgumentError, match="num_classes must be an integer of at least 2"):
        SmoothedClassifier(halfplane, law, 1)
    with pytest.raises(InvalidArgumentError, match="batch_size must be an integer of at least 1"):
        SmoothedClassifier(halfplane, law, 2, batch_size=0)
    with pytest.raises(InvalidArgumentError, match="precision must be one of"):
        SmoothedClassifier(halfplane, law, 2, precision="int8")
    with pytest.raises(ClassifierError, match="scores must have shape"):
        smoothed(lambda x: x.new_zeros(len(x), 7)).certify(points(0.5))


# --- Certificates as data ---------------------------------------------------------------------------------------------

LAWS = [Gaussian((3, 2), sigma=0.5), Laplace((6,), sigma=1 / 3), Uniform((1, 6), half_width=0.7)]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Plain data that a certificate is made from: nothing of ours runs while hypothesis draws it."""

    law: int
    norm: str
    proved_in: int
    n0: int
    n: int
    alpha: float
    select: tuple[float, ...]
    estimate: tuple[float, ...]
    index: int
    seed: int
    precision: str
    infinite: bool


shares = st.tuples(*[st.floats(0, 1)] * 3)
recipes = st.builds(
    Recipe,
    law=st.integers(0, len(LAWS) - 1),
    norm=st.sampled_from(["l1", "l2", "linf"]),
    proved_in=st.integers(0, 2),
    n0=st.integers(1, 50),
    n=st.integers(1, 10**6),
    alpha=st.floats(1e-9, 0.5),
    select=shares,
    estimate=shares,
    index=st.integers(0, 2**63 - 1),
    seed=st.integers(0, 2**63 - 1),
    precision=st.sampled_from(["fp32", "bf16"]),
    infinite=st.booleans(),
)


def made_from(recipe: Recipe) -> Certificate:
    law = LAWS[recipe.law]
    state = FixedEstimator(recipe.n0, recipe.n, recipe.alpha).start()
    for phase, total, cuts in ((Phase.SELECT, recipe.n0, recipe.select), (Phase.ESTIMATE, recipe.n, recipe.estimate)):
        counts = np.diff([0, *sorted(round(cut * total) for cut in cuts), total])
        state.update(phase, counts)
    certificate = issue_certificate(
        state.result(),
        law,
        Norm.parse(recipe.norm),
        index=recipe.index,
        seed=recipe.seed,
        noise_version=NOISE_VERSION,
        precision=recipe.precision,
        convert_from=sorted(law.norms, key=str)[recipe.proved_in % len(law.norms)],
    )
    return dataclasses.replace(certificate, radius=math.inf) if recipe.infinite else certificate


@settings(deadline=None)
@given(recipes)
def test_certificates_survive_json_exactly(recipe: Recipe) -> None:
    certificate = made_from(recipe)
    text = json.dumps(certificate.to_dict(), allow_nan=False)
    again = Certificate.from_dict(json.loads(text))
    assert again == certificate
    assert again.to_dict() == certificate.to_dict()
    assert again.rebuild_law().identity == certificate.rebuild_law().identity
    assert again.invalid == sum(look.counts[-1] for look in certificate.looks)
    assert (again.prediction is None) == (again.status is Status.ABSTAINED)


@settings(deadline=None)
@given(recipes)
def test_certificates_can_be_derived_again_from_their_votes(recipe: Recipe) -> None:
    certificate = made_from(recipe)
    state = FixedEstimator(certificate.n0, certificate.n, certificate.alpha).start()
    for look in certificate.looks:
        state.update(look.phase, np.array(look.counts))
    estimate = state.result()
    assert estimate.prediction == certificate.prediction
    assert (estimate.p_lower, estimate.q_upper) == (certificate.p_lower, certificate.q_upper)


@pytest.mark.parametrize("status", [Status.ABSTAINED, Status.UNDECIDED, Status.REFUTED])
def test_only_a_certified_estimate_gets_a_radius(status: Status) -> None:
    estimate = Estimate(status, 1, 0.9, 0.1, None, 0.01, ())
    law = Gaussian((2,), sigma=0.5)
    certificate = issue_certificate(estimate, law, Norm.L2, index=0, seed=0, noise_version=NOISE_VERSION)
    assert (certificate.prediction, certificate.radius, certificate.status) == (None, 0.0, status)


def test_a_converted_radius_says_so() -> None:
    [certificate] = smoothed(law=Laplace((2,), sigma=0.5)).certify(points(1.0), "l1", n=1000)
    state = FixedEstimator(certificate.n0, certificate.n, certificate.alpha).start()
    for look in certificate.looks:
        state.update(look.phase, np.array(look.counts))
    law = certificate.rebuild_law()
    common: dict[str, Any] = {"index": 0, "seed": 0, "noise_version": NOISE_VERSION}
    converted = issue_certificate(state.result(), law, Norm.LINF, convert_from=Norm.L1, **common)
    assert converted.radius == convert_radius(certificate.radius, "l1", "linf", 2) < certificate.radius
    assert converted.converted_from is Norm.L1
    assert "converted from l1" in converted.covers
    same = issue_certificate(state.result(), law, Norm.L1, convert_from=Norm.L1, **common)
    assert same.converted_from is None
    assert same.radius == certificate.radius
    assert same.covers == certificate.covers
    with pytest.raises(UnsupportedNormError):
        issue_certificate(state.result(), law, Norm.L0, **common)
    with pytest.raises(UnsupportedNormError):
        issue_certificate(state.result(), law, Norm.L1, convert_from=Norm.L0, **common)


# --- Examples in docstrings -------------------------------------------------------------------------------------------

MODULES = ["smoothing", *(module.name for module in pkgutil.walk_packages(smoothing.__path__, "smoothing."))]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_docstring_examples() -> None:
    finder = doctest.DocTestFinder()
    examples = [t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples]
    assert {"smoothing.smoothed.SmoothedClassifier", "smoothing.testing.check_distribution"} <= {
        t.name for t in examples
    }


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((1, 2), 0.1, dtype=torch.float64), "exact in float32"),
        (torch.full((1, 2), 1e300, dtype=torch.float64), "finite in float32"),
    ],
)
def test_what_is_certified_is_what_was_given(x: torch.Tensor, message: str) -> None:
    smoothed = SmoothedClassifier(lambda batch: (batch[:, 0] > 0).long(), Gaussian((2,), sigma=0.5), 2)
    with pytest.raises(InvalidArgumentError, match=message):
        smoothed.certify(x, n=20)
    assert smoothed.certify(torch.full((1, 2), 0.5, dtype=torch.float64), n=20)
