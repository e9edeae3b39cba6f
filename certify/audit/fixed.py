"""The checker of the fixed-sample-size estimator: n0 votes select a class, n fresh votes bound its probability.

Every quantity is derived again from the votes alone, by rational arithmetic and mpmath. Bounds may be weaker than the
exact ones by a relative 1e-6, the allowance for the float64 program's own rounding; they may never be stronger.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from certify.audit import fields
from certify.audit.exact import context, digits, lower_tail, upper_bound
from certify.audit.findings import AuditError, Findings
from certify.audit.folder import RawRow
from certify.audit.looks import Counts, check_looks
from certify.audit.noise import with_slack
from certify.audit.radii import Bounds, ExactLaw, conversion_factor
from certify.audit.radii_shapes import LEAST_FAILURE
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
            f"{self.law.name} radius of {self.law.source}, in {self.law.arithmetic}"
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
        if "runner_up" in spec.estimator:
            rival_alpha = fields.number(spec.estimator.get("rival_alpha"))
            if spec.estimator["runner_up"] is not True or rival_alpha is None or not 0.0 < rival_alpha < spec.alpha:
                raise AuditError(
                    "run.json cannot be audited: with runner_up there must be a rival_alpha in (0, alpha), got "
                    f"{spec.estimator['runner_up']!r}, {spec.estimator.get('rival_alpha')!r}"
                )
        self.check_law(spec, found)

    def check_law(self, spec: RunSpec, found: Findings) -> None:
        """Check what `run.json` says of the law.

        Raises:
            AuditError: If it lacks what the radii depend on, or asks for a norm in which nothing is derived here.
        """
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
        for key, value in (("n0", n0), ("n", n)):
            found.require_equal(row.index, key, certificate.get(key, "nothing"), value)
        if certificate.get("decisions", []) != []:
            found.add(row.index, "decisions", certificate["decisions"], "none: this estimator decides no grid of radii")
        counts = check_looks(row, certificate, (("select", n0), ("estimate", n)), spec.num_classes, found)
        q_upper = fields.number(certificate.get("q_upper"))
        if q_upper is None or not 0.0 <= q_upper <= 1.0:
            found.add(row.index, "q_upper", certificate.get("q_upper"), "a probability")
            return
        top = None
        if counts is not None:
            top = max(range(spec.num_classes), key=lambda label: (counts[0][label], -label))
            check_bound(row.index, "q_upper", q_upper, n - counts[1][top], n, _top_alpha(spec), found)
        rival_upper = self._check_rival(row.index, certificate, counts, top, q_upper, spec, found)
        self.check_claim(
            row.index,
            certificate,
            top,
            q_upper,
            spec,
            found,
            rival_upper=rival_upper,
            chosen="the lowest class with most selection votes",
        )

    def check_claim(
        self,
        index: int,
        certificate: dict[str, Any],
        top: int | None,
        q_upper: float,
        spec: RunSpec,
        found: Findings,
        *,
        rival_upper: float | None = None,
        chosen: str,
    ) -> None:
        """Check what a certificate makes of its bounds: status, class, p_lower and radius, the noise's slack included.

        Args:
            index: The input.
            certificate: Its certificate.
            top: The class that the bounds are about; None where it is not known.
            q_upper: Bound on 1 - p, as recorded.
            spec: What run.json promises.
            found: Receives the mismatches.
            rival_upper: Bound on the runner-up, as recorded.
            chosen: Which class it has to be, in words.
        """
        q = min(with_slack(q_upper, spec.slack), 1.0)
        rival = None if rival_upper is None else min(with_slack(rival_upper, spec.slack), q)
        leads = q < 0.5 or (rival is not None and Fraction(rival) < 1 - Fraction(q))
        self._check_prediction(index, certificate, top, leads, _proved(q, rival), chosen, found)
        self._check_p_lower(index, certificate.get("p_lower"), q_upper, found)
        if rival is None:
            self._check_radius(index, certificate.get("radius"), q, spec, found)
        else:
            self._check_radius(index, certificate.get("radius"), q, spec, found, rival_upper=rival)

    def _check_rival(
        self,
        index: int,
        certificate: dict[str, Any],
        counts: list[Counts] | None,
        top: int | None,
        q_upper: float,
        spec: RunSpec,
        found: Findings,
    ) -> float | None:
        """Check the bound on the runner-up: Clopper-Pearson at its share of alpha, for the largest count but the top's.

        Lemma B: the class was chosen before these votes, the runner-up is one fixed class, and its count is at most the
        largest; so no union over the classes is needed. It is never weaker than 1 - p.
        """
        recorded = certificate.get("rival_upper", "nothing")
        if "runner_up" not in spec.estimator:
            found.require_equal(index, "rival_upper", recorded, None)
            return None
        rival_upper = fields.number(recorded)
        if rival_upper is None or not 0.0 <= rival_upper <= q_upper:
            found.add(index, "rival_upper", recorded, f"a probability of at most q_upper = {q_upper!r}")
            return None
        if counts is not None and top is not None:
            n, alpha = spec.estimator["n"], spec.estimator["rival_alpha"]
            votes = max(count for outcome, count in enumerate(counts[1]) if outcome != top)
            if rival_upper < q_upper:
                check_bound(index, "rival_upper", rival_upper, votes, n, alpha, found)
            elif upper_bound(votes, n, alpha) * (1 + context().mpf(SLACK.numerator) / SLACK.denominator) < q_upper:
                found.add(index, "rival_upper", rival_upper, digits(upper_bound(votes, n, alpha)))
        return rival_upper

    def _check_prediction(
        self,
        index: int,
        certificate: dict[str, Any],
        top: int | None,
        leads: bool,
        proved: str,
        chosen: str,
        found: Findings,
    ) -> None:
        status = "certified" if leads else "abstained"
        if certificate.get("status") != status:
            found.add(index, "status", certificate.get("status"), f"{status}: {proved}")
        recorded = certificate.get("prediction", "nothing")
        if not leads:
            if recorded is not None:
                found.add(index, "prediction", recorded, "null: abstained, so no class")
        elif top is not None and not (type(recorded) is int and recorded == top):
            found.add(index, "prediction", recorded, f"{top}: {chosen}")

    def _check_p_lower(self, index: int, recorded: Any, q_upper: float, found: Findings) -> None:
        p_lower = fields.number(recorded)
        exact = 1 - Fraction(q_upper)
        if p_lower is None or not exact * (1 - SLACK) <= Fraction(p_lower) <= exact:
            found.add(
                index, "p_lower", recorded, f"{digits(context().mpf(1) - q_upper)} = 1 - q_upper, or just below it"
            )

    def _check_radius(
        self,
        index: int,
        recorded: Any,
        q_upper: float,
        spec: RunSpec,
        found: Findings,
        *,
        rival_upper: float | None = None,
    ) -> None:
        radius = fields.number(recorded)
        rival = q_upper if rival_upper is None else min(q_upper, rival_upper)
        if not Fraction(rival) < 1 - Fraction(q_upper):
            if radius is None or radius != 0.0:
                found.add(index, "radius", recorded, f"0.0: {_proved(q_upper, rival_upper)} proves no radius")
            return
        if rival < LEAST_FAILURE:
            found.add(index, "radius", recorded, f"nothing: no number of votes proves {_proved(q_upper, rival_upper)}")
            return
        mp = context()
        bounds = self.bounds(q_upper, spec, rival_upper)
        theorem = self._theorem(q_upper, rival_upper, spec)
        if radius is None or mp.mpf(radius) > bounds.most:
            found.add(
                index,
                "radius",
                recorded,
                f"at most {digits(bounds.most, 20)}: {theorem}",
            )
        elif mp.mpf(radius) < bounds.least:
            found.add(
                index,
                "radius",
                recorded,
                f"{digits(bounds.most, 20)}, and at least {digits(bounds.least, 20)}: {theorem}",
            )

    def bounds(self, q_upper: float, spec: RunSpec, rival_upper: float | None = None) -> Bounds:
        """Return what a radius has to lie between that is derived from `q_upper`, by the run's law and norm."""
        return radius_bounds(
            self.law,
            spec.law["parameters"][self.law.parameter],
            q_upper,
            proved_in=spec.proved_in,
            norm=spec.norm,
            dimension=spec.dimension,
            rival_upper=rival_upper,
        )

    def _theorem(self, q_upper: float, rival_upper: float | None, spec: RunSpec) -> str:
        converted = "" if spec.convert_from is None else f", converted from {spec.convert_from} to {spec.norm}"
        return f"{self.law.name}, {spec.proved_in}, {_proved(q_upper, rival_upper)}{converted}"


def _proved(q_upper: float, rival_upper: float | None) -> str:
    return f"q_upper = {q_upper!r}" + ("" if rival_upper is None else f", rival_upper = {rival_upper!r}")


def check_bound(
    index: int, rule: str, recorded: float, count: int, n: int, alpha: float | int, found: Findings
) -> None:
    """Check a Clopper-Pearson upper bound on the probability of what `count` of n votes were."""
    verdict = _judge_bound(recorded, count, n, alpha)
    if verdict is not None:
        found.add(index, rule, recorded, f"{digits(upper_bound(count, n, alpha))}: {verdict}")


def _top_alpha(spec: RunSpec) -> float:
    """The error probability of the top class's bound: alpha, less the share of the runner-up's."""
    if "runner_up" not in spec.estimator:
        return spec.alpha
    exact = Fraction(spec.alpha) - Fraction(spec.estimator["rival_alpha"])
    # Rounded down: the shares must not add up to more than alpha.
    share = float(exact)
    return share if Fraction(share) <= exact else math.nextafter(share, 0.0)


@lru_cache(maxsize=65536)
def _judge_bound(q_upper: float, failures: int, n: int, alpha: float | int) -> str | None:
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
def radius_bounds(
    law: ExactLaw,
    scale: float | int,
    q_upper: float,
    *,
    proved_in: str,
    norm: str,
    dimension: int,
    rival_upper: float | None = None,
) -> Bounds:
    """Return what a recorded radius in `norm` has to lie between, mpmath numbers.

    Args:
        law: The law.
        scale: Its parameter.
        q_upper: Upper bound on the failure probability, above 0.
        proved_in: Norm of the theorem.
        norm: Norm of the certificate; the radius is converted if it is another one.
        dimension: Number of coordinates.
        rival_upper: Upper bound on the runner-up's probability, above 0; None: all of the failure probability.
    """
    bounds = law.radius(q_upper, proved_in, scale=scale, dimension=dimension, rival_upper=rival_upper)
    factor = conversion_factor(proved_in, norm, dimension)
    return Bounds(bounds.least * factor, bounds.most * factor)
