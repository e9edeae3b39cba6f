"""The certificate calculator behind `certify radius`."""

import math
import re
from typing import Any

from certify.errors import UsageError
from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.table import LAWS
from smoothing.radius.impossibility import radius_upper_bound
from smoothing.rounding import complement_down
from smoothing.statistics.binomial import check_alpha, failure_upper_bound
from smoothing.threat import Norm, convert_radius

ALPHA = 0.001
"""Error probability of the bound on votes, unless another is asked for."""


def calculate(
    *,
    law: SmoothingDistribution,
    norm: str,
    convert_from: str | None = None,
    p_lower: float | None = None,
    q_upper: float | None = None,
    p_upper: float | None = None,
    votes: str | None = None,
    alpha: float | None = None,
) -> dict[str, Any]:
    """Return the radius with everything that it follows from, JSON-ready.

    Args:
        law: The law of the noise.
        norm: Norm of the radius.
        convert_from: Norm to prove it in before it is converted.
        p_lower: Lower bound on the top class's probability; exactly one of `p_lower`, `q_upper` and `votes` is needed.
        q_upper: Upper bound on 1 - p.
        p_upper: Upper bound on the runner-up's probability.
        votes: "K/N": K of N fresh votes for a class that was chosen beforehand.
        alpha: Error probability of the bound on the votes, for `votes` alone; default: `ALPHA`.

    Raises:
        UsageError: If the arguments do not fit together.
        InvalidArgumentError: If a value is out of range.
        UnsupportedNormError: If no radius is proved for the norm.
    """
    target = Norm.parse(norm)
    source = target if convert_from is None else Norm.parse(convert_from)
    law.require_norm(source)
    given = [
        name
        for name, value in (("--p-lower", p_lower), ("--q-upper", q_upper), ("--votes", votes))
        if value is not None
    ]
    if len(given) != 1:
        raise UsageError(f"give exactly one of --p-lower, --q-upper and --votes, got {', '.join(given) or 'none'}")
    if alpha is not None:
        check_alpha(alpha)
        if votes is None:
            raise UsageError(
                f"--alpha is the error probability of a bound on votes, got --alpha {alpha:g} without --votes: leave it "
                f"out, since {given[0]} is a bound already"
            )
    if votes is not None:
        successes, n = parse_votes(votes)
        alpha = ALPHA if alpha is None else alpha
        q_upper = failure_upper_bound(n - successes, n, alpha)
        basis = f"{successes:,} of {n:,} votes, Clopper-Pearson, one-sided alpha = {alpha:g}"
    elif q_upper is not None:
        basis = f"1 - p <= {q_upper!r}"
    else:
        basis = f"p >= {p_lower!r}"
    if q_upper is not None:
        if not 0.0 <= q_upper <= 1.0:
            raise UsageError(f"q_upper must be in [0, 1], got q_upper={q_upper}")
        p_lower = complement_down(q_upper)
    assert p_lower is not None
    if p_upper is not None:
        basis += f", runner-up <= {p_upper!r}"
    radius = law.radius(p_lower, source, q_upper=q_upper, rival_upper=p_upper)
    method = type(law).method
    if source is not target:
        radius = convert_radius(radius, source, target, law.dimension)
        method += f"; converted from {source} to {target} by the inclusion of one ball in the other"
    limit = upper_limit(law, target, p_lower, q_upper, p_upper)
    return {
        "radius": radius if math.isfinite(radius) else "inf",
        "radius_text": f"{radius!r}",
        "upper_limit": limit if limit is None or math.isfinite(limit) else "inf",
        "norm": str(target),
        "converted_from": None if source is target else str(source),
        "law": law.name,
        "sigma": law.sigma,
        "parameters": law.parameters,
        "dimension": law.dimension,
        "p_lower": p_lower,
        "q_upper": q_upper,
        "p_upper": p_upper,
        "from": basis,
        "method": method,
        "reference": type(law).reference,
        "laws": sorted(LAWS),
    }


def upper_limit(
    law: SmoothingDistribution,
    norm: Norm,
    p_lower: float,
    q_upper: float | None = None,
    rival_upper: float | None = None,
) -> float | None:
    """Return what no additive noise of the law's sigma can exceed in `norm`; None where sigma is infinite, or in l0."""
    if law.sigma is None or norm is Norm.L0:
        return None
    return radius_upper_bound(
        p_lower, norm, sigma=law.sigma, dimension=law.dimension, q_upper=q_upper, rival_upper=rival_upper
    )


def parse_shape(text: str) -> tuple[int, ...]:
    """Read "3x32x32" or "3,32,32".

    Raises:
        UsageError: If it is something else.
    """
    parts = re.split(r"[x,]", text.strip())
    if not all(re.fullmatch(r"\s*0*[1-9][0-9]*\s*", part) for part in parts):
        raise UsageError(f"shape must be positive integers joined by x, for instance 3x32x32, got shape={text!r}")
    return tuple(int(part) for part in parts)


def parse_votes(text: str) -> tuple[int, int]:
    """Read "K/N".

    Raises:
        UsageError: If it is something else, or K is above N.
    """
    match = re.fullmatch(r"\s*([0-9][0-9_,]*)\s*/\s*([0-9][0-9_,]*)\s*", text)
    numbers = [int(re.sub("[_,]", "", part)) for part in match.groups()] if match else []
    if not numbers or numbers[0] > numbers[1] or numbers[1] < 1:
        raise UsageError(f"votes must be K/N with 0 <= K <= N and N at least 1, got votes={text!r}")
    return numbers[0], numbers[1]
