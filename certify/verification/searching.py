"""The largest certified radius of each input by each method, every one confirmed by the checker before it counts."""

import time
from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from certify.verification.confirm import LipschitzChecker, confirm_certificate
from certify.verification.deciding import Found
from certify.verification.methods import LIPSCHITZ, build_method
from certify.verification.plan import VerifyPlan
from certify.verification.row import CERTIFICATE, NOTHING, SOLVER, TIMEOUT, UNKNOWN, VERIFIED, Claim
from certify.verification.subject import Balls
from smoothing.errors import SmoothingError
from verify.attack import Attack
from verify.certificate import Certificate
from verify.certified_radius import Radii, certified_radius, nearest_attack
from verify.escalate import describe_error
from verify.lipschitz.proofs import margin_at, radius_of
from verify.result import Guarantee

_SHRINK = (1.0, 1 - 1e-9, 1 - 1e-6, 1 - 1e-3)
"""The checker charges more for rounding than the methods: slopes that just fail at a radius hold a hair below it."""


def search(plan: VerifyPlan, subject: Balls, indices: Sequence[int]) -> list[Found]:
    """Search the radii of inputs that the network gets right, between 0 and `plan.eps` or where the attack succeeds."""
    began = time.perf_counter()
    hunt = _Hunt(plan, subject, indices)
    for name in plan.methods.ordered:
        over = plan.budget is not None and time.perf_counter() - began > plan.budget * len(indices)
        if over and name != "pgd":
            hunt.repeat(name, TIMEOUT, "the time was over")
            continue
        try:
            hunt.run(name)
        except (SmoothingError, MemoryError) as error:
            hunt.repeat(name, UNKNOWN, f"left out, earlier rungs stand: {error}")
        except Exception as error:
            # A mistake in one method must not cost what the others prove.
            hunt.repeat(name, UNKNOWN, f"failed, earlier rungs stand: {describe_error(error)}")
    for found in hunt.found:
        found.seconds = (time.perf_counter() - began) / len(indices)
        found.status = VERIFIED if any(claim.status == VERIFIED for claim in found.claims) else UNKNOWN
    return hunt.found


class _Hunt:
    def __init__(self, plan: VerifyPlan, subject: Balls, indices: Sequence[int]) -> None:
        self.began = time.perf_counter()
        self.plan, self.subject, self.indices = plan, subject, indices
        self.x = subject.inputs(indices)
        self.labels = np.array([subject.label(index) for index in indices], dtype=np.int64)
        self.found = [Found(index) for index in indices]
        self.limit = np.full(len(indices), plan.radius)
        self.best = np.zeros(len(indices))
        self.margin: list[float | None] = [None] * len(indices)
        self.name: list[str | None] = [None] * len(indices)

    def run(self, name: str) -> None:
        if name in LIPSCHITZ:
            self._begin()
            self._by_constants(name)
            return
        method = build_method(
            name, self.plan.methods, original=self.subject.network.original, until_sign=True, jobs=self.plan.jobs
        )
        if isinstance(method, Attack):
            self._attack(method)
            return
        self._begin()
        radii = certified_radius(
            self.subject.network.graph,
            self.x,
            self.subject.threat,
            method,
            clip=self.subject.clip,
            limit=self.limit,
            labels=self.labels,
            start=None if self.plan.methods.pure else np.minimum(self.best, self.limit),
            pure=self.plan.methods.pure,
            budget=self._left(),
        )
        for note in radii.notes:
            self._note(f"{name}: {note}")
        if radii.timed_out:
            self._note(f"{name}: the time was over; what it had proved by then stands")
        for place in range(len(self.found)):
            if radii.guarantee is Guarantee.SOLVER or name == "milp":
                self._by_solver(name, place, radii)
            else:
                self._by_slopes(name, place, radii)

    def repeat(self, name: str, status: str, note: str) -> None:
        """Say of a method that did not run, or broke off, what the earlier ones have proved.

        Inputs of which it has spoken already keep that: no method has two claims on one input.
        """
        self._begin()
        self._note(f"{name}: {note}")
        for place, found in enumerate(self.found):
            if all(claim.method != name for claim in found.claims):
                self._claim(name, place, status)

    def _begin(self) -> None:
        """Forget what other methods have proved, where each stands for itself."""
        if self.plan.methods.pure:
            self.best = np.zeros(len(self.indices))
            self.margin, self.name = [None] * len(self.indices), [None] * len(self.indices)

    def _left(self) -> float | None:
        """Seconds left for all inputs together; None for no limit."""
        if self.plan.budget is None:
            return None
        return max(self.plan.budget * len(self.indices) - (time.perf_counter() - self.began), 1e-3)

    def _note(self, text: str) -> None:
        for found in self.found:
            found.notes.append(text)

    def _attack(self, attack: Attack) -> None:
        nearest = nearest_attack(
            self.subject.network.graph,
            self.x,
            self.subject.threat,
            clip=self.subject.clip,
            limit=self.plan.radius,
            labels=self.labels,
            attack=attack,
        )
        for found, distance, point in zip(self.found, nearest.distance, nearest.points, strict=True):
            found.attack = attack.name
            found.attack_radius = float(distance) if np.isfinite(distance) else None
            found.counterexample = None if point is None else np.asarray(point, dtype=np.float64)
        self.limit = np.minimum(self.limit, nearest.distance)

    def _by_constants(self, name: str) -> None:
        """Radii from global Lipschitz constants: the constants are those that the proof's multipliers give again."""
        proofs = self.plan.lipschitz
        assert proofs is not None
        checker = LipschitzChecker(self.subject.network)
        for place, index in enumerate(self.indices):
            label = int(self.labels[place])
            proof = proofs.of(name, label)
            margins = checker.margins(self.subject.question(index, 0.0), label)
            # A hair below: another library may sum in another order, and has to find the same proof.
            radius = min(radius_of(margins, proof.constants) * _SHRINK[1], float(self.limit[place]))
            if radius > self.best[place]:
                margin = margin_at(margins, proof.constants, radius)
                self.best[place], self.margin[place], self.name[place] = radius, margin, name
                self.found[place].lipschitz[name] = proof.multipliers
            self._claim(name, place, UNKNOWN)
        for note in proofs.notes.get(name, ()):
            self._note(f"{name}: {note}")

    def _by_slopes(self, name: str, place: int, radii: Radii) -> None:
        certificate = radii.certificates[place]
        if certificate is not None and radii.radius[place] > self.best[place]:
            self._confirm(name, place, float(radii.radius[place]), certificate)
        self._claim(name, place, UNKNOWN)

    def _confirm(self, name: str, place: int, radius: float, certificate: Certificate) -> None:
        for share in _SHRINK:
            tried = radius * share
            if tried <= self.best[place]:
                break
            question = self.subject.question(self.indices[place], tried)
            confirmed = confirm_certificate(self.subject.network, question, certificate)
            if confirmed.proved:
                self.best[place], self.margin[place], self.name[place] = tried, confirmed.margin, name
                self.found[place].certificates[name] = certificate
                return
        self.found[place].notes.append(f"{name}: the checker does not confirm radius {radius!r}, which does not count")

    def _claim(self, name: str, place: int, status: str) -> None:
        """The best radius that slopes prove so far; by whose slopes, the certificate's name says."""
        radius, by = float(self.best[place]), self.name[place]
        if by is None or radius <= 0:
            claim = Claim(name, NOTHING, status, 0.0, None, None)
        else:
            claim = Claim(name, CERTIFICATE, VERIFIED, radius, self.margin[place], by)
        self.found[place].claims.append(claim)

    def _by_solver(self, name: str, place: int, radii: Radii) -> None:
        radius = float(radii.radius[place])
        if radius > self.best[place]:
            margin: ndarray = radii.margin[place]
            claim = Claim(name, SOLVER, VERIFIED, radius, float(margin) if np.isfinite(margin) else None, None)
            self.found[place].claims.append(claim)
        else:
            self._claim(name, place, UNKNOWN)
