"""Brings estimators and vote sources together: asks for what the states want until they want nothing more."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from smoothing.estimators.base import Phase, State
from smoothing.votes import VoteRequest, VoteSource


def drive(source: VoteSource, states: Mapping[int, State]) -> Iterator[int]:
    """Advance every state to its end; yield an input's key after each of its looks.

    All states' next looks are asked for together, so that their samples share batches. A look is a prefix: only the votes
    beyond the previous look of the same phase are asked for, and the counts are added up.

    Args:
        source: Who produces the votes.
        states: Input key -> state, possibly with some looks behind it already.
    """
    prefix: dict[tuple[int, Phase], tuple[int, Int64[ndarray, " outcomes"] | int]] = {}
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
            yield request.index
