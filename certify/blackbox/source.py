"""Votes of a prediction service: a `VoteSource` like the engine on this machine.

Rules that keep the certificates proofs, enforced here:

* the noise of sample i is a function of (seed, input, phase, i), as for the local engine, and is added before clipping and
  rounding to 8 bits;
* an answer is stored before it counts, one row a sample; what is stored is never asked again;
* a refusal, an unreadable answer or retries that ran out is the outcome "invalid", which counts against every class;
* an input whose answers come from two versions of the service (a label without a version beside one with it is that as
  well), or that was asked between a good and a bad check of the canaries, is void: all its votes count as "invalid", and
  what it still lacks is not asked any more. That goes for votes that were handed on before the change as well: whoever
  counts them asks `voided` at every look;
* where a service has named its version, and no canaries are watched because it did, an input with labels without a version
  is void too, even one without any: neither a version nor known images would show the next change.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx
import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from certify.blackbox.adapter import Adapter
from certify.blackbox.answers import Answer, ServiceError
from certify.blackbox.budget import BudgetError, BudgetSpentError
from certify.blackbox.caller import Caller, CallSettings
from certify.blackbox.canary import Canaries
from certify.blackbox.images import quantize
from certify.blackbox.labels import LabelMap
from certify.blackbox.ledger import Ledger, Purpose
from certify.blackbox.pipeline import Job, Pipeline
from certify.blackbox.store import AnswerStore, StoredAnswer
from certify.blackbox.stored import versions_of
from certify.journal import NOT_ASKED
from smoothing.estimators.base import Look, Phase
from smoothing.noise_source import NoiseSource
from smoothing.votes import VoteRequest

Keep = Callable[[Sequence[Answer]], None]
"""Keeps answers where the death of the process cannot reach them; called by the event loop."""

Asking = Callable[[Callable[[Keep | None], Sequence[Answer]], int, Purpose], Sequence[Answer]]
"""Asks a question that is no vote: (what asks it and has its answers kept, number of images, purpose) -> its answers."""

VOID = "void"
"""Version of the row that voids an input; the label of that row is the reason."""


@dataclass
class _Pending:
    """A request, and the labels of its samples so far ("" where there was none)."""

    request: VoteRequest
    labels: dict[int, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.labels) == self.request.stop - self.request.start

    def take(self, rows: Sequence[StoredAnswer]) -> bool:
        """Take what belongs to this request of some answers of its input and phase; return whether any does."""
        start, stop = self.request.start, self.request.stop
        own = {sample: label for _, _, sample, label, _ in rows if start <= sample < stop}
        self.labels.update(own)
        return bool(own)


class ServiceVotes:
    """Asks a service for votes.

    Args:
        adapter: How the service is asked.
        noise: Who draws the noisy copies.
        inputs: Returns the input [channel, height, width] of a key, pixels in [0, 1].
        labels: From the service's labels to classes.
        store: Where answers are kept.
        settings: Concurrency, rate, patience.
        canaries: Known images, for a service that reports no version; None: no check.
        before: What happens to noisy images before they become 8-bit images, a denoiser for instance; part of f.
        progress: Called with the number of votes after each call.
        on_retry: Called with the reason of each retry.
        transport: Of httpx, for tests.
        unchecked: With canaries: inputs with stored answers that no good check has followed yet, of an interrupted run.
        asking: Given every question that is no vote (the one of `check`, the canaries) as a function that asks it; returns
            the answers. Counts such questions, or refuses them; None: asks them.
        ledger: Counts what is sent, and may refuse it; None: no limit, nothing kept.
        named: Whether the service has named a version before, in an earlier start of the run.

    Attributes:
        unnamed: Inputs that are void because the service has named a version, then none, and nothing else watches it.

    Use it as a context manager, or call `close`: it holds connections and a thread. An input may turn out void when votes of
    it were handed on already: `certify.voiding.VoidableState` takes them back.
    """

    def __init__(
        self,
        adapter: Adapter,
        noise: NoiseSource,
        inputs: Callable[[int], Float[Tensor, "channel height width"]],
        labels: LabelMap,
        store: AnswerStore,
        *,
        settings: CallSettings | None = None,
        canaries: Canaries | None = None,
        before: Callable[[Tensor], Tensor] | None = None,
        progress: Callable[[int], None] | None = None,
        on_retry: Callable[[str], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        unchecked: Iterable[int] = (),
        asking: Asking | None = None,
        ledger: Ledger | None = None,
        named: bool = False,
    ) -> None:
        self.unnamed: set[int] = set()
        self.adapter = adapter
        self.noise = noise
        self.labels = labels
        self.num_classes = labels.num_classes
        self.store = store
        self.settings = settings or CallSettings()
        self.canaries = canaries
        self.before = before
        self.progress = progress
        self._inputs = inputs
        self._asking = asking
        self._named = named
        self._unchecked: set[int] = set(unchecked)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="service-calls", daemon=True)
        self._thread.start()
        self._caller: Caller = self._wait(self._make(adapter, on_retry, transport, ledger))
        self._pipeline = Pipeline(self._caller, store, self._loop)

    async def _make(self, adapter: Adapter, on_retry: Any, transport: Any, ledger: Ledger | None) -> Caller:
        return Caller(adapter, self.settings, transport=transport, on_retry=on_retry, ledger=ledger)

    @property
    def counts(self) -> Any:
        """Attempts, answers and retries so far; see `CallCounts`."""
        return self._caller.counts

    def check(self, image: Float[Tensor, "channel height width"] | None = None) -> str | None:
        """Ask the service about itself and, where given, for the label of one image; before the first vote.

        Args:
            image: Costs one query; its answer must be a label of the mapping.

        Returns:
            A remark for people, or None.

        Raises:
            ServiceError: If the service cannot be used, or does not answer with a known label.
        """
        remark: str | None = self._wait(self._caller.check())
        if image is not None:
            [answer] = self._ask(self._encode(image[None]))
            if answer.label is None:
                raise ServiceError(f"the service gave no label for a clean image: {answer.reason}")
            if self.labels.outcome(answer) == self.num_classes:
                raise ServiceError(
                    f"the service's label {answer.label!r} is outside the {self.num_classes} classes; "
                    "give a --label-map, or check the order of the class names"
                )
        return remark

    def ask_clean(self, key: int, indices: Sequence[int]) -> None:
        """Ask about inputs without noise, encoded as votes are; the answers are stored, and never become votes.

        Args:
            key: Negative key to store them under; the sample is the number of the input.
            indices: Inputs without such an answer.

        Raises:
            ServiceError: If the service cannot be used any more; everything that was answered is stored.
            BudgetSpentError: If no more may be sent.
        """
        size = self.adapter.images_per_call

        def jobs() -> Iterator[Job]:
            for at in range(0, len(indices), size):
                part = tuple(indices[at : at + size])
                images = self._encode(torch.stack([self._inputs(index) for index in part]))
                yield Job(key, Phase.ATTACK, part, self.adapter.prepare(images))

        with closing(self._pipeline.run(jobs())) as calls:
            for answered in calls:
                self._named = self._named or any(
                    row.label and row.version is not None for part in answered for row in part
                )

    def check_canaries(self) -> None:
        """Ask for the labels of the canaries; the first time they become what is expected.

        Raises:
            ServiceError: If they have changed.
        """
        self._watch()

    def votes(self, requests: Sequence[VoteRequest]) -> Iterator[tuple[VoteRequest, Int64[ndarray, " outcomes"]]]:
        """Yield every request once, complete; see `VoteSource`.

        With canaries, a completed request is held back until the next good check.

        Raises:
            ServiceError: If the service cannot be used any more; everything that was answered is stored.
            BudgetSpentError: If no more may be sent; requests that are complete are yielded before.
        """
        pending, versions = self._plan(list(requests))
        # Again, for a kill may have come between the answers and their being declared void.
        self._void_unnamed(versions)
        void = {index for index, own in versions.items() if is_void(own)}
        self._skip(pending, void)
        jobs = self._jobs([(entry.request, set(entry.labels)) for entry in pending], void)
        # What an interrupted call has stored was asked before the next check, and is as good as that check says.
        self._unchecked |= {entry.request.index for entry in pending if entry.labels}
        if self.canaries is not None and self.canaries.due:
            self._watch(purpose=Purpose.SPARE if self.canaries.begun else Purpose.RESERVED)
        held = [entry for entry in pending if entry.complete]
        by_key: dict[tuple[int, Phase], list[_Pending]] = {}
        for entry in pending:
            by_key.setdefault((entry.request.index, entry.request.phase), []).append(entry)
        if self.canaries is None:
            yield from self._release(held)
            held = []
        spent: BudgetSpentError | None = None
        # Closed by name: an error's traceback would keep them going.
        with closing(self._pipeline.run(jobs)) as calls:
            try:
                for answered in calls:
                    for rows in answered:
                        key, phase = rows[0].key, rows[0].phase
                        self._unchecked.add(key)
                        told = versions_of(rows)
                        versions[key] |= told
                        self._named = self._named or any(row.label and row.version is not None for row in rows)
                        if None in told:
                            self._void_unnamed({key: versions[key]})
                        if is_void(versions[key]):
                            void.add(key)
                        held += [entry for entry in by_key[key, phase] if entry.take(rows) and entry.complete]
                    if self.progress is not None:
                        self.progress(sum(map(len, answered)))
                    if self.canaries is None or (self.canaries.due and self._watch(calls, Purpose.SPARE)):
                        yield from self._release(held)
                        held = []
            except BudgetSpentError as error:
                # How far the budget goes depends on calls without an answer, never on what a vote says.
                spent = error
        # Only now: what was in flight when an input became void is answered.
        held += self._skip(pending, void)
        self._watch()
        yield from self._release(held)
        if spent is not None:
            raise spent

    def voided(self, index: int) -> bool:
        """See `certify.voiding.Voiding`."""
        return is_void(self.store.versions(index))

    def settle(self, looks: Mapping[int, Sequence[Look]]) -> None:
        """See `certify.voiding.Voiding`: samples without an answer get the row of one that was not asked."""
        rows: list[StoredAnswer] = []
        for index, own in looks.items():
            there: dict[Phase, set[int]] = {}
            for row in self.store.find(index):
                if row.version != VOID:
                    there.setdefault(row.phase, set()).add(row.sample)
            # Answers beyond the looks may have gaps between them, which nobody could tell from lost ones.
            ends = {phase: max(samples) + 1 for phase, samples in there.items()}
            for look in own:
                ends[look.phase] = max(ends.get(look.phase, 0), look.n)
            for phase, end in ends.items():
                has = there.get(phase, ())
                rows += _not_asked(index, phase, [sample for sample in range(end) if sample not in has])
        self._keep_not_asked(rows)

    def _plan(self, requests: list[VoteRequest]) -> tuple[list[_Pending], dict[int, set[str | None]]]:
        """Return the requests with what is stored of them, and the versions in all that is stored of their inputs."""
        stored: dict[int, dict[Phase, dict[int, str]]] = {}
        versions: dict[int, set[str | None]] = {}
        pending = []
        for request in requests:
            if request.index not in stored:
                phases = stored[request.index] = {}
                rows = list(self.store.find(request.index))
                versions[request.index] = versions_of(rows)
                for row in rows:
                    if row.version != VOID:
                        phases.setdefault(row.phase, {})[row.sample] = row.label
            there = stored[request.index].get(request.phase, {})
            found = {sample: there[sample] for sample in range(request.start, request.stop) if sample in there}
            pending.append(_Pending(request, found))
        return pending, versions

    def _skip(self, pending: list[_Pending], void: Collection[int]) -> list[_Pending]:
        """Complete requests about void inputs, and return them: whatever the service would say counts for nothing."""
        skipped = [entry for entry in pending if entry.request.index in void and not entry.complete]
        rows: dict[tuple[int, Phase, int], StoredAnswer] = {}
        for entry in skipped:
            request = entry.request
            missing = [sample for sample in range(request.start, request.stop) if sample not in entry.labels]
            own = _not_asked(request.index, request.phase, missing)
            entry.take(own)
            rows |= {row[:3]: row for row in own}
        self._keep_not_asked(list(rows.values()))
        return skipped

    def _keep_not_asked(self, rows: list[StoredAnswer]) -> None:
        if not rows:
            return
        self.store.add(rows)  # the votes that are counted are those that are stored, here as everywhere
        if self.progress is not None:
            self.progress(len(rows))

    def _jobs(self, wanted: list[tuple[VoteRequest, set[int]]], void: Collection[int]) -> Iterator[Job]:
        """Draw the samples that have no answer yet, in calls of at most the adapter's size.

        Args:
            wanted: Requests, with the samples that have one.
            void: Inputs that are not asked about; those that turn out void meanwhile join them.
        """
        size, chunk = self.adapter.images_per_call, self.noise.chunk
        for request, there in wanted:
            draw = None
            for first in range(request.start // chunk * chunk, request.stop, chunk):
                start, stop = max(first, request.start), min(first + chunk, request.stop)
                missing = [sample for sample in range(start, stop) if sample not in there]
                if not missing or request.index in void:
                    continue
                if draw is None:
                    draw = self.noise.bind(self._inputs(request.index), request.index)
                images = self._encode(draw(request.phase, start, stop))
                for at in range(0, len(missing), size):
                    if request.index in void:
                        break
                    part = missing[at : at + size]
                    content = self.adapter.prepare(images[[sample - start for sample in part]])
                    yield Job(request.index, request.phase, tuple(part), content)

    def _encode(self, x: Tensor) -> UInt8[ndarray, "batch height width channel"]:
        if self.before is None:
            return quantize(x)
        with torch.inference_mode():
            return quantize(self.before(x))

    def _watch(self, calls: Generator[Any, None, None] | None = None, purpose: Purpose = Purpose.RESERVED) -> bool:
        """Check the canaries; void what was asked since the last good check if they have changed.

        Args:
            calls: The calls in flight, which a bad check ends.
            purpose: Whether this check was foreseen, or is made because there is time and budget for one more.

        Returns:
            Whether the service was found unchanged, or is not watched; not where the budget did not suffice for one more.

        Raises:
            ServiceError: If they have changed.
        """
        if self.canaries is None:
            return True
        labels = []
        try:
            for image in self.canaries.images:
                [answer] = self._ask(image[None], purpose)
                labels.append(answer.label)
        except BudgetError:
            if purpose is not Purpose.SPARE:
                raise
            return (
                False  # calls without an answer have used up what was to spare: the next check that was foreseen counts
            )
        if self.canaries.compare(labels):
            self._unchecked.clear()
            self._pipeline.unseen.clear()
            return True
        if calls is not None:
            calls.close()  # stores what was answered during the check, which is void as well
        asked = sorted(self._unchecked | {row.key for row in self._pipeline.unseen if row.key >= 0})
        self._unchecked.clear()
        self._void(asked, "the canaries changed")
        raise ServiceError(
            f"the service has changed: its labels of {len(labels)} known images are not those of the first check; "
            f"{len(asked)} inputs asked since the last good check are void; start a new run for the new service"
        )

    def _void_unnamed(self, versions: Mapping[int, set[str | None]]) -> None:
        """Void inputs with labels without a version, where there was one before and no canaries watch instead.

        On record, for whoever reads the answers later cannot tell which of them came first.

        Args:
            versions: Versions of the inputs; those that are voided get the mark.
        """
        if not self._named or self.canaries is not None:
            return
        lost = [index for index, own in versions.items() if None in own and not is_void(own)]
        self._void(lost, "the service names no version any more")
        for index in lost:
            versions[index].add(VOID)
        self.unnamed.update(lost)

    def _void(self, indices: Sequence[int], reason: str) -> None:
        fresh = [index for index in indices if VOID not in self.store.versions(index)]
        if fresh:  # all at once: killed in between, some would count where the service changes back
            self.store.add([StoredAnswer(index, Phase.ATTACK, -1, reason, VOID) for index in fresh])

    def _release(self, finished: list[_Pending]) -> Iterator[tuple[VoteRequest, Int64[ndarray, " outcomes"]]]:
        for entry in finished:
            yield entry.request, self._count(entry)

    def _count(self, entry: _Pending) -> Int64[ndarray, " outcomes"]:
        counts = np.zeros(self.num_classes + 1, dtype=np.int64)
        if is_void(self.store.versions(entry.request.index)):
            counts[-1] = len(entry.labels)
            return counts
        for label, number in Counter(entry.labels.values()).items():
            counts[self.labels.outcome_of(label or None)] += number
        return counts

    def _ask(
        self, images: UInt8[ndarray, "batch height width channel"], purpose: Purpose = Purpose.RESERVED
    ) -> Sequence[Answer]:
        def ask(keep: Keep | None = None) -> Sequence[Answer]:
            answers: Sequence[Answer] = self._wait(
                self._caller.ask(self.adapter.prepare(images), len(images), purpose=purpose, keep=keep)
            )
            return answers

        answers = ask() if self._asking is None else self._asking(ask, len(images), purpose)
        self._named = self._named or any(answer.label and answer.version is not None for answer in answers)
        return answers

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        """Close connections and end the thread."""
        if self._loop.is_closed():
            return
        self._wait(_cancelled())
        self._wait(self._caller.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> "ServiceVotes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _not_asked(index: int, phase: Phase, samples: Iterable[int]) -> list[StoredAnswer]:
    return [StoredAnswer(index, phase, sample, "", NOT_ASKED) for sample in samples]


async def _cancelled() -> None:
    """End what is still going on, such as a question whose asker was interrupted."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def is_void(versions: Iterable[str | None]) -> bool:
    """Return whether the votes of an input prove nothing, by what `versions_of` says of all its stored rows."""
    known = set(versions)
    return VOID in known or len(known) > 1
