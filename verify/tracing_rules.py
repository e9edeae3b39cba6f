"""Operators of torch as nodes of the graph: one rule each, in tables by module, function and method."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray
from torch import Tensor, nn

from verify.aliasing import Traced, traced_in
from verify.builder import GraphBuilder
from verify.graph import LeakyReLU, Sigmoid, Tanh

BATCH = 2
"""Inputs in the trial run; the batch axis is recognised by it."""


class Unsupported(Exception):  # noqa: N818  an answer, not an error: collected into one UnsupportedOperatorError
    """This one operator cannot be translated; the text says why."""


def _array(value: Any) -> ndarray:
    """A constant as float64, without the batch axis that a broadcastable constant may have."""
    if isinstance(value, Tensor):
        return value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64)


def _constant(value: Any, event: tuple[int, ...]) -> ndarray:
    array = _array(value)
    if array.ndim > len(event):
        if array.ndim > len(event) + 1 or array.shape[0] != 1:
            raise Unsupported("a constant must not have a batch axis of its own")
        array = array[0]
    return array


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _sides(value: Any) -> tuple[int, int, int, int]:
    vertical, horizontal = _pair(value)
    return vertical, vertical, horizontal, horizontal


def positions_of(b: GraphBuilder, x: int) -> Tensor:
    """Positions of the values of `x`, for a batch, in float so that any torch function accepts them."""
    found = torch.from_numpy(b.positions(x)).double()
    return found.expand(BATCH, *found.shape)


def one_input(moved: Tensor) -> ndarray:
    """Positions as whole numbers again, of the first input of the batch."""
    return moved[0].round().long().numpy()


# --- modules: rule(builder, name, output, node of the input, module) -> node ---------------------------------------


def _linear(b: GraphBuilder, name: str, out: Tensor, x: int, m: nn.Linear) -> int:
    return b.linear(x, _array(m.weight), None if m.bias is None else _array(m.bias), name)


def _conv(b: GraphBuilder, name: str, out: Tensor, x: int, m: nn.Conv2d) -> int:
    if m.padding_mode != "zeros":
        raise Unsupported(f"padding_mode must be 'zeros', got {m.padding_mode!r}")
    return _conv_function(b, name, out, Traced(x, out), m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def _batch_norm(b: GraphBuilder, name: str, out: Tensor, x: int, m: nn.BatchNorm1d | nn.BatchNorm2d) -> int:
    if m.running_mean is None or m.running_var is None:
        raise Unsupported("batch norm without running statistics depends on the other inputs of a batch")
    scale = 1.0 / np.sqrt(_array(m.running_var) + m.eps)
    shift = -_array(m.running_mean) * scale
    if m.affine:
        scale, shift = scale * _array(m.weight), shift * _array(m.weight) + _array(m.bias)
    ones = (1,) * (len(b.shape(x)) - 1)
    return b.scale(x, scale.reshape(-1, *ones), shift.reshape(-1, *ones), name)


def _leaky(b: GraphBuilder, name: str, x: int, slope: float) -> int:
    if not 0.0 <= slope <= 1.0:
        raise Unsupported(f"negative_slope must be in [0, 1], got {slope}")
    return b.activation(LeakyReLU(float(slope)), x, name)


def _max_pool(b: GraphBuilder, name: str, out: Tensor, x: int, m: nn.MaxPool2d) -> int:
    if m.return_indices:
        raise Unsupported("return_indices must be False")
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
    return b.gather(x, one_input(function(positions_of(b, x))), name)


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
    x: Traced,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> int:
    if isinstance(weight, Traced) or isinstance(bias, Traced):
        raise Unsupported("weights must be constants")
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
    if isinstance(weight, Traced) or isinstance(bias, Traced):
        raise Unsupported("weights must be constants")
    return b.linear(x.node, _array(weight), None if bias is None else _array(bias), name)


def _matmul(b: GraphBuilder, name: str, out: Tensor, x: Any, y: Any) -> int:
    if not isinstance(x, Traced) or isinstance(y, Traced) or y.ndim != 2:
        raise Unsupported("a product must be input @ constant matrix")
    return b.linear(x.node, _array(y).T, None, name)


def _spread(b: GraphBuilder, name: str, out: Tensor, x: Traced) -> int:
    """Return x in the shape of the output that it is broadcast to; inputs of a batch must not mix."""
    if x.value.shape == out.shape:
        return x.node
    if x.value.ndim != out.ndim:
        raise Unsupported("values that are broadcast to each other must have the same number of axes")
    return _moved(lambda p: p.broadcast_to(p.shape[0], *out.shape[1:]), b, name, x.node)


def _sum(sign: int) -> Callable[..., int]:
    def rule(b: GraphBuilder, name: str, out: Tensor, x: Any, y: Any, *, alpha: float = 1) -> int:
        if isinstance(alpha, Traced):
            raise Unsupported("alpha must be a constant")
        times = sign * float(alpha)
        if isinstance(x, Traced) and isinstance(y, Traced):
            left, right = _spread(b, name, out, x), _spread(b, name, out, y)
            if abs(times) != 1.0:
                return b.add((left, b.scale(right, times, 0.0, name)), (1, 1), name)
            return b.add((left, right), (1, int(times)), name)
        traced, constant = (x, y) if isinstance(x, Traced) else (y, x)
        node = _spread(b, name, out, traced)
        value = _constant(constant, b.shape(node))
        if traced is x:
            return b.scale(node, 1.0, times * value, name)
        return b.scale(node, times, value, name)

    return rule


def _product(b: GraphBuilder, name: str, out: Tensor, x: Any, y: Any) -> int:
    if isinstance(x, Traced) and isinstance(y, Traced):
        raise Unsupported("a product of two values that depend on the input is not affine")
    traced, constant = (x, y) if isinstance(x, Traced) else (y, x)
    node = _spread(b, name, out, traced)
    return b.scale(node, _constant(constant, b.shape(node)), 0.0, name)


def _quotient(b: GraphBuilder, name: str, out: Tensor, x: Any, y: Any) -> int:
    if isinstance(y, Traced):
        raise Unsupported("a value that depends on the input must not be a divisor")
    return _product(b, name, out, x, 1.0 / _array(y))


def _concat(b: GraphBuilder, name: str, out: Tensor, tensors: Any, dim: int = 0, axis: int | None = None) -> int:
    dim = (dim if axis is None else axis) % out.ndim
    if dim == 0 or not all(isinstance(t, Traced) for t in tensors):
        raise Unsupported("concatenation must join values that depend on the input, not along the batch axis")
    return b.concat([t.node for t in tensors], dim - 1, name)


def _reshaping(b: GraphBuilder, name: str, out: Tensor, x: Any, *args: Any, **kwargs: Any) -> int:
    return b.reshape(x.node, out.shape[1:], name)


def _moving(function: Callable[..., Tensor]) -> Callable[..., int]:
    def rule(b: GraphBuilder, name: str, out: Tensor, x: Any, *args: Any, **kwargs: Any) -> int:
        if traced_in((args, kwargs)):
            raise Unsupported("where values go must not depend on the input")
        return _moved(lambda p: function(p, *args, **kwargs), b, name, x.node)

    return rule


def _pad(b: GraphBuilder, name: str, out: Tensor, x: Any, pad: Any, mode: str = "constant", value: Any = None) -> int:
    if mode != "constant" or value not in (None, 0):
        raise Unsupported("padding must be with zeros")
    return _moved(lambda p: F.pad(p + 1, pad) - 1, b, name, x.node)


def _mean(total: bool) -> Callable[..., int]:
    def rule(b: GraphBuilder, name: str, out: Tensor, x: Any, dim: Any = None, keepdim: bool = False) -> int:
        dims = [dim] if isinstance(dim, int) else list(dim or [])
        dims = [d % x.value.ndim for d in dims]
        if not dims or 0 in dims:
            raise Unsupported("a mean or a sum must name its axes, and not the batch axis")
        return b.mean(x.node, [d - 1 for d in dims], keepdim, name, total=total)

    return rule


def _stack(b: GraphBuilder, name: str, out: Tensor, tensors: Any, dim: int = 0) -> int:
    dim %= out.ndim
    if dim == 0 or not all(isinstance(t, Traced) for t in tensors):
        raise Unsupported("a stack must join values that depend on the input, not along the batch axis")
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
        raise Unsupported("batch norm must have training=False and running statistics")
    if traced_in((running_mean, running_var, weight, bias)):
        raise Unsupported("weights must be constants")
    scale = 1.0 / np.sqrt(_array(running_var) + eps)
    shift = -_array(running_mean) * scale
    if weight is not None:
        scale, shift = scale * _array(weight), shift * _array(weight)
    if bias is not None:
        shift = shift + _array(bias)
    ones = (1,) * (len(b.shape(x.node)) - 1)
    return b.scale(x.node, scale.reshape(-1, *ones), shift.reshape(-1, *ones), name)


def _addmm(b: GraphBuilder, name: str, out: Tensor, bias: Any, x: Any, y: Any) -> int:
    if isinstance(bias, Traced):
        raise Unsupported("weights must be constants")
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
        raise Unsupported("dropout must have training=False")
    return int(x.node)


def _identity(b: GraphBuilder, name: str, out: Tensor, x: Any, *args: Any, **kwargs: Any) -> int:
    if out.dtype != x.value.dtype:
        raise Unsupported("a change of precision is not verified")
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
    F.leaky_relu_: _leaky_keyword,
    torch.sigmoid_: _activation(Sigmoid()),
    torch.tanh_: _activation(Tanh()),
    torch.neg_: lambda b, name, out, x: b.scale(x.node, -1.0, 0.0, name),
    operator.isub: _sum(-1),
    operator.imul: _product,
    operator.itruediv: _quotient,
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
    "sigmoid_": _activation(Sigmoid()),
    "tanh_": _activation(Tanh()),
    "mul_": _product,
    "div_": _quotient,
    "neg_": lambda b, name, out, x: b.scale(x.node, -1.0, 0.0, name),
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
