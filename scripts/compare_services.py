"""The same classifier behind independent servers: identical noise must give identical votes.

Serves one classifier by MLServer (Open Inference Protocol), by LitServe (PNG in JSON) and by ONNX Runtime in this process,
asks each for the same votes, and compares them sample by sample with PyTorch behind the same clip and 8-bit step. Samples
that differ must be near-ties: the two largest scores within 1e-5 of the largest score's size.

    python scripts/compare_services.py --environments ~/.cache/certify-servers
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from services import export_onnx, running, small_classifier

from certify.blackbox import Adapter, CallSettings, LabelMap, MemoryStore, ServiceVotes
from certify.blackbox.images import dequantize, quantize
from certify.blackbox.local import LocalCallable, onnx_function
from certify.datasets import load_dataset
from certify.models.checkpoint import load_checkpoint
from smoothing import Gaussian
from smoothing.estimators import Phase
from smoothing.noise_source import TorchBlockNoise
from smoothing.votes import VoteRequest

NEAR_TIE = 1e-5


def ask(
    adapter: Adapter, noise: TorchBlockNoise, images: Mapping[int, torch.Tensor], n: int, classes: int
) -> dict[tuple[int, int], str]:
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
) -> tuple[dict[tuple[int, int], str], set[tuple[int, int]]]:
    """Return PyTorch's labels, and the samples that are near-ties."""
    labels, ties = {}, set()
    for index, image in images.items():
        with torch.inference_mode():
            scores = model(dequantize(quantize(noise.draw(image, index, Phase.ESTIMATE, 0, n))))
        top = scores.topk(2).values
        close = top[:, 0] - top[:, 1] <= NEAR_TIE * scores.abs().amax(1)
        for sample, (label, tie) in enumerate(zip(scores.argmax(1).tolist(), close.tolist(), strict=True)):
            labels[index, sample] = str(label)
            if tie:
                ties.add((index, sample))
    return labels, ties


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="folder for the servers' environments")
    parser.add_argument("--servers", default="mlserver,litserve", help="which servers, comma separated")
    parser.add_argument("--model", type=Path, help="checkpoint folder; default: a small network trained on digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--inputs", type=int, default=20)
    parser.add_argument("--n", type=int, default=100, help="votes per input")
    options = parser.parse_args()

    torch.set_num_threads(1)
    data = load_dataset(options.data, root=options.data_root)
    shape = data.require_shape()
    model = small_classifier(options.sigma) if options.model is None else load_checkpoint(options.model)[0].eval()
    noise = TorchBlockNoise(Gaussian(shape, sigma=options.sigma), seed=0)
    indices = range(0, len(data), max(1, len(data) // options.inputs))[: options.inputs]
    images = dict(zip(indices, data.inputs(indices), strict=True))
    expected, ties = directly(model, noise, images, options.n)
    print(f"{len(expected)} votes on {len(images)} images of {options.data}; near-ties in PyTorch: {len(ties)}")
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, shape, path)

        def compare(name: str, adapter: Adapter) -> int:
            found = ask(adapter, noise, images, options.n, data.num_classes)
            differ = {key for key in expected if found.get(key) != expected[key]}
            far = differ - ties
            print(
                f"{name:24} {len(found)} votes, {len(expected) - len(differ)} equal, "
                f"{len(differ & ties)} near-ties differ, {len(far)} others differ"
            )
            return len(far) + abs(len(found) - len(expected))

        wrong += compare("ONNX Runtime in process", LocalCallable(onnx_function(str(path))))
        for name in options.servers.split(","):
            with running(name, path, options.environments, Path(folder)) as adapter:
                wrong += compare(name, adapter)
    print("all votes agree" if not wrong else f"{wrong} votes disagree")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
