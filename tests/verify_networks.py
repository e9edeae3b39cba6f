"""Small networks for the tests of `verify`: one per kind of operator, random and reproducible; and the real ones."""

import itertools
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Normalisation, convolutions of all kinds, batch norm, a residual fork, concatenation, flatten."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.register_buffer("mean", torch.tensor([0.4, 0.6]).view(1, 2, 1, 1))
        self.register_buffer("std", torch.tensor([0.5, 0.7]).view(1, 2, 1, 1))
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.last = nn.Linear(4 * 3 * 3 * 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        fork = self.activation(self.norm(self.first(x)))
        joined = self.activation(self.second(fork) + fork)
        return self.last(torch.cat([joined, fork], dim=1).flatten(1))


class Pooled(nn.Module):
    """Overlapping max pooling with padding, average pooling, a slice, a strided convolution whose output leaves a rest."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, stride=2)  # 6 -> 2, one row left over
        self.pool = nn.MaxPool2d(2, stride=1, padding=1)
        self.mean = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
        self.last = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.mean(self.pool(F.relu(self.first(x))))
        return self.last(hidden.reshape(x.shape[0], -1))[:, :3]


class Functional(nn.Module):
    """What layers do, by functions: batch norm, scaled and broadcast additions, sums, flips, stacks, addmm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        hidden = F.batch_norm(self.first(x), n.running_mean, n.running_var, n.weight, n.bias, n.training, eps=n.eps)
        hidden = F.relu(torch.add(hidden, hidden.mean((2, 3), keepdim=True), alpha=-0.7))
        turned = torch.flip(hidden, [3]).swapaxes(2, 3)
        joined = torch.stack([hidden, 2.0 * turned], dim=1).sum((3, 4))
        joined = F.relu(joined + joined[:, :1])
        return torch.addmm(self.last.bias, joined.flatten(1), self.last.weight.T)[:, :3]


def dense(*sizes: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (lambda: dense(3, 6, 5, 3), (3,)),
    "functional": (Functional, (2, 3, 3)),
    "deep": (lambda: dense(3, 5, 5, 5, 5, 3), (3,)),
    "leaky": (lambda: dense(3, 6, 5, 3, activation=lambda: nn.LeakyReLU(0.2)), (3,)),
    "sigmoid": (lambda: dense(3, 6, 5, 3, activation=nn.Sigmoid), (3,)),
    "tanh": (lambda: dense(3, 6, 5, 3, activation=nn.Tanh), (3,)),
    "linear": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Identity(), nn.Linear(4, 3)), (3,)),
    "norm1d": (lambda: nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)), (3,)),
    "residual": (lambda: Residual(F.relu), (2, 5, 5)),
    "residual-tanh": (lambda: Residual(torch.tanh), (2, 5, 5)),
    "pooled": (Pooled, (1, 6, 6)),
}
PIECEWISE_LINEAR = ("dense", "deep", "leaky", "linear", "norm1d", "residual", "pooled", "functional")


def network(name: str, seed: int = 0) -> nn.Module:
    """Return a random network in eval mode, with weights large enough for its activations to matter."""
    build, _ = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = build()
        for part in made.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                nn.init.normal_(part.weight, std=1.5 / part.weight[0].numel() ** 0.5)
                nn.init.normal_(part.bias, std=0.3)
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(part.running_mean, std=0.3)
                nn.init.uniform_(part.running_var, 0.5, 2.0)
                nn.init.uniform_(part.weight, 0.5, 2.0)
                nn.init.normal_(part.bias, std=0.3)
    return made.eval()


def shape_of(name: str) -> tuple[int, ...]:
    return NETWORKS[name][1]


def barrier_network(name: str, folder: Path) -> nn.Module:
    """Return a network of `models/lp_barrier` ("mnist_MLP_2_100_ADV", "mnist_cnn_small_LPD", ...)."""
    from safetensors.torch import load_file

    if "cnn" in name:
        channels, flat = (3, 2048) if name.startswith("cifar") else (1, 1568)
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()]
        layers += [nn.Flatten(), nn.Linear(flat, 100), nn.ReLU(), nn.Linear(100, 10)]
    else:
        layers = [nn.Flatten(), nn.Linear(784, 100), nn.ReLU()]
        for _ in range(int(name.split("MLP_")[1][0]) - 1):
            layers += [nn.Linear(100, 100), nn.ReLU()]
        layers.append(nn.Linear(100, 10))
    net = nn.Sequential(*layers)
    net.load_state_dict(load_file(str(folder / f"{name}.safetensors")), strict=True)
    return net.eval()
