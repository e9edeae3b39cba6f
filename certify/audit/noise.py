"""What `run.json` says of how the noise was drawn: what it may be off by must be allowed for."""

import math
from fractions import Fraction

from certify.audit import fields
from certify.audit.exact import context, digits
from certify.audit.findings import AuditError, Findings
from certify.audit.integer import TAILS, coordinate_variation
from certify.audit.spec import RunSpec

FLOATING, INTEGER = "torch-block-v1", "philox-int-v1"
_ALLOWANCE = 1e-6
"""Relative amount by which a recorded slack may be larger than needed."""

_NEGLIGIBLE = -30
"""Power of ten that a recorded slack may be larger than needed by besides: noise of a small fraction of a step is next to
never off, and a bound on how seldom cannot follow it down to nothing."""


def check_noise_claims(spec: RunSpec, model_digest: object, found: Findings) -> None:
    """Check the slack of the noise, and that its key names this model.

    Args:
        spec: What run.json promises.
        model_digest: The model's digest, by run.json.
        found: Receives the mismatches.

    Raises:
        AuditError: If a parameter of the law is missing that the slack depends on.
    """
    if spec.noise_version == FLOATING:
        found.require_equal(None, "probability_slack", spec.slack, 0.0, where="run.json")
        return
    if spec.noise_version != INTEGER:
        found.add(None, "noise_version", spec.noise_version, f"{FLOATING} or {INTEGER}", where="run.json")
        return
    grid = fields.integer(spec.noise.get("grid"))
    if grid is None or not 1 <= grid <= 2**16:
        # Without the grid nothing says what the noise may be off by.
        found.add(None, "noise.grid", spec.noise.get("grid"), "steps per unit, 1..65536", where="run.json")
        return
    if spec.law_name not in TAILS:
        raise AuditError(f"noise version {INTEGER} is for {', '.join(TAILS)} noise, got {spec.law_name!r}")
    name = TAILS[spec.law_name][0]
    parameter = fields.number(spec.law["parameters"].get(name))
    if parameter is None or parameter <= 0:
        raise AuditError(f"run.json cannot be audited: {name} must be positive, got {parameter!r}")
    found.require_equal(None, "noise.version", spec.noise.get("version"), spec.noise_version, where="run.json")
    found.require_equal(None, "noise.model_digest", spec.noise.get("model_digest"), model_digest, where="run.json")
    exact = coordinate_variation(spec.law_name, parameter, grid) * spec.dimension
    recorded = context().mpf(spec.slack)
    if recorded < exact * (1 - context().mpf(10) ** -20):
        found.add(
            None, "probability_slack", spec.slack, f"at least {digits(exact)}: d times the total variation", "run.json"
        )
    elif recorded > exact * (1 + context().mpf(_ALLOWANCE)) + context().mpf(10) ** _NEGLIGIBLE:
        found.add(None, "probability_slack", spec.slack, f"{digits(exact)}, d times the total variation", "run.json")


def with_slack(bound: float, slack: float) -> float:
    """Return the smallest float64 that is at least the sum of a bound and the slack."""
    total = bound + slack
    exact = Fraction(bound) + Fraction(slack)
    return total if Fraction(total) >= exact else math.nextafter(total, math.inf)
