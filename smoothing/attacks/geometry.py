"""Balls and boxes: lengths, projections, steepest directions and random points, row by row, for l1, l2 and linf."""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from smoothing.errors import InvalidArgumentError, UnsupportedNormError
from smoothing.threat import Norm, ThreatModel

Box = tuple[float | Tensor, float | Tensor]
"""Lowest and highest value of each coordinate: numbers, or tensors that broadcast against [batch, *shape]."""

_L1_SHARE = 0.01
"""Share of the coordinates that an l1 step moves: the single steepest one would need thousands of steps."""

_SLACK = 1e-12
"""Relative room left for the float64 sums behind a length; far above their error, far below anything that matters."""


def check_norm(norm: Norm) -> Norm:
    """Return the norm if there is an attack for it.

    Raises:
        UnsupportedNormError: If it is none of l1, l2, linf.
    """
    if norm not in (Norm.L1, Norm.L2, Norm.LINF):
        raise UnsupportedNormError(f"the norm of an attack must be l1, l2 or linf, got norm={norm}")
    return norm


def check_box(box: Box | None) -> None:
    """Raise `InvalidArgumentError` where a box given by numbers is empty."""
    if box is not None and isinstance(box[0], float | int) and isinstance(box[1], float | int) and box[0] > box[1]:
        raise InvalidArgumentError(f"a box must have lower <= upper, got box={box}")


def length(delta: Float[Tensor, "batch *shape"], norm: Norm) -> Float[Tensor, " batch"]:
    """Return the norm of each row."""
    flat = delta.flatten(1)
    if norm is Norm.L1:
        return flat.abs().sum(1)
    if norm is Norm.L2:
        size: Tensor = torch.linalg.vector_norm(flat, dim=1)
        return size
    return flat.abs().amax(1) if flat.shape[1] else flat.new_zeros(len(flat))


def project(delta: Float[Tensor, "batch *shape"], norm: Norm, radius: float) -> Float[Tensor, "batch *shape"]:
    """Return the nearest point (in l2) of the ball of that radius around 0, for each row.

    Reference: Duchi, Shalev-Shwartz, Singer, Chandra 2008 (l1: soft thresholding, the threshold by sorting).
    """
    if math.isinf(radius):
        return delta
    if norm is Norm.LINF:
        return delta.clamp(-radius, radius)
    size = _column(length(delta, norm), delta)
    if norm is Norm.L2:
        return torch.where(size > radius, delta * (radius / size.clamp_min(1e-30)), delta)
    magnitude = delta.flatten(1).abs()
    ordered = magnitude.sort(1, descending=True).values
    count = torch.arange(1, ordered.shape[1] + 1, device=delta.device, dtype=delta.dtype)
    excess = ordered.cumsum(1) - radius
    kept = (ordered * count > excess).sum(1, keepdim=True).clamp_min(1)
    threshold = (excess.gather(1, kept - 1) / kept).clamp_min(0.0)
    shrunk = (magnitude - threshold).clamp_min(0.0).reshape(delta.shape)
    return torch.where(size > radius, delta.sign() * shrunk, delta)


def steepest(gradient: Float[Tensor, "batch *shape"], norm: Norm) -> Float[Tensor, "batch *shape"]:
    """Return a direction of length 1 in `norm` that raises the loss fast; 0 for rows without a gradient.

    l2: the gradient over its length; linf: its sign; l1: the signs of the 1 % of the coordinates with the largest
    gradients (ties included), in equal parts, as in the sparse l1 descent of Tramèr, Boneh 2019. Tiny gradients count as
    much as large ones: rows are scaled before anything is squared, so that nothing underflows. Values that are not finite
    count as 0.
    """
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    flat = gradient.flatten(1)
    largest = length(gradient, Norm.LINF)[:, None]
    # Two divisions: 1 / x overflows where x is denormal, x / x does not.
    scaled = torch.where(largest > 0, flat / torch.where(largest > 0, largest, 1.0), 0.0)
    if norm is Norm.LINF:
        direction = scaled.sign()
    elif norm is Norm.L2:
        direction = scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_min(1.0)
    else:
        kept = max(1, round(_L1_SHARE * flat.shape[1]))
        limit = scaled.abs().topk(kept, dim=1).values[:, -1:]
        chosen = torch.where((scaled.abs() >= limit) & (scaled != 0), scaled.sign(), 0.0)
        direction = chosen / chosen.abs().sum(1, keepdim=True).clamp_min(1.0)
    return direction.reshape(gradient.shape)


def inside_box(moved: Float[Tensor, "batch *shape"], x: Float[Tensor, "batch *shape"], box: Box | None) -> Tensor:
    """Return `moved` clamped into the box, widened where x itself lies outside of it.

    A coordinate of x beyond the box may stay where it is, but moves no further out; clamping therefore only ever brings
    points closer to x, in every norm, and a point of a ball around x stays in the ball.
    """
    if box is None:
        return moved
    # Numbers stay numbers: a tensor made of one would be copied to a GPU, and the host would wait for it at every step.
    lower, upper = (side.to(x) if isinstance(side, Tensor) else side for side in box)
    highest = torch.maximum(upper, x) if isinstance(upper, Tensor) else x.clamp_min(upper)
    lowest = torch.minimum(lower, x) if isinstance(lower, Tensor) else x.clamp_max(lower)
    return torch.maximum(torch.minimum(moved, highest), lowest)


def free_gradient(
    gradient: Float[Tensor, "batch *shape"], moved: Float[Tensor, "batch *shape"], norm: Norm, box: Box | None
) -> Float[Tensor, "batch *shape"]:
    """Return the gradient; for l1, 0 where the box lets a coordinate move no further in its direction.

    An l1 step spends its whole length on few coordinates: those at the boundary would waste it (Croce, Hein 2021).
    """
    if box is None or norm is not Norm.L1:
        return gradient
    lower, upper = (torch.as_tensor(side, device=moved.device, dtype=moved.dtype) for side in box)
    stuck = ((moved >= upper) & (gradient > 0)) | ((moved <= lower) & (gradient < 0))
    return gradient.masked_fill(stuck, 0.0)


def random_in_ball(
    x: Float[Tensor, "batch *shape"], norm: Norm, radius: float, generator: torch.Generator
) -> Float[Tensor, "batch *shape"]:
    """Return points drawn uniformly from the ball of that radius around 0, one a row of x.

    l2: a normal vector over its length, times U^(1/d); l1: signs times d of the d + 1 spacings of a Dirichlet(1, ..., 1)
    vector, which are uniform on the simplex and its inside (Devroye 1986, V.2 and XI.2).
    """
    rows, dimension = len(x), x[0].numel() if len(x) else 0

    def uniform(columns: int) -> Tensor:
        return torch.rand((rows, columns), generator=generator, device=x.device, dtype=x.dtype)

    if norm is Norm.LINF:
        flat = uniform(dimension) * 2.0 - 1.0
    elif norm is Norm.L2:
        normal = torch.randn((rows, dimension), generator=generator, device=x.device, dtype=x.dtype)
        share = uniform(1) ** (1.0 / max(dimension, 1))
        flat = normal / torch.linalg.vector_norm(normal, dim=1, keepdim=True).clamp_min(1e-30) * share
    else:
        gaps = -torch.log1p(-uniform(dimension + 1))
        signs = uniform(dimension).sub_(0.5).sign()
        flat = gaps[:, :-1] / gaps.sum(1, keepdim=True).clamp_min(1e-30) * signs
    points: Tensor = flat.reshape(x.shape) * radius
    return points


def settle(
    moved: Float[Tensor, "batch *shape"], x: Float[Tensor, "batch *shape"], threat: ThreatModel, box: Box | None
) -> Float[Tensor, "batch *shape"]:
    """Return the point near `moved` that keeps ||x' - x|| <= radius and the box *exactly*, as numbers of x's dtype.

    A step in float32 ends a few units in the last place beyond the ball, and such a point inside of a certified radius
    would prove nothing against the certificate. So the projection is done in float64 with a little room, and each
    coordinate is then rounded towards x: every |x'_i - x_i| is at most what the projection allows, and so is the norm.
    """
    start = x.double()
    radius = threat.radius * (1.0 - _SLACK)
    delta = project(moved.double() - start, threat.norm, radius)
    if radius < math.inf:
        # The threshold of a far point in l1 has an error relative to that point, not to the radius: scale once more.
        delta = delta * _column((radius / length(delta, threat.norm).clamp_min(1e-300)).clamp_max(1.0), delta)
    rounded = (start + delta).to(x.dtype)
    beyond = (rounded.double() - start).abs() > delta.abs()
    rounded = torch.where(beyond, torch.nextafter(rounded, x), rounded)
    return inside_box(rounded, x, box)  # moves coordinates towards x only


def exact_length(
    moved: Float[Tensor, "batch *shape"], x: Float[Tensor, "batch *shape"], norm: Norm
) -> Float64[Tensor, " batch"]:
    """Return the norm of each row of moved - x, in float64."""
    return length(moved.double() - x.double(), norm)


def _column(values: Float[Tensor, " batch"], like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))
