"""The raw votes of a certificate: the right looks, in the right order, each a complete count, recorded once."""

from collections.abc import Sequence
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
