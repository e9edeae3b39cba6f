"""Replay published certification logs: what would the same certified-accuracy curve have cost with each estimator?

    python scripts/benchmark_sequential.py LOG... [--json FILE] [--csv FILE] [--replicates 16]
    python scripts/benchmark_sequential.py LOG... --single
    python scripts/benchmark_sequential.py --grid
    python scripts/benchmark_sequential.py --sizes

Of each row of a log, the class probability that its radius implies is taken as the truth (the Clopper-Pearson bound at the
log's n and alpha, solved for the count); the label of a wrong prediction gets all the rest, the worst case; of an abstention
the label's share is drawn evenly from (0, 0.505), of an undecided row (predict -2) too, and of a refuted one (-3) from
(0, 0.5). The column `time` is not needed. Votes are drawn from it, and the shipped estimators decide from their
counts, which radii of the grid 0, .25, .5, ... are certified. The fixed-n curve is decided on the same votes. The floor is
Wald's: to certify p > p0 at level alpha takes ln(1/alpha) / KL(p || p0) votes on average, for the hardest radius that the
fixed n certifies, and at most the cap; inputs that it does not certify at all count nothing.

--single asks for each radius of the grid alone, a row per log and radius, and sums up, per log and over all of them: the
mean votes over all inputs and radii, how many times fewer that is than the fixed n (the mean of its votes over the mean of
ours), and the mean of the rows' own ratios, which the easiest radii raise.

--grid needs no log: exact expected votes over the floor for one radius, by dynamic programming, for r / sigma in
{0, .5, 1, 2, 3} and p = Phi(r / sigma + margin), margin in {.1, .2, .5, 1, inf}; without futility, so that nothing is gained
by giving up.

--sizes needs no log: the error of each boundary at its worst p, over its alpha, by both implementations (the one that built
it and the one that audits it). Where few failures are expected at the cap, counts are too coarse to use all of alpha.
"""

import argparse
import csv
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from command_line import between, in_one_line, whole
from jaxtyping import Float64
from numpy import ndarray
from scipy.special import betainccinv, ndtr, ndtri

from certify.errors import UsageError
from certify.metrics import REFUTED, CertifiedSet
from certify.report.sources import read_log
from smoothing import Gaussian
from smoothing.estimators import (
    AnytimeEstimator,
    Estimator,
    FixedEstimator,
    PlannedEstimator,
    SequentialEstimator,
    Status,
    Threshold,
    thresholds,
)
from smoothing.statistics import failure_upper_bound
from smoothing.statistics.beta_mixture import ville_limit
from smoothing.statistics.boundary_cache import METHODS, boundary_of
from smoothing.statistics.boundary_check import verify_boundary
from smoothing.statistics.crossing import Steps, crossing_probability
from smoothing.statistics.operating import operation
from smoothing.statistics.schedule import capped_looks

ALPHA = 0.001
CAP = 100_000
N0 = 100
STEP = 0.25
ABSTAINED_SHARE = 0.505
"""Above it, an input of a log with n = 100,000 would hardly have been abstained on, or left undecided."""
REFUTED_SHARE = 0.5
"""What the label of a refuted row was shown not to reach, at radius 0."""
GRID_RADII = (0.0, 0.5, 1.0, 2.0, 3.0)
SIZE_RADII = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.25, 3.5, 3.75)
GRID_MARGINS = (0.1, 0.2, 0.5, 1.0, math.inf)


@dataclass(frozen=True)
class Line:
    """One estimator on one log. Losses are in points of certified accuracy (hundredths).

    Where the fixed n certifies no input, the floor is 0, and there is no ratio to it.
    """

    log: str
    estimator: str
    radii: int
    mean_votes: float
    median_votes: float
    times_fewer: float
    floor: float
    votes_over_floor: float | None
    mean_loss: float
    max_loss: float


class LogSettings(NamedTuple):
    """How a log was made: votes per row, its alpha, and how that is known."""

    n: int
    alpha: float
    origin: str


USUAL_SETTINGS = tuple((n, alpha) for n in (100_000, 10_000, 1_000, 1_000_000) for alpha in (0.001, 0.01, 0.05))
PRINTED = 0.0006
"""Published logs print radii to three digits."""


def log_settings(log: CertifiedSet, sigma: float, n: int | None = None, alpha: float | None = None) -> LogSettings:
    """Return the n and alpha that a log was made with, as given, or as its largest radius tells.

    Rows in which all votes agree have the radius sigma Phi^-1(alpha^(1/n)): every usual n and alpha has another one. Where
    no row reaches one, the published settings are assumed: n = 100,000, and alpha = 0.01 for sigma 1 or for radii that 0.001
    does not allow, else 0.001.
    """
    largest = float(log.radius.max())
    if n is not None and alpha is not None:
        return LogSettings(n, alpha, "given")
    for some_n, some_alpha in USUAL_SETTINGS:
        fits = (n is None or some_n == n) and (alpha is None or some_alpha == alpha)
        if fits and abs(largest - _reach(sigma, some_n, some_alpha)) <= PRINTED:
            return LogSettings(some_n, some_alpha, "read off its largest radius")
    n = 100_000 if n is None else n
    if alpha is None:
        alpha = 0.01 if largest > _reach(sigma, n, 0.001) + PRINTED or sigma >= 1.0 else 0.001
    return LogSettings(n, alpha, "assumed")


def _reach(sigma: float, n: int, alpha: float) -> float:
    """Return the radius that n unanimous votes give."""
    return sigma * float(-ndtri(failure_upper_bound(0, n, alpha)))


def implied_failures(radius: ndarray, sigma: float, n: int, alpha: float) -> Float64[ndarray, " rows"]:
    """Return the failure probability for which the bound on n votes gives `radius`; 0 beyond the largest possible one."""
    bounds = ndtr(-np.asarray(radius) / sigma)
    low, high = np.zeros_like(bounds), np.full_like(bounds, float(n))
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = betainccinv(middle + 1.0, np.maximum(n - middle, 1e-9), alpha) > bounds
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.asarray(low / n)


def label_failures(
    log: CertifiedSet, sigma: float, made: LogSettings, rng: np.random.Generator
) -> Float64[ndarray, " rows"]:
    """Return 1 - p of each row's label."""
    failures = implied_failures(log.radius, sigma, made.n, made.alpha)
    most = np.where(log.predict == REFUTED, REFUTED_SHARE, ABSTAINED_SHARE)
    unproved = 1.0 - most * rng.uniform(0.0, 1.0, failures.size)
    return np.where(log.unproved, unproved, np.where(log.correct, failures, 1.0 - failures))


def kl(q: float, q0: float) -> float:
    """Return KL(p || p0) in nats, for p = 1 - q and p0 = 1 - q0."""
    p, p0 = 1.0 - q, 1.0 - q0
    return (p * math.log(p / p0) if p > 0 else 0.0) + (q * math.log(q / q0) if q > 0 else 0.0)


def floor_votes(q: float, grid: Sequence[Threshold], fixed: Sequence[int]) -> float:
    """Return Wald's floor for the hardest radius that the fixed n certifies at the expected count; 0 if there is none."""
    reached = (t.q0 for t, most in zip(grid, fixed, strict=True) if q < t.q0 and q * CAP <= most)
    return max((min(CAP, math.log(1.0 / ALPHA) / kl(q, q0)) for q0 in reached), default=0.0)


def fixed_limits(grid: Sequence[Threshold]) -> list[int]:
    """Return the most failures of `CAP` with which the fixed n certifies each radius."""
    counts = np.arange(CAP // 2 + 2)
    bounds = failure_upper_bound(counts, CAP, ALPHA)
    return [int(np.searchsorted(bounds, threshold.q0, side="left")) - 1 for threshold in grid]


class Stream:
    """The votes of one input: failures in prefixes of one sequence per phase, drawn as they are asked for."""

    def __init__(self, q: float, rng: np.random.Generator) -> None:
        self._q, self._rng = q, rng
        self._seen: dict[str, tuple[int, int]] = {}

    def failures(self, phase: str, n: int) -> int:
        """Return the failures among the first n votes of a phase; n may only grow."""
        before, failures = self._seen.get(phase, (0, 0))
        failures += int(self._rng.binomial(n - before, self._q))
        self._seen[phase] = (n, failures)
        return failures


def decide(estimator: Estimator, stream: Stream, grid: Sequence[Threshold]) -> tuple[int, int]:
    """Return the votes that an estimator takes for one input, and how many radii it certifies."""
    state = estimator.start(label=0)
    votes: dict[str, int] = {}
    while (look := state.next_look()) is not None:
        failures = stream.failures(str(look.phase), look.n)
        state.update(look.phase, np.array([look.n - failures, failures, 0], dtype=np.int64))
        votes[str(look.phase)] = look.n
    estimate = state.result()
    if estimate.prediction != 0:
        # In free mode another class may be certified; that is no correct prediction.
        certified = 0
    elif estimate.decisions:
        certified = sum(decision.status is Status.CERTIFIED for decision in estimate.decisions)
    else:
        certified = sum(estimate.q_upper < threshold.q0 for threshold in grid)
    return sum(votes.values()), certified


def shipped(grid: tuple[Threshold, ...], planned: bool) -> dict[str, Estimator]:
    """Return the estimators to compare, by name."""
    found: dict[str, Estimator] = {
        f"sequential {method}": SequentialEstimator(grid, ALPHA, CAP, method=method)  # type: ignore[arg-type]
        for method in METHODS
    }
    found["sequential gse free"] = SequentialEstimator(grid, ALPHA, CAP, mode="free")
    found["anytime"] = AnytimeEstimator(grid, ALPHA, budget=CAP)
    if planned:
        found["planned 5%"] = PlannedEstimator(alpha=ALPHA, n_max=CAP)
    return found


def replay_log(
    path: Path,
    sigma: float,
    replicates: int,
    seed: int,
    radii: Sequence[float] | None = None,
    only: str | None = None,
    made: LogSettings | None = None,
) -> list[Line]:
    """Return a line per estimator for one log; `radii` is the whole grid and `made` what the log tells, unless given."""
    rng = np.random.default_rng(seed)
    log = read_log(path, timed=False)
    q = label_failures(log, sigma, made or log_settings(log, sigma), rng)
    if radii is None:
        reach = sigma * float(-ndtri(failure_upper_bound(0, CAP, ALPHA)))
        radii = np.arange(0.0, reach, STEP).tolist()
    grid = thresholds(Gaussian((1,), sigma=sigma), "l2", radii)
    most = fixed_limits(grid)
    floor = float(np.mean([floor_votes(x, grid, most) for x in q]))
    estimators = {key: value for key, value in shipped(grid, len(radii) > 1).items() if only is None or key == only}
    rows: list[Line] = []
    fixed = FixedEstimator(N0, CAP, ALPHA)
    seeds = np.random.SeedSequence(seed).spawn(q.size * replicates)
    inputs = np.repeat(q, replicates)
    # An input's votes are continued to the cap for the fixed curve, so that both curves see the same votes.
    for name, estimator in estimators.items():
        votes, claims, ends = np.zeros(inputs.size), np.zeros(inputs.size), np.zeros(inputs.size)
        for i, (x, child) in enumerate(zip(inputs, seeds, strict=True)):
            stream = Stream(float(x), np.random.default_rng(child))
            votes[i], claims[i] = decide(estimator, stream, grid)
            ends[i] = stream.failures("estimate", CAP)
        losses = [100.0 * float(np.mean(ends <= limit) - np.mean(claims > j)) for j, limit in enumerate(most)]
        rows.append(_line(path, name, len(grid), votes, floor, losses, fixed.max_votes))
    rows.insert(
        0, _line(path, "fixed", len(grid), np.full(q.size, float(fixed.max_votes)), floor, [0.0], fixed.max_votes)
    )
    return rows


def _line(
    path: Path, name: str, radii: int, votes: Float64[ndarray, " n"], floor: float, losses: Sequence[float], fixed: int
) -> Line:
    mean = float(votes.mean())
    return Line(
        log=path.stem,
        estimator=name,
        radii=radii,
        mean_votes=mean,
        median_votes=float(np.median(votes)),
        times_fewer=fixed / mean,
        floor=floor,
        votes_over_floor=mean / floor if floor else None,
        mean_loss=float(np.mean(losses)),
        max_loss=float(np.max(losses)),
    )


def sigma_of(path: Path) -> float:
    """Return sigma from a file name such as noise_0.25_sigma_0.25.tsv."""
    found = re.search(r"sigma_?([0-9]*\.?[0-9]+)", path.stem)
    if found is None or not float(found.group(1)) > 0.0:
        raise UsageError(f"the name of a log must say sigma_S with a positive S, or give --sigma; got {path.name}")
    return float(found.group(1))


def single_radius(path: Path, sigma: float, replicates: int, seed: int, made: LogSettings | None = None) -> list[Line]:
    """Return a line per radius of the grid, each tested alone by the default estimator."""
    reach = sigma * float(-ndtri(failure_upper_bound(0, CAP, ALPHA)))
    lines = []
    for radius in np.arange(0.0, reach, STEP).tolist():
        [_, line] = replay_log(path, sigma, replicates, seed, (radius,), "sequential gse", made)
        lines.append(replace(line, estimator=f"{line.estimator}, r = {radius:g}"))
    return lines


@dataclass(frozen=True)
class Average:
    """Single radii, summed up: over the cells (one log and radius each) of a log, or of all logs.

    Attributes:
        log: Name of the log, "all" for all of them.
        cells: How many there are.
        mean_votes: Mean of the cells' mean votes.
        times_fewer: The votes of the fixed n over `mean_votes`.
        mean_of_ratios: Mean of the cells' own ratios.
        votes_over_floor: Mean votes over the mean floor.
        mean_loss: Mean of the cells' losses, points of certified accuracy.
        max_loss: The largest of them.
    """

    log: str
    cells: int
    mean_votes: float
    times_fewer: float
    mean_of_ratios: float
    votes_over_floor: float | None
    mean_loss: float
    max_loss: float


def averages(lines: Sequence[Line]) -> list[Average]:
    """Return an average per log, in their order, and, last, one over the cells of all logs."""
    groups = {name: [line for line in lines if line.log == name] for name in dict.fromkeys(line.log for line in lines)}
    return [_average(name, group) for name, group in (*groups.items(), ("all", list(lines)))]


def _average(name: str, lines: Sequence[Line]) -> Average:
    votes = float(np.mean([line.mean_votes for line in lines]))
    floor = float(np.mean([line.floor for line in lines]))
    return Average(
        log=name,
        cells=len(lines),
        mean_votes=votes,
        # Every cell has the same fixed n, so that this is the mean of its votes over the mean of ours.
        times_fewer=float(np.mean([line.times_fewer * line.mean_votes for line in lines])) / votes,
        mean_of_ratios=float(np.mean([line.times_fewer for line in lines])),
        votes_over_floor=votes / floor if floor else None,
        mean_loss=float(np.mean([line.mean_loss for line in lines])),
        max_loss=max(line.max_loss for line in lines),
    )


def ratio_text(ratio: float | None) -> str:
    """Return a ratio to the floor in two digits, a dash where there is none."""
    return "-" if ratio is None else f"{ratio:.2f}"


def print_averages(found: Sequence[Average]) -> None:
    print(
        "\n| radii alone | cells | mean votes | times fewer | mean of ratios | over the floor | mean loss | max loss |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for line in found:
        print(
            f"| {line.log} | {line.cells} | {line.mean_votes:,.0f} | {line.times_fewer:.1f}x | "
            f"{line.mean_of_ratios:.1f}x | {ratio_text(line.votes_over_floor)} | {line.mean_loss:.3f} | "
            f"{line.max_loss:.3f} |"
        )


def grid_cells(method: str) -> list[list[float]]:
    """Return expected votes over the floor, a row per r / sigma and a column per margin, exact."""
    looks = capped_looks(1.05, CAP)
    rows = []
    for z in GRID_RADII:
        q0 = float(ndtr(-z))
        if method == "anytime":
            accept: Sequence[int] = [ville_limit(q0, ALPHA, n) for n in looks]
        else:
            accept = boundary_of(method, q0, ALPHA, looks, "below").limits
        row = []
        for margin in GRID_MARGINS:
            q = float(ndtr(-z - margin))
            least = math.ceil(math.log(ALPHA) / math.log1p(-q0)) if q == 0.0 else math.log(1.0 / ALPHA) / kl(q, q0)
            row.append(operation(q, looks, accept).votes / least)
        rows.append(row)
    return rows


def print_grid() -> dict[str, float]:
    """Print the 25 cells of every method; return their means."""
    means = {}
    for method in (*METHODS, "anytime"):
        cells = grid_cells(method)
        means[method] = float(np.mean(cells))
        print(f"\n{method}: expected votes over ln(1/alpha) / KL(p || p0), mean {means[method]:.3f}\n")
        print("| r / sigma | " + " | ".join(f"margin {margin:g}" for margin in GRID_MARGINS) + " |")
        print("| --- |" + " --- |" * len(GRID_MARGINS))
        for z, row in zip(GRID_RADII, cells, strict=True):
            print(f"| {z:g} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    return means


def print_sizes() -> dict[str, list[list[float]]]:
    """Print and return, per method and radius: r / sigma, failures expected at the cap, and the two sizes over alpha."""
    print("\n| r / sigma | failures expected | " + " | ".join(f"{m} built | {m} audited" for m in METHODS) + " |")
    print("| --- | --- |" + " --- | --- |" * len(METHODS))
    looks = capped_looks(1.05, CAP)
    found: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    for radius in SIZE_RADII:
        q0 = float(ndtr(-radius))
        for method, rows in found.items():
            boundary = boundary_of(method, q0, ALPHA, looks, "below")
            built = crossing_probability(Steps(q0, ALPHA, looks, "below"), boundary.limits)
            rows.append([radius, CAP * q0, built / ALPHA, verify_boundary(boundary) / ALPHA])
        sizes = " | ".join(f"{rows[-1][2]:.4f} | {rows[-1][3]:.4f}" for rows in found.values())
        print(f"| {radius:g} | {CAP * q0:,.1f} | {sizes} |", flush=True)
    return found


def print_lines(lines: Sequence[Line]) -> None:
    print("| log | estimator | radii | mean votes | median | times fewer | over the floor | mean loss | max loss |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for line in lines:
        print(
            f"| {line.log} | {line.estimator} | {line.radii} | {line.mean_votes:,.0f} | {line.median_votes:,.0f} | "
            f"{line.times_fewer:.1f}x | {ratio_text(line.votes_over_floor)} | {line.mean_loss:.3f} | {line.max_loss:.3f} |",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was asked for. A log that cannot be read, or another wrong use, ends in one line and exit code 2."""
    # A log that was named wrongly is wrong usage of this script: it needs nothing else of the world.
    return in_one_line(lambda: measure(arguments), failure=2)


def measure(arguments: Sequence[str] | None) -> int:
    """Measure, print, and return the exit code.

    Raises:
        CertifyError: If a log cannot be read.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("logs", nargs="*", type=Path, metavar="LOG")
    parser.add_argument("--sigma", type=between(0.0, 1e150), help="of all logs; default: from each file's name")
    parser.add_argument(
        "--log-n", type=whole(1), help="votes per row of the logs; default: what the largest radius tells"
    )
    parser.add_argument(
        "--log-alpha", type=between(0.0, 1.0), help="alpha of the logs; default: what the largest radius tells"
    )
    parser.add_argument("--replicates", type=whole(1), default=4, help="votes of every input drawn so many times")
    parser.add_argument("--seed", type=whole(0), default=0)
    names = ("fixed", *shipped((Threshold(0.0, 0.5),), planned=True))
    parser.add_argument("--only", metavar="NAME", help="this estimator only, by its name in the table")
    parser.add_argument("--single", action="store_true", help="every radius alone instead of the whole curve")
    parser.add_argument("--grid", action="store_true", help="print the ratio to the floor over margins, exact")
    parser.add_argument("--sizes", action="store_true", help="print the error of each boundary over its alpha, exact")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if not options.logs and not options.grid and not options.sizes:
        parser.error("give at least one log, --grid or --sizes")
    if options.only is not None and options.only not in names:
        parser.error(f"--only must be one of {', '.join(names)}, got {options.only!r}")
    if options.only is not None and options.single:
        parser.error("--only is for whole curves: --single is about the default estimator alone")
    # All logs are read before the first is replayed: a wrong one among them is not found after hours.
    logs: list[tuple[Path, float, LogSettings]] = []
    for path in options.logs:
        log = read_log(path, timed=False)  # a file that is not there comes before what its name should say
        sigma = sigma_of(path) if options.sigma is None else options.sigma
        logs.append((path, sigma, log_settings(log, sigma, options.log_n, options.log_alpha)))
    lines: list[Line] = []
    for path, sigma, made in logs:
        print(f"{path.name}: n = {made.n:,}, alpha = {made.alpha:g} ({made.origin})", file=sys.stderr, flush=True)
        if options.single:
            lines += single_radius(path, sigma, options.replicates, options.seed, made)
        else:
            lines += replay_log(path, sigma, options.replicates, options.seed, None, options.only, made)
    if lines:
        print_lines(lines)
    summary = averages(lines) if options.single else []
    if summary:
        print_averages(summary)
    means = print_grid() if options.grid else {}
    sizes = print_sizes() if options.sizes else {}
    if options.json is not None:
        found = {"lines": [asdict(line) for line in lines], "averages": [asdict(x) for x in summary], "grid": means}
        found["sizes"] = sizes
        options.json.write_text(json.dumps(found, indent=1))
    if options.csv is not None and lines:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(asdict(lines[0])))
            writer.writeheader()
            writer.writerows(asdict(line) for line in lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
