"""Measure integer noise: nanoseconds per value, and votes per second against the raw forward pass.

    python scripts/benchmark_noise.py [--device cuda] [--repeats 9] [--json FILE]

First table: CPU time of one thread per value of a noisy copy, 128 samples a call (wall time on a GPU), against `torch.randn`
of as many values. Second table: votes per second of the whole engine (noise, packing, counting) over images per second of
the bare forward pass of the same network at the same batch size, precision and memory format. All that is compared takes
turns within one process; figures are medians over the repeats, ratios are formed repeat by repeat.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from command_line import whole

LAWS = [
    ("gaussian", (3, 32, 32), 0.25),
    ("gaussian", (3, 32, 32), 1.0),
    ("laplace", (3, 32, 32), 0.5),
    ("uniform", (3, 32, 32), 0.5),
    ("gaussian", (1, 28, 28), 0.5),
    ("gaussian", (3, 224, 224), 0.5),
]
ROWS = {
    "ResNet-20 / CIFAR-10": ("resnet20", (3, 32, 32), 0.5, 64, 1_024),
    "LeNet / MNIST": ("lenet", (1, 28, 28), 0.5, 256, 16_384),
}


def clock(work: Callable[[], Any], device: str) -> dict[str, float]:
    """Return wall seconds and CPU seconds of `work`, the device's queue included."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def take_turns(works: dict[str, Callable[[], Any]], device: str, repeats: int) -> list[dict[str, dict[str, float]]]:
    """Run every work once to warm up, and then all of them in turn."""
    for work in works.values():
        work()
    return [{name: clock(work, device) for name, work in works.items()} for _ in range(repeats)]


def median(rounds: list[dict[str, dict[str, float]]], name: str, kind: str) -> float:
    return statistics.median(found[name][kind] for found in rounds)


def measure_values(name: str, shape: tuple[int, ...], sigma: float, device: str, repeats: int) -> dict[str, Any]:
    """Return nanoseconds per value of both sources and of torch.randn."""
    import torch

    from smoothing import Phase
    from smoothing.distributions.table import make_law
    from smoothing.integer import PhiloxIntNoise
    from smoothing.noise_source import TorchBlockNoise

    law = make_law(name, shape, sigma=sigma)
    samples = 128 if law.dimension < 50_000 else 16
    x = torch.randint(0, 256, shape).float() / 255
    integers = PhiloxIntNoise(law, 1, device)
    drawn, floats = integers.bind(x, 0), TorchBlockNoise(law, 1, device).bind(x, 0)
    calls = max(1, 2**21 // (samples * law.dimension)) if device == "cpu" else 16

    def repeat(work: Callable[[int], Any]) -> Callable[[], Any]:
        return lambda: [work(i * samples) for i in range(calls)]

    rounds = take_turns(
        {
            "integers": repeat(lambda i: drawn(Phase.ESTIMATE, i, i + samples)),
            "floats": repeat(lambda i: floats(Phase.ESTIMATE, i // 128 * 128, i // 128 * 128 + 128)),
            "randn": repeat(lambda i: torch.randn((samples, *shape), device=device)),
        },
        device,
        repeats,
    )
    values, kind = calls * samples * law.dimension, "cpu" if device == "cpu" else "wall"
    # A block of the plain source is 128 samples, whatever is asked for.
    sizes = {"integers": values, "floats": values * 128 // samples, "randn": values}
    return {
        "law": name,
        "shape": list(shape),
        "sigma": sigma,
        "undecided_by_16_bits": integers.integer_law.ambiguous_share,
        "probability_slack": integers.probability_slack,
        **{name: median(rounds, name, kind) / sizes[name] * 1e9 for name in ("integers", "floats", "randn")},
    }


def measure_row(row: str, device: str, repeats: int) -> dict[str, Any]:
    """Return the shares of the raw forward pass that the engine reaches with either source."""
    import torch

    from certify.models import build_architecture
    from smoothing import BatchingEngine, ForwardSettings, Gaussian, Phase, VoteRequest
    from smoothing.integer import PhiloxIntNoise
    from smoothing.noise_source import TorchBlockNoise

    architecture, shape, sigma, batch, n = ROWS[row]
    if device == "cuda":
        batch, n = 1024, 65_536
    torch.manual_seed(0)
    model = build_architecture(architecture, num_classes=10, input_shape=shape).eval().to(device)
    settings = ForwardSettings(batch, "fp32", channels_last=True)
    law = Gaussian(shape, sigma=sigma)
    images = torch.randint(0, 256, (4, *shape)).float() / 255
    engines = {
        name: BatchingEngine(
            model, law, 10, lambda i: images[i], settings=settings, device=device, seed=1, noise=source
        )
        for name, source in (
            ("integers", PhiloxIntNoise(law, 1, device)),
            ("floats", TorchBlockNoise(law, 1, device)),
        )
    }
    forward = engines["integers"].forward
    fixed = forward.new_batch(shape)
    fixed.copy_(torch.rand(fixed.shape))
    requests = [VoteRequest(i, Phase.ESTIMATE, 0, n // 4) for i in range(4)]

    def raw() -> None:
        with forward.evaluating(), torch.inference_mode():
            for _ in range(n // batch):
                forward(fixed)

    works: dict[str, Callable[[], Any]] = {"raw": raw}
    for name, engine in engines.items():
        works[name] = lambda engine=engine: list(engine.votes(requests))
    rounds = take_turns(works, device, repeats)
    share = {
        f"{name}_{kind}": statistics.median(found["raw"][kind] / found[name][kind] for found in rounds)
        for name in engines
        for kind in ("wall", "cpu")
    }
    return {"row": row, "votes": n, "images_per_second": n / median(rounds, "raw", "wall"), **share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=whole(1), default=9)
    parser.add_argument("--threads", type=whole(1), default=1, help="threads of torch on the CPU")
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    import numpy
    import torch

    from certify.allocator import tune_allocator

    tune_allocator()
    torch.set_num_threads(arguments.threads)
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {arguments.threads} thread(s)"
    print(f"torch {torch.__version__}, numpy {numpy.__version__}, {where}; medians of {arguments.repeats}\n")
    print("| law | shape | sigma | undecided by 16 bits | integers, ns | plain path, ns | torch.randn, ns | d * TV |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    values = []
    for name, shape, sigma in LAWS:
        found = measure_values(name, shape, sigma, arguments.device, arguments.repeats)
        values.append(found)
        print(
            f"| {name} | {'x'.join(map(str, shape))} | {sigma:g} | {found['undecided_by_16_bits']:.2%} | "
            f"{found['integers']:.1f} | {found['floats']:.1f} | {found['randn']:.1f} | {found['probability_slack']:.1e} |",
            flush=True,
        )
    print("\n| network | raw images/s | integers, of raw (wall; CPU) | plain path, of raw (wall; CPU) |")
    print("| --- | --- | --- | --- |")
    rows = []
    for row in ROWS:
        found = measure_row(row, arguments.device, arguments.repeats)
        rows.append(found)
        print(
            f"| {row} | {found['images_per_second']:,.0f} | {found['integers_wall']:.2f}; {found['integers_cpu']:.2f} | "
            f"{found['floats_wall']:.2f}; {found['floats_cpu']:.2f} |",
            flush=True,
        )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"torch": torch.__version__, "device": where, "values": values, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
