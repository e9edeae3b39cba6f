"""Compare sequential certification with a fixed sample size on real images: votes, wall time, and the curve.

    python scripts/compare_estimators.py MODEL --data mnist --data-root DATA --out DIR [--larger-cap 120000] [--more 1000]

Runs, on the same images and with the same noise law and alpha:

1. `fixed`, n0 = 100 and n = --n votes per image (--inputs images, evenly spread over the test set),
2. `sequential`, label-directed, cap --n, on the same images,
3. `sequential` with --larger-cap votes at most, on the same images (0: left out),
4. `sequential` alone on --more images (0: left out).

The first two alternate image set by image set (`--parts`), so that both see the same machine. Certified accuracy at the
radii of the grid is compared input by input: the loss is what fixed certifies and sequential does not. Prints the table as
Markdown, writes it with all numbers as JSON into DIR, and draws the picture (default scripts/figures/sequential.png). Run it
again with the same arguments to resume; wall times then come from the journals, each image's own.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command_line import in_one_line, picture, whole


def run(name: str, indices: list[int], arguments: argparse.Namespace, out: Path, cap: int | None = None) -> list[Any]:
    """Certify some images with one estimator into one folder; return the rows of these images."""
    from certify.errors import UsageError
    from certify.estimators import EstimatorOptions
    from certify.progress import watch
    from certify.runner import execute
    from certify.setup import RunOptions, prepare

    estimator = EstimatorOptions(name) if name == "fixed" else EstimatorOptions(name, cap=str(cap or arguments.n))
    options = RunOptions(
        model=arguments.model,
        data=arguments.data,
        data_root=None if arguments.data_root is None else Path(arguments.data_root),
        noise=None if arguments.sigma is None else "gaussian",
        parameters=() if arguments.sigma is None else (("sigma", arguments.sigma),),
        n=arguments.n,
        estimator=estimator,
        noise_version=arguments.noise_version,
        device=arguments.device,
        precision=arguments.precision,
        indices=",".join(map(str, indices)),
        out=out,
        command=("scripts/compare_estimators.py", name),
    )
    try:
        plan = prepare(options, {}).plan
    except UsageError as error:
        if arguments.sigma is None and "--noise" in str(error):
            # The noise is always Gaussian here: there is no --noise to give.
            raise UsageError(
                f"{arguments.model} does not say which noise it was trained with: give --sigma, the standard deviation of "
                "the Gaussian noise"
            ) from None
        raise
    with watch(len(indices), plan.votes_per_input, decides=plan.grid is not None) as observer:
        rows = execute(
            plan,
            on_votes=observer.on_votes,
            on_row=observer.on_row,
            on_curve=observer.on_curve if plan.grid is not None else None,
        )
    wanted = set(indices)
    return [row for row in rows if row.index in wanted]


def curve(rows: list[Any], radii: list[float]) -> list[float]:
    """Return certified accuracy at each radius."""
    return [sum(row.correct and row.radius >= r for row in rows) / len(rows) for r in radii]


def figures(rows: list[Any]) -> dict[str, float]:
    """Return votes and seconds of a run."""
    votes = sorted(row.certificate.votes for row in rows)
    return {
        "inputs": len(rows),
        "votes": sum(votes),
        "mean_votes": sum(votes) / len(votes),
        "median_votes": votes[len(votes) // 2],
        "seconds": sum(row.seconds for row in rows),
    }


def against_fixed(fixed: list[Any], sequential: list[Any], radii: list[float]) -> dict[str, Any]:
    """Return what `sequential` loses and saves against `fixed` on the same images."""
    kept = {row.index: row.radius for row in sequential if row.correct}
    won = {row.index: row.radius for row in fixed if row.correct}
    losses = []
    for r in radii:
        ours, theirs = ({index for index, radius in rows.items() if radius >= r} for rows in (kept, won))
        losses.append(
            {
                "radius": r,
                "points": 100 * (len(theirs) - len(ours)) / len(fixed),
                "inputs_lost": len(theirs - ours),
                "inputs_gained": len(ours - theirs),
            }
        )
    few, many = figures(sequential), figures(fixed)
    return {
        "loss": losses,
        "votes_ratio": many["mean_votes"] / few["mean_votes"],
        "time_ratio": many["seconds"] / few["seconds"],
    }


def spread(total: int, count: int) -> list[int]:
    """Return `count` indices, evenly spread over 0..total - 1."""
    return [(2 * k + 1) * total // (2 * count) for k in range(min(count, total))]


def draw(results: dict[str, Any], fixed: list[Any], alone: list[Any], path: Path) -> None:
    """Draw the curves, and how many votes each image took."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    radii = sorted({row.radius for row in fixed if row.correct})
    left.step(
        [0.0, *radii],
        [100 * v for v in (*curve(fixed, radii), 0.0)] if radii else [0.0],
        where="post",
        color="#0072B2",
        label=f"fixed, {results['fixed']['mean_votes']:,.0f} votes per image",
    )
    left.plot(
        results["radii"],
        [100 * v for v in results["sequential"]["curve"]],
        "o",
        color="#D55E00",
        label=f"sequential, same {len(fixed)} images, {results['sequential']['mean_votes']:,.0f} votes",
    )
    if "alone" in results:
        left.plot(
            results["radii"],
            [100 * v for v in results["alone"]["curve"]],
            "x",
            color="#009E73",
            label=f"sequential, {len(alone)} images, {results['alone']['mean_votes']:,.0f} votes",
        )
    left.set_xlabel("l2 radius r (pixels in [0, 1])")
    left.set_ylabel("certified accuracy (%)")
    left.set_ylim(0, 100)
    left.legend(frameon=False, fontsize=8.5, loc="lower left")
    left.grid(color="#DDDDDD", linewidth=0.6)
    votes = sorted(row.certificate.votes for row in alone)
    right.plot([100 * (k + 1) / len(votes) for k in range(len(votes))], votes, color="#D55E00", label="sequential")
    right.axhline(results["fixed"]["mean_votes"], color="#0072B2", label="fixed")
    right.set_yscale("log")
    right.set_xlabel("images (%), by votes")
    right.set_ylabel("votes")
    right.legend(frameon=False, fontsize=8.5)
    right.grid(color="#DDDDDD", linewidth=0.6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments and compare. What cannot be done ends in one line: exit code 2 for wrong usage, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-root")
    parser.add_argument("--sigma", type=float, help="default: the noise that the model was trained with")
    parser.add_argument(
        "--n", type=whole(1), default=100_000, help="votes per image, and the cap of sequential (100000)"
    )
    parser.add_argument("--inputs", type=whole(1), default=100, help="images that both certify (100)")
    parser.add_argument("--larger-cap", type=whole(0), default=0, help="0: left out (0)")
    parser.add_argument("--more", type=whole(0), default=1_000, help="images for sequential alone; 0: left out (1000)")
    parser.add_argument("--parts", type=whole(1), default=4, help="how often the two take turns (4)")
    parser.add_argument("--noise-version", default="auto")
    parser.add_argument("--device")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the certified classifier"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=picture, default=Path(__file__).parent / "figures" / "sequential.png")
    options = parser.parse_args(arguments)
    return in_one_line(lambda: measure(options))


def measure(arguments: argparse.Namespace) -> None:
    """Run, compare, print."""
    from certify.allocator import tune_allocator
    from certify.datasets import load_dataset

    tune_allocator()
    root = None if arguments.data_root is None else Path(arguments.data_root)
    total = len(load_dataset(arguments.data, root=root, split="test"))
    chosen = spread(total, arguments.inputs)
    rows: dict[str, list[Any]] = {"fixed": [], "sequential": []}
    parts = min(arguments.parts, len(chosen))  # a part without images is none
    for part in range(parts):
        for name in rows:
            rows[name] += run(name, chosen[part::parts], arguments, arguments.out / name)
    larger = arguments.larger_cap
    capped = run("sequential", chosen, arguments, arguments.out / f"cap-{larger}", larger) if larger else []
    more = spread(total, arguments.more)
    alone = run("sequential", more, arguments, arguments.out / "alone") if more else []

    radii = [decision.radius for decision in rows["sequential"][0].certificate.decisions]
    results: dict[str, Any] = {"radii": radii}
    shown = {**rows, **({"capped": capped} if capped else {}), **({"alone": alone} if alone else {})}
    for name, found in shown.items():
        results[name] = {**figures(found), "curve": curve(found, radii)}
    for name in ("sequential", "capped"):
        if name in results:
            results[name] |= against_fixed(rows["fixed"], shown[name], radii)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "comparison.json").write_text(json.dumps(results, indent=2) + "\n")

    print(f"| | images | votes per image | median | wall time | {' | '.join(f'r={r:g}' for r in radii)} |")
    print(f"| --- | ---: | ---: | ---: | ---: |{' ---: |' * len(radii)}")
    for name in shown:
        f = results[name]
        cells = " | ".join(f"{100 * v:.1f}" for v in f["curve"])
        title = {"alone": "sequential alone", "capped": f"sequential, cap {larger:,}"}.get(name, name)
        print(
            f"| {title} | {f['inputs']} | {f['mean_votes']:,.0f} | {f['median_votes']:,.0f} | {f['seconds']:,.1f} s | "
            f"{cells} |"
        )
    print()
    for name, title in (("sequential", "sequential"), ("capped", f"with a cap of {larger:,}")):
        if name in results:
            f = results[name]
            worst = max(f["loss"], key=lambda entry: entry["points"])
            mean = sum(entry["points"] for entry in f["loss"]) / len(radii)
            print(
                f"On the same {len(chosen)} images, {title}: {f['votes_ratio']:.1f} times fewer votes, "
                f"{f['time_ratio']:.1f} times faster; mean loss {mean:.2f} points, largest {worst['points']:.2f} at "
                f"r = {worst['radius']:g}."
            )
    draw(results, rows["fixed"], alone or rows["sequential"], arguments.figure)
    print(f"picture: {arguments.figure}; numbers: {arguments.out / 'comparison.json'}")


if __name__ == "__main__":
    sys.exit(main())
