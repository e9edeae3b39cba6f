"""Robust error: the share of inputs that are wrong somewhere in their set, bracketed from both sides.

    wrong at the input itself <= known counterexamples <= true <= not proved, method by method.

The lower bounds are counts of points (attacks', or MILP's) at which the network is wrong; the upper bounds are counts of
inputs that a method leaves unproved. The ladder's upper bounds never grow along it, because what one rung has proved stays
proved for the next; `pure` methods stand each for itself, as in published tables.

Reference: Salman, Yang, Zhang, Hsieh, Zhang 2019, "A Convex Relaxation Barrier to Tight Robustness Verification of Neural
Networks", Table 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from verify.attack import Attack
from verify.method import Method
from verify.milp import MILP
from verify.problem import Problem
from verify.result import Guarantee, Result, Status
from verify.selection import select_problem, select_result

LOWER, UPPER = "lower", "upper"


@dataclass(frozen=True)
class ErrorBound:
    """How many inputs one method shows to be wrong somewhere (lower), or leaves unproved (upper).

    Attributes:
        method: Its name.
        side: "lower" or "upper".
        count: Inputs. In a ladder, of this rung and all before it together.
        guarantee: What the count rests on.
    """

    method: str
    side: str
    count: int
    guarantee: Guarantee


@dataclass(frozen=True)
class RobustError:
    """Bounds on the number of inputs that are wrong somewhere in their set.

    Attributes:
        inputs: How many inputs there are.
        wrong: How many are misclassified at the input itself; they count on both sides.
        bounds: One per method and side, in the order in which the methods ran.
        pure: Whether each method stands for itself.
        notes: What a reader should know (a solver that failed, a fall-back).

    Example:
        >>> found = RobustError(4, 1, (ErrorBound("crown", "upper", 3, Guarantee.CHECKABLE),))
        >>> str(found)
        '25.00 % <= robust error <= 75.00 % (4 inputs)'
    """

    inputs: int
    wrong: int
    bounds: tuple[ErrorBound, ...]
    pure: bool = False
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        low, high = 100 * self.lower, 100 * self.best()
        return f"{low:.2f} % <= robust error <= {high:.2f} % ({self.inputs} inputs)"

    @property
    def clean(self) -> float:
        """Share misclassified at the input itself."""
        return self.wrong / self.inputs

    @property
    def lower(self) -> float:
        """Share for which a counterexample is known; a misclassified input is its own."""
        return max((b.count for b in self.bounds if b.side == LOWER), default=self.wrong) / self.inputs

    @property
    def upper(self) -> dict[str, float]:
        """Per method, the share that is not proved."""
        return {b.method: b.count / self.inputs for b in self.bounds if b.side == UPPER}

    @property
    def guarantee(self) -> dict[str, Guarantee]:
        """Per method with an upper bound, what its proofs rest on."""
        return {b.method: b.guarantee for b in self.bounds if b.side == UPPER}

    def best(self, *, solver: bool = False) -> float:
        """Return the smallest upper bound; a solver's word counts only with `solver`. 1.0 where there is none."""
        counts = [b.count for b in self.bounds if b.side == UPPER and (solver or b.guarantee is Guarantee.CHECKABLE)]
        return min(counts, default=self.inputs) / self.inputs

    def table(self) -> list[dict[str, Any]]:
        """Return the bounds as rows, JSON-ready: side, method, inputs, count, share (a float64), rests_on."""
        rows = [_row("lower", "clean", self.inputs, self.wrong, "the network's own mistakes")]
        for side in (LOWER, UPPER):
            rows += [
                _row(side, b.method, self.inputs, b.count, str(b.guarantee)) for b in self.bounds if b.side == side
            ]
        return rows


def _row(side: str, method: str, inputs: int, count: int, rests_on: str) -> dict[str, Any]:
    share = count / inputs
    return {"side": side, "method": method, "inputs": inputs, "count": count, "share": share, "rests_on": rests_on}


def robust_error(
    problem: Problem,
    methods: Sequence[Method],
    *,
    right: Bool[ndarray, " batch"] | None = None,
    pure: bool = False,
) -> RobustError:
    """Bracket the adversarial error over the problem's sets: attacks and exact methods from below, relaxations from above.

    Args:
        problem: One margin specification per input, against its *true* label.
        methods: Rungs, cheapest first. Each is run on the inputs that the ones before it have neither proved nor refuted,
            and continues from what the last one with certificates found. Attacks and MILP give the lower bounds.
        right: Which inputs are classified correctly; the others count as errors on both sides. None: those at which the
            network, in float64, satisfies the specification.
        pure: Run every method alone on all inputs that are classified correctly, as published.

    Raises:
        InvalidArgumentError: If there is no method, or `right` is not one value per input.
    """
    if not methods:
        raise InvalidArgumentError("robust error needs at least one method, got none")
    correct = _correct(problem) if right is None else np.asarray(right, dtype=bool)
    if correct.shape != (len(problem),):
        raise InvalidArgumentError(f"right must have one value per input ({len(problem)}), got shape {correct.shape}")
    count = _Count(problem, correct)
    bounds: list[ErrorBound] = []
    for method in methods:
        if pure:
            count = _Count(problem, correct, count.notes)
        count.run(method, pure=pure)
        basis = _basis(method)
        if basis is not Guarantee.CHECKABLE:
            bounds.append(ErrorBound(method.name, LOWER, int(count.refuted.sum()), Guarantee.ATTACK))
        if basis is not Guarantee.ATTACK:
            proved = count.proved | count.by_solver if basis is Guarantee.SOLVER else count.proved
            bounds.append(ErrorBound(method.name, UPPER, int((~proved).sum()), basis))
    return RobustError(len(problem), int((~correct).sum()), tuple(bounds), pure, tuple(dict.fromkeys(count.notes)))


class _Count:
    """Which inputs are proved and refuted so far, and what the next rung may start from."""

    def __init__(self, problem: Problem, correct: Bool[ndarray, " batch"], notes: Sequence[str] = ()) -> None:
        self.problem = problem
        self.refuted = ~correct
        self.proved, self.by_solver = np.zeros_like(correct), np.zeros_like(correct)
        self.notes = list(notes)
        self.known: tuple[ndarray, Result] | None = None

    def run(self, method: Method, *, pure: bool) -> None:
        images = np.flatnonzero(~(self.refuted | self.proved | self.by_solver))
        if len(images) == 0:
            return
        previous = None
        if self.known is not None and not pure:
            before, result = self.known
            previous = select_result(result, np.searchsorted(before, images))
        part = select_problem(self.problem, images)
        result = method.bound(part, previous, pure=pure)
        self.notes += [f"{method.name}: {note}" for note in result.notes]
        self.refuted[images] |= np.array([status is Status.FALSIFIED for status in result.status])
        if result.guarantee is Guarantee.CHECKABLE:
            self.proved[images] |= part.specification.proved(result.lower, result.joint)
            self.known = images, result
        elif result.guarantee is Guarantee.SOLVER:
            self.by_solver[images] |= part.specification.proved(result.lower, result.joint)


def _basis(method: Method) -> Guarantee:
    if isinstance(method, Attack):
        return Guarantee.ATTACK
    return Guarantee.SOLVER if isinstance(method, MILP) else Guarantee.CHECKABLE


def _correct(problem: Problem) -> Bool[ndarray, " batch"]:
    """Where the network, at the middle of each set, satisfies the specification; NaN is no satisfaction."""
    with torch.no_grad():
        outputs = problem.program.forward(problem.region.center)[-1].double().cpu().numpy()
    return problem.specification.proved(problem.specification.values(outputs))
