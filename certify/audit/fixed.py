"""The checker of the fixed-sample-size estimator: n0 votes select a class, n fresh votes bound its probability.

Every quantity is derived again from the votes alone, by rational arithmetic and mpmath. Bounds may be weaker than the
exact ones by a relative 1e-6, the allowance for the float64 program's own rounding; they may never be stronger.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from certify.audit import fields
from certify.audit.exact import context, digits, lower_tail, upper_bound
from certify.audit.findings import AuditError, Findings
from certify.audit.folder import RawRow
from certify.audit.looks import check_looks
from certify.audit.radii import ExactLaw, conversion_factor
from certify.audit.record import check_record
from certify.audit.spec import RunSpec

SLACK = Fraction(1, 10**6)
"""Relative amount by which a recorded bound or radius may be weaker than the exact one."""


@dataclass(frozen=True)
class FixedChecker:
    """Checks the certificates of the estimator "fixed" under one law.

    Args:
        law: What is proved for the law, in exact arithmetic.
    """

    law: ExactLaw

    @property
    def description(self) -> str:
        """What is checked against, in words."""
        return (
            "exact binomial tails (rational arithmetic and mpmath, 50 digits) for the Clopper-Pearson bound, and the "
            f"{self.law.name} radius of {self.law.source} in mpmath"
        )

    def check_run(self, spec: RunSpec, found: Findings) -> None:
        """Check what `run.json` says of the estimator and the law.

        Raises:
            AuditError: If it lacks what the radii depend on, or asks for a norm in which nothing is derived here.
        """
        for key in ("n0", "n"):
            recorded = spec.estimator.get(key)
            value = fields.integer(recorded)
            if value is None or value < 1:
                raise AuditError(
                    f"run.json cannot be audited: {key} must be an integer of at least 1, got {recorded!r}"
                )
        parameters = spec.law["parameters"]
        scale = fields.number(parameters.get(self.law.parameter))
        if set(parameters) != {self.law.parameter} or scale is None or scale <= 0:
            raise AuditError(
                f"run.json cannot be audited: {self.law.name} noise must have one positive parameter, "
                f"{self.law.parameter}, got {parameters!r}"
            )
        if spec.proved_in not in self.law.radii:
            raise AuditError(
                f"the audit derives no radius for {self.law.name} noise in norm {spec.proved_in!r}; it derives: "
                f"{', '.join(sorted(self.law.radii))}"
            )
        if spec.norm not in ("l1", "l2", "linf"):
            raise AuditError(f"norm must be l1, l2 or linf to be audited, got norm={spec.norm!r}")
        mp = context()
        sigma = self.law.sigma(mp.mpf(scale))
        recorded = fields.number(spec.law.get("sigma"))
        if recorded is None or abs(mp.mpf(recorded) - sigma) > sigma * mp.mpf(10) ** -12:
            found.add(
                None,
                "sigma",
                spec.law.get("sigma"),
                f"{digits(sigma)}, from {self.law.parameter}={scale!r}",
                where="run.json",
            )

    def check(self, row: RawRow, spec: RunSpec, found: Findings) -> None:
        """Check one row of the journal; every mismatch goes to `found`."""
        certificate = check_record(row, spec, found)
        if certificate is None:
            return
        n0, n = spec.estimator["n0"], spec.estimator["n"]
        for key, value in (("n0", n0), ("n", n), ("rival_upper", None)):
            found.require_equal(row.index, key, certificate.get(key, "nothing"), value)
        counts = check_looks(row, certificate, (("select", n0), ("estimate", n)), spec.num_classes, found)
        q_upper = fields.number(certificate.get("q_upper"))
        if q_upper is None or not 0.0 <= q_upper <= 1.0:
            found.add(row.index, "q_upper", certificate.get("q_upper"), "a probability")
            return
        top = None
        if counts is not None:
            select, estimate = counts
            top = max(range(spec.num_classes), key=lambda label: (select[label], -label))
            failures = n - estimate[top]
            verdict = _judge_bound(q_upper, failures, n, spec.alpha)
            if verdict is not None:
                exact = digits(upper_bound(failures, n, spec.alpha))
                found.add(row.index, "q_upper", q_upper, f"{exact}: {verdict}")
        self._check_prediction(row.index, certificate, top, q_upper, found)
        self._check_p_lower(row.index, certificate.get("p_lower"), q_upper, found)
        self._check_radius(row.index, certificate.get("radius"), q_upper, spec, found)

    def _check_prediction(
        self, index: int, certificate: dict[str, Any], top: int | None, q_upper: float, found: Findings
    ) -> None:
        certified = q_upper < 0.5
        status = "certified" if certified else "abstained"
        if certificate.get("status") != status:
            found.add(
                index,
                "status",
                certificate.get("status"),
                f"{status}: q_upper = {q_upper!r}, and certified is q_upper < 1/2",
            )
        recorded = certificate.get("prediction", "nothing")
        if not certified:
            if recorded is not None:
                found.add(index, "prediction", recorded, "null: abstained, so no class")
        elif top is not None and not (type(recorded) is int and recorded == top):
            found.add(index, "prediction", recorded, f"{top}: the lowest class with most selection votes")

    def _check_p_lower(self, index: int, recorded: Any, q_upper: float, found: Findings) -> None:
        p_lower = fields.number(recorded)
        exact = 1 - Fraction(q_upper)
        if p_lower is None or not exact * (1 - SLACK) <= Fraction(p_lower) <= exact:
            found.add(
                index, "p_lower", recorded, f"{digits(context().mpf(1) - q_upper)} = 1 - q_upper, or just below it"
            )

    def _check_radius(self, index: int, recorded: Any, q_upper: float, spec: RunSpec, found: Findings) -> None:
        radius = fields.number(recorded)
        if not q_upper < 0.5:
            if radius is None or radius != 0.0:
                found.add(index, "radius", recorded, f"0.0: q_upper = {q_upper!r} proves no radius")
            return
        if q_upper == 0.0:
            found.add(index, "radius", recorded, "nothing: no number of votes proves q_upper = 0")
            return
        mp = context()
        exact = exact_radius(
            self.law,
            spec.law["parameters"][self.law.parameter],
            q_upper,
            proved_in=spec.proved_in,
            norm=spec.norm,
            dimension=spec.dimension,
        )
        # The last digits of `exact` are mpmath's own rounding.
        if radius is None or mp.mpf(radius) > exact * (1 + mp.mpf(10) ** -35):
            found.add(index, "radius", recorded, f"at most {digits(exact, 20)}: {self._theorem(q_upper, spec)}")
        elif mp.mpf(radius) < exact * (1 - mp.mpf(10) ** -6):
            found.add(
                index,
                "radius",
                recorded,
                f"{digits(exact, 20)}, or less by 1e-6 at most: {self._theorem(q_upper, spec)}",
            )

    def _theorem(self, q_upper: float, spec: RunSpec) -> str:
        converted = "" if spec.convert_from is None else f", converted from {spec.convert_from} to {spec.norm}"
        return f"{self.law.name}, {spec.proved_in}, q_upper = {q_upper!r}{converted}"


@lru_cache(maxsize=65536)
def _judge_bound(q_upper: float, failures: int, n: int, alpha: float) -> str | None:
    """Return what is wrong with an upper bound on the failure probability, or None."""
    mp = context()
    counted = f"{failures} failures in {n} votes at alpha = {alpha!r}"
    if failures >= n:
        # Without a single success, no q < 1 can be excluded.
        return None if q_upper == 1.0 else f"the exact bound for {counted}"
    q = Fraction(q_upper)
    tail = lower_tail(failures, n, q)
    if tail > mp.mpf(alpha):
        return f"the exact bound for {counted}; the recorded one fails with probability {digits(tail, 6)}"
    if lower_tail(failures, n, q / (1 + SLACK)) < mp.mpf(alpha):
        return f"the exact bound for {counted}; the recorded one is looser than it should be"
    return None


@lru_cache(maxsize=65536)
def exact_radius(
    law: ExactLaw, scale: float | int, q_upper: float, *, proved_in: str, norm: str, dimension: int
) -> Any:
    """Return the proved radius in `norm`, an mpmath number, for 0 < q_upper < 1/2.

    Args:
        law: The law.
        scale: Its parameter.
        q_upper: Upper bound on the failure probability.
        proved_in: Norm of the theorem.
        norm: Norm of the certificate; the radius is converted if it is another one.
        dimension: Number of coordinates.
    """
    mp = context()
    radius = law.radii[proved_in](mp.mpf(scale), mp.mpf(q_upper), dimension)
    return radius * conversion_factor(proved_in, norm, dimension)
