"""Why an input has no further look: every radius was certified, the smallest open one was refuted or given up, or the end.

The looks of an input are walked through once more. Radii are certified in their order; a rejection, once made, stays. Where
the votes choose the class, the rejections are those of one class: while nothing is certified, they are forgotten when
another class leads. A run that was continued has the looks that its last settings ask for: further radii, a lower futility
and a larger budget end no input earlier.
"""

from collections.abc import Callable, Sequence
from typing import Any

from certify.audit.findings import Findings
from certify.audit.looks import Counts

Judge = Callable[[int, int, int, int], bool | None]
"""(radius, look number, failures, n) -> whether the look rejects or gives up; None where rounding decides."""


def check_stop(
    index: int,
    counts: Sequence[Counts],
    label: Any,
    radii: Sequence[float],
    few: Judge,
    many: Judge,
    hopeless: Judge,
    next_look: int | None,
    found: Findings,
) -> None:
    """Check that the looks of an input end where they have to: at no later look, and at no earlier one.

    Args:
        index: The input.
        counts: Its looks.
        label: The class that is tested; None where the votes choose it.
        radii: The grid.
        few: Whether a look rejects that a radius is false.
        many: Whether it rejects that a radius is true.
        hopeless: Whether it gives a radius up.
        next_look: Votes at the look that would follow; None where there is none.
        found: Receives the mismatch.
    """
    size = len(radii)
    rejected: list[bool | None] = [False] * size
    refuted: list[bool | None] = [False] * size
    leaders: list[tuple[int, int]] = []
    candidate, claims, settled = label, 0, None
    for look, entry in enumerate(counts):
        n, votes = sum(entry), entry[:-1]
        if settled is not None:
            found.add(index, "stop", f"a look at {n} votes", f"none after {sum(counts[look - 1])}: {settled}")
            return
        leader = votes.index(max(votes)) if label is None else label
        if label is None and leader != candidate and claims == 0:
            candidate, rejected = leader, [False] * size
        failures, least = n - votes[candidate], n - votes[leader]
        leaders.append((least, n))
        for j in range(size):
            rejected[j] = _either(rejected[j], few(j, look, failures, n) if rejected[j] is not True else True)
            refuted[j] = _either(refuted[j], many(j, look, least, n) if refuted[j] is not True else True)
        claims = next((j for j in range(size) if rejected[j] is not True), size)
        if claims == size:
            settled = "every radius is certified"
            continue
        given_up = hopeless(claims, look, least, n)
        if None in (rejected[claims], refuted[claims], given_up):
            return  # rounding decides, and with it everything that follows
        if refuted[claims] or given_up:
            settled = f"radius {radii[claims]!r} is {'refuted' if refuted[claims] else 'given up'}"
    if settled is not None or next_look is None:
        return
    # Runs of earlier versions did not take back that they had given up a radius, when its turn came later.
    if any(hopeless(claims, look, least, n) is not False for look, (least, n) in enumerate(leaders)):
        return
    found.add(
        index,
        "stop",
        f"no look after {leaders[-1][1]} votes",
        f"a look at {next_look}: radius {radii[claims]!r} is neither certified nor refuted nor given up",
    )


def _either(one: bool | None, other: bool | None) -> bool | None:
    return True if True in (one, other) else None if None in (one, other) else False
