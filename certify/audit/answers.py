"""Recounts the answers of a prediction service: every look must be the tally of the answers that are recorded."""

import sqlite3
from collections import defaultdict
from typing import Any

from certify.audit.fields import mapping
from certify.audit.findings import AuditError, Findings
from certify.audit.folder import JOURNAL, RawRow, RawRun

_VOID = "void"


def check_answers(run: RawRun, found: Findings) -> None:
    """Check the looks of a run on a service against its answers; nothing for other runs.

    The rules are written here once more, from `run.json` alone: which label is which class, that anything else is the
    outcome "invalid", and that labels of two versions (one with and one without any are two), or a void mark, make all votes
    of an input invalid, those of before the change too: such an input proves nothing.

    Raises:
        AuditError: If the run's description lacks the labels, or the answers cannot be read.
    """
    service = run.config["identity"].get("service")
    if service is None:
        return
    try:
        classes = int(service["labels"]["num_classes"])
        numbers = {str(label): int(number) for label, number in service["labels"]["classes"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise AuditError("run.json cannot be audited: its service names no labels") from None
    answers = _read(run)
    for row in run.rows:
        own = answers[row.index]
        # An answer with neither a label nor a version, a refusal for instance, says nothing of who gave it.
        versions = {version for _, _, label, version in own if str(label) or version is not None}
        void = _VOID in versions or len(versions) > 1
        by_phase: dict[str, dict[int, int]] = defaultdict(dict)
        for phase, sample, label, version in own:
            if version != _VOID and sample >= 0:
                by_phase[phase][sample] = classes if void else _outcome(label, numbers, classes)
        if void:
            _check_void(row, found)
        for look in row.looks:
            counts = [0] * (classes + 1)
            samples = by_phase.get(str(look.phase), {})
            for sample, outcome in samples.items():
                if isinstance(look.n, int) and sample < look.n:
                    counts[outcome] += 1
            if look.counts != counts:
                found.add(row.index, "votes of the service", f"{look.phase}: {look.counts}", f"{counts} by its answers")


def _check_void(row: RawRow, found: Findings) -> None:
    """Check that a void input claims nothing, neither that a radius holds nor that it does not."""
    certificate = mapping((row.payload or {}).get("certificate")) or {}
    decisions = certificate.get("decisions")
    claims = [certificate, *(decisions if isinstance(decisions, list) else [])]
    statuses = [(mapping(claim) or {}).get("status") for claim in claims]
    for status in ("certified", "refuted"):
        if status in statuses:
            found.add(row.index, "status", status, "abstained or undecided: by its answers the input is void")


def _outcome(label: Any, numbers: dict[str, int], classes: int) -> int:
    text = str(label)
    if numbers:
        return numbers.get(text, classes)
    return min(int(text), classes) if text.isascii() and text.isdecimal() else classes


def _read(run: RawRun) -> dict[int, list[tuple[str, int, Any, str | None]]]:
    found: dict[int, list[tuple[str, int, Any, str | None]]] = defaultdict(list)
    path = run.folder / JOURNAL
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10.0)
        try:
            for index, phase, sample, label, version in connection.execute(
                'SELECT "index", phase, sample, label, version FROM answers'
            ):
                found[index].append((str(phase), int(sample), label, version))
        finally:
            connection.close()
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise AuditError(f"{path} cannot be read: {error}") from None
    return found
