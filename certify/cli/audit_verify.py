"""`certify audit` of a verification run: what the checker confirms, and what rests on a solver's word."""

from typing import TYPE_CHECKING

import typer

from certify.cli.common import console, print_json

if TYPE_CHECKING:
    from pathlib import Path

    from certify.verification.audit import VerifyAudit


def audit_verify(
    folder: "Path",
    *,
    model: str | None,
    data: str | None,
    data_root: "Path | None",
    trust_pickle: bool,
    as_json: bool,
) -> None:
    """Check a verification run and print the result; exit code 1 where something does not follow."""
    from certify.verification.audit import VerifyAuditOptions, audit_verification

    report = audit_verification(folder, VerifyAuditOptions(model, data, data_root, trust_pickle))
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report)
    if report.mismatches:
        raise typer.Exit(1)


def _print(report: "VerifyAudit") -> None:
    from certify.audit.findings import list_indices
    from certify.cli.audit import print_mismatches

    out = console()
    if report.mismatches:
        print_mismatches(list(report.mismatches))
    for note in report.notes:
        out.print(f"note: {note}", markup=False)
    compared = f" (and in {', '.join(report.exports)})" if report.exports else ""
    verdict = f"mismatches: {len(report.mismatches)}" if report.mismatches else "no mismatch"
    out.print(
        f"{report.inputs} inputs in {report.folder}{compared}: the checker confirms {report.checked} proofs and "
        f"{report.bounds} bounds that prove nothing, the network {report.refuted} counterexamples: {verdict}.",
        markup=False,
    )
    if report.nearest:
        out.print(
            f"The network confirms {report.nearest} nearest counterexamples of a search for radii, and their distances."
        )
    if report.solver:
        out.print(
            f"{len(report.solver)} inputs rest on the solver's word alone, which leaves nothing to check, for their "
            f"verdict or for the part of their radius beyond the checked one: {list_indices(report.solver)}",
            markup=False,
        )
