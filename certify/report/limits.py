"""What no additive noise could have certified from the same votes: the impossibility curve, input by input."""

import math

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from certify.report.sources import Source
from smoothing.radius.impossibility import radius_upper_bound
from smoothing.threat import Norm

LIMIT_CAVEAT = (
    "Dashed: the limit of every additive noise with the run's sigma. Each right input counts up to the largest radius that "
    "any such noise, whatever its law, could certify from the bounds on its probabilities that this run's votes give; "
    "another noise would give other votes."
)


def impossible_radii(source: Source) -> Float64[ndarray, " inputs"] | None:
    """Return, for each input, an upper bound on what any certificate could say that is told the run's bounds on p.

    It is `smoothing.radius.impossibility.radius_upper_bound` at the run's sigma, norm and dimension, and 0 where the
    prediction is wrong or absent.

    Returns:
        Radii in input units, in the order of `source.certified`; None where they make no sense: for a log (it holds no
        bounds on p), for a law of infinite sigma, and for l0.
    """
    if source.run is None:
        return None
    law = source.run.identity["law"]
    sigma, norm = law["sigma"], Norm.parse(source.run.identity["norm"])
    if sigma is None or norm is Norm.L0:
        return None
    certificates = {row.index: row.certificate for row in source.run.rows}
    chosen = [certificates[int(index)] for index in source.certified.idx]
    p = np.array([certificate.p_lower for certificate in chosen])
    q = np.array([certificate.q_upper for certificate in chosen])
    rival = np.array([q if c.rival_upper is None else c.rival_upper for c, q in zip(chosen, q, strict=True)])
    limit = radius_upper_bound(
        p, norm, sigma=float(sigma), dimension=math.prod(law["shape"]), q_upper=q, rival_upper=rival
    )
    return np.where(source.certified.correct, limit, 0.0)
