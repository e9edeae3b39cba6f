"""Ctrl-C at a given call of a run on the toy service, in this process: where the run stands then depends on no clock."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prediction_service import Service


@contextmanager
def ctrl_c_at(service: Service, request: int, *, answered: bool = True) -> Iterator[None]:
    """Interrupt this process while the service works on a request; the block is the run that is interrupted.

    The main thread may take a while to learn of it, in which other threads would go on asking. So the service holds the call
    back until the signal has arrived, and no later call is answered until the block ends.

    Args:
        service: What is asked; its `fault` is reset after the block.
        request: Number of the call, counted like `Service.requests`.
        answered: Whether that call gets an answer after all; else it is in flight until the block ends.
    """
    arrived, over = threading.Event(), threading.Event()

    def handle(number: int, frame: Any) -> None:
        arrived.set()
        raise KeyboardInterrupt

    def fault(number: int, images: Any) -> str | None:
        if number < request:
            return None
        if number == request:
            os.kill(os.getpid(), signal.SIGINT)
            assert arrived.wait(60), "the signal did not arrive"
            if answered:
                return None
        return "hold"

    # Set, not assumed: it is ignored in a process that a shell has put in the background.
    before = signal.signal(signal.SIGINT, handle)
    service.fault, service.released = fault, over
    try:
        yield
    finally:
        over.set()
        signal.signal(signal.SIGINT, before)
        service.fault = lambda number, images: None
    assert arrived.is_set(), "the run ended before the interrupt"
