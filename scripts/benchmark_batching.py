"""Measure continuous batching: votes per second of a mixed workload against those of a fixed sample size.

    python scripts/benchmark_batching.py [--networks lenet resnet20] [--repeats 5] [--inputs 60] [--json FILE]

The mixed workload is that of a sequential certification of the whole curve: inputs at many distances from the decision
boundary, of which some are decided after a dozen votes and some never are. Counted are the votes that decisions rest on;
votes that were drawn beyond an input's last look are wasted and count against it, as do padding, scheduling and the
statistics. The fixed workload gives the same number of inputs equally many votes each, with about as many votes in all.

Networks have random weights: their cost does not depend on them. So that the workload is mixed, the outcome of a sample is
decided by the noise of a few pixels against a level that depends on the input; the network runs all the same, and adds
nothing to it. Both workloads run on the same engine, and alternate in one process; ratios are medians, beside them the
smallest and the largest. On a CPU, processor time is measured; but a busy machine shares its caches too, so that the load of
the machine is printed: figures to be quoted come from an idle one.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from command_line import whole


@dataclass(frozen=True)
class Network:
    """What is measured: a network, its inputs and batch size, and the workload (most votes of an input, radii)."""

    title: str
    shape: tuple[int, int, int]
    batch_size: int
    cap: int
    radii: tuple[float, ...]


NETWORKS = {
    "lenet": Network("LeNet / MNIST", (1, 28, 28), 256, 5_000, (0.0, 0.25, 0.5, 0.75, 1.0)),
    "resnet20": Network("ResNet-20 / CIFAR-10", (3, 32, 32), 64, 1_000, (0.0, 0.25, 0.5, 0.75)),
}
SIGMA = 0.5


def workloads(
    name: str, inputs: int, device: str, version: str, cap: int
) -> tuple[Callable[[], int], Callable[[], int], Any]:
    """Return (mixed, fixed, engine): each does its work once and returns the votes that decisions rest on."""
    import torch

    from certify.models import build_architecture
    from smoothing import BatchingEngine, FixedEstimator, ForwardSettings, Gaussian
    from smoothing.driver import drive
    from smoothing.estimators.sequential import SequentialEstimator
    from smoothing.estimators.thresholds import thresholds
    from smoothing.noise_table import rebuild_noise

    shape = NETWORKS[name].shape
    torch.manual_seed(0)
    network = build_architecture(name, num_classes=10, input_shape=shape).eval().to(device)
    # Inputs whose failure probabilities range from 1/2 to 1e-5, in units of the noise of the one pixel that decides.
    margins = torch.linspace(0.0, 4.2, inputs)
    images = torch.full((inputs, *shape), 128 / 255)
    images[:, 0, 0, 0] = torch.round((0.5 + SIGMA * margins) * 255) / 255

    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = self.network(x) * 1e-6
            scores[:, 0] += torch.where(x[:, 0, 0, 0] > 0.5, 1e3, -1e3)
            return scores

    law = Gaussian(shape, sigma=SIGMA)
    noise = {"version": version} if version == "torch-block-v1" else {"version": version, "grid": 255}
    engine = BatchingEngine(
        Mixed(),
        law,
        10,
        lambda index: images[index],
        settings=ForwardSettings(NETWORKS[name].batch_size if device == "cpu" else 1024, channels_last=True),
        device=device,
        noise=rebuild_noise(noise, law, 0, device),
    )
    sequential = SequentialEstimator(thresholds(law, "l2", NETWORKS[name].radii), cap=cap)
    sequential.start(0)

    def run(policy: Any) -> int:
        states = {index: policy.start(0) for index in range(inputs)}
        for _ in drive(engine, states):
            pass
        votes = 0
        for state in states.values():
            votes += sum({look.phase: look.n for look in state.result().looks}.values())
        return votes

    mean = max(run(sequential) // inputs, 200)
    fixed = FixedEstimator(100, mean - 100)
    return lambda: run(sequential), lambda: run(fixed), engine


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=whole(1), default=5)
    parser.add_argument("--inputs", type=whole(1), default=60)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--noise-version", default="torch-block-v1")
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--cap", type=whole(1), help="most votes of an input; default: 5,000 (lenet), 1,000 (resnet20)")
    parser.add_argument("--json")
    arguments = parser.parse_args()

    import torch

    from certify.allocator import tune_allocator

    tune_allocator()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    results: dict[str, Any] = {}
    print(
        f"{arguments.device}, load {' '.join(f'{load:.2f}' for load in os.getloadavg())}, {os.cpu_count()} processors"
    )
    print(f"{'network':24} {'votes/input':>12} {'fixed':>12} {'mixed':>12} {'ratio':>19} {'drawn in vain':>14}")
    for name in arguments.networks:
        cap = arguments.cap or NETWORKS[name].cap
        mixed, fixed, engine = workloads(name, arguments.inputs, arguments.device, arguments.noise_version, cap)
        drawn = 0

        def count(votes: int) -> None:
            nonlocal drawn
            drawn += votes

        ratios, waste, votes = [], [], 0
        speeds: dict[str, list[float]] = {"mixed": [], "fixed": []}
        for _ in range(arguments.repeats):
            found = {}
            for kind, work in (("fixed", fixed), ("mixed", mixed)):
                drawn, engine.progress = 0, count
                # Processor time on a shared machine, wall time on a device.
                clock = time.process_time if arguments.device == "cpu" else time.perf_counter
                start = clock()
                used = work()
                found[kind] = used / (clock() - start)
                speeds[kind].append(found[kind])
                if kind == "mixed":
                    waste.append(1 - used / drawn)
                    votes = used
            ratios.append(found["mixed"] / found["fixed"])
        r = results[NETWORKS[name].title] = {
            "votes_per_input": votes / arguments.inputs,
            "fixed": statistics.median(speeds["fixed"]),
            "mixed": statistics.median(speeds["mixed"]),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "in_vain": statistics.median(waste),
            "load": os.getloadavg(),
        }
        spread = f"{r['ratio']:.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(
            f"{NETWORKS[name].title:24} {r['votes_per_input']:12,.0f} {r['fixed']:10,.0f}/s {r['mixed']:10,.0f}/s "
            f"{spread:>19} {r['in_vain']:13.1%}",
            flush=True,
        )
        if arguments.json:
            # After every network: the next one takes minutes, and may be interrupted.
            with open(arguments.json, "w") as file:
                json.dump({"arguments": vars(arguments), "rows": results}, file, indent=2)


if __name__ == "__main__":
    main()
