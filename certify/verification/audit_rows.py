"""What the parts of one row say about each other: verdict, claims, attack distance and the arrays that are kept.

Proofs and points are confirmed elsewhere (`certify.verification.audit`). Here is what a run cannot have written whatever it
found, so that a row in which something was left out, put twice or renamed is noticed without any of them.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from certify.verification.arrays import POINT as POINT_ARRAY
from certify.verification.open_folder import Opened
from certify.verification.row import (
    CERTIFICATE,
    FALSIFIED,
    MISCLASSIFIED,
    NOTHING,
    POINT,
    SOLVER,
    TIMEOUT,
    UNKNOWN,
    VERIFIED,
    VerifyRow,
)

Fault = tuple[str, Any, Any]
"""Rule, what is recorded, what was expected."""


def row_faults(row: VerifyRow, arrays: Collection[str], opened: Opened) -> Iterator[Fault]:
    """Yield what does not go together.

    Args:
        row: The row.
        arrays: Names of the arrays of its file.
        opened: The run: its methods, and whether it was a search for radii.
    """
    yield from _verdict(row, opened)
    yield from _claims(row, opened)
    yield from _kept(row, arrays, opened)
    yield from _distance(row, opened)


def _verdict(row: VerifyRow, opened: Opened) -> Iterator[Fault]:
    said = {claim.status for claim in row.claims}
    if (MISCLASSIFIED in said) != (row.status == MISCLASSIFIED) or (MISCLASSIFIED in said and len(said) > 1):
        yield "status", sorted(said), f"{MISCLASSIFIED} by every claim or by none, as the row"
    follows = VERIFIED if VERIFIED in said else FALSIFIED if FALSIFIED in said else UNKNOWN
    if follows == UNKNOWN and TIMEOUT in said and not opened.search:  # a search that ran out of time has radii
        follows = TIMEOUT
    if row.status not in (MISCLASSIFIED, follows):
        yield "status", row.status, f"{follows}, which follows from the claims"


def _claims(row: VerifyRow, opened: Opened) -> Iterator[Fault]:
    """At a radius the ladder has one claim by slopes or by nothing, and one more if that was not what decided it.

    Everywhere else each method speaks once; in a search the attack gives a distance instead of a claim.
    """
    for claim in row.claims:
        if claim.rests_on in (NOTHING, POINT) and claim.margin is not None:
            yield f"margin by {claim.method}", claim.margin, f"none with what it rests on, {claim.rests_on!r}"
        if claim.rests_on != CERTIFICATE and claim.certificate is not None:
            yield "certificate", claim.certificate, f"none with what it rests on, {claim.rests_on!r}"
    methods = [claim.method for claim in row.claims]
    if opened.search or opened.pure or row.status == MISCLASSIFIED:
        once = Counter(methods)
        optional = {"pgd"} if opened.search and row.status != MISCLASSIFIED else set()
        wrong = [name for name in opened.methods if once[name] > 1 or (once[name] == 0 and name not in optional)]
        if wrong:
            yield "claims", methods, f"one by every method: not so by {', '.join(wrong)}"
        return
    bases = [claim.rests_on for claim in row.claims]
    if sum(basis in (CERTIFICATE, NOTHING) for basis in bases) != 1 or sum(b in (SOLVER, POINT) for b in bases) > 1:
        yield "claims", bases, "one by slopes or by nothing, and at most one by a point or by the solver"


def _kept(row: VerifyRow, arrays: Collection[str], opened: Opened) -> Iterator[Fault]:
    """A run keeps a derivation, or a point, for a claim or a distance."""
    names = {key.split("/", 1)[0] for key in arrays if "/" in key}
    if idle := sorted(names - {claim.certificate for claim in row.claims}):
        yield "claims", [claim.certificate for claim in row.claims], f"claims by what is kept, {', '.join(idle)}"
    claimed = row.attack_radius is not None if opened.search else any(c.rests_on == POINT for c in row.claims)
    if POINT_ARRAY in arrays and (not claimed or row.status == MISCLASSIFIED):
        yield "counterexample", row.status, "a claim, or in a search a distance, of the point that is kept"


def _distance(row: VerifyRow, opened: Opened) -> Iterator[Fault]:
    """Nothing may be nearer than what was found, and nothing is found without a point."""
    if row.status == MISCLASSIFIED:
        if row.attack_radius != 0.0:
            yield "attack_radius", row.attack_radius, 0.0
        return
    if opened.subject.norm is None:
        possible = False
    elif opened.search:
        possible = "pgd" in opened.methods
    else:
        possible = any(claim.rests_on == POINT for claim in row.claims)
    if row.attack_radius is not None and not possible:
        yield "attack_radius", row.attack_radius, "none, for there is no counterexample"
