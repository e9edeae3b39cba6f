"""Pieces that samplers share: radii of gamma and beta prime law, and directions on cube, cross-polytope and sphere.

Radii are float64 (a float32 uniform to the power 1/d is 1 in one draw of ten thousand at d = 3072); signs are -1 or 1,
never 0. Everything is drawn from the caller's generator and nothing waits for the device.

A density that depends on ||z|| only has z = r w with r = ||z|| independent of w, and w distributed on the unit sphere of
the norm by the cone measure (the share of the unit ball between a piece of the sphere and the origin).
"""

import math

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

_ACCEPTED = 0.951
"""Lower bound on the share of proposals that Marsaglia and Tsang accept; .95167 at shape 1, and growing from there."""


def gamma(
    shape_parameter: float,
    n: int,
    generator: torch.Generator,
    device: torch.device | str | None = None,
    power: float = 1.0,
) -> Float64[Tensor, " n"]:
    """Draw `n` independent values of G^power, where G has the gamma law of density g^(a-1) e^-g / Gamma(a).

    The power is taken of the logarithm, so that a small shape with a small power does not underflow on the way: for
    a = d / k and power = 1 / k this is the radius of exp(-r^k) in dimension d.

    Args:
        shape_parameter: a, positive.
        n: Number of values.
        generator: Source of randomness; its device must be `device`.
        device: Where to draw; default: the generator's device.
        power: The exponent.
    """
    return _log_gamma(shape_parameter, n, generator, device).mul_(power).exp_()


def beta_prime(
    a: float,
    b: float,
    n: int,
    generator: torch.Generator,
    device: torch.device | str | None = None,
    power: float = 1.0,
) -> Float64[Tensor, " n"]:
    """Draw `n` independent values of X^power, X of density x^(a-1) (1+x)^(-a-b) / B(a, b): a ratio of two gammas.

    For a = d / k, b = c - d / k and power = 1 / k this is the radius of (1 + r^k)^-c in dimension d.

    Args:
        a: First shape parameter, positive.
        b: Second shape parameter, positive.
        n: Number of values.
        generator: Source of randomness; its device must be `device`.
        device: Where to draw; default: the generator's device.
        power: The exponent.
    """
    top = _log_gamma(a, n, generator, device)
    return top.sub_(_log_gamma(b, n, generator, device)).mul_(power).exp_()


def random_sign(
    size: tuple[int, ...],
    generator: torch.Generator,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "..."]:
    """Draw independent values that are -1 or 1 with probability 1/2 each; never 0."""
    bits = torch.empty(size, device=device or generator.device, dtype=dtype).random_(0, 2, generator=generator)
    return bits.mul_(2.0).sub_(1.0)


def symmetric_uniform(
    size: tuple[int, ...],
    generator: torch.Generator,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "..."]:
    """Draw independent uniforms on (-1, 1) from a symmetric grid that contains neither 0 nor an end.

    Args:
        size: Shape of the result.
        generator: Source of randomness; its device must be `device`.
        device: Where to draw; default: the generator's device.
        dtype: float64 (odd multiples of 2^-53) or float32 (odd multiples of 2^-24).
    """
    u = torch.empty(size, device=device or generator.device, dtype=dtype).uniform_(generator=generator)
    return u.mul_(2.0).sub_(1.0 - (2.0**-53 if dtype == torch.float64 else 2.0**-24))


def laplace(
    size: tuple[int, ...], generator: torch.Generator, device: torch.device | str | None = None
) -> Float64[Tensor, "..."]:
    """Draw independent values of density exp(-|x|) / 2, by inversion in float64; never 0, never infinite."""
    u = symmetric_uniform(size, generator, device, torch.float64)
    return torch.copysign(torch.log1p(-u.abs()), u)


def sphere_direction(
    n: int,
    shape: tuple[int, ...],
    generator: torch.Generator,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n *shape"]:
    """Draw points on the unit sphere of l2, uniformly; float64 if that is asked for and float32 else."""
    work = _working(dtype)
    points = torch.empty((n, *shape), device=device or generator.device, dtype=work).normal_(generator=generator)
    size = torch.linalg.vector_norm(points.flatten(1), dim=1, dtype=torch.float64)
    return scale_rows(points, size.reciprocal_())


def cube_direction(
    n: int,
    shape: tuple[int, ...],
    generator: torch.Generator,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n *shape"]:
    """Draw points on the unit sphere of linf: one coordinate of a random index is -1 or 1, the others are uniform.

    float64 if that is asked for and float32 else.
    """
    work = _working(dtype)
    points = symmetric_uniform((n, math.prod(shape)), generator, device, work)
    index = torch.randint(points.shape[1], (n, 1), device=points.device, generator=generator)
    points.scatter_(1, index, random_sign((n, 1), generator, device, work))
    return points.reshape(n, *shape)


def diamond_direction(
    n: int,
    shape: tuple[int, ...],
    generator: torch.Generator,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n *shape"]:
    """Draw points on the unit sphere of l1: |w| has the Dirichlet(1, ..., 1) law, the signs are independent of it.

    float64 if that is asked for and float32 else.
    """
    points = laplace((n, *shape), generator, device)
    size = points.flatten(1).abs().sum(1)
    return scale_rows(points, size.reciprocal_()).to(_working(dtype))


def scale_rows(points: Float[Tensor, "n *shape"], factor: Float64[Tensor, " n"]) -> Float[Tensor, "n *shape"]:
    """Multiply, in place, each row of `points` by its factor, and return `points`."""
    return points.mul_(factor.to(points.dtype).reshape(-1, *(1 for _ in points.shape[1:])))


def _working(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _open_uniform(n: int, generator: torch.Generator, device: torch.device | str | None) -> Float64[Tensor, " n"]:
    """Draw uniforms in (0, 1], multiples of 2^-53."""
    u = torch.empty(n, device=device or generator.device, dtype=torch.float64)
    return u.uniform_(generator=generator).add_(2.0**-53)


def _log_gamma(
    shape_parameter: float, n: int, generator: torch.Generator, device: torch.device | str | None
) -> Float64[Tensor, " n"]:
    """Draw the logarithms of `n` gamma variables by the rejection method of Marsaglia and Tsang (2000).

    torch's own generator of gamma variables works in float32 on CUDA. The proposals are drawn all at once, enough of them
    that fewer than `n` are accepted with probability below 1e-22 (Bin(m, .0484) > m - n for every n), and the first `n`
    accepted ones are taken: no loop that would wait for the device.
    """
    boost = 0.0 if shape_parameter >= 1.0 else 1.0
    d = shape_parameter + boost - 1.0 / 3.0
    m = math.ceil(n / _ACCEPTED + 3.0 * math.sqrt(n) + 16.0)
    x = torch.empty(m, device=device or generator.device, dtype=torch.float64).normal_(generator=generator)
    # v = (1 + c x)^3 is proposed as G / d, unless it is negative: log v is NaN then, and fails the comparison.
    log_v = torch.log1p(x / math.sqrt(9.0 * d)).mul_(3.0)
    log_u = _open_uniform(m, generator, device).log_()
    accepted = log_u < 0.5 * x * x + d * (1.0 - torch.exp(log_v) + log_v)
    values = log_v[_first_true(accepted, n)].add_(math.log(d))
    if boost:
        # G(a) = G(a + 1) U^(1/a).
        values.add_(_open_uniform(n, generator, device).log_().div_(shape_parameter))
    return values


def _first_true(mask: torch.Tensor, n: int) -> Int64[Tensor, " n"]:
    """Return the positions of the first `n` true entries; the last position where there are too few."""
    counts = torch.cumsum(mask, 0)
    wanted = torch.arange(1, n + 1, device=mask.device)
    return torch.searchsorted(counts, wanted).clamp_(max=len(mask) - 1)
