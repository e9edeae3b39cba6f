"""The few figures that are printed at the end of a run; `certify report` has all of them, with intervals."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from certify.outcomes import ABSTAINED, REFUTED, UNDECIDED
from certify.report.wording import percent_of
from certify.rundir import Row

if TYPE_CHECKING:
    from rich.table import Table


def summarize(rows: Sequence[Row], largest_radius: float, grid: Sequence[float] | None = None) -> dict[str, Any]:
    """Return JSON-ready figures over `rows`, every one of which counts.

    Args:
        rows: Finished inputs, at least one.
        largest_radius: Up to where certified accuracy is listed, in steps that give about eight columns.
        grid: The radii that were decided, which are then listed instead.

    Returns:
        "inputs", "certified_accuracy" (radius text -> share), "acr" (0 where wrong or abstained), "abstained",
        "undecided" and "refuted" (shares), "votes", "invalid_votes", "seconds".
    """
    total = len(rows)
    return {
        "inputs": total,
        "certified_accuracy": {
            f"{r:g}": sum(row.correct and row.radius >= r for row in rows) / total
            for r in grid or radius_grid(largest_radius)
        },
        "acr": sum(row.radius for row in rows if row.correct) / total,
        "abstained": sum(row.predict == ABSTAINED for row in rows) / total,
        "undecided": sum(row.predict == UNDECIDED for row in rows) / total,
        "refuted": sum(row.predict == REFUTED for row in rows) / total,
        "votes": sum(row.certificate.votes for row in rows),
        "invalid_votes": sum(row.certificate.invalid for row in rows),
        "seconds": sum(row.seconds for row in rows),
    }


def radius_grid(largest: float) -> list[float]:
    """Return 0, s, 2s, ... up to `largest`, with the step s from 1, 2, 2.5 or 5 times a power of ten, about eight values."""
    if not 0 < largest < float("inf"):
        return [0.0]
    magnitude = 1.0
    while magnitude > largest:
        magnitude /= 10
    while magnitude * 10 <= largest:
        magnitude *= 10
    steps = [factor * magnitude for factor in (0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0)]
    step = next(s for s in steps if largest / s < 8.5)
    return [round(k * step, 12) for k in range(int(largest / step) + 1)]


def summary_table(result: dict[str, Any], title: str) -> "Table":
    """Return the figures as a table."""
    from rich.table import Table

    table = Table(title=f"{title}: certified accuracy at radius r", title_justify="left")
    table.add_column("inputs", justify="right")
    for radius in result["certified_accuracy"]:
        table.add_column(f"r={radius}", justify="right")
    table.add_column("ACR", justify="right")
    total = result["inputs"]
    outcomes = [name for name in ("abstained", "undecided", "refuted") if name == "abstained" or result[name]]
    for name in outcomes:
        table.add_column(name, justify="right")
    # A share is a count over the inputs, and the report's rule is about counts: 100.0 only if it is all.
    accuracies = [percent_of(round(share * total), total) for share in result["certified_accuracy"].values()]
    shares = [percent_of(round(result[name] * total), total) for name in outcomes]
    table.add_row(
        f"{total:,}",
        *(f"{text}%" for text in accuracies),
        f"{result['acr']:.4f}",
        *(f"{text}%" for text in shares),
    )
    return table
