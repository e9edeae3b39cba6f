"""Deterministic verification beside randomized smoothing, for differently trained networks of one size, at l2 and l_inf.

    NETS=../shared/models/lp_barrier
    certify train --data mnist --arch mlp --noise gaussian --sigma 0.5 --out models/mlp-noise
    python scripts/compare_guarantees.py --data-root DATA --out runs/guarantees \
        --network noise-trained=models/mlp-noise \
        --network PGD-trained=$NETS/mnist_MLP_2_100_ADV.safetensors \
        --network LPD-trained=$NETS/mnist_MLP_2_100_LPD.safetensors

Of every network f, the same images get two certificates in each norm: the largest radius that a checked relaxation proves
for f, and the radius that votes prove for g, the smoothed f (Gaussian noise; at l_inf by the ball inscribed in the l2
ball). Balls are not clipped: a smoothing certificate holds for all of R^d. The commands are `certify run`, `certify verify
--radius` and `certify compare`; all of them resume, and so does this script. Writes OUT/table.md, OUT/table.json and the
picture.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command_line import between, in_one_line, whole

NORMS = {"l2": 4.0, "linf": 0.4}
"""Norm -> the largest radius that is looked at."""
RADII = {"l2": (0.25, 0.5, 0.75, 1.0, 1.5), "linf": (0.01, 0.02, 0.03, 0.05, 0.1)}


def note(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def call(*words: object) -> None:
    """Run a command of the program; its exit code 1 from `compare` means an attack that contradicts a certificate."""
    line = [sys.executable, "-m", "certify", *map(str, words), "--quiet"]
    done = subprocess.run(line, check=False)
    if done.returncode != 0:
        sys.exit(f"certify {' '.join(map(str, words))} ended with exit code {done.returncode}")


def measure(name: str, model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Certify one network by both means in both norms; return the summaries by norm."""
    folder = arguments.out / name
    data = ["--data", arguments.data, "--stride", arguments.stride, "--device", arguments.device]
    if arguments.data_root is not None:
        data += ["--data-root", arguments.data_root]
    if arguments.max is not None:
        data += ["--max", arguments.max]
    build = [] if Path(model).is_dir() else ["--architecture", arguments.architecture]
    note(f"{name}: smoothing")
    smoothed = {sigma: folder / f"smoothing-{sigma:g}" for sigma in arguments.sigma}
    for sigma, run in smoothed.items():
        noise = ["--noise", "gaussian", "--sigma", sigma, "--n", arguments.n]
        call("run", model, *build, *data, *noise, "--norm", "l2", "--out", run)
    summaries = {}
    for norm, largest in NORMS.items():
        note(f"{name}: verification at {norm}")
        search = ["--norm", norm, "--eps", largest, "--no-clip", "--radius", "--method", arguments.method]
        verified = folder / f"verify-{norm}"
        call("verify", model, *build, *data, *search, "--out", verified)
        compared = folder / f"compare-{norm}"
        attack = ["--data-root", arguments.data_root] if arguments.data_root is not None else []
        call("compare", verified, *smoothed.values(), "--norm", norm, *attack, "--no-attack", "--out", compared)
        summaries[norm] = json.loads((compared / "compare.json").read_text(encoding="utf-8"))
    return summaries


def rows_of(name: str, content: dict[str, Any], norm: str) -> list[dict[str, Any]]:
    """Return one row per side: what is proved at each radius, from the radii of the single inputs."""
    found = []
    for side in content["summary"]["sides"]:
        mine = [row for row in content["rows"] if row["run"] == side["run"]]
        radii = [float(row["radius"]) for row in mine]
        found.append(
            {
                "network": name,
                "norm": norm,
                "kind": "verification" if side["classifier"] == "f" else f"smoothing, sigma {side['sigma']:g}",
                "side": side["name"],
                "sigma": side.get("sigma"),
                "inputs": len(mine),
                "accuracy": side["accuracy"],
                "mean_radius": side["mean_radius"],
                "certified": {str(r): sum(radius >= r for radius in radii) / len(radii) for r in RADII[norm]},
                "radii": radii,
            }
        )
    return found


def table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    lines = [
        f"{rows[0]['inputs']} test images (every {arguments.stride}), balls not clipped; verification: best of "
        f"{arguments.method}, checked; smoothing: Gaussian, n = {arguments.n:,}, alpha = 0.001 "
        "per input, at l_inf by the inscribed ball. Certified accuracy in %.",
        "",
    ]
    for norm, radii in RADII.items():
        lines.append(
            f"| {norm} | certificate | accuracy | mean radius | " + " | ".join(f"r = {r:g}" for r in radii) + " |"
        )
        lines.append("| --- | --- | --- | --- |" + " --- |" * len(radii))
        for row in rows:
            if row["norm"] == norm:
                cells = [f"{100 * row['certified'][str(r)]:.0f}" for r in radii]
                head = [row["network"], row["kind"], f"{100 * row['accuracy']:.0f}", f"{row['mean_radius']:.4f}"]
                lines.append("| " + " | ".join(head + cells) + " |")
        lines.append("")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path, sigmas: list[float]) -> None:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(row["network"] for row in rows))}
    for axes, norm in zip(figure.subplots(1, len(NORMS), sharey=True), NORMS, strict=True):
        mine = [row for row in rows if row["norm"] == norm]
        grid = np.linspace(0, 1.05 * max(max(row["radii"]) for row in mine), 400)
        for row in mine:
            radii = np.array(row["radii"])
            # A radius of 0 is a wrong or undecided input: it is not certified at r = 0 either.
            share = 100 * ((radii[:, None] >= grid) & (radii[:, None] > 0)).mean(0)
            style = "-" if row["kind"] == "verification" else ("--", ":", "-.")[sigmas.index(row["sigma"]) % 3]
            axes.plot(
                grid,
                share,
                style,
                color=colours[row["network"]],
                label=f"{row['network']}, {row['kind']}",
                linewidth=1.4,
            )
        axes.set(xlabel=f"{norm} radius", ylim=(0, 101), xlim=(0, grid[-1]))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("certified accuracy (%)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--network",
        action="append",
        required=True,
        metavar="NAME=MODEL",
        help="checkpoint folder or weights; repeatable",
    )
    parser.add_argument("--architecture", default="mlp", help="of plain weights (default: mlp)")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--sigma", type=between(0.0, 1e150), nargs="+", default=[0.25, 0.5])
    parser.add_argument("--n", type=whole(1), default=100_000)
    parser.add_argument("--stride", type=whole(1), default=100)
    parser.add_argument("--max", type=whole(1))
    parser.add_argument("--method", default="crown,pgd,alpha", help="rungs of certify verify")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/guarantees"))
    parser.add_argument("--figure", type=Path, help="default: OUT/guarantees.png")
    arguments = parser.parse_args(given)
    if wrong := [text for text in arguments.network if "=" not in text]:
        parser.error(f"--network must be NAME=MODEL, got {', '.join(wrong)}")
    return arguments


def main(given: Sequence[str] | None = None) -> int:
    arguments = parse(given)
    return in_one_line(lambda: compare(arguments))


def compare(arguments: argparse.Namespace) -> None:
    """Certify every network by both means; write and print the table."""
    from certify.files import write_atomically

    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for text in arguments.network:
        name, _, model = text.partition("=")
        for norm, content in measure(name, model, arguments).items():
            rows += rows_of(name, content, norm)
    written = table(rows, arguments)
    write_atomically(arguments.out / "table.md", written + "\n")
    write_atomically(arguments.out / "table.json", json.dumps(rows, indent=2) + "\n")
    draw(rows, arguments.figure or arguments.out / "guarantees.png", arguments.sigma)
    print(written)


if __name__ == "__main__":
    sys.exit(main())
