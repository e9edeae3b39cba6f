"""The raw votes of a certificate: the right looks, in the right order, each a complete count, recorded once."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from certify.audit import fields
from certify.audit.findings import Findings
from certify.audit.folder import RawLook, RawRow

Counts = tuple[int, ...]


def check_looks(
    row: RawRow, certificate: dict[str, Any], wanted: Sequence[tuple[str, int]], num_classes: int, found: Findings
) -> list[Counts] | None:
    """Check an input's looks in the table against those that the estimator demands and those in the certificate.

    Args:
        row: The input.
        certificate: Its certificate as recorded.
        wanted: (phase, n) of every look that the estimator demands, in order; no other look may be there.
        num_classes: K; every look has K + 1 outcomes, the last being "invalid".
        found: Receives the mismatches.

    Returns:
        The counts of every look, or None where they cannot be used.
    """
    recorded = [(look.phase, look.n) for look in row.looks]
    if recorded != list(wanted):
        found.add(
            row.index, "looks", _names(recorded), f"{_names(wanted)}: what the estimator asks for, and nothing else"
        )
    inside = [{"phase": look.phase, "n": look.n, "counts": look.counts} for look in row.looks]
    if certificate.get("looks") != inside:
        found.add(
            row.index,
            "looks",
            f"certificate: {certificate.get('looks')!r}",
            f"table of looks: {inside!r}; the votes must be the same in both",
        )
    usable = [_check_counts(row.index, look, num_classes, found) for look in row.looks]
    if recorded != list(wanted):
        return None
    counts = [entry for entry in usable if entry is not None]
    return counts if len(counts) == len(usable) else None


def check_prefixes(row: RawRow, certificate: dict[str, Any], num_classes: int, found: Findings) -> list[Counts] | None:
    """Check looks at growing prefixes of one sequence of votes: more votes each time, and no outcome that loses any.

    Args:
        row: The input.
        certificate: Its certificate as recorded.
        num_classes: K.
        found: Receives the mismatches.

    Returns:
        The counts of every look, of which there is at least one, or None where they cannot be used.
    """
    lengths = fields.integers([look.n for look in row.looks])
    if not row.looks or lengths is None or any(look.phase != "estimate" for look in row.looks):
        found.add(
            row.index, "looks", _names([(look.phase, look.n) for look in row.looks]), "looks at estimation votes alone"
        )
        return None
    counts = check_looks(row, certificate, [("estimate", n) for n in lengths], num_classes, found)
    if counts is None:
        return None
    for (before, after), (short, long) in zip(pairwise(counts), pairwise(lengths), strict=True):
        if short >= long or any(a > b for a, b in zip(before, after, strict=True)):
            found.add(
                row.index,
                "counts",
                f"n={short}: {list(before)}, n={long}: {list(after)}",
                "a prefix: a later look holds all votes of an earlier one",
            )
            return None
    return counts


def _check_counts(index: int, look: RawLook, num_classes: int, found: Findings) -> Counts | None:
    phase, n, counts = look.phase, look.n, look.counts
    values = fields.integers(counts)
    if values is None or min(values, default=0) < 0:
        found.add(index, "counts", f"{phase}: {counts!r}", "votes are integers of at least 0")
        return None
    if len(values) != num_classes + 1:
        found.add(
            index,
            "counts",
            f"{phase}: {len(values)} outcomes",
            f"{num_classes + 1} outcomes: {num_classes} classes and, last, invalid",
        )
        return None
    if fields.integer(n) is None or sum(values) != n:
        found.add(
            index, "counts", f"{phase}: {sum(values)} votes in all", f"n = {n!r} votes: every sample has one outcome"
        )
        return None
    return values


def _names(looks: Sequence[tuple[Any, Any]]) -> str:
    return ", ".join(f"{phase} n={n}" for phase, n in looks) or "no look"
