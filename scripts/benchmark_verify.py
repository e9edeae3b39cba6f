"""Speed and tightness of deterministic verification, as ratios within one run.

    python scripts/benchmark_verify.py lp --models ../shared/models/lp_barrier     # LP-ALL: fast path, and cvxpy + HiGHS
    python scripts/benchmark_verify.py batch --models ...                          # CROWN on 64 inputs: batched, one by one
    python scripts/benchmark_verify.py rungs --models ...                          # time and bounds of every rung
    python scripts/benchmark_verify.py all --models ...                            # the three: under 20 minutes of a core

All times are CPU seconds of one thread (on a GPU, wall seconds after a synchronisation). The comparison of `lp` is the
same set of linear programs, each built anew as a cvxpy problem and solved by HiGHS, as the paper's notebooks do. A rung of
`rungs` gets `--seconds` for each image; one that needs more is stopped, and the table says so and what it had.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TypeVar

import numpy as np
import torch
from barrier_networks import load_network, mnist_test
from command_line import between, in_one_line, whole
from torch import Tensor, nn

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
LP_NETWORK = "mnist_MLP_2_100_ADV"

RADII = {
    "mnist_MLP_2_100_NOR": 0.0255,
    "mnist_MLP_2_100_ADV": 0.105,
    "mnist_MLP_2_100_LPD": 0.0915,
    "mnist_MLP_9_100_NOR": 0.0185,
    "mnist_MLP_9_100_ADV": 0.0545,
    "mnist_MLP_9_100_LPD": 0.0845,
    "mnist_cnn_small_NOR": 0.031,
    "mnist_cnn_small_ADV": 0.107,
    "mnist_cnn_small_LPD": 0.18,
    "cifar_cnn_small_NOR": 0.0021,
    "cifar_cnn_small_ADV": 0.0073,
    "cifar_cnn_small_LPD": 0.0055,
}
"""A radius per network at which the rungs differ: 2 to 4 % above what CROWN certifies of one of the first images."""

CIFAR_STATISTICS = {
    "NOR": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "LPD": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "ADV": ((0.485, 0.456, 0.406), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation that the networks' description infers; part of the network here: eps is in pixels."""


class OutOfTimeError(BaseException):
    """The seconds of a rung are spent. No `Exception`: nothing on its way may take it for a failure of its own."""


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


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError once this process has used so many CPU seconds; a call into a library ends first."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class Normalised(nn.Module):
    """(x - mean) / deviation, channel by channel."""

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


def network_and_images(models: Path, root: Path, name: str, count: int) -> tuple[nn.Module, Tensor]:
    """Return a network whose inputs are pixels in [0, 1], and the first images of its data."""
    network = load_network(models / f"{name}.safetensors")
    if name.startswith("mnist"):
        return network, torch.from_numpy(np.load(models / "ten_test_images.npy"))[:count]
    with np.load(root / "cifar10_lossless" / "test.npz") as file:
        pixels = file["images"][:count].transpose(0, 3, 1, 2).astype(np.float32) / 255
    return nn.Sequential(Normalised(*CIFAR_STATISTICS[name[-3:]]), network).eval(), torch.from_numpy(pixels)


def compare_lp(models: Path, count: int) -> None:
    """LP-ALL per image: the fast path against cvxpy rebuilding the same programs."""
    graph = trace(load_network(models / f"{LP_NETWORK}.safetensors"), (1, 28, 28))
    images = torch.from_numpy(np.load(models / "ten_test_images.npy"))
    print(f"LP-ALL, {LP_NETWORK}, eps 0.1, CPU seconds per image\n")
    print("| ball | image | programs | fast path | cvxpy + HiGHS | ratio | largest difference of a margin |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    summary = []
    for clip in (CLIP, None):
        ratios = []
        for i in range(count):
            problem = Problem.margins(graph, images[i : i + 1], Ball("linf", 0.1, clip=clip))
            base = Crown().bound(problem, SameSlope().bound(problem))
            if i == 0:
                LPAll().bound(problem, base)  # imports, once
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
        summary.append(f"{'clipped' if clip else 'not clipped'}: median ratio {np.median(ratios):.0f}")
    print("\n" + "\n".join(summary) + "\n", flush=True)


def compare_batches(models: Path, root: Path, device: str) -> None:
    """CROWN on 64 inputs at once against one by one."""
    images, labels = mnist_test(root)
    print(f"CROWN on 64 MNIST inputs, eps 0.1, clipped, float64, on {device}\n")
    print("| network | batched s | one by one s | ratio |\n| --- | --- | --- | --- |")
    for name in ("mnist_MLP_2_100_ADV", "mnist_cnn_small_ADV"):
        network = load_network(models / f"{name}.safetensors")
        graph = trace(network, (1, 28, 28))
        problem = Problem.margins(graph, images[:64], Ball("linf", 0.1, clip=CLIP), labels[:64], device=device)
        Crown().bound(problem[:1])
        whole, _ = clock(lambda p=problem: Crown().bound(p), device)
        single, _ = clock(lambda p=problem: [Crown().bound(p[i : i + 1]) for i in range(64)], device)
        print(f"| {name} | {whole:.2f} | {single:.2f} | {single / whole:.1f} |", flush=True)
    print()


@dataclass
class Line:
    """What one rung did on the images of one network."""

    rung: str
    seconds: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def show(self, count: int) -> str:
        spent = f"{np.mean(self.seconds):.3f}" if self.seconds else ""
        worst = ", ".join(f"{value:.3f}" for value in self.worst)
        verified, falsified = (self.statuses.count(s) for s in (Status.VERIFIED, Status.FALSIFIED))
        done = f"{len(self.statuses)} of {count}" + "".join(f"; {text}" for text in dict.fromkeys(self.said))
        return f"| {self.rung} | {spent} | {worst} | {verified} | {falsified} | {done} |"


def rungs(models: Path, root: Path, names: list[str], counts: dict[str, int], device: str, limit: float) -> None:
    """Every rung on the first images of each network: seconds per image, worst margins, verdicts."""
    for name in names:
        count = next(number for part, number in counts.items() if part in name)
        network, images = network_and_images(models, root, name, count)
        problem = Problem.margins(
            trace(network, tuple(images.shape[1:])), images, Ball("linf", RADII[name], clip=CLIP), device=device
        )
        print(f"{name}, eps {RADII[name]}, clipped, predicted label, first {count} images, float64, on {device}\n")
        print("| rung | seconds per image | worst margin of each image | verified | falsified | finished |")
        print("| --- | --- | --- | --- | --- | --- |")
        previous: list[Result | None] = [None] * count
        for method in _ladder(limit):
            line = Line(method.name)
            for i in range(count):
                if not _one(line, method, problem[i : i + 1], previous, i, device, limit):
                    break
            print(line.show(count), flush=True)
        print(flush=True)


def _ladder(limit: float) -> tuple[Method, ...]:
    return (
        Interval(),
        CrownIBP(),
        SameSlope(),
        Crown(),
        AlphaCrown(steps=20, box_steps=20),
        LPLast(),
        LPAll(),
        MILP(time_limit=limit, until_sign=True),
        Attack(restarts=3),
    )


def _one(
    line: Line, method: Method, problem: Problem, previous: list[Result | None], i: int, device: str, limit: float
) -> bool:
    """Run one rung on one image; False if the network is none for it."""
    began = time.process_time()
    try:
        # A mixed-integer program has its own limit, of wall time, inside one call that nothing interrupts.
        with at_most(3 * limit if isinstance(method, MILP) else limit):
            seconds, result = clock(lambda: method.bound(problem, previous[i]), device)
    except OutOfTimeError:
        line.said.append(f"stopped after {time.process_time() - began:.0f} s")
        return True
    except (SmoothingError, MemoryError) as error:
        line.said.append(f"refused: {error}")
        return False
    line.seconds.append(seconds)
    line.statuses.append(result.status[0])
    attack = result.guarantee is Guarantee.ATTACK
    rows = result.upper if attack else result.lower
    assert rows is not None
    worst = rows.min(axis=1) if attack else problem.specification.worst(rows)
    if not isinstance(method, MILP):  # which stops at the first sign that it knows
        line.worst.append(float(worst[0]))
    if result.status[0] is Status.TIMEOUT:
        line.said.append("out of time")
    if result.guarantee is Guarantee.CHECKABLE:
        previous[i] = result
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("lp", "batch", "rungs", "all"))
    parser.add_argument("--models", type=Path, required=True, help="folder of the lp_barrier networks and images")
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--networks", nargs="+", default=list(RADII), choices=list(RADII), metavar="NAME")
    parser.add_argument(
        "--count", type=whole(1), help="images of each (default: lp 3; rungs 3, of the larger networks 2)"
    )
    parser.add_argument(
        "--seconds", type=between(0.0, 1e9), default=15.0, help="rungs: CPU seconds of a rung for each image"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    return in_one_line(lambda: measure(arguments))


def measure(arguments: argparse.Namespace) -> None:
    """Print the tables that were asked for."""
    torch.set_num_threads(1)
    began = time.process_time()
    if arguments.what in ("lp", "all"):
        compare_lp(arguments.models, arguments.count or 3)
    if arguments.what in ("batch", "all"):
        compare_batches(arguments.models, arguments.data_root, arguments.device)
    if arguments.what in ("rungs", "all"):
        counts = {"MLP_2": 3, "MLP_9": 2, "mnist_cnn": 2, "cifar": 2}
        if arguments.count:
            counts = dict.fromkeys(counts, arguments.count)
        rungs(
            arguments.models,
            arguments.data_root,
            arguments.networks,
            counts,
            arguments.device,
            arguments.seconds,
        )
    print(f"{time.process_time() - began:.0f} CPU seconds in all")


if __name__ == "__main__":
    sys.exit(main())
