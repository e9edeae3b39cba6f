"""The online self-test: does the noise that the classifier was shown look like noise of the law?

It is run on a sample of the noise in use, recovered from the noisy copies themselves (`noise_steps`), and finds what a
broken or exchanged generator does to it: another law, cut tails, a repeated block, dependence between neighbours. It cannot
find a change smaller than its sample resolves (a total variation of about 1e-3 per coordinate in 10^6 values), nor one that
is aimed at a single classifier: those need a replay by another generator.

Every test comes with a proved bound on the probability that true noise fails it, for the sample at hand and not only in the
limit, so that together they raise a false alarm with probability at most `false_alarm`:

* shares of bins: P(KL(shares || law) >= x) <= exp(-N x) (e N x / (k - 1))^(k - 1) for k bins (Agrawal 2020, Theorem I.2),
  2 N KL being the chi-square statistic of the likelihood ratio;
* moments 1 to 4 and tail counts: Chernoff's bound, with the moment-generating function summed over the law's own cells;
* correlations of ranks, signed and absolute, over disjoint pairs: Bernstein's inequality with the exact variance;
* repeats: equal pieces of noise, by the union bound over all pairs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, Int64
from numpy import ndarray
from torch import Tensor

from smoothing.errors import InvalidArgumentError, NoiseSelfTestError
from smoothing.estimators.base import Phase
from smoothing.integer.grid import grid_levels
from smoothing.integer.source import PhiloxIntNoise
from smoothing.integer.thresholds import IntegerLaw

FALSE_ALARM = 1e-9
"""Probability that true noise fails, all tests together."""

_BINS = 32
_TAIL_COUNTS = (30, 300, 3000)
_LAGS = (1, 2, 4, 16, 64)
_SAMPLE_LAGS = (1, 2)
_SHUFFLES = 2


@dataclass(frozen=True)
class NoiseTest:
    """One test.

    Attributes:
        name: What was looked at.
        statistic: What was found; in standard deviations for moments and correlations.
        bound: At least the probability that true noise is as far off as this.
    """

    name: str
    statistic: float
    bound: float


@dataclass(frozen=True)
class NoiseReport:
    """The outcome of a self-test.

    Attributes:
        samples: Noise vectors looked at.
        values: Single values looked at.
        false_alarm: Probability that true noise fails, at most, all tests together.
        tests: All tests.
    """

    samples: int
    values: int
    false_alarm: float
    tests: tuple[NoiseTest, ...]

    @property
    def failures(self) -> tuple[NoiseTest, ...]:
        """The tests that failed."""
        return tuple(test for test in self.tests if test.bound <= self.false_alarm / len(self.tests))

    @property
    def passed(self) -> bool:
        """Whether no test failed."""
        return not self.failures


def noise_steps(
    copies: Float[Tensor, "samples ..."], x: Float[Tensor, "..."], grid: int = 255
) -> Int64[ndarray, "samples ..."]:
    """Recover the integer noise from the noisy copies that a classifier was shown.

    Args:
        copies: Noisy copies, [samples, *shape].
        x: The input, [*shape].
        grid: Steps per unit.

    Raises:
        InvalidArgumentError: If copies or input are off the grid.
    """
    return np.asarray(grid_levels(copies, grid, "a noisy copy") - grid_levels(x, grid))


def examine_noise(
    noise: Int[ndarray, "samples ..."], law: IntegerLaw, *, false_alarm: float = FALSE_ALARM
) -> NoiseReport:
    """Run all tests on integer noise and return what they found; `check_noise` raises.

    Args:
        noise: Noise in steps, [samples, *shape]; samples of one phase of one or several inputs. A million values or more
            make the tests sharp.
        law: The law that it should have.
        false_alarm: Probability that true noise fails, all tests together.

    Raises:
        InvalidArgumentError: If there are fewer than 2 samples or false_alarm is not in (0, 1).
    """
    if len(noise) < 2:
        raise InvalidArgumentError(f"a self-test needs at least 2 samples, got {len(noise)}")
    if not 0 < false_alarm < 1:
        raise InvalidArgumentError(f"false_alarm must be in (0, 1), got false_alarm={false_alarm}")
    rows = np.ascontiguousarray(noise.reshape(len(noise), -1).astype(np.int64))
    tests = [_reach(rows, law), *_marginal(rows, law), *_correlations(rows, law), _repeats(rows, law)]
    return NoiseReport(len(rows), rows.size, false_alarm, tuple(tests))


def check_noise(
    noise: Int[ndarray, "samples ..."], law: IntegerLaw, *, false_alarm: float = FALSE_ALARM
) -> NoiseReport:
    """Run all tests and return their report; see `examine_noise`.

    Raises:
        NoiseSelfTestError: If one fails.
        InvalidArgumentError: See `examine_noise`.
    """
    report = examine_noise(noise, law, false_alarm=false_alarm)
    if not report.passed:
        found = "; ".join(f"{t.name} ({t.statistic:.4g}, probability at most {t.bound:.1e})" for t in report.failures)
        raise NoiseSelfTestError(
            f"drawn noise must look like its law (false alarm {false_alarm:g}), but {report.values:,} values fail: {found}; "
            "do not use this run's certificates, and check the installation (numpy, the GPU) with the project's tests"
        )
    return report


def check_source(
    source: PhiloxIntNoise, x: Float[Tensor, "..."], index: int, *, phase: Phase = Phase.ESTIMATE, values: int = 2**20
) -> NoiseReport:
    """Test the first samples of one input, as the classifier is shown them: what a run does before it issues certificates.

    Args:
        source: The run's own noise.
        x: An input of the run, [*shape].
        index: Its key.
        phase: Whose samples.
        values: About how many single values to look at; a million takes a tenth of a second.

    Raises:
        NoiseSelfTestError: If the noise fails.
        InvalidArgumentError: If the input is off the grid.
    """
    copies = source.draw(x, index, phase, 0, max(2, -(-values // source.law.dimension)))
    return check_noise(noise_steps(copies, x, source.grid), source.integer_law)


def _cells(law: IntegerLaw) -> Float64[ndarray, " cells"]:
    """Return the probabilities of n = -K .. K as they are drawn."""
    steps = np.concatenate([[0.0], law.thresholds.astype(np.float64) / 2.0**64, [1.0]])
    lower = np.diff(steps)[: law.reach]  # differences near 1 have lost their digits; the law is even
    return np.concatenate([lower, [1.0 - 2.0 * lower.sum()], lower[::-1]])


def _reach(rows: Int64[ndarray, "samples d"], law: IntegerLaw) -> NoiseTest:
    largest = int(np.abs(rows).max())
    return NoiseTest("largest step", float(largest), 1.0 if largest <= law.reach else 0.0)


def _marginal(rows: Int64[ndarray, "samples d"], law: IntegerLaw) -> Iterator[NoiseTest]:
    """Yield the tests of the law of single values; all of them read one histogram."""
    reach, p = law.reach, _cells(law)
    counts = np.bincount(np.clip(rows, -reach, reach).ravel() + reach, minlength=2 * reach + 1)
    yield _shares(counts, p)
    steps = np.arange(-reach, reach + 1, dtype=np.float64)
    scale = max(math.sqrt(float(p @ steps**2)), 1e-9)
    for power in (1, 2, 3, 4):
        yield _mean_test(f"moment {power}", counts, p, (steps / scale) ** power)
    beyond = np.cumsum(p[:reach])[::-1] * 2  # P(|n| > j) for j = 0 .. K - 1
    for expected in _TAIL_COUNTS:
        inside = int(np.searchsorted(-beyond, -expected / rows.size, side="right"))
        if 0 < inside < reach and beyond[inside - 1] < 0.5:
            yield _mean_test(f"values beyond {inside - 1} steps", counts, p, (np.abs(steps) > inside - 1).astype(float))


def _shares(counts: Int64[ndarray, " cells"], p: Float64[ndarray, " cells"]) -> NoiseTest:
    label = np.minimum((np.cumsum(p) - p / 2) * _BINS, _BINS - 1).astype(np.int64)
    _, label = np.unique(label, return_inverse=True)
    seen, law = np.bincount(label, weights=counts), np.bincount(label, weights=p)
    total, free = float(counts.sum()), len(law) - 1
    used = seen > 0
    distance = max(float(np.sum(seen[used] * np.log(seen[used] / (total * law[used])))), 0.0)  # N KL
    if free == 0 or distance <= free:
        return NoiseTest("shares of bins", 2 * distance, 1.0)
    return NoiseTest("shares of bins", 2 * distance, math.exp(free + free * math.log(distance / free) - distance))


def _mean_test(
    name: str, counts: Int64[ndarray, " cells"], p: Float64[ndarray, " cells"], y: Float64[ndarray, " cells"]
) -> NoiseTest:
    """Test the mean of y(n) by Chernoff's bound: P(mean >= m) <= exp(N (log E e^{ty} - t m)) for every t >= 0."""
    total = float(counts.sum())
    mean, found = float(p @ y), float(counts @ y) / total
    variance = float(p @ (y - mean) ** 2)
    if variance == 0.0:
        return NoiseTest(name, 0.0, 1.0)
    t = (found - mean) / variance
    log_p = np.log(np.maximum(p, 1e-300))
    best = 0.0
    for _ in range(30):
        # Newton's steps towards the best t; every t proves a bound, so that none has to be exact.
        exponent = log_p + t * (y - mean)
        top = float(exponent.max())
        weights = np.exp(exponent - top)
        mass = float(weights.sum())
        best = min(best, math.log(mass) + top - t * (found - mean))
        tilted = float(weights @ (y - mean)) / mass
        spread = float(weights @ (y - mean - tilted) ** 2) / mass
        step = (found - mean - tilted) / spread if spread > 0 else 0.0
        # The sign of t says which tail is bounded: it must not change.
        t = t + step if (t + step) * t > 0 else t / 2
        if abs(step) <= 1e-9 * abs(t):
            break
    return NoiseTest(name, (found - mean) / math.sqrt(variance / total), min(1.0, 2 * math.exp(total * best)))


def _correlations(rows: Int64[ndarray, "samples d"], law: IntegerLaw) -> Iterator[NoiseTest]:
    p = _cells(law)
    rank = np.cumsum(p) - p / 2 - 0.5  # odd in n, so that its mean is 0
    size = np.abs(rank) - float(p @ np.abs(rank))
    index = np.clip(rows, -law.reach, law.reach) + law.reach
    for name, score in (("", rank.astype(np.float32)), (" of sizes", size.astype(np.float32))):
        values = score[index]
        variance = float(p @ score.astype(np.float64) ** 2)
        largest = float(np.abs(score).max())
        for where, left, right in _pairs(values):
            yield _correlation(f"correlation{name}, {where}", left, right, variance, largest)


def _pairs(values: Float[ndarray, "samples d"]) -> Iterator[tuple[str, ndarray, ndarray]]:
    """Yield disjoint pairs of values, which are independent of each other."""
    samples, d = values.shape
    for lag in _LAGS:
        if d >= 2 * lag:
            blocks = values[:, : d // (2 * lag) * 2 * lag].reshape(samples, -1, 2, lag)
            yield f"coordinates {lag} apart", blocks[:, :, 0], blocks[:, :, 1]
    for lag in _SAMPLE_LAGS:
        if samples >= 2 * lag:
            blocks = values[: samples // (2 * lag) * 2 * lag].reshape(-1, 2, lag, d)
            yield f"samples {lag} apart", blocks[:, 0], blocks[:, 1]
    if d >= 2:
        generator = np.random.default_rng(0)
        for number in range(_SHUFFLES):
            order = generator.permutation(d)[: d // 2 * 2]
            yield f"coordinates at random ({number + 1})", values[:, order[::2]], values[:, order[1::2]]


def _correlation(name: str, left: ndarray, right: ndarray, variance: float, largest: float) -> NoiseTest:
    """Test sum left right by Bernstein: independent products with mean 0, variance v^2, size at most b^2."""
    if variance == 0.0:
        return NoiseTest(name, 0.0, 1.0)
    count = left.size
    # The last digits of float32 change the sum by far less than a standard deviation.
    total = abs(float(np.sum(left * right, dtype=np.float64)))
    exponent = total**2 / (2 * (count * variance**2 + largest**2 * total / 3))
    return NoiseTest(name, total / (variance * math.sqrt(count)), min(1.0, 2 * math.exp(-exponent)))


def _repeats(rows: Int64[ndarray, "samples d"], law: IntegerLaw) -> NoiseTest:
    """Look for equal pieces of noise, anywhere: as short as true noise practically never repeats."""
    samples, d = rows.shape
    p = _cells(law)
    collision = -math.log(max(float(p @ p), 1e-300))  # two values are equal with probability exp(-this)
    # Pieces of whole Philox blocks (16 values) if these are long enough; at most whole samples.
    for length in (*(16 * 2**i for i in range(20) if 16 * 2**i < d), d):
        pieces = samples * (d // length)
        chance = math.exp(min(0.0, 2 * math.log(pieces) - math.log(2) - length * collision))
        if chance <= FALSE_ALARM * 1e-3:
            break
    else:
        return NoiseTest("repeats", 0.0, 1.0)
    short = rows[:, : d // length * length].reshape(pieces, length)
    weights = np.random.default_rng(0).integers(0, 2**64, size=length, dtype=np.uint64) | np.uint64(1)
    hashes = short.astype(np.uint64) @ weights
    order = np.argsort(hashes, kind="stable")
    candidates = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    equal = (short[order[candidates]] == short[order[candidates + 1]]).all(axis=1)
    repeats = int(equal.sum())
    return NoiseTest("repeats", float(repeats), chance if repeats else 1.0)
