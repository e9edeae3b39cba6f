"""Architectures, and loading models of every form but checkpoints (those are in test_checkpoint.py)."""

import functools
import json
import re
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.errors import CertifyError, DatasetError, ModelError, UsageError
from certify.models import (
    ARCHITECTURES,
    MODEL_FORMS,
    LoadedModel,
    Normalize,
    build_architecture,
    load_model,
    rebuild_transform,
    transform_text,
)
from certify.models.digest import callable_digest, module_digest
from certify.models.libraries import PixelClassifier
from certify.models.reachable import look_into
from certify.models.transforms import CenterCropOrPad, Geometry, Resize
from certify.prediction import read_image
from certify.torchvision_compat import import_torchvision
from denoisers import DenoisedClassifier
from smoothing.errors import ClassifierError, InvalidArgumentError


def batch(shape: tuple[int, ...], n: int = 3) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(5))


def scores(model: LoadedModel | nn.Module, x: Tensor) -> Tensor:
    classifier = model.classifier if isinstance(model, LoadedModel) else model
    with torch.inference_mode():
        return classifier(x)


# ------------------------------------------------------------------------------------------------------- architectures

# name: (input shape, classes, parameters). Those of LeNet, the small CNN and the CIFAR ResNets are the published ones;
# the others are added up by hand from the layers.
COUNTS = {
    "lenet": ((1, 28, 28), 10, 431_080),
    "cnn": ((1, 28, 28), 10, 166_406),
    "mlp": ((1, 28, 28), 10, 784 * 100 + 100 + 100 * 100 + 100 + 100 * 10 + 10),
    "resnet20": ((3, 32, 32), 10, 272_474),
    "resnet110": ((3, 32, 32), 10, 1_730_714),
    "wrn40-2": ((3, 32, 32), 10, 2_243_546),
    "resnet50": ((3, 224, 224), 1000, 25_557_032),
}


def test_every_architecture_is_in_the_table() -> None:
    assert set(COUNTS) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name: str) -> None:
    shape, classes, count = COUNTS[name]
    with torch.device("meta"):
        model = build_architecture(name, num_classes=classes, input_shape=shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert model.state_dict()[f"network.{ARCHITECTURES[name].head}"].shape[0] == classes
    stem = ARCHITECTURES[name].stem
    assert stem is None or model.state_dict()[f"network.{stem}"].shape[1] == shape[0]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 9, 13)])
@pytest.mark.parametrize("name", ["lenet", "cnn", "mlp", "resnet20", "wrn40-2"])
def test_forward_shapes(name: str, shape: tuple[int, ...]) -> None:
    mean, std = (0.5,) * shape[0], (0.25,) * shape[0]
    if name == "lenet" and shape[1] < 16:
        with pytest.raises(UsageError, match=r"lenet needs images of at least 16x16, got (8x8|9x13).*cnn, mlp"):
            build_architecture(name, num_classes=7, input_shape=shape, mean=mean, std=std)
        return
    model = build_architecture(name, num_classes=7, input_shape=shape, mean=mean, std=std).eval()
    out = scores(model, batch(shape))
    assert out.shape == (3, 7)
    assert torch.isfinite(out).all()
    assert isinstance(model[0], Normalize)
    assert torch.equal(out, scores(model[1], (batch(shape) - 0.5) / 0.25))


@pytest.mark.parametrize(("name", "size"), [("lenet", 16), ("cnn", 4)])
def test_the_smallest_size_works_and_no_smaller_one(name: str, size: int) -> None:
    model = build_architecture(name, num_classes=2, input_shape=(1, size, size)).eval()
    assert scores(model, batch((1, size, size))).shape == (3, 2)
    with pytest.raises(UsageError, match=f"at least {size}x{size}, got {size}x{size - 1}"):
        build_architecture(name, num_classes=2, input_shape=(1, size, size - 1))


def test_a_vector_is_an_input_of_the_mlp_only() -> None:
    model = build_architecture("mlp", num_classes=2, input_shape=(5,), mean=(0.0,) * 5, std=(1.0,) * 5)
    assert scores(model, batch((5,))).shape == (3, 2)
    with pytest.raises(UsageError, match=r"cnn takes images \(channels, height, width\), got input_shape=\(5,\)"):
        build_architecture("cnn", num_classes=2, input_shape=(5,))


BAD_BUILDS: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"name": "resnet2"}, "architecture must be one of lenet.*'resnet2' .did you mean 'resnet20'"),
    "classes": ({"num_classes": 1}, "num_classes must be at least 2, got num_classes=1"),
    "empty": ({"input_shape": ()}, r"must be positive sizes, got input_shape=\(\)"),
    "zero": ({"input_shape": (3, 0, 8)}, "must be positive sizes"),
    "half": ({"mean": (0.5,) * 3}, "mean and std go together"),
    "channels": ({"mean": (0.5,), "std": (0.5,)}, "one number a channel, got 1 for 3 channels"),
    "std": ({"mean": (0.5,) * 3, "std": (0.5, 0.0, 0.5)}, "std positive, got"),
    "nan": ({"mean": (float("nan"),) * 3, "std": (1.0,) * 3}, "mean must be finite"),
    "lengths": ({"mean": (0.5,) * 3, "std": (0.5,) * 2}, "one number a channel, got 3 and 2 numbers"),
    "fixed": ({"name": "resnet50", "input_shape": (1, 32, 32)}, "resnet50 takes images of 3 channels, got 1"),
}


@pytest.mark.parametrize("case", BAD_BUILDS)
def test_what_cannot_be_built(case: str) -> None:
    changes, message = BAD_BUILDS[case]
    arguments = {"name": "cnn", "num_classes": 10, "input_shape": (3, 32, 32)} | changes
    with pytest.raises(InvalidArgumentError, match=message):
        build_architecture(**arguments)


def test_initial_weights_depend_on_the_seed_only() -> None:
    def weights(**seed: int) -> str:
        return module_digest(build_architecture("cnn", num_classes=10, input_shape=(1, 8, 8), **seed), "")

    state = torch.random.get_rng_state()
    first = weights()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert weights() == weights(seed=0) == first != weights(seed=1)


def randomised(model: nn.Module) -> nn.Module:
    """Fill parameters and batch-norm statistics with numbers that make every layer matter."""
    generator = torch.Generator().manual_seed(3)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) * 0.4 + (0.5 if "running_var" in name else -0.2))
    return model.eval()


def norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    statistics = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    return F.batch_norm(x, *statistics, w[f"{name}.weight"], w[f"{name}.bias"])


def test_cifar_resnet_from_its_weights_alone() -> None:
    """The network written out with the names of the published checkpoints (He et al. 2016, option B)."""
    model = randomised(build_architecture("resnet20", num_classes=10, input_shape=(3, 32, 32)))
    w = {name.removeprefix("network."): value for name, value in model.state_dict().items()}
    x = batch((3, 32, 32))
    h = F.relu(norm(F.conv2d(x, w["conv1.weight"], padding=1), w, "bn1"))
    for stage in (1, 2, 3):
        for block in range(3):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = F.relu(norm(F.conv2d(h, w[f"{name}.conv1.weight"], stride=stride, padding=1), w, f"{name}.bn1"))
            inner = norm(F.conv2d(inner, w[f"{name}.conv2.weight"], padding=1), w, f"{name}.bn2")
            if stride == 2:
                h = norm(F.conv2d(h, w[f"{name}.downsample.0.weight"], stride=2), w, f"{name}.downsample.1")
            h = F.relu(inner + h)
    expected = F.linear(F.avg_pool2d(h, 8).flatten(1), w["fc.weight"], w["fc.bias"])
    torch.testing.assert_close(scores(model, x), expected)


def test_wide_resnet_from_its_weights_alone() -> None:
    model = randomised(build_architecture("wrn40-2", num_classes=10, input_shape=(3, 16, 16)))
    w = {name.removeprefix("network."): value for name, value in model.state_dict().items()}
    x = batch((3, 16, 16))
    h = F.conv2d(x, w["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for block in range(6):
            name, stride = f"block{stage}.layer.{block}", 2 if stage > 1 and block == 0 else 1
            active = F.relu(norm(h, w, f"{name}.bn1"))
            inner = F.conv2d(active, w[f"{name}.conv1.weight"], stride=stride, padding=1)
            inner = F.conv2d(F.relu(norm(inner, w, f"{name}.bn2")), w[f"{name}.conv2.weight"], padding=1)
            h = inner + (F.conv2d(active, w[f"{name}.convShortcut.weight"], stride=stride) if block == 0 else h)
    expected = F.linear(F.relu(norm(h, w, "bn1")).mean((2, 3)), w["fc.weight"], w["fc.bias"])
    torch.testing.assert_close(scores(model, x), expected)


def test_lenet_from_its_weights_alone() -> None:
    model = build_architecture("lenet", num_classes=10, input_shape=(1, 28, 28))
    w = {name.removeprefix("network."): value for name, value in model.state_dict().items()}
    x = batch((1, 28, 28))
    h = F.max_pool2d(F.relu(F.conv2d(x, w["conv1.weight"], w["conv1.bias"])), 2)
    h = F.max_pool2d(F.relu(F.conv2d(h, w["conv2.weight"], w["conv2.bias"])), 2)
    h = F.relu(F.linear(h.flatten(1), w["fc1.weight"], w["fc1.bias"]))
    torch.testing.assert_close(scores(model, x), F.linear(h, w["fc2.weight"], w["fc2.bias"]))


# --------------------------------------------------------------------------------------------------------------- digest


def test_digest_is_the_same_in_another_process() -> None:
    code = (
        "from certify.models import build_architecture\n"
        "from certify.models.digest import module_digest\n"
        "print(module_digest(build_architecture('cnn', num_classes=10, input_shape=(1, 8, 8), seed=2), 'text'))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    model = build_architecture("cnn", num_classes=10, input_shape=(1, 8, 8), seed=2)
    assert run.stdout.strip() == module_digest(model, "text")


def test_digest_sees_all_that_is_computed() -> None:
    class Odd(nn.Module):
        def __init__(self, hidden: float = 1.0, extra: object = None, dtype: torch.dtype = torch.bfloat16) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 3, dtype=dtype))
            self.register_buffer("hidden", torch.tensor(hidden), persistent=False)
            self.register_buffer("none", torch.zeros(0))
            self.extra = extra

        def get_extra_state(self) -> object:
            return self.extra

        def set_extra_state(self, state: object) -> None:
            self.extra = state

    variants = [Odd(), Odd(2.0), Odd(extra={"a": (1, torch.ones(2))}), Odd(extra={"a": (1, torch.zeros(2))})]
    variants += [Odd(dtype=torch.float16)]
    digests = {module_digest(module, "text") for module in variants} | {module_digest(Odd(), "another text")}
    assert len(digests) == len(variants) + 1
    assert module_digest(Odd(), "text") in digests


# ------------------------------------------------------------------------------------------------------ forms of MODEL


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("nonsense", UsageError, "MODEL must be one of the forms below, got 'nonsense'"),
        (
            "resnet20",
            UsageError,
            r"resnet20 is an architecture without weights; train it first \(certify train --arch resnet20\)",
        ),
        ("resnt20", UsageError, "did you mean 'resnet20'"),
        ("torchvison:resnet50", UsageError, r"No module named 'torchvison'.*did you mean 'torchvision'"),
        ("https://example.org/model", UsageError, "must be on this machine or in a library that fetches it"),
        ("onnx:", UsageError, "onnx: must be followed by a name"),
        ("", UsageError, "MODEL must be one of the forms"),
        ("runs/absent", ModelError, "runs/absent does not exist"),
        ("./absent", ModelError, "does not exist"),
        ("absent.pth.tar", ModelError, r"absent\.pth\.tar does not exist"),
        ("absent.safetensors", ModelError, "does not exist"),
        ("onnx:absent.onnx", ModelError, r"absent\.onnx does not exist"),
        ("hf:/absent/folder", ModelError, "/absent/folder does not exist"),
        ("timm:./absent", ModelError, "absent does not exist"),
        (".", ModelError, r"has no model\.json"),
    ],
)
def test_what_is_no_model(
    spec: str, kind: type[CertifyError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        load_model(spec)
    assert isinstance(caught.value, InvalidArgumentError) == (kind is UsageError)
    if kind is UsageError:
        assert all(form in str(caught.value) for form in MODEL_FORMS)


@pytest.mark.parametrize(
    ("spec", "library", "extra"),
    [("onnx:x.onnx", "onnxruntime", "onnx"), ("timm:vit", "timm", "timm"), ("hf:a/b", "transformers", "hf")],
)
def test_a_missing_library_names_its_extra(
    spec: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModelError, match=rf"{library} cannot be imported.*pip install 'wulff\[{extra}\]'"):
        load_model(spec)


@pytest.mark.parametrize(
    ("what", "num_classes", "kind", "message"),
    [
        (":good", 5, UsageError, "the model itself states, 3 for .*:good, got num_classes=5; leave --num-classes out"),
        (":labels", 1, UsageError, "num_classes must be at least 2, got num_classes=1"),
        (":labels", -3, UsageError, "num_classes must be at least 2, got num_classes=-3"),
        (":one_class", None, ModelError, "must have at least 2 classes, but .*:one_class has 1"),
    ],
)
def test_numbers_of_classes_that_cannot_be(
    package: str, what: str, num_classes: int | None, kind: type[CertifyError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        load_model(f"{package}{what}", num_classes=num_classes)


# ------------------------------------------------------------------------------------------------------------ factories

FACTORIES = """
import functools
import torch
from torch import nn

class Net(nn.Module):
    num_classes, input_shape, class_names = 3, [1, 2, 2], ["a", "b", "c"]

    def __init__(self, bias=0.5):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        nn.init.constant_(self.layer.weight, 0.25)
        nn.init.constant_(self.layer.bias, bias)

    def forward(self, x):
        return self.layer(x.flatten(1))

class Labels:
    version = "1"
    def __call__(self, x):
        return (x.flatten(1).sum(1) > 0).long()

def good():
    return Net()

def other_weights():
    return Net(0.75)

def labels():
    return Labels()

def new_labels():
    labels = Labels()
    labels.version = "2"
    return labels

def opaque():
    return functools.partial(torch.rand, generator=torch.Generator())

def opaque_with_a_version():
    classifier = opaque()
    classifier.version = "1"
    return classifier

def number():
    return 5

def failing():
    raise OSError("the weights are gone")

def needs_arguments(path):
    return Net()

def wrong_names():
    net = Net()
    net.class_names = ["a"]
    return net

def one_class():
    labels = Labels()
    labels.num_classes = 1
    return labels

instance = Net()
constant = 7
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current directory, new for each test."""
    name = f"factories_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    (tmp_path / f"{name}_broken.py").write_text("import absent_dependency")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return name


def test_a_module_from_a_factory(package: str) -> None:
    loaded = load_model(f"{package}:good")
    assert isinstance(loaded.classifier, nn.Module)
    assert not loaded.classifier.training
    assert scores(loaded, torch.ones(2, 1, 2, 2)).tolist() == [[1.5] * 3] * 2
    assert (loaded.num_classes, loaded.input_shape, loaded.class_names) == (3, (1, 2, 2), ("a", "b", "c"))
    assert "15 parameters" in loaded.description
    assert loaded.digest == load_model(f"{package}:good").digest != load_model(f"{package}:other_weights").digest
    assert load_model(f"{package}:Net").digest == loaded.digest  # a class is a factory too


def test_a_plain_callable_from_a_factory(package: str) -> None:
    loaded = load_model(f"{package}:labels", num_classes=2, input_shape=(4,))
    assert scores(loaded, torch.tensor([[1.0], [-1.0]])).tolist() == [1, 0]
    assert (loaded.num_classes, loaded.input_shape, loaded.class_names) == (2, (4,), None)
    assert load_model(f"{package}:labels").num_classes is None
    assert "digest" not in loaded.description
    opaque = load_model(f"{package}:opaque")
    assert "its digest cannot see into torch._C.Generator: give it a version" in opaque.description
    assert "digest" not in load_model(f"{package}:opaque_with_a_version").description


def test_the_digest_of_a_factory_follows_its_source(package: str, tmp_path: Path) -> None:
    before = {name: load_model(f"{package}:{name}").digest for name in ("good", "labels", "new_labels")}
    assert len(set(before.values())) == 3
    file = tmp_path / f"{package}.py"
    file.write_text(file.read_text().replace("self.layer(x.flatten(1))", "-self.layer(x.flatten(1))"))
    del sys.modules[package]
    for name, digest in before.items():
        assert load_model(f"{package}:{name}").digest != digest


# Every way in which a factory can hide weights from a look at its source; `load()` reads them from a file.
HIDING = """
import functools, json, logging, threading, warnings
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import torch
from torch import nn
import NAME_helper as helper

logger = logging.getLogger(__name__)

def load():
    return json.loads(Path("weights.json").read_text())

def apply(weight, x):
    logger.debug("called")
    return x.flatten(1).sum(1, keepdim=True) * float(weight)

def network():
    net = nn.Linear(4, 2)
    nn.init.constant_(net.weight, load())
    nn.init.zeros_(net.bias)
    return net

WEIGHT = torch.tensor(load())

class Holder:
    def __init__(self, value):
        self._inner = {"list": [(value, "text")]}
        self.lock = threading.Lock()
        self.itself = self  # a cycle
    def __call__(self, x):
        return apply(1.0, x)
    def method(self, x):
        return apply(1.0, x)

class Slotted:
    __slots__ = ("weight",)
    def __call__(self, x):
        return apply(self.weight, x)

class OfTheClass:
    weight = np.float32(load())
    def __call__(self, x):
        return apply(self.weight, x)

class Scaled(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        self.layer = nn.Identity()
        vars(self).update(attributes)
    def forward(self, x):
        return self.layer(x)

def wrapped(function):
    scale = load()
    @functools.wraps(function)
    def inner(x):
        return function(x) * scale
    return inner

def closure():
    m = network()
    return lambda x: m(x)

def deep_closure():
    inner = closure()
    return lambda x: inner(x)

def default():
    return lambda x, weight=load(): apply(weight, x)

def keyword_default():
    def classify(x, *, weight=torch.tensor(load())):
        return apply(weight, x)
    return classify

def partial():
    return functools.partial(apply, np.array([load()]))

def partial_keyword():
    return functools.partial(lambda x, weight: apply(weight, x), weight=load())

def attribute():
    return Holder(torch.full((2,), load()))

def module_in_an_attribute():
    return Holder(network())

def bound_method():
    return Holder(load()).method

def slots():
    found = Slotted()
    found.weight = load()
    return found

def class_attribute():
    return OfTheClass()

def of_the_module():
    return lambda x: apply(WEIGHT, x)

def of_another_module():
    return lambda x: apply(helper.WEIGHT, x)

def decorated():
    return wrapped(lambda x: apply(1.0, x))

def namespace():
    options = SimpleNamespace(weight=load())
    return lambda x: apply(options.weight, x)

def function_attribute():
    def classify(x):
        return apply(classify.weight, x)
    classify.weight = load()
    return classify

def module_attribute():
    return Scaled(temperature=load())

def module_private_attribute():
    return Scaled(_temperature=load())

def module_list_attribute():
    return Scaled(temperatures=[1, (load(), None)])

def module_tensor_attribute():
    return Scaled(plain=torch.tensor(load()))

def module_hidden_part():
    return Scaled(parts=(network(),))

def module_callable():
    m = network()
    return Scaled(function=lambda x: m(x))

def module_hook():
    net, weight = nn.Flatten(), load()
    net.register_forward_hook(lambda module, inputs, output: output * weight)
    return net

def module_of_torchscript():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.freeze(torch.jit.trace(network().eval(), torch.ones(1, 4)))

def module_buffer():
    net = nn.Flatten()
    net.register_buffer("hidden", torch.tensor(load()), persistent=False)
    return net
"""
WAYS = re.findall(r"^def (\w+)\(\):", HIDING[HIDING.index("def closure") :], re.MULTILINE)


@pytest.fixture
def hiding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"hiding_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(HIDING.replace("NAME", name))
    (tmp_path / f"{name}_helper.py").write_text(
        "import json\nfrom pathlib import Path\nWEIGHT = json.loads(Path('weights.json').read_text())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return name


def test_the_digest_of_a_factory_sees_weights_wherever_they_are(hiding: str, tmp_path: Path) -> None:
    def digests(weight: float) -> list[str]:
        (tmp_path / "weights.json").write_text(str(weight))
        for module in (hiding, f"{hiding}_helper"):
            sys.modules.pop(module, None)
        return [load_model(f"{hiding}:{way}").digest for way in WAYS]

    first, same, replaced = digests(0.5), digests(0.5), digests(0.75)
    assert first == same
    assert [way for way, old, new in zip(WAYS, first, replaced, strict=True) if old == new] == []
    (tmp_path / "weights.json").write_text("0.5")
    code = f"from certify.models import load_model\nfor way in {WAYS}:\n    print(load_model('{hiding}:' + way).digest)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.split() == first
    assert len(WAYS) == 25


def test_the_digest_of_any_callable() -> None:
    shared = [1.0, float("nan"), b"bytes", None, True]
    values: list[object] = [
        lambda x: x,
        lambda x: shared,
        lambda x, y=1: x,
        lambda x, y=1.0: x,
        lambda x, y=True: x,
        lambda x, y="1": x,
        lambda x, y=(1,): x,
        lambda x, y=[1]: x,
        lambda x, y={1: 2}: x,
        lambda x, y={2: 1}: x,
        lambda x, y=torch.float16: x,
        functools.partial(F.relu, torch.ones(1)),
        functools.partial(F.relu, np.ones(1, np.float32)),
        functools.partial(F.relu, np.ones(1, ">f4")),
        F.relu,
        F.gelu,
        torch.tanh,
        "abc".upper,
        "abd".upper,
    ]
    digests = [callable_digest(value) for value in values]
    assert digests == [callable_digest(value) for value in values]
    assert digests[12] == digests[13]  # the order of bytes is no part of an array
    assert len(set(digests)) == len(values) - 1
    one, other = (lambda x: x), (lambda x: -x)  # on one line
    assert callable_digest(one) != callable_digest(other)
    assert callable_digest(F.relu, "a") != callable_digest(F.relu, "b")
    chain: list[object] = []
    for _ in range(3000):  # deeper than Python recurses
        chain = [chain]
    assert callable_digest(chain) == callable_digest(chain)
    assert look_into(chain).opaque == {"builtins.list (60 levels deep)"}


def test_the_digest_of_a_module_sees_plain_attributes() -> None:
    def classify(sigma: float, flip: bool) -> nn.Module:
        network = PixelClassifier(Normalize((0.5,) * 3, (0.5,) * 3), nn.Flatten(), flip_channels=flip)
        return DenoisedClassifier(lambda x, sigma: x, network, sigma)

    modules = [classify(0.5, False), classify(0.25, False), classify(0.5, True), nn.ReLU(), nn.GELU()]
    modules += [nn.Dropout(0.5), nn.LeakyReLU(0.1), nn.LeakyReLU(0.2), nn.Sequential(nn.ReLU()), nn.Flatten(2)]
    digests = [module_digest(module, "") for module in modules]
    assert len(set(digests)) == len(modules)
    assert digests == [module_digest(module.train(), "") for module in modules]  # the mode is no part of it
    assert module_digest(classify(0.5, False), "") == digests[0]


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        (":goood", UsageError, "has no 'goood' .did you mean 'good'"),
        (":number", UsageError, "must return a classifier that can be called, got int"),
        (":constant", UsageError, "must be a function that returns the classifier, got int"),
        (":instance", UsageError, "must be a function that returns the classifier, got a module"),
        (":failing", ModelError, "failed when it was called: OSError: the weights are gone"),
        (":needs_arguments", ModelError, "failed when it was called: TypeError: needs_arguments.. missing 1 required"),
        (":wrong_names", ModelError, "must name its 3 classes, got 1 class_names"),
        ("_broken:good", UsageError, "cannot import the module.*No module named 'absent_dependency'"),
        ("_absent:good", UsageError, "cannot import the module.*No module named"),
    ],
)
def test_what_factories_get_wrong(package: str, what: str, kind: type[CertifyError], message: str) -> None:
    with pytest.raises(kind, match=message):
        load_model(f"{package}{what}")


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
    weight, bias = rng.normal(size=(4, 3)).astype(dtype), rng.normal(size=3).astype(dtype)
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


# --------------------------------------------------------------------------------------------------- pretrained models


def picture(width: int = 90, height: int = 70) -> Any:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def as_batch(image: Any) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


def assert_rebuilds(model: LoadedModel) -> str:
    text = transform_text(model.transform)
    assert text is not None
    again = rebuild_transform(text)
    assert transform_text(again) == text
    assert model.transform is not None
    for image in (picture(), picture(90, 40)):
        assert np.array_equal(np.asarray(again(image)), np.asarray(model.transform(image)))
    return text


def test_the_text_of_any_transform() -> None:
    assert transform_text(None) is None
    texts = [transform_text(functools.partial(picture, width=width)) for width in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]
    good = Geometry("L", (Resize((8, 9), "bicubic"), CenterCropOrPad((12, 12), (7,), "constant"))).describe()
    assert rebuild_transform(good)(picture()).size == (12, 12)
    for old, new in [
        ("bicubic", "cubic"), ("[8, 9]", "[8, 0]"), ("[8, 9]", "[8, 99999]"), ("[8, 9]", "[true]"), ("[8, 9]", "[]"),
        ('"L"', '"P"'), ("geometry", "other"), ("Resize", "open"), ("constant", "x"), ("fill", "full"), ("{", "["),
    ]:  # fmt: skip
        with pytest.raises(ModelError, match="a transform must be one that a model brought"):
            rebuild_transform(good.replace(old, new))
    assert isinstance(texts[0], str)
    with pytest.raises(ModelError, match="a transform must be one that a model brought"):
        rebuild_transform(texts[0])


def test_image_files_are_read_as_the_data_sets_read_them(tmp_path: Path) -> None:
    from PIL import Image

    def model(shape: tuple[int, ...], transform: Any = None) -> LoadedModel:
        return LoadedModel("x", lambda x: x, 2, shape, transform, None, None, None, "", "")

    path = tmp_path / "x.png"
    picture(7, 5).save(path)
    assert torch.equal(read_image(path, model((3, 5, 7))), as_batch(picture(7, 5))[0])
    grey = picture(7, 5).convert("L")
    assert torch.equal(read_image(path, model((1, 5, 7))), torch.from_numpy(np.asarray(grey).copy())[None] / 255)
    grey.save(path)
    assert torch.equal(read_image(path, model((1, 5, 7))), torch.from_numpy(np.asarray(grey).copy())[None] / 255)
    assert read_image(path, model((3, 4, 4), Geometry("RGB", (Resize((4, 4), "bilinear"),)))).shape == (3, 4, 4)
    with pytest.raises(DatasetError, match=r"has shape \(3, 5, 7\), but the model takes \(3, 4, 4\)"):
        read_image(path, model((3, 4, 4)))
    Image.fromarray(np.full((5, 7), 40_000, np.uint16)).save(path)
    with pytest.raises(DatasetError, match="8 bits per channel, got PIL mode I;16"):
        read_image(path, model((1, 5, 7)))
    path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match="not a readable image"):
        read_image(path, model((1, 5, 7)))
    with pytest.raises(DatasetError, match="there is no file"):
        read_image(tmp_path / "absent.png", model((1, 5, 7)))


def test_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = import_torchvision("models")
    with pytest.raises(UsageError, match=r"no classifier 'squeezenet1_' .did you mean 'squeezenet1_[01]'"):
        load_model("torchvision:squeezenet1_")

    def offline(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(
        ModelError, match=r"weights of torchvision:squeezenet1_1 could not be fetched.*no route to host"
    ):
        load_model("torchvision:squeezenet1_1")

    # What torchvision would have fetched lies in its cache from here on, so nothing is fetched.
    weights = models.get_model_weights("squeezenet1_1").DEFAULT
    cached = tmp_path / "checkpoints" / weights.url.rpartition("/")[2]
    network = models.squeezenet1_1().eval()
    torch.save(network.state_dict(), cached)
    loaded = load_model("torchvision:squeezenet1_1")
    assert (loaded.num_classes, loaded.input_shape, loaded.data) == (1000, (3, 224, 224), "imagenet")
    assert loaded.class_names is not None
    assert loaded.class_names[0] == "tench"
    assert loaded.transform is not None
    image = loaded.transform(picture(400, 300))
    assert image.size == (224, 224)
    expected = scores(network, weights.transforms()(picture(400, 300))[None])
    torch.testing.assert_close(scores(loaded, as_batch(image)), expected)

    text = transform_text(loaded.transform)
    assert text is not None
    assert json.loads(text)["steps"] == [
        {"step": "Resize", "size": [256], "interpolation": "bilinear"},
        {"step": "CenterCrop", "size": [224]},
    ]
    assert_rebuilds(loaded)

    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.mkdir, (tmp_path / "ran",)

    torch.save({"classifier.1.bias": Malicious()}, cached)
    with pytest.raises(ModelError, match="could not be fetched or read"):
        load_model("torchvision:squeezenet1_1")
    assert not (tmp_path / "ran").exists()


def test_timm(tmp_path: Path) -> None:
    import_torchvision()
    timm = pytest.importorskip("timm")
    import safetensors.torch

    with pytest.raises(UsageError, match=r"timm has no model 'resnet181'.*did you mean 'resnet18"):
        load_model("timm:resnet181")
    network = timm.create_model("test_vit", num_classes=4).eval()
    config = {
        "architecture": "test_vit",
        "num_classes": 4,
        "pretrained_cfg": {
            "input_size": [3, 160, 160],
            "interpolation": "bicubic",
            "crop_pct": 0.8,
            "fixed_input_size": True,
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "num_classes": 4,
            "label_names": ["a", "b", "c", "d"],
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "model.safetensors")
    loaded = load_model(f"timm:{tmp_path}")
    assert (loaded.num_classes, loaded.input_shape, loaded.class_names) == (4, (3, 160, 160), ("a", "b", "c", "d"))
    assert loaded.transform is not None
    image = loaded.transform(picture())
    assert image.size == (160, 160)
    data = timm.data.resolve_model_data_config(network, pretrained_cfg=config["pretrained_cfg"])
    expected = scores(network, timm.data.create_transform(**data, is_training=False)(picture())[None])
    torch.testing.assert_close(scores(loaded, as_batch(image)), expected)
    assert loaded.digest == load_model(f"timm:{tmp_path}").digest
    texts = {assert_rebuilds(loaded)}
    for changes in ({"crop_pct": 0.9}, {"interpolation": "bilinear"}, {"crop_mode": "squash"}, {"crop_mode": "border"}):
        cfg = config["pretrained_cfg"] | changes
        (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": cfg}))
        changed = load_model(f"timm:{tmp_path}")
        expected = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=cfg))(picture())
        mean, std = (torch.tensor(cfg[key])[:, None, None] for key in ("mean", "std"))
        assert changed.transform is not None
        torch.testing.assert_close((as_batch(changed.transform(picture()))[0] - mean) / std, expected)
        texts.add(assert_rebuilds(changed))
    assert len(texts) == 5  # each change is in the text


def test_huggingface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision()
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        id2label={0: "cat", 1: "dog", 2: "emu"},
    )  # fmt: skip
    network = transformers.ViTForImageClassification(config).eval()
    processors = {
        # mean and std of the model's own; a resize of the shorter side and a crop; BGR without mean and std
        "vit": transformers.ViTImageProcessor(
            size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
        ),
        "convnext": transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
        "mobilevit": transformers.MobileViTImageProcessor(
            size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, do_flip_channel_order=True
        ),
        "efficientnet": transformers.EfficientNetImageProcessor(size={"height": 32, "width": 32}, include_top=True),
    }
    digests, texts = [], []
    for name, processor in processors.items():
        folder = tmp_path / name
        network.save_pretrained(folder)
        processor.save_pretrained(folder)
        loaded = load_model(f"hf:{folder}")
        assert (loaded.num_classes, loaded.input_shape) == (3, (3, 32, 32))
        assert loaded.class_names == ("cat", "dog", "emu")
        assert loaded.transform is not None
        image = loaded.transform(picture())
        assert image.size == (32, 32)
        expected = scores_of(network, processor, picture())
        torch.testing.assert_close(scores(loaded, as_batch(image)), expected, rtol=1e-4, atol=1e-5)
        digests.append(loaded.digest)
        texts.append(assert_rebuilds(loaded))
    assert len(set(digests)) == len(set(texts)) == len(processors)
    assert load_model(f"hf:{tmp_path / 'vit'}").digest == digests[0]
    # the order of colours alone is noticed, and so is a name that is no image processor's
    option = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    flips = []
    for flip in (False, True):
        transformers.MobileViTImageProcessor(do_flip_channel_order=flip, **option).save_pretrained(tmp_path / "vit")
        flips.append(load_model(f"hf:{tmp_path / 'vit'}").digest)
    assert flips[0] != flips[1]
    content = json.loads(texts[0])
    for bad in ({"processor": "AutoModel"}, {"processor": "os.system"}, {"options": {"size": {"height": 10**9}}}):
        with pytest.raises(ModelError, match=r"no image processor|numbers must be at most 8192"):
            rebuild_transform(json.dumps(content | bad))
    # weights that only a pickle holds are not read
    torch.save(network.state_dict(), tmp_path / "vit" / "pytorch_model.bin")
    (tmp_path / "vit" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="could not be fetched or read"):
        load_model(f"hf:{tmp_path / 'vit'}")
    (tmp_path / "vit" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"holds config\.json"):
        load_model(f"hf:{tmp_path / 'vit'}")


def scores_of(network: Any, processor: Any, image: Any) -> Tensor:
    with torch.inference_mode():
        return network(**processor(images=image, return_tensors="pt")).logits
