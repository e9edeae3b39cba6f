"""What loading a model gives, and the words shared by the loaders of every kind."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from certify.models.digest import callable_digest


@dataclass(frozen=True)
class NoiseSpec:
    """A noise by name and parameters, as a checkpoint records what its model was trained with.

    Args:
        name: Name of the law ("gaussian", ...).
        parameters: Its parameters by name, for instance `{"sigma": 0.5}`; input units.
    """

    name: str
    parameters: dict[str, float]

    @property
    def sigma(self) -> float | None:
        """Per-coordinate standard deviation, where the noise was given by it."""
        return self.parameters.get("sigma")

    def __str__(self) -> str:
        return f"{self.name} noise ({', '.join(f'{key}={value:g}' for key, value in self.parameters.items())})"


@dataclass(frozen=True)
class LoadedModel:
    """A base classifier ready to be smoothed, on the CPU and in eval mode, with what is known about it.

    Args:
        spec: The text that named it.
        classifier: Takes float32 [batch, *shape] in [0, 1] and returns scores [batch, classes] or labels [batch]; an
            `nn.Module` where there is one. Normalisation happens inside it, so noise is added in pixel units.
        num_classes: Number of classes; None where only a run will tell.
        input_shape: Shape of one input without the batch axis; None where unknown.
        transform: PIL image -> PIL image, the resizing and cropping that go before the noise; None for none. See
            `transform_text`.
        noise: Noise that it was trained with, if known.
        class_names: One name a class, if known.
        data: Data set that it was trained on, if known.
        digest: sha256 (hex) of what it computes: weights and architecture.
        description: One line for people.
    """

    spec: str
    classifier: Callable[[Tensor], Tensor]
    num_classes: int | None
    input_shape: tuple[int, ...] | None
    transform: Callable[[Any], Any] | None
    noise: NoiseSpec | None
    class_names: tuple[str, ...] | None
    data: str | None
    digest: str
    description: str


def transform_text(transform: Callable[[Any], Any] | None) -> str | None:
    """Return a text that says all that a transform does to an image, the same in every process; None for none.

    It belongs to what a run is, because the digests of the model and of the data do not cover it. Transforms of the
    models here describe themselves, in JSON, from which `rebuild_transform` builds them again; any other callable
    enters by its name and the digest of all that can be reached from it.
    """
    if transform is None:
        return None
    own = getattr(transform, "describe", None)
    if callable(own):
        return str(own())
    name = getattr(transform, "__qualname__", type(transform).__qualname__)
    return f"{name} {callable_digest(transform)}"


def shape_text(shape: Iterable[int]) -> str:
    """Return a shape as people write it: 3x32x32."""
    return "x".join(str(size) for size in shape)


def parameter_count(module: nn.Module) -> int:
    """Return the number of parameters (buffers, such as batch-norm statistics, are not counted)."""
    return sum(parameter.numel() for parameter in module.parameters())


def describe(
    name: str,
    classifier: object,
    *,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    data: str | None = None,
    noise: NoiseSpec | None = None,
    remarks: tuple[str, ...] = (),
) -> str:
    """Return one line that says what a model is, leaving out what is not known."""
    parts = [name]
    if isinstance(classifier, nn.Module):
        parts[0] += f" ({parameter_count(classifier):,} parameters)"
    if input_shape is not None:
        parts.append(f"inputs {shape_text(input_shape)}")
    if num_classes is not None:
        parts.append(f"{num_classes} classes")
    if data is not None or noise is not None:
        trained = f"trained on {data}" if data is not None else "trained"
        parts.append(f"{trained} with {noise}" if noise is not None else trained)
    return ", ".join([*parts, *remarks])


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the closest of `options`, or nothing where none is close."""
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def reason(error: BaseException) -> str:
    """Return the type of `error` and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
