"""The largest radius that a method proves, per input.

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
from jaxtyping import Float, Int
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
from verify.limits import limited
from verify.method import Method
from verify.milp import MILP
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
        timed_out: Whether the budget, or a limit of the method's own, ended the search or cut a bound short.
        notes: What a reader should know (a solver that failed, a fall-back), each once.
    """

    method: str
    guarantee: Guarantee
    radius: Float[ndarray, " batch"]
    open_above: Float[ndarray, " batch"]
    margin: Float[ndarray, " batch"]
    certificates: tuple[Certificate | None, ...]
    tried: Int[ndarray, " batch"]
    seconds: float
    timed_out: bool = False
    notes: tuple[str, ...] = ()


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
    budget: float | int | None = None,
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
        budget: Seconds for all inputs together; None for no limit. A bound that has begun is finished (programs
            and gradient ascents only as far as the time goes), and what was proved until then is returned.

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
    timed_out = False
    notes: list[str] = []
    while active.any():
        left = None if budget is None else budget - (time.perf_counter() - began)
        if left is not None and left <= 0:
            timed_out = True
            break
        chosen_method = method
        if left is not None:
            # A mixed-integer program is limited per input, everything else per call.
            chosen_method = limited(method, left / int(active.sum()) if isinstance(method, MILP) else left)
        images = np.flatnonzero(active)
        guess = _next(low[images], high[images], margin_low[images], margin_high[images], tried[images])
        for some in _batches(Norm.parse(norm), images, guess):
            radii = guess[some]
            chosen = images[some]
            regions = [Ball(norm, float(r), clip=clip).at(x[i : i + 1]) for i, r in zip(chosen, radii, strict=True)]
            problem = Problem(
                graph, join_boxes(regions), Specification.margins(label[chosen], graph.num_outputs), program
            )
            result = chosen_method.bound(problem, pure=pure)
            guarantee = result.guarantee
            timed_out |= Status.TIMEOUT in result.status
            notes += result.notes
            worst = problem.specification.worst(result.lower, result.joint)
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
        timed_out,
        tuple(dict.fromkeys(notes)),
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


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest adversarial points that an attack found.

    Attributes:
        distance: Length of each perturbation, rounded up; infinity where no attack succeeded.
        points: The point of each input, float64; None where no attack succeeded.
    """

    distance: Float[ndarray, " batch"]
    points: tuple[Float[ndarray, "*shape"] | None, ...]


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

    Args and the rest: as in `nearest_attack`, which also returns the points.
    """
    return nearest_attack(network, x, norm, clip=clip, limit=limit, labels=labels, attack=attack, steps=steps).distance


def nearest_attack(
    network: nn.Module | Graph,
    x: Float[Tensor, "batch *shape"],
    norm: Norm | str,
    *,
    clip: tuple[float | int, float | int] | None,
    limit: float,
    labels: Sequence[int] | Int[ndarray, " batch"] | None = None,
    attack: Attack | None = None,
    steps: int = 12,
) -> Nearest:
    """Search for the nearest adversarial point of each input, by attacks within balls that shrink towards it.

    Args:
        network: As in `certified_radius`; a module confirms its own counterexamples.
        x: Inputs.
        norm: Norm of the ball.
        clip: As in `Ball`.
        limit: Largest radius tried; where no attack succeeds there, the distance is infinity.
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
    program = Program(graph, "cpu", torch.float64)
    if labels is None:
        with torch.no_grad():
            label = program.forward(x.double())[-1].numpy().argmax(1)
    else:
        label = np.asarray(labels, dtype=np.int64)
    found = np.full(len(x), np.inf)
    points: list[ndarray | None] = [None] * len(x)
    low, high = np.zeros(len(x)), np.full(len(x), float(limit))
    for step in range(steps + 1):
        radii = high.copy() if step == 0 else (low + high) / 2
        # Where no attack succeeds at the limit, there is nothing to halve.
        tried = np.arange(len(x)) if step == 0 else np.flatnonzero(np.isfinite(found))
        if len(tried) == 0:
            break
        for some in _batches(measure, tried, radii[tried]):
            images = tried[some]
            regions = [Ball(norm, float(radii[i]), clip=clip).at(x[i : i + 1]) for i in images]
            specification = Specification.margins(label[images], graph.num_outputs)
            result = chosen.bound(Problem(graph, join_boxes(regions), specification, program))
            for place, i in enumerate(images):
                point = result.counterexamples[place]
                if point is None:
                    low[i] = radii[i]
                    continue
                moved = torch.from_numpy(point)[None]
                length = float(np.nextafter(float(exact_length(moved, x[i : i + 1], measure)[0]), np.inf))
                if length < found[i]:
                    found[i], points[i] = length, point
                high[i] = min(radii[i], found[i])
    return Nearest(found, tuple(points))
