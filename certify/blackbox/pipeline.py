"""Calls in flight: jobs go in, stored answers come out.

Three things go on at once, so that a server always has something to do: the next jobs are made ready, the event loop
makes calls and notes their answers where the death of the process cannot reach them, and the thread that wants the votes
stores them for good, a few times a second, before anybody counts them. What a kill can lose are the calls in flight.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Any

from certify.blackbox.answers import Answer
from certify.blackbox.budget import BudgetSpentError
from certify.blackbox.caller import Caller
from certify.blackbox.ledger import Purpose
from certify.blackbox.store import AnswerStore, missing
from certify.blackbox.stored import StoredAnswer
from smoothing.estimators.base import Phase

_LONGEST_WAIT = 0.25
"""Seconds that an answer waits at most for others to be stored with: storing waits for the disk several times."""

_QUICK = 0.002
"""Processor seconds for which making jobs ready may hold up the calls in flight."""

_QUICK_AT_FIRST = 0.02
"""The same for the first jobs, which also read the input, and are always made in another thread."""

_NOT_STORED = 16
"""Calls that may wait to be stored, for every one in flight: when nobody takes the answers, calls stop."""


@dataclass(frozen=True)
class Job:
    """One call: some samples of one phase of one input.

    Attributes:
        index: Key of the input; a negative one of questions that are no votes.
        phase: Phase.
        samples: Numbers of the samples, one an image.
        content: The images as the adapter sends them; see `Adapter.prepare`.
    """

    index: int
    phase: Phase
    samples: tuple[int, ...]
    content: Any


class Pipeline:
    """Makes calls on an event loop that runs in another thread.

    Args:
        caller: Makes one call, with retries.
        store: Where answers are kept.
        loop: The event loop.

    Attributes:
        unseen: Answers that were stored when a run ended early, and handed on to nobody.
    """

    def __init__(self, caller: Caller, store: AnswerStore, loop: asyncio.AbstractEventLoop) -> None:
        self.unseen: list[StoredAnswer] = []
        self._caller = caller
        self._store = store
        self._loop = loop
        # Noise is drawn by one generator: a thread that an interrupted run has left behind must end before the next draws.
        self._drawing = threading.Lock()

    def run(self, jobs: Iterator[Job]) -> Generator[list[list[StoredAnswer]], None, None]:
        """Make the calls, store their answers, and hand them on, a list for a call, when they are stored.

        However this ends, all answers that were obtained are stored.

        Raises:
            BudgetSpentError: If no more may be sent; what was in flight is answered and handed on before.
            ServiceError: If the service cannot be used any more.
            JournalError: If the store cannot keep an answer.
        """
        flight = _Flight(self._caller, self._store, jobs, self._drawing)
        work = asyncio.run_coroutine_threadsafe(flight.fly(), self._loop)
        answered = flight.answered
        try:
            while True:
                error, ended = flight.wait()
                batch = list(answered)
                if batch:
                    self._store.add([row for part in batch for row in part])
                    # Off the list only now: an interrupt at any moment leaves there whatever may not be stored.
                    for _ in batch:
                        answered.popleft()
                    self._loop.call_soon_threadsafe(flight.make_room, len(batch))
                    yield batch
                if error is not None:
                    raise error
                if ended:
                    return
        finally:
            work.cancel()
            asyncio.run_coroutine_threadsafe(_settled(), self._loop).result()
            # Some of what an interrupt or an error has left may be stored already.
            left = missing(self._store, [row for part in answered for row in part])
            if left:
                self._store.add(left)
                self.unseen += left


class _Flight:
    """One run of jobs, on the event loop.

    Attributes:
        answered: Answers, a list for a call, that are not stored; filled by the event loop, emptied by the thread that
            stores.
    """

    def __init__(self, caller: Caller, store: AnswerStore, jobs: Iterator[Job], drawing: threading.Lock) -> None:
        self.answered: deque[list[StoredAnswer]] = deque()
        self._caller = caller
        self._store = store
        self._jobs = jobs
        self._places = caller.settings.concurrency
        self._drawing = drawing
        self._room = asyncio.Semaphore(_NOT_STORED * self._places)
        self._calling = 0
        self._fresh = 0
        self._timer: asyncio.TimerHandle | None = None
        self._signals: queue.SimpleQueue[BaseException | bool] = queue.SimpleQueue()
        self._spent: BudgetSpentError | None = None

    def wait(self) -> tuple[BaseException | None, bool]:
        """Wait for something to store; return (the error that ended all calls or None, whether all calls are made)."""
        found = [self._signals.get()]
        while not self._signals.empty():
            found.append(self._signals.get())
        errors = [signal for signal in found if isinstance(signal, BaseException)]
        return (errors[0] if errors else None), True in found

    def make_room(self, calls: int) -> None:
        """Take note that the answers of so many calls are stored."""
        for _ in range(calls):
            self._room.release()

    async def fly(self) -> None:
        """Make all calls; end with a signal."""
        ready: asyncio.Queue[Job | None] = asyncio.Queue(self._places)
        filler = asyncio.create_task(self._fill(ready))
        tasks = [filler, *(asyncio.create_task(self._work(ready, filler)) for _ in range(self._places))]
        try:
            await asyncio.gather(*tasks)
            self._signals.put(self._spent or True)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # handed to the thread that stores, which raises it
            self._signals.put(error)
        finally:
            for task in tasks:
                task.cancel()
            if self._timer is not None:
                self._timer.cancel()

    async def _fill(self, ready: "asyncio.Queue[Job | None]") -> None:
        # Drawing, rounding and encoding go on ahead of the calls, for many of them at a time; in a thread of their own where
        # they take a while. Small images cost less than changing between threads, and are drawn here.
        try:
            block, seconds = await asyncio.to_thread(self._take)
            quick = seconds < _QUICK_AT_FIRST
            while block:
                for job in block:
                    await ready.put(job)
                block, seconds = self._take() if quick else await asyncio.to_thread(self._take)
                quick = quick and seconds < _QUICK
            await ready.put(None)
        except asyncio.CancelledError:
            if self._spent is None:
                raise

    def _take(self) -> tuple[list[Job], float]:
        """Return jobs, as many as there are calls at a time, and the processor seconds that they took."""
        with self._drawing:
            start = time.thread_time()
            return list(islice(self._jobs, self._places)), time.thread_time() - start

    async def _work(self, ready: "asyncio.Queue[Job | None]", filler: "asyncio.Task[None]") -> None:
        while (job := await ready.get()) is not None:
            await self._room.acquire()
            self._calling += 1
            try:
                await self._caller.ask(
                    job.content,
                    len(job.samples),
                    purpose=Purpose.VOTE if job.index >= 0 else Purpose.RESERVED,
                    keep=partial(self._keep, job),
                )
            except BudgetSpentError as error:
                # The calls of the other workers go on: what was sent is worth its answer.
                self._spent = error
                filler.cancel()
                while not ready.empty():
                    ready.get_nowait()
                break
            finally:
                self._calling -= 1
            self._offer()
        ready.put_nowait(None)  # for the next of the workers

    def _keep(self, job: Job, answers: Sequence[Answer]) -> None:
        rows = _rows(job, answers)
        try:
            # Before it is offered: noted after it was stored, it would stay in the file of what is not.
            self._store.note(rows)
        finally:
            self.answered.append(rows)

    def _offer(self) -> None:
        """Have answers stored if many wait, or nothing else is going on; else in a moment."""
        self._fresh += 1
        if 2 * self._fresh >= _NOT_STORED * self._places or not self._calling:
            self._signal()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LONGEST_WAIT, self._signal)

    def _signal(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fresh = 0
        self._signals.put(False)


def _rows(job: Job, answers: Sequence[Answer]) -> list[StoredAnswer]:
    index, phase = job.index, job.phase
    return [
        StoredAnswer(index, phase, sample, storable(label or ""), version and storable(version))
        for sample, (label, version, _) in zip(job.samples, answers, strict=True)
    ]


@lru_cache(maxsize=1024)
def storable(text: str) -> str:
    """Return text that UTF-8 can hold: JSON may carry halves of characters, which no label of a mapping has."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


async def _settled() -> None:
    """Let cancelled calls unwind."""
    current = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not current]
    await asyncio.gather(*others, return_exceptions=True)
