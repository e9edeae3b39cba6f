"""From an `nn.Module` to a graph, by `torch.fx`.

The module is traced symbolically and run once on two inputs: everything that has no batch axis (sizes, constants,
arithmetic on buffers) is a plain number by then, and only operations on the input's values have to be translated. At the
end the translation is compared with the module itself in float64; a graph that computes something else is never
returned.
"""

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray
from torch import Tensor, fx, nn

from verify.builder import GraphBuilder
from verify.errors import GraphError, UnsupportedOperatorError
from verify.graph import Gather, Graph, LeakyReLU, Sigmoid, Tanh
from verify.kernels import Program

SUPPORTED = (
    "Linear, Conv2d, ReLU, LeakyReLU, Sigmoid, Tanh, MaxPool2d, AvgPool2d, adaptive pooling, BatchNorm1d/2d (eval), "
    "addition, subtraction, scaling by constants, concatenation, stack, flatten, reshape, permute, flip, slices, ZeroPad2d, "
    "mean, sum, Dropout (eval), Identity"
)

BATCH = 2
"""Inputs in the trial run; the batch axis is recognised by it."""


class _Unsupported(Exception):  # noqa: N818  an answer, not an error: collected into one UnsupportedOperatorError
    """This one operator cannot be translated; the text says why."""


class _Traced:
    """A value that depends on the input: its node, and its concrete value in the trial run."""

    def __init__(self, node: int, value: Tensor) -> None:
        self.node, self.value = node, value


def trace(module: nn.Module, shape: Sequence[int]) -> Graph:
    """Translate a feed-forward module in eval mode into the graph that all bounds work on.

    Args:
        module: The network, normalisation included. Its parameters are read once, as float64, and copied.
        shape: Shape of one input, without batch.

    Returns:
        The graph; it computes what the module computes in exact arithmetic.

    Raises:
        UnsupportedOperatorError: If operators are not covered, or batch norm or dropout are in training mode; names all.
        GraphError: If the module does not accept inputs of this shape, or mixes the inputs of a batch.

    Example:
        >>> graph = trace(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (1, 2, 2))
        >>> [type(node.op).__name__ for node in graph]
        ['Input', 'Reshape', 'Linear', 'LeakyReLU', 'Linear']
    """
    training = [
        f"{name or 'the module'}: {type(part).__name__} in training mode (call .eval() first)"
        for name, part in module.named_modules()
        if part.training and isinstance(part, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd)
    ]
    if training:
        raise UnsupportedOperatorError(training)
    double = copy.deepcopy(module).cpu().double()
    try:
        traced = fx.symbolic_trace(double)
    except Exception as error:  # fx raises many kinds on data-dependent control flow
        raise UnsupportedOperatorError([f"{type(module).__name__}: torch.fx cannot trace it ({error})"]) from error
    generator = torch.Generator().manual_seed(0)
    trial = torch.rand((BATCH, *shape), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        try:
            expected = double(trial.clone())  # in-place layers must not touch the trial inputs
        except Exception as error:
            raise GraphError(f"the network must accept inputs of shape {tuple(shape)}, got: {error}") from error
        graph = _Translator(traced, tuple(shape)).translate(trial.clone())
        actual = Program(graph).forward(trial)[-1]
    if not torch.allclose(actual, expected.reshape(BATCH, -1), rtol=1e-9, atol=1e-9):
        difference = float((actual - expected.reshape(BATCH, -1)).abs().max())
        raise GraphError(
            f"the translated graph must compute what the network computes, got a difference of {difference}"
        )
    return graph


class _Translator:
    def __init__(self, traced: fx.GraphModule, shape: tuple[int, ...]) -> None:
        self.traced = traced
        self.builder = GraphBuilder(shape)
        self.modules = dict(traced.named_modules())

    def translate(self, trial: Tensor) -> Graph:
        values: dict[fx.Node, Any] = {}
        refused: list[str] = []
        output: Any = None
        inputs = 0
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                inputs += 1
                if inputs > 1 and not node.args:
                    refused.append(f"{node.name}: a second input; networks must have exactly one")
                values[node] = _Traced(0, trial) if inputs == 1 else (node.args[0] if node.args else None)
            elif node.op == "get_attr":
                target: Any = self.traced
                for part in str(node.target).split("."):
                    target = getattr(target, part)
                values[node] = target
            elif node.op == "output":
                output = fx.node.map_arg(node.args[0], lambda n: values[n])
            else:
                values[node] = self._step(node, values, refused)
        if refused:
            raise UnsupportedOperatorError(refused, SUPPORTED)
        if not isinstance(output, _Traced):
            raise GraphError(
                f"the network must return one tensor that depends on its input, got {type(output).__name__}"
            )
        return self.builder.build(output.node)

    def _step(self, node: fx.Node, values: dict[fx.Node, Any], refused: list[str]) -> Any:
        args = fx.node.map_arg(node.args, lambda n: values[n])
        kwargs = fx.node.map_arg(node.kwargs, lambda n: values[n])
        function, label = self._callable(node)
        if node.target is operator.getitem and isinstance(args[0], tuple | list):
            pieces: Any = args[0]
            return pieces[args[1]]  # one piece of a chunk or split
        result = function(*_strip(args), **_strip(kwargs))
        traced = _traced((args, kwargs))
        if traced and isinstance(result, tuple | list) and any(isinstance(r, Tensor) for r in result):
            return self._pieces(node, args, kwargs, result, label, refused)
        if not traced or not isinstance(result, Tensor):
            return result  # sizes, dtypes and constants
        rule = self._rule(node)
        if rule is None:
            refused.append(f"{node.name}: {label}")
            return self._stand_in(result)
        try:
            if result.ndim == 0 or result.shape[0] != BATCH:
                raise _Unsupported("the first axis must stay the batch axis")
            translated = rule(self.builder, node.name, result, *args, **kwargs)
        except _Unsupported as reason:
            refused.append(f"{node.name}: {label} ({reason})")
            return self._stand_in(result)
        except TypeError as error:  # an argument that the rule does not know
            refused.append(f"{node.name}: {label} ({error})")
            return self._stand_in(result)
        if self.builder.shape(translated) != tuple(result.shape[1:]):
            raise GraphError(f"{node.name}: translated to {self.builder.shape(translated)}, is {result.shape[1:]}")
        return _Traced(translated, result)

    def _stand_in(self, result: Tensor) -> _Traced:
        """Return something in place of what cannot be translated, so that everything behind it is judged as well."""
        shape = result.shape[1:]
        index = np.full(shape.numel(), -1, dtype=np.int64)
        return _Traced(self.builder.append(Gather(index), (0,), shape, "refused"), result)

    def _callable(self, node: fx.Node) -> tuple[Callable[..., Any], str]:
        if node.op == "call_module":
            part = self.modules[str(node.target)]
            return part, f"{type(part).__name__} at {node.target!r}"
        if node.op == "call_method":
            name = str(node.target)
            return (lambda x, *a, **k: getattr(x, name)(*a, **k)), f"method {name}"
        function = node.target
        assert callable(function)
        return function, f"function {getattr(function, '__name__', str(function))}"

    def _rule(self, node: fx.Node) -> Callable[..., int] | None:
        if node.op == "call_module":
            part = self.modules[str(node.target)]
            for kind, rule in MODULES.items():
                if isinstance(part, kind):
                    return lambda b, name, out, x: rule(b, name, out, x.node, part)
            return None
        return METHODS.get(str(node.target)) if node.op == "call_method" else FUNCTIONS.get(node.target)

    def _pieces(self, node: fx.Node, args: Any, kwargs: Any, result: Any, label: str, refused: list[str]) -> Any:
        """Chunk, split and unbind: every piece is a slice, found by sending positions through the same function."""
        x = args[0]
        if str(getattr(node.target, "__name__", node.target)) not in {"chunk", "split", "unbind"}:
            refused.append(f"{node.name}: {label}")
            return tuple(self._stand_in(r) if isinstance(r, Tensor) else r for r in result)
        positions = _positions(self.builder, x.node)
        function, _ = self._callable(node)
        pieces = function(positions, *_strip(args[1:]), **_strip(kwargs))
        traced = []
        for i, (piece, value) in enumerate(zip(pieces, result, strict=True)):
            if value.shape[:1] != (BATCH,):
                refused.append(f"{node.name}: {label} (the batch axis must not be split)")
                return tuple(self._stand_in(r) for r in result)
            traced.append(_Traced(self.builder.gather(x.node, _one(piece), f"{node.name}[{i}]"), value))
        return tuple(traced)


def _strip(tree: Any) -> Any:
    """Replace traced values by their concrete ones, in the nested arguments of an fx node."""
    if isinstance(tree, _Traced):
        return tree.value
    if isinstance(tree, slice):
        return slice(_strip(tree.start), _strip(tree.stop), _strip(tree.step))
    if isinstance(tree, tuple | list):
        return type(tree)(_strip(item) for item in tree) if type(tree) in (tuple, list) else tuple(map(_strip, tree))
    return {key: _strip(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _traced(tree: Any) -> list[_Traced]:
    """All traced values in the nested arguments of an fx node."""
    if isinstance(tree, _Traced):
        return [tree]
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple | list) else ()
    return [found for item in items for found in _traced(item)]


def _array(value: Any) -> ndarray:
    """A constant as float64, without the batch axis that a broadcastable constant may have."""
    if isinstance(value, Tensor):
        return value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64)


def _constant(value: Any, event: tuple[int, ...]) -> ndarray:
    array = _array(value)
    if array.ndim > len(event):
        if array.ndim > len(event) + 1 or array.shape[0] != 1:
            raise _Unsupported("a constant must not have a batch axis of its own")
        array = array[0]
    return array


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _sides(value: Any) -> tuple[int, int, int, int]:
    vertical, horizontal = _pair(value)
    return vertical, vertical, horizontal, horizontal


def _positions(b: GraphBuilder, x: int) -> Tensor:
    """Positions of the values of `x`, for a batch, in float so that any torch function accepts them."""
    positions = torch.from_numpy(b.positions(x)).double()
    return positions.expand(BATCH, *positions.shape)


def _one(moved: Tensor) -> ndarray:
    return moved[0].round().long().numpy()


# --- modules: rule(builder, name, output, node of the input, module) -> node ---------------------------------------


def _linear(b: GraphBuilder, name: str, out: Tensor, x: int, m: nn.Linear) -> int:
    return b.linear(x, _array(m.weight), None if m.bias is None else _array(m.bias), name)


def _conv(b: GraphBuilder, name: str, out: Tensor, x: int, m: nn.Conv2d) -> int:
    if m.padding_mode != "zeros":
        raise _Unsupported(f"padding_mode must be 'zeros', got {m.padding_mode!r}")
    return _conv_function(b, name, out, _Traced(x, out), m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def _batch_norm(b: GraphBuilder, name: str, out: Tensor, x: int, m: nn.BatchNorm1d | nn.BatchNorm2d) -> int:
    if m.running_mean is None or m.running_var is None:
        raise _Unsupported("batch norm without running statistics depends on the other inputs of a batch")
    scale = 1.0 / np.sqrt(_array(m.running_var) + m.eps)
    shift = -_array(m.running_mean) * scale
    if m.affine:
        scale, shift = scale * _array(m.weight), shift * _array(m.weight) + _array(m.bias)
    ones = (1,) * (len(b.shape(x)) - 1)
    return b.scale(x, scale.reshape(-1, *ones), shift.reshape(-1, *ones), name)


def _leaky(b: GraphBuilder, name: str, x: int, slope: float) -> int:
    if not 0.0 <= slope <= 1.0:
        raise _Unsupported(f"negative_slope must be in [0, 1], got {slope}")
    return b.activation(LeakyReLU(float(slope)), x, name)


def _max_pool(b: GraphBuilder, name: str, out: Tensor, x: int, m: nn.MaxPool2d) -> int:
    if m.return_indices:
        raise _Unsupported("return_indices must be False")
    stride = m.kernel_size if m.stride is None else m.stride
    return b.max_pool(x, name, _pair(m.kernel_size), _pair(stride), _sides(m.padding), _pair(m.dilation), m.ceil_mode)


def _avg_pool(b: GraphBuilder, name: str, out: Tensor, x: int, m: nn.AvgPool2d) -> int:
    return b.avg_pool(
        x,
        name,
        _pair(m.kernel_size),
        _pair(m.stride),
        _sides(m.padding),
        ceil_mode=m.ceil_mode,
        count_include_pad=m.count_include_pad,
        divisor=m.divisor_override,
    )


def _reshape(b: GraphBuilder, name: str, out: Tensor, x: int, m: Any = None) -> int:
    return b.reshape(x, out.shape[1:], name)


def _same(b: GraphBuilder, name: str, out: Tensor, x: int, m: Any = None) -> int:
    return x


def _moved(function: Callable[[Tensor], Tensor], b: GraphBuilder, name: str, x: int) -> int:
    """Anything that only moves values: send positions through it and read off where they went."""
    return b.gather(x, _one(function(_positions(b, x))), name)


def _zero_pad(b: GraphBuilder, name: str, out: Tensor, x: int, m: nn.ZeroPad2d) -> int:
    # Positions start at 1 on the way, so that the zeros of the padding become -1.
    return _moved(lambda p: m(p + 1) - 1, b, name, x)


MODULES: dict[type[nn.Module], Callable[..., int]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.ReLU: lambda b, name, out, x, m: b.activation(LeakyReLU(0.0), x, name),
    nn.LeakyReLU: lambda b, name, out, x, m: _leaky(b, name, x, m.negative_slope),
    nn.Sigmoid: lambda b, name, out, x, m: b.activation(Sigmoid(), x, name),
    nn.Tanh: lambda b, name, out, x, m: b.activation(Tanh(), x, name),
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: lambda b, name, out, x, m: b.adaptive_pool(x, name, _pair(out.shape[2:]), average=True),
    nn.AdaptiveMaxPool2d: lambda b, name, out, x, m: b.adaptive_pool(x, name, _pair(out.shape[2:]), average=False),
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Flatten: _reshape,
    nn.Unflatten: _reshape,
    nn.Dropout: _same,
    nn.Dropout1d: _same,
    nn.Dropout2d: _same,
    nn.Identity: _same,
    nn.ZeroPad2d: _zero_pad,
}


# --- functions and methods: rule(builder, name, output, *args, **kwargs) -> node ----------------------------------


def _conv_function(
    b: GraphBuilder,
    name: str,
    out: Tensor,
    x: _Traced,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> int:
    if isinstance(weight, _Traced) or isinstance(bias, _Traced):
        raise _Unsupported("weights must be constants")
    kernel, dilation = weight.shape[2:], _pair(dilation)
    if padding == "same":
        total = [dilation[a] * (kernel[a] - 1) for a in (0, 1)]
        sides = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    else:
        sides = _sides(0 if padding == "valid" else padding)
    return b.conv2d(
        x.node,
        _array(weight),
        None if bias is None else _array(bias),
        name,
        stride=_pair(stride),
        padding=sides,
        dilation=dilation,
        groups=groups,
    )


def _linear_function(b: GraphBuilder, name: str, out: Tensor, x: Any, weight: Any, bias: Any = None) -> int:
    if isinstance(weight, _Traced) or isinstance(bias, _Traced):
        raise _Unsupported("weights must be constants")
    return b.linear(x.node, _array(weight), None if bias is None else _array(bias), name)


def _matmul(b: GraphBuilder, name: str, out: Tensor, x: Any, y: Any) -> int:
    if not isinstance(x, _Traced) or isinstance(y, _Traced) or y.ndim != 2:
        raise _Unsupported("a product must be input @ constant matrix")
    return b.linear(x.node, _array(y).T, None, name)


def _spread(b: GraphBuilder, name: str, out: Tensor, x: _Traced) -> int:
    """Return x in the shape of the output that it is broadcast to; inputs of a batch must not mix."""
    if x.value.shape == out.shape:
        return x.node
    if x.value.ndim != out.ndim:
        raise _Unsupported("values that are broadcast to each other must have the same number of axes")
    return _moved(lambda p: p.broadcast_to(p.shape[0], *out.shape[1:]), b, name, x.node)


def _sum(sign: int) -> Callable[..., int]:
    def rule(b: GraphBuilder, name: str, out: Tensor, x: Any, y: Any, *, alpha: float = 1) -> int:
        if isinstance(alpha, _Traced):
            raise _Unsupported("alpha must be a constant")
        times = sign * float(alpha)
        if isinstance(x, _Traced) and isinstance(y, _Traced):
            left, right = _spread(b, name, out, x), _spread(b, name, out, y)
            if abs(times) != 1.0:
                return b.add((left, b.scale(right, times, 0.0, name)), (1, 1), name)
            return b.add((left, right), (1, int(times)), name)
        traced, constant = (x, y) if isinstance(x, _Traced) else (y, x)
        node = _spread(b, name, out, traced)
        value = _constant(constant, b.shape(node))
        if traced is x:
            return b.scale(node, 1.0, times * value, name)
        return b.scale(node, times, value, name)

    return rule


def _product(b: GraphBuilder, name: str, out: Tensor, x: Any, y: Any) -> int:
    if isinstance(x, _Traced) and isinstance(y, _Traced):
        raise _Unsupported("a product of two values that depend on the input is not affine")
    traced, constant = (x, y) if isinstance(x, _Traced) else (y, x)
    node = _spread(b, name, out, traced)
    return b.scale(node, _constant(constant, b.shape(node)), 0.0, name)


def _quotient(b: GraphBuilder, name: str, out: Tensor, x: Any, y: Any) -> int:
    if isinstance(y, _Traced):
        raise _Unsupported("a value that depends on the input must not be a divisor")
    return _product(b, name, out, x, 1.0 / _array(y))


def _concat(b: GraphBuilder, name: str, out: Tensor, tensors: Any, dim: int = 0, axis: int | None = None) -> int:
    dim = (dim if axis is None else axis) % out.ndim
    if dim == 0 or not all(isinstance(t, _Traced) for t in tensors):
        raise _Unsupported("concatenation must join values that depend on the input, not along the batch axis")
    return b.concat([t.node for t in tensors], dim - 1, name)


def _reshaping(b: GraphBuilder, name: str, out: Tensor, x: Any, *args: Any, **kwargs: Any) -> int:
    return b.reshape(x.node, out.shape[1:], name)


def _moving(function: Callable[..., Tensor]) -> Callable[..., int]:
    def rule(b: GraphBuilder, name: str, out: Tensor, x: Any, *args: Any, **kwargs: Any) -> int:
        if _traced((args, kwargs)):
            raise _Unsupported("where values go must not depend on the input")
        return _moved(lambda p: function(p, *args, **kwargs), b, name, x.node)

    return rule


def _pad(b: GraphBuilder, name: str, out: Tensor, x: Any, pad: Any, mode: str = "constant", value: Any = None) -> int:
    if mode != "constant" or value not in (None, 0):
        raise _Unsupported("padding must be with zeros")
    return _moved(lambda p: F.pad(p + 1, pad) - 1, b, name, x.node)


def _mean(total: bool) -> Callable[..., int]:
    def rule(b: GraphBuilder, name: str, out: Tensor, x: Any, dim: Any = None, keepdim: bool = False) -> int:
        dims = [dim] if isinstance(dim, int) else list(dim or [])
        dims = [d % x.value.ndim for d in dims]
        if not dims or 0 in dims:
            raise _Unsupported("a mean or a sum must name its axes, and not the batch axis")
        return b.mean(x.node, [d - 1 for d in dims], keepdim, name, total=total)

    return rule


def _stack(b: GraphBuilder, name: str, out: Tensor, tensors: Any, dim: int = 0) -> int:
    dim %= out.ndim
    if dim == 0 or not all(isinstance(t, _Traced) for t in tensors):
        raise _Unsupported("a stack must join values that depend on the input, not along the batch axis")
    single = [*out.shape[1:dim], 1, *out.shape[dim + 1 :]]
    return b.concat([b.reshape(t.node, single, name) for t in tensors], dim - 1, name)


def _batch_norm_function(
    b: GraphBuilder,
    name: str,
    out: Tensor,
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> int:
    if training or running_mean is None or running_var is None:
        raise _Unsupported("batch norm must have training=False and running statistics")
    if _traced((running_mean, running_var, weight, bias)):
        raise _Unsupported("weights must be constants")
    scale = 1.0 / np.sqrt(_array(running_var) + eps)
    shift = -_array(running_mean) * scale
    if weight is not None:
        scale, shift = scale * _array(weight), shift * _array(weight)
    if bias is not None:
        shift = shift + _array(bias)
    ones = (1,) * (len(b.shape(x.node)) - 1)
    return b.scale(x.node, scale.reshape(-1, *ones), shift.reshape(-1, *ones), name)


def _addmm(b: GraphBuilder, name: str, out: Tensor, bias: Any, x: Any, y: Any) -> int:
    if isinstance(bias, _Traced):
        raise _Unsupported("weights must be constants")
    node = _matmul(b, name, out, x, y)
    return b.scale(node, 1.0, _constant(bias, b.shape(node)), name)


def _relu(b: GraphBuilder, name: str, out: Tensor, x: Any, inplace: bool = False) -> int:
    return b.activation(LeakyReLU(0.0), x.node, name)


def _leaky_keyword(b: GraphBuilder, name: str, out: Tensor, x: Any, *args: Any, **kwargs: Any) -> int:
    slope = kwargs.get("negative_slope", args[0] if args else 0.01)
    return _leaky(b, name, x.node, slope)


def _activation(op: Sigmoid | Tanh) -> Callable[..., int]:
    return lambda b, name, out, x: b.activation(op, x.node, name)


def _max_pool_function(
    b: GraphBuilder,
    name: str,
    out: Tensor,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> int:
    module = nn.MaxPool2d(kernel_size, stride, padding, dilation, return_indices, ceil_mode)
    return _max_pool(b, name, out, x.node, module)


def _avg_pool_function(b: GraphBuilder, name: str, out: Tensor, x: Any, *args: Any, **kwargs: Any) -> int:
    return _avg_pool(b, name, out, x.node, nn.AvgPool2d(*args, **kwargs))


def _inactive(b: GraphBuilder, name: str, out: Tensor, x: Any, *args: Any, **kwargs: Any) -> int:
    active = kwargs.get("training", args[1] if len(args) > 1 else True)
    if active:
        raise _Unsupported("dropout must have training=False")
    return int(x.node)


def _identity(b: GraphBuilder, name: str, out: Tensor, x: Any, *args: Any, **kwargs: Any) -> int:
    if out.dtype != x.value.dtype:
        raise _Unsupported("a change of precision is not verified")
    return int(x.node)


FUNCTIONS: dict[Any, Callable[..., int]] = {
    F.linear: _linear_function,
    F.conv2d: _conv_function,
    torch.conv2d: _conv_function,
    torch.matmul: _matmul,
    operator.matmul: _matmul,
    F.relu: _relu,
    torch.relu: _relu,
    torch.relu_: _relu,
    F.leaky_relu: _leaky_keyword,
    torch.sigmoid: _activation(Sigmoid()),
    F.sigmoid: _activation(Sigmoid()),
    torch.tanh: _activation(Tanh()),
    F.tanh: _activation(Tanh()),
    F.max_pool2d: _max_pool_function,
    torch.max_pool2d: _max_pool_function,
    F.avg_pool2d: _avg_pool_function,
    F.adaptive_avg_pool2d: lambda b, name, out, x, size: b.adaptive_pool(
        x.node, name, _pair(out.shape[2:]), average=True
    ),
    F.dropout: _inactive,
    F.dropout2d: _inactive,
    F.pad: _pad,
    operator.add: _sum(1),
    operator.iadd: _sum(1),
    torch.add: _sum(1),
    operator.sub: _sum(-1),
    torch.sub: _sum(-1),
    operator.mul: _product,
    torch.mul: _product,
    operator.truediv: _quotient,
    torch.div: _quotient,
    operator.neg: lambda b, name, out, x: b.scale(x.node, -1.0, 0.0, name),
    torch.neg: lambda b, name, out, x: b.scale(x.node, -1.0, 0.0, name),
    torch.cat: _concat,
    torch.concat: _concat,
    torch.flatten: _reshaping,
    torch.reshape: _reshaping,
    torch.squeeze: _reshaping,
    torch.unsqueeze: _reshaping,
    torch.permute: _moving(torch.permute),
    torch.transpose: _moving(torch.transpose),
    operator.getitem: _moving(operator.getitem),
    torch.mean: _mean(total=False),
    torch.sum: _mean(total=True),
    torch.stack: _stack,
    torch.flip: _moving(torch.flip),
    torch.swapaxes: _moving(torch.swapaxes),
    torch.movedim: _moving(torch.movedim),
    torch.mm: _matmul,
    torch.addmm: _addmm,
    F.batch_norm: _batch_norm_function,
}
METHODS: dict[str, Callable[..., int]] = {
    "relu": _relu,
    "relu_": _relu,
    "sigmoid": _activation(Sigmoid()),
    "tanh": _activation(Tanh()),
    "add": _sum(1),
    "add_": _sum(1),
    "sub": _sum(-1),
    "sub_": _sum(-1),
    "mul": _product,
    "div": _quotient,
    "neg": lambda b, name, out, x: b.scale(x.node, -1.0, 0.0, name),
    "matmul": _matmul,
    "view": _reshaping,
    "reshape": _reshaping,
    "flatten": _reshaping,
    "unflatten": _reshaping,
    "squeeze": _reshaping,
    "unsqueeze": _reshaping,
    "permute": _moving(lambda p, *a: p.permute(*a)),
    "transpose": _moving(lambda p, *a: p.transpose(*a)),
    "mean": _mean(total=False),
    "sum": _mean(total=True),
    "flip": _moving(lambda p, *a: p.flip(*a)),
    "swapaxes": _moving(lambda p, *a: p.swapaxes(*a)),
    "movedim": _moving(lambda p, *a: p.movedim(*a)),
    "mm": _matmul,
    "contiguous": _identity,
    "clone": _identity,
    "detach": _identity,
    "double": _identity,
    "to": _identity,
    "type": _identity,
}
