"""Attack certificates through floating point, draw what happens, and show that integer noise withstands.

    python scripts/attack_floating_point.py [--out scripts/figures/floating_point.png] [--votes 100000] [--full]

Three attacks (`smoothing.integer.redteam`) against both noise paths: the table says what is claimed, what is true, and
whether the certificate is false. The third, through the tails that torch's generator cuts off, is shown twice: by a
classifier that looks at single values, in the dimension of ImageNet with a tenth of the votes; and by one
that looks at the pairs that the generator makes, which needs a fifth of that dimension, with a fifth of the votes. `--full`
runs both at the size of ImageNet with all votes (minutes).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from command_line import in_one_line, picture, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SEED = 7
LEAST_VOTES = 100
"""The third attack takes a tenth of them: ten is the fewest with which votes that all agree prove anything."""
PAIRS_AT_ONCE = 2**20


def sources(law: Any) -> list[Any]:
    """Return both paths for a law."""
    from smoothing.integer import PhiloxIntNoise
    from smoothing.noise_source import TorchBlockNoise

    return [TorchBlockNoise(law, SEED), PhiloxIntNoise(law, SEED)]


def print_table(votes: int, full: bool) -> None:
    from smoothing.integer.redteam import black_pixels, cut_tails, judge, low_bits

    runs = [(low_bits(), votes, 1024), (black_pixels(), votes, 1024)]
    if full:
        runs += [(cut_tails(150_528, pairs=False), votes, 64), (cut_tails(150_528), votes, 64)]
    else:
        runs += [(cut_tails(150_528, pairs=False), votes // 10, 64), (cut_tails(), votes // 5, 128)]
    print("| attack | noise | d | votes | claimed p_lower | claimed radius | against it | false? | s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for attack, n, batch_size in runs:
        for source in sources(attack.law):
            start = time.perf_counter()
            verdict = judge(attack, source, n, batch_size=batch_size)
            seconds = time.perf_counter() - start
            if verdict.at_other is None:
                assert attack.failure is not None
                against = f"true p {1 - attack.failure:.6f}, which proves {verdict.distance:.3f}"
            else:
                against = f"class {verdict.at_other.prediction} at distance {verdict.distance:.3f}"
            print(
                f"| {attack.name} | {source.version} | {attack.law.dimension} | {n:,} | {verdict.at_x.p_lower:.6f} | "
                f"{verdict.at_x.radius:.3f} for class {verdict.at_x.prediction} | {against} | "
                f"{'**false**' if verdict.false_certificate else 'holds'} | {seconds:.1f} |",
                flush=True,
            )


def shares(attack: Any, source: Any, inputs: list[torch.Tensor], n: int) -> list[float]:
    """Return the share of votes for class 1 at each input."""
    from smoothing import BatchingEngine, ForwardSettings, Phase, VoteRequest

    engine = BatchingEngine(
        attack.classifier, attack.law, 2, lambda i: inputs[i], settings=ForwardSettings(1024), seed=SEED, noise=source
    )
    counted = engine.votes([VoteRequest(i, Phase.ATTACK, 0, n) for i in range(len(inputs))])
    found = {request.index: float(counts[1] / n) for request, counts in counted}
    return [found[i] for i in range(len(inputs))]


def draw_low_bits(ax: "Axes", colors: tuple[str, str], votes: int) -> None:
    from smoothing.integer.redteam import claim, low_bits

    attack = low_bits()
    # On the grid, so that both paths take them.
    inputs = [torch.tensor([float(k)]) / 255.0 for k in range(0, 306, 5)]
    where = [float(x) for x in inputs]
    for source, color, label in zip(sources(attack.law), colors, ("floating point", "integers"), strict=True):
        ax.plot(where, shares(attack, source, inputs, 20_000), color=color, linewidth=1.8, label=label)
        radius = claim(attack, source, attack.x, votes).radius
        height = 1.08 if color == colors[0] else 1.14
        ax.plot([1 - radius, 1], [height, height], color=color, linewidth=3, solid_capstyle="butt")
    ax.axhline(0.5, color="#444444", linewidth=0.8, linestyle=(0, (4, 2)))
    ax.set_xlim(-0.2, 1.2)
    ax.set_ylim(0, 1.2)
    ax.set_xlabel("input x")
    ax.set_ylabel("share of votes for class 1")
    ax.set_title("low bits: bars are what is certified at x = 1", fontsize=9.5, loc="left")
    ax.legend(frameon=False, fontsize=9, loc="lower right")


def draw_black_pixels(ax: "Axes", colors: tuple[str, str], votes: int) -> None:
    from smoothing.integer.redteam import black_pixels, claim

    attack = black_pixels()
    black = [0, 25, 50, 100, 150, 200, 300, 400, 500]
    inputs = []
    for k in black:
        x = attack.x.clone()
        x[:k] = 0.0
        inputs.append(x)
    distance = np.sqrt(np.array(black)) / 255
    for source, color, label in zip(sources(attack.law), colors, ("floating point", "integers"), strict=True):
        radius = claim(attack, source, attack.x, votes).radius
        ax.plot(distance, shares(attack, source, inputs, 4_096), "o-", color=color, markersize=3, label=label)
        ax.annotate(
            f"certified up to {radius:.3f}",
            (0.6, 0.93 if color == colors[0] else 0.86),
            xycoords="axes fraction",
            color=color,
            fontsize=8.5,
        )
    ax.axhline(0.5, color="#444444", linewidth=0.8, linestyle=(0, (4, 2)))
    ax.set_ylim(0, 1.2)
    ax.set_xlabel("l2 distance, as pixels go from 1/255 to 0")
    ax.set_ylabel("share of votes for class 1")
    ax.set_title("black pixels in an 8-bit image", fontsize=9.5, loc="left")
    ax.legend(frameon=False, fontsize=9, loc="lower left")


def draw_tails(ax: "Axes", colors: tuple[str, str], pairs: int) -> None:
    """Draw how often the length of a pair of noise values exceeds t: the law, and both generators."""
    from smoothing import Gaussian, Phase
    from smoothing.integer.redteam import LAYOUT, LONGEST_PAIR

    law = Gaussian((2**14,), sigma=0.25)
    x = torch.zeros(law.shape)
    grid = np.linspace(4.0, 6.6, 261)
    ax.semilogy(grid, np.exp(-(grid**2) / 2), color="#444444", linewidth=1.0, linestyle=(0, (4, 2)), label="the law")
    for source, color, label in zip(sources(law), colors, ("floating point", "integers"), strict=True):
        draw, counts = source.bind(x, 0), np.zeros(len(grid))
        rounds = pairs // PAIRS_AT_ONCE
        for i in range(rounds):
            noise = draw(Phase.ATTACK, 128 * i, 128 * (i + 1)).reshape(-1, 2, LAYOUT)
            squares = noise[:, 0].square().addcmul_(noise[:, 1], noise[:, 1]).flatten()
            lengths = np.sort(squares[squares > 0.9].sqrt().numpy() / 0.25)
            counts += len(lengths) - np.searchsorted(lengths, grid, side="right")
        share = counts / (rounds * 128 * law.dimension / 2)
        ax.semilogy(grid[share > 0], share[share > 0], color=color, linewidth=1.8, label=label)
    ax.axvline(LONGEST_PAIR, color="#444444", linewidth=0.8, linestyle=(0, (1, 2)))
    ax.set_xlim(4.0, 6.6)
    ax.set_xlabel("length t of a pair of noise values, in sigma")
    ax.set_ylabel("share of pairs that are longer")
    ax.set_title("cut tails: torch's pairs end at 5.768", fontsize=9.5, loc="left")
    ax.legend(frameon=False, fontsize=9, loc="lower left")


def draw(out: Path, votes: int, pairs: int) -> None:
    from certify.files import make_folder, write_atomically
    from certify.report.plots import PALETTE, new_figure, render

    figure = new_figure(12.0, 3.9)
    axes = figure.subplots(1, 3)
    colors = (PALETTE[1], PALETTE[0])
    draw_low_bits(axes[0], colors, votes)
    draw_black_pixels(axes[1], colors, votes)
    draw_tails(axes[2], colors, pairs)
    for ax in axes:
        ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    make_folder(out.parent)
    write_atomically(out, render(figure, out.suffix.removeprefix("."), dpi=100))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=picture, default=Path(__file__).parent / "figures" / "floating_point.png")
    parser.add_argument("--votes", type=whole(LEAST_VOTES), default=100_000, help=f"at least {LEAST_VOTES} (100000)")
    parser.add_argument("--full", action="store_true", help="the third attack at ImageNet size twice, with all votes")
    parser.add_argument(
        "--pairs",
        type=whole(PAIRS_AT_ONCE),
        default=2**28,
        help=f"pairs of noise values drawn for the third picture, at least {PAIRS_AT_ONCE}",
    )
    options = parser.parse_args(arguments)
    return in_one_line(lambda: attack(options))


def attack(options: argparse.Namespace) -> None:
    """Print the table and draw the picture."""
    print_table(options.votes, options.full)
    draw(options.out, options.votes, options.pairs)
    print(f"\n{options.out}")


if __name__ == "__main__":
    sys.exit(main())
