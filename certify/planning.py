"""What a run would cost and could reach, for several numbers of votes."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from certify.errors import UsageError
from certify.estimators import usual_radii
from certify.run_plan import RunPlan, radius_of
from smoothing.errors import InvalidArgumentError
from smoothing.estimators.anytime import AnytimeEstimator
from smoothing.estimators.base import Estimator
from smoothing.estimators.fixed import FixedEstimator
from smoothing.estimators.grid import level_at
from smoothing.estimators.sequential import SequentialEstimator
from smoothing.estimators.thresholds import Threshold, thresholds
from smoothing.statistics.beta_mixture import ville_limit
from smoothing.statistics.binomial import failure_upper_bound

if TYPE_CHECKING:
    from rich.table import Table

CHOICES = (1_000, 10_000, 100_000, 1_000_000)
_LIMITS = {"fixed": "n", "sequential": "cap", "anytime": "budget", "planned": "n_max"}
"""Estimator -> its parameter that says how many votes an input may get."""


def forecast(plan: RunPlan, votes_per_second: float, *, keep_radii: bool = False) -> list[dict[str, Any]]:
    """Return, for the plan's number of votes and some usual ones: samples, seconds, and the largest provable radius.

    Samples and seconds are those of a run in which every input uses all of its votes: exact for fixed, an upper bound for
    the others, which stop where the votes suffice.

    An estimator that decides the radii of a grid can prove those alone: `largest_radius` is the largest of them that
    votes which all agree prove (None if they prove none), `within_reach` the largest that they would prove if it were in
    the grid, and `out_of_reach` lists the radii of the grid that they do not.

    Args:
        plan: The run.
        votes_per_second: Measured speed.
        keep_radii: Whether the plan's radii were asked for, and hold for every number of votes; else each number of votes
            has the grid that it would have by default.
    """
    rows = []
    asked = limit_of(plan.estimator)
    for n in sorted({*CHOICES, *([] if asked is None else [asked])}):
        reach: dict[str, Any] | None
        if isinstance(plan.estimator, SequentialEstimator | AnytimeEstimator):
            votes, reach = n, _grid_reach(plan, plan.estimator, n, keep_radii=keep_radii or n == asked)
        else:
            variant = plan if n == asked else _with_limit(plan, n)
            votes = n if variant is None else variant.votes_per_input or n
            reach = None if variant is None else {"largest_radius": variant.largest_radius()}
        if reach is None:
            continue
        samples = len(plan.indices) * votes
        rows.append({"n": n, "samples": samples, "seconds": samples / votes_per_second, **reach})
    return rows


def limit_of(estimator: Estimator) -> int | None:
    """Return how many votes an input may get for its bound; None where there is no limit."""
    value = getattr(estimator, _LIMITS[estimator.name])
    return None if value is None else int(value)


def _with_limit(plan: RunPlan, n: int) -> RunPlan | None:
    """Return the plan with another number of votes; None if it proves nothing."""
    old = plan.estimator
    changes: dict[str, Any] = {_LIMITS[old.name]: n}
    try:
        return replace(plan, estimator=replace(old, **changes))  # type: ignore[type-var]
    except InvalidArgumentError:
        return None


def _grid_reach(
    plan: RunPlan, estimator: SequentialEstimator | AnytimeEstimator, n: int, *, keep_radii: bool
) -> dict[str, Any] | None:
    """Return what n votes that all agree prove, see `forecast`; None if they have no grid, for they prove nothing."""
    slack = plan.noise_source().probability_slack
    grid = estimator.thresholds
    if not keep_radii:
        free = estimator.mode == "free"
        try:
            radii = usual_radii(
                plan.law, plan.norm, n, estimator.alpha, free=free, convert_from=plan.convert_from, slack=slack
            )
        except UsageError:
            return None
        grid = thresholds(plan.law, plan.norm, radii, slack=slack, convert_from=plan.convert_from)
    within = [t.radius for t in grid if _proves(estimator, t, n)]
    return {
        "largest_radius": max(within, default=None),
        "within_reach": radius_of(plan.law, plan.norm, plan.convert_from, _least_q0(estimator, n), slack),
        "out_of_reach": [t.radius for t in grid if t.radius not in within],
    }


def _proves(estimator: SequentialEstimator | AnytimeEstimator, threshold: Threshold, n: int) -> bool:
    """Return whether n votes that all agree reject the threshold's hypothesis."""
    level = level_at(threshold, estimator.alpha, estimator.mode)
    if isinstance(estimator, AnytimeEstimator):
        return ville_limit(threshold.q0, level, n) >= 0
    return bool(failure_upper_bound(0, n, level) <= threshold.q0)


def _least_q0(estimator: SequentialEstimator | AnytimeEstimator, n: int) -> float:
    """Return the smallest q0, in a few digits and from above, that n votes that all agree prove."""
    # The same points are tried for every n, so that the answer never grows with it.
    low, high = math.log(1e-30), math.log(0.5)
    for _ in range(50):
        middle = (low + high) / 2
        if _proves(estimator, Threshold(0.0, math.exp(middle)), n):
            high = middle
        else:
            low = middle
    return math.exp(high)


def forecast_table(rows: list[dict[str, Any]], plan: RunPlan) -> "Table":
    """Return the forecast as a table, the number of votes that was asked for in bold."""
    from rich.table import Table

    from certify.progress import clock

    fixed, decides = isinstance(plan.estimator, FixedEstimator), plan.grid is not None
    title = "What n buys (largest radius: all n votes agree)"
    if not fixed:
        title = f"What the cap of {plan.estimator.name} buys (samples and time: if every input used all of its votes)"
    table = Table(title=title)
    radius = ("largest of the radii", "within reach") if decides else ("largest radius",)
    for name in ("n" if fixed else "cap", "samples", "time", *radius):
        table.add_column(name, justify="right")
    asked = limit_of(plan.estimator)
    for row in rows:
        table.add_row(
            f"{row['n']:,}",
            f"{row['samples']:,}",
            clock(row["seconds"]),
            _radius_text(row),
            *([f"{row['within_reach']:.4g}"] if decides else []),
            style="bold" if row["n"] == asked else None,
        )
    return table


def _radius_text(row: dict[str, Any]) -> str:
    largest, beyond = row["largest_radius"], row.get("out_of_reach")
    text = "none" if largest is None else f"{largest:.4g}"
    return f"{text} ({', '.join(f'{r:.4g}' for r in beyond)} out of reach)" if beyond else text
