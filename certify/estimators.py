"""From the words of the command line to an estimator: which policy over votes, for which radii, with what cap."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from certify.errors import UsageError
from certify.metrics import default_grid, parse_radii
from certify.run_plan import radius_of
from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Estimator
from smoothing.estimators.fixed import FixedEstimator
from smoothing.estimators.table import ESTIMATORS
from smoothing.estimators.thresholds import Threshold, thresholds
from smoothing.statistics.arguments import check_alpha
from smoothing.statistics.binomial import failure_upper_bound, minimum_votes
from smoothing.statistics.boundary_cache import Method
from smoothing.threat import Norm

DEFAULT_CAP = 100_000
_GRID = ("sequential", "anytime")
_TAKES = {
    "runner_up": ("fixed",),
    "radii": _GRID,
    "free": (*_GRID, "planned"),
    "cap": (*_GRID, "planned"),
    "method": ("sequential",),
    "futility": ("sequential",),
    "beta": _GRID,
    "pilot": ("planned",),
    "precision": ("planned",),
}
"""Which estimators take which option."""

_FLAGS = {"free": "--free", "runner_up": "--runner-up", "precision": "--loss"}

_RENAMED = {"precision": "--loss", "n_max": "--cap", "budget": "--cap", "cap": "--cap"}
"""Parameters of estimators that the command line calls by other names; --precision is the arithmetic there."""


@dataclass(frozen=True)
class EstimatorOptions:
    """What a user asks for; None means the estimator's own default.

    Attributes:
        name: "fixed", "sequential", "anytime" or "planned".
        radii: Grid of radii, such as "0,0.25,0.5"; default: steps of 0.25 up to what the cap can reach.
        cap: Votes per input at most, or "none" (anytime alone).
        free: Let the votes choose the class; False: test the label.
        runner_up: Bound the runner-up too (fixed alone).
        method: How the boundaries of "sequential" are made, "gse" or "zmix".
        futility: Predictive probability below which a radius is given up (sequential).
        beta: Error probability of refutations.
        pilot: Votes of the pilot (planned).
        precision: Share of the radius that may be lost against the cap (planned).
    """

    name: str = "fixed"
    radii: str | None = None
    cap: str | None = None
    free: bool | None = None
    runner_up: bool | None = None
    method: str | None = None
    futility: float | None = None
    beta: float | None = None
    pilot: int | None = None
    precision: float | None = None


def check_estimator(options: EstimatorOptions, n0: int, n: int, alpha: float) -> None:
    """Check what can be checked before law and data are known.

    Raises:
        UsageError: If the estimator is unknown or does not take an option that was given.
        InvalidArgumentError: If a number is out of range.
    """
    if options.name not in ESTIMATORS:
        raise UsageError(f"estimator must be one of {', '.join(ESTIMATORS)}, got estimator={options.name!r}")
    for key, takers in _TAKES.items():
        if getattr(options, key) is not None and options.name not in takers:
            flag = _FLAGS.get(key, f"--{key}")
            raise UsageError(
                f"{flag} is for --estimator {' and '.join(takers)}, got it with --estimator {options.name}"
            )
    check_alpha(alpha)
    FixedEstimator(n0, n, alpha)
    if options.radii is not None:
        parse_radii(options.radii)
    cap_of(options)
    # The rest is checked by the estimator itself, on a threshold that any law has.
    estimator = _make(options, (Threshold(0.0, 0.5),), n0, n, alpha, None)
    if options.name == "planned" and estimator.best_q_upper >= 0.5:
        needed = minimum_votes(math.nextafter(0.5, 0.0), alpha)
        raise UsageError(
            f"--cap must be at least {needed}, and 10,000 or more is usual: fewer votes can certify nothing at "
            f"alpha={alpha}, even if all agree, got --cap {cap_of(options)}"
        )


def build_estimator(
    options: EstimatorOptions,
    law: SmoothingDistribution,
    norm: Norm,
    *,
    n0: int,
    n: int,
    alpha: float,
    convert_from: Norm | None = None,
    slack: float = 0.0,
    cache: Path | None = None,
) -> Estimator:
    """Return the estimator for a law, its grid of radii turned into thresholds with the slack of the noise taken off.

    Args:
        options: What was asked for.
        law: The law.
        norm: Norm of the certificates.
        n0: Selection votes (fixed).
        n: Estimation votes (fixed).
        alpha: Error probability per input.
        convert_from: Norm in which radii are proved, where they are converted to `norm`.
        slack: `NoiseSource.probability_slack`.
        cache: Folder that keeps boundaries.

    Raises:
        UsageError: If no radius is within reach.
        InvalidArgumentError: If an argument is out of range, or a radius out of reach of the law or the cap.
    """
    if options.name not in _GRID:
        return _make(options, (), n0, n, alpha, cache)
    radii: Sequence[float]
    if options.radii is not None:
        radii = parse_radii(options.radii)
    else:
        radii = usual_radii(
            law,
            norm,
            cap_of(options) or DEFAULT_CAP,
            alpha,
            free=bool(options.free),
            convert_from=convert_from,
            slack=slack,
        )
    return _make(options, thresholds(law, norm, radii, slack=slack, convert_from=convert_from), n0, n, alpha, cache)


def usual_radii(
    law: SmoothingDistribution,
    norm: Norm,
    cap: int,
    alpha: float,
    *,
    free: bool = False,
    convert_from: Norm | None = None,
    slack: float = 0.0,
) -> tuple[float, ...]:
    """Return the grid of radii where none is given: steps up to what `cap` votes that all agree can reach.

    Raises:
        UsageError: If no radius is within reach.
    """
    # In free mode a radius is tested at alpha (1 - q0), which is at least alpha / 2.
    reach = radius_of(law, norm, convert_from, failure_upper_bound(0, cap, alpha / 2 if free else alpha), slack)
    if reach <= 0.0:
        raise UsageError(
            f"cap={cap} votes at alpha={alpha} can certify nothing, even if all agree; 10,000 or more is usual"
        )
    return default_grid(_within(law, norm, reach))


def cap_of(options: EstimatorOptions) -> int | None:
    """Return the largest number of votes per input; None for no cap at all.

    Raises:
        UsageError: If the text is no number.
    """
    if options.cap is None:
        return DEFAULT_CAP
    if options.cap == "none":
        if options.name != "anytime":
            raise UsageError(f"--cap none is for --estimator anytime, got it with --estimator {options.name}")
        return None
    try:
        return int(options.cap)
    except ValueError:
        raise UsageError(f'--cap must be a number of votes, or "none" (anytime alone), got {options.cap!r}') from None


def _within(law: SmoothingDistribution, norm: Norm, reach: float) -> float:
    # Bounded laws reach a radius only in the limit; radii are rounded down, so that the limit itself is out of reach.
    return reach if math.isfinite(reach) else float(law.dimension)


def _make(
    options: EstimatorOptions, grid: tuple[Threshold, ...], n0: int, n: int, alpha: float, cache: Path | None
) -> Estimator:
    if options.name == "fixed":
        return FixedEstimator(n0, n, alpha, runner_up=bool(options.runner_up))
    if options.method is not None and options.method not in get_args(Method):
        raise UsageError(f"method must be one of {', '.join(get_args(Method))}, got method={options.method!r}")
    asked: dict[str, Any] = {
        key: value
        for key in ("method", "futility", "beta", "pilot", "precision")
        if (value := getattr(options, key)) is not None
    }
    asked |= {"alpha": alpha, "mode": "free" if options.free else "label"}
    limit = {"sequential": "cap", "anytime": "budget", "planned": "n_max"}[options.name]
    asked[limit] = cap_of(options)
    if options.name in _GRID:
        asked["thresholds"] = grid
    if options.name == "sequential":
        asked["cache"] = cache
    try:
        return ESTIMATORS[options.name](**asked)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(_in_options(str(error))) from None


def _in_options(message: str) -> str:
    """Return an estimator's message about a parameter with the option that it was read from: the rule, then the value."""
    rule = re.match(r"(\w+) must be ", message)
    if rule is None or rule[1] not in _RENAMED:
        return message
    name, flag = rule[1], _RENAMED[rule[1]]
    return f"{flag}{message.removeprefix(name)}".replace(f"got {name}=", f"got {flag} ")
