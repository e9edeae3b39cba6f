"""Speed and tightness of deterministic verification, as ratios within one run.

    python scripts/benchmark_verify.py lp --models ../shared/models/lp_barrier     # LP-ALL: fast path, and cvxpy + HiGHS
    python scripts/benchmark_verify.py batch --models ...                          # CROWN on 64 inputs: batched, one by one
    python scripts/benchmark_verify.py rungs --models ...                          # time and bounds of every rung

All times are CPU seconds of one thread (on a GPU, wall seconds after a synchronisation). The comparison of `lp` is the same
set of linear programs, each built anew as a cvxpy problem and solved by HiGHS, as the paper's notebooks do.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from barrier_networks import load_network, mnist_test

from smoothing.errors import SmoothingError
from verify.alpha_crown import AlphaCrown
from verify.attack import Attack
from verify.ball import Ball
from verify.crown import Crown
from verify.crown_ibp import CrownIBP
from verify.interval import Interval
from verify.lp import LPAll, LPLast
from verify.lp.reference import lp_all_reference
from verify.method import Method
from verify.milp import MILP
from verify.problem import Problem
from verify.result import Guarantee, Result, Status
from verify.same_slope import SameSlope
from verify.tracing import trace

T = TypeVar("T")
CLIP = (0.0, 1.0)


def clock(work: Callable[[], T], device: str = "cpu") -> tuple[float, T]:
    if device == "cpu":
        began = time.process_time()
        result = work()
        return time.process_time() - began, result
    torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return time.perf_counter() - began, result


def compare_lp(models: Path, count: int) -> None:
    """LP-ALL per image: the fast path against cvxpy rebuilding the same programs."""
    graph = trace(load_network(models / "mnist_MLP_2_100_ADV.safetensors"), (1, 28, 28))
    images = torch.from_numpy(np.load(models / "ten_test_images.npy"))
    print("LP-ALL, mnist_MLP_2_100_ADV, eps 0.1, CPU seconds per image")
    print("| ball | image | programs | fast path | cvxpy + HiGHS | ratio | largest difference of a margin |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for clip in (CLIP, None):
        ratios = []
        for i in range(count):
            problem = Problem.margins(graph, images[i : i + 1], Ball("linf", 0.1, clip=clip))
            base = Crown().bound(problem, SameSlope().bound(problem))
            fast, found = clock(lambda p=problem, b=base: LPAll().bound(p, b))
            boxes = {k: (box.lower[0].ravel(), box.upper[0].ravel()) for k, box in base.boxes.items()}
            rows = problem.specification.matrix[0]
            slow, (_, margins) = clock(
                lambda p=problem, r=rows, b=boxes: lp_all_reference(p.graph, p.region, r, solver="HIGHS", start=b)
            )
            undecided = sum(int(((boxes[k][0] < 0) & (boxes[k][1] > 0)).sum()) for k in graph.preactivations[1:])
            programs = 2 * undecided + len(rows)
            ratios.append(slow / fast)
            difference = np.abs(found.lower[0] - margins).max()
            name = "clipped" if clip else "not clipped"
            print(
                f"| {name} | {i} | {programs} | {fast:.3f} | {slow:.2f} | {slow / fast:.0f} | {difference:.1e} |",
                flush=True,
            )
        print(f"{'clipped' if clip else 'not clipped'}: median ratio {np.median(ratios):.0f}\n", flush=True)


def compare_batches(models: Path, root: Path, device: str) -> None:
    """CROWN on 64 inputs at once against one by one."""
    images, labels = mnist_test(root)
    print(f"CROWN on 64 MNIST inputs, eps 0.1, clipped, float64, on {device}")
    print("| network | batched s | one by one s | ratio |\n| --- | --- | --- | --- |")
    for name in ("mnist_MLP_2_100_ADV", "mnist_cnn_small_ADV"):
        network = load_network(models / f"{name}.safetensors")
        graph = trace(network, (1, 28, 28))
        problem = Problem.margins(graph, images[:64], Ball("linf", 0.1, clip=CLIP), labels[:64], device=device)
        Crown().bound(problem[:1])
        whole, _ = clock(lambda p=problem: Crown().bound(p), device)
        single, _ = clock(lambda p=problem: [Crown().bound(p[i : i + 1]) for i in range(64)], device)
        print(f"| {name} | {whole:.2f} | {single:.2f} | {single / whole:.1f} |", flush=True)


def rungs(models: Path, names: list[str], count: int, device: str, milp_seconds: float) -> None:
    """Every rung on the first ten images of the benchmark: seconds per image, mean worst margin, verdicts."""
    images = torch.from_numpy(np.load(models / "ten_test_images.npy"))[:count]
    ladder: tuple[Method, ...] = (
        Interval(),
        CrownIBP(),
        SameSlope(),
        Crown(),
        AlphaCrown(steps=20, box_steps=20),
        LPLast(),
        LPAll(),
        MILP(time_limit=milp_seconds, until_sign=True),
        Attack(restarts=3),
    )
    for name in names:
        graph = trace(load_network(models / f"{name}.safetensors"), tuple(images.shape[1:]))
        eps = 0.02 if name.endswith("NOR") else 0.1
        problem = Problem.margins(graph, images, Ball("linf", eps, clip=CLIP), device=device)
        print(f"\n{name}, eps {eps}, clipped, predicted label, {count} images, float64, on {device}")
        print("| rung | seconds per image (earlier rungs not counted) | mean worst margin | verified | falsified |")
        print("| --- | --- | --- | --- | --- |")
        previous: Result | None = None
        for method in ladder:
            try:
                seconds, result = clock(lambda m=method, p=previous, q=problem: m.bound(q, p), device)
            except SmoothingError as error:
                print(f"| {method.name} | refused: {error} | | | |")
                continue
            attack = result.guarantee is Guarantee.ATTACK
            rows = result.upper if attack else result.lower
            assert rows is not None
            worst = rows.min(axis=1) if attack else problem.specification.worst(rows)
            margin = "" if isinstance(method, MILP) else f"{worst.mean():.3f}"
            counts = [result.status.count(status) for status in (Status.VERIFIED, Status.FALSIFIED)]
            print(f"| {method.name} | {seconds / count:.3f} | {margin} | {counts[0]} | {counts[1]} |", flush=True)
            if result.guarantee is Guarantee.CHECKABLE:
                previous = result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("lp", "batch", "rungs"))
    parser.add_argument("--models", type=Path, required=True, help="folder of the lp_barrier networks and images")
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument(
        "--networks", nargs="+", default=["mnist_MLP_2_100_ADV", "mnist_MLP_2_100_LPD", "mnist_MLP_2_100_NOR"]
    )
    parser.add_argument("--count", type=int, default=5, help="images")
    parser.add_argument("--milp-seconds", type=float, default=20.0, help="time limit per image")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "lp":
        compare_lp(arguments.models, arguments.count)
    elif arguments.what == "batch":
        compare_batches(arguments.models, arguments.data_root, arguments.device)
    else:
        rungs(arguments.models, arguments.networks, arguments.count, arguments.device, arguments.milp_seconds)


if __name__ == "__main__":
    main()
