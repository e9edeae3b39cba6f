"""The smoothed prediction of new inputs: image files, or inputs of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from certify.class_hint import class_hint
from certify.datasets import load_dataset
from certify.datasets.pixels import apply_transform, decode_rgb, unit_scale
from certify.datasets.selection import select_indices
from certify.errors import DatasetError, UsageError
from certify.models import load_model
from certify.models.base import LoadedModel
from certify.noise_choice import narrow_noise
from certify.setup import RunOptions, pick_device, settle_law
from smoothing.distributions.table import try_law
from smoothing.forward import ForwardSettings
from smoothing.noise import NOISE_VERSION
from smoothing.smoothed import SmoothedClassifier


@dataclass(frozen=True)
class Prediction:
    """The smoothed class of one input; `label` is None when abstained."""

    source: str
    label: int | None
    name: str


def predict_inputs(options: RunOptions, files: Sequence[Path]) -> tuple[list[Prediction], list[str]]:
    """Predict image files, or, when there are none, the chosen inputs of `options.data`.

    Args:
        options: Model, law, n and alpha; `data` may be "" when files are given.
        files: Image files.

    Returns:
        Predictions in order, and warnings.

    Raises:
        UsageError: If neither or both of files and data are given.
        InvalidArgumentError: If the law is unknown, or a parameter of it is unknown, missing or out of range.
        DatasetError: If a file is not an image that the model takes.
    """
    if bool(files) == bool(options.data):
        raise UsageError("give either image files or --data with --indices, not both and not neither")
    if options.noise is not None:
        try_law(options.noise, **dict(options.parameters))
    model = load_model(
        options.model,
        num_classes=options.num_classes,
        trust_pickle=options.trust_pickle,
        architecture=options.architecture,
        normalisation=options.normalisation,
    )
    names: tuple[str, ...] = model.class_names or ()
    classes = model.num_classes
    if files:
        x = torch.stack([read_image(path, model) for path in files])
        sources = [str(path) for path in files]
        keys = None
    else:
        data = load_dataset(options.data, root=options.data_root, split=options.split, transform=model.transform)
        data.require_shape()
        keys = select_indices(
            len(data), stride=options.stride, skip=options.skip, maximum=options.maximum, indices=options.indices
        )
        x = data.inputs(keys)
        sources = [f"{data.name}[{index}]" for index in keys]
        names = names or data.class_names
        classes = classes or data.num_classes
    if classes is None:
        raise UsageError("the model does not say how many classes it has: give --num-classes")
    law, warnings = settle_law(options, model, tuple(x.shape[1:]))
    narrow = narrow_noise(law, {"version": NOISE_VERSION})  # what `SmoothedClassifier` draws
    if narrow is not None:
        warnings = [narrow, *warnings]
    device = pick_device(options.device)
    settings = ForwardSettings(options.batch_size if options.batch_size is not None else 256, options.precision)
    smoothed = SmoothedClassifier(
        model.classifier, law, classes, batch_size=settings.batch_size, precision=settings.precision, device=device
    )
    with class_hint(model.num_classes, options.num_classes):
        labels = smoothed.predict(x, n=options.n, alpha=options.alpha, seed=options.seed, indices=keys)
    found = [
        Prediction(source, label, "abstain" if label is None else _name(names, label))
        for source, label in zip(sources, labels, strict=True)
    ]
    return found, warnings


def read_image(path: Path, model: LoadedModel) -> Tensor:
    """Read an image file as float32 [channels, height, width] in [0, 1], resized as the model's configuration says.

    Raises:
        DatasetError: If it cannot be read, has more than 8 bits per channel, or not the shape that the model takes.
    """
    if not path.is_file():
        raise DatasetError(f"there is no file {path}")
    image = decode_rgb(path, str(path))
    if model.input_shape is not None and model.input_shape[0] == 1:
        image = image.convert("L")
    x = unit_scale(np.stack([apply_transform(image, model.transform, str(path))]), 255)[0]
    if model.input_shape is not None and tuple(x.shape) != tuple(model.input_shape):
        raise DatasetError(f"{path} has shape {tuple(x.shape)}, but the model takes {tuple(model.input_shape)}")
    return x


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else str(label)
