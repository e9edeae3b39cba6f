"""Compare laws of noise at l1, end to end, as in Yang et al. 2020: train and certify one network per law and sigma.

    python scripts/compare_l1.py --data-root DATA [--out runs/compare-l1] [--figure scripts/figures/l1.png]

Every network is trained with the noise that it is certified with, all of them alike; every certificate is of the law's own
at l1. Gaussian noise has no better one than its l2 radius: ||v||_2 <= ||v||_1, with equality along the axes, so that this
is no conversion and nothing is lost. The *envelope* of a law is its best certified accuracy at each radius over the
sigmas, as the paper compares laws: one point of it is one classifier's, the whole is no one classifier's.

Interrupt it whenever you like and repeat the same line: what is trained stays, and certification goes on where it stopped.
In OUT there are then models/, runs/ (`certify audit OUT/runs/uniform-0.5` checks one), l1.md, l1.csv and l1.png.
"""

import argparse
import csv
import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command_line import between, in_one_line, whole

if TYPE_CHECKING:
    from certify.metrics import CertifiedSet

LAWS = ("uniform", "laplace", "gaussian")
NORM = "l1"


@dataclass(frozen=True)
class Comparison:
    """What is compared, and on what.

    Attributes:
        out: Folder of everything that is written.
        data: Data set.
        data_root: Folder of the data sets.
        sigmas: Per-coordinate standard deviations; one network per law and sigma.
        architecture: The networks' architecture; None: what suits the data set.
        epochs: Passes over the training set.
        images: Test images to certify, evenly spaced.
        n: Estimation votes per image.
        alpha: Error probability per image.
        seed: Seed of training and noise.
        device: Where to run; default: CUDA where there is one.
        precision: "fp32" or "bf16", of training and of what is certified, for all laws alike.
    """

    out: Path
    data: str = "mnist"
    data_root: Path | None = None
    sigmas: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    architecture: str | None = "lenet"
    epochs: int = 5
    images: int = 100
    n: int = 10_000
    alpha: float = 0.001
    seed: int = 0
    device: str | None = None
    precision: str = "fp32"

    def name(self, law: str, sigma: float) -> str:
        """Return what the folders of one law and sigma are called."""
        return f"{law}-{sigma:g}"

    def model(self, law: str, sigma: float) -> Path:
        """Return the checkpoint folder of one law and sigma."""
        return self.out / "models" / self.name(law, sigma)

    def run(self, law: str, sigma: float) -> Path:
        """Return the run folder of one law and sigma."""
        return self.out / "runs" / self.name(law, sigma)


def train(comparison: Comparison, law: str, sigma: float) -> str:
    """Train one network unless it is there; return a line about it.

    Raises:
        UsageError: If the folder holds one that was trained otherwise.
    """
    from certify.errors import UsageError
    from certify.training import TrainOptions, prepare_training, train_checkpoint

    out = comparison.model(law, sigma)
    if (out / "model.json").is_file():
        config: dict[str, Any] = json.loads((out / "model.json").read_text(encoding="utf-8"))
        there = {**config["training"], "architecture": config["architecture"]}
        for key in ("epochs", "seed", "architecture"):
            wanted = getattr(comparison, key)
            if wanted is not None and there[key] != wanted:
                raise UsageError(
                    f"{out} was trained with {key}={there[key]}, now {wanted} is asked for: use another --out"
                )
        return "trained before"
    plan = prepare_training(
        TrainOptions(
            data=comparison.data,
            out=out,
            data_root=comparison.data_root,
            architecture=comparison.architecture,
            noise=law,
            parameters=(("sigma", sigma),),
            epochs=comparison.epochs,
            seed=comparison.seed,
            device=comparison.device,
            precision=comparison.precision,
            overwrite=True,
            command=tuple(sys.argv),
        )
    )
    result = train_checkpoint(plan)
    return f"trained in {result.seconds:.0f} s, {result.noisy_accuracy or 0:.1%} right under noise (held-out images)"


def certify(comparison: Comparison, law: str, sigma: float) -> str:
    """Certify with one network, or go on with it; return a line about it.

    Raises:
        RunMismatchError: If the folder holds a run with other settings.
    """
    from certify.datasets import load_dataset
    from certify.errors import UsageError
    from certify.runner import execute
    from certify.setup import RunOptions, prepare

    size = len(load_dataset(comparison.data, root=comparison.data_root, split="test"))
    if not 1 <= comparison.images <= size:
        raise UsageError(f"images must be in 1..{size}, the size of {comparison.data}, got images={comparison.images}")
    started = time.perf_counter()
    plan = prepare(
        RunOptions(
            model=str(comparison.model(law, sigma)),
            data=comparison.data,
            data_root=comparison.data_root,
            norm=NORM,
            n=comparison.n,
            alpha=comparison.alpha,
            seed=comparison.seed,
            device=comparison.device,
            precision=comparison.precision,
            stride=size // comparison.images,
            maximum=comparison.images,
            out=comparison.run(law, sigma),
            command=tuple(sys.argv),
        ),
        {},
    ).plan
    rows = execute(plan)
    return f"{len(rows)} certificates, {time.perf_counter() - started:.0f} s"


def read(comparison: Comparison) -> "dict[str, list[CertifiedSet]]":
    """Return the certificates by law, in the order of the sigmas."""
    from certify.report.sources import read_run_source

    return {law: [read_run_source(comparison.run(law, sigma)).certified for sigma in comparison.sigmas] for law in LAWS}


@dataclass(frozen=True)
class EnvelopeRow:
    """The best certified accuracy of one law at each radius of a table.

    Attributes:
        law: Name of the law.
        shares: Certified accuracies.
        sigmas: The sigma that each of them is of.
        acr: Largest average certified radius of one classifier, and its sigma.
    """

    law: str
    shares: tuple[float, ...]
    sigmas: tuple[float, ...]
    acr: tuple[float, float]


def envelope(law: str, sets: "Sequence[CertifiedSet]", sigmas: Sequence[float], radii: Sequence[float]) -> EnvelopeRow:
    """Return the best of several runs of one law at each radius."""
    from certify.metrics import average_certified_radius, certified_counts

    counts = [certified_counts(certified, radii) / len(certified) for certified in sets]
    best = [max(range(len(sets)), key=lambda i: (counts[i][column], -i)) for column in range(len(radii))]
    means = [average_certified_radius(certified).value for certified in sets]
    top = max(range(len(sets)), key=lambda i: means[i])
    return EnvelopeRow(
        law,
        tuple(float(counts[i][column]) for column, i in enumerate(best)),
        tuple(sigmas[i] for i in best),
        (means[top], sigmas[top]),
    )


def table_radii(sets: "Sequence[CertifiedSet]", columns: int = 8) -> tuple[float, ...]:
    """Return about `columns` evenly spaced radii from 0 to the largest that is certified, in steps of 1, 2.5 or 5."""
    largest = max(float(certified.credited.max()) for certified in sets)
    step = next(
        (s for e in range(-6, 4) for s in (10.0**e, 2.5 * 10.0**e, 5.0 * 10.0**e) if s * columns >= largest), 1.0
    )
    return tuple(round(step * i, 9) for i in range(columns + 1) if step * i <= largest)


def to_markdown(comparison: Comparison, rows: Sequence[EnvelopeRow], radii: Sequence[float]) -> str:
    """Return the table: in each cell the best certified accuracy and the sigma it is of."""
    head = ["law", *(f"r={radius:g}" for radius in radii), "best ACR"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [
            f"{100 * share:.1f} ({sigma:g})" if share > 0 else "0"
            for share, sigma in zip(row.shares, row.sigmas, strict=True)
        ]
        lines.append("| " + " | ".join([row.law, *cells, f"{row.acr[0]:.3f} ({row.acr[1]:g})"]) + " |")
    sigmas = ", ".join(f"{sigma:g}" for sigma in comparison.sigmas)
    caption = (
        f"Certified accuracy (%) at {NORM} radius r, best over sigma (in brackets) at each radius; {comparison.data}, "
        f"{comparison.images} test images, n = {comparison.n:,}, alpha = {comparison.alpha:g} per image, architecture "
        f"{comparison.architecture or 'by data set'}, {comparison.epochs} epochs of training, "
        f"{comparison.precision}, sigmas {sigmas}. Choosing the best sigma after the fact is optimistic, "
        "equally so for all laws."
    )
    return "\n".join([*lines, "", caption, ""])


def to_csv(rows: Sequence[EnvelopeRow], radii: Sequence[float]) -> str:
    """Return one line per law and radius."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(("law", "radius", "certified_accuracy", "sigma"))
    for row in rows:
        for radius, share, sigma in zip(radii, row.shares, row.sigmas, strict=True):
            writer.writerow((row.law, repr(radius), repr(share), repr(sigma)))
    return target.getvalue()


def draw(comparison: Comparison, sets: "dict[str, list[CertifiedSet]]") -> bytes:
    """Return the picture: a thick envelope per law over the thin curves of its sigmas."""
    import numpy as np

    from certify.metrics import certified_counts
    from certify.report.plots import PALETTE, new_figure, render

    figure = new_figure(7.0, 4.4)
    ax = figure.add_subplot()
    right = 1.03 * max(float(s.credited.max()) for several in sets.values() for s in several) or 1.0
    x = np.linspace(0.0, right, 2001)
    for color, (law, several) in zip(PALETTE, sets.items(), strict=False):
        curves = [100 * certified_counts(certified, x) / len(certified) for certified in several]
        for curve in curves:
            ax.plot(x, curve, color=color, linewidth=0.8, alpha=0.45)
        ax.plot(x, np.max(curves, axis=0), color=color, linewidth=2.2, label=law)
    ax.set_xlim(0.0, right)
    ax.set_ylim(0.0, 100.0)
    ax.set_xlabel(f"{NORM} radius r (input units)")
    ax.set_ylabel("certified accuracy (%)")
    ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    sigmas = ", ".join(f"{sigma:g}" for sigma in comparison.sigmas)
    ax.legend(frameon=False, title=f"thick: best of sigma = {sigmas}\nthin: each sigma by itself", title_fontsize=9)
    ax.set_title(
        f"{comparison.data}, {comparison.images} test images, n = {comparison.n:,}, alpha = {comparison.alpha:g}",
        fontsize=10,
        loc="left",
    )
    return render(figure, "png", dpi=110)


def write(comparison: Comparison, figure: Path | None, radii: Sequence[float] | None = None) -> str:
    """Write table and picture from the finished runs; return the table."""
    from certify.files import make_folder, write_atomically

    sets = read(comparison)
    radii = radii or table_radii([certified for several in sets.values() for certified in several])
    rows = [envelope(law, several, comparison.sigmas, radii) for law, several in sets.items()]
    text, picture = to_markdown(comparison, rows, radii), draw(comparison, sets)
    write_atomically(comparison.out / "l1.md", text)
    write_atomically(comparison.out / "l1.csv", to_csv(rows, radii))
    write_atomically(comparison.out / "l1.png", picture)
    if figure is not None:
        make_folder(figure.parent)
        write_atomically(figure, picture)
    return text


def compare(comparison: Comparison, figure: Path | None = None, radii: Sequence[float] | None = None) -> str:
    """Train, certify and write everything; return the table."""
    for sigma in comparison.sigmas:
        for law in LAWS:
            print(f"{law}, sigma {sigma:g}: {train(comparison, law, sigma)}", flush=True)
            print(f"{law}, sigma {sigma:g}: {certify(comparison, law, sigma)}", flush=True)
    return write(comparison, figure, radii)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; see the module's text."""
    usual = Comparison(Path("runs/compare-l1"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=usual.data, help=f"data set (default: {usual.data})")
    parser.add_argument("--data-root", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=usual.out, help=f"where to work (default: {usual.out})")
    parser.add_argument("--figure", type=Path, help="write the picture there too")
    parser.add_argument(
        "--sigmas", type=between(0.0, 1e150), nargs="+", default=usual.sigmas, help="standard deviations"
    )
    parser.add_argument("--radii", type=float, nargs="+", help="columns of the table (default: evenly spaced ones)")
    parser.add_argument(
        "--arch",
        dest="architecture",
        default=usual.architecture,
        help=f"of the networks (default: {usual.architecture})",
    )
    parser.add_argument("--epochs", type=whole(1), default=usual.epochs, help=f"of training (default: {usual.epochs})")
    parser.add_argument("--images", type=whole(1), default=usual.images, help=f"to certify (default: {usual.images})")
    parser.add_argument("--n", type=whole(1), default=usual.n, help=f"votes per image (default: {usual.n})")
    parser.add_argument(
        "--alpha", type=between(0.0, 1.0), default=usual.alpha, help=f"per image (default: {usual.alpha})"
    )
    parser.add_argument("--seed", type=whole(0), default=usual.seed)
    parser.add_argument("--device", help="cpu or cuda")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default=usual.precision, help=f"(default: {usual.precision})"
    )
    given = vars(parser.parse_args(arguments))
    figure, radii = given.pop("figure"), given.pop("radii")
    given["sigmas"] = tuple(given["sigmas"])
    return in_one_line(lambda: print(compare(Comparison(**given), figure, radii)))


if __name__ == "__main__":
    sys.exit(main())
