"""What a run would cost and could reach, for several numbers of votes."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from certify.runner import RunPlan
from smoothing.estimators.fixed import FixedEstimator

if TYPE_CHECKING:
    from rich.table import Table

CHOICES = (1_000, 10_000, 100_000, 1_000_000)


def forecast(plan: RunPlan, votes_per_second: float) -> list[dict[str, Any]]:
    """Return, for the plan's n and some usual ones: samples, seconds, and the largest radius that can be proved.

    Args:
        plan: The run; its estimator's n is the one that was asked for.
        votes_per_second: Measured speed.
    """
    rows = []
    for n in sorted({plan.estimator.n, *CHOICES}):
        variant = replace(plan, estimator=FixedEstimator(plan.estimator.n0, n, plan.estimator.alpha))
        samples = len(plan.indices) * variant.votes_per_input
        rows.append(
            {
                "n": n,
                "samples": samples,
                "seconds": samples / votes_per_second,
                "largest_radius": variant.largest_radius(),
            }
        )
    return rows


def forecast_table(rows: list[dict[str, Any]], asked: int) -> "Table":
    """Return the forecast as a table, the n that was asked for in bold."""
    from rich.table import Table

    from certify.progress import clock

    table = Table(title="What n buys (largest radius: all n votes agree)")
    for name in ("n", "samples", "time", "largest radius"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            f"{row['n']:,}",
            f"{row['samples']:,}",
            clock(row["seconds"]),
            f"{row['largest_radius']:.4g}",
            style="bold" if row["n"] == asked else None,
        )
    return table
