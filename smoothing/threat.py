"""What an adversary may do: the norm that measures a perturbation, and how large it may be."""

from dataclasses import dataclass
from enum import Enum

from smoothing.errors import InvalidArgumentError, UnsupportedNormError
from smoothing.rounding import down


class Norm(Enum):
    """A way to measure a perturbation. Wherever a `Norm` is asked for, its text ("l2") is accepted too."""

    L0 = "l0"
    L1 = "l1"
    L2 = "l2"
    LINF = "linf"

    @classmethod
    def parse(cls, value: "Norm | str") -> "Norm":
        """Return the norm that `value` names.

        Raises:
            InvalidArgumentError: If it names none.
        """
        try:
            return cls(value)
        except ValueError:
            allowed = ", ".join(norm.value for norm in cls)
            raise InvalidArgumentError(f"norm must be one of {allowed}, got norm={value!r}") from None

    @property
    def order(self) -> float:
        """The p of l_p: 0, 1, 2 or infinity."""
        return {"l0": 0.0, "l1": 1.0, "l2": 2.0, "linf": float("inf")}[self.value]

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class ThreatModel:
    """All perturbations whose `norm` is at most `radius` (input units, before any normalisation).

    Raises:
        InvalidArgumentError: If the radius is negative or not a number.
    """

    norm: Norm
    radius: float

    def __post_init__(self) -> None:
        if not self.radius >= 0:
            raise InvalidArgumentError(f"radius must be at least 0, got radius={self.radius}")


def convert_radius(radius: float, source: Norm | str, target: Norm | str, dimension: int) -> float:
    """Return the radius in norm `target` that a certified `radius` in norm `source` implies, rounded down.

    The target ball of the returned radius lies inside the source ball. For l_a and l_b on R^d,
    ||v||_a <= ||v||_b if a >= b, and ||v||_a <= d^(1/a - 1/b) ||v||_b if a < b (Hölder); both are attained, so no larger
    factor holds for every perturbation. A conversion says nothing about the law: a law's own radius in the target norm
    is never smaller, so conversions are always asked for by name and reported as conversions.

    Args:
        radius: Certified radius in `source`, at least 0.
        source: Norm in which `radius` was proved (l1, l2 or linf).
        target: Norm in which it is wanted (l1, l2 or linf).
        dimension: d, the number of coordinates, at least 1.

    Raises:
        UnsupportedNormError: If either norm is l0, which bounds no other norm.
        InvalidArgumentError: If the radius is negative or NaN, or the dimension is below 1.

    Example:
        >>> round(convert_radius(1.0, "l2", "linf", 100), 6)
        0.1
    """
    source, target = Norm.parse(source), Norm.parse(target)
    if not radius >= 0:
        raise InvalidArgumentError(f"radius must be at least 0, got radius={radius}")
    if dimension < 1:
        raise InvalidArgumentError(f"dimension must be at least 1, got dimension={dimension}")
    if source is target:
        return float(radius)
    if Norm.L0 in (source, target):
        raise UnsupportedNormError(
            f"no conversion from {source} to {target}: l0 neither bounds nor is bounded by another norm"
        )
    if target.order <= source.order:
        # ||v||_source <= ||v||_target: the target ball of the same radius already lies inside.
        return float(radius)
    return float(down(radius * float(dimension) ** (1.0 / target.order - 1.0 / source.order)))
