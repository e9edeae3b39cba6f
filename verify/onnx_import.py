"""From an ONNX file to a graph, read with the `onnx` package itself.

Converters to torch are unsuitable as a base of proofs: the best-kept one (onnx2torch) needs torchvision's compiled
operators merely to be imported, makes modules with shape arithmetic, and keeps the fixed batch sizes that benchmark files
contain, on which a trace with two inputs fails. The benchmark networks need some thirty operators, whose definitions are in
the ONNX standard, so they are translated one by one; the result is compared with onnxruntime, or where that is absent or
refuses the file with the reference evaluator of the `onnx` package (which, as of 1.23, normalises batches of operator sets
9 to 13 by statistics of the batch), and a graph that computes something else is never returned.

Shapes are static: symbolic axes (the batch) are set to 1, and a leading axis of length 1 is dropped from the graph's input.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from verify.attack import Original
from verify.builder import GraphBuilder
from verify.errors import FileFormatError, GraphError, UnsupportedOperatorError
from verify.graph import Graph, LeakyReLU, Sigmoid, Tanh
from verify.kernels import Program
from verify.packed import read_bytes


class _Unsupported(Exception):  # noqa: N818  an answer, not an error: collected into one UnsupportedOperatorError
    """This one operator cannot be translated; the text says why."""


def load_onnx(path: str | Path) -> Graph:
    """Read a feed-forward network with one input and one output.

    Args:
        path: An ONNX file of any operator set that the installed `onnx` knows.

    Returns:
        The graph. Its input has the file's input shape without a leading axis of length 1; its output is flat.

    Raises:
        FileFormatError: If the file is no ONNX model, or has more than one input or output; with the reason.
        UnsupportedOperatorError: If operators are not covered; names all.
        GraphError: If the translation disagrees with the evaluator that it is compared with, or none can run the file.
    """
    model = _read(Path(path))
    return _Translator(model, str(path)).translate()


def onnx_original(path: str | Path) -> Original:
    """Return the network as onnxruntime runs it (the `onnx` package's reference evaluator where that is absent)."""
    model = _read(Path(path))
    name, shape = _single_input(model, str(path))
    kind = _input_type(model, name)
    try:
        run_all = _runtime(model)
    except Exception:  # it is not installed, or refuses a file that the standard allows
        run_all = _reference(model)

    def run(points: ndarray) -> ndarray:
        # One by one: many files fix the batch at 1.
        outputs = [run_all(None, {name: point.reshape(shape).astype(kind)})[0] for point in points]
        return np.stack([np.asarray(output, dtype=np.float64).reshape(-1) for output in outputs])

    return run


def _runtime(model: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; an unused constant is none of the user's business
    data = model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run


def _reference(model: Any) -> Any:
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(model).run


def _read(path: Path) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise FileFormatError(f"{path}: reading ONNX files needs the package onnx, which is not installed") from error
    try:
        model = _load(onnx, path)
        onnx.checker.check_model(_checkable(model))
    except FileNotFoundError as error:
        raise FileFormatError(f"{path}: there is no such file") from error
    except Exception as error:  # protobuf's and the checker's own kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileFormatError(f"{path}: is no valid ONNX model: {reason}") from error
    return model


def _load(onnx: Any, path: Path) -> Any:
    """Return the model of a file, packed or not; what it leaves unsaid about its output's shape is inferred."""
    data = read_bytes(path)
    # Only `onnx.load` of the path itself finds tensors kept in files beside it.
    model = onnx.load(str(path)) if data == path.read_bytes() else onnx.load_model_from_string(data)
    if _without_shape(model):
        # With the values of shapes, which exporters compute inside the network: Shape, Gather, Concat, Reshape.
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return model


def _without_shape(model: Any) -> list[Any]:
    kinds = [output.type.tensor_type for output in model.graph.output if output.type.HasField("tensor_type")]
    return [kind for kind in kinds if not kind.HasField("shape")]


def _checkable(model: Any) -> Any:
    """Return a model that the checker, which wants every output to have a shape, accepts without one."""
    if not _without_shape(model):
        return model
    # Nobody here reads it: the translation finds the shape out. The model itself is run, and keeps what it says.
    copy = type(model)()
    copy.CopyFrom(model)
    for kind in _without_shape(copy):
        kind.shape.SetInParent()
    return copy


def _single_input(model: Any, path: str) -> tuple[str, tuple[int, ...]]:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        counts = len(inputs), len(model.graph.output)
        raise FileFormatError(f"{path}: a network must have one input and one output, got {counts[0]} and {counts[1]}")
    axes = inputs[0].type.tensor_type.shape.dim
    shape = tuple(int(axis.dim_value) if axis.dim_value > 0 else 1 for axis in axes)
    symbolic = [i for i, axis in enumerate(axes) if axis.dim_value <= 0]
    if symbolic not in ([], [0]):
        raise FileFormatError(f"{path}: only the first axis of the input may be symbolic, got axes {symbolic}")
    return str(inputs[0].name), shape


def _input_type(model: Any, name: str) -> Any:
    import onnx

    (value,) = (value for value in model.graph.input if value.name == name)
    return onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


class _Value:
    """A value that depends on the input: its node and its full ONNX shape (the node's shape is the same)."""

    def __init__(self, node: int) -> None:
        self.node = node


class _Translator:
    def __init__(self, model: Any, path: str) -> None:
        import onnx

        self.onnx, self.model, self.path = onnx, model, path
        self.versions = {entry.domain: entry.version for entry in model.opset_import}
        self.name, self.shape = _single_input(model, path)
        kind = np.dtype(_input_type(model, self.name))
        if not np.issubdtype(kind, np.floating):
            raise FileFormatError(f"{path}: the input must be of real numbers (float16, float32, float64), got {kind}")
        event = self.shape[1:] if len(self.shape) > 1 and self.shape[0] == 1 else self.shape
        self.builder = GraphBuilder(event)
        self.values: dict[str, Any] = {
            tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self.values[self.name] = _Value(self.builder.reshape(0, self.shape, "input"))

    def translate(self) -> Graph:
        refused: list[str] = []
        unknown: set[str] = set()
        for number, node in enumerate(self.model.graph.node):
            label = f"{node.name or f'node {number}'}: {node.op_type}"
            rule = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            inputs = [self.values.get(name) for name in node.input]
            depends = any(isinstance(value, _Value) for value in inputs) or bool(unknown & set(node.input))
            try:
                if depends and rule is None and node.op_type != "Shape":
                    raise _Unsupported("")
                if unknown & set(node.input):
                    unknown.update(node.output)
                    continue
                results = self._results(node, rule, inputs, depends)
            except _Unsupported as reason:
                refused.append(label + (f" ({reason})" if str(reason) else ""))
                unknown.update(node.output)
                continue
            except (GraphError, ValueError, TypeError, KeyError, IndexError) as error:
                # Attributes, shapes or constants that do not fit each other, or that the evaluator of constants refuses.
                said = error if isinstance(error, GraphError) else f"{type(error).__name__}: {error}"
                raise GraphError(f"{self.path}: {label}: {said}") from error
            for name, value in zip(node.output, results, strict=False):
                self.values[name] = value
        if refused:
            raise UnsupportedOperatorError(refused, ", ".join(sorted(OPERATORS)))
        output = self.values.get(self.model.graph.output[0].name)
        if not isinstance(output, _Value):
            raise FileFormatError(f"{self.path}: the output must depend on the input")
        size = math.prod(self.builder.shape(output.node))
        graph = self.builder.build(self.builder.reshape(output.node, (size,), "output"))
        self._compare(graph)
        return graph

    def _results(self, node: Any, rule: "Rule | None", inputs: list[Any], depends: bool) -> Sequence[Any]:
        if node.op_type == "Shape" and depends:
            return [np.array(self.builder.shape(inputs[0].node), dtype=np.int64)]
        if not depends:
            return self.evaluate(node, inputs)
        assert rule is not None
        result = rule(self, node, inputs)
        return [_Value(result)] if isinstance(result, int) else result

    def evaluate(self, node: Any, inputs: Sequence[Any]) -> list[Any]:
        """Run one operator on constants."""
        from onnx.reference import ReferenceEvaluator

        helper, onnx = self.onnx.helper, self.onnx
        given = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype), None)
            for name, value in given.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
        model = helper.make_model(
            helper.make_graph([node], "single", infos, outputs), opset_imports=list(self.model.opset_import)
        )
        return list(ReferenceEvaluator(model).run(None, given))

    def attributes(self, node: Any) -> dict[str, Any]:
        """Return an operator's attributes, texts decoded."""
        found = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}

    def moved(self, node: Any, inputs: list[Any]) -> list[Any]:
        """Anything that only moves values: send positions through it; zeros that it adds become -1."""
        value = inputs[0]
        if not isinstance(value, _Value) or any(isinstance(other, _Value) for other in inputs[1:]):
            raise _Unsupported("where values go must not depend on the input")
        positions = (self.builder.positions(value.node) + 1).astype(np.float64)
        results = self.evaluate(node, [positions, *inputs[1:]])
        return [
            _Value(self.builder.gather(value.node, np.asarray(r).round().astype(np.int64) - 1, node.name))
            for r in results
        ]

    def _compare(self, graph: Graph) -> None:
        kind = _input_type(self.model, self.name)
        # Of both signs and several sizes: pixels alone may leave all activations on one side.
        rng = np.random.default_rng(0)
        sizes = np.array([1.0, 1.0, 0.1, 1.0, 5.0]).reshape(-1, *(1 for _ in graph.input_shape))
        points = sizes * rng.uniform(-1.0, 1.0, (5, *graph.input_shape))
        points[:2] = np.abs(points[:2])
        points = points.astype(kind)
        expected = self._expected([point.reshape(self.shape) for point in points])
        actual = Program(graph).forward(torch.from_numpy(points.astype(np.float64)))[-1].numpy()
        scale = 1.0 + np.abs(actual).max()
        difference = float(np.abs(actual - np.stack(expected)).max())
        if not difference <= 1e-3 * scale:
            raise GraphError(
                f"{self.path}: the graph must compute what the file does, got a difference of {difference}"
            )

    def _expected(self, points: Sequence[ndarray]) -> list[ndarray]:
        """Return the file's outputs, flat, by the first evaluator that can run it."""
        reasons = []
        for build in (_runtime, _reference):
            try:
                run_all = build(self.model)
                return [np.asarray(run_all(None, {self.name: point})[0]).reshape(-1) for point in points]
            except Exception as error:  # of either package, of any kind
                reasons.append(" ".join(f"{type(error).__name__}: {error}".split()))
        raise GraphError(f"{self.path}: an evaluator must run the file to compare with, got {'; '.join(reasons)}")


Rule = Callable[[_Translator, Any, list[Any]], Any]


def _reshape(t: _Translator, node: Any, inputs: list[Any]) -> int:
    """Reshape, Flatten, Squeeze, Unsqueeze, Identity...: the shape is what the operator makes of an array of this one."""
    value = inputs[0]
    if not isinstance(value, _Value) or any(isinstance(other, _Value) for other in inputs[1:]):
        raise _Unsupported("a shape must not depend on the input")
    positions = t.builder.positions(value.node).astype(np.float64)
    (shaped,) = t.evaluate(node, [positions, *inputs[1:]])[:1]
    return t.builder.reshape(value.node, np.shape(shaped), node.name)


def _same(t: _Translator, node: Any, inputs: list[Any]) -> int:
    return int(inputs[0].node)


def _dropout(t: _Translator, node: Any, inputs: list[Any]) -> int:
    if len(inputs) > 2 and inputs[2] is not None and bool(np.asarray(inputs[2])):
        raise _Unsupported("dropout in training mode")
    return int(inputs[0].node)


def _cast(t: _Translator, node: Any, inputs: list[Any]) -> int:
    kinds = t.onnx.TensorProto
    if t.attributes(node)["to"] not in (kinds.FLOAT, kinds.DOUBLE):
        raise _Unsupported("a change to another precision or kind is not verified")
    return int(inputs[0].node)


def _expanded(t: _Translator, value: _Value, shape: tuple[int, ...], name: str) -> int:
    """Return the value broadcast to a shape."""
    if t.builder.shape(value.node) == shape:
        return value.node
    return t.builder.gather(value.node, np.broadcast_to(t.builder.positions(value.node), shape), name)


def _add(sign: int) -> Rule:
    def rule(t: _Translator, node: Any, inputs: list[Any]) -> int:
        left, right = inputs
        shapes = [t.builder.shape(v.node) if isinstance(v, _Value) else np.shape(v) for v in inputs]
        shape = np.broadcast_shapes(*shapes)
        if isinstance(left, _Value) and isinstance(right, _Value):
            nodes = [_expanded(t, v, shape, node.name) for v in (left, right)]
            return t.builder.add(nodes, (1, sign), node.name)
        if isinstance(left, _Value):
            return t.builder.scale(_expanded(t, left, shape, node.name), 1.0, sign * _double(right), node.name)
        return t.builder.scale(_expanded(t, right, shape, node.name), float(sign), _double(left), node.name)

    return rule


def _multiply(t: _Translator, node: Any, inputs: list[Any]) -> int:
    left, right = inputs
    if isinstance(left, _Value) and isinstance(right, _Value):
        raise _Unsupported("a product of two values that depend on the input is not affine")
    value, constant = (left, right) if isinstance(left, _Value) else (right, left)
    shape = np.broadcast_shapes(t.builder.shape(value.node), np.shape(constant))
    return t.builder.scale(_expanded(t, value, shape, node.name), _double(constant), 0.0, node.name)


def _divide(t: _Translator, node: Any, inputs: list[Any]) -> int:
    if isinstance(inputs[1], _Value):
        raise _Unsupported("a value that depends on the input must not be a divisor")
    return _multiply(t, node, [inputs[0], 1.0 / _double(inputs[1])])


def _double(constant: Any) -> ndarray:
    return np.asarray(constant, dtype=np.float64)


def _swapped(t: _Translator, x: int, name: str) -> int:
    return t.builder.gather(x, np.swapaxes(t.builder.positions(x), -1, -2), name)


def _matmul(t: _Translator, node: Any, inputs: list[Any]) -> int:
    left, right = inputs
    b = t.builder
    if isinstance(left, _Value) and isinstance(right, _Value):
        raise _Unsupported("a product of two values that depend on the input is not affine")
    if isinstance(left, _Value):
        matrix = _double(right)
        if matrix.ndim == 1:
            product = b.linear(left.node, matrix[None], None, node.name)
            return b.reshape(product, b.shape(product)[:-1], node.name)
        while matrix.ndim > 2 and matrix.shape[0] == 1:
            matrix = matrix[0]
        if matrix.ndim != 2:
            raise _Unsupported(f"a constant factor must be a matrix, got the shape {matrix.shape}")
        return b.linear(left.node, matrix.T, None, node.name)
    matrix, x = _double(left), right.node
    if matrix.ndim != 2:
        raise _Unsupported(f"a constant factor must be a matrix, got the shape {matrix.shape}")
    if len(b.shape(x)) == 1:
        return b.linear(x, matrix, None, node.name)
    return _swapped(t, b.linear(_swapped(t, x, node.name), matrix, None, node.name), node.name)


def _gemm(t: _Translator, node: Any, inputs: list[Any]) -> int:
    given = t.attributes(node)
    left, right = inputs[0], inputs[1]
    if not isinstance(left, _Value) or isinstance(right, _Value):
        raise _Unsupported("Gemm must multiply the value that depends on the input by a constant on its right")
    x = _swapped(t, left.node, node.name) if given.get("transA", 0) else left.node
    matrix = _double(right) * given.get("alpha", 1.0)
    product = t.builder.linear(x, matrix if given.get("transB", 0) else matrix.T, None, node.name)
    if len(inputs) < 3 or inputs[2] is None:
        return product
    if isinstance(inputs[2], _Value):
        if given.get("beta", 1.0) != 1.0:
            raise _Unsupported("beta must be 1 where the summand depends on the input")
        summand = _expanded(t, inputs[2], t.builder.shape(product), node.name)
        return t.builder.add((product, summand), (1, 1), node.name)
    shift = _double(inputs[2]) * given.get("beta", 1.0)
    # One layer rather than two where the constant is a bias.
    rows = t.builder.shape(product)[:-1]
    if math.prod(rows) == 1:
        bias = np.broadcast_to(shift, t.builder.shape(product)).reshape(-1)
        t.builder.nodes.pop()
        return t.builder.linear(x, matrix if given.get("transB", 0) else matrix.T, bias, node.name)
    return t.builder.scale(product, 1.0, shift, node.name)


def _geometry(t: _Translator, node: Any, x: int, kernel: Sequence[int]) -> tuple[Any, ...]:
    """Return stride, padding and dilation of a 2-D convolution or pooling."""
    given = t.attributes(node)
    stride = tuple(given.get("strides", (1, 1)))
    dilation = tuple(given.get("dilations", (1, 1)))
    automatic = given.get("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        sides = []
        for axis in (0, 1):
            length = t.builder.shape(x)[1 + axis]
            total = max(
                0, (-(-length // stride[axis]) - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1 - length
            )
            small, large = total // 2, total - total // 2
            sides += [small, large] if automatic == "SAME_UPPER" else [large, small]
        padding = tuple(sides)
    else:
        pads = given.get("pads", (0, 0, 0, 0)) if automatic == "NOTSET" else (0, 0, 0, 0)
        padding = (pads[0], pads[2], pads[1], pads[3])
    return (int(stride[0]), int(stride[1])), tuple(int(p) for p in padding), (int(dilation[0]), int(dilation[1]))


def _image(t: _Translator, value: _Value, name: str) -> int:
    """Return a value without its batch axis of length 1, as convolutions and poolings want it here."""
    shape = t.builder.shape(value.node)
    if len(shape) != 4 or shape[0] != 1:
        raise _Unsupported(f"only 2-D images (1, channels, height, width) are supported, got the shape {shape}")
    return t.builder.reshape(value.node, shape[1:], name)


def _batched(t: _Translator, x: int, name: str) -> int:
    return t.builder.reshape(x, (1, *t.builder.shape(x)), name)


def _conv(t: _Translator, node: Any, inputs: list[Any]) -> int:
    if isinstance(inputs[1], _Value) or (len(inputs) > 2 and isinstance(inputs[2], _Value)):
        raise _Unsupported("weights must be constants")
    x, weight = _image(t, inputs[0], node.name), _double(inputs[1])
    stride, padding, dilation = _geometry(t, node, x, weight.shape[2:])
    bias = _double(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else None
    groups = int(t.attributes(node).get("group", 1))
    made = t.builder.conv2d(
        x, weight, bias, node.name, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    return _batched(t, made, node.name)


def _batch_norm(t: _Translator, node: Any, inputs: list[Any]) -> int:
    given = t.attributes(node)
    if given.get("training_mode", 0):
        raise _Unsupported("batch normalisation in training mode depends on the other inputs of a batch")
    gain, shift, mean, variance = (_double(v) for v in inputs[1:5])
    scale = gain / np.sqrt(variance + given.get("epsilon", 1e-5))
    shape = t.builder.shape(inputs[0].node)
    ones = (1,) * (len(shape) - 2)
    return t.builder.scale(
        inputs[0].node, scale.reshape(-1, *ones), (shift - mean * scale).reshape(-1, *ones), node.name
    )


def _leaky(t: _Translator, node: Any, inputs: list[Any]) -> int:
    slope = float(t.attributes(node).get("alpha", 0.01))
    if not 0.0 <= slope <= 1.0:
        raise _Unsupported(f"alpha must be in [0, 1], got {slope}")
    return t.builder.activation(LeakyReLU(slope), inputs[0].node, node.name)


def _activation(op: LeakyReLU | Sigmoid | Tanh) -> Rule:
    return lambda t, node, inputs: t.builder.activation(op, inputs[0].node, node.name)


def _pool(average: bool) -> Rule:
    def rule(t: _Translator, node: Any, inputs: list[Any]) -> int:
        given = t.attributes(node)
        x = _image(t, inputs[0], node.name)
        kernel = tuple(int(k) for k in given["kernel_shape"])
        if len(kernel) != 2 or len(node.output) > 1 or given.get("storage_order", 0):
            raise _Unsupported("only 2-D pooling without indices is supported")
        stride, padding, dilation = _geometry(t, node, x, kernel)
        ceil = bool(given.get("ceil_mode", 0))
        pair = (kernel[0], kernel[1])
        if average:
            if dilation != (1, 1):
                raise _Unsupported("average pooling must not be dilated")
            counted = bool(given.get("count_include_pad", 0))
            made = t.builder.avg_pool(x, node.name, pair, stride, padding, ceil_mode=ceil, count_include_pad=counted)
        else:
            made = t.builder.max_pool(x, node.name, pair, stride, padding, dilation, ceil)
        return _batched(t, made, node.name)

    return rule


def _global_pool(average: bool) -> Rule:
    return lambda t, node, inputs: _batched(
        t, t.builder.adaptive_pool(_image(t, inputs[0], node.name), node.name, (1, 1), average=average), node.name
    )


def _concat(t: _Translator, node: Any, inputs: list[Any]) -> int:
    nodes = [v.node if isinstance(v, _Value) else t.builder.constant(_double(v), node.name) for v in inputs]
    axis = int(t.attributes(node)["axis"])
    return t.builder.concat(nodes, axis % len(t.builder.shape(nodes[0])), node.name)


def _reduce(*, total: bool) -> Rule:
    def rule(t: _Translator, node: Any, inputs: list[Any]) -> int:
        given = t.attributes(node)
        axes = given.get("axes", inputs[1] if len(inputs) > 1 else None)
        if isinstance(axes, _Value):
            raise _Unsupported("axes must not depend on the input")
        chosen = [] if axes is None else [int(a) for a in np.asarray(axes).reshape(-1)]
        if not chosen and given.get("noop_with_empty_axes", 0):
            return int(inputs[0].node)
        every = list(range(len(t.builder.shape(inputs[0].node))))
        keep = bool(given.get("keepdims", 1))
        return t.builder.mean(inputs[0].node, chosen or every, keep, node.name, total=total)

    return rule


def _sum(t: _Translator, node: Any, inputs: list[Any]) -> int:
    """Any number of summands: one addition after the other."""
    total, add = inputs[0], _add(1)
    for other in inputs[1:]:
        if isinstance(total, _Value) or isinstance(other, _Value):
            total = _Value(add(t, node, [total, other]))
        else:
            total = _double(total) + _double(other)
    return int(total.node)


def _pad(t: _Translator, node: Any, inputs: list[Any]) -> list[Any]:
    value = inputs[2] if len(inputs) > 2 and inputs[2] is not None else t.attributes(node).get("value", 0.0)
    if t.attributes(node).get("mode", "constant") != "constant" or float(np.asarray(value)) != 0.0:
        raise _Unsupported("padding must be with zeros")
    # The constant of the operator must have the type of the positions that are sent through it.
    rest = [np.float64(0.0) if i == 2 and other is not None else other for i, other in enumerate(inputs)][1:]
    return t.moved(node, [inputs[0], *rest])


OPERATORS: dict[str, Rule] = {
    "Add": _add(1),
    "AveragePool": _pool(True),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _divide,
    "Dropout": _dropout,
    "Flatten": _reshape,
    "Gather": lambda t, node, inputs: t.moved(node, inputs),
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool(True),
    "GlobalMaxPool": _global_pool(False),
    "Identity": _same,
    "LeakyRelu": _leaky,
    "MatMul": _matmul,
    "MaxPool": _pool(False),
    "Mul": _multiply,
    "Neg": lambda t, node, inputs: t.builder.scale(inputs[0].node, -1.0, 0.0, node.name),
    "Pad": _pad,
    "ReduceMean": _reduce(total=False),
    "ReduceSum": _reduce(total=True),
    "Relu": _activation(LeakyReLU(0.0)),
    "Reshape": _reshape,
    "Sigmoid": _activation(Sigmoid()),
    "Slice": lambda t, node, inputs: t.moved(node, inputs),
    "Split": lambda t, node, inputs: t.moved(node, inputs),
    "Squeeze": _reshape,
    "Sub": _add(-1),
    "Sum": _sum,
    "Tanh": _activation(Tanh()),
    "Transpose": lambda t, node, inputs: t.moved(node, inputs),
    "Unsqueeze": _reshape,
}
