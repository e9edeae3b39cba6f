"""The Monte Carlo engine: inputs x noise -> int64 votes per outcome, for many inputs at once, on any device."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from smoothing.coupling import check_rows_are_independent
from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import ClassifierError, InvalidArgumentError
from smoothing.estimators.base import Phase
from smoothing.forward import Forward, ForwardSettings
from smoothing.noise import BLOCK, check_seed, draw_block, input_base


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


class BatchingEngine:
    """A `VoteSource` that runs a classifier on this machine, in full batches of one fixed shape.

    Samples of several inputs share a batch; the last batch is padded, and the padding is not counted. Votes are added up
    on the device. On CUDA nothing waits for the device while batches are being queued, except that the queue is kept a
    few batches deep.

    Args:
        classifier: See `Classifier`.
        distribution: The law of the noise; its shape is the inputs' shape.
        num_classes: K, at least 2.
        inputs: Returns the input [*shape] of a key; called once per request.
        settings: Batch size and arithmetic of the forward pass; part of the identity of a run.
        device: Where to run; default: where the classifier's parameters are, else the CPU.
        seed: The run's seed, in [0, 2^63).
        progress: Called with the number of votes after each batch.

    Raises:
        InvalidArgumentError: If an argument is out of range.
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
        progress: Callable[[int], None] | None = None,
    ) -> None:
        check_seed(seed)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise InvalidArgumentError(f"num_classes must be an integer of at least 2, got num_classes={num_classes!r}")
        self.distribution = distribution
        self.num_classes = num_classes
        self.seed = seed
        self.forward = Forward(classifier, settings or ForwardSettings(), device)
        self.progress = progress
        self._inputs = inputs
        self._generator = torch.Generator(device=self.forward.device)

    def votes(self, requests: Sequence[VoteRequest]) -> Iterator[tuple[VoteRequest, Int64[ndarray, " outcomes"]]]:
        """Yield every request with its counts, in the order in which they are completed.

        Raises:
            ClassifierError: If the classifier's output is neither scores [batch, K] nor labels [batch].
            InvalidArgumentError: If an input has another shape than the law.
        """
        batch = self.forward.new_batch(self.distribution.shape)
        outbox = _Outbox(self.forward.device)
        with self.forward.evaluating():
            filled = 0
            segments: list[tuple[_Tally, int, int]] = []
            for request in requests:
                tally = _Tally(
                    request, torch.zeros(self.num_classes + 1, dtype=torch.int64, device=self.forward.device)
                )
                for samples in self._samples(request):
                    taken = 0
                    while taken < len(samples):
                        step = min(len(samples) - taken, len(batch) - filled)
                        batch[filled : filled + step].copy_(samples[taken : taken + step])
                        segments.append((tally, filled, filled + step))
                        filled, taken = filled + step, taken + step
                        if filled == len(batch):
                            self._count(batch, segments, filled)
                            yield from outbox.collect(segments)
                            filled, segments = 0, []
            if segments:
                batch[filled:].zero_()
                self._count(batch, segments, filled)
                yield from outbox.collect(segments)
            yield from outbox.drain()

    def check_classifier(self, x: Float[Tensor, "..."]) -> None:
        """Check that the classifier's output for an input does not depend on the rest of the batch; before certificates.

        Args:
            x: An input to try it with, [*shape].

        Raises:
            ClassifierError: If it does; see `smoothing.coupling`.
        """
        check_rows_are_independent(self.forward, self.distribution, x)

    def _samples(self, request: VoteRequest) -> Iterator[Float[Tensor, "n ..."]]:
        x = self._inputs(request.index)
        if tuple(x.shape) != self.distribution.shape:
            raise InvalidArgumentError(
                f"input {request.index} has shape {tuple(x.shape)}, but the law is over {self.distribution.shape}"
            )
        x = x.to(dtype=torch.float32)
        if self.forward.device.type == "cuda" and x.device.type == "cpu":
            # A copy from pageable memory would wait for the device; from pinned memory it joins the queue.
            x = x.pin_memory()
        x = x.to(device=self.forward.device, non_blocking=True)
        base = input_base(self.seed, self.distribution, request.index)
        for block in range(request.start // BLOCK, -(-request.stop // BLOCK)):
            with torch.inference_mode():
                samples = draw_block(self._generator, self.distribution, x, base, request.phase, block)
            first = block * BLOCK
            yield samples[max(request.start - first, 0) : request.stop - first]

    def _count(self, batch: Tensor, segments: list[tuple["_Tally", int, int]], filled: int) -> None:
        with torch.inference_mode():
            outcomes = read_outcomes(self.forward(batch), len(batch), self.num_classes)
            ones = torch.ones_like(outcomes)
            for tally, first, last in segments:
                tally.counts.scatter_add_(0, outcomes[first:last], ones[first:last])
                tally.missing -= last - first
        if self.progress is not None:
            self.progress(filled)


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
            raise ClassifierError(
                f"scores must have shape (batch, classes) = {(batch, num_classes)}, got {tuple(output.shape)}"
            )
        # argmax calls NaN the largest score: without this, a classifier that breaks down would vote for a class.
        return torch.where(output.isfinite().all(1), output.argmax(1), num_classes)
    if output.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise ClassifierError(f"the classifier must return scores or integer labels, got dtype {output.dtype}")
    if tuple(output.shape) != (batch,):
        raise ClassifierError(f"integer labels must have shape (batch,) = {(batch,)}, got {tuple(output.shape)}")
    labels = output.long()
    return torch.where((labels >= 0) & (labels < num_classes), labels, num_classes)


class _Tally:
    """The votes of one request, on the device, and how many of them are still missing."""

    def __init__(self, request: VoteRequest, counts: Tensor) -> None:
        self.request = request
        self.counts = counts
        self.missing = request.stop - request.start


class _Outbox:
    """Hands complete tallies to the host; on CUDA by copies that are waited for only when they are a few batches old."""

    DEPTH = 4

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._waiting: deque[tuple[Any, list[tuple[VoteRequest, Tensor]]]] = deque()

    def collect(
        self, segments: list[tuple[_Tally, int, int]]
    ) -> Iterator[tuple[VoteRequest, Int64[ndarray, " outcomes"]]]:
        done = list({id(tally): tally for tally, _, _ in segments if tally.missing == 0}.values())
        if not self._cuda:
            for tally in done:
                yield tally.request, tally.counts.cpu().numpy()
            return
        with torch.cuda.device(self._device):
            event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copies = []
        for tally in done:
            host = torch.empty(tally.counts.shape, dtype=torch.int64, pin_memory=True)
            copies.append((tally.request, host.copy_(tally.counts, non_blocking=True)))
        # On this device's stream: the current device may be another one.
        event.record(torch.cuda.current_stream(self._device))
        self._waiting.append((event, copies))
        while self._waiting and (len(self._waiting) > self.DEPTH or self._waiting[0][0].query()):
            yield from self._hand_over()

    def drain(self) -> Iterator[tuple[VoteRequest, Int64[ndarray, " outcomes"]]]:
        while self._waiting:
            yield from self._hand_over()

    def _hand_over(self) -> Iterator[tuple[VoteRequest, Int64[ndarray, " outcomes"]]]:
        event, copies = self._waiting.popleft()
        event.synchronize()
        for request, counts in copies:
            yield request, counts.numpy()
