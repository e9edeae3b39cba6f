"""The checker of estimators that decide a grid of radii: every decision is derived again from the recorded looks.

Claims are nested: radius r_j is certified if, for it and every smaller radius, some look has few enough failures. For the
label (fixed before the votes) each radius has level alpha; for a class that the votes choose, level alpha (1 - q0)
(Lemma A: at most alpha over all classes together). Refutations are the mirror image at level beta.

Where tests have limits, these are read from the run folder by their hash, and their error is computed again; where they
have none ("anytime"), the mixture is integrated again at every look. Where an input has its looks, and why it has no more of
them, is derived from run.json as well.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from certify.audit import fields
from certify.audit.boundaries import METHODS, AuditedBoundary, read_boundary
from certify.audit.exact import context, digits
from certify.audit.findings import AuditError, Findings
from certify.audit.fixed import FixedChecker
from certify.audit.folder import RawRow
from certify.audit.looks import Counts, check_prefixes
from certify.audit.noise import with_slack
from certify.audit.record import check_record
from certify.audit.schedule import endless_looks, give_up_limits, is_capped_schedule
from certify.audit.spec import RunSpec
from certify.audit.stopping import check_stop
from certify.audit.ville import log_mixture

_CLOSE = 1e-8
"""log M this near to log(1 / level) may be read either way: its rounding, and the other program's allowance."""


@dataclass(frozen=True)
class Claim:
    """One radius of a grid, with what must be rejected to certify it."""

    radius: float
    q0: float


Rejects = Callable[[int, int, int, int], bool | None]
"""(radius, look number, failures, n) -> whether the look rejects; None where rounding decides."""


@dataclass(frozen=True)
class GridChecker:
    """Checks the certificates of "sequential" (`capped`) or "anytime" under one law or family.

    Args:
        law: Derives the radii of the law.
        capped: Whether the tests have stored boundaries.
    """

    law: FixedChecker
    capped: bool
    _read: dict[Path, tuple[list[AuditedBoundary | None], ...]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    @property
    def description(self) -> str:
        """What is checked against, in words."""
        tests = (
            "the stored boundaries, whose error a second dynamic programme computes"
            if self.capped
            else "the mixture of Ville's inequality, integrated again by quadrature"
        )
        return (
            f"{tests}, every decision derived again from the recorded looks; and the {self.law.law.name} radius of "
            f"{self.law.law.source}, in {self.law.law.arithmetic}"
        )

    def check_run(self, spec: RunSpec, found: Findings) -> None:
        """Check the grid, its thresholds under the law, and the boundaries.

        Raises:
            AuditError: If run.json lacks what the decisions depend on.
        """
        self.law.check_law(spec, found)
        claims = read_claims(spec)
        if spec.estimator.get("mode") not in ("label", "free"):
            raise AuditError(
                f"run.json cannot be audited: mode must be label or free, got {spec.estimator.get('mode')!r}"
            )
        beta = fields.number(spec.estimator.get("beta"))
        if beta is None or not 0.0 < beta < 1.0:
            raise AuditError(f"run.json cannot be audited: beta must be in (0, 1), got {spec.estimator.get('beta')!r}")
        for claim in claims:
            self._check_threshold(claim, spec, found)
        _check_settings(spec, self.capped)
        if self.capped:
            self._read.clear()
            self._read[spec.folder] = self._boundaries(spec, found)
            self._check_schedule(spec, found)

    def check(self, row: RawRow, spec: RunSpec, found: Findings) -> None:
        """Check one row of the journal; every mismatch goes to `found`."""
        certificate = check_record(row, spec, found)
        if certificate is None:
            return
        claims = read_claims(spec)
        decisions = _read_decisions(row.index, certificate.get("decisions"), claims, found)
        counts = check_prefixes(row, certificate, spec.num_classes, found)
        if decisions is None or counts is None:
            return
        looks = [sum(entry) for entry in counts]
        found.require_equal(row.index, "n0", certificate.get("n0", "nothing"), 0)
        found.require_equal(row.index, "n", certificate.get("n", "nothing"), looks[-1])
        found.require_equal(row.index, "rival_upper", certificate.get("rival_upper", "nothing"), None)
        schedule, rule = self._schedule(spec, len(looks))
        if tuple(looks) != schedule[: len(looks)]:
            found.add(row.index, "looks", looks, rule)
            return
        certified = sum(status == "certified" for status in decisions)
        self._check_class(row, certificate, certified, spec, found)
        tests = self._tests(spec)
        self._check_decisions(row, certificate, decisions, certified, counts, tests, spec, found)
        label = None if spec.estimator["mode"] == "free" else fields.integer((row.payload or {}).get("label"))
        if spec.estimator["mode"] == "free" or (label is not None and 0 <= label < spec.num_classes):
            radii = [claim.radius for claim in claims]
            following = schedule[len(looks)] if len(looks) < len(schedule) else None
            check_stop(row.index, counts, label, radii, *tests, self._hopeless(spec), following, found)
        self._check_numbers(row.index, certificate, decisions, certified, claims, found)

    def _check_threshold(self, claim: Claim, spec: RunSpec, found: Findings) -> None:
        q = with_slack(claim.q0, spec.slack)
        if claim.radius == 0.0:
            if q > 0.5:
                found.add(None, "threshold", claim.q0, "at most 1/2 less the noise's slack, at radius 0", "run.json")
            return
        most = context().zero if q >= 0.5 else self.law.bounds(q, spec).most
        if context().mpf(claim.radius) > most:
            found.add(
                None,
                "threshold",
                f"radius {claim.radius!r} from 1 - p < {claim.q0!r}",
                f"at most {digits(most, 20)}, by the law, the noise's slack allowed for",
                where="run.json",
            )

    def _boundaries(self, spec: RunSpec, found: Findings) -> tuple[list[AuditedBoundary | None], ...]:
        claims, free = read_claims(spec), spec.estimator["mode"] == "free"
        beta = Fraction(spec.estimator["beta"])
        result = []
        for key, side in (("boundaries", "below"), ("refutations", "above")):
            names = spec.estimator.get(key)
            if not isinstance(names, list) or len(names) != len(claims):
                raise AuditError(f"run.json cannot be audited: {key} must be {len(claims)} hashes, got {names!r}")
            result.append(
                [
                    read_boundary(
                        spec.folder,
                        name,
                        q0=claim.q0,
                        level=_level(claim, spec) if side == "below" else beta,
                        side=side,
                        method=spec.estimator["method"],
                        free=free,
                        found=found,
                    )
                    for claim, name in zip(claims, names, strict=True)
                ]
            )
        looks = {b.looks for b in (*result[0], *result[1]) if b is not None}
        if len(looks) > 1:
            found.add(None, "looks", f"{len(looks)} schedules", "one schedule for all boundaries", where="boundaries")
        return tuple(result)

    def _check_schedule(self, spec: RunSpec, found: Findings) -> None:
        """Check that boundaries have the looks that run.json gives them."""
        looks = self._boundary_looks(spec)
        ratio, cap = float(spec.estimator["ratio"]), spec.estimator["cap"]
        if looks and not is_capped_schedule(looks, ratio, cap):
            found.add(
                None,
                "schedule",
                f"ratio={ratio!r}, cap={cap}",
                f"those of the boundaries, which have {len(looks)} looks, {_ends(looks)}",
                where="run.json",
            )

    def _boundary_looks(self, spec: RunSpec) -> tuple[int, ...]:
        below, above = self._known(spec)
        return next((b.looks for b in (*below, *above) if b is not None), ())

    def _schedule(self, spec: RunSpec, taken: int) -> tuple[tuple[int, ...], str]:
        """Return the looks that a run asks for, one more than were taken where there is one, and where they are from."""
        if self.capped:
            return self._boundary_looks(spec), f"the first {taken} looks of the boundaries"
        budget, ratio = spec.estimator["budget"], float(spec.estimator["ratio"])
        looks = tuple(islice(endless_looks(ratio), taken + 1))
        within = looks if budget is None else tuple(n for n in looks if n <= budget)
        return within, f"the looks that ratio={ratio!r} and budget={budget} give, {_ends(looks)}"

    def _hopeless(self, spec: RunSpec) -> Rejects:
        """Return what gives a radius up."""
        if not self.capped:
            return lambda j, look, failures, n: False
        below, futility = self._known(spec)[0], float(spec.estimator["futility"])

        def gives_up(j: int, look: int, failures: int, n: int) -> bool | None:
            boundary = below[j]
            if boundary is None or look >= len(boundary.looks):
                return None  # the boundary is reported
            least, sure = give_up_limits(boundary.looks, max(boundary.limits), futility)[look]
            return False if failures < least else True if failures >= sure else None

        return gives_up

    def _known(self, spec: RunSpec) -> tuple[list[AuditedBoundary | None], ...]:
        """The boundaries that `check_run` has read and reported on."""
        if spec.folder not in self._read:
            self._read[spec.folder] = self._boundaries(spec, Findings())
        return self._read[spec.folder]

    def _tests(self, spec: RunSpec) -> tuple[Rejects, Rejects]:
        """Return what rejects 1 - p >= q0, and what rejects 1 - p <= q0."""
        claims = read_claims(spec)
        if self.capped:
            below, above = self._known(spec)

            def few(j: int, look: int, failures: int, n: int) -> bool | None:
                boundary = below[j]
                return boundary is not None and look < len(boundary.limits) and failures <= boundary.limits[look]

            def many(j: int, look: int, failures: int, n: int) -> bool | None:
                boundary = above[j]
                return boundary is not None and look < len(boundary.limits) and failures >= boundary.limits[look]

            return few, many
        targets = [-math.log(float(_level(claim, spec))) for claim in claims]
        against = -math.log(spec.estimator["beta"])

        def mixed(side: str, log_levels: Sequence[float]) -> Rejects:
            def rejects(j: int, look: int, failures: int, n: int) -> bool | None:
                q0 = claims[j].q0
                # Only the side of the alternatives: elsewhere the mixture is below 1.
                if (failures > q0 * n) if side == "below" else (failures < q0 * n):
                    return False
                excess = log_mixture(q0, failures, n, side) - log_levels[j]
                return None if abs(excess) < _CLOSE else excess > 0.0

            return rejects

        return mixed("below", targets), mixed("above", [against] * len(claims))

    def _check_class(
        self, row: RawRow, certificate: dict[str, Any], certified: int, spec: RunSpec, found: Findings
    ) -> None:
        prediction = certificate.get("prediction", "nothing")
        if certified == 0:
            if prediction is not None:
                found.add(row.index, "prediction", prediction, "null: nothing is certified")
            return
        if spec.estimator["mode"] == "label":
            # A class that was fixed before the votes; any other one would have been chosen by them.
            found.require_equal(row.index, "prediction", prediction, (row.payload or {}).get("label"))
        elif fields.integer(prediction) is None or not 0 <= prediction < spec.num_classes:
            found.add(row.index, "prediction", prediction, f"a class, 0..{spec.num_classes - 1}")

    def _check_decisions(
        self,
        row: RawRow,
        certificate: dict[str, Any],
        decisions: list[str],
        certified: int,
        counts: list[Counts],
        tests: tuple[Rejects, Rejects],
        spec: RunSpec,
        found: Findings,
    ) -> None:
        few, many = tests
        label = (row.payload or {}).get("label")
        free = spec.estimator["mode"] == "free"
        tested = certificate.get("prediction") if free else label
        size = len(decisions)
        sure = likely = 0
        if isinstance(tested, int) and 0 <= tested < spec.num_classes:
            sure, likely = _nested([_any(few, j, [(sum(c) - c[tested], sum(c)) for c in counts]) for j in range(size)])
        # With a class that the votes chose, a claim may have been held back; it can never be more than this.
        if certified > likely or (certified < sure and not free):
            found.add(
                row.index,
                "decisions",
                f"{certified} radii certified",
                f"{sure if sure == likely else f'{sure} to {likely}'}, by the recorded looks",
            )
        against = [
            (sum(c) - (max(c[:-1]) if free else c[label] if isinstance(label, int) else 0), sum(c)) for c in counts
        ]
        sure, likely = _nested([_any(many, j, against) for j in reversed(range(size))])
        refuted = sum(status == "refuted" for status in decisions)
        least, most = min(sure, size - certified), min(likely, size - certified)
        if not any(any(c[:-1]) for c in counts):
            # A void input, of which all votes count as invalid, refutes nothing; the answers tell which input that is.
            least = 0
        if not least <= refuted <= most:
            found.add(
                row.index,
                "decisions",
                f"{refuted} radii refuted",
                f"{least if least == most else f'{least} to {most}'}, by the recorded looks",
            )

    def _check_numbers(
        self,
        index: int,
        certificate: dict[str, Any],
        decisions: list[str],
        certified: int,
        claims: Sequence[Claim],
        found: Findings,
    ) -> None:
        q_upper = claims[certified - 1].q0 if certified else 1.0
        radius = claims[certified - 1].radius if certified else 0.0
        for key, value in (("q_upper", q_upper), ("radius", radius)):
            recorded = fields.number(certificate.get(key))
            if recorded != value:
                found.add(index, key, certificate.get(key), f"{value!r}, of the largest radius that is certified")
        p_lower = fields.number(certificate.get("p_lower"))
        exact = 1 - Fraction(q_upper)
        if p_lower is None or not exact - Fraction(1, 2**52) <= Fraction(p_lower) <= exact:
            found.add(index, "p_lower", certificate.get("p_lower"), f"{float(exact)!r} = 1 - q_upper, or just below it")
        found.require_equal(index, "status", certificate.get("status", "nothing"), decisions[0])


def read_claims(spec: RunSpec) -> list[Claim]:
    """Return the grid of radii, as run.json has it.

    Raises:
        AuditError: If it is not one: radii must increase, and what must be proved must not get weaker.
    """
    recorded = spec.estimator.get("thresholds")
    claims: list[Claim] = []
    for entry in recorded if isinstance(recorded, list) else []:
        radius, q0 = (fields.number((fields.mapping(entry) or {}).get(key)) for key in ("radius", "q0"))
        last = claims[-1] if claims else Claim(-1.0, 0.5)
        if radius is None or q0 is None or not (radius > last.radius and radius >= 0.0 and 0.0 < q0 <= last.q0):
            raise AuditError(f"run.json cannot be audited: thresholds must be nested, got {entry!r}")
        claims.append(Claim(radius, q0))
    if not claims:
        raise AuditError(f"run.json cannot be audited: thresholds must be a list of radii, got {recorded!r}")
    return claims


def _check_settings(spec: RunSpec, capped: bool) -> None:
    """Raise `AuditError` unless run.json says when a run looks, and when it gives up."""
    e = spec.estimator
    rules: dict[str, tuple[bool, str]] = {"ratio": (_within(e, "ratio", 1.0, 2.0) and e["ratio"] > 1.0, "in (1, 2]")}
    if capped:
        cap = fields.integer(e.get("cap"))
        rules["cap"] = (cap is not None and cap >= 1, "an integer of at least 1")
        rules["method"] = (e.get("method") in tuple(METHODS), f"one of {', '.join(METHODS)}")
        rules["futility"] = (_within(e, "futility", 0.0, 1.0) and e["futility"] < 1.0, "in [0, 1)")
    else:
        budget = fields.integer(e.get("budget"))
        endless = "budget" in e and e["budget"] is None
        rules["budget"] = (endless or (budget is not None and budget >= 1), "null, or an integer of at least 1")
    for key, (holds, rule) in rules.items():
        if not holds:
            raise AuditError(f"run.json cannot be audited: {key} must be {rule}, got {e.get(key)!r}")


def _within(estimator: dict[str, Any], key: str, low: float, high: float) -> bool:
    value = fields.number(estimator.get(key))
    return value is not None and low <= value <= high


def _ends(looks: Sequence[int]) -> str:
    shown = ", ".join(map(str, looks[:4]))
    return shown if len(looks) <= 5 else f"{shown}, ..., {looks[-2]}, {looks[-1]}"


def _level(claim: Claim, spec: RunSpec) -> Fraction:
    """The error that one radius may have: Lemma A where the votes choose the class."""
    share = Fraction(1) if spec.estimator["mode"] == "label" else 1 - Fraction(claim.q0)
    return Fraction(spec.alpha) * share


def _read_decisions(index: int, recorded: Any, claims: Sequence[Claim], found: Findings) -> list[str] | None:
    """Return the status of every radius, if they are those of the grid and nested: certified, undecided, refuted."""
    entries = [fields.mapping(entry) or {} for entry in recorded] if isinstance(recorded, list) else []
    radii = [fields.number(entry.get("radius")) for entry in entries]
    statuses = [fields.text(entry.get("status")) for entry in entries]
    order = {"certified": 0, "undecided": 1, "refuted": 2}
    ranks = [order.get(status or "") for status in statuses]
    known = [rank for rank in ranks if rank is not None]
    if radii != [claim.radius for claim in claims] or len(known) != len(ranks) or known != sorted(known):
        found.add(
            index,
            "decisions",
            recorded,
            "one for every radius of the grid: certified ones, then undecided ones, then refuted ones",
        )
        return None
    return [status for status in statuses if status is not None]


def _any(rejects: Rejects, j: int, looks: Sequence[tuple[int, int]]) -> bool | None:
    """Whether any look rejects; None where only rounding could say so."""
    answers = [rejects(j, look, failures, n) for look, (failures, n) in enumerate(looks)]
    return True if True in answers else None if None in answers else False


def _nested(rejected: Sequence[bool | None]) -> tuple[int, int]:
    """Number of leading rejections: those that are sure, and those that are possible."""
    sure = next((k for k, answer in enumerate(rejected) if answer is not True), len(rejected))
    possible = next((k for k, answer in enumerate(rejected) if answer is False), len(rejected))
    return sure, possible
