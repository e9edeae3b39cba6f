"""A vote must be a function of its own sample: classifiers for which it is not are refused before the first vote."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smoothing import ClassifierError, ForwardSettings, Gaussian, InvalidArgumentError, SmoothedClassifier
from smoothing.forward import Forward, modules_behind

SHAPE = (3, 8, 8)


def network(*extra: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), *extra, nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))


def batch_statistics() -> nn.Module:
    return network(nn.BatchNorm2d(8, track_running_stats=False))


def quantised(x: Tensor) -> Tensor:
    """Quantised with the range of the whole batch, as dynamic quantisation does."""
    step = (x.max() - x.min()) / 255
    return ((x / step).round() * step).flatten(1)[:, :4]


def labels_of_ranks(x: Tensor) -> Tensor:
    """Labels that depend on the order of the whole batch."""
    return (x.mean((1, 2, 3)).argsort().argsort() % 4).long()


def random_labels(x: Tensor) -> Tensor:
    return torch.randint(0, 4, (len(x),))


def always_training(x: Tensor) -> Tensor:
    return nn.functional.dropout(x.flatten(1)[:, :4], 0.5, training=True)


@pytest.mark.parametrize(
    "make",
    [batch_statistics, lambda: quantised, lambda: labels_of_ranks, lambda: random_labels, lambda: always_training],
)
@pytest.mark.parametrize("batch_size", [16, 256])
def test_classifiers_of_the_whole_batch_are_refused(make: Callable[[], Any], batch_size: int) -> None:
    smoothed = SmoothedClassifier(make(), Gaussian(SHAPE, sigma=0.25), 4, batch_size=batch_size)
    for work in (
        lambda: smoothed.certify(torch.rand(1, *SHAPE), n=100),
        lambda: smoothed.predict(torch.rand(1, *SHAPE)),
    ):
        with pytest.raises(ClassifierError, match="must depend on that input alone"):
            work()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_ordinary_classifiers_pass(precision: str, batch_size: int) -> None:
    smoothed = SmoothedClassifier(
        network(nn.BatchNorm2d(8), nn.Dropout(0.5)).train(),
        Gaussian(SHAPE, sigma=0.25),
        4,
        batch_size=batch_size,
        precision=precision,
    )
    assert smoothed.certify(torch.rand(1, *SHAPE), n=64)[0].n == 64


def test_classifiers_that_return_nan_pass_and_certify_nothing() -> None:
    smoothed = SmoothedClassifier(lambda x: torch.full((len(x), 4), torch.nan), Gaussian(SHAPE, sigma=0.25), 4)
    assert smoothed.certify(torch.rand(1, *SHAPE), n=64)[0].prediction is None


def test_modules_behind_a_callable_are_put_in_eval_mode_and_restored() -> None:
    model = network(nn.BatchNorm2d(8), nn.Dropout(0.5)).train()

    class Holder:
        def __init__(self) -> None:
            self.inner = {"model": [model]}

        def __call__(self, x: Tensor) -> Tensor:
            result: Tensor = self.inner["model"][0](x)
            return result

    def apply(inner: nn.Module, x: Tensor) -> Tensor:
        result: Tensor = inner(x)
        return result

    before = {key: value.clone() for key, value in model.state_dict().items()}
    for classifier in (model.forward, lambda x: model(x) * 1, functools.partial(apply, model), Holder()):
        assert modules_behind(classifier) == [model]
        smoothed = SmoothedClassifier(classifier, Gaussian(SHAPE, sigma=0.25), 4)
        smoothed.certify(torch.rand(1, *SHAPE), n=64)
        assert all(module.training for module in model.modules())
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_precision_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"needs a classifier that is an nn\.Module"):
        Forward(quantised, ForwardSettings(precision="bf16"))


def test_the_precision_of_matrix_products_is_fixed_and_restored() -> None:
    seen = []

    def classifier(x: Tensor) -> Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return x.flatten(1)[:, :4]

    torch.set_float32_matmul_precision("medium")
    try:
        Forward(classifier, ForwardSettings(4))(torch.rand(4, *SHAPE))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest"]


def test_errors_of_the_classifier_keep_their_cause() -> None:
    def classifier(x: Tensor) -> Tensor:
        raise ValueError("no such thing")

    smoothed = SmoothedClassifier(classifier, Gaussian(SHAPE, sigma=0.25), 4)
    with pytest.raises(ClassifierError, match="ValueError: no such thing") as caught:
        smoothed.certify(torch.rand(1, *SHAPE), n=64)
    assert isinstance(caught.value.__cause__, ValueError)
