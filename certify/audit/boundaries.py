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

_LEVEL_ROUNDING = Fraction(1, 10**12)
"""Relative amount by which the level that a boundary was made for may lie below the exact one."""

METHODS = {"gse": "group-sequential, ", "zmix": "mixture of likelihood ratios"}
"""Method by run.json -> what the text in its boundaries begins with."""


@dataclass(frozen=True)
class AuditedBoundary:
    """Limits that were found in order: looks, and the failures at each that reject (`side` says from which side)."""

    looks: tuple[int, ...]
    limits: tuple[int, ...]
    side: str


def read_boundary(
    folder: Path, name: Any, *, q0: float, level: Fraction, side: str, method: str, free: bool, found: Findings
) -> AuditedBoundary | None:
    """Read a boundary and check everything that a claim rests on.

    Args:
        folder: The run folder.
        name: Its hash, by run.json.
        q0: Failure probability of the hypothesis that it tests.
        level: Error that it may have at most.
        side: "below": few failures reject 1 - p >= q0. "above": many failures reject 1 - p <= q0.
        method: How it was made, by run.json.
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
    made_for = _from_hex(data.get("alpha"))
    if made_for is None or not level * (1 - _LEVEL_ROUNDING) <= made_for <= level:
        # A boundary of a smaller error would be as sound, but it would not be that of the level in run.json.
        found.add(
            None, "level", data.get("alpha"), f"{float(level).hex()} = {float(level)!r}, by run.json", where=where
        )
    if not str(data.get("method")).startswith(METHODS[method]):
        found.add(None, "method", data.get("method"), f"one that is made by {method!r}, as run.json says", where=where)
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


def _from_hex(text: Any) -> Fraction | None:
    try:
        return Fraction(float.fromhex(text))
    except (TypeError, ValueError, OverflowError):
        return None


@lru_cache(maxsize=256)
def _error(q0: float, looks: tuple[int, ...], limits: tuple[int, ...], side: str) -> float:
    if side == "below":
        return crossing_probability(q0, looks, limits)
    # Many failures are few successes.
    return crossing_probability(1.0 - q0, looks, tuple(n - limit for n, limit in zip(looks, limits, strict=True)))
