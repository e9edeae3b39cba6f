"""The checker of the planned estimator: the pilot names the class and n; n fresh votes bound its probability.

The bound holds for whatever class and n the pilot named, because the votes of the estimate were not looked at for either.
That n is what the pilot names is derived again from the pilot's counts alone (`certify.audit.plan`).
"""

from dataclasses import dataclass

from certify.audit import fields
from certify.audit.findings import AuditError, Findings
from certify.audit.fixed import FixedChecker, check_bound
from certify.audit.folder import RawRow
from certify.audit.looks import check_looks
from certify.audit.plan import planned_lengths
from certify.audit.record import check_record
from certify.audit.spec import RunSpec


@dataclass(frozen=True)
class PlannedChecker:
    """Checks the certificates of the estimator "planned" under one law or family.

    Args:
        law: Derives the radii of the law.
    """

    law: FixedChecker

    @property
    def description(self) -> str:
        """What is checked against, in words."""
        return f"{self.law.description}; the plan of every input from its pilot"

    def check_run(self, spec: RunSpec, found: Findings) -> None:
        """Check what `run.json` says of the estimator and the law.

        Raises:
            AuditError: If it lacks what the bounds depend on.
        """
        for key in ("pilot", "n_max"):
            value = fields.integer(spec.estimator.get(key))
            if value is None or value < 1:
                raise AuditError(
                    f"run.json cannot be audited: {key} must be an integer of at least 1, got {spec.estimator.get(key)!r}"
                )
        precision = fields.number(spec.estimator.get("precision"))
        if precision is None or not 0.0 < precision < 1.0 or spec.estimator.get("mode") not in ("label", "free"):
            raise AuditError(
                "run.json cannot be audited: precision must be in (0, 1) and mode label or free, got "
                f"{spec.estimator.get('precision')!r}, {spec.estimator.get('mode')!r}"
            )
        self.law.check_law(spec, found)

    def check(self, row: RawRow, spec: RunSpec, found: Findings) -> None:
        """Check one row of the journal; every mismatch goes to `found`."""
        certificate = check_record(row, spec, found)
        if certificate is None:
            return
        e = spec.estimator
        n = next((look.n for look in row.looks if look.phase == "estimate" and fields.integer(look.n)), 0)
        wanted = [("pilot", e["pilot"]), *([("estimate", n)] if n else [])]
        counts = check_looks(row, certificate, wanted, spec.num_classes, found)
        for key, value in (("n0", 0), ("n", n), ("rival_upper", None)):
            found.require_equal(row.index, key, certificate.get(key, "nothing"), value)
        if certificate.get("decisions", []) != []:
            found.add(row.index, "decisions", certificate["decisions"], "none: this estimator decides no grid of radii")
        q_upper = fields.number(certificate.get("q_upper"))
        if q_upper is None or not 0.0 <= q_upper <= 1.0:
            found.add(row.index, "q_upper", certificate.get("q_upper"), "a probability")
            return
        top = None
        if counts is not None:
            pilot = counts[0]
            label = (row.payload or {}).get("label")
            top = label if e["mode"] == "label" else max(range(spec.num_classes), key=lambda c: (pilot[c], -c))
            if not isinstance(top, int) or not 0 <= top < spec.num_classes:
                return
            plans = planned_lengths(e["pilot"] - pilot[top], e["pilot"], e["n_max"], float(e["precision"]), spec.alpha)
            if n not in plans:
                found.add(row.index, "n", n, f"{plans[0]}, by the pilot")
            if n:
                check_bound(row.index, "q_upper", q_upper, n - counts[1][top], n, spec.alpha, found)
            elif q_upper != 1.0:
                found.add(row.index, "q_upper", q_upper, "1.0: there was no estimate")
        chosen = "the label" if e["mode"] == "label" else "the lowest class with most votes of the pilot"
        self.law.check_claim(row.index, certificate, top, q_upper, spec, found, chosen=chosen)
