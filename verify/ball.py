"""The set of inputs around one input for which a property is claimed."""

import math
from dataclasses import KW_ONLY, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from smoothing.errors import InvalidArgumentError
from smoothing.threat import Norm, ThreatModel
from verify.region import Region
from verify.rounding import above, below


@dataclass(frozen=True)
class Ball:
    """All x' with ||x' - x|| <= eps, and, where `clip` is set, every coordinate inside the clip interval as well.

    The intersection is exact for every norm: bounds are minimised over ball ∩ box, not over either alone. A clipped
    ball is the *smaller* set, so its certificates claim less; `clip` therefore has no default, and every result prints it.

    Attributes:
        norm: "linf", "l2" or "l1".
        eps: Radius in input units (before any normalisation inside the network).
        clip: None, or the (lowest, highest) value of a coordinate, usually (0.0, 1.0).

    Raises:
        InvalidArgumentError: If the norm is l0, eps is negative, infinite or NaN, or the clip interval is empty.

    Example:
        >>> str(Ball("linf", 0.1, clip=(0.0, 1.0)))
        'linf ball of radius 0.1, clipped to [0.0, 1.0]'
    """

    norm: Norm | str
    eps: float | int
    _: KW_ONLY
    clip: tuple[float | int, float | int] | None

    def __post_init__(self) -> None:
        norm = Norm.parse(self.norm)
        if norm is Norm.L0:
            raise InvalidArgumentError("norm must be one of linf, l2, l1, got norm='l0': it is no convex set")
        if not (self.eps >= 0 and math.isfinite(self.eps)):
            raise InvalidArgumentError(f"eps must be a finite number of at least 0, got eps={self.eps}")
        if self.clip is not None and not (
            math.isfinite(self.clip[0]) and math.isfinite(self.clip[1]) and self.clip[0] < self.clip[1]
        ):
            raise InvalidArgumentError(f"clip must be None or (low, high) with low < high, got clip={self.clip}")
        object.__setattr__(self, "norm", norm)
        object.__setattr__(self, "eps", float(self.eps))
        if self.clip is not None:
            object.__setattr__(self, "clip", (float(self.clip[0]), float(self.clip[1])))

    @classmethod
    def of(cls, threat: ThreatModel, *, clip: tuple[float, float] | None) -> "Ball":
        """Return the ball of a threat model."""
        return cls(threat.norm, threat.radius, clip=clip)

    @property
    def threat(self) -> ThreatModel:
        """The same ball as a threat model, which knows nothing of the clip."""
        return ThreatModel(Norm.parse(self.norm), float(self.eps))

    def __str__(self) -> str:
        clipped = "not clipped" if self.clip is None else f"clipped to [{self.clip[0]}, {self.clip[1]}]"
        return f"{self.norm} ball of radius {self.eps}, {clipped}"

    def at(self, x: Float[Tensor, "batch *shape"]) -> Region:
        """Return the sets around the inputs `x`, in float64 on their device.

        Raises:
            InvalidArgumentError: If an input is not finite, or lies outside the clip interval.
        """
        x = x.detach().double()
        if not bool(torch.isfinite(x).all()):
            raise InvalidArgumentError("inputs must be finite, got NaN or infinity")
        if self.clip is not None and bool(((x < self.clip[0]) | (x > self.clip[1])).any()):
            raise InvalidArgumentError(
                f"inputs must lie inside the clip interval {list(self.clip)}, got values from {float(x.min())} to "
                f"{float(x.max())}; normalise inside the network, or do not clip"
            )
        exact = self.eps == 0
        lower, upper = (x, x) if exact else (below(x - self.eps), above(x + self.eps))
        if self.clip is not None:
            lower, upper = lower.clamp(min=self.clip[0]), upper.clamp(max=self.clip[1])
        # An l_inf ball is a box, clipped or not.
        norm = None if self.norm is Norm.LINF else Norm.parse(self.norm)
        return Region(x, lower, upper, norm, float(self.eps), self.clip is not None, str(self))
