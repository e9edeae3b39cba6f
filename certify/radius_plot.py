"""The picture of `certify radius --plot`: radius against p for several laws, below what no additive noise can exceed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.special import ndtr

from certify.errors import UsageError
from certify.files import make_folder, write_atomically
from certify.laws import law_text
from smoothing.distributions.base import SmoothingDistribution
from smoothing.radius.impossibility import radius_upper_bound
from smoothing.threat import Norm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 41
"""Values of p that are computed for each law."""

FORMATS = ("png", "pdf", "svg")


@dataclass(frozen=True)
class RadiusCurves:
    """Radii of several laws of one sigma and shape, and the limit that holds for all of them.

    Attributes:
        laws: The laws.
        norm: Norm of the radii, each of the law's own.
        p: Lower bounds on the top class's probability, from 1/2 up.
        radii: One row a law, in the order of `laws`; rounded down.
        limit: `radius_upper_bound` at each p; rounded up. None if the laws have no finite sigma in common.
    """

    laws: tuple[SmoothingDistribution, ...]
    norm: Norm
    p: Float64[ndarray, " points"]
    radii: Float64[ndarray, "laws points"]
    limit: Float64[ndarray, " points"] | None

    def as_json(self) -> dict[str, Any]:
        """Return the curves as JSON-ready data."""
        law = self.laws[0]
        return {
            "norm": str(self.norm),
            "sigma": law.sigma,
            "dimension": law.dimension,
            "p": self.p.tolist(),
            "curves": [
                {"law": law.name, "parameters": law.parameters, "text": law_text(law), "radius": row.tolist()}
                for law, row in zip(self.laws, self.radii, strict=True)
            ],
            "upper_limit": None if self.limit is None else self.limit.tolist(),
        }


def radius_curves(laws: Sequence[SmoothingDistribution], norm: Norm | str, *, points: int = POINTS) -> RadiusCurves:
    """Compute the radius of every law on a grid of p from 1/2 to 0.999, denser towards 1.

    Raises:
        UnsupportedNormError: If a law proves no radius in `norm`.
        UsageError: If the laws are not comparable: no law, or different sigmas or dimensions.
    """
    norm = Norm.parse(norm)
    if not laws:
        raise UsageError("a plot needs at least one law, got none")
    for law in laws:
        law.require_norm(norm)
        first = laws[0]
        same = law.sigma == first.sigma or (
            law.sigma is not None and first.sigma is not None and abs(law.sigma / first.sigma - 1) < 1e-9
        )
        if not same or law.dimension != first.dimension:
            raise UsageError(
                f"laws in one plot must have the same sigma and shape, got {law_text(first)} and {law_text(law)}"
            )
    # Equal steps of the normal quantile: the curves bend where they go to infinity.
    p = ndtr(np.linspace(0.0, 3.0902323061678132, points))
    p[0], p[-1] = 0.5, 0.999
    radii = np.stack([law.radius(p, norm) for law in laws])
    sigma = laws[0].sigma
    limit = None if sigma is None else radius_upper_bound(p, norm, sigma=sigma, dimension=laws[0].dimension)
    return RadiusCurves(tuple(laws), norm, p, radii, limit)


def draw_radius_curves(curves: RadiusCurves) -> "Figure":
    """Draw the curves, with the region that no additive noise of this sigma reaches shaded."""
    from certify.report.plots import PALETTE, new_figure

    figure = new_figure(7.0, 4.6)
    ax = figure.add_subplot()
    dashes = ("-", (0, (6, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
    for i, (law, row) in enumerate(zip(curves.laws, curves.radii, strict=True)):
        color, dash = PALETTE[i % len(PALETTE)], dashes[(i // len(PALETTE)) % len(dashes)]
        ax.plot(curves.p, row, color=color, linestyle=dash, linewidth=1.9, label=_label(law))
    top = 1.2 * float(curves.radii.max()) or 1.0
    if curves.limit is not None:
        # Drawn from points of its own: it bends sharply where one bound takes over from the other.
        p = np.linspace(0.5, 0.999, 1_000)
        law = curves.laws[0]
        assert law.sigma is not None
        limit = radius_upper_bound(p, curves.norm, sigma=law.sigma, dimension=law.dimension)
        ax.fill_between(p, limit, np.maximum(limit, top), color="#BBBBBB", alpha=0.35, linewidth=0)
        ax.plot(p, limit, color="#444444", linewidth=1.3, linestyle=(0, (4, 2)), label="limit of every additive noise")
    ax.set_xlim(0.5, 1.0)
    ax.set_ylim(0.0, top)
    ax.set_xlabel("p, lower bound on the top class's probability", fontsize=10.5)
    ax.set_ylabel(f"certified {curves.norm} radius (input units)", fontsize=10.5)
    ax.set_title(_title(curves), fontsize=10.5, loc="left")
    ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def save_radius_plot(curves: RadiusCurves, path: Path) -> None:
    """Write the picture; its format is that of the file's name.

    Raises:
        UsageError: If the name ends in another one.
        CertifyError: If the file cannot be written.
    """
    from certify.report.plots import render

    form = check_plot_path(path)
    make_folder(path.parent)
    write_atomically(path, render(draw_radius_curves(curves), form))


def check_plot_path(path: Path) -> str:
    """Return the format that the file's name asks for.

    Raises:
        UsageError: If it is none of `FORMATS`.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise UsageError(f"plot must end in .{', .'.join(FORMATS)}, got plot={path}")
    return form


def _label(law: SmoothingDistribution) -> str:
    shapes = [f"{key}={value:g}" for key, value in law.parameters.items() if key not in ("sigma", law.scale_name)]
    return law.name + (f" ({', '.join(shapes)})" if shapes else "")


def _title(curves: RadiusCurves) -> str:
    law = curves.laws[0]
    sigma = "" if law.sigma is None else f"sigma = {law.sigma:g}, "
    return f"{sigma}d = {law.dimension:,}"
