"""Ranges of samples that are to be drawn again, and what a journal's looks say about the votes in such a range.

A look records how often each outcome occurred among samples [0, n). The difference of two consecutive looks therefore says
how often it occurred *between* them, and no more: votes of a range that is not bounded by looks can be contradicted by the
record (an outcome occurs more often in the range than in the interval around it), but not confirmed by it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from certify.audit.neartie import NearTie, explained
from certify.errors import UsageError

_TEXT = re.compile(r"(?:([a-z]+):)?(\d{1,15}):(\d{1,15})", re.ASCII)


@dataclass(frozen=True)
class SampleRange:
    """Samples [start, stop) of one phase, or of every phase where `phase` is None; 0 <= start < stop."""

    start: int
    stop: int
    phase: str | None = None

    def within(self, phase: str, recorded: int) -> tuple[int, int] | None:
        """Return the part of the range that is in the first `recorded` samples of a phase, or None if there is none."""
        if self.phase not in (None, phase) or self.start >= recorded:
            return None
        return self.start, min(self.stop, recorded)


def parse_samples(text: str) -> SampleRange:
    """Return the range that "100:200" or "estimate:100:200" names: the end is not part of it.

    Raises:
        UsageError: If the text is no range, or the range is empty.
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None or int(match[2]) >= int(match[3]):
        raise UsageError(
            f'--samples must be START:STOP with START < STOP, or PHASE:START:STOP, e.g. "100:200" or '
            f'"estimate:100:200" (sample 200 is not part of them), got {text!r}'
        )
    return SampleRange(int(match[2]), int(match[3]), match[1])


@dataclass(frozen=True)
class Piece:
    """The part of a range that lies between two consecutive looks.

    Attributes:
        start: First sample.
        stop: The sample after the last.
        whole: Whether these are all samples between the two looks.
        recorded: How often each outcome occurred between the two looks, by the journal: K + 1 numbers.
    """

    start: int
    stop: int
    whole: bool
    recorded: tuple[int, ...]


def cut(start: int, stop: int, looks: Mapping[int, Sequence[int]]) -> list[Piece]:
    """Return the pieces of [start, stop), in order; what lies beyond the last look is in none.

    Args:
        start: First sample.
        stop: The sample after the last.
        looks: Number of samples of each look of a phase -> its counts.
    """
    if not looks:
        return []
    nothing = [0] * len(next(iter(looks.values())))
    known = {0: nothing, **looks}
    pieces = []
    for low, high in pairwise(sorted(known)):
        first, last = max(start, low), min(stop, high)
        if first < last:
            increment = tuple(after - before for before, after in zip(known[low], known[high], strict=True))
            pieces.append(Piece(first, last, (first, last) == (low, high), increment))
    return pieces


@dataclass(frozen=True)
class JudgedPiece:
    """A piece, counted again.

    Attributes:
        piece: What the journal says.
        counted: Counts of the replay over the piece, K + 1 outcomes.
        verdict: Of a whole piece "equal", "near-ties" (the difference can be due to them) or "different"; of any other
            "possible" (no outcome occurs more often than between the looks around it, near-ties aside) or "impossible".
    """

    piece: Piece
    counted: tuple[int, ...]
    verdict: str

    @property
    def passed(self) -> bool:
        """Whether the journal agrees, as far as it can."""
        return self.verdict not in ("different", "impossible")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "start": self.piece.start,
            "stop": self.piece.stop,
            "between_looks": list(self.piece.recorded),
            "all_between_looks": self.piece.whole,
            "counted": list(self.counted),
            "verdict": self.verdict,
        }


def judge(piece: Piece, counted: tuple[int, ...], near_ties: Sequence[NearTie]) -> JudgedPiece:
    """Compare the votes of a piece, counted again, with the journal.

    Args:
        piece: What the journal says.
        counted: Counts of the replay, K + 1 outcomes.
        near_ties: Those of the piece.
    """
    if piece.whole:
        verdict = "equal"
        if counted != piece.recorded:
            verdict = "near-ties" if explained(piece.recorded, counted, near_ties) else "different"
        return JudgedPiece(piece, counted, verdict)
    # A near-tie may have taken one vote away from its best class, and no other vote can have been another one.
    movable = Counter(tie.best for tie in near_ties)
    excess = [again - most for again, most in zip(counted, piece.recorded, strict=True)]
    possible = all(surplus <= movable[outcome] for outcome, surplus in enumerate(excess))
    return JudgedPiece(piece, counted, "possible" if possible else "impossible")
