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
from certify.verification.arrays import certificate_of, multipliers_of, read_arrays
from certify.verification.audit_exports import check_verify_exports
from certify.verification.audit_rows import row_faults
from certify.verification.confirm import LipschitzChecker, confirm_certificate, confirm_point, distance_up
from certify.verification.methods import LIPSCHITZ
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
from smoothing.errors import InvalidArgumentError, SmoothingError
from smoothing.threat import Norm
from verify.lipschitz.proofs import margin_at, radius_of

TOLERANCE = 1e-9
"""By how much a margin may exceed the checker's own (relative to its size, at least 1): the same checker wrote it, and
only a library that sums in another order moves it."""

WITH_INTERVALS = ("ibp", "crown-ibp", "lp-all")
"""Methods whose boxes start from interval propagation even as published."""


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
        nearest: Distances of nearest counterexamples that the original network confirms, in a search for radii.
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
    nearest: int
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
            "nearest": self.nearest,
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
    identity = fields.mapping(run.config.get("identity"))
    settings = fields.mapping(run.config.get("settings"))
    planned = None if settings is None else fields.integers(settings.get("indices"))
    # A file whose assertions contradict each other has no boxes: what is read again is the file.
    if not run.rows and planned != ():
        raise AuditError(f"{folder} holds no verified input yet, so that there is nothing to audit")
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
    if not planned and len(opened.subject):
        raise AuditError(f"{folder}/run.json plans nothing, but there are {len(opened.subject)} questions to answer")
    found = Findings()
    audit = _Audit(run, opened, found)
    rows = [row for raw in run.rows if (row := audit.check(raw)) is not None]
    missing = set(planned) - {raw.index for raw in run.rows}
    if missing and not (opened.is_file and audit.refuted):
        found.note(
            f"partial: {len(missing)} of {len(set(planned))} planned inputs are missing ({list_indices(missing)})"
        )
    if settings.get("shard") is not None:
        found.note(
            f"this is one shard of the run, {settings['shard']!r} (position, number of shards), and not the whole"
        )
    if audit.unseen:
        found.note(
            f"{len(audit.unseen)} attack distances have no stored point, so that nobody can check them "
            f"({list_indices(audit.unseen)})"
        )
    exports = check_verify_exports(folder, run.config, rows, found, partial=bool(missing))
    return VerifyAudit(
        folder=folder,
        inputs=len(run.rows),
        planned=len(set(planned)),
        checked=audit.checked,
        bounds=audit.bounds,
        refuted=audit.refuted,
        nearest=audit.nearest,
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
        self.checked = self.bounds = self.refuted = self.nearest = 0
        self.lipschitz = LipschitzChecker(opened.network)
        self.solver: list[int] = []
        self.unseen: list[int] = []

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
        if any(claim.rests_on == POINT for claim in row.claims):
            self._point(row, arrays)
        elif self.opened.search and row.attack_radius is not None and row.status != MISCLASSIFIED:
            self._nearest(row, arrays, row.attack_radius)
        self._status(row)
        for rule, recorded, expected in row_faults(row, arrays, self.opened):
            self.found.add(index, rule, recorded, expected)
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
        if claim.rests_on == CERTIFICATE and claim.certificate in LIPSCHITZ:
            self._constants(row, claim, arrays)
        elif claim.rests_on == CERTIFICATE:
            self._slopes(index, claim, arrays)
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
        if self.opened.pure and (
            claim.certificate != claim.method
            or certificate.intervals is not (claim.method in ("ibp", "crown-ibp", "lp-all"))
        ):
            self.found.add(
                index,
                f"pure {claim.method}",
                claim.certificate,
                "the method's own derivation, intersected with no other",
            )
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

    def _constants(self, row: VerifyRow, claim: Claim, arrays: dict[str, ndarray]) -> None:
        """A radius from global Lipschitz constants: they are proved again from the multipliers, and the margin beside."""
        index, name = row.index, str(claim.certificate)
        if not self.opened.search or self.opened.subject.norm is not Norm.L2 or row.label is None or row.label < 0:
            self.found.add(index, "certificate", name, "a search for l2 radii of a label, which a constant can prove")
            return
        if self.opened.pure and claim.method != name:
            self.found.add(
                index, f"pure {claim.method}", name, "the method's own derivation, intersected with no other"
            )
            return
        try:
            constants = self.lipschitz.constants(name, row.label, multipliers_of(arrays, name))
        except SmoothingError as error:
            self.found.add(index, "certificate", name, str(error), "certificates")
            return
        margins = self.lipschitz.margins(self.opened.subject.question(index, 0.0), row.label)
        radius = radius_of(margins, constants)
        if claim.radius > radius:
            self.found.add(index, f"proof by {claim.method}", claim.radius, f"the constants give the radius {radius!r}")
            return
        margin = margin_at(margins, constants, claim.radius)
        if claim.margin is not None and claim.margin > margin + TOLERANCE * max(1.0, abs(margin)):
            self.found.add(index, f"margin by {claim.method}", claim.margin, margin)
            return
        self.checked += 1

    def _point(self, row: VerifyRow, arrays: dict[str, ndarray]) -> None:
        question, point = self.opened.subject.question(row.index, self.opened.eps), arrays.get(POINT_ARRAY)
        if point is None or not confirm_point(self.opened.network, question, point):
            self.found.add(row.index, "counterexample", "falsified", "no point of the set that the network confirms")
            return
        self.refuted += 1
        norm = self.opened.subject.norm
        if norm is not None and not self.opened.search:
            self.found.require_equal(row.index, "attack_radius", row.attack_radius, distance_up(question, point, norm))

    def _nearest(self, row: VerifyRow, arrays: dict[str, ndarray], claimed: float) -> None:
        """A search for radii keeps the nearest counterexample: no proof may reach as far as it."""
        reach = row.radius((CERTIFICATE, SOLVER))
        if claimed <= reach:
            self.found.add(row.index, "attack_radius", claimed, f"more than what is proved, {reach!r}")
        point = arrays.get(POINT_ARRAY)
        if point is None:
            self.unseen.append(row.index)
            return
        question, norm = self.opened.subject.question(row.index, self.opened.eps), self.opened.subject.norm
        if norm is None or not confirm_point(self.opened.network, question, point):
            self.found.add(row.index, "counterexample", claimed, "no point of the set that the network confirms")
            return
        distance = distance_up(question, point, norm)
        if claimed != distance:
            self.found.add(row.index, "attack_radius", claimed, distance)
            return
        self.nearest += 1

    def _status(self, row: VerifyRow) -> None:
        proofs = {claim.rests_on for claim in row.claims if claim.status == VERIFIED}
        refuted = any(claim.status == FALSIFIED for claim in row.claims)
        if proofs and refuted:
            self.found.add(row.index, "status", row.status, "both proved and refuted: one of them is wrong")
        if proofs == {SOLVER}:
            self.solver.append(row.index)
        elif SOLVER in proofs:
            by_slopes, by_solver = row.radius((CERTIFICATE,)), row.radius((SOLVER,))
            if by_solver > by_slopes:
                self.solver.append(row.index)
