"""`hf:NAME`: an image classifier of the transformers library, from its hub or from a local folder."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from certify.errors import ModelError
from certify.models.base import LoadedModel, describe, reason
from certify.models.digest import module_digest
from certify.models.libraries import PixelClassifier, fetching, import_extra
from certify.models.normalize import Normalize
from certify.models.transforms import check_sizes, is_processor_name
from certify.torchvision_compat import import_torchvision

_COLOURS = {"black": (0, 0, 0), "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}
_BOOKKEEPING = {"image_processor_type", "processor_class", "feature_extractor_type", "transformers_version", "auto_map"}


@dataclass(frozen=True)
class Preprocessing:
    """An image processor taken apart: geometry before the noise, colour arithmetic after it.

    Processors differ in how they rescale, shift, normalise and order colours, and each has options of its own. All are
    a resize and crop followed by a map `scale * pixel + offset` in each channel, so the map is measured on images of
    one colour rather than read from options.

    Args:
        processor: The image processor.
        flip_channels: Whether it returns BGR.
        scale: Slope in each output channel, for pixels in [0, 1].
        offset: Value of black in each output channel.
    """

    processor: Any
    flip_channels: bool
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def mean(self) -> tuple[float, ...]:
        """The m of (x - m) / s, to six decimals: measured in float32, whose last bits must not change the digest."""
        return tuple(round(-b / a, 6) for a, b in zip(self.scale, self.offset, strict=True))

    @property
    def std(self) -> tuple[float, ...]:
        """The s of (x - m) / s."""
        return tuple(round(1.0 / a, 6) for a in self.scale)

    def __call__(self, image: Any) -> Any:
        """Return the RGB image that the processor would normalise next: PIL image -> PIL image."""
        from PIL import Image

        values = _run(self.processor, image.convert("RGB"))
        pixels = (values - np.asarray(self.offset)[:, None, None]) / np.asarray(self.scale)[:, None, None]
        if self.flip_channels:
            pixels = pixels[::-1]
        return Image.fromarray(np.clip(np.rint(pixels * 255.0), 0, 255).astype(np.uint8).transpose(1, 2, 0))

    def describe(self) -> str:
        """Return all that decides the pixels as JSON; `rebuild_transform` builds the same transform from it."""
        options = json.loads(self.processor.to_json_string())
        options = {name: value for name, value in options.items() if name not in _BOOKKEEPING}
        content = {"kind": "transformers", "processor": type(self.processor).__name__, "options": options}
        return json.dumps(content, sort_keys=True)

    def output_shape(self) -> tuple[int, ...] | None:
        """Return (3, height, width) of what comes out; None if that depends on the image."""
        from PIL import Image

        shapes = {_run(self.processor, Image.new("RGB", size)).shape for size in ((300, 200), (200, 310))}
        return tuple(shapes.pop()) if len(shapes) == 1 else None


def load_huggingface(spec: str, name: str) -> LoadedModel:
    """Load an image classifier of transformers: safetensors weights only, no code from the hub.

    Args:
        spec: The text that the user gave.
        name: "OWNER/NAME" on the hub, or a local folder.

    Raises:
        ModelError: If transformers is not installed, the model cannot be fetched or read, or its preprocessing is not
            a resize, crop and normalisation.
    """
    import_torchvision()  # transformers imports it, and it has to be the one that imports everywhere
    transformers = import_extra("transformers", "hf")
    folder = Path(name).expanduser()
    if folder.is_dir():
        name = str(folder)
        if not (folder / "config.json").is_file():
            raise ModelError(f"a folder of the transformers library holds config.json, but {folder} has none")
    elif name.startswith(("/", ".", "~")):
        raise ModelError(f"{folder} does not exist")
    with fetching(spec), _quiet(transformers, folder.is_dir()):
        options = {"trust_remote_code": False, "local_files_only": folder.is_dir()}
        processor = transformers.AutoImageProcessor.from_pretrained(name, **options)
        network = transformers.AutoModelForImageClassification.from_pretrained(name, use_safetensors=True, **options)
    network = network.to("cpu").float()  # some are saved in half precision; the run chooses its own
    preprocessing = measure(spec, processor)
    classifier = PixelClassifier(
        Normalize(preprocessing.mean, preprocessing.std),
        network,
        output="logits",
        flip_channels=preprocessing.flip_channels,
    ).eval()
    config = network.config
    classes = int(config.num_labels)
    shape = preprocessing.output_shape()
    names = tuple(str(config.id2label[i]) for i in range(classes)) if len(config.id2label) == classes else None
    told = {
        k: v
        for k, v in config.to_dict().items()
        if k not in ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
    }
    return LoadedModel(
        spec=spec,
        classifier=classifier,
        num_classes=classes,
        input_shape=shape,
        transform=preprocessing,
        noise=None,
        class_names=names,
        data=None,
        digest=module_digest(classifier, f"{type(network).__name__} {json.dumps(told, sort_keys=True, default=str)}"),
        description=describe(f"hf {type(network).__name__} {name}", classifier, input_shape=shape, num_classes=classes),
    )


@contextmanager
def _quiet(transformers: Any, local: bool) -> Iterator[None]:
    """Hide the progress bars of the library where nothing is downloaded."""
    bars = transformers.utils.logging
    hide = local and bars.is_progress_bar_enabled()
    if hide:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            bars.enable_progress_bar()


def measure(spec: str, processor: Any) -> Preprocessing:
    """Find the colour arithmetic of an image processor by running it on images of one colour.

    Raises:
        ModelError: If it is not a map of each channel by itself.
    """
    from PIL import Image

    seen: dict[str, Float64[ndarray, " channels"]] = {}
    for colour, rgb in _COLOURS.items():
        values = _run(processor, Image.new("RGB", (512, 512), rgb))
        seen[colour] = values[:, values.shape[1] // 2, values.shape[2] // 2]
    offset = seen["black"]
    response = np.stack(
        [seen[colour] - offset for colour in ("red", "green", "blue")], axis=1
    )  # output x input channel
    flipped = bool(abs(response[0, 2]) > abs(response[0, 0]))
    scale = np.diag(response[:, ::-1] if flipped else response)
    separate = np.allclose(response[:, ::-1] if flipped else response, np.diag(scale), atol=1e-4)
    linear = np.allclose(seen["grey"], scale * (128 / 255) + offset, atol=1e-4)
    if not (separate and linear and (scale > 0).all()):
        raise ModelError(
            f"{spec}: its image processor must resize, crop and normalise each channel, but does more than that"
        )
    return Preprocessing(processor, flipped, tuple(scale.tolist()), tuple(offset.tolist()))


def rebuild_processor(content: dict[str, Any]) -> Preprocessing:
    """Build the transform again from what `Preprocessing.describe` says; see `rebuild_transform`.

    Only an image processor of the library itself can be named, and it is given nothing but numbers and texts.

    Raises:
        ModelError: If transformers is not installed, has no such image processor, or it fails.
        ValueError: If a number is no possible size.
    """
    name, options = content["processor"], dict(content["options"])
    import_torchvision()
    transformers = import_extra("transformers", "hf")
    found = getattr(transformers, name, None) if is_processor_name(name) else None
    if not (isinstance(found, type) and issubclass(found, transformers.BaseImageProcessor)):
        raise ModelError(f"transformers has no image processor {name!r}")
    check_sizes(options)
    try:
        processor: Any = found(**options)
    except Exception as error:
        raise ModelError(f"the image processor {name} cannot be built: {reason(error)}") from error
    return measure(name, processor)


def _run(processor: Any, image: Any) -> Float64[ndarray, "3 height width"]:
    try:
        values = np.asarray(processor(images=image, return_tensors="np")["pixel_values"], dtype=np.float64)
    except Exception as error:
        raise ModelError(f"the image processor {type(processor).__name__} failed: {reason(error)}") from error
    if values.ndim != 4 or values.shape[:2] != (1, 3):
        raise ModelError(
            f"the image processor {type(processor).__name__} must return one RGB image, got shape {values.shape}"
        )
    image_values: Float64[ndarray, "3 height width"] = values[0]
    return image_values
