"""The ladder, rung by rung, per input only as far as needed, within a time budget.

Rungs that are batched see all open inputs at once; linear and mixed-integer programs see one input after the other, those
first whose bounds are nearest to a proof. An input leaves as soon as it is proved or refuted. A rung that cannot take the
network, or would not fit into memory, is left out with a note; so is one that fails, on the inputs on which it does. What
the earlier rungs proved stays.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from smoothing.errors import InvalidArgumentError, SmoothingError
from verify.alpha_crown import AlphaCrown
from verify.attack import Attack
from verify.certificate import Certificate
from verify.crown import Crown
from verify.interval import Interval
from verify.limits import limited
from verify.lp import LPAll, LPLast
from verify.method import Method
from verify.milp import MILP
from verify.problem import Problem
from verify.result import Box, Guarantee, Result, Status
from verify.same_slope import SameSlope
from verify.selection import select_problem, select_result

ONE_BY_ONE: tuple[type[Method], ...] = (LPLast, LPAll, MILP)
"""Rungs that gain nothing from a batch, and are not begun on an input when the time is over."""


def default_ladder() -> tuple[Method, ...]:
    """Return the rungs in their order; linear and mixed-integer programs stop at the first sign."""
    return (
        Interval(),
        SameSlope(),
        Crown(),
        Attack(),
        AlphaCrown(steps=20, box_steps=20),
        LPAll(until_sign=True),
        MILP(until_sign=True),
    )


@dataclass(frozen=True, eq=False)
class Decision:
    """What the ladder found out about one input.

    Attributes:
        status: VERIFIED, FALSIFIED, UNKNOWN (no rung decided), or TIMEOUT (the time ran out before all had their turn).
        method: The rung that decided; None where none did.
        guarantee: What a proof rests on; None where there is none.
        lower: Best proved bounds of the specification's rows, of rungs with a certificate.
        solver_lower: Best bounds that rest on a solver's word; -inf where no such rung ran.
        joint: Best proved bounds of each group's largest row, of rungs with a certificate; -inf where there is none.
        solver_joint: Likewise on a solver's word.
        certificate: Derivation of `lower`, or None where no rung finished.
        counterexample: A point that falsifies, or None.
        seconds: Time spent on this input (its share of batched rungs).
    """

    status: Status
    method: str | None
    guarantee: Guarantee | None
    lower: Float[ndarray, " rows"]
    solver_lower: Float[ndarray, " rows"]
    joint: Float[ndarray, " groups"]
    solver_joint: Float[ndarray, " groups"]
    certificate: Certificate | None
    counterexample: Float[ndarray, "..."] | None
    seconds: float


@dataclass(frozen=True, eq=False)
class Escalation:
    """The ladder's answers, one per input, and what a reader should know.

    Attributes:
        decisions: In the order of the inputs.
        seconds: Wall time per rung, in the order in which they ran.
        notes: Rungs left out and why; solvers that failed.
    """

    decisions: tuple[Decision, ...]
    seconds: dict[str, float]
    notes: tuple[str, ...]


def escalate(
    problem: Problem, rungs: Sequence[Method] | None = None, *, budget: float | int | None = None
) -> Escalation:
    """Run rungs in order until every input is decided, all rungs are spent, or the time is over.

    Args:
        problem: Network, sets, rows to be proved positive.
        rungs: Methods and attacks; `default_ladder()` if None.
        budget: Seconds for the whole batch; None for no limit. A pass or an attack that has begun is finished; gradient
            ascent (alpha-CROWN) stops at its next step. Mixed-integer programs are given what is left, divided among the
            inputs that are still open, linear programs half of that; gradient ascent gets half of what is left, and all of
            it as the last rung.

    Raises:
        InvalidArgumentError: If there is no rung, or the budget is not positive.
    """
    ladder = default_ladder() if rungs is None else tuple(rungs)
    if not ladder:
        raise InvalidArgumentError("a ladder must have at least one rung, got none")
    if budget is not None and not budget > 0:
        raise InvalidArgumentError(f"budget must be positive or None, got budget={budget}")
    climb = _Climb(problem, None if budget is None else time.perf_counter() + budget)
    for place, rung in enumerate(ladder):
        climb.run(rung, last=place + 1 == len(ladder))
    return climb.result()


def describe_error(error: Exception) -> str:
    """Return the type and the message of an error nobody expected: the one alone, such as "3", says nothing."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Climb:
    def __init__(self, problem: Problem, deadline: float | None) -> None:
        self.problem, self.deadline = problem, deadline
        count, rows = len(problem), problem.specification.num_rows
        self.results: list[Result | None] = [None] * count  # the last checkable result of each input, a batch of one
        self.status = [Status.UNKNOWN] * count
        self.method: list[str | None] = [None] * count
        self.guarantee: list[Guarantee | None] = [None] * count
        self.solver_lower = np.full((count, rows), -np.inf)
        self.solver_joint = np.full((count, len(problem.specification.groups)), -np.inf)
        self.points: list[ndarray | None] = [None] * count
        self.spent = np.zeros(count)
        self.late = np.zeros(count, dtype=bool)
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []

    @property
    def open(self) -> list[int]:
        return [i for i, status in enumerate(self.status) if status is Status.UNKNOWN]

    def left(self) -> float | None:
        return None if self.deadline is None else self.deadline - time.perf_counter()

    def over(self) -> bool:
        left = self.left()
        return left is not None and left <= 0

    def run(self, rung: Method, *, last: bool) -> None:
        began = time.perf_counter()
        if isinstance(rung, ONE_BY_ONE):
            # Nearest to a proof first: what the budget is worth most for.
            for turn, i in enumerate(order := sorted(self.open, key=lambda i: -self._worst(i))):
                if not self._try(self._within(rung, len(order) - turn), [i]):
                    break
        elif self.open:
            left = self.left()
            if left is not None:
                # What gradient ascent leaves open, the rungs behind it may still decide.
                rung = limited(rung, left if last else left / 2)
            self._try(rung, self.open)
        self.seconds[rung.name] = self.seconds.get(rung.name, 0.0) + time.perf_counter() - began

    def _worst(self, i: int) -> float:
        result = self.results[i]
        if result is None:
            return -np.inf
        worst = self.problem.specification[i : i + 1].worst(result.lower, result.joint)
        return float(np.nan_to_num(worst[0], nan=-np.inf))

    def _within(self, rung: Method, waiting: int) -> Method:
        left = self.left()
        if left is None:
            return rung
        share = max(left, 0.0) / waiting
        # Half of it: what linear programs leave open, a mixed-integer program may still decide.
        return limited(rung, share if isinstance(rung, MILP) else share / 2)

    def _try(self, rung: Method, images: list[int]) -> bool:
        """Run a rung; False if it cannot run on this network at all, True where it fails on these inputs."""
        if self.over():
            self.late[images] = True
            return True
        began = time.perf_counter()
        previous = self._previous(images)
        try:
            result = rung.bound(select_problem(self.problem, images), previous)
        except (SmoothingError, MemoryError) as error:
            self.spent[images] += (time.perf_counter() - began) / len(images)
            self.notes.append(f"{rung.name} was left out, earlier rungs stand: {error}")
            return False
        except Exception as error:
            # A mistake in a rung, or in a solver or a device below it, must not cost what others have proved.
            self.spent[images] += (time.perf_counter() - began) / len(images)
            self.notes.append(f"{rung.name} failed, earlier rungs stand: {describe_error(error)}")
            return True
        self.notes += [f"{rung.name}: {note}" for note in result.notes]
        self.spent[images] += (time.perf_counter() - began) / len(images)
        for place, i in enumerate(images):
            if result.guarantee is Guarantee.CHECKABLE:
                self.results[i] = select_result(result, [place])
            elif result.guarantee is Guarantee.SOLVER:
                self.solver_lower[i] = np.fmax(self.solver_lower[i], result.lower[place])
                if result.joint is not None:
                    self.solver_joint[i] = np.fmax(self.solver_joint[i], result.joint[place])
            if result.status[place] in (Status.VERIFIED, Status.FALSIFIED):
                self.status[i], self.method[i] = result.status[place], rung.name
                self.guarantee[i] = Guarantee.ATTACK if result.status[place] is Status.FALSIFIED else result.guarantee
                self.points[i] = result.counterexamples[place] if result.counterexamples else None
            elif result.status[place] is Status.TIMEOUT:
                self.late[i] = True
        return True

    def _previous(self, images: list[int]) -> Result | None:
        results = [self.results[i] for i in images]
        known = [result for result in results if result is not None]
        if len(known) < len(images):
            return None
        first = known[0]
        boxes = {
            node: Box(
                np.concatenate([r.boxes[node].lower for r in known]),
                np.concatenate([r.boxes[node].upper for r in known]),
            )
            for node in first.boxes
            if all(node in r.boxes for r in known)
        }
        return dataclasses.replace(
            first,
            lower=np.concatenate([r.lower for r in known]),
            joint=self._joint(known),
            status=tuple(r.status[0] for r in known),
            boxes=boxes,
            certificates=tuple(r.certificates[0] for r in known) if all(r.certificates for r in known) else (),
        )

    def _joint(self, results: Sequence[Result]) -> Float[ndarray, "batch groups"] | None:
        """The results' joint bounds as one batch; one that has none says nothing."""
        if all(result.joint is None for result in results):
            return None
        nothing = np.full((1, self.solver_joint.shape[1]), -np.inf)
        return np.concatenate([nothing if result.joint is None else result.joint for result in results])

    def result(self) -> Escalation:
        decisions = []
        for i, status in enumerate(self.status):
            result = self.results[i]
            joint = None if result is None else self._joint([result])
            decisions.append(
                Decision(
                    status=Status.TIMEOUT if status is Status.UNKNOWN and self.late[i] else status,
                    method=self.method[i],
                    guarantee=self.guarantee[i],
                    lower=np.full(self.solver_lower.shape[1], -np.inf) if result is None else result.lower[0],
                    solver_lower=self.solver_lower[i],
                    joint=np.full(self.solver_joint.shape[1], -np.inf) if joint is None else joint[0],
                    solver_joint=self.solver_joint[i],
                    certificate=result.certificates[0] if result is not None and result.certificates else None,
                    counterexample=self.points[i],
                    seconds=float(self.spent[i]),
                )
            )
        # The same note of many inputs is said once.
        return Escalation(tuple(decisions), self.seconds, tuple(dict.fromkeys(self.notes)))
