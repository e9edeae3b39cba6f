"""A tiny network on the embedded digits, as a factory, for the tests of `certify verify` and `certify compare`."""

import sys
from pathlib import Path

import pytest

MODULE = '''
import functools

import torch
from torch import nn

from certify.datasets import load_dataset


@functools.cache
def weights():
    """One hidden layer of fixed directions, the output by least squares: trained in milliseconds, right on most digits."""
    data = load_dataset("digits", split="train")
    x = data.inputs(range(len(data))).flatten(1).double()
    first = torch.randn(24, 64, generator=torch.Generator().manual_seed(1)).double() / 4
    hidden = torch.cat([(x @ first.T - 0.1).relu(), torch.ones(len(x), 1)], 1)
    wanted = torch.nn.functional.one_hot(torch.from_numpy(data.targets), 10).double()
    last = torch.linalg.solve(hidden.T @ hidden + torch.eye(25), hidden.T @ wanted)
    return first.float(), last.float()


def network(activation=nn.ReLU):
    first, last = weights()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), activation(), nn.Linear(24, 10))
    with torch.no_grad():
        net[1].weight.copy_(first)
        net[1].bias.fill_(-0.1)
        net[3].weight.copy_(last[:24].T)
        net[3].bias.copy_(last[24])
    net.num_classes = 10
    return net


def make():
    return network()


def curved():
    return network(nn.Tanh)


class Strange(nn.Module):
    num_classes = 10

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        y = self.net(x)
        return torch.sin(y) + torch.cumsum(y, 1)


def strange():
    return Strange()


def function():
    def classify(x):
        return x.flatten(1)[:, :10]
    classify.num_classes = 10
    return classify
'''


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the factories importable as `tiny_verified:make` and so on."""
    (folder / "tiny_verified.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("tiny_verified", None)
