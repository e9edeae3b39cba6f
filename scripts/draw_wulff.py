"""Draw the Wulff crystals of l1, l2, linf and of a polytope's norm, and print what their volumes prove.

    python scripts/draw_wulff.py [--out scripts/figures/wulff.png] [--dimension 3072]

The table gives the largest slope of the certified radius at p = 1/2 of any even noise that is uniform on a set as large as
the cube or the ball of per-coordinate standard deviation 1. Cubes attain it at l1, and balls at l2.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from command_line import in_one_line, picture, whole


def slopes(dimension: int) -> list[tuple[str, str, float]]:
    """Return (set, norm, largest slope at p = 1/2) for the volumes of the cube and of the ball of sigma = 1."""
    from smoothing.wulff import uniform_bound, wulff_crystal
    from smoothing.wulff.crystal import log_ball_volume

    log_volumes = {
        "the cube": log_ball_volume("linf", dimension) + dimension * math.log(math.sqrt(3.0)),
        "the ball": log_ball_volume("l2", dimension) + dimension * 0.5 * math.log(dimension + 2),
    }
    return [
        (name, norm, 1.0 / uniform_bound(wulff_crystal(norm, dimension), log_volume))
        for name, log_volume in log_volumes.items()
        for norm in ("l1", "l2", "linf")
    ]


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=picture, default=Path(__file__).parent / "figures" / "wulff.png")
    parser.add_argument("--dimension", type=whole(1), default=3072)
    arguments = parser.parse_args(given)
    return in_one_line(lambda: draw(arguments))


def draw(arguments: argparse.Namespace) -> None:
    """Draw the picture and print the table."""
    from certify.files import make_folder, write_atomically
    from certify.report.plots import render
    from certify.wulff_plot import draw_crystals

    make_folder(arguments.out.parent)
    write_atomically(arguments.out, render(draw_crystals(), arguments.out.suffix.removeprefix("."), dpi=100))
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1024:.0f} KiB\n")
    print(f"| volume of | norm | slope at p = 1/2, at most (d = {arguments.dimension}) |")
    print("| --- | --- | --- |")
    for name, norm, slope in slopes(arguments.dimension):
        print(f"| {name} | {norm} | {slope:.4f} |")


if __name__ == "__main__":
    sys.exit(main())
