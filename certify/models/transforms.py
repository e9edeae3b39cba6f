"""The resizing and cropping that a model brings, taken apart into steps that can be written down and built again.

They change every input before the noise is added, so their text belongs to what a run is; and pictures of a run can be
drawn again from the text alone, without the model.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from certify.errors import ModelError
from certify.models.base import reason
from certify.torchvision_compat import import_torchvision

_LARGEST = 8192  # pixels a side: far above what any classifier takes, far below what fills a memory
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
_PADDINGS = ("constant", "edge", "reflect", "symmetric")


@runtime_checkable
class _Step(Protocol):
    def __call__(self, image: Any, /) -> Any: ...


@dataclass(frozen=True)
class Resize:
    """Resize the shorter side to `size[0]`, or the image to (height, width)."""

    size: tuple[int, ...]
    interpolation: str

    def __call__(self, image: Any, /) -> Any:
        """Return the resized image."""
        functional = import_torchvision("transforms.functional")
        mode = import_torchvision("transforms").InterpolationMode(self.interpolation)
        return functional.resize(image, list(self.size), interpolation=mode, antialias=True)


@dataclass(frozen=True)
class ResizeKeepRatio:
    """Resize to (height, width) by one factor: `longest` = 0 fits the shorter side, 1 the longer one (timm's step)."""

    size: tuple[int, ...]
    longest: float
    interpolation: str

    def __call__(self, image: Any, /) -> Any:
        """Return the resized image."""
        return _timm("ResizeKeepRatio")(self.size, longest=self.longest, interpolation=self.interpolation)(image)


@dataclass(frozen=True)
class CenterCrop:
    """Cut (height, width) out of the centre."""

    size: tuple[int, ...]

    def __call__(self, image: Any, /) -> Any:
        """Return the centre."""
        return import_torchvision("transforms.functional").center_crop(image, list(self.size))


@dataclass(frozen=True)
class CenterCropOrPad:
    """Cut (height, width) out of the centre of the image, which is padded first where it is smaller (timm's step)."""

    size: tuple[int, ...]
    fill: tuple[int, ...]
    padding: str

    def __call__(self, image: Any, /) -> Any:
        """Return the centre."""
        fill = self.fill[0] if len(self.fill) == 1 else self.fill
        return _timm("CenterCropOrPad")(list(self.size), fill=fill, padding_mode=self.padding)(image)


_STEPS: dict[str, type[Resize | ResizeKeepRatio | CenterCrop | CenterCropOrPad]] = {
    step.__name__: step for step in (Resize, ResizeKeepRatio, CenterCrop, CenterCropOrPad)
}


@dataclass(frozen=True)
class Geometry:
    """A chain of steps, PIL image -> PIL image.

    Args:
        mode: "RGB" or "L": what the image is converted to first.
        steps: The steps, in order.
    """

    mode: str
    steps: tuple[_Step, ...]

    def __call__(self, image: Any) -> Any:
        """Return the image after all steps."""
        image = image.convert(self.mode)
        for step in self.steps:
            image = step(image)
        return image

    def describe(self) -> str:
        """Return all that decides the pixels as JSON; `rebuild_transform` builds the same transform from it."""
        steps = [{"step": type(step).__name__, **asdict(step)} for step in self.steps]  # type: ignore[call-overload]
        return json.dumps({"kind": "geometry", "mode": self.mode, "steps": steps}, sort_keys=True)


def take_apart(spec: str, mode: str, transforms: Sequence[Any]) -> Geometry:
    """Return the steps of a transform of timm or torchvision that come before the image becomes a tensor.

    Raises:
        ModelError: If there is a step that is none of those above.
    """
    steps: list[_Step] = []
    for step in transforms:
        name = type(step).__name__
        if "Tensor" in name or "Numpy" in name:
            break
        interpolation = str(getattr(getattr(step, "interpolation", ""), "value", ""))
        if name == "Resize" and step.max_size is None:
            steps.append(Resize(_sizes(step.size), interpolation))
        elif name == "ResizeKeepRatio" and not step.random_scale_prob and not step.random_aspect_prob:
            steps.append(ResizeKeepRatio(_sizes(step.size), float(step.longest), interpolation))
        elif name == "CenterCrop":
            steps.append(CenterCrop(_sizes(step.size)))
        elif name == "CenterCropOrPad":
            steps.append(CenterCropOrPad(_sizes(step.size), _sizes(step.fill), str(step.padding_mode)))
        else:
            raise ModelError(f"{spec}: its images must be resized and cropped only, got the step {step}")
    return Geometry(mode, tuple(steps))


def rebuild_transform(text: str) -> Any:
    """Build a transform from its text, as `transform_text` gives it: PIL image -> PIL image.

    No model is loaded and no code named in the text is run: it can only choose among known steps and their numbers,
    or among the image processors of transformers.

    Raises:
        ModelError: If the text is not one that a known transform gives, or a library that it needs is missing.
    """
    try:
        content = json.loads(text)
        if content["kind"] == "transformers":
            from certify.models.from_huggingface import rebuild_processor

            return rebuild_processor(content)
        if content["kind"] != "geometry" or content["mode"] not in ("RGB", "L"):
            raise ValueError("it is of no known kind")
        return Geometry(content["mode"], tuple(_rebuild_step(dict(step)) for step in content["steps"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"a transform must be one that a model brought, in its own words, got {text[:200]!r} ({reason(error)})"
        ) from error


def _rebuild_step(content: dict[str, Any]) -> _Step:
    cls = _STEPS[content.pop("step")]
    for name in ("size", "fill"):
        if name in content:
            content[name] = tuple(content[name])
            smallest = 1 if name == "size" else 0
            if not content[name] or not all(type(n) is int and smallest <= n <= _LARGEST for n in content[name]):
                raise ValueError(f"{name} must be whole numbers in {smallest}..{_LARGEST}, got {content[name]}")
    if not 0.0 <= float(content.get("longest", 0.0)) <= 1.0:
        raise ValueError(f"longest must be in [0, 1], got {content['longest']}")
    if content.get("interpolation", "nearest") not in _INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {', '.join(_INTERPOLATIONS)}")
    if content.get("padding", "edge") not in _PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(_PADDINGS)}")
    return cls(**content)


def check_sizes(value: object) -> None:
    """Refuse whole numbers in nested data that no image has as its size.

    Raises:
        ValueError: If there is one.
    """
    if isinstance(value, dict):
        for item in value.values():
            check_sizes(item)
    elif isinstance(value, list):
        for item in value:
            check_sizes(item)
    elif isinstance(value, int | float) and not abs(value) <= _LARGEST:
        raise ValueError(f"numbers must be at most {_LARGEST}, got {value}")


def is_processor_name(name: object) -> bool:
    """Return whether `name` can be that of an image processor of transformers."""
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9]+ImageProcessor(Fast|Pil)?", name) is not None


def _sizes(size: Any) -> tuple[int, ...]:
    return (int(size),) if isinstance(size, int) else tuple(int(n) for n in size)


def _timm(name: str) -> Any:
    from certify.models.libraries import import_extra

    import_torchvision()  # timm imports it, and it has to be the one that imports everywhere
    import_extra("timm", "timm")
    return getattr(import_extra("timm.data.transforms", "timm"), name)
