"""Verdicts at one radius (or over boxes of a file): the ladder, and what of its answers is confirmed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray

from certify.verification.confirm import confirm_certificate, confirm_point, distance_up
from certify.verification.methods import build_method
from certify.verification.plan import VerifyPlan
from certify.verification.row import (
    CERTIFICATE,
    FALSIFIED,
    MISCLASSIFIED,
    NOTHING,
    POINT,
    SOLVER,
    TIMEOUT,
    UNKNOWN,
    VERIFIED,
    Claim,
)
from certify.verification.subject import Question
from verify.certificate import Certificate
from verify.escalate import Decision, escalate
from verify.problem import Problem
from verify.result import Guarantee, Status
from verify.selection import join_boxes
from verify.specification import Specification


@dataclass
class Found:
    """What was found out about one input, before it becomes a row.

    Attributes:
        index: The input.
        status: The verdict.
        claims: What each method says.
        certificates: Derivations by name.
        lipschitz: Multipliers of global Lipschitz proofs, by name.
        counterexample: A confirmed point, or None.
        attack_radius: Distance of the nearest counterexample; None where none was found.
        attack: Name of the attack that was run.
        seconds: Its share of the wall time.
        notes: What a reader should know.
    """

    index: int
    status: str = UNKNOWN
    claims: list[Claim] = field(default_factory=list)
    certificates: dict[str, Certificate] = field(default_factory=dict)
    lipschitz: dict[str, ndarray] = field(default_factory=dict)
    counterexample: ndarray | None = None
    attack_radius: float | None = None
    attack: str | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def misclassified(index: int, methods: Sequence[str]) -> Found:
    """Return what is to be said of an input that the network gets wrong: radius 0 by every method."""
    claims = [Claim(name, NOTHING, MISCLASSIFIED, 0.0, None, None) for name in methods]
    return Found(index, MISCLASSIFIED, claims, attack_radius=0.0)


def decide(plan: VerifyPlan, indices: Sequence[int]) -> list[Found]:
    """Run the ladder on inputs that the network gets right, or on boxes."""
    began = time.perf_counter()
    questions, problem = joined_problem(plan, indices)
    rungs = [
        build_method(name, plan.methods, original=plan.network.original, until_sign=True, jobs=plan.jobs)
        for name in plan.methods.ordered
    ]
    budget = None if plan.budget is None else plan.budget * len(questions)
    escalation = escalate(problem, rungs, budget=budget)
    found = [_found(plan, *each) for each in zip(indices, questions, escalation.decisions, strict=True)]
    for one in found:
        one.notes += escalation.notes
        one.seconds = (time.perf_counter() - began) / len(found)
    return found


def joined_problem(plan: VerifyPlan, indices: Sequence[int]) -> tuple[list[Question], Problem]:
    """Return the questions about some inputs, one by one and as one batch."""
    questions = [plan.subject.question(index, plan.radius) for index in indices]
    region, specification = join_boxes([q.region for q in questions]), _joined(questions)
    return questions, Problem.build(plan.network.graph, region, specification, device=plan.device)


def _joined(questions: Sequence[Question]) -> Specification:
    first = questions[0].specification
    if len(questions) == 1:
        return first
    parts = [question.specification for question in questions]
    targets = [part.targets for part in parts if part.targets is not None]
    return Specification(
        np.concatenate([part.matrix for part in parts]),
        np.concatenate([part.offset for part in parts]),
        first.groups,
        np.concatenate(targets) if len(targets) == len(parts) else None,
        first.strict,
    )


def _found(plan: VerifyPlan, index: int, question: Question, decision: Decision) -> Found:
    found = Found(index, attack="pgd" if "pgd" in plan.methods.names else None)
    late = TIMEOUT if decision.status is Status.TIMEOUT else UNKNOWN
    found.status = late
    proved_by_slopes = _add_checked(plan, question, decision, found, late)
    if proved_by_slopes:
        found.status = VERIFIED
    elif decision.status is Status.VERIFIED and decision.guarantee is Guarantee.SOLVER:
        lower = np.fmax(decision.lower, decision.solver_lower)
        joint = np.fmax(decision.joint, decision.solver_joint)
        worst = float(question.specification.worst(lower[None], joint[None])[0])
        found.claims.append(Claim("milp", SOLVER, VERIFIED, plan.radius, worst if worst > 0 else None, None))
        found.status = VERIFIED
    elif decision.status is Status.FALSIFIED and decision.counterexample is not None:
        _add_point(plan, question, decision, found)
    return found


def _add_checked(plan: VerifyPlan, question: Question, decision: Decision, found: Found, late: str) -> bool:
    """Add what the slopes prove; only the checker's word counts."""
    names = [name for name in plan.methods.ordered if name not in ("pgd", "milp")]
    checkable = decision.guarantee is Guarantee.CHECKABLE
    method = decision.method if checkable and decision.method is not None else names[-1] if names else None
    if method is None or decision.certificate is None:
        found.claims.append(Claim(method or plan.methods.ordered[-1], NOTHING, late, 0.0, None, None))
        return False
    confirmed = confirm_certificate(plan.network, question, decision.certificate)
    if checkable and not confirmed.proved:
        found.notes.append(f"{method}: the checker does not confirm the bound, which therefore counts as unknown")
    found.certificates[method] = decision.certificate
    status = VERIFIED if confirmed.proved else late
    radius = plan.radius if confirmed.proved else 0.0
    found.claims.append(Claim(method, CERTIFICATE, status, radius, confirmed.margin, method))
    return confirmed.proved


def _add_point(plan: VerifyPlan, question: Question, decision: Decision, found: Found) -> None:
    """Add a counterexample, if the original network confirms it."""
    point, method = decision.counterexample, str(decision.method)
    assert point is not None
    if not confirm_point(plan.network, question, point):
        found.notes.append(f"{method}: the original network does not confirm the counterexample, which does not count")
        return
    found.status, found.counterexample = FALSIFIED, np.asarray(point, dtype=np.float64)
    found.claims.append(Claim(method, POINT, FALSIFIED, 0.0, None, None))
    if plan.subject.norm is not None:
        found.attack_radius, found.attack = distance_up(question, point, plan.subject.norm), method
