"""The Monte Carlo engine: inputs x noise -> int64 votes per outcome, for many inputs at once, on any device."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from numpy import ndarray
from torch import Tensor

from smoothing.coupling import check_rows_are_independent
from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import ClassCountError, ClassifierError, InvalidArgumentError
from smoothing.estimators.base import Phase
from smoothing.forward import Forward, ForwardSettings
from smoothing.noise import check_seed
from smoothing.noise_cache import NoiseCache
from smoothing.noise_source import NoiseSource, TorchBlockNoise
from smoothing.outbox import CountSink, Outbox, SampleSink, Segment, Sink


@runtime_checkable
class Classifier(Protocol):
    """Any callable from a batch [batch, *shape] to scores [batch, classes] or integer labels [batch].

    A non-finite score or a label outside 0..K-1 is the outcome "invalid", which counts against every class. Normalisation
    happens inside. An `nn.Module` is put in eval mode for as long as votes are counted.
    """

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return scores or labels."""
        ...


@dataclass(frozen=True)
class VoteRequest:
    """Samples [start, stop) of one phase of one input."""

    index: int
    phase: Phase
    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise InvalidArgumentError(f"a request needs 0 <= start < stop, got [{self.start}, {self.stop})")


@runtime_checkable
class VoteSource(Protocol):
    """Whoever produces votes: the engine below, a client of a prediction service, a recorded log."""

    def votes(self, requests: Sequence[VoteRequest]) -> Iterator[tuple[VoteRequest, Int64[ndarray, " outcomes"]]]:
        """Yield every request once, complete, with its counts over the classes and, last, "invalid"."""
        ...


@runtime_checkable
class OutcomeSource(Protocol):
    """A source that can also be fed while it works and tells outcomes apart by sample: what continuous batching needs."""

    num_classes: int

    def outcomes(
        self, requests: Iterable[VoteRequest | None]
    ) -> Iterator[tuple[VoteRequest, Integer[ndarray, " samples"]]]:
        """Yield every request once, complete, with one outcome 0..K per sample, in the order of the samples.

        Requests are pulled when there is room for them, so that they may depend on what has been yielded so far. `None`
        says that nothing more can be asked for before something is yielded: what is waiting is then worked off.
        """
        ...


class BatchingEngine:
    """A `VoteSource` that runs a classifier on this machine, in full batches of one fixed shape.

    Samples of several inputs share a batch; a batch that cannot be filled is padded, and the padding is not counted. The
    device hands over one small integer per sample. On CUDA nothing waits for the device while batches are being queued,
    except that the queue is kept a few batches deep.

    Args:
        classifier: See `Classifier`.
        distribution: The law of the noise; its shape is the inputs' shape.
        num_classes: K, at least 2.
        inputs: Returns the input [*shape] of a key.
        settings: Batch size and arithmetic of the forward pass; part of the identity of a run.
        device: Where to run; default: where the classifier's parameters are, else the CPU.
        seed: The run's seed, in [0, 2^63).
        noise: Who draws the noisy copies, with that law and seed and on that device, or a function that makes one for the
            device; default: `TorchBlockNoise`.
        progress: Called with the number of votes after each batch.

    Raises:
        InvalidArgumentError: If an argument is out of range, or `noise` is of another law or seed.
    """

    def __init__(
        self,
        classifier: Classifier,
        distribution: SmoothingDistribution,
        num_classes: int,
        inputs: Callable[[int], Float[Tensor, "..."]],
        *,
        settings: ForwardSettings | None = None,
        device: torch.device | str | None = None,
        seed: int = 0,
        noise: NoiseSource | Callable[[torch.device], NoiseSource] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        check_seed(seed)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise InvalidArgumentError(f"num_classes must be an integer of at least 2, got num_classes={num_classes!r}")
        self.distribution = distribution
        self.num_classes = num_classes
        self.seed = seed
        self.forward = Forward(classifier, settings or ForwardSettings(), device)
        device = self.forward.device
        self.noise: NoiseSource
        if noise is None:
            self.noise = TorchBlockNoise(distribution, seed, device)
        else:
            self.noise = noise if isinstance(noise, NoiseSource) else noise(device)
        if self.noise.law.identity != distribution.identity or self.noise.seed != seed:
            raise InvalidArgumentError(
                f"the noise must be of the engine's law and seed ({distribution.identity}, {seed}), got "
                f"{self.noise.law.identity} and {self.noise.seed}"
            )
        self.progress = progress
        self._cache = NoiseCache(self.noise, inputs)

    def votes(self, requests: Iterable[VoteRequest]) -> Iterator[tuple[VoteRequest, Int64[ndarray, " outcomes"]]]:
        """Yield every request with its counts, in the order in which they are completed.

        Raises:
            ClassifierError: If the classifier's output is neither scores [batch, K] nor labels [batch].
            InvalidArgumentError: If an input has another shape than the law.
        """
        for sink in self._work(requests, lambda request: CountSink(request, self.num_classes + 1)):
            yield sink.request, sink.value()

    def outcomes(
        self, requests: Iterable[VoteRequest | None]
    ) -> Iterator[tuple[VoteRequest, Integer[ndarray, " samples"]]]:
        """Yield every request with the outcome of each of its samples; see `OutcomeSource.outcomes`.

        Raises:
            ClassifierError: If the classifier's output is neither scores [batch, K] nor labels [batch].
            InvalidArgumentError: If an input has another shape than the law.
        """
        dtype = np.int16 if self.num_classes < 2**15 else np.int64
        for sink in self._work(requests, lambda request: SampleSink(request, dtype)):
            yield sink.request, sink.value()

    def check_classifier(self, x: Float[Tensor, "..."]) -> None:
        """Check that the classifier's output for an input does not depend on the rest of the batch; before certificates.

        Args:
            x: An input to try it with, [*shape].

        Raises:
            ClassifierError: If it does; see `smoothing.coupling`.
        """
        check_rows_are_independent(self.forward, self.distribution, x)

    def _work(self, requests: Iterable[VoteRequest | None], sink: Callable[[VoteRequest], Sink]) -> Iterator[Sink]:
        batch = self.forward.new_batch(self.distribution.shape)
        outbox = Outbox(self.forward.device)
        filled = 0
        segments: list[Segment] = []
        with self.forward.evaluating():
            for request in requests:
                if request is not None:
                    tally = sink(request)
                    for samples in self._cache.samples(request.index, request.phase, request.start, request.stop):
                        taken = 0
                        while taken < len(samples):
                            step = min(len(samples) - taken, len(batch) - filled)
                            batch[filled : filled + step].copy_(samples[taken : taken + step])
                            segments.append(Segment(tally, filled, filled + step))
                            filled, taken = filled + step, taken + step
                            if filled == len(batch):
                                outcomes = self._vote(batch, filled)
                                filled, done = 0, segments
                                segments = []
                                yield from outbox.collect(outcomes, done)
                    continue
                if segments:
                    outcomes = self._vote(batch, filled)
                    filled, done = 0, segments
                    segments = []
                    yield from outbox.collect(outcomes, done)
                yield from outbox.drain()
            if segments:
                yield from outbox.collect(self._vote(batch, filled), segments)
            yield from outbox.drain()

    def _vote(self, batch: Tensor, filled: int) -> Tensor:
        """Return the outcomes of a batch, of which the first `filled` rows are samples; the rest is padding."""
        with torch.inference_mode():
            if filled < len(batch):
                batch[filled:].zero_()
            outcomes = read_outcomes(self.forward(batch), len(batch), self.num_classes)[:filled]
            if self.num_classes < 2**15:
                outcomes = outcomes.to(torch.int16)
        if self.progress is not None:
            self.progress(filled)
        return outcomes


def read_outcomes(output: Any, batch: int, num_classes: int) -> Int64[Tensor, " batch"]:
    """Turn a classifier's output into outcomes 0..K-1, or K for "invalid"; no synchronisation with the device.

    Args:
        output: Scores [batch, K] of any floating dtype, or integer labels [batch].
        batch: Number of rows.
        num_classes: K.

    Raises:
        ClassifierError: If the output is neither.
    """
    if not isinstance(output, Tensor):
        raise ClassifierError(f"the classifier must return a tensor, got {type(output).__name__}")
    if output.is_floating_point():
        if tuple(output.shape) != (batch, num_classes):
            message = f"scores must have shape (batch, classes) = {(batch, num_classes)}, got {tuple(output.shape)}"
            if output.ndim == 2 and len(output) == batch:
                raise ClassCountError(message, output.shape[1])
            raise ClassifierError(message)
        # argmax calls NaN the largest score: without this, a classifier that breaks down would vote for a class.
        return torch.where(output.isfinite().all(1), output.argmax(1), num_classes)
    if output.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise ClassifierError(f"the classifier must return scores or integer labels, got dtype {output.dtype}")
    if tuple(output.shape) != (batch,):
        raise ClassifierError(f"integer labels must have shape (batch,) = {(batch,)}, got {tuple(output.shape)}")
    labels = output.long()
    return torch.where((labels >= 0) & (labels < num_classes), labels, num_classes)
