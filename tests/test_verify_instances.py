"""Whole instances in the forms of benchmark files, through `certify verify`: verdicts against exact minima.

Networks are small and random, so that enumerating their activation patterns gives the truth; the ONNX files spell them
as the benchmarks do (ACAS Xu, mnist_fc, exports with Gemm, column vectors), and properties are disjunctions over outputs and
boxes.
"""

import gzip
import io
import itertools
import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from certify.cli import main
from tests.small_networks import exact_minimum
from verify.region import Region
from verify.tracing import trace

FORMS = ("acas", "gemm", "column", "mnist_fc", "vector")
Disjunct = tuple[np.ndarray, np.ndarray, np.ndarray, float]
"""Lower and upper bounds of the inputs; a, d of the one unsafe constraint aᵀy + d <= 0."""


def network(rng: np.random.Generator, form: str, path: Path) -> nn.Sequential:
    """Write a network of 5 inputs, three hidden layers of 2 and 3 outputs as a file; return it as a module."""
    sizes = [5, 2, 2, 2, 3]
    weights = [rng.normal(0, 1.6 / a**0.5, (a, b)).astype(np.float32) for a, b in itertools.pairwise(sizes)]
    biases = [rng.normal(0, 0.3, b).astype(np.float32) for b in sizes[1:]]
    node, constants, nodes, x = helper.make_node, {}, [], "x"
    mean = np.zeros((1, 1, 1, 5), dtype=np.float32)
    if form == "acas":
        mean = rng.normal(0, 0.3, (1, 1, 1, 5)).astype(np.float32)
        constants["mean"] = mean
        nodes += [node("Sub", ["x", "mean"], ["s"]), node("Flatten", ["s"], ["f"])]
        x = "f"
    elif form == "mnist_fc":
        constants["flat"] = np.array([1, -1])
        nodes.append(node("Reshape", ["x", "flat"], ["f"]))
        x = "f"
    for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        y = "y" if k == 3 else f"h{k}"
        if form == "gemm":
            constants |= {f"W{k}": 2 * weight.T, f"b{k}": bias / 2}
            nodes.append(node("Gemm", [x, f"W{k}", f"b{k}"], [y], transB=1, alpha=0.5, beta=2.0))
        elif form == "column":
            constants |= {f"W{k}": weight.T, f"b{k}": bias[:, None]}
            nodes += [node("MatMul", [f"W{k}", x], [f"m{k}"]), node("Add", [f"b{k}", f"m{k}"], [y])]
        else:
            constants |= {f"W{k}": weight, f"b{k}": bias}
            nodes += [node("MatMul", [x, f"W{k}"], [f"m{k}"]), node("Add", [f"m{k}", f"b{k}"], [y])]
        if k < 3:
            nodes.append(node("Relu", [y], [f"r{k}"]))
            x = f"r{k}"
    shapes = {"acas": [1, 1, 1, 5], "gemm": ["batch", 5], "column": [5, 1], "mnist_fc": [1, 5, 1], "vector": [5]}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes[form])]
    if form == "gemm":  # old exporters list constants among the inputs
        inputs += [helper.make_tensor_value_info(k, TensorProto.FLOAT, list(v.shape)) for k, v in constants.items()]
    graph = helper.make_graph(
        nodes,
        "net",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, {"vector": [3], "column": [3, 1]}.get(form, [1, 3]))],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=3 if form == "gemm" else 7)
    data = model.SerializeToString()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    layers: list[nn.Module] = []
    for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        layer = nn.Linear(*weight.shape).double()
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight.T.copy()))
            layer.bias.copy_(torch.from_numpy(bias))
            if k == 0:
                layer.bias -= layer.weight @ torch.from_numpy(mean.ravel()).double()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def instance(rng: np.random.Generator, net: nn.Sequential, path: Path, boxes: int, share: float) -> list[Disjunct]:
    """Write a property over boxes: differences of outputs may fall to the sampled minimum and a share of their range."""
    middle = rng.uniform(-1, 1, 5)
    found: list[Disjunct] = []
    texts = []
    for _ in range(boxes):
        center = middle + rng.uniform(-0.2, 0.2, 5)
        lower, upper = center - 0.4, center + 0.4
        points = torch.from_numpy(rng.uniform(lower, upper, (500, 5)))
        outputs = net(points).detach().numpy()
        i, j = rng.permutation(3)[:2]
        row = np.zeros(3)
        row[i], row[j] = 1.0, -1.0
        spread = outputs @ row
        level = float(f"{spread.min() + share * (np.ptp(spread) + 0.1):.3e}")
        inside = " ".join(f"(>= X_{k} {lower[k]:.17e}) (<= X_{k} {float(upper[k])!r})" for k in range(5))
        texts.append((inside, f"(<= (- Y_{i} Y_{j}) {level!r})"))
        found.append((lower, upper, row, -level))
    names = [*(f"X_{k}" for k in range(5)), *(f"Y_{k}" for k in range(3))]
    lines = [f"(declare-const {name} Real)" for name in names]
    if boxes == 1:
        lines += [f"(assert (and {texts[0][0]}))", f"(assert (or (and {texts[0][1]})))"]
    else:
        lines.append("(assert (or " + "\n".join(f"(and {box} {unsafe})" for box, unsafe in texts) + "))")
    text = "; random\n" + "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return found


def truth(net: nn.Sequential, disjuncts: list[Disjunct]) -> float:
    """The least of aᵀy + d over all disjuncts: not positive means sat."""
    graph = trace(net, (5,))
    values = []
    for lower, upper, row, d in disjuncts:
        region = Region.box(torch.from_numpy(lower)[None], torch.from_numpy(upper)[None], "box")
        values.append(exact_minimum(graph, region, row) + d)
    return min(values)


@pytest.mark.parametrize("form", FORMS)
def test_verdicts_are_the_truth(tmp_path: Path, form: str) -> None:
    verdicts = []
    for boxes, share in ((1, -0.2), (1, 0.02), (2, -0.2), (2, 0.02)):
        packed = ".gz" if boxes > 1 else ""
        rng = np.random.default_rng([FORMS.index(form), len(verdicts)])
        model, prop = tmp_path / f"{len(verdicts)}.onnx{packed}", tmp_path / f"{len(verdicts)}.vnnlib{packed}"
        net = network(rng, form, model)
        minimum = truth(net, instance(rng, net, prop, boxes, share))
        assert abs(minimum) > 1e-4, "so near to zero, the verdict depends on the precision"
        command = ["verify", "--onnx", str(model), "--vnnlib", str(prop), "--method", "crown,pgd,lp-all,milp"]
        command += ["--steps", "20", "--restarts", "2", "--json", "-q", "--device", "cpu"]
        with redirect_stdout(io.StringIO()) as said:
            assert main([*command, "--out", str(tmp_path / f"{len(verdicts)}")]) == 0
        verdicts.append(json.loads(said.getvalue())["verdict"])
        assert verdicts[-1] == ("sat" if minimum <= 0 else "unsat")
    assert set(verdicts) == {"sat", "unsat"}
