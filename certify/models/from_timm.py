"""`timm:NAME`: a pretrained classifier of the timm library, from its hub or from a local folder."""

from pathlib import Path

from certify.errors import ModelError, UsageError
from certify.models.base import LoadedModel, describe, did_you_mean
from certify.models.digest import module_digest
from certify.models.libraries import PixelClassifier, fetching, import_extra
from certify.models.normalize import Normalize
from certify.models.transforms import take_apart
from certify.torchvision_compat import import_torchvision


def load_timm(spec: str, name: str) -> LoadedModel:
    """Load a classifier of timm with its pretrained weights.

    Args:
        spec: The text that the user gave.
        name: A model name of timm, "hf-hub:OWNER/NAME", or a local folder as timm saves it for the hub.

    Raises:
        UsageError: If timm has no model of that name.
        ModelError: If timm is not installed, the weights cannot be fetched, or the model is no classifier.
    """
    import_torchvision()  # timm imports it, and it has to be the one that imports everywhere
    timm = import_extra("timm", "timm")
    folder = Path(name).expanduser()
    if folder.is_dir():
        name = f"local-dir:{folder.resolve()}"
    elif name.startswith(("/", ".", "~")):
        raise ModelError(f"{folder} does not exist")
    elif ":" not in name and not timm.is_model(name):
        # the part after the dot names the weights, and timm knows their names only together with the model's
        hint = did_you_mean(name, timm.list_models())
        raise UsageError(f"timm has no model {name!r}{hint}; timm.list_models(pretrained=True) lists them")
    with fetching(spec):
        network = timm.create_model(name, pretrained=True)
    if not network.num_classes:
        raise ModelError(f"{spec} has no classes: it computes features only")
    config = timm.data.resolve_model_data_config(network)
    shape = tuple(int(size) for size in config["input_size"])
    classifier = PixelClassifier(Normalize(config["mean"], config["std"]), network).eval()
    steps = timm.data.create_transform(**config, is_training=False).transforms
    transform = take_apart(spec, "L" if shape[0] == 1 else "RGB", steps)
    pretrained = network.pretrained_cfg
    labels = pretrained.get("label_names")
    class_names = tuple(labels) if labels and len(labels) == network.num_classes else None
    data = "imagenet" if "in1k" in str(pretrained.get("tag") or "") and network.num_classes == 1000 else None
    title = f"timm {pretrained.get('architecture') or name} {pretrained.get('tag') or ''}".strip()
    return LoadedModel(
        spec=spec,
        classifier=classifier,
        num_classes=int(network.num_classes),
        input_shape=shape,
        transform=transform,
        noise=None,
        class_names=class_names,
        data=data,
        digest=module_digest(classifier, f"timm {pretrained.get('architecture')}\n{classifier!r}"),
        description=describe(title, classifier, input_shape=shape, num_classes=int(network.num_classes), data=data),
    )
