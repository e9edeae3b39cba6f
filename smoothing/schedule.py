"""In which order inputs get their votes: a matter of speed alone, since states see nothing but counts over prefixes."""

import heapq
from collections.abc import Iterable, Iterator
from itertools import count

from smoothing.progression import Progression
from smoothing.votes import VoteRequest

GRAIN = 16
"""After the first look votes are asked for up to multiples of this: fewer requests, and at most 15 unseen votes."""

_LARGEST = 2**14
"""Longest request: outcomes of one request are kept until it is complete."""

_AHEAD = 2.0
_LEAST_AHEAD = 64
"""Votes ahead of a look, for slots that would stay empty: up to this multiple of the look, or this many in all."""


class Schedule:
    """Hands out requests: first looks first, then the least expected work; where nobody waits, votes ahead of a look.

    Args:
        progressions: The inputs, in their order.
    """

    def __init__(self, progressions: Iterable[Progression]) -> None:
        self._ready: list[tuple[bool, float, int, Progression]] = []
        self._order = count()
        self._rank: dict[int, int] = {}
        self._under_way: dict[int, tuple[Progression, int]] = {}
        for progression in progressions:
            self._rank[progression.index] = next(self._order)
            self.consider(progression)

    def consider(self, progression: Progression) -> None:
        """Queue an input if votes for its wanted look are still to be asked for."""
        if progression.missing > 0:
            started = progression.looks > 0
            expected = progression.expected_votes if started else 0.0
            heapq.heappush(self._ready, (started, expected, self._rank[progression.index], progression))

    def returned(self, request: VoteRequest) -> None:
        """Take note that a request has been answered."""
        progression, pending = self._under_way[request.index]
        if pending == 1:
            del self._under_way[request.index]
        else:
            self._under_way[request.index] = (progression, pending - 1)

    def requests(self) -> Iterator[VoteRequest | None]:
        """Yield requests for as long as any state wants votes; None where everything is under way."""
        while True:
            if self._ready:
                *_, progression = heapq.heappop(self._ready)
                yield from self._ask(progression)
                continue
            if not self._under_way:
                return
            ahead = self._furthest_behind()
            if ahead is None:
                yield None
            else:
                yield self._request(ahead, ahead.asked + GRAIN)

    def _ask(self, progression: Progression) -> Iterator[VoteRequest]:
        wanted = progression.wanted
        if wanted is None or progression.missing <= 0:
            return
        stop = wanted.n
        if progression.looks > 0:
            stop = max(stop, min(-(-stop // GRAIN) * GRAIN, progression.horizon))
        while progression.asked < stop and progression.wanted is wanted:
            yield self._request(progression, min(stop, progression.asked + _LARGEST))

    def _request(self, progression: Progression, stop: int) -> VoteRequest:
        wanted = progression.wanted
        assert wanted is not None  # only inputs that wait for a look are asked for
        stop = min(stop, progression.horizon)
        request = VoteRequest(progression.index, wanted.phase, progression.asked, stop)
        progression.asked = stop
        pending = self._under_way.get(progression.index, (progression, 0))[1]
        self._under_way[progression.index] = (progression, pending + 1)
        return request

    def _furthest_behind(self) -> Progression | None:
        """Return the input under way with the fewest votes ahead of its look, if there is one that may use more."""
        best, least = None, 1.0
        for progression, _ in self._under_way.values():
            if progression.wanted is None or progression.asked >= progression.horizon:
                continue
            share = progression.asked / max(_AHEAD * progression.wanted.n, _LEAST_AHEAD)
            if share < least:
                best, least = progression, share
        return best
