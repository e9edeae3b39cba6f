"""What a run would cost and could reach, for several numbers of votes."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from certify.metrics import default_grid
from certify.run_plan import RunPlan, radius_of
from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Estimator
from smoothing.estimators.fixed import FixedEstimator
from smoothing.estimators.thresholds import thresholds
from smoothing.statistics.binomial import failure_upper_bound

if TYPE_CHECKING:
    from rich.table import Table

CHOICES = (1_000, 10_000, 100_000, 1_000_000)
_LIMITS = {"fixed": "n", "sequential": "cap", "anytime": "budget", "planned": "n_max"}
"""Estimator -> its parameter that says how many votes an input may get."""


def forecast(plan: RunPlan, votes_per_second: float) -> list[dict[str, Any]]:
    """Return, for the plan's number of votes and some usual ones: samples, seconds, and the largest provable radius.

    Samples and seconds are those of a run in which every input uses all of its votes: exact for fixed, an upper bound for
    the others, which stop where the votes suffice.

    Args:
        plan: The run.
        votes_per_second: Measured speed.
    """
    rows = []
    asked = limit_of(plan.estimator)
    for n in sorted({*CHOICES, *([] if asked is None else [asked])}):
        variant = plan if n == asked else _with_limit(plan, n)
        if variant is None:
            continue
        samples = len(plan.indices) * (variant.votes_per_input or n)
        rows.append(
            {
                "n": n,
                "samples": samples,
                "seconds": samples / votes_per_second,
                "largest_radius": variant.largest_radius(),
            }
        )
    return rows


def limit_of(estimator: Estimator) -> int | None:
    """Return how many votes an input may get for its bound; None where there is no limit."""
    value = getattr(estimator, _LIMITS[estimator.name])
    return None if value is None else int(value)


def _with_limit(plan: RunPlan, n: int) -> RunPlan | None:
    """Return the plan with another number of votes, and a default grid where it decides one; None if it proves nothing."""
    old = plan.estimator
    changes: dict[str, Any] = {_LIMITS[old.name]: n}
    try:
        if plan.grid is not None:
            slack = plan.noise_source().probability_slack
            q = failure_upper_bound(0, n, old.alpha / 2)  # as much as free mode can prove, too
            reach = radius_of(plan.law, plan.norm, plan.convert_from, q, slack)
            if reach <= 0.0:
                return None
            grid = default_grid(reach)
            changes["thresholds"] = thresholds(plan.law, plan.norm, grid, slack=slack, convert_from=plan.convert_from)
        return replace(plan, estimator=replace(old, **changes))  # type: ignore[type-var]
    except InvalidArgumentError:
        return None


def forecast_table(rows: list[dict[str, Any]], plan: RunPlan) -> "Table":
    """Return the forecast as a table, the number of votes that was asked for in bold."""
    from rich.table import Table

    from certify.progress import clock

    fixed = isinstance(plan.estimator, FixedEstimator)
    title = "What n buys (largest radius: all n votes agree)"
    if not fixed:
        title = f"What the cap of {plan.estimator.name} buys (samples and time: if every input used all of its votes)"
    table = Table(title=title)
    for name in ("n" if fixed else "cap", "samples", "time", "largest radius"):
        table.add_column(name, justify="right")
    asked = limit_of(plan.estimator)
    for row in rows:
        table.add_row(
            f"{row['n']:,}",
            f"{row['samples']:,}",
            clock(row["seconds"]),
            f"{row['largest_radius']:.4g}",
            style="bold" if row["n"] == asked else None,
        )
    return table
