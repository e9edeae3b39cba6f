"""The boundaries of a sequential run: found by their hash in the run folder, and their error computed again."""

import hashlib
import json
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from certify.audit import fields
from certify.audit.crossing import crossing_probability
from certify.audit.findings import Findings

FOLDER = "boundaries"
ALLOWANCE = 1e-9
"""Relative rounding of the error's computation."""


@dataclass(frozen=True)
class AuditedBoundary:
    """Limits that were found in order: looks, and the failures at each that reject (`side` says from which side)."""

    looks: tuple[int, ...]
    limits: tuple[int, ...]
    side: str


def read_boundary(
    folder: Path, name: Any, *, q0: float, level: Fraction, side: str, free: bool, found: Findings
) -> AuditedBoundary | None:
    """Read a boundary and check everything that a claim rests on.

    Args:
        folder: The run folder.
        name: Its hash, by run.json.
        q0: Failure probability of the hypothesis that it tests.
        level: Error that it may have at most.
        side: "below": few failures reject 1 - p >= q0. "above": many failures reject 1 - p <= q0.
        free: Whether it is used for a class that the votes choose, which needs limits of at most q0 (n - 1).
        found: Receives what is wrong.

    Returns:
        The boundary, or None where nothing can be derived from it.
    """
    where = f"{FOLDER}/{name}.json"
    if not isinstance(name, str) or len(name) != 64 or not set(name) <= set("0123456789abcdef"):
        found.add(None, "boundary", name, "a SHA-256, by which the boundary is found", where="run.json")
        return None
    try:
        data = json.loads((folder / FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        found.add(None, "boundary", f"cannot be read: {error}", "the boundary that run.json names", where=where)
        return None
    if not isinstance(data, dict):
        found.add(None, "boundary", data, "a JSON object", where=where)
        return None
    here = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    found.require_equal(None, "hash", here, name, where=where)
    looks, limits = fields.integers(data.get("looks")), fields.integers(data.get("limits"))
    if not looks or looks[0] < 1 or any(a >= b for a, b in pairwise(looks)):
        found.add(None, "looks", data.get("looks"), "increasing numbers of votes", where=where)
        return None
    if limits is None or len(limits) != len(looks):
        found.add(None, "limits", data.get("limits"), f"{len(looks)} integers, one per look", where=where)
        return None
    found.require_equal(None, "side", data.get("side"), side, where=where)
    found.require_equal(None, "q0", data.get("q0"), q0.hex(), where=where)
    wrong = _error(q0, looks, limits, side)
    if Fraction(wrong) > level * (1 + Fraction(ALLOWANCE)):
        found.add(
            None,
            "size",
            f"limits that err with probability {wrong!r} at 1 - p = {q0!r}",
            f"at most {float(level)!r}, the level of this radius",
            where=where,
        )
    if free and side == "below":
        loose = [(n, f) for n, f in zip(looks, limits, strict=True) if f >= 0 and f > Fraction(q0) * (n - 1)]
        if loose:
            found.add(None, "limits", f"{loose[0][1]} failures of {loose[0][0]}", "at most q0 (n - 1)", where=where)
    return AuditedBoundary(looks, limits, side)


@lru_cache(maxsize=256)
def _error(q0: float, looks: tuple[int, ...], limits: tuple[int, ...], side: str) -> float:
    if side == "below":
        return crossing_probability(q0, looks, limits)
    # Many failures are few successes.
    return crossing_probability(1.0 - q0, looks, tuple(n - limit for n, limit in zip(looks, limits, strict=True)))
