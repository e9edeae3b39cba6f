"""MODEL on the command line: factories, and digests of whatever they hide weights in."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_tools import scores
from torch import nn

from certify.errors import CertifyError, ModelError, UsageError
from certify.models import (
    MODEL_FORMS,
    Normalize,
    load_model,
)
from certify.models.digest import callable_digest, module_digest
from certify.models.libraries import PixelClassifier
from certify.models.reachable import look_into
from denoisers import DenoisedClassifier
from smoothing.errors import InvalidArgumentError

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
