"""From an `nn.Module` to a graph, by `torch.fx`.

The module is traced symbolically and run once on two inputs: everything that has no batch axis (sizes, constants,
arithmetic on buffers) is a plain number by then, and only operations on the input's values have to be translated. What is
written in place is followed through the memory that values share (`verify.aliasing`). At the end the translation is
compared with the module itself in float64, at points of both signs and several sizes: a sample, and so a second line of
defence only.
"""

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from verify.aliasing import Memory, Traced, traced_in
from verify.builder import GraphBuilder
from verify.errors import GraphError, UnsupportedOperatorError
from verify.graph import Gather, Graph
from verify.kernels import Program
from verify.tracing_rules import BATCH, FUNCTIONS, METHODS, MODULES, Unsupported, one_input, positions_of

SUPPORTED = (
    "Linear, Conv2d, ReLU, LeakyReLU, Sigmoid, Tanh, MaxPool2d, AvgPool2d, adaptive pooling, BatchNorm1d/2d (eval), "
    "addition, subtraction, scaling by constants, concatenation, stack, flatten, reshape, permute, flip, slices, ZeroPad2d, "
    "mean, sum, Dropout (eval), Identity"
)


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
    # Tensors made in inference mode do not count how often they are written, which is what tells of operations in place.
    with torch.inference_mode(False), torch.no_grad():
        return _translate(_copied(module, shape).cpu().double(), tuple(shape))


def _translate(double: nn.Module, shape: tuple[int, ...]) -> Graph:
    tracer = _Tracer()
    try:
        graph_of_calls = tracer.trace(double)
        traced = fx.GraphModule(tracer.root, graph_of_calls, type(double).__name__)
    except Exception as error:  # fx raises many kinds on data-dependent control flow
        raise UnsupportedOperatorError([f"{type(double).__name__}: torch.fx cannot trace it ({error})"]) from error
    generator = torch.Generator().manual_seed(0)
    trial = torch.rand((BATCH, *shape), generator=generator, dtype=torch.float64)
    try:
        double(trial.clone())  # in-place layers must not touch the trial inputs
    except Exception as error:
        if "dtype" in str(error):
            raise GraphError(
                f"the network must run in double precision, got: {error}; drop casts such as x.float() from its forward"
            ) from error
        raise GraphError(f"the network must accept inputs of shape {shape}, got: {error}") from error
    graph = _Translator(traced, shape).translate(trial.clone())
    program = Program(graph)
    for points in (trial, *_elsewhere(trial.shape, generator)):
        expected = double(points.clone()).reshape(BATCH, -1)
        difference = float((program.forward(points)[-1] - expected).abs().max())
        if not difference <= 1e-9 * (1.0 + float(expected.abs().max())):
            raise GraphError(
                f"the translated graph must compute what the network computes, got a difference of {difference}"
            )
    return graph


class _Proxy(fx.Proxy):
    """A value on its way through `forward` whose augmented assignments are recorded as what they are.

    `h += x` writes into h, and so into whatever shares its memory; an ordinary proxy would record h = h + x.
    """

    def __iadd__(self, other: Any) -> Any:
        return self._written(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._written(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._written(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._written(operator.itruediv, other)

    def __ifloordiv__(self, other: Any) -> Any:
        return self._written(operator.ifloordiv, other)

    def __imod__(self, other: Any) -> Any:
        return self._written(operator.imod, other)

    def __ipow__(self, other: Any) -> Any:
        return self._written(operator.ipow, other)

    def __iand__(self, other: Any) -> Any:
        return self._written(operator.iand, other)

    def __ior__(self, other: Any) -> Any:
        return self._written(operator.ior, other)

    def __ixor__(self, other: Any) -> Any:
        return self._written(operator.ixor, other)

    def __ilshift__(self, other: Any) -> Any:
        return self._written(operator.ilshift, other)

    def __irshift__(self, other: Any) -> Any:
        return self._written(operator.irshift, other)

    def _written(self, operation: Callable[..., Any], other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def _copied(module: nn.Module, shape: Sequence[int]) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except RuntimeError as error:
        # Weights that a hook computes from others (torch.nn.utils.weight_norm) cannot be copied while they hang on a graph
        # of gradients; one call without gradients computes them anew, as every call does.
        parameter = next(module.parameters(), torch.zeros(()))
        with torch.no_grad():
            try:
                module(parameter.new_zeros((BATCH, *shape)))
                return copy.deepcopy(module)
            except Exception:
                raise UnsupportedOperatorError([f"{type(module).__name__}: cannot be copied ({error})"]) from error


def _elsewhere(shape: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Return further points of comparison: of both signs and several sizes, so that activations are on either side."""
    sizes = (0.01, 0.1, 1.0, 1.0, 1.0, 5.0, 5.0, 25.0)
    return [size * (2.0 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1.0) for size in sizes]


class _Translator:
    def __init__(self, traced: fx.GraphModule, shape: tuple[int, ...]) -> None:
        self.traced = traced
        self.builder = GraphBuilder(shape)
        self.modules = dict(traced.named_modules())
        self.memory = Memory()
        weights = (*traced.parameters(), *traced.buffers())
        self.kept = {weight.untyped_storage().data_ptr() for weight in weights if weight.numel()}

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
                values[node] = self._made(0, trial) if inputs == 1 else (node.args[0] if node.args else None)
            elif node.op == "get_attr":
                target: Any = self.traced
                for part in str(node.target).split("."):
                    target = getattr(target, part)
                values[node] = target
            elif node.op == "output":
                output = fx.node.map_arg(node.args[0], lambda n: values[n])
            else:
                values[node] = self._step(node, values, refused)
        if isinstance(output, Traced) and output.stale is not None:
            refused.append(f"output: {_overwritten(output.stale)}")
        if refused:
            raise UnsupportedOperatorError(refused, SUPPORTED)
        if not isinstance(output, Traced):
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
        traced = traced_in((args, kwargs))
        tensors = _tensors((_strip(args), _strip(kwargs)))
        before = self.memory.versions(tensors)
        result = function(*_strip(args), **_strip(kwargs))
        written = [t for t, old, new in zip(tensors, before, self.memory.versions(tensors), strict=True) if old != new]
        stale = next((value.stale for value in traced if value.stale is not None), None)
        if stale is not None:
            refused.append(f"{node.name}: {label} ({_overwritten(stale)})")
            return self._stand_in(result) if isinstance(result, Tensor) and result.ndim else result
        if traced and written and not _in_place(written, result, traced):
            refused.append(f"{node.name}: {label} (it writes into a part of a value, or into a constant)")
            return self._stand_in(result) if isinstance(result, Tensor) and result.ndim else result
        if not traced and any(t.untyped_storage().data_ptr() in self.kept for t in written):
            refused.append(f"{node.name}: {label} (it writes into a parameter or a buffer)")
            return result
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
                raise Unsupported("the first axis must stay the batch axis")
            translated = rule(self.builder, node.name, result, *args, **kwargs)
        except Unsupported as reason:
            refused.append(f"{node.name}: {label} ({reason})")
            return self._stand_in(result)
        except TypeError as error:  # an argument that the rule does not know
            refused.append(f"{node.name}: {label} ({error})")
            return self._stand_in(result)
        if self.builder.shape(translated) != tuple(result.shape[1:]):
            raise GraphError(f"{node.name}: translated to {self.builder.shape(translated)}, is {result.shape[1:]}")
        if written:
            self.memory.rebind(written[0], translated, node.name, self.builder.reshape)
        return self._made(translated, result)

    def _made(self, node: int, value: Tensor) -> Traced:
        return self.memory.add(Traced(node, value))

    def _stand_in(self, result: Tensor) -> Traced:
        """Return something in place of what cannot be translated, so that everything behind it is judged as well."""
        shape = result.shape[1:]
        index = np.full(shape.numel(), -1, dtype=np.int64)
        return self._made(self.builder.append(Gather(index), (0,), shape, "refused"), result)

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
        positions = positions_of(self.builder, x.node)
        function, _ = self._callable(node)
        pieces = function(positions, *_strip(args[1:]), **_strip(kwargs))
        traced = []
        for i, (piece, value) in enumerate(zip(pieces, result, strict=True)):
            if value.shape[:1] != (BATCH,):
                refused.append(f"{node.name}: {label} (the batch axis must not be split)")
                return tuple(self._stand_in(r) for r in result)
            traced.append(self._made(self.builder.gather(x.node, one_input(piece), f"{node.name}[{i}]"), value))
        return tuple(traced)


def _strip(tree: Any) -> Any:
    """Replace traced values by their concrete ones, in the nested arguments of an fx node."""
    if isinstance(tree, Traced):
        return tree.value
    if isinstance(tree, slice):
        return slice(_strip(tree.start), _strip(tree.stop), _strip(tree.step))
    if isinstance(tree, tuple | list):
        return type(tree)(_strip(item) for item in tree) if type(tree) in (tuple, list) else tuple(map(_strip, tree))
    return {key: _strip(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _tensors(tree: Any) -> list[Tensor]:
    """All tensors in nested arguments."""
    if isinstance(tree, Tensor):
        return [tree]
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple | list) else ()
    return [found for item in items for found in _tensors(item)]


def _in_place(written: Sequence[Tensor], result: Any, traced: Sequence[Traced]) -> bool:
    """Whether one traced value was overwritten, as a whole, by the operation's result."""
    target = written[0]
    return (
        isinstance(result, Tensor)
        and all(t.data_ptr() == target.data_ptr() and t.shape == target.shape for t in written)
        and result.data_ptr() == target.data_ptr()
        and (result.shape, result.stride()) == (target.shape, target.stride())
        and any(value.value is target for value in traced)
    )


def _overwritten(name: str) -> str:
    return f"it reads a value of which {name} has overwritten a part in place"
