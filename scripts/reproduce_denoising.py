"""Denoised smoothing, end to end: what a denoiser gains for a classifier that was trained without noise.

    python scripts/reproduce_denoising.py --data-root DATA [--out runs/denoising] [--figure scripts/figures/denoising.png]

Trains a plain classifier (no noise), surrogates of it (other seeds and an other architecture), a noise-trained reference,
and denoisers: for the mean squared error, for stability, for stability from the former, and the same with surrogates only,
so that the certified classifier is never differentiated or asked (the black-box case). Then certifies

    none        the plain classifier as it is
    classical   a blur before it (the classical denoiser that a CPU can run two million times)
    mse         a denoiser trained for the squared error
    stability   a denoiser trained for the classifier's own labels
    stab+mse    the mse denoiser, fine-tuned for stability
    surrogates  the same, but against surrogates only
    reference   the noise-trained classifier

and writes certified accuracy by radius and the average certified radius as Markdown, CSV and a picture. Interrupt it
whenever you like and repeat the same line.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from command_line import between, in_one_line, whole

from certify.allocator import tune_allocator
from certify.denoising.checkpoint import FILE
from certify.denoising.job import DenoiseOptions, prepare_denoising, train_denoiser
from certify.files import make_folder, write_atomically
from certify.metrics import CertifiedSet, average_certified_radius, certified_counts
from certify.models.architectures import build_architecture
from certify.models.checkpoint import save_checkpoint
from certify.models.checkpoint_config import CONFIG, CheckpointConfig
from certify.report.sources import read_run_source
from certify.runner import execute
from certify.setup import RunOptions, prepare
from certify.training import TrainOptions, prepare_training, train_checkpoint
from certify.training.data import load_training_data
from smoothing import Gaussian
from smoothing.distributions.base import SmoothingDistribution
from smoothing.training import Trainer, TrainingConfig
from smoothing.training.objective import NOISY_ACCURACY, Batch, Model, Objective, share_correct


@dataclass(frozen=True)
class Settings:
    """What is trained and certified.

    Attributes:
        out: Folder of everything that is written.
        data: Data set.
        data_root: Folder of the data sets.
        sigma: Standard deviation of the Gaussian noise.
        architecture: Of the plain classifier and the reference.
        surrogates: Architectures of the surrogates.
        denoiser: A key of `denoisers.DENOISERS`.
        epochs: Epochs of the classifiers.
        denoiser_epochs: Epochs of each denoiser.
        images: Test images to certify, evenly spaced.
        n: Estimation votes.
        maximum: Training images for the denoisers; None for all.
        seed: Seed of everything.
        precision: "fp32" or "bf16": of the denoisers' training, and of what is certified (all methods alike).
    """

    out: Path
    data: str = "mnist"
    data_root: Path | None = None
    sigma: float = 0.5
    architecture: str = "cnn"
    surrogates: tuple[str, ...] = ("cnn", "mlp", "cnn")
    denoiser: str = "unet"
    epochs: int = 4
    denoiser_epochs: int = 3
    images: int = 200
    n: int = 10_000
    maximum: int | None = None
    seed: int = 0
    precision: str = "fp32"


RADII = (0.0, 0.25, 0.5, 0.75, 1.0)
METHODS = ("none", "classical", "mse", "stability", "stab+mse", "surrogates", "reference")


@dataclass(frozen=True)
class Plain(Objective):
    """Cross-entropy on clean images: the classifier that nobody thought of smoothing."""

    name = "plain"

    def __call__(
        self, model: Model, batch: Batch, law: SmoothingDistribution, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss and the accuracy, both without noise."""
        scores = model(batch.x)
        return torch.nn.functional.cross_entropy(scores, batch.y), {NOISY_ACCURACY: share_correct(scores, batch.y)}


def train_plain(settings: Settings, name: str, architecture: str, seed: int) -> Path:
    """Train a classifier without noise unless it is there; return its folder."""
    folder = settings.out / "models" / name
    if (folder / CONFIG).exists():
        return folder
    data = load_training_data(settings.data, root=settings.data_root, seed=seed)
    classes = data.source.num_classes
    network = build_architecture(architecture, num_classes=classes, input_shape=data.shape, seed=seed)
    config = TrainingConfig(epochs=settings.epochs, batch_size=128, learning_rate=0.05, seed=seed)
    trainer = Trainer(network, Gaussian(data.shape, sigma=settings.sigma), Plain(), config)
    for _ in trainer.fit(data.images, data.labels):
        pass
    record = CheckpointConfig(architecture, classes, data.shape, data=settings.data, training={"objective": "plain"})
    save_checkpoint(folder, network.eval(), record)
    return folder


def train_reference(settings: Settings) -> Path:
    """Train the same architecture under noise unless it is there; return its folder."""
    folder = settings.out / "models" / "reference"
    if not (folder / CONFIG).exists():
        options = TrainOptions(
            data=settings.data,
            out=folder,
            data_root=settings.data_root,
            architecture=settings.architecture,
            parameters=(("sigma", settings.sigma),),
            epochs=settings.epochs,
            seed=settings.seed,
            overwrite=True,
            command=tuple(sys.argv),
        )
        train_checkpoint(prepare_training(options))
    return folder


def train_denoisers(settings: Settings, plain: Path, surrogates: Sequence[Path]) -> dict[str, Path]:
    """Train what is not there yet; return the folders by method."""
    base = DenoiseOptions(
        data=settings.data,
        out=settings.out,
        denoiser=settings.denoiser,
        data_root=settings.data_root,
        parameters=(("sigma", settings.sigma),),
        config=TrainingConfig(
            epochs=settings.denoiser_epochs,
            batch_size=128,
            optimizer="adam",
            learning_rate=2e-3,
            weight_decay=0.0,
            seed=settings.seed,
            precision=settings.precision,
        ),
        maximum=settings.maximum,
        command=tuple(sys.argv),
    )
    folders = {name: settings.out / "denoisers" / name for name in ("mse", "stability", "stab+mse", "surrogates")}
    white, black = (str(plain),), tuple(map(str, surrogates))
    options = {
        "mse": replace(base, out=folders["mse"]),
        "stability": replace(base, out=folders["stability"], objective="stability", classifiers=white),
        "stab+mse": replace(
            base, out=folders["stab+mse"], objective="stability", classifiers=white, start=folders["mse"]
        ),
        "surrogates": replace(
            base, out=folders["surrogates"], objective="stability", classifiers=black, start=folders["mse"]
        ),
    }
    for name, chosen in options.items():
        if not (folders[name] / FILE).exists():
            started = time.perf_counter()
            train_denoiser(prepare_denoising(chosen))
            print(f"denoiser {name}: trained in {time.perf_counter() - started:.0f} s", flush=True)
    return folders


def certify(settings: Settings, method: str, model: Path, denoiser: str | None) -> CertifiedSet:
    """Certify with one method, or go on with it."""
    from certify.datasets import load_dataset

    size = len(load_dataset(settings.data, root=settings.data_root))
    options = RunOptions(
        model=str(model),
        data=settings.data,
        data_root=settings.data_root,
        noise="gaussian",
        parameters=(("sigma", settings.sigma),),
        n=settings.n,
        seed=settings.seed,
        precision=settings.precision,
        stride=max(1, size // settings.images),
        maximum=settings.images,
        denoiser=denoiser,
        out=settings.out / "runs" / method,
        command=tuple(sys.argv),
    )
    started = time.perf_counter()
    execute(prepare(options, {}).plan)
    print(f"{method}: certified in {time.perf_counter() - started:.0f} s", flush=True)
    return read_run_source(options.out).certified


def to_markdown(settings: Settings, sets: dict[str, CertifiedSet]) -> str:
    """Return the table."""
    lines = [
        "| base classifier | " + " | ".join(f"r={radius:g}" for radius in RADII) + " | ACR |",
        "|" + " --- |" * (len(RADII) + 2),
    ]
    for method, certified in sets.items():
        shares = 100 * certified_counts(certified, RADII) / len(certified)
        acr = average_certified_radius(certified).value
        lines.append(f"| {method} | " + " | ".join(f"{share:.1f}" for share in shares) + f" | {acr:.3f} |")
    lines += [
        "",
        f"Certified accuracy (%) at l2 radius r; {settings.data}, {len(sets['none'])} test images, Gaussian noise of sigma "
        f"{settings.sigma:g}, n = {settings.n:,}, alpha = 0.001 per image; classifier {settings.architecture}, denoiser "
        f"{settings.denoiser}, {settings.denoiser_epochs} epochs each"
        + (f" of {settings.maximum:,} images" if settings.maximum else "")
        + (f"; {settings.precision} throughout." if settings.precision != "fp32" else "."),
        "",
    ]
    return "\n".join(lines)


def draw(settings: Settings, sets: dict[str, CertifiedSet]) -> bytes:
    """Return the picture."""
    import numpy as np

    from certify.report.plots import PALETTE, new_figure, render

    figure = new_figure(7.0, 4.2)
    axes = figure.add_subplot()
    right = 1.03 * max(float(certified.credited.max()) for certified in sets.values()) or 1.0
    x = np.linspace(0.0, right, 1001)
    styles = ("-", "--", ":")
    for number, (method, certified) in enumerate(sets.items()):
        color = PALETTE[number % len(PALETTE)]
        axes.plot(
            x,
            100 * certified_counts(certified, x) / len(certified),
            color=color,
            linestyle=styles[number // len(PALETTE)],
            label=method,
        )
    axes.set_xlim(0.0, right)
    axes.set_ylim(0.0, 100.0)
    axes.set_xlabel("l2 radius r")
    axes.set_ylabel("certified accuracy (%)")
    axes.set_title(f"denoised smoothing, {settings.data}, sigma {settings.sigma:g}", fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=8)
    return render(figure, "png", dpi=110)


def reproduce(settings: Settings, figure: Path | None = None) -> dict[str, CertifiedSet]:
    """Train, certify, write everything; return the certificates by method."""
    plain = train_plain(settings, "plain", settings.architecture, settings.seed)
    surrogates = [
        train_plain(settings, f"surrogate-{number}", architecture, settings.seed + number)
        for number, architecture in enumerate(settings.surrogates, 1)
    ]
    reference = train_reference(settings)
    folders = train_denoisers(settings, plain, surrogates)
    denoisers: dict[str, Any] = {"none": None, "classical": "classical:gaussian", **folders}
    sets = {
        method: certify(settings, method, reference, None)
        if method == "reference"
        else certify(settings, method, plain, None if denoisers[method] is None else str(denoisers[method]))
        for method in METHODS
    }
    text, picture = to_markdown(settings, sets), draw(settings, sets)
    write_atomically(settings.out / "denoising.md", text)
    write_atomically(settings.out / "denoising.png", picture)
    if figure is not None:
        make_folder(figure.parent)
        write_atomically(figure, picture)
    print(text)
    return sets


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; see the module's text."""
    usual = Settings(Path("runs/denoising"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=usual.out, help=f"where to work (default: {usual.out})")
    parser.add_argument("--figure", type=Path, help="write the picture there too")
    parser.add_argument("--data", default=usual.data)
    parser.add_argument("--data-root", type=Path, help="folder of the data sets")
    parser.add_argument("--architecture", default=usual.architecture)
    parser.add_argument("--denoiser", default=usual.denoiser)
    for name in ("epochs", "denoiser_epochs", "images", "n", "maximum", "seed"):
        value = getattr(usual, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=whole(0 if name == "seed" else 1),
            default=value,
            help=f"(default: {value})",
        )
    parser.add_argument("--sigma", type=between(0.0, 1e150), default=usual.sigma, help=f"(default: {usual.sigma})")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default=usual.precision, help="(default: fp32)")
    given = vars(parser.parse_args(arguments))
    figure = given.pop("figure")
    tune_allocator()

    def work() -> None:
        reproduce(Settings(**given), figure)

    return in_one_line(work)


if __name__ == "__main__":
    sys.exit(main())
