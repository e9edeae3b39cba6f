"""The certificate of one input: what was proved, and the evidence that it was proved from."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from smoothing.distributions.base import FLOAT_NOISE_CAVEAT, SmoothingDistribution
from smoothing.distributions.table import rebuild_law
from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Decision, Estimate, Look, Phase, Status
from smoothing.estimators.thresholds import Threshold
from smoothing.rounding import complement_down, sum_up
from smoothing.threat import Norm, convert_radius

_UNEVEN = 8
"""Neighbouring float64 values among which rounding may make radii uneven."""

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
        decisions: What was decided about each radius of a grid, in increasing order, where the estimator tests one; the
            radius is then the largest certified one.
        probability_slack: How much the drawn noise may differ from the law, in probability: it was added to `q_upper` (and
            `rival_upper`) before the radius was computed, or was taken off the thresholds of the grid; once, not twice.
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
    decisions: tuple[Decision, ...] = ()
    probability_slack: float = 0.0

    @property
    def invalid(self) -> int:
        """Votes with a non-finite score or a label outside the classes; they count against every class."""
        return sum(look.counts[-1] for look in self._last_looks())

    @property
    def votes(self) -> int:
        """Votes that the certificate rests on, all phases together."""
        return sum(look.n for look in self._last_looks())

    def _last_looks(self) -> tuple[Look, ...]:
        # A look is a prefix: the last one of a phase contains the others.
        return tuple({look.phase: look for look in self.looks}.values())

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
            "decisions": [{"radius": d.radius, "status": str(d.status)} for d in self.decisions],
            "probability_slack": self.probability_slack,
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
                "decisions": tuple(
                    Decision(float(e["radius"]), Status(e["status"])) for e in data.get("decisions", ())
                ),
                "probability_slack": float(data.get("probability_slack", 0.0)),
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
    probability_slack: float = 0.0,
    covers: str = FLOAT_NOISE_CAVEAT,
) -> Certificate:
    """Turn an estimate into a certificate: the only place where a radius is attached to votes.

    And the only place where the slack of the noise is added to a bound. An estimator that decided a grid of radii was given
    thresholds from which the slack had been taken off already (`smoothing.estimators.thresholds`): its radii stand as they
    are.

    Args:
        estimate: What the votes prove.
        law: The law of the theorem.
        norm: Norm of the certificate.
        index: Input key of the noise.
        seed: The run's seed.
        noise_version: How noise follows from the seed.
        precision: Arithmetic of the forward pass.
        convert_from: Prove the radius in this norm and convert it to `norm` (smaller than a radius of the law's own).
        probability_slack: `NoiseSource.probability_slack`.
        covers: `NoiseSource.covers`.

    Raises:
        UnsupportedNormError: If the law proves nothing in the norm asked for.
        InvalidArgumentError: If the slack is no probability.
    """
    proved_in = law.require_norm(norm if convert_from is None else convert_from)
    if not 0.0 <= probability_slack < 0.5:
        raise InvalidArgumentError(f"probability_slack must be in [0, 1/2), got {probability_slack}")
    status, radius, prediction = estimate.status, 0.0, None
    if estimate.decisions:
        certified = [decision.radius for decision in estimate.decisions if decision.status is Status.CERTIFIED]
        radius = certified[-1] if certified else 0.0
        prediction = estimate.prediction if certified else None
    elif status is Status.CERTIFIED:
        q_upper = min(sum_up(estimate.q_upper, probability_slack), 1.0)
        rival = estimate.rival_upper
        rival_upper = None if rival is None else min(sum_up(rival, probability_slack), q_upper)
        p_lower = complement_down(q_upper)
        if q_upper < 0.5 or (rival_upper is not None and rival_upper < p_lower):
            prediction = estimate.prediction
            radius = law.radius(p_lower, proved_in, q_upper=q_upper, rival_upper=rival_upper)
            radius = convert_radius(radius, proved_in, norm, law.dimension)
        else:
            # Proved for the drawn noise, but not for the law: what the noise may be off by decides.
            status = Status.ABSTAINED
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
        status=status,
        guarantee=GUARANTEE,
        covers=covers,
        index=index,
        looks=estimate.looks,
        law=law.describe(),
        noise_version=noise_version,
        seed=seed,
        converted_from=None if convert_from is norm else convert_from,
        precision=precision,
        decisions=estimate.decisions,
        probability_slack=probability_slack,
    )


def check_thresholds(
    thresholds: Iterable[Threshold],
    law: SmoothingDistribution,
    norm: Norm,
    *,
    probability_slack: float = 0.0,
    convert_from: Norm | None = None,
) -> None:
    """Check that a grid of radii was made for this law, norm and noise: each radius must follow from its threshold.

    Thresholds of another law, of another norm, or without the slack of the noise would turn correct tests into false
    certificates; nothing else would notice.

    Args:
        thresholds: The grid.
        law: The law of the theorem.
        norm: Norm of the certificates.
        probability_slack: `NoiseSource.probability_slack`.
        convert_from: Norm in which radii are proved, where they are converted to `norm`.

    Raises:
        InvalidArgumentError: If a radius does not follow.
    """
    proved_in = law.require_norm(norm if convert_from is None else convert_from)
    for threshold in thresholds:
        q = sum_up(threshold.q0, probability_slack)
        proved = q <= 0.5 if threshold.radius == 0.0 else False
        for _ in range(_UNEVEN):
            if proved or not 0.0 < q < 0.5:
                break
            # What is proved for a larger q is proved for this one; rounding may make neighbouring radii uneven.
            own = law.radius(complement_down(q), proved_in, q_upper=q)
            proved = convert_radius(own, proved_in, norm, law.dimension) >= threshold.radius
            q = math.nextafter(q, 1.0)
        if not proved:
            raise InvalidArgumentError(
                f"thresholds must be made for the law, norm and noise that they are used with: radius {threshold.radius} in "
                f"norm {norm} does not follow from 1 - p < {threshold.q0!r} under {law.identity}, the noise being off by up "
                f"to {probability_slack:.3g}; use smoothing.estimators.thresholds with slack=noise.probability_slack"
            )
