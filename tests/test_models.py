"""Architectures: known parameter counts, weights alone rebuild them, and digests see all that is computed."""

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_tools import batch, scores
from torch import Tensor, nn

from certify.errors import UsageError
from certify.models import (
    ARCHITECTURES,
    Normalize,
    build_architecture,
)
from certify.models.digest import module_digest
from smoothing.errors import InvalidArgumentError

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
