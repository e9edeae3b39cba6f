"""What verification answers, per input: bounds, a verdict, and what the verdict rests on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from verify.certificate import Certificate
from verify.specification import Specification


class Status(Enum):
    """The verdict on one input."""

    VERIFIED = "verified"
    """A finite positive lower bound in every group of the specification."""
    FALSIFIED = "falsified"
    """A counterexample inside the set, confirmed by the network itself."""
    UNKNOWN = "unknown"
    """Neither: the bound is too loose, not a number, or was not reached."""
    TIMEOUT = "timeout"
    """Unknown because the time ran out."""

    def __str__(self) -> str:
        return str(self.value)


class Guarantee(Enum):
    """What a lower bound rests on; the kinds are never mixed in one column."""

    CHECKABLE = "deterministic, with a certificate that an independent checker re-evaluates"
    SOLVER = "deterministic, resting on the solver's answer"
    ATTACK = "a point inside the set (bounds from the other side)"

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, eq=False)
class Box:
    """Bounds on all values of one node, [batch, *shape], float64."""

    lower: Float[ndarray, "batch *shape"]
    upper: Float[ndarray, "batch *shape"]

    def intersect(self, other: "Box") -> "Box":
        """Return the tighter bounds; where they contradict each other by rounding, the first's are kept."""
        lower, upper = np.maximum(self.lower, other.lower), np.minimum(self.upper, other.upper)
        crossed = ~(lower <= upper)
        return Box(np.where(crossed, self.lower, lower), np.where(crossed, self.upper, upper))


@dataclass(frozen=True, eq=False)
class Result:
    """Bounds of one method on a batch of inputs.

    Attributes:
        method: Name in `verify.methods.METHODS`, or of a solver's method.
        lower: Proved lower bounds of the specification's rows, [batch, rows]; -inf where nothing is proved.
        joint: Proved lower bounds of the largest row of each group, [batch, groups]; -inf where none was looked for (groups
            of one row, groups that `lower` proves). None: of no group.
        status: One verdict per input.
        region: The input set in words, clip included.
        guarantee: What the bounds rest on.
        seconds: Wall time of this stage for the whole batch.
        boxes: Bounds of every node that this method knows, by node index.
        certificates: One per input, or empty where the guarantee is no certificate.
        pure: Whether the method ran alone, as published, without the intersection with cheaper bounds.
        upper: Rows' values at the best attack found, [batch, rows] (no common point needed per row); None if not attacked.
        counterexamples: Per input, a point that falsifies it, or None; empty if not attacked.
        notes: What a reader should know (a solver that failed, a fall-back).
    """

    method: str
    lower: Float[ndarray, "batch rows"]
    status: tuple[Status, ...]
    region: str
    guarantee: Guarantee
    seconds: float
    boxes: Mapping[int, Box] = field(default_factory=dict)
    certificates: tuple[Certificate, ...] = ()
    pure: bool = False
    upper: Float[ndarray, "batch rows"] | None = None
    counterexamples: tuple[Float[ndarray, "..."] | None, ...] = ()
    notes: tuple[str, ...] = ()
    joint: Float[ndarray, "batch groups"] | None = None

    def __str__(self) -> str:
        counts = {status: self.status.count(status) for status in Status if status in self.status}
        listed = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"{self.method} over the {self.region}: {listed}"

    def merged(self, previous: "Result | None") -> "Result":
        """Return the better of both bounds per row and box; both must be of the same problem."""
        if previous is None:
            return self
        boxes = dict(previous.boxes)
        for node, box in self.boxes.items():
            boxes[node] = boxes[node].intersect(box) if node in boxes else box
        lower, joint = np.fmax(self.lower, previous.lower), better_joint(self.joint, previous.joint)
        return replace(self, lower=lower, joint=joint, boxes=boxes)

    def finished(self, status: tuple[Status, ...], seconds: float) -> "Result":
        """Return the same bounds with verdicts and the time they took."""
        return replace(self, status=status, seconds=seconds)


def verdicts(
    specification: Specification,
    lower: Float[ndarray, "batch rows"],
    joint: Float[ndarray, "batch groups"] | None = None,
) -> tuple[Status, ...]:
    """Return VERIFIED where the bounds prove the property and UNKNOWN elsewhere, NaN and infinity included."""
    return tuple(Status.VERIFIED if ok else Status.UNKNOWN for ok in specification.proved(lower, joint))


def better_joint(
    first: Float[ndarray, "batch groups"] | None, second: Float[ndarray, "batch groups"] | None
) -> Float[ndarray, "batch groups"] | None:
    """Return the larger of two joint bounds; None stands for no bound."""
    if first is None or second is None:
        return second if first is None else first
    return np.asarray(np.fmax(first, second))


def without_nan(lower: Float[ndarray, "batch _"]) -> Float[ndarray, "batch _"]:
    """Return the bounds with everything that is not a finite number replaced by -inf, which proves nothing."""
    return np.where(np.isfinite(lower), lower, -np.inf)
