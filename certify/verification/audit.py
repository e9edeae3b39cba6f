"""The audit of a verification run: every bound is evaluated again from its recorded slopes by the small checker.

What the checker proves, what rests on a solver's word, and what a counterexample refutes are counted apart: a mixed-integer
program leaves nothing behind that could be checked.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy import ndarray

from certify.audit import fields
from certify.audit.findings import AuditError, Findings, Mismatch, list_indices
from certify.audit.folder import RawRow, RawRun, read_folder
from certify.audit.identity import check_digest, check_transform
from certify.errors import CertifyError
from certify.verification.arrays import POINT as POINT_ARRAY
from certify.verification.arrays import certificate_of, read_arrays
from certify.verification.audit_exports import check_verify_exports
from certify.verification.confirm import confirm_certificate, confirm_point, distance_up
from certify.verification.open_folder import Opened, open_run
from certify.verification.plan import KIND
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
    Claim,
    VerifyRow,
)
from smoothing.errors import InvalidArgumentError

TOLERANCE = 1e-9
"""By how much a margin may exceed the checker's own (relative to its size, at least 1): the same checker wrote it, and
only a library that sums in another order moves it."""


@dataclass(frozen=True)
class VerifyAuditOptions:
    """Where model and data are now; None for where `run.json` says.

    Attributes:
        model: MODEL, with the recorded content.
        data: Data set, with the recorded content.
        data_root: Folder of the data sets.
        trust_pickle: Unpickle model files that need it.
    """

    model: str | None = None
    data: str | None = None
    data_root: Path | None = None
    trust_pickle: bool = False


@dataclass(frozen=True)
class VerifyAudit:
    """What was checked and what was found.

    Attributes:
        folder: The run folder.
        inputs: Rows of the journal.
        planned: How many inputs were asked for.
        checked: Proofs that the checker confirms.
        bounds: Bounds that prove nothing, and are confirmed.
        refuted: Counterexamples that the original network confirms.
        solver: Inputs whose proof rests on a solver's word alone, which nobody can check.
        exports: Names of the exports that were compared with the journal.
        mismatches: Everything that does not follow.
        notes: Remarks that are no faults.
    """

    folder: Path
    inputs: int
    planned: int
    checked: int
    bounds: int
    refuted: int
    solver: tuple[int, ...]
    exports: tuple[str, ...]
    mismatches: tuple[Mismatch, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "folder": str(self.folder),
            "kind": KIND,
            "inputs": self.inputs,
            "planned": self.planned,
            "checked": self.checked,
            "bounds": self.bounds,
            "refuted": self.refuted,
            "resting_on_the_solver": list(self.solver),
            "checked_by": "the checker (float64, rounded outwards) and the original network",
            "exports": list(self.exports),
            "notes": list(self.notes),
            "mismatches": [mismatch.to_dict() for mismatch in self.mismatches],
            "passed": not self.mismatches,
        }


def audit_verification(folder: Path, options: VerifyAuditOptions | None = None) -> VerifyAudit:
    """Check every row of a verification run against the network, the inputs and the recorded slopes.

    Raises:
        AuditError: If the folder cannot be read or holds no row, or model or data are not the recorded ones.
        ModelError: If the model cannot be loaded.
        DatasetError: If the data cannot be loaded.
    """
    run = read_folder(folder)
    if run.kind != KIND or run.config.get("kind") != KIND:
        raise AuditError(
            f"run.json and the journal must be of kind {KIND!r}, got {run.config.get('kind')!r}, {run.kind!r}"
        )
    if not run.rows:
        raise AuditError(f"{folder} holds no verified input yet, so that there is nothing to audit")
    identity = fields.mapping(run.config.get("identity"))
    settings = fields.mapping(run.config.get("settings"))
    planned = None if settings is None else fields.integers(settings.get("indices"))
    if identity is None or settings is None or planned is None:
        raise AuditError(f"{folder}/run.json cannot be audited: it must hold identity, settings and a list of inputs")
    asked = options or VerifyAuditOptions()
    try:
        opened = open_run(
            run.config,
            model=asked.model,
            data=asked.data,
            data_root=asked.data_root,
            trust_pickle=asked.trust_pickle,
        )
    except (KeyError, TypeError) as error:
        raise AuditError(f"{folder}/run.json cannot be audited: {error!r} is missing or of a wrong type") from None
    _check_identity(identity, opened)
    found = Findings()
    audit = _Audit(run, opened, found)
    rows = [row for raw in run.rows if (row := audit.check(raw)) is not None]
    missing = set(planned) - {raw.index for raw in run.rows}
    if missing and not (opened.is_file and audit.refuted):
        found.note(
            f"partial: {len(missing)} of {len(set(planned))} planned inputs are missing ({list_indices(missing)})"
        )
    exports = check_verify_exports(folder, run.config, rows, found, partial=bool(missing))
    return VerifyAudit(
        folder=folder,
        inputs=len(run.rows),
        planned=len(set(planned)),
        checked=audit.checked,
        bounds=audit.bounds,
        refuted=audit.refuted,
        solver=tuple(audit.solver),
        exports=tuple(exports),
        mismatches=tuple(found.mismatches),
        notes=tuple(found.notes),
    )


def _check_identity(identity: dict[str, Any], opened: Opened) -> None:
    check_digest("model", identity.get("model_digest"), opened.network.digest, "--model")
    check_digest("network", identity.get("graph_digest"), opened.network.graph.digest, "--model")
    here = opened.subject.identity()
    if opened.is_file:
        check_digest("VNN-LIB file", identity.get("vnnlib_sha256"), here["vnnlib_sha256"], "its recorded path")
        return
    check_digest("data", identity.get("data_digest"), here["data_digest"], "--data and --data-root")
    check_transform(identity, opened.network.transform)


class _Audit:
    def __init__(self, run: RawRun, opened: Opened, found: Findings) -> None:
        self.run, self.opened, self.found = run, opened, found
        self.checked = self.bounds = self.refuted = 0
        self.solver: list[int] = []

    def check(self, raw: RawRow) -> VerifyRow | None:
        index, subject = raw.index, self.opened.subject
        try:
            if raw.payload is None or raw.status != "done":
                raise ValueError("a finished row with a JSON object was expected")
            row = VerifyRow.from_payload(index, raw.payload)
        except (KeyError, TypeError, ValueError) as error:
            self.found.add(index, "row", raw.payload, f"cannot be read: {error!r}")
            return None
        if not 0 <= index < len(subject):
            self.found.add(index, "input", index, f"there are {len(subject)} inputs")
            return row
        self.found.require_equal(index, "input_sha256", row.input_sha256, subject.digest(index))
        self.found.require_equal(index, "label", row.label, subject.label(index))
        self.found.require_equal(index, "predict", row.predict, subject.predict(index))
        right = subject.predict(index) == subject.label(index) != -1
        if right is (row.status == MISCLASSIFIED):
            self.found.add(index, "status", row.status, "misclassified where, and only where, the prediction is wrong")
        arrays = self._arrays(row)
        for claim in row.claims:
            self._claim(row, claim, arrays)
        self._status(row)
        return row

    def _arrays(self, row: VerifyRow) -> dict[str, ndarray]:
        if row.arrays_sha256 is None:
            return {}
        try:
            return read_arrays(self.run.folder, row.index, row.arrays_sha256)
        except CertifyError as error:
            self.found.add(row.index, "arrays", row.arrays_sha256, str(error), "certificates")
            return {}

    def _claim(self, row: VerifyRow, claim: Claim, arrays: dict[str, ndarray]) -> None:
        index, opened = row.index, self.opened
        if claim.method not in opened.methods:
            self.found.add(index, "method", claim.method, f"one of {', '.join(opened.methods)}")
        proved = claim.status == VERIFIED
        allowed = {
            CERTIFICATE: (VERIFIED, UNKNOWN, TIMEOUT),
            SOLVER: (VERIFIED,),
            POINT: (FALSIFIED,),
            NOTHING: (UNKNOWN, TIMEOUT, MISCLASSIFIED),
        }
        if claim.status not in allowed.get(claim.rests_on, ()):
            self.found.add(index, "status", claim.status, f"does not go with what it rests on, {claim.rests_on!r}")
            return
        radius_fits = (0 < claim.radius <= opened.eps) if opened.search else claim.radius == opened.eps
        if not (radius_fits if proved else claim.radius == 0.0):
            asked = f"at most {opened.eps!r}" if opened.search else repr(opened.eps)
            self.found.add(index, "radius", claim.radius, f"{asked} where proved, 0.0 elsewhere")
            return
        if claim.rests_on == CERTIFICATE:
            self._slopes(index, claim, arrays)
        elif claim.rests_on == POINT:
            self._point(row, arrays)
        elif claim.rests_on == SOLVER and claim.method != "milp":
            self.found.add(index, "rests_on", claim.method, "only milp may rest on a solver's word")

    def _slopes(self, index: int, claim: Claim, arrays: dict[str, ndarray]) -> None:
        proved = claim.status == VERIFIED
        if claim.certificate is None:
            self.found.add(index, "certificate", None, "slopes that the bound can be evaluated from")
            return
        try:
            certificate = certificate_of(arrays, claim.certificate)
        except InvalidArgumentError as error:
            self.found.add(index, "certificate", claim.certificate, str(error), "certificates")
            return
        question = self.opened.subject.question(index, claim.radius if proved else self.opened.eps)
        confirmed = confirm_certificate(self.opened.network, question, certificate)
        if proved and not confirmed.proved:
            self.found.add(
                index, f"proof by {claim.method}", claim.radius, f"the checker's bound is {confirmed.margin}"
            )
            return
        if claim.margin is not None and (
            confirmed.margin is None or claim.margin > confirmed.margin + TOLERANCE * max(1.0, abs(confirmed.margin))
        ):
            self.found.add(index, f"margin by {claim.method}", claim.margin, confirmed.margin)
            return
        self.checked += proved
        self.bounds += not proved

    def _point(self, row: VerifyRow, arrays: dict[str, ndarray]) -> None:
        question, point = self.opened.subject.question(row.index, self.opened.eps), arrays.get(POINT_ARRAY)
        if point is None or not confirm_point(self.opened.network, question, point):
            self.found.add(row.index, "counterexample", "falsified", "no point of the set that the network confirms")
            return
        self.refuted += 1
        norm = self.opened.subject.norm
        if norm is not None and not self.opened.search:
            self.found.require_equal(row.index, "attack_radius", row.attack_radius, distance_up(question, point, norm))

    def _status(self, row: VerifyRow) -> None:
        proofs = {claim.rests_on for claim in row.claims if claim.status == VERIFIED}
        refuted = any(claim.status == FALSIFIED for claim in row.claims)
        if proofs and refuted:
            self.found.add(row.index, "status", row.status, "both proved and refuted: one of them is wrong")
        follows = (row.status == VERIFIED) == bool(proofs) and (row.status == FALSIFIED) == refuted
        if not follows:
            self.found.add(row.index, "status", row.status, "does not follow from the claims")
        if proofs == {SOLVER}:
            self.solver.append(row.index)
        elif SOLVER in proofs:
            by_slopes, by_solver = row.radius((CERTIFICATE,)), row.radius((SOLVER,))
            if by_solver > by_slopes:
                self.solver.append(row.index)
