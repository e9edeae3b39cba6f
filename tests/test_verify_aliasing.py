"""Operations in place: what shares memory with what they write changes too, as torch has it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verify.aliasing import Memory, Traced
from verify.ball import Ball
from verify.checker import check
from verify.crown import Crown
from verify.errors import GraphError, UnsupportedOperatorError
from verify.kernels import Program
from verify.milp import MILP
from verify.problem import Problem
from verify.tracing import trace

Forward = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A forward of the test's own, with layers to use in it. All activations of the trial run's pixels are positive."""

    def __init__(self, run: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.relu = nn.Linear(4, 4, bias=False), nn.Linear(4, 2), nn.ReLU(inplace=True)
        self.wide, self.run = nn.Linear(8, 2), run
        with torch.no_grad():
            self.first.weight.abs_()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def skip_after_module(net: Net, x: Tensor) -> Tensor:
    h = net.first(x)
    return net.last(net.relu(h) + h)  # type: ignore[no-any-return]


def input_overwritten(net: Net, x: Tensor) -> Tensor:
    x.relu_()
    return net.last(x)  # type: ignore[no-any-return]


def skip_to_the_input(net: Net, x: Tensor) -> Tensor:
    return net.last(net.first(net.relu(x)) + x)  # type: ignore[no-any-return]


def added_to_itself(net: Net, x: Tensor) -> Tensor:
    h = net.first(x)
    kept = h
    h += x
    return net.last(F.relu(kept, inplace=False) + h)  # type: ignore[no-any-return]


def assigned(net: Net, x: Tensor) -> Tensor:
    h = net.first(x)
    kept = h
    h -= 0.5
    h *= torch.tensor([2.0, -1.0, 0.5, 1.0], dtype=x.dtype)
    h /= 4.0
    return net.wide(torch.cat([F.relu(kept), h], 1))  # type: ignore[no-any-return]


def methods(net: Net, x: Tensor) -> Tensor:
    h = net.first(x)
    kept = h
    h.sub_(0.5).div_(0.25).mul_(0.1).neg_()
    F.leaky_relu_(h, 0.2)
    return net.wide(torch.cat([kept, h], 1))  # type: ignore[no-any-return]


def another_shape(net: Net, x: Tensor) -> Tensor:
    h = net.first(x).view(-1, 2, 2)
    flat = h.flatten(1)
    F.leaky_relu(h, 0.1, inplace=True)
    return net.last(flat)  # type: ignore[no-any-return]


def passed_on(net: Net, x: Tensor) -> Tensor:
    h = net.first(x).contiguous()
    same = F.dropout(h, training=False)
    torch.relu_(h)
    return net.last(same)  # type: ignore[no-any-return]


def copied_before(net: Net, x: Tensor) -> Tensor:
    h = net.first(x)
    before = h.clone()
    return net.last(net.relu(h) - before)  # type: ignore[no-any-return]


def twice(net: Net, x: Tensor) -> Tensor:
    h = net.first(x)
    other = net.relu(h)
    F.relu_(h.sub_(1.0))
    return net.wide(torch.cat([h, other], 1))  # type: ignore[no-any-return]


def piece_not_read_again(net: Net, x: Tensor) -> Tensor:
    left, right = net.first(x).chunk(2, 1)
    return net.last(torch.cat([left.relu_(), right], 1))  # type: ignore[no-any-return]


TAKEN = [
    skip_after_module, input_overwritten, skip_to_the_input, added_to_itself, assigned, methods, another_shape, passed_on,
    copied_before, twice, piece_not_read_again,
]  # fmt: skip


@pytest.mark.parametrize("run", TAKEN, ids=lambda run: run.__name__)
def test_the_graph_computes_what_the_module_does(run: Forward) -> None:
    net = Net(run).eval()
    points = 3.0 * torch.randn((500, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = net.double()(points.clone())
    torch.testing.assert_close(Program(trace(net, (4,))).forward(points)[-1], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("run", TAKEN, ids=lambda run: run.__name__)
def test_no_point_is_below_a_bound(run: Forward) -> None:
    net = Net(run).eval()
    x = torch.tensor([[-0.2, 0.1, -0.1, 0.3]])
    problem = Problem.margins(net, x, Ball("linf", 0.6, clip=None), [0])
    crown = Crown().bound(problem)
    exact = MILP().bound(problem, crown)
    draws = x + 0.6 * (2.0 * torch.rand((20_000, 4), generator=torch.Generator().manual_seed(2)) - 1.0)
    with torch.no_grad():
        scores = net(draws)
    least = float((scores[:, 0] - scores[:, 1]).min())
    assert crown.lower[0, 0] <= exact.lower[0, 0] <= least + 1e-5
    assert exact.lower[0, 0] >= least - 0.5  # of a range of several units: the bound is about this network
    checked = check(problem.graph, problem.region, problem.specification, crown.certificates)
    assert crown.lower[0, 0] - 1e-6 <= checked.lower[0, 0] <= least + 1e-5


def part_of_a_value(net: Net, x: Tensor) -> Tensor:
    h = net.first(x)
    h[:, :2].relu_()
    return net.last(h)  # type: ignore[no-any-return]


def through_a_transposed_view(net: Net, x: Tensor) -> Tensor:
    h = net.first(x).view(-1, 2, 2)
    turned = h.transpose(1, 2)
    h.relu_()
    return net.last(turned.flatten(1))  # type: ignore[no-any-return]


def an_entry_set(net: Net, x: Tensor) -> Tensor:
    h = net.first(x)
    h[:, 0] = 0.0
    return net.last(h)  # type: ignore[no-any-return]


def the_output_overwritten(net: Net, x: Tensor) -> Tensor:
    out = net.last(x)
    out[:, :1].relu_()
    return out  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (part_of_a_value, "overwritten a part in place"),
        (through_a_transposed_view, "overwritten a part in place"),
        (an_entry_set, "does not support item assignment"),
        (the_output_overwritten, "overwritten a part in place"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_no_node_has_is_refused(run: Forward, message: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=message):
        trace(Net(run).eval(), (4,))


def weight_doubled(net: Net, x: Tensor) -> Tensor:
    net.last.bias.detach().mul_(2.0)
    return net.last(x)  # type: ignore[no-any-return]


def test_a_forward_that_writes_into_its_weights_is_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="writes into a parameter or a buffer"):
        trace(Net(weight_doubled).eval(), (4,))


def test_what_no_comparison_could_see_is_translated_too() -> None:
    """`h += branch` writes into another name of h, though the branch is silent almost everywhere."""

    def forward(net: Net, x: Tensor) -> Tensor:
        kept = h = x.flatten(1)
        mean = net.first(h)
        h += -30.0 * (F.relu(mean - 0.90) - 2.0 * F.relu(mean - 0.95) + F.relu(mean - 1.0))
        return net.last(kept)  # type: ignore[no-any-return]

    net = Net(forward).eval().double()
    with torch.no_grad():
        net.first.weight.fill_(0.25)
        net.last.weight.copy_(torch.tensor([[0.25], [-0.25]]).expand(2, 4))
        net.last.bias.copy_(torch.tensor([0.5, 0.0]))
        graph = trace(net, (1, 2, 2))
        x = torch.full((1, 1, 2, 2), 0.95, dtype=torch.float64)
        torch.testing.assert_close(Program(graph).forward(x)[-1], net(x.clone()))
    assert float(net(x.clone()).argmax()) == 1.0  # the other class than at 0.9


def test_memory_that_is_not_shared_stays_as_it_is() -> None:
    memory = Memory()
    written, apart = memory.add(Traced(1, torch.zeros(2, 3))), memory.add(Traced(2, torch.zeros(2, 3)))
    part = memory.add(Traced(3, written.value[:, :2]))
    before = memory.versions([written.value, apart.value])
    written.value.add_(1.0)
    assert [new - old for new, old in zip(memory.versions([written.value, apart.value]), before, strict=True)] == [1, 0]
    memory.rebind(written.value, 7, "add", lambda node, shape, name: node)
    assert [(v.node, v.stale) for v in (written, apart, part)] == [(7, None), (2, None), (3, "add")]


def test_a_translation_that_agrees_on_pixels_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison of graph and module looks at points of both signs."""
    monkeypatch.setattr(Memory, "rebind", lambda *arguments: None)
    with pytest.raises(GraphError, match="must compute what the network computes"):
        trace(Net(skip_to_the_input).eval(), (4,))


def test_weights_that_a_hook_computes_can_be_traced() -> None:
    with pytest.warns(FutureWarning):
        inner = nn.utils.weight_norm(nn.Linear(4, 4))
    net = nn.Sequential(inner, nn.ReLU(), nn.Linear(4, 2)).eval()
    net(torch.zeros(1, 4))  # the weight hangs on a graph of gradients now
    points = torch.randn((50, 4), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = net(points).double()
    found = Program(trace(net, (4,))).forward(points.double())[-1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


class Casting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.float())  # type: ignore[no-any-return]


def test_a_cast_is_named() -> None:
    with pytest.raises(GraphError, match=r"must run in double precision, got: .*; drop casts such as x.float\(\)"):
        trace(Casting().eval(), (4,))


def test_within_inference_mode() -> None:
    with torch.inference_mode():
        graph = trace(Net(skip_after_module).eval(), (4,))
    assert [type(node.op).__name__ for node in graph] == ["Input", "Linear", "LeakyReLU", "Add", "Linear"]
