"""Continuous batching: whatever is in flight, a state sees the counts over the prefix that it asked for and no others."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smoothing import BatchingEngine, ForwardSettings, Gaussian, Phase, VoteRequest
from smoothing.driver import drive
from smoothing.estimators.base import Look, Request
from smoothing.schedule import GRAIN
from smoothing.votes import OutcomeSource

SHAPE = (1, 2, 3)
CLASSES = 3


def labels(x: Tensor) -> Tensor:
    """Labels from comparisons of single values: the same bits in any batch."""
    pixels = x.flatten(1)
    return (pixels[:, 0] > 0.5).long() + (pixels[:, 5] > 0.7).long()


def engine(batch_size: int = 64, seed: int = 7) -> BatchingEngine:
    data = torch.rand((40, *SHAPE), generator=torch.Generator().manual_seed(3))
    return BatchingEngine(
        labels, Gaussian(SHAPE, sigma=0.5), CLASSES, lambda i: data[i], settings=ForwardSettings(batch_size), seed=seed
    )


class Walk:
    """A state that stops by what it sees: after every look it goes on by `ratio` unless class 0 leads by enough."""

    def __init__(self, first: int, ratio: float, cap: int, gap: int, select: int = 0) -> None:
        self.first, self.ratio, self.cap, self.gap, self.select = first, ratio, cap, gap, select
        self.looks: list[Look] = []

    def next_look(self) -> Request | None:
        own = [look for look in self.looks if look.phase is Phase.ESTIMATE]
        if self.select and not self.looks:
            return Request(Phase.SELECT, self.select)
        if not own:
            return Request(Phase.ESTIMATE, self.first)
        last = own[-1]
        if last.n == self.cap or abs(2 * last.counts[0] - last.n) > self.gap:
            return None
        return Request(Phase.ESTIMATE, min(self.cap, max(last.n + 1, int(last.n * self.ratio))))

    def update(self, phase: Phase, counts: Any) -> None:
        wanted = self.next_look()
        assert wanted is not None
        assert (phase, int(counts.sum())) == tuple(wanted)
        self.looks.append(Look(phase, wanted.n, tuple(int(c) for c in counts)))

    def result(self) -> Any:
        raise AssertionError("not asked for here")


class Farsighted(Walk):
    """Says how far it may go and how much it expects, so that votes ahead of its looks are drawn."""

    def horizon(self, phase: Phase) -> int:
        return self.cap if phase is Phase.ESTIMATE else self.select

    def expected_votes(self) -> float:
        return float(self.looks[-1].counts[1])


def alone(index: int, state: Walk) -> list[Look]:
    """Advance one state by whole prefixes that are counted from the start every time, by a source of its own."""
    while (wanted := state.next_look()) is not None:
        [(_, counts)] = engine(97).votes([VoteRequest(index, wanted.phase, 0, wanted.n)])
        state.update(wanted.phase, counts)
    return state.looks


PARAMETERS = [(3 + i % 11, 1.0 + 0.05 * (i % 5), 120 + 90 * (i % 6), 5 + 3 * (i % 7), 20 * (i % 3)) for i in range(40)]


@pytest.fixture(scope="module")
def reference() -> list[list[Look]]:
    return [alone(i, Walk(*PARAMETERS[i])) for i in range(40)]


@pytest.mark.parametrize("kind", [Walk, Farsighted])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1024])
def test_every_look_is_the_count_over_its_prefix(
    kind: type[Walk], batch_size: int, reference: list[list[Look]]
) -> None:
    states = {i: kind(*PARAMETERS[i]) for i in range(40)}
    told = list(drive(engine(batch_size), states))
    assert [states[i].looks for i in range(40)] == reference
    assert sorted(told) == sorted(i for i in range(40) for _ in reference[i])


@pytest.mark.parametrize("batch_size", [7, 64])
def test_four_workers_find_what_one_finds(batch_size: int, reference: list[list[Look]]) -> None:
    for worker in range(4):
        states = {i: Farsighted(*PARAMETERS[i]) for i in range(worker, 40, 4)}
        list(drive(engine(batch_size), states))
        for i, state in states.items():
            assert state.looks == reference[i]


@pytest.mark.parametrize("looks_before", [1, 5, 40, 150])
def test_an_interrupted_drive_goes_on_from_its_looks(looks_before: int, reference: list[list[Look]]) -> None:
    first = {i: Farsighted(*PARAMETERS[i]) for i in range(40)}
    running = drive(engine(64), first)
    for _ in range(looks_before):
        next(running)
    running.close()
    second = {i: Farsighted(*PARAMETERS[i]) for i in range(40)}
    seen = {i: tuple(state.looks) for i, state in first.items()}
    assert any(seen.values())
    for i, looks in seen.items():
        for look in looks:
            second[i].update(look.phase, np.array(look.counts, dtype=np.int64))
    asked = Recorder(engine(7))
    list(drive(asked, second, seen))
    assert [second[i].looks for i in range(40)] == reference
    for request in asked.requests:
        reached = max((look.n for look in seen[request.index] if look.phase is request.phase), default=0)
        assert request.start >= reached  # nothing that was counted before is drawn again


class Recorder:
    """Writes down what was asked for, and what was on its way when."""

    def __init__(self, source: BatchingEngine) -> None:
        self.source = source
        self.num_classes = source.num_classes
        self.requests: list[VoteRequest] = []
        self.pauses = 0

    def outcomes(self, requests: Iterable[VoteRequest | None]) -> Iterator[tuple[VoteRequest, Any]]:
        def listen() -> Iterator[VoteRequest | None]:
            for request in requests:
                if request is None:
                    self.pauses += 1
                else:
                    self.requests.append(request)
                yield request

        return self.source.outcomes(listen())


def test_all_inputs_get_their_first_look_before_any_gets_its_second() -> None:
    source = Recorder(engine(16))
    assert isinstance(source, OutcomeSource)
    states = {i: Farsighted(*PARAMETERS[i]) for i in range(40)}
    list(drive(source, states))
    first = [r.index for r in source.requests[:40]]
    assert first == list(range(40))
    assert all(r.start == 0 for r in source.requests[:40])


def test_the_least_expected_work_goes_on_first() -> None:
    class Eager(Farsighted):
        def expected_votes(self) -> float:
            return float(100 - index_of[id(self)])

    states = {i: Eager(4, 1.05, 200, 10**9) for i in range(8)}
    index_of = {id(state): i for i, state in states.items()}
    finished = [i for i in drive(engine(4), states) if states[i].next_look() is None]
    assert finished == list(range(7, -1, -1))


def test_votes_ahead_fill_batches_and_stop_where_no_look_can_reach() -> None:
    def batches(kind: type[Walk]) -> tuple[int, int, int]:
        sizes: list[int] = []
        source = engine(64)
        source.progress = sizes.append
        recorder = Recorder(source)
        state = {5: kind(10, 1.05, 1000, 10**9)}
        list(drive(recorder, state))
        return len(sizes), sum(sizes), max(request.stop for request in recorder.requests)

    few, votes, last = batches(Farsighted)
    many, least, _ = batches(Walk)
    assert last == votes == least == 1000  # this input uses all of its votes, so that none is drawn in vain
    assert few < many
    assert few <= 1000 / 64 + 6


def test_votes_beyond_the_last_look_are_few(reference: list[list[Look]]) -> None:
    source = Recorder(engine(64))
    states = {i: Farsighted(*PARAMETERS[i]) for i in range(40)}
    list(drive(source, states))
    drawn = sum(r.stop - r.start for r in source.requests)
    used = sum(max((k.n for k in looks if k.phase is p), default=0) for looks in reference for p in Phase)
    assert drawn < used + 40 * GRAIN + 3 * 64


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 40), st.floats(1.0, 2.0), st.integers(40, 300), st.integers(0, 40), st.integers(0, 30)
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 200),
)
def test_any_states_and_batch_sizes(parameters: list[tuple[int, float, int, int, int]], batch_size: int) -> None:
    states = {i: Farsighted(*values) for i, values in enumerate(parameters)}
    list(drive(engine(batch_size), states))
    for i, values in enumerate(parameters):
        assert states[i].looks == alone(i, Walk(*values))
