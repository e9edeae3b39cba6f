"""ONNX files become graphs: against onnxruntime, in the spellings of benchmark files, and refused with a reason."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verify.errors import FileFormatError, GraphError, UnsupportedOperatorError
from verify.kernels import Program
from verify.onnx_import import load_onnx, onnx_original

RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    constants: dict[str, np.ndarray],
    *,
    opset: int = 17,
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "out"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), str(path))
    return path


def agrees(path: Path) -> None:
    graph = load_onnx(path)
    points = np.random.default_rng(1).standard_normal((4, *graph.input_shape))
    found = Program(graph).forward(torch.from_numpy(points))[-1].numpy()
    np.testing.assert_allclose(found, onnx_original(path)(points), rtol=1e-4, atol=1e-4)


def test_acas_xu_style(tmp_path: Path) -> None:
    """Input (1, 1, 1, 5), Sub of a mean, Flatten, MatMul and Add of constants, Relu."""
    node = helper.make_node
    nodes = [
        node("Sub", ["x", "mean"], ["a"]),
        node("Flatten", ["a"], ["b"]),
        node("MatMul", ["b", "W"], ["c"]),
        node("Add", ["c", "v"], ["d"]),
        node("Relu", ["d"], ["e"]),
        node("MatMul", ["e", "V"], ["f"]),
        node("Add", ["w", "f"], ["y"]),
    ]
    constants = {"mean": array(1, 1, 1, 5), "W": array(5, 7), "v": array(7), "V": array(7, 5), "w": array(5)}
    agrees(save(tmp_path / "acas.onnx", nodes, (1, 1, 1, 5), constants))


def test_column_vectors(tmp_path: Path) -> None:
    """W @ x on column vectors without a batch axis, Transpose, Unsqueeze, Squeeze."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["W", "x"], ["a"]),
        node("Add", ["a", "v"], ["b"]),
        node("LeakyRelu", ["b"], ["c"], alpha=0.1),
        node("Transpose", ["c"], ["d"], perm=[1, 0]),
        node("Unsqueeze", ["d", "axes"], ["e"]),
        node("Squeeze", ["e", "axes"], ["f"]),
        node("Gemm", ["f", "V", "w"], ["y"], alpha=0.5, beta=2.0, transB=1),
    ]
    constants = {"W": array(4, 3), "v": array(4, 1), "axes": np.array([0]), "V": array(2, 4), "w": array(2)}
    agrees(save(tmp_path / "columns.onnx", nodes, (3, 1), constants))


def test_convolutional(tmp_path: Path) -> None:
    """Asymmetric padding, groups, dilation, batch norm, all poolings, a residual Add, Concat, a computed Reshape."""
    node = helper.make_node
    nodes = [
        node("Div", ["x", "std"], ["n"]),
        node("Conv", ["n", "K", "k"], ["a"], strides=[2, 2], pads=[0, 1, 1, 0], kernel_shape=[3, 3]),
        node("BatchNormalization", ["a", "g", "h", "m", "s"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("Conv", ["c", "G"], ["d"], group=2, dilations=[2, 2], pads=[2, 2, 2, 2]),
        node("Add", ["d", "c"], ["e"]),
        node("Sigmoid", ["e"], ["f"]),
        node("MaxPool", ["f"], ["p"], kernel_shape=[2, 2], strides=[1, 1], pads=[1, 0, 0, 1]),
        node("AveragePool", ["f"], ["q"], kernel_shape=[2, 2], strides=[1, 1], auto_pad="SAME_UPPER"),
        node("Concat", ["p", "q"], ["r"], axis=1),
        node("Pad", ["r", "pads"], ["t"]),
        node("Shape", ["t"], ["shape"]),
        node("Slice", ["shape", "zero", "one"], ["batch"]),
        node("Concat", ["batch", "rest"], ["target"], axis=0),
        node("Reshape", ["t", "target"], ["u"]),
        node("Tanh", ["u"], ["v"]),
        node("MatMul", ["v", "W"], ["w"]),
        node("GlobalAveragePool", ["e"], ["z0"]),
        node("Flatten", ["z0"], ["z1"]),
        node("Mul", ["z1", "scale"], ["z2"]),
        node("Sub", ["w", "z2"], ["y"]),
    ]
    constants = {
        "std": np.float32(0.5),
        "K": array(4, 2, 3, 3),
        "k": array(4),
        "g": array(4),
        "h": array(4),
        "m": array(4),
        "s": np.abs(array(4)),
        "G": array(4, 2, 3, 3),
        "pads": np.array([0, 0, 1, 0, 0, 0, 0, 1]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "rest": np.array([-1]),
        "W": array(8 * 4 * 4, 4) / 10,
        "scale": array(4),
    }
    agrees(save(tmp_path / "conv.onnx", nodes, ("batch", 2, 6, 6), constants))


def test_exported_by_torch_style_slices(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Split", ["x", "sizes"], ["a", "b"], axis=1),
        node("Neg", ["a"], ["c"]),
        node("Gather", ["b", "index"], ["d"], axis=1),
        node("Concat", ["c", "d"], ["e"], axis=1),
        node("ReduceMean", ["e"], ["f"], axes=[2], keepdims=0),
        node("Dropout", ["f"], ["g"]),
        node("Identity", ["g"], ["y"]),
    ]
    constants = {"sizes": np.array([2, 3]), "index": np.array([2, 0, 0])}
    agrees(save(tmp_path / "slices.onnx", nodes, (1, 5, 3), constants))


def test_all_unsupported_operators_are_named_at_once(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [node("Exp", ["x"], ["a"]), node("Relu", ["a"], ["b"]), node("Mul", ["x", "x"], ["c"])]
    nodes.append(node("Softmax", ["c"], ["y"]))
    with pytest.raises(UnsupportedOperatorError) as caught:
        load_onnx(save(tmp_path / "bad.onnx", nodes, (1, 3), {}))
    for word in ("Exp", "Softmax", "product of two values"):
        assert word in str(caught.value)


@pytest.mark.parametrize("opset", [7, 9, 12, 14, 17])
def test_batch_norm_of_every_operator_set(tmp_path: Path, opset: int) -> None:
    """The reference evaluator normalises by the batch at 9 to 13, and cannot run 7: no reason to refuse the file."""
    nodes = [
        helper.make_node("BatchNormalization", ["x", "g", "h", "m", "s"], ["a"], epsilon=0.01),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    constants = {"g": array(3), "h": array(3), "m": array(3), "s": np.abs(array(3)) + 0.1}
    agrees(save(tmp_path / "norm.onnx", nodes, (1, 3, 2, 2), constants, opset=opset))


def test_sums_and_constants_that_are_joined(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Sum", ["a", "c", "x", "d"], ["b"]),
        node("Concat", ["b", "e", "a"], ["f"], axis=1),
        node("ReduceSum", ["f", "axes"], ["g"], keepdims=0),
        node("ReduceSum", ["f", "none"], ["h"], noop_with_empty_axes=1),
        node("ReduceMean", ["h"], ["i"], axes=[-1], keepdims=0),
        node("Sub", ["g", "i"], ["y"]),
    ]
    constants = {"c": array(4), "d": array(1, 3, 4), "e": array(1, 2, 4), "axes": np.array([2])}
    constants["none"] = np.zeros(0, dtype=np.int64)
    agrees(save(tmp_path / "sum.onnx", nodes, (1, 3, 4), constants))


def test_without_onnxruntime_the_reference_evaluator_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import verify.onnx_import as module

    path = save(tmp_path / "net.onnx", [helper.make_node("Relu", ["x"], ["y"])], (1, 3), {})

    def absent(model: object) -> object:
        raise ImportError("No module named 'onnxruntime'")

    monkeypatch.setattr(module, "_runtime", absent)
    agrees(path)
    monkeypatch.setattr(module, "_reference", lambda model: lambda names, given: [np.full((1, 3), 7.0)])
    with pytest.raises(GraphError, match="must compute what the file does"):
        load_onnx(path)
    monkeypatch.setattr(module, "_reference", absent)
    with pytest.raises(GraphError, match="an evaluator must run the file"):
        load_onnx(path)


def test_packed_files_and_outputs_without_a_shape(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [node("MatMul", ["x", "W"], ["a"]), node("Relu", ["a"], ["y"])]
    plain = save(tmp_path / "plain.onnx", nodes, (1, 3), {"W": array(3, 2)})
    model = onnx.load(str(plain))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    packed = tmp_path / "net.onnx.gz"
    packed.write_bytes(gzip.compress(model.SerializeToString()))
    agrees(packed)
    assert load_onnx(packed).digest == load_onnx(plain).digest
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(FileFormatError, match=r"net.onnx.gz: is no valid ONNX model"):
        load_onnx(packed)


@pytest.mark.parametrize("inferred", [True, False])
def test_outputs_whose_shape_is_computed_by_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inferred: bool
) -> None:
    """Shape, Gather, Concat, Reshape: the output's shape is in no declaration, whether inference finds it or not."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "W"], ["a"]),
        node("Shape", ["a"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"], axis=0),
        node("Concat", ["batch", "rest"], ["target"], axis=0),
        node("Relu", ["a"], ["b"]),
        node("Reshape", ["b", "target"], ["y"]),
    ]
    constants = {"W": array(3, 4), "zero": np.array([0]), "rest": np.array([2, 2])}
    path = save(tmp_path / "net.onnx", nodes, (1, 3), constants)
    model = onnx.load(str(path))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, str(path))
    if not inferred:
        monkeypatch.setattr(onnx.shape_inference, "infer_shapes", lambda model, **options: model)
    agrees(path)
    assert load_onnx(path)[-1].shape == (4,)


def test_malformed_files(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"this is no protocol buffer")
    with pytest.raises(FileFormatError, match=r"garbage.onnx: is no valid ONNX model: \w+"):
        load_onnx(garbage)
    with pytest.raises(FileFormatError, match="there is no such file"):
        load_onnx(tmp_path / "missing.onnx")
    node = helper.make_node("Relu", ["x"], ["y"])
    with pytest.raises(FileFormatError, match="only the first axis"):
        load_onnx(save(tmp_path / "symbolic.onnx", [node], (1, "n"), {}))
    whole = onnx.load(str(save(tmp_path / "whole.onnx", [node], (1, 2), {})))
    for value in (*whole.graph.input, *whole.graph.output):
        value.type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(whole, str(tmp_path / "whole.onnx"))
    with pytest.raises(FileFormatError, match="real numbers"):
        load_onnx(tmp_path / "whole.onnx")
    mismatched = helper.make_node("MatMul", ["x", "W"], ["y"])
    with pytest.raises(GraphError, match="must fit the last axis"):
        load_onnx(save(tmp_path / "shape.onnx", [mismatched], (1, 3), {"W": array(4, 2)}))


def test_what_an_operator_cannot_take_is_refused_with_its_name(tmp_path: Path) -> None:
    """A negative padding cuts off; the evaluator of constants has no such thing."""
    graph = helper.make_graph(
        [helper.make_node("Pad", ["x", "p"], ["y"], name="cut")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([0, 0, -1, 0, 0, 0, 0, 2]), "p")],
    )
    path = tmp_path / "cut.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match=r"cut\.onnx: cut: Pad: ValueError"):
        load_onnx(path)
