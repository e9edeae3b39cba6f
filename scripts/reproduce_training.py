"""Train every method by its recipe, certify, and set the results beside the published ones and our own Gaussian row.

    python scripts/reproduce_training.py --table mnist --sigma 0.5 --fast --data-root data --out runs/mnist-0.5-fast
    python scripts/reproduce_training.py --table mnist --sigma 0.5 --methods gaussian,consistency --stride 1 --n 100000

Everything is resumable: repeat the same line. OUT/models/RECIPE holds the checkpoints, OUT/runs/RECIPE the certificates;
a method that is there already is not trained or certified again, so that several processes may work on different --methods
with the same --out, and a last call with all methods writes the whole table (OUT/table.md, OUT/table.json, OUT/curves.png).
CAT-RS needs the Gaussian network at sigma 0.25 as its teacher, which is trained first, by the recipe of the same kind.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import in_one_line, whole
from published_training import ACCURACY, ACR, STEP

METHODS = (
    "gaussian", "stability", "macer", "consistency", "smoothadv", "smoothadv-consistency", "smoothmix", "cat-rs",
)  # fmt: skip
TEACHER_SIGMA = 0.25


@dataclass(frozen=True)
class Row:
    """One method: how it was trained and what was certified."""

    method: str
    recipe: str
    epochs: int
    passes: int
    seconds: float
    device: str
    precision: str
    objective: dict[str, Any]
    index: np.ndarray
    credited: np.ndarray
    correct: np.ndarray
    radius: np.ndarray
    abstained: float
    complete: bool

    @property
    def acr(self) -> float:
        return float(self.credited.mean())

    def accuracy(self, radius: float) -> float:
        return float((self.correct & (self.radius >= radius)).mean())


def note(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def recipe_name(table: str, method: str, sigma: float, fast: bool) -> str:
    return f"{table}-{method}-{sigma:g}{'-fast' if fast else ''}"


def train(name: str, arguments: argparse.Namespace, teacher: Path | None) -> Path:
    """Train by a recipe, or go on with an interrupted training, or find that it is done; return the checkpoint folder."""
    from certify.training import TrainOptions, prepare_training, train_checkpoint
    from certify.training.progress import epoch_figures
    from certify.training.recipe import find_recipe

    folder: Path = arguments.out / "models" / name
    if (folder / "model.json").exists():
        return folder
    options = TrainOptions(
        **find_recipe(name).values(),
        out=folder,
        data_root=arguments.data_root,
        seed=arguments.seed,
        device=arguments.device,
        teacher=None if teacher is None else str(teacher),
        command=tuple(sys.argv),
    )
    if arguments.arch is not None:
        options = replace(options, architecture=arguments.arch)
    if arguments.epochs is not None:
        options = replace(options, epochs=arguments.epochs)
    if arguments.precision is not None:
        options = replace(options, precision=arguments.precision)
    plan = prepare_training(options)
    note(f"training {name}: {plan.config.epochs} epochs, {plan.objective.passes} passes a step, on {plan.device}")
    train_checkpoint(
        plan,
        on_epoch=lambda record: note(f"{name} epoch {record.epoch}/{plan.config.epochs}: {epoch_figures(record)}"),
        on_teacher=lambda done, total: note(f"{name} teacher {done}/{total}") if done % 20 == 0 else None,
    )
    return folder


def certify(name: str, model: Path, arguments: argparse.Namespace) -> Path:
    """Certify a checkpoint, or go on with an interrupted run; return the run folder."""
    from certify.runner import execute
    from certify.setup import RunOptions, prepare

    precision = arguments.certify_precision
    suffix = "" if precision == "fp32" else f"-{precision}"
    folder: Path = arguments.out / "runs" / f"{name}-n{arguments.n}-every{arguments.stride}{suffix}"
    options = RunOptions(
        model=str(model),
        data=arguments.table,
        data_root=arguments.data_root,
        n=arguments.n,
        stride=arguments.stride,
        maximum=arguments.max,
        device=arguments.device,
        precision=precision,
        out=folder,
        command=tuple(sys.argv),
    )
    started = last = time.monotonic()
    done = 0

    def on_row(_row: Any) -> None:
        nonlocal done, last
        done += 1
        if time.monotonic() - last > 30:
            last = time.monotonic()
            note(f"{name} certified {done} inputs in {last - started:.0f} s")

    note(f"certifying {name}: n = {arguments.n}")
    execute(prepare(options, {}).plan, on_row=on_row)
    return folder


def read(method: str, name: str, model: Path, run_folder: Path) -> Row:
    from certify.models import load_checkpoint
    from certify.rundir import read_run

    training = load_checkpoint(model)[1].training
    run = read_run(run_folder)
    rows = sorted(run.rows, key=lambda row: row.index)
    correct = np.array([bool(row.correct) for row in rows])
    radius = np.array([row.radius for row in rows])
    return Row(
        method,
        name,
        training["epochs"],
        training["passes"] // max(training["examples"], 1),
        training["seconds"],
        training["device"],
        training["precision"],
        training["objective"],
        np.array([row.index for row in rows]),
        np.where(correct, radius, 0.0),
        correct,
        radius,
        float(np.mean([row.predict < 0 for row in rows])),
        run.complete,
    )


def paired(row: Row, base: Row) -> tuple[float, float]:
    """Return the mean difference of the credited radii on the common images, and its standard error."""
    _, here, there = np.intersect1d(row.index, base.index, return_indices=True)
    difference = row.credited[here] - base.credited[there]
    return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))


def verdict(row: Row, base: Row, published: dict[str, float]) -> str:
    """Say what the paired test supports, and whether half of the published difference is there."""
    difference, error = paired(row, base)
    if error == 0:
        return "the same certificates"
    clear = abs(difference) > 3 * error
    side = ("above" if difference > 0 else "below") if clear else "not told apart from"
    text = f"{side} Gaussian ({difference / error:+.1f} s.e.)"
    if row.method in published and "gaussian" in published:
        expected = published[row.method] - published["gaussian"]
        text += f"; {100 * difference / expected:.0f} % of the published difference {expected:+.3f}"
    return text


def table(rows: list[Row], arguments: argparse.Namespace) -> str:
    key = (arguments.table, arguments.sigma, arguments.n, 1 if arguments.max else arguments.stride)
    published = {} if arguments.max else ACR.get(key, {})
    accuracies = {} if arguments.max else ACCURACY.get(key, {})
    largest = max((float(row.radius.max()) for row in rows), default=0.0)
    radii = [STEP * i for i in range(int(largest / STEP) + 1)][:12]
    threads = torch.get_num_threads()
    lines = [
        f"# {arguments.table}, sigma {arguments.sigma:g}, {'fast' if arguments.fast else 'published'} recipes",
        "",
        f"{len(rows[0].index)} test images (every {arguments.stride}), n = {arguments.n:,}, n0 = 100, alpha = 0.001, seed "
        f"{arguments.seed}, certified in {arguments.certify_precision}; {platform.machine()}, {threads} thread(s), "
        f"torch {torch.__version__}. Differences are of the "
        "mean radius (0 where wrong or abstained), paired on the same images; they say nothing about training again.",
        "",
        "| method | recipe | epochs | passes / image | device | training s | ACR | published | difference | "
        "minus our Gaussian (s.e.) | paired test |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    base = next((row for row in rows if row.method == "gaussian"), None)
    for row in rows:
        theirs = published.get(row.method)
        cells = [
            row.method + ("" if row.complete else " (partial)"),
            row.recipe,
            row.epochs,
            row.passes,
            f"{row.device}, {row.precision}",
            f"{row.seconds:.0f}",
            f"{row.acr:.4f}",
            "–" if theirs is None else f"{theirs:.4f}",
            "–" if theirs is None else f"{row.acr - theirs:+.4f}",
        ]
        if base is None or row is base:
            cells += ["–", "–"]
        else:
            difference, error = paired(row, base)
            cells += [f"{difference:+.4f} ({error:.4f})", verdict(row, base, published)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    if not published:
        lines += ["", f"No published value at n = {arguments.n:,} on these images: none is compared."]
    lines += [
        "",
        "Certified accuracy (%), ours; published in brackets where there is one on these images at this n:",
        "",
    ]
    lines.append("| method | " + " | ".join(f"{radius:g}" for radius in radii) + " | abstained |")
    lines.append("| --- |" + " --- |" * (len(radii) + 1))
    for row in rows:
        there = accuracies.get(row.method, ())
        cells = [
            f"{100 * row.accuracy(radius):.1f}" + (f" ({there[i]:.1f})" if i < len(there) else "")
            for i, radius in enumerate(radii)
        ]
        lines.append(f"| {row.method} | " + " | ".join(cells) + f" | {100 * row.abstained:.1f} |")
    return "\n".join(lines) + "\n"


def draw(rows: list[Row], path: Path, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    grid = np.linspace(0, max(float(row.radius.max()) for row in rows) * 1.02, 300)
    for row in rows:
        axes.plot(grid, [100 * row.accuracy(r) for r in grid], label=f"{row.method} (ACR {row.acr:.3f})", linewidth=1.3)
    axes.set(xlabel="l2 radius", ylabel="certified accuracy (%)", title=title, ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=140)


def write(rows: list[Row], arguments: argparse.Namespace) -> str:
    from certify.files import write_atomically

    text = table(rows, arguments)
    write_atomically(arguments.out / "table.md", text)
    content = [
        {
            "method": row.method,
            "recipe": row.recipe,
            "objective": row.objective,
            "epochs": row.epochs,
            "passes_per_image": row.passes,
            "seconds": row.seconds,
            "device": row.device,
            "precision": row.precision,
            "images": len(row.index),
            "n": arguments.n,
            "acr": row.acr,
        }
        for row in rows
    ]
    write_atomically(arguments.out / "table.json", json.dumps(content, indent=2) + "\n")
    draw(rows, arguments.out / "curves.png", f"{arguments.table}, sigma {arguments.sigma:g}, n = {arguments.n:,}")
    return text


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=("mnist", "fashion_mnist", "cifar10"), default="mnist")
    parser.add_argument("--sigma", type=float, choices=(0.25, 0.5, 1.0), default=0.5)
    parser.add_argument("--methods", help=f"default: all with a recipe of {', '.join(METHODS)}")
    parser.add_argument("--fast", action="store_true", help="our fast recipes instead of the published ones")
    parser.add_argument("--n", type=whole(1), default=10_000, help="votes per image")
    parser.add_argument(
        "--stride", type=whole(1), default=20, help="certify every k-th test image, in the official order"
    )
    parser.add_argument(
        "--max", type=whole(1), help="certify at most this many (for trying out; no published values then)"
    )
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--epochs", type=whole(1), help="override (for trying out)")
    parser.add_argument("--arch", help="override, for instance resnet20")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="override, training only")
    parser.add_argument(
        "--certify-precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="arithmetic of the certified classifier: bf16 is up to three times as fast on processors that have it, and "
        "certifies the bf16 classifier",
    )
    parser.add_argument("--device")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, help="default: runs/training-TABLE-SIGMA[-fast]")
    arguments = parser.parse_args(given)
    if arguments.out is None:
        suffix = "-fast" if arguments.fast else ""
        arguments.out = Path("runs") / f"training-{arguments.table}-{arguments.sigma:g}{suffix}"
    return arguments


def main(given: Sequence[str] | None = None) -> int:
    arguments = parse(given)
    return in_one_line(lambda: reproduce(arguments))


def reproduce(arguments: argparse.Namespace) -> None:
    """Train and certify every method; write and print the table."""
    from certify.allocator import tune_allocator
    from certify.errors import UsageError
    from certify.training.recipe import recipes

    tune_allocator()
    known = {m: recipe_name(arguments.table, m, arguments.sigma, arguments.fast) for m in METHODS}
    known = {method: name for method, name in known.items() if name in recipes()}
    wanted = list(known) if arguments.methods is None else arguments.methods.split(",")
    if unknown := [method for method in wanted if method not in known]:
        raise UsageError(f"no recipe for {', '.join(unknown)} in this table; there are {', '.join(known)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for method in wanted:
        name = known[method]
        teacher = None
        if method == "cat-rs":
            teacher = train(recipe_name(arguments.table, "gaussian", TEACHER_SIGMA, arguments.fast), arguments, None)
        model = train(name, arguments, teacher)
        rows.append(read(method, name, model, certify(name, model, arguments)))
        text = write(rows, arguments)  # after every method: what is done is shown
    print(text)


if __name__ == "__main__":
    sys.exit(main())
