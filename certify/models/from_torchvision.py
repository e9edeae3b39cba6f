"""`torchvision:NAME`: a pretrained classifier of torchvision with its default weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from certify.errors import UsageError
from certify.models.base import LoadedModel, describe, did_you_mean
from certify.models.digest import module_digest
from certify.models.libraries import PixelClassifier, fetching
from certify.models.normalize import Normalize
from certify.torchvision_compat import import_torchvision


@dataclass(frozen=True)
class ResizeAndCrop:
    """The geometric half of a torchvision preset, PIL image -> PIL image; what follows it goes into the classifier."""

    preset: Any

    def __call__(self, image: Any) -> Any:
        """Return the RGB image, its shorter side resized, its centre cut out."""
        functional = import_torchvision("transforms.functional")
        preset = self.preset
        image = functional.resize(
            image.convert("RGB"), preset.resize_size, interpolation=preset.interpolation, antialias=preset.antialias
        )
        return functional.center_crop(image, preset.crop_size)


def load_torchvision(spec: str, name: str) -> LoadedModel:
    """Load a classifier of torchvision; weights are cached where torchvision caches them.

    Raises:
        UsageError: If torchvision has no classifier of that name.
        ModelError: If the weights cannot be fetched.
    """
    models = import_torchvision("models")
    names = models.list_models(module=models)
    if name not in names:
        raise UsageError(
            f"torchvision has no classifier {name!r}{did_you_mean(name, names)}; it has {', '.join(names)}"
        )
    weights = models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    with fetching(spec):
        network = models.get_model(name, weights=weights, progress=False)
    classifier = PixelClassifier(Normalize(preset.mean, preset.std), network).eval()
    class_names = tuple(weights.meta["categories"])
    shape = (3, preset.crop_size[0], preset.crop_size[0])
    data = "imagenet" if weights.name.startswith("IMAGENET1K") else None
    transform: Callable[[Any], Any] = ResizeAndCrop(preset)
    return LoadedModel(
        spec=spec,
        classifier=classifier,
        num_classes=len(class_names),
        input_shape=shape,
        transform=transform,
        noise=None,
        class_names=class_names,
        data=data,
        digest=module_digest(classifier, f"torchvision {name}\n{classifier!r}"),
        description=describe(
            f"torchvision {name} {weights.name}", classifier, input_shape=shape, num_classes=len(class_names), data=data
        ),
    )
