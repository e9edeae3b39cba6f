"""The inputs of a run that are worked on together, and how they get into the journal."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

from certify.curve import Curve, Standing, curve_of
from certify.errors import JournalError, RunMismatchError
from certify.journal import Journal
from certify.run_plan import RunPlan, make_row, payload_of
from certify.rundir import Row
from certify.voiding import VoidableState, Voiding
from smoothing.certificate import issue_certificate
from smoothing.driver import drive
from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Estimator, Look, State, replay
from smoothing.estimators.fixed import FixedEstimator
from smoothing.noise_source import NoiseSource
from smoothing.votes import VoteSource

_WINDOW_BATCHES = 64
"""Fixed sample size: batches' worth of votes in flight together, so that the padding of the last one is lost in them."""

_LEAST_INPUTS = 8
"""Inputs in flight at least, so that their selection votes share batches where n is large."""

_WINDOW_BYTES = 2**28
"""Memory for the looks of inputs in flight, where the number of looks is not known beforehand."""

_USUAL_LOOKS = 64

_FLUSH_SECONDS = 0.25
"""Finished inputs wait this long at most for others, to be written to the journal together: a write costs milliseconds."""

_LOOKS_SECONDS = 2.0
"""Looks of unfinished inputs wait this long at most: that much work is lost when a process is killed."""


@runtime_checkable
class Engine(VoteSource, Protocol):
    """A source of votes that says who draws its noise."""

    @property
    def noise(self) -> NoiseSource:
        """Who draws the noisy copies."""
        ...


def window_width(estimator: Estimator, num_classes: int, batch_size: int) -> int:
    """Return how many inputs to work on together.

    With a fixed sample size every input costs the same, and few inputs at a time give the first certificates early.
    Otherwise all inputs should get their first look early: as many as fit into memory with their looks.
    """
    if isinstance(estimator, FixedEstimator):
        return max(_LEAST_INPUTS, math.ceil(_WINDOW_BATCHES * batch_size / estimator.max_votes))
    return max(64, _WINDOW_BYTES // (8 * _USUAL_LOOKS * (num_classes + 1)))


class Window:
    """Some inputs of a run, from their recorded looks to their certificates.

    Args:
        plan: The run.
        engine: Who produces the votes.
        journal: Where looks and certificates go.
        indices: The inputs.
        looks: Looks that an earlier call recorded of some of them.

    Attributes:
        finished: Input -> its row, for all that are in the journal by now.

    Raises:
        RunMismatchError: If the recorded looks are not those of this run's estimator.
    """

    def __init__(
        self,
        plan: RunPlan,
        engine: Engine,
        journal: Journal,
        indices: Sequence[int],
        looks: Mapping[int, tuple[Look, ...]],
    ) -> None:
        self._plan, self._engine, self._journal = plan, engine, journal
        self._indices, self._seen = tuple(indices), dict(looks)
        self._labels = {i: int(y) for i, y in zip(indices, plan.data.labels(list(indices)), strict=True)}
        self._voiding = engine if isinstance(engine, Voiding) else None
        self._states: dict[int, State] = {}
        for index in indices:
            if self._voiding is not None and self._voiding.voided(index):
                self._seen.pop(index, None)  # counted before anybody knew
            try:
                state = replay(plan.estimator, self._seen.get(index, ()), self._labels[index])
            except InvalidArgumentError as error:
                raise RunMismatchError(f"{plan.out}: input {index} cannot be resumed: {error}") from None
            if self._voiding is not None:
                start = partial(plan.estimator.start, self._labels[index])
                state = VoidableState(state, start, plan.num_classes + 1, partial(self._voiding.voided, index))
            self._states[index] = state
        self._looked = set(self._seen)
        self.finished: dict[int, Row] = {}

    def run(self, spent: Mapping[int, float] | None = None) -> Iterator[Row]:
        """Work on all inputs; yield each one's row when it is in the journal.

        Args:
            spent: Seconds that inputs have cost in earlier calls.
        """
        started = flushed = noted = time.perf_counter()
        waiting: list[tuple[int, float]] = []
        new: list[tuple[int, Look]] = []

        def finish(index: int) -> None:
            # Inputs are worked on together, one finishing after the other: the time since the last one.
            nonlocal started
            now = time.perf_counter()
            waiting.append((index, now - started + (spent or {}).get(index, 0.0)))
            started = now

        def flush() -> tuple[Row, ...]:
            # Void inputs first: one that was finished by looks of an earlier call may have become so since.
            void = {index for index, _ in waiting if self._annul(index)}
            rows = tuple(self._row(index, seconds) for index, seconds in waiting)
            if self._voiding is not None and void:
                self._voiding.settle({row.index: row.certificate.looks for row in rows if row.index in void})
            self._journal.record_inputs(
                ((row.index, payload_of(row), row.certificate.looks) for row in rows), replacing=void
            )
            waiting.clear()
            self.finished |= {row.index: row for row in rows}
            return rows

        def note(index: int, look: Look) -> None:
            self._looked.add(index)
            if not self._is_annulled(index):
                new.append((index, look))

        for index, state in self._states.items():
            if state.next_look() is None:
                finish(index)
        try:
            for index in drive(self._engine, self._states, self._seen, note):
                if self._states[index].next_look() is None:
                    finish(index)
                now = time.perf_counter()
                if waiting and now - flushed >= _FLUSH_SECONDS:
                    yield from flush()
                    flushed = time.perf_counter()
                if now - noted >= _LOOKS_SECONDS:
                    # An input that waits to be flushed brings its looks itself; those written here are the same.
                    # Those of inputs that are void by now are no looks of theirs any more.
                    self._journal.record_looks(
                        (i, look) for i, look in new if i not in self.finished and not self._is_annulled(i)
                    )
                    new.clear()
                    noted = time.perf_counter()
        except JournalError:
            raise
        except Exception:
            # The votes have come to an end, a service's budget for instance: what is finished is finished.
            flush()
            raise
        yield from flush()

    def curve(self) -> Curve:
        """Return how far certified accuracy is known among these inputs; for estimators that decide radii."""
        standings = []
        for index in self._looked:
            estimate = self._states[index].result()
            right = estimate.prediction == self._labels[index]
            finished = self._states[index].next_look() is None
            standings.append(Standing(estimate.decisions, right, finished))
        return curve_of(self._plan.grid or (), standings, len(self._indices) - len(self._looked))

    def _annul(self, index: int) -> bool:
        state = self._states[index]
        return isinstance(state, VoidableState) and state.annul()

    def _is_annulled(self, index: int) -> bool:
        state = self._states[index]
        return isinstance(state, VoidableState) and state.annulled

    def _row(self, index: int, seconds: float) -> Row:
        plan = self._plan
        certificate = issue_certificate(
            self._states[index].result(),
            plan.law,
            plan.norm,
            index=index,
            seed=plan.seed,
            noise_version=self._engine.noise.version,
            precision=plan.forward.precision,
            convert_from=plan.convert_from,
            probability_slack=self._engine.noise.probability_slack,
            covers=self._engine.noise.covers,
        )
        return make_row(plan, index, self._labels[index], certificate, seconds)
