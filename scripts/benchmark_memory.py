"""Measure the peak memory of a certification as n grows: it must not.

    python scripts/benchmark_memory.py [--device cuda]

Each n runs in a process of its own (LeNet on MNIST-sized inputs, 2 inputs); the figure is the growth of the peak resident
set over what the process needed before the first vote, on CUDA the peak of allocated device memory.
"""

import argparse
import json
import resource
import subprocess
import sys

SIZES = (1_000, 10_000, 100_000)


def certify(n: int, device: str) -> dict[str, float]:
    """Certify two inputs with n votes each; return the peaks in MiB."""
    import torch

    from certify.allocator import tune_allocator
    from certify.models import build_architecture
    from smoothing import Gaussian, SmoothedClassifier

    tune_allocator()
    torch.manual_seed(0)
    model = build_architecture("lenet", num_classes=10, input_shape=(1, 28, 28))
    smoothed = SmoothedClassifier(model, Gaussian((1, 28, 28), sigma=0.5), 10, device=device, channels_last=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    smoothed.certify(torch.rand(2, 1, 28, 28), n=n)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {"n": n, "before": before / 1024, "growth": (after - before) / 1024}
    if device == "cuda":
        result["device"] = torch.cuda.max_memory_allocated() / 2**20
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.n:
        print(json.dumps(certify(arguments.n, arguments.device)))
        return
    print("| n | MiB before the first vote | growth of the peak, MiB | device peak, MiB |\n| --- | --- | --- | --- |")
    for n in SIZES:
        done = subprocess.run(
            [sys.executable, __file__, "--n", str(n), "--device", arguments.device],
            check=True,
            capture_output=True,
            text=True,
        )
        found = json.loads(done.stdout)
        device = f"{found['device']:.0f}" if "device" in found else ""
        print(f"| {n:,} | {found['before']:.0f} | {found['growth']:.0f} | {device} |")


if __name__ == "__main__":
    main()
