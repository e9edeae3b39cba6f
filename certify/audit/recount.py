"""An independent tally: the same noise and the same forward pass as the run, counted by other code, with margins."""

import hashlib
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


@dataclass(frozen=True)
class Redrawn:
    """Samples [start, start + len(outcomes)) of a phase of one input, drawn and voted again.

    Attributes:
        start: First sample.
        outcomes: 0..K-1, or K for "invalid", one a sample.
        num_classes: K.
        near_ties: Of these samples.
        copies_sha256: Of the noisy copies themselves, in order, as little-endian float32; None unless asked for.
    """

    start: int
    outcomes: Int64[ndarray, " samples"]
    num_classes: int
    near_ties: tuple[NearTie, ...]
    copies_sha256: str | None

    @property
    def votes_sha256(self) -> str:
        """Return the digest of the outcomes, in order, as little-endian 64-bit integers."""
        return hashlib.sha256(self.outcomes.astype("<i8").tobytes()).hexdigest()

    def count(self, start: int, stop: int) -> Recount:
        """Return the votes of samples [start, stop), which must be among those that were drawn."""
        part = self.outcomes[start - self.start : stop - self.start]
        return Recount(
            tuple(int(count) for count in np.bincount(part, minlength=self.num_classes + 1)),
            tuple(tie for tie in self.near_ties if start <= tie.sample < stop),
        )


def redraw(
    forward: Forward,
    draw: Draw,
    shape: tuple[int, ...],
    *,
    phase: Phase,
    start: int,
    stop: int,
    num_classes: int,
    on_votes: Callable[[int], None] | None = None,
    digest: bool = False,
) -> Redrawn:
    """Draw samples [start, stop) of a phase of one input again, each once, and let the classifier vote.

    Args:
        forward: The classifier at the recorded batch shape and precision.
        draw: The input's noisy copies, `NoiseSource.bind`.
        shape: Shape of the input.
        phase: Phase of the samples.
        start: First sample.
        stop: The sample after the last.
        num_classes: K.
        on_votes: Called with the number of votes after every batch.
        digest: Take the digest of the noisy copies too.

    Raises:
        ClassifierError: If the classifier's output is neither scores nor labels.
    """
    outcomes = np.empty(stop - start, dtype=np.int64)
    near_ties: list[NearTie] = []
    copies = hashlib.sha256() if digest else None
    batch = forward.new_batch(shape)
    filled, first = 0, start  # the batch holds samples [first, first + filled)

    def flush() -> None:
        nonlocal filled, first
        batch[filled:].zero_()
        votes, ties = _read(forward(batch), filled, len(batch), num_classes)
        outcomes[first - start : first - start + filled] = votes
        near_ties.extend(replace(tie, sample=first + tie.sample) for tie in ties)
        if on_votes is not None:
            on_votes(filled)
        filled, first = 0, first + filled

    with forward.evaluating(), torch.inference_mode():
        # In pieces that end at multiples of a block, so that none is drawn twice for its other half.
        for block in range(start // BLOCK, -(-stop // BLOCK)):
            samples = draw(phase, max(start, block * BLOCK), min(stop, (block + 1) * BLOCK))
            if copies is not None:
                copies.update(samples.cpu().numpy().astype("<f4").tobytes())
            while len(samples):
                step = min(len(samples), len(batch) - filled)
                batch[filled : filled + step].copy_(samples[:step])
                samples, filled = samples[step:], filled + step
                if filled == len(batch):
                    flush()
        if filled:
            flush()
    return Redrawn(start, outcomes, num_classes, tuple(near_ties), None if copies is None else copies.hexdigest())


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
        forward: As for `redraw`.
        draw: As for `redraw`.
        shape: As for `redraw`.
        phase: Phase of the looks.
        prefixes: Number of samples of each look, increasing.
        num_classes: K.
        on_votes: Called with the number of votes after every batch.

    Returns:
        One recount per prefix.

    Raises:
        ClassifierError: If the classifier's output is neither scores nor labels.
    """
    redrawn = redraw(
        forward,
        draw,
        shape,
        phase=phase,
        start=0,
        stop=prefixes[-1],
        num_classes=num_classes,
        on_votes=on_votes,
    )
    return [redrawn.count(0, n) for n in prefixes]


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
