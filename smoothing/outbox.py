"""Between the device and the host: outcomes of batches on their way to the requests that they belong to.

The device hands over one small integer per sample; everything that is counted is counted on the host, per slice of a
batch and never per sample.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from numpy import ndarray
from torch import Tensor


@runtime_checkable
class Sink(Protocol):
    """Takes in the outcomes of one request, slice by slice, in order."""

    request: Any
    missing: int

    def add(self, outcomes: Shaped[ndarray, " samples"]) -> None:
        """Take in the next outcomes."""
        ...

    def value(self) -> Shaped[ndarray, "..."]:
        """Return what the request gets."""
        ...


class CountSink:
    """Adds up the outcomes of a request: its counts over the classes and, last, "invalid"."""

    def __init__(self, request: Any, outcomes: int) -> None:
        self.request = request
        self.missing = request.stop - request.start
        self._counts = np.zeros(outcomes, dtype=np.int64)

    def add(self, outcomes: Shaped[ndarray, " samples"]) -> None:
        """Count them."""
        self._counts += np.bincount(outcomes, minlength=len(self._counts))
        self.missing -= len(outcomes)

    def value(self) -> Int64[ndarray, " outcomes"]:
        """Return the counts."""
        return self._counts


class SampleSink:
    """Keeps the outcome of every sample of a request, in the order of the samples."""

    def __init__(self, request: Any, dtype: type[np.signedinteger[Any]]) -> None:
        self.request = request
        self.missing = request.stop - request.start
        self._outcomes = np.empty(self.missing, dtype=dtype)

    def add(self, outcomes: Shaped[ndarray, " samples"]) -> None:
        """Keep them."""
        first = len(self._outcomes) - self.missing
        self._outcomes[first : first + len(outcomes)] = outcomes
        self.missing -= len(outcomes)

    def value(self) -> Shaped[ndarray, " samples"]:
        """Return the outcomes."""
        return self._outcomes


class Segment(NamedTuple):
    """Rows [first, last) of a batch, which belong to one sink."""

    sink: Any
    first: int
    last: int


class Outbox:
    """Hands outcomes to the host; on CUDA by copies that are waited for only when they are a few batches old.

    Args:
        device: Where the outcomes are.
    """

    DEPTH = 4

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._waiting: deque[tuple[Any, Tensor, list[Segment]]] = deque()

    def collect(self, outcomes: Tensor, segments: list[Segment]) -> Iterator[Sink]:
        """Take in one batch's outcomes; yield the sinks that are complete by now."""
        if not self._cuda:
            yield from _deliver(outcomes.numpy(), segments)
            return
        with torch.cuda.device(self._device):
            event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        host = torch.empty(outcomes.shape, dtype=outcomes.dtype, pin_memory=True)
        host.copy_(outcomes, non_blocking=True)
        # On this device's stream: the current device may be another one.
        event.record(torch.cuda.current_stream(self._device))
        self._waiting.append((event, host, segments))
        while self._waiting and (len(self._waiting) > self.DEPTH or self._waiting[0][0].query()):
            yield from self._hand_over()

    def drain(self) -> Iterator[Sink]:
        """Wait for everything that is on its way."""
        while self._waiting:
            yield from self._hand_over()

    def _hand_over(self) -> Iterator[Sink]:
        event, host, segments = self._waiting.popleft()
        event.synchronize()
        yield from _deliver(host.numpy(), segments)


def _deliver(outcomes: Shaped[ndarray, " batch"], segments: Sequence[Segment]) -> Iterator[Sink]:
    for segment in segments:
        segment.sink.add(outcomes[segment.first : segment.last])
        if segment.sink.missing == 0:
            yield segment.sink
