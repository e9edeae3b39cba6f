"""Small random networks of every kind of wiring, and their exact minima by enumeration of activation patterns."""

import itertools

import numpy as np
import torch
from scipy.optimize import linprog
from torch import nn

from smoothing.threat import Norm
from verify.graph import LeakyReLU
from verify.matrices import affine_matrices


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x):
        h = torch.relu(self.first(x))
        return self.last(torch.relu(h + self.second(h)))


class Joined(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, width), nn.Linear(width + 3, width), nn.Linear(2 * width, 3)
        self.leaky = nn.LeakyReLU(0.2)

    def forward(self, x):
        h = torch.relu(self.first(x))
        return self.last(torch.cat([h, self.leaky(self.second(torch.cat([h, x], 1)))], 1))


def network(kind, seed):
    """Return (module in eval mode, shape of one input)."""
    torch.manual_seed(seed)
    width = 4
    if kind == "dense":
        net = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))
    elif kind == "leaky":
        parts = [
            nn.Linear(3, width),
            nn.LeakyReLU(0.1),
            nn.Linear(width, width),
            nn.LeakyReLU(0.3),
            nn.Linear(width, 3),
        ]
        net = nn.Sequential(*parts)
    elif kind == "residual":
        net = Residual(width)
    elif kind == "joined":
        net = Joined(width)
    elif kind == "pooled":
        net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(2, 3))
    elif kind == "conv":
        parts = [nn.Conv2d(1, 2, 2, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2, 2, 2), nn.ReLU()]
        net = nn.Sequential(*parts, nn.Flatten(), nn.Linear(2, 3))
    elif kind == "smooth":
        net = nn.Sequential(nn.Linear(3, width), nn.Sigmoid(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))
    else:
        raise ValueError(kind)
    for parameter in net.parameters():
        parameter.data *= 1.5
    return net.double().eval(), (1, 3, 3) if kind in ("pooled", "conv") else (3,)


def exact_minimum(graph, region, row):
    """min rowᵀ output over the region, one linear program per activation pattern of a (leaky) ReLU network."""
    neurons = [(k, j) for k in graph.activations for j in range(graph[k].size)]
    assert all(isinstance(graph[k].op, LeakyReLU) for k in graph.activations)
    lower, upper = (side.flatten().numpy() for side in (region.lower, region.upper))
    size = len(lower)
    best = np.inf
    for pattern in itertools.product((False, True), repeat=len(neurons)):
        active = dict(zip(neurons, pattern, strict=True))
        matrices, offsets = {0: np.eye(size)}, {0: np.zeros(size)}
        rows, sides = [], []
        for k in range(1, len(graph)):
            node = graph[k]
            if node.is_activation:
                source = node.inputs[0]
                on = np.array([active[k, j] for j in range(node.size)])
                sign = np.where(on, -1.0, 1.0)
                rows.append(sign[:, None] * matrices[source])
                sides.append(-sign * offsets[source])
                slope = np.where(on, 1.0, node.op.slope)
                matrices[k], offsets[k] = slope[:, None] * matrices[source], slope * offsets[source]
            else:
                parts, bias = affine_matrices(graph, k)
                pairs = list(zip(parts, node.inputs, strict=True))
                matrices[k] = sum(part @ matrices[i] for part, i in pairs)
                offsets[k] = sum((part @ offsets[i] for part, i in pairs), bias)
        cost, constant = row @ matrices[graph.output], row @ offsets[graph.output]
        a, b = np.concatenate(rows), np.concatenate(sides)
        bounds = list(zip(lower, upper, strict=True))
        if region.norm is Norm.L1:
            # |x - center| <= t, sum t <= eps
            center = region.center.flatten().numpy()
            eye = np.eye(size)
            a = np.block(
                [[a, np.zeros((len(a), size))], [eye, -eye], [-eye, -eye], [np.zeros((1, size)), np.ones((1, size))]]
            )
            b = np.concatenate([b, center, -center, [region.eps]])
            cost, bounds = np.concatenate([cost, np.zeros(size)]), bounds + [(0, None)] * size
        found = linprog(cost, A_ub=a, b_ub=b, bounds=bounds, method="highs")
        if found.status == 0:
            best = min(best, found.fun + constant)
    return best
