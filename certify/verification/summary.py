"""The figures at the end of a verification run; what rests on certificates and on a solver's word stays apart."""

from collections.abc import Sequence
from typing import Any

from certify.verification.row import (
    CERTIFICATE,
    FALSIFIED,
    MISCLASSIFIED,
    POINT,
    SOLVER,
    TIMEOUT,
    UNKNOWN,
    VERIFIED,
    VerifyRow,
)
from verify.result import Guarantee
from verify.robust_error import LOWER, UPPER, ErrorBound, RobustError

STATUSES = (VERIFIED, FALSIFIED, UNKNOWN, TIMEOUT, MISCLASSIFIED)


def summarize(config: dict[str, Any], rows: Sequence[VerifyRow]) -> dict[str, Any]:
    """Return JSON-ready figures over `rows`."""
    identity = config["identity"]
    count = len(rows)
    by_slopes = sum(_rests_on(row, CERTIFICATE) for row in rows)
    by_solver = sum(_rests_on(row, SOLVER) and not _rests_on(row, CERTIFICATE) for row in rows)
    result: dict[str, Any] = {
        "inputs": count,
        **{status: sum(row.status == status for row in rows) for status in STATUSES},
        "verified_with_certificate": by_slopes,
        "verified_by_solver_only": by_solver,
        "seconds": sum(row.seconds for row in rows),
    }
    if "vnnlib_sha256" in identity:
        total = len(config["settings"]["indices"])
        return {**result, "boxes": total, "verdict": verdict(rows, total), "rests_on": _basis(rows, total)}
    result |= {"norm": identity["norm"], "eps": identity["eps"], "clip": identity["clip"]}
    if identity["methods"].get("pure"):
        result["pure"] = True
    if not count:
        return result
    if identity["search"]:
        return {**result, "mean_radius": _mean_radii(identity["methods"]["names"], rows)}
    return {
        **result,
        "error_lower_bound": (result[MISCLASSIFIED] + result[FALSIFIED]) / count,
        "error_upper_bound": 1 - by_slopes / count,
        "error_upper_bound_with_solver": 1 - (by_slopes + by_solver) / count,
        "robust_error": robust_error(config, rows).table(),
        "verified_by": _deciders(identity["methods"]["names"], rows),
    }


def robust_error(config: dict[str, Any], rows: Sequence[VerifyRow]) -> RobustError:
    """Return what a run at one radius says about the error of its inputs, method by method.

    Only confirmed claims count: counterexamples below, proofs above. In a ladder what one rung has proved or refuted counts
    for those after it; `--pure` methods stand each for itself.

    Args:
        config: Content of `run.json`, of a run at one radius over a data set.
        rows: Its rows, at least one.
    """
    methods = config["identity"]["methods"]
    pure = bool(methods.get("pure", False))
    names = [str(name) for name in methods["names"]]
    wrong = sum(row.status == MISCLASSIFIED for row in rows)
    bounds: list[ErrorBound] = []
    for place, name in enumerate(names):
        own = {name} if pure else set(names[: place + 1])
        if name in ("pgd", "milp"):
            refuted = sum(_says(row, own, FALSIFIED, (POINT,)) for row in rows)
            bounds.append(ErrorBound(name, LOWER, wrong + refuted, Guarantee.ATTACK))
        if name != "pgd":
            basis = (CERTIFICATE, SOLVER) if name == "milp" else (CERTIFICATE,)
            proved = sum(_says(row, own, VERIFIED, basis) for row in rows)
            guarantee = Guarantee.SOLVER if name == "milp" else Guarantee.CHECKABLE
            bounds.append(ErrorBound(name, UPPER, len(rows) - proved, guarantee))
    notes = tuple(dict.fromkeys(note for row in rows for note in row.notes))
    return RobustError(len(rows), wrong, tuple(bounds), pure, notes)


def _says(row: VerifyRow, methods: set[str], status: str, basis: tuple[str, ...]) -> bool:
    return any(c.method in methods and c.status == status and c.rests_on in basis for c in row.claims)


def verdict(rows: Sequence[VerifyRow], boxes: int) -> str:
    """Return what VNN-LIB asks for: unsat (safe), sat (a counterexample), timeout or unknown."""
    if any(row.status == FALSIFIED for row in rows):
        return "sat"
    if sum(row.status == VERIFIED for row in rows) == boxes:
        return "unsat"
    return "timeout" if any(row.status == TIMEOUT for row in rows) else "unknown"


def _basis(rows: Sequence[VerifyRow], boxes: int) -> str:
    if boxes == 0:
        return "the file itself: no input satisfies its assertions"
    if any(row.status == FALSIFIED for row in rows):
        return "a counterexample that the original network confirms"
    if sum(row.status == VERIFIED for row in rows) < boxes:
        return "nothing"
    solver = any(not _rests_on(row, CERTIFICATE) for row in rows)
    return "the solver's answer" if solver else "certificates that the checker re-evaluates"


def _rests_on(row: VerifyRow, basis: str) -> bool:
    return any(claim.status == VERIFIED and claim.rests_on == basis for claim in row.claims)


def _deciders(names: Sequence[str], rows: Sequence[VerifyRow]) -> dict[str, int]:
    """How many inputs each method decides; one that several methods prove counts for the first."""
    found = [next((c.method for c in row.claims if c.status == VERIFIED), None) for row in rows]
    return {name: found.count(name) for name in names if name != "pgd"}


def _mean_radii(names: Sequence[str], rows: Sequence[VerifyRow]) -> dict[str, float]:
    """The mean over all inputs, 0 where the network is wrong or nothing is proved."""
    return {
        name: sum(c.radius for row in rows for c in row.claims if c.method == name and c.status == VERIFIED) / len(rows)
        for name in names
        if name != "pgd"
    }
