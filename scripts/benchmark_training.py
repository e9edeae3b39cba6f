"""Step time of every objective over (its forward and backward passes x the plain step), in one run, and peak memory.

    python scripts/benchmark_training.py [--arch lenet] [--batch-size 64] [--rounds 15] [--device cpu]

A pass is a forward and a backward pass over the images of a batch, as `Objective.passes` counts them. The plain step is one
step of noise augmentation on the same images: one draw of noise, one pass, one optimiser step. Two ratios are printed: the
step over passes times the plain step; and, since larger batches cost less or more per row (the caches decide), the step
over passes / m times a plain step of m times the images, the rows that the objective's passes have.

Objective and plain steps take turns, and a ratio is the median of the rounds' ratios, beside it their quartiles. On a CPU,
processor time is measured and not wall time, which says little on a busy machine; the allocator is set as `certify train`
sets it. Attacks need no gradient of the weights, so that a ratio below 1 is no mistake. Peak memory: of the device on a GPU,
of the process on a CPU (each objective is measured in a process of its own), before any wider step.
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
from command_line import whole

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
    """Return the seconds of one step, the mean of `repeats`."""
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    started = clock()
    for _ in range(repeats):
        step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return (clock() - started) / max(repeats, 1)


def rows_of(objective: Any) -> int:
    """Return the noisy copies of an image that pass through the network together."""
    return objective.m if "m" in {field.name for field in fields(objective)} else 1


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    from certify.allocator import tune_allocator
    from smoothing.training import make_objective

    tune_allocator()
    objective, plain = make_objective(name, **SETTINGS[name]), make_objective("gaussian")
    m = rows_of(objective)
    own = stepper(objective, arguments, arguments.batch_size)
    seconds(own, arguments.device, 2)
    peak = memory(arguments.device)
    steppers = {"own": own, "plain": stepper(plain, arguments, arguments.batch_size)}
    if m > 1:
        steppers["wide"] = stepper(plain, arguments, arguments.batch_size * m)
    # About as much work for each in a round, and not too much: rounds are to follow each other quickly.
    repeats = {"own": max(1, round(8 / objective.passes)), "plain": max(2, min(8, objective.passes))}
    repeats["wide"] = max(2, min(8, objective.passes // m))
    for step in steppers.values():
        seconds(step, arguments.device, 1)
    times: dict[str, list[float]] = {key: [] for key in steppers}
    for number in range(arguments.rounds):
        for key in list(steppers)[:: 1 if number % 2 else -1]:
            times[key].append(seconds(steppers[key], arguments.device, repeats[key]))
    times.setdefault("wide", times["plain"])
    ratios = [step / (objective.passes * base) for step, base in zip(times["own"], times["plain"], strict=True)]
    wide = [step / (objective.passes / m * base) for step, base in zip(times["own"], times["wide"], strict=True)]
    return {
        "objective": name,
        "settings": SETTINGS[name],
        "images": arguments.batch_size,
        "rows": m * arguments.batch_size,
        "passes": objective.passes,
        "step_ms": 1000 * statistics.median(times["own"]),
        "plain_ms": 1000 * statistics.median(times["plain"]),
        "wide_ms": 1000 * statistics.median(times["wide"]),
        "ratio": statistics.median(ratios),
        "quartiles": quartiles(ratios),
        "wide_ratio": statistics.median(wide),
        "wide_quartiles": quartiles(wide),
        "memory_mib": peak,
    }


def quartiles(values: list[float]) -> list[float]:
    """Return the first and the third quartile; of one value that value twice."""
    return [values[0]] * 2 if len(values) == 1 else statistics.quantiles(values, n=4, method="inclusive")[::2]


def memory(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def shown(ratio: float, spread: list[float]) -> str:
    return f"{ratio:.2f} ({spread[0]:.2f}-{spread[1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="lenet")
    parser.add_argument("--batch-size", type=whole(1), default=64, help="images in a step")
    parser.add_argument("--rounds", type=whole(1), default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=whole(1), default=1)
    parser.add_argument("--objectives", nargs="+", choices=sorted(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--only", choices=sorted(SETTINGS), help="one objective, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments)))
        return
    print(
        f"{arguments.arch}, {arguments.batch_size} images a step, {arguments.device}, {arguments.threads} thread(s)\n"
    )
    print("| objective | passes | step ms | plain ms | step / (passes x plain) | over the same rows | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.objectives:
        command = [sys.executable, __file__, "--only", name, "--arch", arguments.arch, "--device", arguments.device]
        command += ["--batch-size", str(arguments.batch_size), "--rounds", str(arguments.rounds)]
        command += ["--threads", str(arguments.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        settings = ", ".join(f"{key}={value}" for key, value in found["settings"].items())
        print(
            f"| {name}{f' ({settings})' if settings else ''} | {found['passes']} | {found['step_ms']:.1f} | "
            f"{found['plain_ms']:.1f} | {shown(found['ratio'], found['quartiles'])} | "
            f"{shown(found['wide_ratio'], found['wide_quartiles'])} | {found['memory_mib']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
