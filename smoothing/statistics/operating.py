"""What a test does at a given probability, exactly: how many votes it takes, and how often it claims.

For planning and benchmarks, not for proofs: cut-offs here are counted as undecided.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from smoothing.statistics.crossing import Steps


class Operation(NamedTuple):
    """Expected votes, and the probabilities of ending claimed, refuted or neither."""

    votes: float
    claimed: float
    refuted: float
    undecided: float


def operation(
    q: float,
    looks: Sequence[int],
    accept: Sequence[int],
    refute: Sequence[int] | None = None,
    give_up: Sequence[int] | None = None,
) -> Operation:
    """Return what happens to an input with failure probability `q` under the limits of one radius.

    Args:
        q: In [0, 1].
        looks: Votes at each look.
        accept: The most failures at each look with which the radius is claimed.
        refute: The fewest with which it is refuted; None: never.
        give_up: The fewest with which it is given up; None: never.
    """
    never = [n + 1 for n in looks]
    refute, give_up = never if refute is None else refute, never if give_up is None else give_up
    steps = Steps(q, 1e-3, looks, "below") if 0.0 < q < 1.0 else None
    low, law = 0, np.ones(1)
    votes = claimed = refuted = undecided = 0.0
    for look, n in enumerate(looks):
        step = n - (looks[look - 1] if look else 0)
        votes += step * float(law.sum())
        if steps is None:
            low += step * round(q)
        else:
            low += steps.step(look).low
            law = np.convolve(law, steps.step(look).law)
        counts = low + np.arange(law.size)
        yes = counts <= accept[look]
        no = ~yes & (counts >= refute[look])
        stop = ~yes & ~no & (counts >= give_up[look])
        claimed, refuted = claimed + float(law[yes].sum()), refuted + float(law[no].sum())
        undecided += float(law[stop].sum())
        alive = np.flatnonzero(~(yes | no | stop) & (law > 1e-18))
        if not alive.size:
            return Operation(votes, claimed, refuted, undecided)
        low, law = low + int(alive[0]), np.where(yes | no | stop, 0.0, law)[alive[0] : alive[-1] + 1]
    return Operation(votes, claimed, refuted, undecided + float(law.sum()))
