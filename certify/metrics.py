"""What a set of certificates says about a classifier: certified accuracy by radius, ACR, abstention, and intervals.

Two kinds of uncertainty are kept apart. The *intervals over the inputs* here take the certificates as they are and ask
how far the share among these inputs may be from the share among all inputs of the kind (each at its stated confidence,
by itself). The *alpha of the certificates* is the probability, over the noise, that one input's certificate is false;
over N inputs at most N alpha are false on average. `population_lower_bound` is the one statement that takes in both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from certify.errors import UsageError
from certify.outcomes import ABSTAINED, REFUTED, UNDECIDED

__all__ = ["ABSTAINED", "REFUTED", "UNDECIDED"]

CONFIDENCE = 0.95
"""Confidence of the intervals over the inputs, unless something else is asked for."""

_STEPS = tuple(Decimal(digits).scaleb(exponent) for exponent in range(-9, 10) for digits in ("1", "2.5", "5"))
_USUAL_STEP = Decimal("0.25")
_MOST_COLUMNS = 24


@dataclass(frozen=True, eq=False)
class CertifiedSet:
    """The certificates of one run or published log, as arrays by input, with what is known about how they were made.

    Attributes:
        name: How tables and plots call it.
        idx: Index of each input in its data set; distinct.
        label: True classes.
        predict: Predictions of the smoothed classifier; negative where no class is proved: `ABSTAINED`, `UNDECIDED` or
            `REFUTED` (`certify.outcomes`).
        radius: Certified radii in input units; 0 where no class is proved.
        correct: Where the prediction is the label.
        seconds: Wall time per input.
        kind: "run" (a run folder, with its votes) or "log" (six columns and nothing else).
        planned: How many inputs the run is to have when it is whole; None where that is not recorded.
        shard: (i, n) if these are part i of n of a run, i counted from 0 as in `--shard i/n`; else None.
        sigma: Per-coordinate standard deviation of the noise; None where unknown, as are all of the following.
        law: The law in words.
        norm: Norm of the radii.
        alpha: Error probability per input.
        n0: Selection votes.
        n: Estimation votes.
        data_digest: Digest of the data set.
        data_size: How many inputs the whole data set has.
        split: "test" or "train".
        selection: Which of them the run is about, in words; None where it is all of them.
        invalid_votes: Votes that were invalid (non-finite scores, labels outside the classes), over all inputs.
        invalid_inputs: Inputs with at least one such vote.
        estimator: Name of the policy over votes.
        grid: The radii that were decided, where it decides radii; the radius of an input is then one of them.
        cap: Votes per input at most, where it has a cap.
        votes: Votes over all inputs.
        service: Whether a prediction service gave the votes.

    Raises:
        UsageError: If the arrays contradict each other or hold no input.
    """

    name: str
    idx: Int64[ndarray, " inputs"]
    label: Int64[ndarray, " inputs"]
    predict: Int64[ndarray, " inputs"]
    radius: Float64[ndarray, " inputs"]
    correct: Bool[ndarray, " inputs"]
    seconds: Float64[ndarray, " inputs"]
    kind: str = "log"
    planned: int | None = None
    shard: tuple[int, int] | None = None
    sigma: float | None = None
    law: str | None = None
    norm: str | None = None
    alpha: float | None = None
    n0: int | None = None
    n: int | None = None
    data_digest: str | None = None
    data_size: int | None = None
    split: str | None = None
    selection: str | None = None
    invalid_votes: int | None = None
    invalid_inputs: int | None = None
    estimator: str | None = None
    grid: tuple[float, ...] | None = None
    cap: int | None = None
    votes: int | None = None
    service: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("run", "log"):
            raise UsageError(f'kind must be "run" or "log", got kind={self.kind!r}')
        columns = (self.label, self.predict, self.radius, self.correct, self.seconds)
        if len(self.idx) == 0:
            raise UsageError(f"{self.name}: a set of certificates must hold at least one input, got none")
        if any(len(column) != len(self.idx) for column in columns):
            raise UsageError(f"{self.name}: all columns must have one entry per input")
        if len(np.unique(self.idx)) != len(self.idx):
            raise UsageError(f"{self.name}: each input must appear once, got a repeated index")
        if self.data_size is not None and not bool(np.all((self.idx >= 0) & (self.idx < self.data_size))):
            raise UsageError(
                f"{self.name}: indices must be in 0..{self.data_size - 1} (the data set has {self.data_size} inputs)"
            )
        if not bool(np.all(np.isfinite(self.radius) & (self.radius >= 0))):
            raise UsageError(f"{self.name}: radii must be finite and at least 0")
        if bool(np.any(self.correct != (self.predict == self.label))):
            raise UsageError(f"{self.name}: correct must be true exactly where predict == label")
        if bool(np.any(self.predict < REFUTED)):
            raise UsageError(
                f"{self.name}: predictions must be classes, or {ABSTAINED} (abstained), {UNDECIDED} (undecided) or "
                f"{REFUTED} (refuted)"
            )
        if bool(np.any(self.radius[self.predict < 0] != 0)):
            raise UsageError(
                f"{self.name}: the radius must be 0 where the prediction is {ABSTAINED} (abstained), or another negative one"
            )

    def __len__(self) -> int:
        return len(self.idx)

    @property
    def complete(self) -> bool:
        """Whether this is the whole of what was planned, as far as that is recorded."""
        return (self.planned is None or len(self) >= self.planned) and self.shard is None

    @property
    def notice(self) -> str | None:
        """What must be said wherever a number of an incomplete set is shown; None if the set is whole."""
        parts = []
        if self.planned is not None and len(self) < self.planned:
            parts.append(f"partial: {len(self)} of {self.planned} planned inputs")
        if self.shard is not None:
            parts.append(f"shard {self.shard[0]} of {self.shard[1]}: a part of the run; merge first")
        return "; ".join(parts) or None

    @property
    def credited(self) -> Float64[ndarray, " inputs"]:
        """The radius where the prediction is right, else 0: what ACR is the mean of."""
        return np.where(self.correct, self.radius, 0.0)

    @property
    def abstained(self) -> Bool[ndarray, " inputs"]:
        """Where all votes were counted and prove no class."""
        where: Bool[ndarray, " inputs"] = self.predict == ABSTAINED
        return where

    @property
    def undecided(self) -> Bool[ndarray, " inputs"]:
        """Where the votes that were allowed did not decide the smallest radius."""
        where: Bool[ndarray, " inputs"] = self.predict == UNDECIDED
        return where

    @property
    def refuted(self) -> Bool[ndarray, " inputs"]:
        """Where the class that was tested was shown not to reach the smallest radius."""
        where: Bool[ndarray, " inputs"] = self.predict == REFUTED
        return where

    @property
    def unproved(self) -> Bool[ndarray, " inputs"]:
        """Where no class is proved, for whichever reason."""
        where: Bool[ndarray, " inputs"] = self.predict < 0
        return where


@dataclass(frozen=True)
class Share:
    """`count` of `total` inputs, with a confidence interval for the share among all inputs of the kind."""

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself, count / total."""
        return self.count / self.total


@dataclass(frozen=True)
class Mean:
    """A mean over the inputs with its confidence interval; None where one input, or equal values, give no interval."""

    value: float
    low: float | None
    high: float | None


def certified_counts(
    certified: CertifiedSet, radii: Sequence[float | int] | Float64[ndarray, " radii"]
) -> Int64[ndarray, " radii"]:
    """Return, for each r, how many inputs have the right prediction and a certified radius of at least r."""
    right = np.sort(certified.radius[certified.correct])
    return (len(right) - np.searchsorted(right, np.asarray(radii, dtype=np.float64), side="left")).astype(np.int64)


def certified_accuracy(
    certified: CertifiedSet, radii: Sequence[float | int], *, confidence: float = CONFIDENCE
) -> tuple[Share, ...]:
    """Return the certified accuracy at each radius: the share of *all* inputs that are right with radius >= r.

    An input that abstained, is undecided, refuted or wrong counts as not certified, at every radius. At r = 0 this is the
    accuracy of the smoothed classifier itself, where having no class is wrong.

    Args:
        certified: The certificates.
        radii: Radii in input units, finite and at least 0.
        confidence: Of each interval by itself, in (0.5, 1); not of all of them together.

    Raises:
        UsageError: If a radius or the confidence is out of range.
    """
    check_radii(radii)
    return shares(certified_counts(certified, radii), len(certified), confidence=confidence)


def accuracy(certified: CertifiedSet, *, confidence: float = CONFIDENCE) -> Share:
    """Return the accuracy of the smoothed classifier on the unperturbed inputs; abstaining counts as wrong."""
    return certified_accuracy(certified, [0.0], confidence=confidence)[0]


def abstention(certified: CertifiedSet, *, confidence: float = CONFIDENCE) -> Share:
    """Return the share of inputs that abstained: all votes were counted, and prove no class."""
    return share_of(certified.abstained, confidence=confidence)


def share_of(where: Bool[ndarray, " inputs"], *, confidence: float = CONFIDENCE) -> Share:
    """Return the share of inputs for which something holds, with its interval."""
    count = np.array([np.count_nonzero(where)], dtype=np.int64)
    return shares(count, len(where), confidence=confidence)[0]


def average_certified_radius(certified: CertifiedSet, *, confidence: float = CONFIDENCE) -> Mean:
    """Return ACR: the mean over all inputs of the radius, 0 where wrong or abstained, with Student's t interval.

    Reference: Zhai et al. 2020 (MACER) for ACR.
    """
    return mean_with_interval(certified.credited, confidence=confidence)


def shares(counts: Int64[ndarray, " radii"], total: int, *, confidence: float = CONFIDENCE) -> tuple[Share, ...]:
    """Return each count as a share of `total` with the exact (Clopper-Pearson) two-sided interval."""
    from statsmodels.stats.proportion import proportion_confint

    check_confidence(confidence)
    low, high = proportion_confint(counts, total, alpha=1 - confidence, method="beta")
    return tuple(Share(int(c), total, float(a), float(b)) for c, a, b in zip(counts, low, high, strict=True))


def mean_with_interval(values: Float64[ndarray, " inputs"], *, confidence: float = CONFIDENCE) -> Mean:
    """Return the mean of `values` with Student's t interval."""
    from statsmodels.stats.weightstats import DescrStatsW

    check_confidence(confidence)
    mean = math.fsum(values) / len(values)
    if np.ptp(values) == 0:
        return Mean(mean, None, None)
    low, high = DescrStatsW(values).tconfint_mean(alpha=1 - confidence)
    return Mean(mean, float(low), float(high))


def population_lower_bound(count: int, total: int, alpha: float, *, confidence: float = CONFIDENCE) -> float:
    """Return a lower bound on the true certified accuracy over the population that the inputs were drawn from.

    Let T be the probability that the smoothed classifier is right and robust up to r at a random input. An input is
    counted with probability at most T + (1 - T) alpha, because where the statement is false it is certified with
    probability at most alpha. With L the one-sided Clopper-Pearson bound on the probability of being counted,
    T >= (L - alpha) / (1 - alpha). So both errors are covered at once, by a bound that treats the inputs, each with its
    noise, as independent draws. That is a model. How inputs were chosen is not known here; and the noise of different
    inputs is not independent by construction, since two of them may share a block of it by a coincidence of 32-bit seeds
    (see `smoothing.noise`). What is said of sums of alpha (at most N alpha false certificates on average) needs neither.

    Args:
        count: Inputs that are right with radius >= r.
        total: All inputs.
        alpha: Error probability per input, in (0, 1).
        confidence: Of the bound, for one radius chosen beforehand.
    """
    from statsmodels.stats.proportion import proportion_confint

    check_confidence(confidence)
    # The lower end of the two-sided interval at twice the error is the one-sided bound.
    low = proportion_confint(count, total, alpha=2 * (1 - confidence), method="beta")[0]
    return max(0.0, (float(low) - alpha) / (1 - alpha))


def default_radii(sets: Sequence[CertifiedSet]) -> tuple[float, ...]:
    """Return 0, 0.25, 0.5, ... up to the largest radius that counts in any of the sets; see `default_grid`."""
    return default_grid(max(float(certified.credited.max()) for certified in sets))


def default_grid(largest: float) -> tuple[float, ...]:
    """Return 0, 0.25, 0.5, ... up to `largest`.

    Where that would be a single radius (linf radii, say) or dozens of them, the step is a finer or a coarser one.
    """
    if 0 < largest < _USUAL_STEP:
        step = max((s for s in _STEPS if 4 * s <= largest), default=_STEPS[0])
    else:
        step = next((s for s in _STEPS if s >= _USUAL_STEP and largest < _MOST_COLUMNS * s), _STEPS[-1])
    # Multiples of a Decimal: 3 x 0.1 is then the float64 that the text "0.3" means, so a log's radius of 0.3 counts.
    grid = (float(k * step) for k in range(_MOST_COLUMNS))
    return tuple(radius for radius in grid if radius <= largest)


def parse_radii(text: str) -> tuple[float, ...]:
    """Read radii such as "0,0.25,0.5"; ascending and without repeats in the result.

    Raises:
        UsageError: If one is not a finite number of at least 0.
    """
    try:
        radii = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise UsageError(f'radii must be numbers separated by commas, such as "0,0.25,0.5", got {text!r}') from None
    check_radii(radii)
    return radii


def check_radii(radii: Sequence[float | int]) -> None:
    """Raise `UsageError` unless there is at least one radius and all are finite and at least 0."""
    for radius in radii:
        if not (math.isfinite(radius) and radius >= 0):
            raise UsageError(f"a radius must be finite and at least 0, got {radius}")
    if len(radii) == 0:
        raise UsageError("at least one radius is needed, got none")


def check_confidence(confidence: float) -> None:
    """Raise `UsageError` unless the confidence is in (0.5, 1)."""
    if not 0.5 < confidence < 1:
        raise UsageError(f"confidence must be in (0.5, 1), got confidence={confidence}")
