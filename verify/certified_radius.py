"""The largest radius that a method proves, per input; and robust error at a given radius.

The search returns the last radius that was *proved*, never an interpolation: the certifier is sound at each radius tried,
and balls are nested, so nothing else is needed (it need not be monotone: CROWN's is not). It begins from what a cheaper
method has proved and from where an attack succeeds, and guesses by the margins at both ends before it halves.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor, nn

from smoothing.attacks import exact_length
from smoothing.errors import InvalidArgumentError
from smoothing.threat import Norm, ThreatModel
from verify.attack import Attack
from verify.ball import Ball
from verify.certificate import Certificate
from verify.graph import Graph
from verify.kernels import Program
from verify.method import Method
from verify.problem import Problem
from verify.result import Guarantee, Status
from verify.selection import join_boxes
from verify.specification import Specification
from verify.tracing import trace


@dataclass(frozen=True, eq=False)
class Radii:
    """Certified radii of one method.

    Attributes:
        method: Its name.
        guarantee: What the proofs rest on.
        radius: The largest proved radius of each input; 0 where none was, and where the label is not the prediction.
        open_above: The smallest radius tried that was not proved; infinity where all were.
        margin: The worst lower bound at `radius`; NaN where nothing was proved in this search.
        certificates: The derivation at `radius`; None where there is none (nothing proved, or proved by the start).
        tried: Radii tried per input.
        seconds: Wall time of the whole search.
    """

    method: str
    guarantee: Guarantee
    radius: Float[ndarray, " batch"]
    open_above: Float[ndarray, " batch"]
    margin: Float[ndarray, " batch"]
    certificates: tuple[Certificate | None, ...]
    tried: Int[ndarray, " batch"]
    seconds: float


def certified_radius(
    network: nn.Module | Graph,
    x: Float[Tensor, "batch *shape"],
    norm: Norm | str,
    method: Method,
    *,
    clip: tuple[float | int, float | int] | None,
    limit: float | Float[ndarray, " batch"],
    labels: Sequence[int] | Int[ndarray, " batch"] | None = None,
    start: Float[ndarray, " batch"] | None = None,
    relative: float = 0.005,
    tries: int = 40,
    pure: bool = False,
) -> Radii:
    """Search for the largest radius at which `method` proves that the label wins.

    Args:
        network: The network, normalisation included.
        x: Inputs.
        norm: Norm of the ball.
        method: The certifier, run on its own (with the cheaper rungs that it calls for itself).
        clip: As in `Ball`: None, or the interval of pixel values.
        limit: Never look above this: where an attack succeeds (`attack_radius`), or any number.
        labels: Labels; the network's own predictions if None.
        start: Radii already proved by another method for the same labels; the search begins there.
        relative: Stop once the first unproved radius is within this share of the last proved one.
        tries: At most this many radii per input.
        pure: The method as published.

    Raises:
        InvalidArgumentError: If an argument is out of range.
    """
    began = time.perf_counter()
    if not 0 < relative < 1 or tries < 1:
        raise InvalidArgumentError(f"relative must be in (0, 1) and tries at least 1, got {relative} and {tries}")
    graph = network if isinstance(network, Graph) else trace(network, tuple(x.shape[1:]))
    program = Program(graph, "cpu", torch.float64)
    count = len(x)
    with torch.no_grad():
        outputs = program.forward(x.double())[-1].numpy()
    label = outputs.argmax(1) if labels is None else np.asarray(labels, dtype=np.int64)
    right = outputs.argmax(1) == label
    low = np.zeros(count) if start is None else np.asarray(start, dtype=np.float64).copy()
    high = np.broadcast_to(np.asarray(limit, dtype=np.float64), (count,)).copy()
    if not (np.isfinite(high).all() and (high >= 0).all() and (low >= 0).all()):
        raise InvalidArgumentError("limit must be finite and at least 0, and start at least 0, got others")
    specification = Specification.margins(label, graph.num_outputs)
    # Margins at both ends of the bracket: at radius 0 the margin itself, at the limit unknown.
    margin_low = np.where(low == 0, specification.values(outputs).min(axis=1), np.nan)
    margin_high = np.full(count, np.nan)
    unproved = np.full(count, np.inf)
    margin = np.full(count, np.nan)
    certificates: list[Certificate | None] = [None] * count
    tried = np.zeros(count, dtype=np.int64)
    guarantee = Guarantee.CHECKABLE
    active = right & (high > low)
    while active.any():
        images = np.flatnonzero(active)
        guess = _next(low[images], high[images], margin_low[images], margin_high[images], tried[images])
        for some in _batches(Norm.parse(norm), images, guess):
            radii = guess[some]
            chosen = images[some]
            regions = [Ball(norm, float(r), clip=clip).at(x[i : i + 1]) for i, r in zip(chosen, radii, strict=True)]
            problem = Problem(
                graph, join_boxes(regions), Specification.margins(label[chosen], graph.num_outputs), program
            )
            result = method.bound(problem, pure=pure)
            guarantee = result.guarantee
            worst = problem.specification.worst(result.lower)
            for place, i in enumerate(chosen):
                tried[i] += 1
                if result.status[place] is Status.VERIFIED:
                    low[i], margin_low[i], margin[i] = radii[place], worst[place], worst[place]
                    certificates[i] = result.certificates[place] if result.certificates else None
                else:
                    high[i] = unproved[i] = radii[place]
                    margin_high[i] = worst[place]
        active &= (high - low > relative * np.maximum(low, 1e-6)) & (tried < tries)
    return Radii(
        method.name,
        guarantee,
        np.where(right, low, 0.0),
        np.where(right, unproved, 0.0),
        margin,
        tuple(certificates),
        tried,
        time.perf_counter() - began,
    )


def _next(
    low: Float[ndarray, " n"],
    high: Float[ndarray, " n"],
    margin_low: Float[ndarray, " n"],
    margin_high: Float[ndarray, " n"],
    tried: Int[ndarray, " n"],
) -> Float[ndarray, " n"]:
    """False position where both margins are known, kept away from the ends; every third try halves, so that it ends."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = margin_low / (margin_low - margin_high)
    usable = np.isfinite(share) & (tried % 3 != 2)
    return np.asarray(low + (high - low) * np.where(usable, np.clip(share, 0.02, 0.98), 0.5))


def _batches(norm: Norm, images: Int[ndarray, " n"], guess: Float[ndarray, " n"]) -> list[Int[ndarray, " some"]]:
    """Boxes of any sizes make one batch; other balls do only if their radii are equal."""
    if norm is Norm.LINF:
        return [np.arange(len(images))]
    return [np.flatnonzero(guess == radius) for radius in np.unique(guess)]


def attack_radius(
    network: nn.Module | Graph,
    x: Float[Tensor, "batch *shape"],
    norm: Norm | str,
    *,
    clip: tuple[float | int, float | int] | None,
    limit: float,
    labels: Sequence[int] | Int[ndarray, " batch"] | None = None,
    attack: Attack | None = None,
    steps: int = 12,
) -> Float[ndarray, " batch"]:
    """Return the length of the shortest adversarial perturbation found per input: an upper bound on every certified radius.

    Args:
        network: As in `certified_radius`; a module confirms its own counterexamples.
        x: Inputs.
        norm: Norm of the ball.
        clip: As in `Ball`.
        limit: Largest radius tried; infinity is returned where no attack succeeds there.
        labels: As in `certified_radius`.
        attack: The attack; by default 100 steps from the middle and 3 random starts.
        steps: Halvings of the radius.
    """
    chosen = attack or Attack(restarts=3)
    graph = network if isinstance(network, Graph) else trace(network, tuple(x.shape[1:]))
    if isinstance(network, nn.Module) and chosen.original is None:
        from verify.attack import original_of

        chosen = dataclasses.replace(chosen, original=original_of(network))
    measure = ThreatModel(Norm.parse(norm), limit).norm
    found = np.full(len(x), np.inf)
    low, high = np.zeros(len(x)), np.full(len(x), float(limit))
    given = None if labels is None else np.asarray(labels, dtype=np.int64)
    for step in range(steps + 1):
        radii = high.copy() if step == 0 else (low + high) / 2
        for some in _batches(measure, np.arange(len(x)), radii):
            regions = [Ball(norm, float(radii[i]), clip=clip).at(x[i : i + 1]) for i in some]
            whole = Problem.margins(graph, x[some], Ball(norm, 0.0, clip=clip), None if given is None else given[some])
            problem = Problem(graph, join_boxes(regions), whole.specification, whole.program)
            result = chosen.bound(problem)
            for place, i in enumerate(some):
                point = result.counterexamples[place]
                if point is None:
                    if step == 0:
                        high[i] = low[i] = limit  # nothing to halve
                    else:
                        low[i] = radii[i]
                    continue
                moved = torch.from_numpy(point)[None]
                length = float(np.nextafter(float(exact_length(moved, x[i : i + 1], measure)[0]), np.inf))
                found[i] = min(found[i], length)
                high[i] = min(radii[i], found[i])
    return found


@dataclass(frozen=True, eq=False)
class RobustError:
    """Shares of inputs that are wrong somewhere in their ball, from both sides.

    Attributes:
        clean: Share misclassified at the input itself.
        lower: Share for which a counterexample is known (a misclassified input is one).
        upper: Per method, the share that is not proved.
        guarantee: Per method, what its proofs rest on.
    """

    clean: float
    lower: float
    upper: dict[str, float]
    guarantee: dict[str, Guarantee]


def robust_error(problem: Problem, methods: Sequence[Method], *, right: Bool[ndarray, " batch"]) -> RobustError:
    """Bracket the adversarial error at the problem's sets: attacks and exact methods from below, relaxations from above.

    Args:
        problem: One margin specification per input, against its *true* label.
        methods: Rungs, cheapest first; each continues from what the one before found. Attacks and MILP give the lower bound.
        right: Which inputs are classified correctly; the others count as errors on both sides.
    """
    falsified = ~right
    upper: dict[str, float] = {}
    guarantees: dict[str, Guarantee] = {}
    previous = None
    for method in methods:
        result = method.bound(problem, previous)
        falsified |= np.array([status is Status.FALSIFIED for status in result.status])
        if result.guarantee is Guarantee.ATTACK:
            continue
        upper[method.name] = float(1 - (problem.specification.proved(result.lower) & right).mean())
        guarantees[method.name] = result.guarantee
        if result.guarantee is Guarantee.CHECKABLE:
            previous = result
    return RobustError(float((~right).mean()), float(falsified.mean()), upper, guarantees)
