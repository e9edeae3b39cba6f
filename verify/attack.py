"""Attacks: the bound from the other side, and counterexamples that the network itself confirms.

Projected gradient descent on the specification's decisive row (for margins: the smallest margin), from the middle of each
set and from random starts. A point counts as a counterexample only if it lies inside the set exactly and the *original*
network, in its own precision, violates the property there; where no original is given, the graph in float64 decides.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from smoothing.attacks import Box, pgd
from smoothing.errors import InvalidArgumentError
from smoothing.threat import Norm, ThreatModel
from verify.method import Method
from verify.problem import Problem
from verify.region import Region
from verify.result import Guarantee, Result, Status
from verify.rounding import above, below

Original = Callable[[Float[ndarray, "batch *shape"]], Float[ndarray, "batch outputs"]]
"""The network as its user runs it: float64 points in, outputs in its own precision as float64 out."""


def original_of(module: nn.Module) -> Original:
    """Return a module as its user runs it: in eval mode, on its own device, in its own precision."""
    parameter = next(iter([*module.parameters(), *module.buffers()]), torch.zeros(()))
    dtype = parameter.dtype if parameter.dtype.is_floating_point else torch.float32

    def run(points: ndarray) -> ndarray:
        with torch.no_grad():
            outputs = module(torch.from_numpy(points).to(device=parameter.device, dtype=dtype))
        return np.asarray(outputs.double().cpu().numpy())

    return run


@dataclass(frozen=True)
class Attack(Method):
    """Projected gradient descent with restarts.

    Attributes:
        steps: Gradient steps per start.
        restarts: Random starts beside the one at the middle of the set.
        step_share: A step's length as a multiple of radius / steps.
        seed: Of the random starts.
        per_row: Attack every row of the specification for itself, so that `upper` is comparable with each lower bound;
            costs as many attacks as there are rows.
        original: The network that confirms counterexamples; None for the graph itself.
    """

    name: ClassVar[str] = "pgd"
    steps: int = 100
    restarts: int = 10
    step_share: float = 2.5
    seed: int = 0
    per_row: bool = False
    original: Original | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 0 or not self.step_share > 0:
            raise InvalidArgumentError(
                "an attack must have steps >= 1, restarts >= 0 and step_share > 0, got "
                f"steps={self.steps}, restarts={self.restarts}, step_share={self.step_share}"
            )

    def bound(self, problem: Problem, previous: Result | None = None, *, pure: bool = False) -> Result:
        """Return upper bounds and counterexamples; the lower bounds are -inf. `previous` changes nothing."""
        began = time.perf_counter()
        specification = problem.specification
        count = specification.num_rows if self.per_row else 1
        images = torch.arange(len(problem), device=problem.region.center.device).repeat_interleave(count)
        points = self._points(problem, images)
        middles = problem.region.center.double().cpu()
        upper = np.full(specification.offset.shape, np.inf)
        found: list[ndarray | None] = [None] * len(problem)
        candidates = [(middles, np.arange(len(problem))), (points, images.cpu().numpy())]
        for tried, owner in candidates:
            values = self._rows(problem, tried, owner, None)
            np.minimum.at(upper, owner, np.where(np.isfinite(values), values, np.inf))
            for at in np.flatnonzero(problem.specification.violated(values)):
                image = int(owner[at])
                if found[image] is None:
                    found[image] = self._confirmed(problem, tried[at : at + 1], image)
        status = tuple(Status.UNKNOWN if point is None else Status.FALSIFIED for point in found)
        return Result(
            method=self.name,
            lower=np.full(upper.shape, -np.inf),
            status=status,
            region=problem.region.description,
            guarantee=Guarantee.ATTACK,
            seconds=time.perf_counter() - began,
            pure=pure,
            upper=upper,
            counterexamples=tuple(found),
        )

    def _points(self, problem: Problem, images: Tensor) -> Tensor:
        """Return the best point for each (input, target), in float64, inside its set."""
        region, program = problem.region, problem.program
        load = program.load
        matrix = load(problem.specification.matrix)[images]
        offset = load(problem.specification.offset)[images]
        count = problem.specification.num_rows
        rows = torch.arange(len(images), device=images.device) % count
        groups = [torch.tensor(group, device=images.device) for group in problem.specification.groups]

        def loss(x: Tensor) -> Tensor:
            values = (matrix @ program.forward(x)[-1][:, :, None])[..., 0] + offset
            if self.per_row:
                return -values.gather(1, rows[:, None])[:, 0]
            return torch.stack([-values[:, group].amax(1) for group in groups]).amax(0)

        generator = torch.Generator(device=images.device).manual_seed(self.seed)
        center, lower, upper = region.center[images], region.lower[images], region.upper[images]
        box: Box | None = (lower, upper) if region.clipped else None
        threat = ThreatModel(region.norm or Norm.LINF, region.eps)
        if region.norm is None:
            # Any box is the unit cube in other coordinates; so coordinates of very different widths move alike.
            threat, box = ThreatModel(Norm.LINF, 0.5), (0.0, 1.0)
        result = pgd(
            loss if region.norm is not None else lambda cube: loss(lower + cube * (upper - lower)),
            center if region.norm is not None else torch.full_like(center, 0.5),
            threat,
            steps=self.steps,
            step_size=self.step_share * threat.radius / self.steps if threat.radius > 0 else None,
            restarts=self.restarts + 1,
            box=box,
            generator=generator,
        )
        points = result.x if region.norm is not None else lower + result.x * (upper - lower)
        return inside(region, points.double(), images).cpu()

    def _rows(self, problem: Problem, points: Tensor, owner: ndarray, original: Original | None) -> ndarray:
        """Return all rows of the owners' specifications at the given points."""
        if original is None:
            with torch.no_grad():
                outputs = problem.program.forward(points.to(problem.region.center))[-1].double().cpu().numpy()
        else:
            outputs = original(points.numpy())
        specification = problem.specification
        return np.asarray((specification.matrix[owner] @ outputs[:, :, None])[..., 0] + specification.offset[owner])

    def _confirmed(self, problem: Problem, point: Tensor, image: int) -> ndarray | None:
        """Return the point, in the original's precision, if the original violates the property there."""
        owner = np.array([image])
        if self.original is None:
            return np.asarray(point[0].numpy())
        region = problem.region
        # Single precision may round a coordinate out of the set: it is moved back before it is judged.
        lower, upper = (side[image : image + 1].double().cpu() for side in (region.lower, region.upper))
        single = point.float()
        single = torch.where(single.double() > upper, below(single), single)
        single = torch.where(single.double() < lower, above(single), single)
        for candidate in (single.double(), point):
            within = contains(region, candidate, torch.tensor([image]))
            if within and problem.specification.violated(self._rows(problem, candidate, owner, self.original))[0]:
                return np.asarray(candidate[0].numpy())
        return None


def inside(region: Region, points: Float[Tensor, "points *shape"], images: Tensor) -> Float[Tensor, "points *shape"]:
    """Return points moved into their sets' boxes, two units in the last place inside where there is room.

    The boxes are rounded outwards, and a counterexample must lie in the exact ball.
    """
    center, lower, upper = (v[images].double() for v in (region.center, region.lower, region.upper))
    low, high = torch.minimum(above(above(lower)), center), torch.maximum(below(below(upper)), center)
    moved = torch.minimum(torch.maximum(points, low), high)
    # What lies on a clip value or in a VNN-LIB box may stay there.
    exact = (points == lower) | (points == upper) if region.eps == 0 else torch.zeros_like(points, dtype=torch.bool)
    return torch.where(exact, points, moved)


def contains(region: Region, points: Float[Tensor, "points *shape"], images: Tensor) -> bool:
    """Return whether every point lies in its set."""
    points = points.to(region.center.device)
    center, lower, upper = (v[images.to(points.device)].double() for v in (region.center, region.lower, region.upper))
    if not bool(((points >= lower) & (points <= upper)).all()):
        return False
    if region.norm is None:
        # A box that came from an l_inf ball is rounded outwards; a plain box is what it says.
        return region.eps == 0 or bool(((points - center).abs() <= region.eps).all())
    order = 2 if region.norm is Norm.L2 else 1
    lengths = torch.linalg.vector_norm((points - center).flatten(1), ord=order, dim=1)
    return bool((lengths <= region.eps).all())
