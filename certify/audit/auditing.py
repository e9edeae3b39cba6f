"""The audit of a run folder: every certificate, every export, and what is missing."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certify.audit.answers import check_answers
from certify.audit.exports import check_exports
from certify.audit.extensions import check_extensions
from certify.audit.findings import AuditError, Findings, Mismatch, list_indices
from certify.audit.folder import RawRun, read_folder
from certify.audit.noise import check_noise_claims
from certify.audit.settings import check_settings
from certify.audit.spec import RunSpec, read_spec
from certify.audit.table import find_checker


@dataclass(frozen=True)
class AuditReport:
    """What was checked, by what, and what was found.

    Attributes:
        run: The folder as it stands.
        spec: What `run.json` promises.
        checked: Number of certificates that were derived again.
        checker: What they were checked against, in words.
        exports: Names of the exports that were compared with the journal.
        mismatches: Everything that does not follow from the votes.
        notes: Remarks that are no faults: a partial run, exports that are not there.
    """

    run: RawRun
    spec: RunSpec
    checked: int
    checker: str
    exports: tuple[str, ...]
    mismatches: tuple[Mismatch, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "folder": str(self.run.folder),
            "kind": self.spec.kind,
            "estimator": self.spec.estimator_name,
            "law": self.spec.law_name,
            "norm": self.spec.norm,
            "alpha": self.spec.alpha,
            "alpha_all": min(1.0, self.spec.alpha * self.checked),
            "checked": self.checked,
            "planned": len(set(self.spec.planned)),
            "checked_by": self.checker,
            "exports": list(self.exports),
            "notes": list(self.notes),
            "mismatches": [mismatch.to_dict() for mismatch in self.mismatches],
        }


def audit_folder(folder: Path) -> AuditReport:
    """Derive every certificate of a run folder again from its recorded votes.

    Args:
        folder: A run folder, or the folder of one shard.

    Raises:
        AuditError: If the folder cannot be read, nothing can audit this kind of run, or it holds no certificate:
            what was not checked has not passed.
    """
    run = read_folder(folder)
    spec = read_spec(run)
    checker = find_checker(spec)
    if not run.rows:
        raise AuditError(f"{folder} holds no certificate yet, so that there is nothing to audit")
    found = Findings()
    check_noise_claims(spec, run.config["identity"].get("model_digest"), found)
    check_settings(run.config, spec, found)
    checker.check_run(spec, found)
    check_extensions(spec, found)
    for index, times in Counter(row.index for row in run.rows).items():
        if times > 1:
            found.add(index, "duplicate row", f"{times} rows", "one certificate for every input")
    for row in run.rows:
        checker.check(row, spec, found)
    check_answers(run, found)
    missing = set(spec.planned) - {row.index for row in run.rows}
    exports = check_exports(run, found, partial=bool(missing))
    _note_gaps(run, spec, missing, found)
    return AuditReport(
        run=run,
        spec=spec,
        checked=len(run.rows),
        checker=checker.description,
        exports=tuple(exports),
        mismatches=tuple(found.mismatches),
        notes=tuple(found.notes),
    )


def _note_gaps(run: RawRun, spec: RunSpec, missing: set[int], found: Findings) -> None:
    shard = run.config["settings"].get("shard")
    if shard is not None:
        found.note(f"this is one shard of the run, {shard!r} (position, number of shards), and not the whole")
    if missing:
        found.note(
            f"partial: {len(missing)} of {len(set(spec.planned))} planned inputs have no certificate "
            f"({list_indices(missing)})"
        )
    if run.unfinished:
        found.note(
            f"incomplete: {len(run.unfinished)} inputs have votes but no certificate ({list_indices(run.unfinished)})"
        )
