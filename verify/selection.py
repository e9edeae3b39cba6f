"""Part of a batch: some inputs of a problem, and of a result."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from verify.problem import Problem
from verify.region import Region
from verify.result import Box, Result
from verify.specification import Specification


def select_problem(problem: Problem, images: Sequence[int] | Int[ndarray, " chosen"]) -> Problem:
    """Return the same question about some of the inputs, in the given order."""
    chosen = np.asarray(images, dtype=np.int64)
    region, specification = problem.region, problem.specification
    place = torch.from_numpy(chosen).to(region.center.device)
    corners = (region.center[place], region.lower[place], region.upper[place])
    targets = None if specification.targets is None else specification.targets[chosen]
    rows = specification.matrix[chosen], specification.offset[chosen]
    return Problem(
        problem.graph,
        Region(*corners, region.norm, region.eps, region.clipped, region.description),
        Specification(*rows, specification.groups, targets, specification.strict),
        problem.program,
        problem.max_bytes,
    )


def select_result(result: Result, images: Sequence[int] | Int[ndarray, " chosen"]) -> Result:
    """Return a result's bounds, boxes and certificates of some of the inputs, in the given order."""
    chosen = np.asarray(images, dtype=np.int64)
    return dataclasses.replace(
        result,
        lower=result.lower[chosen],
        joint=None if result.joint is None else result.joint[chosen],
        status=tuple(result.status[i] for i in chosen),
        boxes={node: Box(box.lower[chosen], box.upper[chosen]) for node, box in result.boxes.items()},
        certificates=tuple(result.certificates[i] for i in chosen) if result.certificates else (),
        upper=None if result.upper is None else result.upper[chosen],
        counterexamples=tuple(result.counterexamples[i] for i in chosen) if result.counterexamples else (),
    )


def join_boxes(regions: Sequence[Region]) -> Region:
    """Return several sets as one batch: any boxes, or balls of one norm, radius and clip.

    Raises:
        InvalidArgumentError: If there is none, or they are balls that differ.
    """
    if not regions:
        raise InvalidArgumentError("a batch must have at least one set, got none")
    first = regions[0]
    if any((r.norm, r.clipped) != (first.norm, first.clipped) for r in regions) or (
        first.norm is not None and any(r.eps != first.eps for r in regions)
    ):
        raise InvalidArgumentError("sets of one batch must be boxes, or balls of one norm and radius, got others")
    center, lower, upper = (torch.cat([getattr(r, part) for r in regions]) for part in ("center", "lower", "upper"))
    words = {r.description for r in regions}
    description = first.description if len(words) == 1 else "boxes of different sizes"
    # Boxes of l_inf balls of different radii are plain boxes from here on: their own radii cannot be kept.
    eps = first.eps if all(r.eps == first.eps for r in regions) else 0.0
    return Region(center, lower, upper, first.norm, eps, first.clipped, description)
