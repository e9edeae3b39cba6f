"""ONNX files as classifiers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from model_tools import batch, scores

from certify.errors import ModelError
from certify.models import (
    load_model,
)
from smoothing.errors import ClassifierError

# ----------------------------------------------------------------------------------------------------------------- onnx


def linear_graph(
    path: Path,
    *,
    batch_size: int | str = "N",
    shape: tuple[int | str, ...] = (1, 2, 2),
    kind: str = "float",
    labels: bool = False,
    external: str | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Write a graph that flattens and multiplies; return its weights and bias."""
    onnx = pytest.importorskip("onnx")
    helper, element = onnx.helper, {"float": onnx.TensorProto.FLOAT, "double": onnx.TensorProto.DOUBLE}[kind]
    rng = np.random.default_rng(seed)
    dtype = {"float": np.float32, "double": np.float64}[kind]
    values = math.prod(size for size in shape if isinstance(size, int)) if isinstance(shape[0], int) else 4
    weight, bias = rng.normal(size=(values, 3)).astype(dtype), rng.normal(size=3).astype(dtype)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["labels"], axis=1, keepdims=0),
    ]
    outputs = [
        helper.make_tensor_value_info("labels", onnx.TensorProto.INT64, [batch_size]),
        helper.make_tensor_value_info("scores", element, [batch_size, 3]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", element, [batch_size, *shape])],
        outputs[:1] if labels else outputs,
        [onnx.numpy_helper.from_array(weight, "weight"), onnx.numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    if external is None:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=0)
    return weight, bias


@pytest.mark.parametrize("n", [1, 4, 11])
@pytest.mark.parametrize("batch_size", ["N", 4])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_onnx_scores(tmp_path: Path, n: int, batch_size: int | str, kind: str) -> None:
    path = tmp_path / "g.onnx"
    weight, bias = linear_graph(path, batch_size=batch_size, kind=kind)
    loaded = load_model(f"onnx:{path}")
    x = batch((1, 2, 2), n)
    np.testing.assert_allclose(scores(loaded, x).numpy(), x.flatten(1).numpy() @ weight + bias, rtol=1e-5, atol=1e-6)
    assert (loaded.num_classes, loaded.input_shape) == (3, (1, 2, 2))
    assert ("fixed batch of 4" in loaded.description) == (batch_size == 4)
    assert load_model(str(path)).digest == loaded.digest


def test_onnx_lets_nan_through(tmp_path: Path) -> None:
    linear_graph(tmp_path / "g.onnx", batch_size=2)
    loaded = load_model(f"onnx:{tmp_path / 'g.onnx'}")
    x = batch((1, 2, 2))
    x[1, 0, 0, 0] = float("nan")
    assert torch.isnan(scores(loaded, x)).any(1).tolist() == [False, True, False]


def test_onnx_labels(tmp_path: Path) -> None:
    weight, bias = linear_graph(tmp_path / "g.onnx", labels=True)
    loaded = load_model(f"onnx:{tmp_path / 'g.onnx'}", num_classes=3)
    x = batch((1, 2, 2), 20)
    assert scores(loaded, x).tolist() == (x.flatten(1).numpy() @ weight + bias).argmax(1).tolist()
    assert loaded.num_classes == 3


def test_onnx_shapes(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    linear_graph(path, shape=(4, 1))
    flat = load_model(f"onnx:{path}")
    assert flat.input_shape is None
    assert load_model(f"onnx:{path}", input_shape=(1, 2, 2)).input_shape == (1, 2, 2)
    assert scores(flat, batch((1, 2, 2))).shape == (3, 3)
    with pytest.raises(ClassifierError, match="takes inputs of 4x1, got 1x3x3"):
        scores(flat, batch((1, 3, 3)))
    linear_graph(path, shape=("C", "H", "W"))
    assert load_model(f"onnx:{path}").input_shape is None
    assert load_model(f"onnx:{path}", input_shape=(4, 1, 1)).input_shape == (4, 1, 1)
    with pytest.raises(ClassifierError, match=r"failed on a batch of shape \(3, 1, 3, 3\)"):
        scores(load_model(f"onnx:{path}"), batch((1, 3, 3)))


@pytest.mark.parametrize("batch_size", ["N", 4])
def test_onnx_with_channels_last(tmp_path: Path, batch_size: int | str) -> None:
    path = tmp_path / "g.onnx"
    weight, bias = linear_graph(path, shape=(2, 5, 3), batch_size=batch_size)
    loaded = load_model(f"onnx:{path}")
    assert loaded.input_shape == (3, 2, 5)
    x = batch((3, 2, 5), 6)
    expected = x.permute(0, 2, 3, 1).flatten(1).numpy() @ weight + bias
    np.testing.assert_allclose(scores(loaded, x).numpy(), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ClassifierError, match="takes inputs of 3x2x5, got 2x5x3"):
        scores(loaded, batch((2, 5, 3)))
    # Nothing is known of a graph with open sizes, but which of them is the channel's.
    weight, bias = linear_graph(path, shape=(2, "W", 3))
    with pytest.raises(ClassifierError, match=r"failed on a batch of shape \(3, 2, 5, 3\)"):
        scores(load_model(f"onnx:{path}"), batch((3, 2, 5)))
    linear_graph(path, shape=(3, 2, 5))
    with pytest.raises(ClassifierError, match="takes inputs of 3x2x5, got 2x5x3"):
        scores(load_model(f"onnx:{path}"), batch((2, 5, 3)))


def test_onnx_digest_covers_external_tensors(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    weight, bias = linear_graph(path, external="weights.bin")
    (tmp_path / "x").write_text("no part of the model, though its name occurs in the graph")
    first = load_model(f"onnx:{path}")
    expected = batch((1, 2, 2)).flatten(1).numpy() @ weight + bias
    np.testing.assert_allclose(scores(first, batch((1, 2, 2))), expected, rtol=1e-5, atol=1e-6)
    (tmp_path / "x").unlink()
    assert load_model(f"onnx:{path}").digest == first.digest
    graph = path.read_bytes()
    (tmp_path / "weights.bin").unlink()
    linear_graph(path, external="weights.bin", seed=1)
    assert path.read_bytes() == graph  # the graph alone cannot tell the two models apart
    assert load_model(f"onnx:{path}").digest != first.digest
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match="damaged, or not a graph that can be run"):
        load_model(f"onnx:{path}")


def test_what_is_no_onnx_classifier(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "g.onnx"
    linear_graph(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ModelError, match="damaged, or not a graph"):
        load_model(f"onnx:{path}")
    helper, real, whole = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    value = helper.make_tensor_value_info
    matrix, cube = ["N", 4], ["N", 4, 5]
    cases = [
        (
            [value("x", real, matrix), value("y", real, matrix)],
            value("z", real, matrix),
            "Add",
            "one .* input, got x: .*y: ",
        ),
        ([value("x", whole, matrix)], value("z", whole, matrix), "Neg", r"one .* input, got x: tensor\(int64\)"),
        ([value("x", real, [4])], value("z", real, [4]), "Neg", "a batch axis and at least one more"),
        ([value("x", real, cube)], value("z", real, cube), "Neg", r"scores \[N, classes\] or labels \[N\], got z"),
    ]
    for inputs, output, operator, message in cases:
        node = helper.make_node(operator, [item.name for item in inputs], ["z"])
        graph = helper.make_graph([node], "g", inputs, [output])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        with pytest.raises(ModelError, match=message):
            load_model(f"onnx:{path}")


def test_a_real_onnx_network(shared_dir: Path) -> None:
    pytest.importorskip("onnxruntime")
    loaded = load_model(f"onnx:{shared_dir / 'data' / 'vnnlib_sample' / 'mnist-net_256x2.onnx'}")
    images = torch.from_numpy(np.load(shared_dir / "models" / "lp_barrier" / "ten_test_images.npy"))
    labels = np.load(shared_dir / "models" / "lp_barrier" / "ten_test_labels.npz")["labels"]
    assert loaded.num_classes == 10
    assert (scores(loaded, images).argmax(1).numpy() == labels).sum() >= 9
