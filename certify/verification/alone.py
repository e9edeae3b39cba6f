"""Verdicts of every method for itself (`--pure`): what each proves alone, as the columns of published tables have it.

No box is intersected with another method's, no bound is handed on, and no input is left out because another method has
decided it. MILP needs boxes to be written down at all; it takes those of LP-ALL, as it does on its own everywhere.
"""

import time
from collections.abc import Sequence

import numpy as np

from certify.verification.confirm import confirm_certificate, confirm_point, distance_up
from certify.verification.deciding import Found, joined_problem
from certify.verification.methods import build_method
from certify.verification.plan import VerifyPlan
from certify.verification.row import CERTIFICATE, FALSIFIED, NOTHING, POINT, SOLVER, TIMEOUT, UNKNOWN, VERIFIED, Claim
from certify.verification.subject import Question
from smoothing.errors import SmoothingError
from verify.escalate import describe_error
from verify.limits import limited
from verify.milp import MILP
from verify.result import Guarantee, Result, Status


def decide_alone(plan: VerifyPlan, indices: Sequence[int]) -> list[Found]:
    """Run every method on all of these inputs, which the network gets right, or on boxes."""
    began = time.perf_counter()
    questions, problem = joined_problem(plan, indices)
    found = [Found(index, attack="pgd" if "pgd" in plan.methods.names else None) for index in indices]
    for name in plan.methods.ordered:
        over = plan.budget is not None and time.perf_counter() - began > plan.budget * len(indices)
        if over:
            _leave_out(found, name, TIMEOUT, "the time was over")
            continue
        method = build_method(name, plan.methods, original=plan.network.original, until_sign=True, jobs=plan.jobs)
        if plan.budget is not None:
            left = plan.budget * len(indices) - (time.perf_counter() - began)
            # A mixed-integer program is limited per input, everything else per call.
            method = limited(method, left / len(indices) if isinstance(method, MILP) else left)
        try:
            result = method.bound(problem, pure=True)
        except (SmoothingError, MemoryError) as error:
            _leave_out(found, name, UNKNOWN, f"left out: {error}")
            continue
        except Exception as error:
            # A mistake in one method must not cost what the others prove.
            _leave_out(found, name, UNKNOWN, f"failed: {describe_error(error)}")
            continue
        for place, (one, question) in enumerate(zip(found, questions, strict=True)):
            one.notes += [f"{name}: {note}" for note in result.notes]
            one.claims.append(_claim(plan, question, one, name, result, place))
    for one in found:
        statuses = {claim.status for claim in one.claims}
        one.status = next((s for s in (FALSIFIED, VERIFIED, TIMEOUT) if s in statuses), UNKNOWN)
        one.seconds = (time.perf_counter() - began) / len(found)
    return found


def _leave_out(found: Sequence[Found], name: str, status: str, note: str) -> None:
    for one in found:
        one.notes.append(f"{name}: {note}")
        one.claims.append(Claim(name, NOTHING, status, 0.0, None, None))


def _claim(plan: VerifyPlan, question: Question, found: Found, name: str, result: Result, place: int) -> Claim:
    """What one method says of one input; only what the checker or the original network confirms counts."""
    open_ = TIMEOUT if result.status[place] is Status.TIMEOUT else UNKNOWN
    if result.status[place] is Status.FALSIFIED:
        point = result.counterexamples[place]
        if point is not None and confirm_point(plan.network, question, point):
            if found.counterexample is None:
                found.counterexample = np.asarray(point, dtype=np.float64)
                if plan.subject.norm is not None:
                    distance = distance_up(question, point, plan.subject.norm)
                    found.attack_radius, found.attack = distance, name
            return Claim(name, POINT, FALSIFIED, 0.0, None, None)
        found.notes.append(f"{name}: the original network does not confirm the counterexample, which does not count")
    if result.guarantee is Guarantee.SOLVER and result.status[place] is Status.VERIFIED:
        joint = None if result.joint is None else result.joint[place : place + 1]
        worst = float(question.specification.worst(result.lower[place : place + 1], joint)[0])
        return Claim(name, SOLVER, VERIFIED, plan.radius, worst if worst > 0 else None, None)
    if result.guarantee is not Guarantee.CHECKABLE or not result.certificates:
        return Claim(name, NOTHING, open_, 0.0, None, None)
    certificate = result.certificates[place]
    confirmed = confirm_certificate(plan.network, question, certificate)
    if result.status[place] is Status.VERIFIED and not confirmed.proved:
        found.notes.append(f"{name}: the checker does not confirm the bound, which therefore counts as unknown")
    found.certificates[name] = certificate
    radius = plan.radius if confirmed.proved else 0.0
    return Claim(name, CERTIFICATE, VERIFIED if confirmed.proved else open_, radius, confirmed.margin, name)
