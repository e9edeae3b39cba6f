"""Two pictures: certified accuracy by radius below the attack's curve, and the radii of two runs input by input."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from certify.comparison.sides import Side
from certify.files import write_atomically
from certify.report.plots import PALETTE, new_figure

CURVES, SCATTER = "compare-curves.png", "compare-scatter.png"


def draw_curves(folder: Path, sides: Sequence[Side]) -> Path:
    """Draw certified accuracy (solid) and accuracy under each classifier's own attack (dashed), by radius."""
    figure = new_figure(7.0, 4.4)
    ax = figure.add_subplot()
    largest = max(
        (v for s in sides for p in s.points.values() for v in (p.radius, p.attack_radius or 0.0)), default=0.0
    )
    right_end = largest * 1.04 or 1.0
    for side, color in zip(sides, _colors(len(sides)), strict=True):
        points = list(side.points.values())
        right = np.array([p.predict == p.label for p in points])
        certified = np.array([p.radius if p.predict == p.label else -1.0 for p in points])
        _step(ax, certified, len(points), right_end, color, "-", f"{_legend(side)}: certified", inclusive=True)
        if any(p.attack is not None for p in points):
            broken = np.array([np.inf if p.attack_radius is None else p.attack_radius for p in points])
            under = np.where(right, broken, -1.0)
            _step(ax, under, len(points), right_end, color, "--", f"{_legend(side)}: under attack", inclusive=False)
    ax.set_xlabel(f"{sides[0].norm} radius r (input units)")
    ax.set_ylabel("share of all inputs (%)")
    ax.set_xlim(0.0, right_end)
    ax.set_ylim(0.0, 101.0)
    ax.legend(fontsize=7, frameon=False)
    return _save(figure, folder / CURVES)


def draw_scatter(folder: Path, sides: Sequence[Side]) -> Path:
    """Draw the radii of the first two sides against each other, one point per input; wrong and abstained lie on an axis."""
    first, second = sides[0], sides[1]
    figure = new_figure(4.6, 4.6)
    ax = figure.add_subplot()
    indices = sorted(first.points)
    x = np.array([first.points[i].radius for i in indices])
    y = np.array([second.points[i].radius for i in indices])
    end = max(float(x.max(initial=0.0)), float(y.max(initial=0.0))) * 1.05 or 1.0
    ax.plot([0, end], [0, end], color="grey", linewidth=0.8)
    ax.scatter(x, y, s=18, color=PALETTE[0], alpha=0.7, linewidth=0, clip_on=False)
    ax.set_xlim(0.0, end)
    ax.set_ylim(0.0, end)
    ax.set_xlabel(f"{_legend(first)}: {first.norm} radius", fontsize=8)
    ax.set_ylabel(f"{_legend(second)}: {second.norm} radius", fontsize=8)
    return _save(figure, folder / SCATTER)


def _legend(side: Side) -> str:
    alpha = f", alpha {side.alpha:g}" if side.alpha > 0 else ""
    converted = ", converted" if side.converted_from is not None else ""
    return f"{side.name} ({side.guarantee}{alpha}, {side.clip}{converted})"


def _colors(count: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def _step(
    ax: Any, ends: Any, count: int, right_end: float, color: str, dash: str, label: str, *, inclusive: bool
) -> None:
    """Draw the share of ends that are >= r (or > r), r from 0; ends below 0 never count."""
    steps = np.unique(np.concatenate([[0.0], ends[(ends > 0) & np.isfinite(ends)], [right_end]]))
    if inclusive:
        shares = np.array([np.count_nonzero(ends >= r) for r in steps])
        ax.step(steps, 100 * shares / count, where="pre", color=color, linestyle=dash, linewidth=1.6, label=label)
    else:
        shares = np.array([np.count_nonzero(ends > r) for r in steps])
        ax.step(steps, 100 * shares / count, where="post", color=color, linestyle=dash, linewidth=1.2, label=label)


def _save(figure: Any, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    write_atomically(path, buffer.getvalue())
    return path
