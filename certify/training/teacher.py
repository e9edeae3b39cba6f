"""What another model adds to a training: pseudo-labels of unlabelled images, predictions of training images."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from certify.errors import UsageError
from certify.files import write_atomically
from certify.models.base import LoadedModel
from certify.training.data import TrainingData
from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.table import make_law
from smoothing.forward import Forward, ForwardSettings
from smoothing.training.batches import as_inputs
from smoothing.training.objective import add_noise
from smoothing.training.randomness import seeded_generator
from smoothing.votes import read_outcomes

PREDICTIONS_FILE = "predictions.npz"
"""In the checkpoint folder while a training runs: counting votes takes minutes, a resumed training reads them again."""

_ROWS = 1024


@dataclass(frozen=True)
class Extras:
    """What accompanies the examples.

    Attributes:
        weights: What each example counts, or None.
        predictions: Class probabilities of each example, or None.
    """

    weights: Float[Tensor, " n"] | None = None
    predictions: Float[Tensor, "n classes"] | None = None


def check_teacher(teacher: LoadedModel, data: TrainingData) -> None:
    """Check that a teacher can label this data.

    Raises:
        UsageError: If it has other classes, or takes other inputs.
    """
    classes = data.source.num_classes
    if teacher.num_classes is not None and teacher.num_classes != classes:
        raise UsageError(
            f"the teacher must have the {classes} classes of {data.source.name}, got {teacher.num_classes} classes "
            f"({teacher.spec})"
        )
    names, mine = teacher.class_names, data.source.class_names
    if names is not None and mine is not None and tuple(names) != tuple(mine):
        raise UsageError(
            f"the teacher must have the classes of {data.source.name} in the same order, got {list(names)[:5]}... "
            f"instead of {list(mine)[:5]}... ({teacher.spec})"
        )
    if teacher.input_shape is not None and tuple(teacher.input_shape) != data.shape:
        raise UsageError(
            f"the teacher must take inputs of shape {data.shape}, got {tuple(teacher.input_shape)} ({teacher.spec})"
        )


def teacher_law(teacher: LoadedModel, shape: tuple[int, ...]) -> SmoothingDistribution | None:
    """Return the noise that the teacher was trained with, or None where it does not say."""
    return None if teacher.noise is None else make_law(teacher.noise.name, shape, **teacher.noise.parameters)


def with_pseudo_labels(
    data: TrainingData, unlabelled: Tensor, teacher: LoadedModel, weight: float | int, *, device: torch.device
) -> tuple[TrainingData, Extras]:
    """Return the examples with unlabelled images after them, labelled by the teacher (without noise).

    Images for which the teacher returns no class (NaN scores) are left out. Held-out examples stay true ones.

    Args:
        data: The labelled examples.
        unlabelled: Images, of the same shape.
        teacher: Any model over the same classes.
        weight: What a pseudo-labelled example counts, at least 0; a true one counts 1.
        device: Where to run the teacher.

    Raises:
        UsageError: If the images have another shape.
    """
    if tuple(unlabelled.shape[1:]) != data.shape:
        raise UsageError(f"unlabelled images must have shape {data.shape}, got {tuple(unlabelled.shape[1:])}")
    counts = count_votes(teacher, unlabelled, data.source.num_classes, None, votes=1, device=device)
    labels = torch.from_numpy(counts).argmax(1)
    valid = torch.from_numpy(counts).sum(1) > 0
    if unlabelled.dtype != data.images.dtype:
        unlabelled = as_inputs(unlabelled, torch.device("cpu"))
        data = replace(data, images=as_inputs(data.images, torch.device("cpu")))
    joined = replace(
        data,
        images=torch.cat([data.images, unlabelled[valid]]),
        labels=torch.cat([data.labels, labels[valid]]),
    )
    weights = torch.cat([torch.ones(len(data.labels)), torch.full((int(valid.sum()),), float(weight))])
    return joined, Extras(weights=weights)


def predictions_for(
    data: TrainingData,
    teacher: LoadedModel,
    *,
    votes: int,
    seed: int,
    device: torch.device,
    folder: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "n classes"]:
    """Return the shares of the teacher's votes for each training image under the teacher's own noise.

    They are kept in `folder` and read from there by a training that is resumed, if they belong to the same teacher,
    images, number of votes and seed.

    Raises:
        UsageError: If the teacher was trained without noise.
    """
    law = teacher_law(teacher, data.shape)
    if law is None:
        raise UsageError(
            f"the teacher of predictions must have been trained with noise, got {teacher.spec}, which was not"
        )
    key = hashlib.sha256(
        f"{teacher.digest}|{law.identity}|{votes}|{seed}|{data.source.digest()}|{_digest(data.images)}".encode()
    ).hexdigest()
    path = folder / PREDICTIONS_FILE
    counts = _read(path, key, (len(data.images), data.source.num_classes))
    if counts is None:
        counts = count_votes(
            teacher,
            data.images,
            data.source.num_classes,
            law,
            votes=votes,
            device=device,
            seed=seed,
            on_progress=on_progress,
        )
        _write(path, key, counts)
    # An image for which every vote was invalid tells nothing: all classes alike.
    found = torch.from_numpy(counts).double()
    found[found.sum(1) == 0] = 1.0
    return (found / found.sum(1, keepdim=True)).float()


def count_votes(
    teacher: LoadedModel,
    images: Tensor,
    classes: int,
    law: SmoothingDistribution | None,
    *,
    votes: int,
    device: torch.device,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Int64[np.ndarray, "n classes"]:
    """Return how often the teacher chose each class, [n, classes]; invalid votes are not counted.

    These votes steer a training and prove nothing: their noise is a stream of its own and not that of certificates.
    """
    forward = Forward(teacher.classifier, ForwardSettings(_ROWS), device)
    generator = seeded_generator(forward.device, seed, "teacher")
    counts = torch.zeros((len(images), classes + 1), dtype=torch.int64, device=forward.device)
    with forward.evaluating(), torch.inference_mode():
        for vote in range(votes):
            for first in range(0, len(images), _ROWS):
                x = as_inputs(images[first : first + _ROWS], forward.device)
                if law is not None:
                    x = add_noise(x, law, generator)
                outcome = read_outcomes(forward(x), len(x), classes)
                rows = counts[first : first + _ROWS]
                rows.scatter_add_(1, outcome[:, None], torch.ones_like(outcome)[:, None])
            if on_progress is not None:
                on_progress(vote + 1, votes)
    result: Any = counts[:, :classes].cpu().numpy()
    return result  # type: ignore[no-any-return]


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()


def _read(path: Path, key: str, shape: tuple[int, int]) -> Any:
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) == key and file["counts"].shape == shape:
                return file["counts"].astype(np.int64)
    except (OSError, ValueError, KeyError):
        return None  # absent, cut off or of another training: counted again
    return None


def _write(path: Path, key: str, counts: Any) -> None:
    import io

    buffer = io.BytesIO()
    np.savez_compressed(buffer, counts=counts.astype(np.int32), key=np.array(key))
    write_atomically(path, buffer.getvalue())
