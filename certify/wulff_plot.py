"""Pictures of Wulff crystals in 2 and 3 dimensions, each inside or around the unit ball of its norm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from certify.errors import UsageError
from certify.report.plots import PALETTE, new_figure
from smoothing.wulff import BallCrystal, CubeCrystal, WulffCrystal, Zonotope, ZonotopeCrystal, wulff_crystal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BALL_COLOR = "#666666"
_LIGHT = np.array([0.25, -0.55, 0.8]) / np.linalg.norm([0.25, -0.55, 0.8])
_VIEW = (22.0, -58.0)


@dataclass(frozen=True)
class Panel:
    """One norm in the picture: its name, what its crystals are called, and the vertices of its unit balls.

    Attributes:
        title: Name of the norm, for instance "l1".
        captions: What the crystal is in 2 and in 3 dimensions.
        norm: l1, l2 or linf; None for a norm given by its unit balls.
        vertices: Vertices of the unit balls in 2 and in 3 dimensions, where `norm` is None.
    """

    title: str
    captions: tuple[str, str]
    norm: str | None = None
    vertices: tuple[Float64[ndarray, "n 2"], Float64[ndarray, "m 3"]] | None = None

    def crystal(self, dimension: int) -> WulffCrystal:
        """Return the crystal in 2 or 3 dimensions."""
        if self.norm is not None:
            return wulff_crystal(self.norm, dimension)
        return wulff_crystal(self._vertices(dimension))

    def ball(self, dimension: int) -> Float64[ndarray, "n dimension"] | None:
        """Return the vertices of the unit ball; None for the round one."""
        from smoothing.wulff import unit_ball_vertices

        if self.norm == "l2":
            return None
        return self._vertices(dimension) if self.norm is None else unit_ball_vertices(self.norm, dimension)

    def _vertices(self, dimension: int) -> Float64[ndarray, "n dimension"]:
        if self.vertices is None:
            raise UsageError(f"panel {self.title} must have a norm or vertices, got neither")
        return self.vertices[dimension - 2]


def standard_panels() -> tuple[Panel, ...]:
    """Return the panels of l1, l2 and linf, and of a norm whose unit ball is a hexagon or an icosahedron."""
    angles = np.pi / 3 * np.arange(6)
    hexagon = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    golden = (1 + np.sqrt(5)) / 2
    first = np.array([(0.0, a, b * golden) for a in (-1, 1) for b in (-1, 1)])
    icosahedron = np.concatenate([np.roll(first, shift, axis=1) for shift in range(3)]) / np.sqrt(1 + golden**2)
    return (
        Panel("l1", ("square", "cube"), "l1"),
        Panel("l2", ("disc", "ball"), "l2"),
        Panel("linf", ("diamond", "rhombic dodecahedron"), "linf"),
        Panel("hexagon / icosahedron", ("hexagon", "rhombic triacontahedron"), None, (hexagon, icosahedron)),
    )


def draw_crystals(panels: Sequence[Panel] | None = None) -> "Figure":
    """Draw one column a norm: the crystal in the plane above, in space below; outlines are the unit balls.

    Raises:
        UsageError: If there is no panel.
    """
    panels = standard_panels() if panels is None else panels
    if not panels:
        raise UsageError("a picture of crystals needs at least one norm, got none")
    figure = new_figure(2.3 * len(panels), 5.4)
    for i, panel in enumerate(panels):
        color = PALETTE[i % len(PALETTE)]
        flat = figure.add_subplot(2, len(panels), i + 1)
        _draw_flat(flat, panel, color)
        flat.set_title(panel.title, fontsize=10.5, fontweight="bold")
        flat.text(0.0, -1.3, panel.captions[0], fontsize=9.5, ha="center", va="center")
        solid = figure.add_subplot(2, len(panels), len(panels) + i + 1, projection="3d")
        _draw_solid(solid, panel, color)
        solid.set_title(panel.captions[1], fontsize=9.5, y=-0.1)
    return figure


def _draw_flat(ax: "Axes", panel: Panel, color: str) -> None:
    ball = panel.ball(2)
    outline = _circle(1.0) if ball is None else _around(ball)
    ax.fill(*_flat_outline(panel.crystal(2)).T, facecolor=color, alpha=0.75, edgecolor=color, linewidth=1.2)
    ax.plot(*_closed(outline).T, color=BALL_COLOR, linewidth=1.1, linestyle=(0, (4, 2)))
    ax.set_aspect("equal")
    ax.set_xlim(-1.12, 1.12)
    ax.set_ylim(-1.4, 1.12)
    ax.set_axis_off()


def _draw_solid(ax: Any, panel: Panel, color: str) -> None:
    crystal = panel.crystal(3)
    if isinstance(crystal, BallCrystal):
        _draw_globe(ax, crystal.radius, color)
    else:
        _draw_faces(ax, _zonotope(crystal).faces(), color)
    ball = panel.ball(3)
    for line in _great_circles() if ball is None else _edges(ball):
        ax.plot(*line.T, color=BALL_COLOR, linewidth=0.7, linestyle=(0, (4, 2)))
    # The corners of the ball reach the edge of the picture, whichever way they look.
    size = 0.86 if ball is None else 0.86 * float(np.linalg.norm(ball, axis=1).max())
    ax.set_xlim(-size, size)
    ax.set_ylim(-size, size)
    ax.set_zlim(-size, size)
    ax.set_box_aspect((1, 1, 1), zoom=1.35)
    ax.set_proj_type("ortho")
    ax.view_init(*_VIEW)
    ax.set_axis_off()


def _draw_faces(ax: Any, faces: Sequence[Float64[ndarray, "corners 3"]], color: str) -> None:
    shades = [_shade(color, face.mean(0)) for face in faces]
    ax.add_collection3d(_polygons(faces, facecolors=shades, edgecolors="white", linewidths=0.8))


def _draw_globe(ax: Any, radius: float, color: str) -> None:
    polar, around = np.linspace(0, np.pi, 31), np.linspace(0, 2 * np.pi, 61)
    grid = np.stack(
        [
            np.outer(np.sin(polar), np.cos(around)),
            np.outer(np.sin(polar), np.sin(around)),
            np.outer(np.cos(polar), np.ones_like(around)),
        ],
        axis=-1,
    )
    tiles = np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], axis=2).reshape(-1, 4, 3)
    shades = [_shade(color, tile.mean(0)) for tile in tiles]
    ax.add_collection3d(_polygons(list(radius * tiles), facecolors=shades, edgecolors=shades, linewidths=0.5))


def _polygons(polygons: Sequence[Float64[ndarray, "corners 3"]], **style: Any) -> Any:
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection  # type: ignore[import-untyped]

    return Poly3DCollection(polygons, **style)


def _shade(color: str, normal: Float64[ndarray, "3"]) -> tuple[float, float, float]:
    """The colour of a face that looks along `normal`, under a lamp."""
    from matplotlib.colors import to_rgb

    light = 0.62 + 0.38 * float(normal @ _LIGHT) / float(np.linalg.norm(normal))
    red, green, blue = (min(1.0, channel * light + 0.42 * max(light - 0.62, 0.0)) for channel in to_rgb(color))
    return red, green, blue


def _zonotope(crystal: WulffCrystal) -> Zonotope:
    if isinstance(crystal, CubeCrystal):
        return Zonotope(np.eye(crystal.dimension) / crystal.dimension)
    assert isinstance(crystal, ZonotopeCrystal)
    return crystal.zonotope


def _flat_outline(crystal: WulffCrystal) -> Float64[ndarray, "n 2"]:
    return _circle(crystal.radius) if isinstance(crystal, BallCrystal) else _zonotope(crystal).vertices()


def _circle(radius: float) -> Float64[ndarray, "n 2"]:
    angle = np.linspace(0, 2 * np.pi, 181)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _closed(points: Float64[ndarray, "n 2"]) -> Float64[ndarray, "n1 2"]:
    return np.concatenate([points, points[:1]])


def _around(points: Float64[ndarray, "n 2"]) -> Float64[ndarray, "n 2"]:
    return points[np.argsort(np.arctan2(points[:, 1], points[:, 0]))]


def _great_circles() -> list[Float64[ndarray, "n 3"]]:
    circle = _circle(1.0)
    flat = np.concatenate([circle, np.zeros((len(circle), 1))], axis=1)
    return [np.roll(flat, shift, axis=1) for shift in range(3)]


def _edges(points: Float64[ndarray, "n 3"]) -> list[Float64[ndarray, "2 3"]]:
    """The edges of the hull of `points`: sides of its triangles at which it really bends."""
    from scipy.spatial import ConvexHull

    hull = ConvexHull(points)
    sides: dict[tuple[int, int], list[Float64[ndarray, "3"]]] = {}
    for triangle, equation in zip(hull.simplices, hull.equations, strict=True):
        for a, b in ((0, 1), (1, 2), (0, 2)):
            first, second = sorted((int(triangle[a]), int(triangle[b])))
            sides.setdefault((first, second), []).append(equation[:3])
    return [points[list(side)] for side, (one, other) in sides.items() if float(one @ other) < 1.0 - 1e-9]
