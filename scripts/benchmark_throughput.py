"""Measure the Monte Carlo engine: against the raw forward pass, and against the published algorithm as published.

    python scripts/benchmark_throughput.py [--device cuda] [--repeats 7] [--json FILE]

Two ratios per network, each within one run, because machines are shared and noisy:

* *of raw*: votes per second of the engine (noise, packing, counting included) over images per second of the bare forward
  pass of the same network, at the same batch size, memory format, precision and allocator. Both alternate in one process;
  the ratio is the median over the repeats.
* *speed-up*: the one-input-at-a-time loop of CERTIFY as Cohen et al. 2019 describe and publish it (noise for up to 1,000
  copies of one input, forward pass, predictions copied to the host, counted in Python), in its own process with the default
  allocator, against the engine on the same network, precision and number of votes. The two processes take turns, and the
  ratio is that of the medians. The row with bf16 certifies another function, the bf16 classifier, and says so; its baseline
  is still the fp32 loop.

The votes of a row are those of four inputs. Padding of the last batch and of the last block of noise counts against the
engine, so that a handful of votes would show mostly that.

Networks have random weights and inputs are random images: the cost does not depend on either.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from command_line import whole

ROWS = {
    "LeNet / MNIST": ("lenet", (1, 28, 28), "fp32", 256, 40_000),
    "ResNet-20 / CIFAR-10": ("resnet20", (3, 32, 32), "fp32", 64, 2_000),
    "ResNet-20 / CIFAR-10, bf16": ("resnet20", (3, 32, 32), "bf16", 256, 2_000),
}
PUBLISHED_BATCH = 1_000
SIGMA = 0.5


def clock(work: Callable[[], Any], device: str) -> tuple[float, float]:
    """Return (wall seconds, CPU seconds) of `work`, the device's queue included."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def network(architecture: str, shape: tuple[int, ...], device: str) -> Any:
    """Return the network with seeded random weights."""
    import torch

    from certify.models import build_architecture

    torch.manual_seed(0)
    return build_architecture(architecture, num_classes=10, input_shape=shape).eval().to(device)


def published_loop(row: str, device: str) -> Callable[[], Any]:
    """The sampling loop of CERTIFY for one input: written anew from the published algorithm."""
    import numpy as np
    import torch

    architecture, shape, _, _, n = ROWS[row]
    model = network(architecture, shape, device)
    x = torch.rand(shape, device=device)

    def sample() -> Any:
        counts = np.zeros(10, dtype=int)
        remaining = n
        with torch.no_grad():
            while remaining > 0:
                size = min(PUBLISHED_BATCH, remaining)
                remaining -= size
                batch = x.repeat((size, 1, 1, 1))
                noisy = batch + torch.randn_like(batch) * SIGMA
                for label in model(noisy).argmax(1).cpu().numpy():
                    counts[label] += 1
        return counts

    return sample


def engine_and_raw(row: str, device: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return the engine's work on n votes, and the bare forward pass over as many images."""
    import torch

    from smoothing import BatchingEngine, ForwardSettings, Gaussian, Phase, VoteRequest
    from smoothing.forward import Forward

    architecture, shape, precision, batch, n = ROWS[row]
    if device == "cuda":
        batch = 1024
    settings = ForwardSettings(batch, precision, channels_last=True)
    model = network(architecture, shape, device)
    images = torch.rand((8, *shape))
    engine = BatchingEngine(
        model, Gaussian(shape, sigma=SIGMA), 10, lambda i: images[i], settings=settings, device=device
    )
    requests = [VoteRequest(i, Phase.ESTIMATE, 0, n // 4) for i in range(4)]
    passes = -(-n // batch)
    forward = Forward(model, settings, device)
    fixed = forward.new_batch(shape)
    fixed.copy_(torch.rand(fixed.shape))

    def raw() -> None:
        with forward.evaluating(), torch.inference_mode():
            for _ in range(passes):
                forward(fixed)

    return lambda: list(engine.votes(requests)), raw


def worker(kind: str, row: str, device: str) -> None:
    """Answer every line on standard input with one measurement, so that two processes can take turns."""
    import torch

    if kind == "engine":
        from certify.allocator import tune_allocator

        tune_allocator()
        work, raw = engine_and_raw(row, device)
    else:
        work, raw = published_loop(row, device), None
    work()
    if raw is not None:
        raw()
    print(json.dumps({"threads": torch.get_num_threads()}), flush=True)
    for _ in sys.stdin:
        result = {"work": clock(work, device)}
        if raw is not None:
            result["raw"] = clock(raw, device)
        print(json.dumps(result), flush=True)


class Worker:
    """A process that measures on demand."""

    def __init__(self, kind: str, row: str, device: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", kind, "--row", row, "--device", device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.threads = self._answer()["threads"]

    def measure(self) -> dict[str, Any]:
        """Ask for one measurement."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a measuring process died")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure_row(row: str, device: str, repeats: int) -> dict[str, Any]:
    """Measure one row of the table."""
    n = ROWS[row][4]
    engine, baseline = Worker("engine", row, device), Worker("published", row, device)
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(engine.measure())
        theirs.append(baseline.measure())
    engine.close()
    baseline.close()
    passes = -(-n // ROWS[row][3])
    images = passes * ROWS[row][3]
    wall = statistics.median(m["work"][0] for m in ours)
    return {
        "row": row,
        "threads": engine.threads,
        "votes": n,
        "of_raw": statistics.median((n / m["work"][0]) / (images / m["raw"][0]) for m in ours),
        "speed_up": statistics.median(m["work"][0] for m in theirs) / wall,
        "speed_up_cpu": statistics.median(m["work"][1] for m in theirs) / statistics.median(m["work"][1] for m in ours),
        "votes_per_second": n / wall,
        "wall": wall,
        "cpu": statistics.median(m["work"][1] for m in ours),
        "published_wall": statistics.median(m["work"][0] for m in theirs),
        "published_cpu": statistics.median(m["work"][1] for m in theirs),
    }


def has_bf16(device: str) -> bool:
    """Whether the processor has bf16 instructions (elsewhere it is emulated, and slow)."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    try:
        return "avx512_bf16" in open("/proc/cpuinfo").read() or "bf16" in open("/proc/cpuinfo").read()
    except OSError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=whole(1), default=7)
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--worker", choices=["engine", "published"], help=argparse.SUPPRESS)
    parser.add_argument("--row", choices=list(ROWS), help="measure this row only")
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.row, arguments.device)
        return
    import torch

    name = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {name}; medians of {arguments.repeats}\n")
    print("| network | votes | votes/s | of raw | speed-up | wall s (ours / published) | CPU s (ours / published) |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    for row in [arguments.row] if arguments.row else ROWS:
        if "bf16" in row and not has_bf16(arguments.device):
            print(f"| {row} | | | | | no bf16 instructions here | |")
            continue
        found = measure_row(row, arguments.device, arguments.repeats)
        rows.append(found)
        print(
            f"| {row} | {found['votes']:,} | {found['votes_per_second']:,.0f} | {found['of_raw']:.2f} | "
            f"{found['speed_up']:.1f}x | {found['wall']:.2f} / {found['published_wall']:.2f} | "
            f"{found['cpu']:.2f} / {found['published_cpu']:.2f} |",
            flush=True,
        )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"torch": torch.__version__, "device": name, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
