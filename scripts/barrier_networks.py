"""Networks and images of the relaxation-barrier benchmark, for the scripts that reproduce and time them.

The weight files name positions in an `nn.Sequential`; what stands between them follows from the family: a ReLU after every
layer but the last, a Flatten before the first linear layer, kernels of 4 with stride 2 and kernels of 3 with stride 1, both
with padding 1.
"""

import gzip
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn

from verify.graph import Graph
from verify.tracing import trace

SHAPE = (1, 28, 28)
"""Of MNIST's images, without batch."""


@cache
def graph_of(path: Path) -> Graph:
    """Return the graph of a network of MNIST's; here, where processes that work on its images can import it from."""
    return trace(load_network(path), SHAPE)


def load_network(path: Path) -> nn.Sequential:
    """Build the network of a weight file (.safetensors, or .pth read with weights_only)."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: dict[str, Tensor] = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    positions = sorted({int(key.split(".")[0]) for key in state})
    layers: list[nn.Module] = [nn.Identity()] * (positions[-1] + 1)
    flattened = False
    for k, position in enumerate(positions):
        weight = state[f"{position}.weight"]
        if weight.dim() == 4:
            stride = 2 if weight.shape[2] == 4 else 1
            layer: nn.Module = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride, padding=1)
        else:
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            if not flattened:
                layers[position - 1], flattened = nn.Flatten(), True
        layers[position] = layer
        if k + 1 < len(positions):
            layers[position + 1] = nn.ReLU()
    network = nn.Sequential(*layers)
    network.load_state_dict(state)
    return network.eval()


def mnist_test(root: Path) -> tuple[Tensor, ndarray]:
    """Return the 10,000 test images in [0, 1], float32 [N, 1, 28, 28], and their labels."""
    raw = root / "MNIST" / "raw"
    images = np.frombuffer(gzip.decompress((raw / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((raw / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    pixels = torch.from_numpy(images.reshape(-1, 1, 28, 28).astype(np.float32)) / 255
    return pixels, labels.astype(np.int64)
