"""An independent tally: the same noise and the same forward pass as the run, counted by other code, with margins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy import ndarray
from torch import Tensor

from certify.audit.neartie import NearTie
from smoothing.errors import ClassifierError
from smoothing.estimators.base import Phase
from smoothing.forward import Forward
from smoothing.noise import BLOCK
from smoothing.noise_source import Draw

RELATIVE_MARGIN = 1e-5
"""Two scores this close, relative to the largest score of the sample, may change places between batch shapes."""


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Recount:
    """The votes of one look, counted again: classes and, last, "invalid"; and the samples that were nearly tied."""

    counts: tuple[int, ...]
    near_ties: tuple[NearTie, ...]


def recount(
    forward: Forward,
    draw: Draw,
    shape: tuple[int, ...],
    *,
    phase: Phase,
    prefixes: Sequence[int],
    num_classes: int,
    on_votes: Callable[[int], None] | None = None,
) -> list[Recount]:
    """Draw the samples of a phase of one input again, each once, and count the votes of every prefix.

    Args:
        forward: The classifier at the recorded batch shape and precision.
        draw: The input's noisy copies, `NoiseSource.bind`.
        shape: Shape of the input.
        phase: Phase of the looks.
        prefixes: Number of samples of each look, increasing.
        num_classes: K.
        on_votes: Called with the number of votes after every batch.

    Returns:
        One recount per prefix.

    Raises:
        ClassifierError: If the classifier's output is neither scores nor labels.
    """
    last = prefixes[-1]
    outcomes = np.empty(last, dtype=np.int64)
    near_ties: list[NearTie] = []
    batch = forward.new_batch(shape)
    filled = first = 0  # the batch holds samples [first, first + filled)

    def flush() -> None:
        nonlocal filled, first
        batch[filled:].zero_()
        outcomes[first : first + filled], ties = _read(forward(batch), filled, len(batch), num_classes)
        near_ties.extend(replace(tie, sample=first + tie.sample) for tie in ties)
        if on_votes is not None:
            on_votes(filled)
        filled, first = 0, first + filled

    with forward.evaluating(), torch.inference_mode():
        for start in range(0, last, BLOCK):
            samples = draw(phase, start, min(start + BLOCK, last))
            while len(samples):
                step = min(len(samples), len(batch) - filled)
                batch[filled : filled + step].copy_(samples[:step])
                samples, filled = samples[step:], filled + step
                if filled == len(batch):
                    flush()
        if filled:
            flush()
    return [
        Recount(
            tuple(int(count) for count in np.bincount(outcomes[:n], minlength=num_classes + 1)),
            tuple(tie for tie in near_ties if tie.sample < n),
        )
        for n in prefixes
    ]


def _read(output: object, rows: int, batch: int, num_classes: int) -> tuple[Int64[ndarray, " rows"], list[NearTie]]:
    """Return outcomes and near-ties (sample = row) of the first `rows` rows of one batch."""
    if not isinstance(output, Tensor):
        raise ClassifierError(f"the classifier must return a tensor, got {type(output).__name__}")
    if tuple(output.shape) == (batch, num_classes) and output.is_floating_point():
        return _read_scores(output[:rows].double().cpu().numpy(), num_classes)
    if tuple(output.shape) == (batch,) and output.dtype in _INTEGERS:
        labels = output[:rows].long().cpu().numpy()
        return np.where((labels >= 0) & (labels < num_classes), labels, num_classes), []
    raise ClassifierError(
        f"the classifier must return scores {(batch, num_classes)} or integer labels {(batch,)}, got {output.dtype} "
        f"{tuple(output.shape)}"
    )


def _read_scores(
    scores: Float64[ndarray, "rows classes"], num_classes: int
) -> tuple[Int64[ndarray, " rows"], list[NearTie]]:
    valid = np.isfinite(scores).all(axis=1)
    safe = np.where(valid[:, None], scores, 0.0)
    everyone = np.arange(len(safe))
    best = safe.argmax(axis=1)
    others = safe.copy()
    others[everyone, best] = -np.inf
    second = others.argmax(axis=1)
    margin = safe[everyone, best] - safe[everyone, second]
    scale = np.abs(safe).max(axis=1)
    near = valid & ((margin < RELATIVE_MARGIN * scale) | (margin == 0.0))
    ties = [
        NearTie(int(row), int(best[row]), int(second[row]), float(margin[row]), float(scale[row]))
        for row in np.flatnonzero(near)
    ]
    return np.where(valid, best, num_classes).astype(np.int64), ties
