"""Brings estimators and vote sources together: asks for what the states want until they want nothing more.

With a source that can be fed while it works (`OutcomeSource`) batching is *continuous*: a batch holds votes of many inputs
at different stages, and what an input's look decides changes the requests of the very next batch. Every input gets its
first look first; then those with the least expected work go on, so that results come early and few inputs are under way
at a time. Votes beyond a look may be under way or have arrived already: they are kept for the next look, and no state
ever sees them before it has asked for a prefix that contains them. A state sees counts over prefixes and nothing else, so
that neither timing nor batch size nor the order of work can change a result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from smoothing.estimators.base import Look, Phase, State
from smoothing.progression import Progression
from smoothing.schedule import Schedule
from smoothing.votes import OutcomeSource, VoteRequest, VoteSource


def drive(
    source: VoteSource | OutcomeSource,
    states: Mapping[int, State],
    seen: Mapping[int, Sequence[Look]] | None = None,
    on_look: Callable[[int, Look], None] | None = None,
) -> Iterator[int]:
    """Advance every state to its end; yield an input's key after each of its looks.

    A look is a prefix: only the votes beyond the previous look of the same phase are asked for, and the counts are added
    up.

    Args:
        source: Who produces the votes.
        states: Input key -> state.
        seen: Input key -> the looks that its state has behind it already (an interrupted run's), in order.
        on_look: Told every look of every input, right after its state has seen it.
    """
    started = {
        index: Progression(index, state, () if seen is None else seen.get(index, ()))
        for index, state in states.items()
        if state.next_look() is not None
    }
    if isinstance(source, OutcomeSource):
        yield from _continuously(source, started, on_look)
    else:
        yield from _in_rounds(source, started, on_look)


def _continuously(
    source: OutcomeSource, started: Mapping[int, Progression], on_look: Callable[[int, Look], None] | None
) -> Iterator[int]:
    schedule = Schedule(started.values())
    for request, outcomes in source.outcomes(schedule.requests()):
        progression = started[request.index]
        schedule.returned(request)
        progression.store(request, outcomes)
        while (look := progression.look(source.num_classes + 1)) is not None:
            if on_look is not None:
                on_look(request.index, look)
            yield request.index
        schedule.consider(progression)


def _in_rounds(
    source: VoteSource, started: Mapping[int, Progression], on_look: Callable[[int, Look], None] | None
) -> Iterator[int]:
    """All states' next looks are asked for together, for sources that take one list of requests at a time."""
    prefix: dict[tuple[int, Phase], tuple[int, Int64[ndarray, " outcomes"] | int]] = {
        (index, phase): reached for index, p in started.items() for phase, reached in p.reached.items()
    }
    states: dict[int, Any] = {index: progression.state for index, progression in started.items()}
    while wanted := {index: look for index, state in states.items() if (look := state.next_look()) is not None}:
        requests = [
            VoteRequest(index, look.phase, prefix.get((index, look.phase), (0, 0))[0], look.n)
            for index, look in wanted.items()
        ]
        for request, counts in source.votes(requests):
            key = (request.index, request.phase)
            total = np.asarray(counts + prefix.get(key, (0, 0))[1])
            prefix[key] = (request.stop, total)
            states[request.index].update(request.phase, total)
            if on_look is not None:
                on_look(request.index, Look(request.phase, request.stop, tuple(int(count) for count in total)))
            yield request.index
