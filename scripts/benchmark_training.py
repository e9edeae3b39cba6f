"""Step time of every objective over (its forward and backward passes x the plain step), in one run, and peak memory.

    python scripts/benchmark_training.py [--arch lenet] [--batch-size 64] [--rounds 7] [--device cpu]

A pass is a forward and a backward pass over the rows of a batch. The plain step is noise augmentation at the number of rows
that the objective's passes have (m times the images), measured in turn with the objective, round by round; the ratio is that
of the medians. On a CPU, processor time is measured and not wall time, which says little on a busy machine. Attacks need no
gradient of the weights, so that a ratio below 1 is no mistake. Peak memory: of the device on a GPU, of the process on a CPU
(each objective is measured in a process of its own).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import fields
from typing import Any

import torch

SETTINGS: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "stability": {},
    "consistency": {"m": 2},
    "direct": {"m": 4},
    "macer": {"m": 8},
    "smoothadv": {"m": 2, "steps": 4},
    "smoothmix": {"m": 2, "steps": 4},
    "cat-rs": {"m": 2, "steps": 4},
}


def stepper(objective: Any, arguments: argparse.Namespace, images: int) -> Any:
    """Return a function that takes one training step on `images` images."""
    from certify.models import build_architecture
    from smoothing import Gaussian
    from smoothing.training import Batch
    from smoothing.training.scorer import Scorer

    device = torch.device(arguments.device)
    shape = (3, 32, 32) if arguments.arch.startswith("resnet") else (1, 28, 28)
    model = build_architecture(arguments.arch, num_classes=10, input_shape=shape).to(device)
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    law = Gaussian(shape, sigma=0.5)
    generator = torch.Generator(device=device).manual_seed(0)
    x = torch.rand((images, *shape), generator=generator, device=device)
    y = torch.randint(10, (images,), generator=generator, device=device)
    prediction = torch.full((images, 10), 0.1, device=device)
    batch = Batch(x, y, torch.arange(images, device=device), 50, None, prediction)
    scorer = Scorer(model, True)

    def step() -> None:
        loss, _ = objective(scorer, batch, law, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Any, device: str, repeats: int) -> float:
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    started = clock()
    for _ in range(repeats):
        step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return (clock() - started) / repeats


def rows_of(objective: Any) -> int:
    """Return the noisy copies of an image that pass through the network together."""
    return objective.m if "m" in {field.name for field in fields(objective)} else 1


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    from smoothing.training import make_objective

    objective, plain = make_objective(name, **SETTINGS[name]), make_objective("gaussian")
    m = rows_of(objective)
    step = stepper(objective, arguments, arguments.batch_size)
    reference = stepper(plain, arguments, arguments.batch_size * m)
    for warm in (step, reference):
        seconds(warm, arguments.device, 2)
    times, plain_times = [], []
    repeats = max(1, round(12 / objective.passes))
    for _ in range(arguments.rounds):
        times.append(seconds(step, arguments.device, repeats))
        plain_times.append(seconds(reference, arguments.device, repeats * objective.passes // m))
    own, base = statistics.median(times), statistics.median(plain_times)
    return {
        "objective": name,
        "settings": SETTINGS[name],
        "images": arguments.batch_size,
        "rows": m * arguments.batch_size,
        "passes": objective.passes,
        "step_ms": 1000 * own,
        "plain_ms": 1000 * base,
        "ratio": own / (objective.passes / m * base),
        "memory_mib": memory(arguments.device),
    }


def memory(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="lenet")
    parser.add_argument("--batch-size", type=int, default=64, help="images in a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=sorted(SETTINGS), help="one objective, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments)))
        return
    print(
        f"{arguments.arch}, {arguments.batch_size} images a step, {arguments.device}, {arguments.threads} thread(s)\n"
    )
    print("| objective | passes | step ms | plain step ms (same rows) | step / (passes x plain) | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in SETTINGS:
        command = [sys.executable, __file__, "--only", name, "--arch", arguments.arch, "--device", arguments.device]
        command += ["--batch-size", str(arguments.batch_size), "--rounds", str(arguments.rounds)]
        command += ["--threads", str(arguments.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        settings = ", ".join(f"{key}={value}" for key, value in found["settings"].items())
        print(
            f"| {name}{f' ({settings})' if settings else ''} | {found['passes']} | {found['step_ms']:.1f} | "
            f"{found['plain_ms']:.1f} | {found['ratio']:.2f} | {found['memory_mib']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
