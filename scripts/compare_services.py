"""The same classifier behind independent servers: identical noise must give identical votes.

Serves one classifier by MLServer (Open Inference Protocol), by LitServe (PNG in JSON) and by ONNX Runtime in this process,
asks each for the same votes, and compares them sample by sample with PyTorch behind the same clip and 8-bit step. Samples
that differ must be near-ties: the two largest scores within 1e-5 of the largest score's size. Each of them is listed: its
input, its number, both labels, and by how much PyTorch's two largest scores differ.

    python scripts/compare_services.py --environments ~/.cache/certify-servers
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from command_line import between, in_one_line, whole
from services import PACKAGES, export_onnx, running, small_classifier

from certify.blackbox import Adapter, CallSettings, LabelMap, MemoryStore, ServiceVotes
from certify.blackbox.images import dequantize, quantize
from certify.blackbox.onnx_runtime import OnnxRuntime
from certify.datasets import load_dataset
from certify.models.checkpoint import load_checkpoint
from smoothing import Gaussian
from smoothing.estimators import Phase
from smoothing.noise_source import TorchBlockNoise
from smoothing.votes import VoteRequest

NEAR_TIE = 1e-5

Sample = tuple[int, int]
"""Input and number of the sample."""


@dataclass(frozen=True)
class Vote:
    """What PyTorch says of one sample.

    Attributes:
        label: Class number as text.
        gap: Largest score minus second largest, at least 0.
        tie: Whether that is so little that another order of sums may turn it around.
    """

    label: str
    gap: float
    tie: bool


def ask(
    adapter: Adapter, noise: TorchBlockNoise, images: Mapping[int, torch.Tensor], n: int, classes: int
) -> dict[Sample, str]:
    """Return the label of every sample, by (input, sample)."""
    store = MemoryStore()
    settings = CallSettings(concurrency=8)
    with ServiceVotes(adapter, noise, images.__getitem__, LabelMap(classes), store, settings=settings) as source:
        source.check(images[min(images)])
        for _ in source.votes([VoteRequest(index, Phase.ESTIMATE, 0, n) for index in images]):
            pass
    return {(row.key, row.sample): row.label for index in images for row in store.find(index)}


def directly(
    model: torch.nn.Module, noise: TorchBlockNoise, images: Mapping[int, torch.Tensor], n: int
) -> dict[Sample, Vote]:
    """Return PyTorch's votes."""
    votes = {}
    for index, image in images.items():
        with torch.inference_mode():
            scores = model(dequantize(quantize(noise.draw(image, index, Phase.ESTIMATE, 0, n))))
        top = scores.topk(2).values
        gaps = top[:, 0] - top[:, 1]
        close = gaps <= NEAR_TIE * scores.abs().amax(1)
        found = zip(scores.argmax(1).tolist(), gaps.tolist(), close.tolist(), strict=True)
        for sample, (label, gap, tie) in enumerate(found):
            votes[index, sample] = Vote(str(label), gap, tie)
    return votes


def differences(expected: Mapping[Sample, Vote], found: Mapping[Sample, str]) -> list[str]:
    """Return a line for each sample that got another label than PyTorch's, or none; by input and sample."""
    lines = []
    for (index, sample), vote in sorted(expected.items()):
        label = found.get((index, sample))
        if label != vote.label:
            said = "no vote" if label is None else f"label {label}" if label else "no label"
            tie = ", a near-tie" if vote.tie else ""
            lines.append(
                f"    input {index}, sample {sample}: {said}, PyTorch {vote.label}; its two largest scores differ by "
                f"{vote.gap:.3g}{tie}"
            )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="folder for the servers' environments")
    parser.add_argument("--servers", default="mlserver,litserve", help="which servers, comma separated")
    parser.add_argument("--model", type=Path, help="checkpoint folder; default: a small network trained on digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--sigma", type=between(0.0, 1e150), default=0.25)
    parser.add_argument("--inputs", type=whole(1), default=20)
    parser.add_argument("--n", type=whole(1), default=100, help="votes per input")
    options = parser.parse_args(arguments)
    if unknown := [name for name in filter(None, options.servers.split(",")) if name not in PACKAGES]:
        parser.error(f"--servers are of {', '.join(sorted(PACKAGES))}, got {', '.join(unknown)}")
    return in_one_line(lambda: measure(options))


def measure(options: argparse.Namespace) -> int:
    """Ask all servers, print how many votes agree, and return 1 if any differs."""
    torch.set_num_threads(1)
    data = load_dataset(options.data, root=options.data_root)
    shape = data.require_shape()
    model = small_classifier(options.sigma) if options.model is None else load_checkpoint(options.model)[0].eval()
    noise = TorchBlockNoise(Gaussian(shape, sigma=options.sigma), seed=0)
    indices = range(0, len(data), max(1, len(data) // options.inputs))[: options.inputs]
    images = dict(zip(indices, data.inputs(indices), strict=True))
    expected = directly(model, noise, images, options.n)
    ties = {key for key, vote in expected.items() if vote.tie}
    print(f"{len(expected)} votes on {len(images)} images of {options.data}; near-ties in PyTorch: {len(ties)}")
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, shape, path)

        def compare(name: str, adapter: Adapter) -> int:
            found = ask(adapter, noise, images, options.n, data.num_classes)
            differ = {key for key, vote in expected.items() if found.get(key) != vote.label}
            far = differ - ties
            print(
                f"{name:24} {len(found)} votes, {len(expected) - len(differ)} equal, "
                f"{len(differ & ties)} near-ties differ, {len(far)} others differ"
            )
            print("\n".join(differences(expected, found)), end="\n" if differ else "")
            return len(far) + abs(len(found) - len(expected))

        wrong += compare("ONNX Runtime in process", OnnxRuntime(str(path)))
        for name in filter(None, options.servers.split(",")):
            with running(name, path, options.environments, Path(folder)) as adapter:
                wrong += compare(name, adapter)
    print("all votes agree" if not wrong else f"{wrong} votes disagree")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
