"""The certificate of one input: what was proved, and the evidence that it was proved from."""

import math
from dataclasses import dataclass
from typing import Any

from smoothing.distributions.base import FLOAT_NOISE_CAVEAT, SmoothingDistribution
from smoothing.distributions.table import rebuild_law
from smoothing.estimators.base import Estimate, Look, Phase, Status
from smoothing.threat import Norm, convert_radius

GUARANTEE = (
    "with probability at least 1 - alpha over the noise, g(x + v) = prediction for every v with ||v|| <= radius, where "
    "g(x) = argmax_c P(f(x + z) = c), z follows the law, and f is the base classifier at the recorded precision"
)


@dataclass(frozen=True)
class Certificate:
    """A proved statement about one input, with everything needed to derive it again.

    Attributes:
        prediction: Class of the smoothed classifier; None when abstained, and then `radius` is 0.0.
        radius: Certified radius in `norm`, input units, float64, rounded down.
        norm: Norm of the perturbation.
        p_lower: Lower confidence bound on the top class's probability.
        q_upper: Upper confidence bound on 1 - p; the radius is computed from it.
        rival_upper: Upper bound on the runner-up's probability, None where it is just 1 - p.
        alpha: One-sided error probability of this certificate.
        n0: Selection votes.
        n: Estimation votes.
        status: See `Status`.
        guarantee: The statement in words.
        covers: What the statement does not cover.
        index: Input key of the noise.
        looks: The raw votes at each look; the last count is the outcome "invalid".
        law: Description of the law, `SmoothingDistribution.describe`.
        noise_version: How noise follows from the seed.
        seed: The run's seed.
        converted_from: Norm in which the radius was proved, where it was converted; None otherwise.
        precision: Arithmetic of the forward pass: the certified f is the classifier at this precision.
        invalid: Votes that were invalid, over all looks.
    """

    prediction: int | None
    radius: float
    norm: Norm
    p_lower: float
    q_upper: float
    rival_upper: float | None
    alpha: float
    n0: int
    n: int
    status: Status
    guarantee: str
    covers: str
    index: int
    looks: tuple[Look, ...]
    law: dict[str, Any]
    noise_version: str
    seed: int
    converted_from: Norm | None = None
    precision: str = "fp32"

    @property
    def invalid(self) -> int:
        """Votes with a non-finite score or a label outside the classes; they count against every class."""
        return sum(look.counts[-1] for look in self.looks)

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate as JSON-ready data; floats survive a JSON round trip exactly."""
        return {
            "prediction": self.prediction,
            "radius": _number(self.radius),
            "norm": str(self.norm),
            "p_lower": self.p_lower,
            "q_upper": self.q_upper,
            "rival_upper": self.rival_upper,
            "alpha": self.alpha,
            "n0": self.n0,
            "n": self.n,
            "status": str(self.status),
            "guarantee": self.guarantee,
            "covers": self.covers,
            "index": self.index,
            "looks": [{"phase": str(look.phase), "n": look.n, "counts": list(look.counts)} for look in self.looks],
            "law": self.law,
            "noise_version": self.noise_version,
            "seed": self.seed,
            "converted_from": None if self.converted_from is None else str(self.converted_from),
            "precision": self.precision,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Certificate":
        """Read what `to_dict` wrote."""
        looks = tuple(Look(Phase(e["phase"]), int(e["n"]), tuple(map(int, e["counts"]))) for e in data["looks"])
        source = data.get("converted_from")
        return cls(
            **{
                **data,
                "radius": float(data["radius"]),
                "norm": Norm(data["norm"]),
                "status": Status(data["status"]),
                "looks": looks,
                "converted_from": None if source is None else Norm(source),
            }
        )

    def rebuild_law(self) -> SmoothingDistribution:
        """Return the law that the certificate names."""
        return rebuild_law(self.law)


def _number(value: float) -> float | str:
    """JSON has no infinity; "inf" is read back by `float`."""
    return value if math.isfinite(value) else str(value)


def issue_certificate(
    estimate: Estimate,
    law: SmoothingDistribution,
    norm: Norm,
    *,
    index: int,
    seed: int,
    noise_version: str,
    precision: str = "fp32",
    convert_from: Norm | None = None,
) -> Certificate:
    """Turn an estimate into a certificate: the only place where a radius is attached to votes.

    Args:
        estimate: What the votes prove.
        law: The law that the noise was drawn from.
        norm: Norm of the certificate.
        index: Input key of the noise.
        seed: The run's seed.
        noise_version: How noise follows from the seed.
        precision: Arithmetic of the forward pass.
        convert_from: Prove the radius in this norm and convert it to `norm` (smaller than a radius of the law's own).

    Raises:
        UnsupportedNormError: If the law proves nothing in the norm asked for.
    """
    proved_in = law.require_norm(norm if convert_from is None else convert_from)
    radius, prediction = 0.0, None
    if estimate.status is Status.CERTIFIED:
        prediction = estimate.prediction
        radius = law.radius(estimate.p_lower, proved_in, q_upper=estimate.q_upper, rival_upper=estimate.rival_upper)
        radius = convert_radius(radius, proved_in, norm, law.dimension)
    covers = FLOAT_NOISE_CAVEAT
    if convert_from is not None and convert_from is not norm:
        covers += f"; the {norm} radius is converted from {convert_from}, by the inclusion of one ball in the other"
    by_phase = {look.phase: look.n for look in estimate.looks}
    return Certificate(
        prediction=prediction,
        radius=radius,
        norm=norm,
        p_lower=estimate.p_lower,
        q_upper=estimate.q_upper,
        rival_upper=estimate.rival_upper,
        alpha=estimate.alpha,
        n0=by_phase.get(Phase.SELECT, 0),
        n=by_phase.get(Phase.ESTIMATE, 0),
        status=estimate.status,
        guarantee=GUARANTEE,
        covers=covers,
        index=index,
        looks=estimate.looks,
        law=law.describe(),
        noise_version=noise_version,
        seed=seed,
        converted_from=None if convert_from is norm else convert_from,
        precision=precision,
    )
