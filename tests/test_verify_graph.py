"""Networks become graphs: faithfully or not at all, with everything that is not supported named at once."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from verify_networks import NETWORKS, network, shape_of

from verify.errors import GraphError, UnsupportedOperatorError
from verify.graph import ACTIVATIONS, AFFINE, Graph, Input, Linear, Node
from verify.kernels import Program
from verify.matrices import affine_matrices
from verify.relaxation import RELAXATIONS
from verify.tracing import trace


@pytest.mark.parametrize("name", NETWORKS)
def test_graph_computes_what_the_module_computes(name: str) -> None:
    module, shape = network(name), shape_of(name)
    graph = trace(module, shape)
    points = torch.randn(50, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = module.double()(points)
    torch.testing.assert_close(Program(graph).forward(points)[-1], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_matrices_and_kernels_agree(name: str) -> None:
    """Two independent implementations: sparse matrices by index arithmetic, and torch's operators and their transposes."""
    graph = trace(network(name), shape_of(name))
    program, generator = Program(graph), torch.Generator().manual_seed(2)
    values = program.forward(torch.randn(1, *graph.input_shape, generator=generator, dtype=torch.float64))
    for k, node in enumerate(graph):
        kernel = program.kernels[k]
        if kernel is None:
            continue
        matrices, bias = affine_matrices(graph, k)
        inputs = [values[i] for i in node.inputs]
        forward = sum((m @ x.flatten().numpy() for m, x in zip(matrices, inputs, strict=True)), bias)
        np.testing.assert_allclose(forward, values[k].flatten().numpy(), rtol=1e-12, atol=1e-12)
        absolute = sum(abs(m) @ x.flatten().abs().numpy() for m, x in zip(matrices, inputs, strict=True))
        found = kernel.absolute([x.abs() for x in inputs]).flatten().numpy()
        np.testing.assert_allclose(absolute, found, rtol=1e-12, atol=1e-12)
        rows = torch.randn(4, *node.shape, generator=generator, dtype=torch.float64)
        for matrix, back in zip(matrices, kernel.transpose(rows), strict=True):
            np.testing.assert_allclose(rows.flatten(1).numpy() @ matrix, back.flatten(1), rtol=1e-12, atol=1e-12)
        coordinates = torch.arange(node.size)
        single = kernel.rows_of(coordinates)
        if single is not None:
            np.testing.assert_allclose(single.numpy(), matrices[0].toarray(), rtol=1e-12, atol=1e-12)


def test_every_operator_has_its_kernel_or_relaxation() -> None:
    assert set(RELAXATIONS) == set(ACTIVATIONS)
    seen = {type(node.op) for name in NETWORKS for node in trace(network(name), shape_of(name))}
    assert seen >= {Input, *AFFINE, *ACTIVATIONS}, "every operator must occur in a test network"


class Functional(nn.Module):
    """The same operations as functions and methods, with every spelling that models use."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 12, generator=torch.Generator().manual_seed(0)))
        self.kernel = nn.Parameter(torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: Tensor) -> Tensor:
        x = 2 * x - 1
        x = F.conv2d(F.pad(x, (1, 0, 1, 0)), self.kernel, padding=0)
        x = x.permute(0, 2, 3, 1).transpose(1, 3).permute(0, 1, 3, 2)
        a, b = x.chunk(2, dim=2)
        x = torch.cat((a.relu(), torch.sigmoid(b)), 2)
        x = F.max_pool2d(x, 2) + F.avg_pool2d(x, 2) / 3
        x = F.dropout(torch.tanh(x).view(x.shape[0], -1), training=False)
        x = F.leaky_relu(F.linear(x, self.weight), negative_slope=0.3)
        return -(x[:, 1:] @ self.weight[:4, :3].detach()).sub(0.5)


def test_functions_and_methods() -> None:
    module = Functional().eval()
    graph = trace(module, (3, 4, 4))
    points = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(Program(graph).forward(points)[-1], module.double()(points))


def test_all_unsupported_operators_are_named_at_once() -> None:
    module = nn.Sequential(
        nn.GELU(), nn.Linear(4, 4), nn.Softmax(dim=1), nn.ReLU(), nn.LeakyReLU(-0.1), nn.Linear(4, 2)
    )
    with pytest.raises(UnsupportedOperatorError) as caught:
        trace(module.eval(), (4,))
    assert "GELU" in str(caught.value)
    assert "Softmax" in str(caught.value)
    assert "negative_slope must be in [0, 1], got -0.1" in str(caught.value)
    assert "ReLU at '3'" not in str(caught.value)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.Dropout()])
def test_training_mode_is_refused(layer: nn.Module) -> None:
    with pytest.raises(UnsupportedOperatorError, match="training mode"):
        trace(nn.Sequential(nn.Linear(3, 3), layer), (3,))


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0, keepdim=True)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Square(), "product of two values that depend on the input"),
        (Mixing(), "batch axis"),
        (Branching(), "torch.fx cannot trace it"),
    ],
)
def test_what_is_not_a_feed_forward_relu_like_network(module: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=message):
        trace(module.eval(), (3,))


def test_wrong_shape() -> None:
    with pytest.raises(GraphError, match=r"must accept inputs of shape \(5,\)"):
        trace(network("dense"), (5,))


def test_parameters_are_copied_and_frozen() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    graph = trace(module, (2,))
    before = graph.digest
    with torch.no_grad():
        module[0].weight.zero_()
    op = graph[1].op
    assert isinstance(op, Linear)
    assert op.weight.any()
    assert graph.digest == before != trace(module, (2,)).digest
    with pytest.raises(ValueError, match="read-only"):
        op.weight[0, 0] = 1.0


def test_graphs_are_checked() -> None:
    broken = Linear(np.array([[math.nan]]), np.zeros(1))
    with pytest.raises(GraphError, match="every parameter must be finite"):
        Graph((Node(Input(), (), (1,)), Node(broken, (0,), (1,))))
    with pytest.raises(GraphError, match="must read earlier nodes"):
        Graph((Node(Input(), (), (1,)), Node(Linear(np.ones((1, 1)), np.zeros(1)), (1,), (1,))))
