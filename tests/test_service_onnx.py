"""`certify run model.onnx --adapter onnxruntime`: a file in this process, asked like a service."""

import importlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from certify.blackbox import build_adapter
from certify.blackbox.images import dequantize, quantize
from certify.cli import main
from certify.errors import ModelError, UsageError
from certify.models import from_onnx
from certify.models.libraries import import_extra
from certify.report.service import read_service
from certify.rundir import read_config
from smoothing.distributions.table import rebuild_law
from smoothing.estimators import Phase
from smoothing.noise_table import rebuild_noise

N0, N, INPUTS = 10, 200, 3


@pytest.fixture
def classifier() -> torch.nn.Module:
    """A linear classifier of 8 by 8 images that knows nothing, so that noise moves its label."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    with torch.no_grad():
        torch.nn.init.normal_(model[1].weight, generator=torch.Generator().manual_seed(3))
        model[1].bias.copy_(torch.tensor([1.0, -2.0, 0.5]))  # so that the scale of the pixels matters
    return model.eval()


@pytest.fixture
def file(classifier: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "scripts"))
    importlib.import_module("services").export_onnx(classifier, (1, 8, 8), tmp_path / "model.onnx")
    yield tmp_path / "model.onnx"
    sys.modules.pop("services", None)


@pytest.fixture
def data(classifier: torch.nn.Module, tmp_path: Path) -> Path:
    images = np.random.default_rng(2).integers(0, 256, (INPUTS, 8, 8, 1)).astype(np.uint8)
    with torch.no_grad():
        labels = classifier(dequantize(images)).argmax(1).numpy()
    np.savez(tmp_path / "toy.npz", images=images, labels=labels)
    return tmp_path / "toy.npz"


def command(file: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        *("run", str(file), "--adapter", "onnxruntime", "--service", "batch=16", "--data", str(data)),
        *("--num-classes", "3", "--noise", "gaussian", "--sigma", "0.5", "--n0", str(N0), "--n", str(N)),
        *("--quiet", "--out", str(out), *more),
    ]


def answers(folder: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "journal.sqlite") as connection:
        found = list(connection.execute('SELECT "index", phase, sample, label, version FROM answers ORDER BY 1, 2, 3'))
    connection.close()
    return found


def test_votes_are_those_of_pytorch_behind_the_same_8_bit_step(
    classifier: torch.nn.Module, file: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(command(file, data, out)) == 0, capsys.readouterr().err
    config = read_config(out)
    law = rebuild_law(config["identity"]["law"])
    source = rebuild_noise(config["identity"]["noise"], law, 0, torch.device("cpu"))
    images = torch.from_numpy(np.load(data)["images"]).permute(0, 3, 1, 2).float().div(255.0)
    found = {(index, phase, sample): label for index, phase, sample, label, _ in answers(out)}
    compared = 0
    for index in range(INPUTS):
        for phase, n in ((Phase.SELECT, N0), (Phase.ESTIMATE, N)):
            noisy = dequantize(quantize(source.draw(images[index], index, phase, 0, n)))
            with torch.no_grad():
                scores = classifier(noisy)
            best = scores.topk(2).values
            for sample, (label, gap) in enumerate(
                zip(scores.argmax(1).tolist(), (best[:, 0] - best[:, 1]).tolist(), strict=True)
            ):
                if gap > 1e-5:
                    assert found[index, str(phase), sample] == str(label)
                    compared += 1
    assert compared >= INPUTS * (N0 + N) - 3, "near-ties are few"
    assert len({label for (index, *_), label in found.items() if index >= 0}) > 1, "the noise moves the label"
    digest = from_onnx.load_onnx("x", file).digest
    assert {version for index, *_, version in answers(out) if index >= 0} == {digest}
    service = config["settings"]["service"]
    assert (service["canaries"], service["warnings"]) == (0, []), "the file is its version: nothing has to be watched"
    assert service["preflight"]["right"] == INPUTS
    facts = read_service(out, config, range(INPUTS))
    assert facts is not None
    assert f"the model sha256:{digest}, asked by the onnxruntime adapter" in facts.classifier
    assert "PNG" not in facts.classifier


def test_a_file_may_move_but_not_change(
    file: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(command(file, data, out, "--max", "1")) == 0
    before = answers(out)
    moved = file.rename(tmp_path / "other.onnx")
    assert main(command(Path(f"onnx:{moved}"), data, out, "--max", "1")) == 0, capsys.readouterr().err
    assert answers(out) == before
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    sys.modules["services"].export_onnx(network, (1, 8, 8), moved)
    assert main(command(moved, data, out)) == 1
    assert "model_digest" in capsys.readouterr().err
    assert answers(out) == before


def test_plan_understands_it(file: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [word for word in command(file, data, Path("unused"))[1:] if word not in ("--quiet", "--out", "unused")]
    assert main(["plan", *line, "--json"]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert (found["queries"], found["preflight_queries"], found["canary_queries"]) == (INPUTS * (N0 + N), INPUTS, 0)
    assert found["watching_queries_if_unversioned"] == 0, "its version is known beforehand"
    assert found["upload_megabytes"] == 0
    assert main(["plan", *line]) == 0
    assert "nothing to upload" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("model", "more", "code", "message"),
    [
        ("absent.onnx", (), 1, "absent.onnx is no file: with --adapter onnxruntime MODEL must be the path"),
        ("https://api.example.com", (), 2, "MODEL must be its path, got https://api.example.com"),
        ("FILE", ("--service", "bach=3"), 2, "the onnxruntime adapter takes batch; got --service bach (did you mean"),
        ("FILE", ("--service", "batch=0"), 2, "batch must be at least 1"),
        ("FILE", ("--service", "batch=x"), 2, "--service batch=x: expected int"),
        ("DATA", (), 1, "is damaged, or not a graph that can be run"),
        ("FILE", ("--adapter", "oip"), 2, "for a prediction service alone"),
        ("FILE", ("--adapter", "onnx"), 2, "for a prediction service alone"),
    ],
)
def test_bad_input(
    file: Path,
    data: Path,
    tmp_path: Path,
    model: str,
    more: tuple[str, ...],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = command(file, data, tmp_path / "run", *more)
    line[1] = model.replace("FILE", str(file)).replace("DATA", str(data))
    assert main(line) == code
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_images_of_another_shape_stop_the_run(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "large.npz", images=np.zeros((2, 9, 9, 1), np.uint8), labels=np.zeros(2, np.int64))
    assert main(command(file, tmp_path / "large.npz", tmp_path / "run")) == 1
    assert "takes inputs of 1x8x8, got 1x9x9" in capsys.readouterr().err


def test_without_onnxruntime_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pip install 'wulff\[onnx\]'"):
        build_adapter("onnxruntime", str(file))
    assert import_extra is from_onnx.import_extra
    with pytest.raises(UsageError, match=r"adapter must be one of .*onnxruntime"):
        build_adapter("onnx", str(file))


def graph(path: Path, *, batch: int | str = "N", kind: str = "float", output: str = "scores", classes: int = 3) -> None:
    """Write a graph of 8 by 8 images that returns scores, or labels of one type."""
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    element, dtype = {"float": (types.FLOAT, np.float32), "double": (types.DOUBLE, np.float64)}[kind]
    rng = np.random.default_rng(4)
    constants = [
        onnx.numpy_helper.from_array(rng.normal(size=(64, classes)).astype(dtype), "weight"),
        onnx.numpy_helper.from_array(np.zeros(classes, dtype), "bias"),
    ]
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["labels"], axis=1, keepdims=0),
        helper.make_node("Cast", ["labels"], ["small"], to=types.INT32),
    ]
    outputs = {
        "scores": helper.make_tensor_value_info("scores", element, [batch, classes]),
        "open": helper.make_tensor_value_info("scores", element, ["N", "K"]),
        "labels": helper.make_tensor_value_info("labels", types.INT64, [batch]),
        "small": helper.make_tensor_value_info("small", types.INT32, [batch]),
    }
    inputs = [helper.make_tensor_value_info("x", element, [batch, 1, 8, 8])]
    model = helper.make_model(
        helper.make_graph(nodes, "toy", inputs, [outputs[output]], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("batch", "kind", "output"),
    [
        (1, "float", "scores"),
        (5, "float", "scores"),
        ("N", "double", "open"),
        ("N", "float", "labels"),
        (3, "double", "small"),
    ],
)
def test_other_graphs_give_the_same_votes(
    data: Path, tmp_path: Path, batch: int | str, kind: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever their batch, type and output; float64 differs from float32 where two scores are nearly equal, if anywhere."""
    graph(tmp_path / "plain.onnx")
    graph(tmp_path / "other.onnx", batch=batch, kind=kind, output=output)
    for name in ("plain", "other"):
        # Integer noise is drawn anew for every model, the other is the same for all.
        more = ("--no-preflight", "--noise-version", "torch-block-v1")
        line = command(tmp_path / f"{name}.onnx", data, tmp_path / name, *more)
        assert main(line) == 0, capsys.readouterr().err
    plain, other = ([row[:4] for row in answers(tmp_path / name)] for name in ("plain", "other"))
    differ = sum(a != b for a, b in zip(plain, other, strict=True))
    assert differ <= (3 if kind == "double" else 0)
    assert len({label for *_, label in plain[1:]}) > 1, "the noise moves the label"


@pytest.mark.parametrize(
    ("output", "classes", "code", "message"),
    [
        ("scores", 4, 2, "has scores of 4 classes, but 3 are to be certified: give --num-classes 4, or a --label-map"),
        ("scores", 1, 1, "it gives one score an image, which names no class"),
        ("open", 1, 1, "it gives one score an image, which names no class"),
    ],
)
def test_scores_that_are_not_those_of_the_classes(
    data: Path, tmp_path: Path, output: str, classes: int, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    graph(tmp_path / "x.onnx", output=output, classes=classes)
    assert main(command(tmp_path / "x.onnx", data, tmp_path / "run")) == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_scores_are_mapped_to_fewer_classes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph(tmp_path / "x.onnx", classes=4)
    (tmp_path / "map.csv").write_text("0,0\n1,1\n2,2\n3,2\n")
    line = command(tmp_path / "x.onnx", data, tmp_path / "run", "--label-map", str(tmp_path / "map.csv"), "--json")
    assert main(line) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)["invalid_votes"] == 0
