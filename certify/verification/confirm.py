"""What a run believes: what the checker confirms of slopes, a factorisation of constants, the original network of points."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from certify.verification.subject import Network, Question
from smoothing.attacks import exact_length
from smoothing.errors import InvalidArgumentError
from smoothing.threat import Norm
from verify.attack import contains
from verify.certificate import Certificate
from verify.checker import check
from verify.lipschitz.proofs import constants_of, margin_floor
from verify.result import Status


@dataclass(frozen=True)
class Confirmed:
    """What the checker makes of a certificate.

    Attributes:
        proved: Whether it proves the property.
        margin: Its bound on the worst row; None where it has none.
    """

    proved: bool
    margin: float | None


def confirm_certificate(network: Network, question: Question, certificate: Certificate) -> Confirmed:
    """Re-evaluate slopes by the checker; a certificate that does not fit proves nothing."""
    try:
        checked = check(network.graph, question.region, question.specification, (certificate,))
    except InvalidArgumentError:
        return Confirmed(False, None)
    worst = float(question.specification.worst(checked.lower, checked.joint)[0])
    return Confirmed(checked.status[0] is Status.VERIFIED, worst if np.isfinite(worst) else None)


class LipschitzChecker:
    """Evaluates global Lipschitz proofs again, without a solver; equal multipliers once."""

    def __init__(self, network: Network) -> None:
        self.graph = network.graph
        self._known: dict[tuple[str, int, bytes], ndarray] = {}

    def margins(self, question: Question, label: int) -> Float[ndarray, " rivals"]:
        """Return lower bounds of the label's margins at the middle of the set, in real arithmetic."""
        return margin_floor(self.graph, question.region.center[0].double().cpu().numpy(), label)

    def constants(self, name: str, label: int, multipliers: Float[ndarray, "_ _"]) -> Float[ndarray, " rivals"]:
        """Return proved Lipschitz constants of the label's margins.

        Raises:
            InvalidArgumentError: If the multipliers are not of the proof's shape.
            UnsupportedOperatorError: If the network is none that they could be of.
        """
        key = (name, label, multipliers.tobytes())
        if key not in self._known:
            self._known[key] = constants_of(self.graph, label, name, multipliers)
        return self._known[key]


def confirm_point(network: Network, question: Question, point: Float[ndarray, "..."]) -> bool:
    """Return whether a point lies in the set and the original network, in its own precision, violates the property there."""
    shape = tuple(question.region.center.shape[1:])
    if point.size != np.prod(shape, dtype=np.int64) or not np.isfinite(point).all():
        return False
    moved = torch.from_numpy(np.asarray(point, dtype=np.float64).reshape(1, *shape))
    if not contains(question.region, moved, torch.tensor([0])):
        return False
    if question.admits is not None and not question.admits(moved.numpy()):
        return False
    values = question.specification.values(network.original(moved.numpy()).reshape(1, -1))
    return bool(question.specification.violated(values)[0])


def distance_up(question: Question, point: Float[ndarray, "..."], norm: Norm) -> float:
    """Return how far a point is from the middle of its ball, rounded up."""
    middle = question.region.center
    moved = torch.from_numpy(np.asarray(point, dtype=np.float64).reshape(tuple(middle.shape)))
    return float(np.nextafter(float(exact_length(moved, middle.double().cpu(), norm)[0]), np.inf))
