"""`torchvision:NAME`: a pretrained classifier of torchvision with its default weights."""

from certify.errors import UsageError
from certify.models.base import LoadedModel, describe, did_you_mean
from certify.models.digest import module_digest
from certify.models.libraries import PixelClassifier, fetching
from certify.models.normalize import Normalize
from certify.models.transforms import CenterCrop, Geometry, Resize
from certify.torchvision_compat import import_torchvision


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
    resize = Resize(tuple(preset.resize_size), preset.interpolation.value)
    return LoadedModel(
        spec=spec,
        classifier=classifier,
        num_classes=len(class_names),
        input_shape=shape,
        transform=Geometry("RGB", (resize, CenterCrop(tuple(preset.crop_size)))),
        noise=None,
        class_names=class_names,
        data=data,
        digest=module_digest(classifier, f"torchvision {name}\n{classifier!r}"),
        description=describe(
            f"torchvision {name} {weights.name}", classifier, input_shape=shape, num_classes=len(class_names), data=data
        ),
    )
