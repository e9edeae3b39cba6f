"""The suite that every smoothing law must pass; run it on your own laws.

A certificate is only as good as three things that have to fit together: the noise that is drawn, the density that the
proof speaks about, and the radius. `check_distribution` tries them against each other:

* the sampler against the density, by goodness of fit along lines through the sample, in any dimension;
* the radius against what holds for every radius (monotone, zero up to 1/2, below the curve that no law can pass, ...);
* the radius against the worst classifier that there is. By the lemma of Neyman and Pearson, the classifier that loses
  most probability under a shift v is the set of the z where q(z - v) / q(z) is smallest. It is built from
  `log_density`, tried on fresh samples, and must not succeed within the radius; for a tight radius it must succeed just
  beyond.

Statistical comparisons are between exact bounds (Clopper-Pearson; Dvoretzky-Kiefer-Wolfowitz; Efron's bound for
symmetric variables), except that variance and total mass rest on the central limit theorem. A correct law is rejected
with probability at most `FALSE_ALARM`, over the seed; for a fixed seed the outcome is always the same.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64
from numpy import ndarray
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import InvalidArgumentError, UnsupportedNormError
from smoothing.rounding import complement_down
from smoothing.statistics.binomial import failure_upper_bound, success_lower_bound
from smoothing.threat import Norm

FALSE_ALARM = 1e-6
"""Probability, over the seed, that one call of `check_distribution` rejects a correct law."""

ATTACKED = (0.7, 0.96)
"""Top-class probabilities whose radii are attacked; the last is where a few per cent of radius are easiest to see."""

ATTACKED_PAIR = (0.6, 0.15)
"""Top class and runner-up of the two-sided radius that is attacked."""

_QUANTILE_OF_POWER = 2.6
"""Standard deviations granted to bad luck when an attack is planned: Phi(2.6) = .995."""


@dataclass(frozen=True)
class Attack:
    """One Neyman-Pearson attack on the one-sided radius, which did not succeed.

    Attributes:
        norm: Norm of the radius.
        direction: "axis", "corner" (all coordinates of equal size) or "random".
        p: Top-class probability that the radius is claimed for.
        radius: The radius, and the size of the shift.
        gap: p minus the largest probability found that the shift brings down to one half. Near 0 if the radius is tight
            in this direction; a large gap in every direction means that a better radius may exist.
    """

    norm: Norm
    direction: str
    p: float
    radius: float
    gap: float


@dataclass(frozen=True)
class DistributionReport:
    """What `check_distribution` measured on a law that passed.

    Attributes:
        attacks: Every attack on a one-sided radius.
        coordinate_distance: Kolmogorov distance between sampler and density along the axes, in [0, 1].
        radial_distance: The same along rays from the origin.
        variance_ratio: Sample variance over sigma^2; None if the law has no sigma, or its tails are too heavy to tell.
        mass: Integral of the density; None if the dimension is too high to tell.
    """

    attacks: tuple[Attack, ...]
    coordinate_distance: float
    radial_distance: float
    variance_ratio: float | None
    mass: float | None


def check_distribution(
    law: SmoothingDistribution,
    *,
    tight: Collection[Norm | str] = (),
    convex: bool = True,
    inflation: float = 0.02,
    samples: int = 1_200_000,
    seed: int = 0,
) -> DistributionReport:
    """Raise `AssertionError`, with a message that says what is wrong, unless `law` passes the whole suite.

    Run it in several dimensions, low ones (1 to 3) above all: attacks are sharpest there. It takes a few seconds, and
    about 40 * samples * d bytes of memory.

    Args:
        law: Any even law of additive noise, over any shape.
        tight: Norms whose radius is claimed to be the largest possible. For these, an attack on a radius larger by
            `inflation` must succeed, so that the suite shows that it would notice one that is too large.
        convex: Whether radii are claimed to be convex in p, as those of the differential method for even laws are.
        inflation: See `tight`. With the default number of samples, .02 is found with probability above .99 for
            Gaussian, Laplace and uniform noise; the size that is found falls as 1 / sqrt(samples).
        samples: Samples of an attack, at least 1000.
        seed: Seed of everything random.

    Raises:
        AssertionError: If the law fails.
        InvalidArgumentError: If an argument is out of range.

    Example:
        >>> from smoothing import Laplace
        >>> report = check_distribution(Laplace((2,), sigma=0.5), tight=["l1"])
        >>> max(a.gap for a in report.attacks if a.norm.value == "l1" and a.direction == "axis") < 0.01
        True
    """
    if samples < 1000:
        raise InvalidArgumentError(f"samples must be at least 1000, got samples={samples}")
    if not inflation > 0:
        raise InvalidArgumentError(f"inflation must be positive, got inflation={inflation}")
    tight_norms = {law.require_norm(norm) for norm in tight}
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        _check_interface(law, generator)
        for norm in sorted(law.norms, key=lambda norm: norm.value):
            _check_radius(law, norm, convex=convex)
        variance_ratio = _check_moments(law, samples, generator)
        distances, mass = _check_fit(law, generator)
        attacks = _check_attacks(law, tight_norms, inflation, samples, generator)
    return DistributionReport(attacks, *distances, variance_ratio, mass)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


# --- What the methods promise -----------------------------------------------------------------------------------------


def _check_interface(law: SmoothingDistribution, generator: torch.Generator) -> None:
    """Shapes, dtypes, reproducibility, evenness, identity and refusals."""
    seed = int(torch.randint(2**31, (), generator=generator))
    before = torch.random.get_rng_state()
    for dtype in (torch.float32, torch.float64):
        for n in (0, 1, 5):
            draw = law.sample(n, generator=torch.Generator().manual_seed(seed), dtype=dtype)
            wanted = (n, *law.shape)
            _require(tuple(draw.shape) == wanted, f"sample({n}) must have shape {wanted}, got {tuple(draw.shape)}")
            _require(draw.dtype == dtype, f"sample must have the dtype asked for, {dtype}, got {draw.dtype}")
            again = law.sample(n, generator=torch.Generator().manual_seed(seed), dtype=dtype)
            _require(torch.equal(draw, again), "sample must be a function of the generator's state, got two results")
    x = torch.linspace(0, 1, law.dimension).reshape(law.shape)
    kept = x.clone()
    noisy = law.perturb(x, 3, generator=torch.Generator().manual_seed(seed))
    _require(torch.equal(x, kept), "perturb must not change its input")
    again = law.perturb(x, 3, generator=torch.Generator().manual_seed(seed))
    _require(tuple(noisy.shape) == (3, *law.shape), f"perturb must return [n, *shape], got {tuple(noisy.shape)}")
    _require(noisy.dtype == x.dtype, f"perturb must keep the input's dtype, {x.dtype}, got {noisy.dtype}")
    _require(torch.equal(noisy, again), "perturb must be a function of the generator's state, got two results")
    _require(torch.equal(torch.random.get_rng_state(), before), "sample must not use torch's global generator")

    z = law.sample(1000, generator=generator)
    density = law.log_density(z)
    _require(tuple(density.shape) == (1000,), f"log_density must have shape [n], got {tuple(density.shape)}")
    _require(density.dtype == torch.float64, f"log_density must be float64, got {density.dtype}")
    _require(torch.equal(density, law.log_density(-z)), "log_density must be even: q(-z) = q(z)")

    same = type(law)(law.shape, **law.parameters)
    _require(same.identity == law.identity, f"parameters must build the same law again, got {same.identity}")
    _require(_scaled(law, 2.0).identity != law.identity, "laws of different scale must have different identities")
    for norm in set(Norm) - law.norms:
        try:
            claimed = law.radius(0.9, norm)
        except UnsupportedNormError:
            continue
        _require(False, f"radius must raise UnsupportedNormError in norm {norm}, which is not in norms; got {claimed}")


def _scaled(law: SmoothingDistribution, factor: float) -> SmoothingDistribution:
    # The constructor of a family is known from its parameters only; mypy cannot see them.
    parameters: dict[str, Any] = {**law.parameters, law.scale_name: factor * law.parameters[law.scale_name]}
    return type(law)(law.shape, **parameters)


def _check_radius(law: SmoothingDistribution, norm: Norm, *, convex: bool) -> None:
    """Everything about a radius that needs no sample."""
    where = f"radius of {law.name} in {norm}"
    p = np.arange(0, 513) / 512.0  # multiples of 1/512, so that 1 - p is exact
    radius = law.radius(p, norm)
    _require(not bool(np.isnan(radius).any()), f"{where} must never be NaN, got NaN at p={p[np.isnan(radius)]}")
    _require(bool((radius >= 0).all()), f"{where} must not be negative, got {radius.min()}")
    _require(bool((radius[p <= 0.5] == 0).all()), f"{where} must be 0 for p <= 1/2, got {radius[p <= 0.5].max()}")
    _require(bool((np.diff(radius[:-1]) >= 0).all() and radius[-1] >= radius[-2]), f"{where} must not fall with p")
    scalars = [law.radius(float(value), norm) for value in p]
    _require(all(isinstance(value, float) for value in scalars), f"{where} must be a float for a float")
    _require(bool(np.array_equal(radius, scalars)), f"{where} must be the same for scalars and arrays")
    with_q = law.radius(p, norm, q_upper=1.0 - p)
    _require(bool(np.array_equal(radius, with_q)), f"{where} must not change when q_upper = 1 - p is passed")

    tiny = 10.0 ** -np.arange(1.0, 301.0)
    for p_lower in (complement_down(tiny), np.ones_like(tiny)):
        deep = law.radius(p_lower, norm, q_upper=tiny)
        _require(not bool(np.isnan(deep).any()), f"{where} must never be NaN, got NaN at q={tiny[np.isnan(deep)]}")
        _require(bool((np.diff(deep) >= 0).all()), f"{where} must not fall as q_upper goes to 0")
        limit = law.radius(1.0, norm)
        _require(bool(limit >= deep[-1]), f"{where} at p = 1 must be the limit, {limit} is below {deep[-1]}")

    inner = radius[(p >= 0.5) & (p < 1.0)]
    if convex:
        bend = np.diff(inner, 2)
        _require(bool((bend >= -1e-9 * inner[-1]).all()), f"{where} must be convex in p, got a bend of {bend.min()}")
    doubled = _scaled(law, 2.0).radius(p[:-1], norm)
    _require(bool(np.allclose(doubled, 2 * radius[:-1], rtol=1e-9, atol=0)), f"{where} must scale with the law")
    if law.sigma is not None:
        ceiling = _no_law_passes(p[:-1], norm, law.dimension, law.sigma)
        above = p[:-1][radius[:-1] > ceiling * (1 + 1e-9)]
        _require(above.size == 0, f"{where} must be below what any law can have, is above it at p={above}")

    # Two-sided: [p_A, p_B] on a grid, p_A + p_B <= 1.
    top, rival = np.meshgrid(p[::8], p[::8], indexing="ij")
    both = law.radius(top, norm, rival_upper=rival)
    alone = law.radius(top, norm)
    _require(not bool(np.isnan(both).any()), f"{where} with rival_upper must never be NaN")
    _require(bool((both >= alone).all()), f"{where} must not be smaller with rival_upper than without")
    _require(bool((both[rival >= top] == alone[rival >= top]).all()), f"{where} must be 0 where the rival may be ahead")
    _require(
        bool((both[rival == 1 - top] == alone[rival == 1 - top]).all()), f"{where} must ignore rival_upper = 1 - p"
    )
    _require(bool((both[:-1, :-1] <= both[:-1, :1]).all()), f"{where} must not grow with rival_upper")
    finite = both[:-1, 1:]
    _require(bool((finite[:, 1:] <= finite[:, :-1]).all()), f"{where} must not grow with rival_upper")
    _require(bool((finite[1:] >= finite[:-1]).all()), f"{where} with rival_upper must not fall with p")


def _no_law_passes(p: Float64[ndarray, " m"], norm: Norm, dimension: int, sigma: float) -> Float64[ndarray, " m"]:
    """Return a radius that no certificate from p alone exceeds, for any noise of this sigma without atoms.

    Some axis e (l_r norms with r up to 2), or some sign vector e / sqrt(d) (beyond), gives a projection Y = <e, z> of
    variance at most sigma^2, which a shift of norm R moves by D = R d^max(0, 1/2 - 1/r).

    1. Half-lines {Y <= t} of probability p must keep one half: the median and the p-quantile are D apart on both sides,
       so that sigma^2 >= Var Y >= 2 (1 - p) D^2.
    2. Let beta(a) be the least probability to which the shift brings a set of probability a: convex, beta(0) = 0,
       beta(1) = 1, beta(p) >= 1/2, and beta(1/2) >= 1 - p by the opposite shift. The lines through these points bound
       the total variation of the shift by tau = (2 p - 1) / (3 - 2 p). The law of Y + U[0, D] has a density of at most
       tau / D, hence a variance of at least (D / tau)^2 / 12, which is Var Y + D^2 / 12.
    """
    with np.errstate(divide="ignore"):
        tau = (2 * p - 1) / (3 - 2 * p)
        distance = sigma * np.minimum(1 / np.sqrt(2 * (1 - p)), 2 * math.sqrt(3) * tau / np.sqrt(1 - tau * tau))
    exponent = 0.0 if norm.order <= 2 else 1 / norm.order - 0.5
    limit: Float64[ndarray, " m"] = np.where(p > 0.5, distance, 0.0) * float(dimension) ** exponent
    return limit


# --- Sampler against density ------------------------------------------------------------------------------------------


def _check_moments(law: SmoothingDistribution, samples: int, generator: torch.Generator) -> float | None:
    """Evenness of the sampler, and its variance against sigma; return sample variance / sigma^2."""
    n = min(samples, max(2**23 // law.dimension, 1000))
    z = law.sample(n, generator=generator).double().flatten(1)
    _require(bool(torch.isfinite(z).all()), "sample must be finite")
    axes = torch.randperm(law.dimension, generator=generator)[:4]
    directions = torch.cat(
        [torch.eye(law.dimension)[axes].double(), torch.randn(4, law.dimension, generator=generator)]
    )
    directions = directions.double()
    threshold = math.sqrt(2 * math.log(2 * 2 * len(directions) / (FALSE_ALARM / 8)))
    for direction in directions:
        y = z @ direction
        # A symmetric variable keeps its law under random signs, and random signs are sub-Gaussian whatever they sign.
        for what, values in (("signs", torch.sign(y)), ("mean", y)):
            statistic = float(values.sum() / values.square().sum().sqrt())
            _require(
                abs(statistic) <= threshold,
                f"sample must be symmetric about 0: {what} along a line are {statistic:.1f} standard deviations off",
            )
    if law.sigma is None:
        return None
    size = z.square().mean(1) / law.sigma**2
    ratio, error = float(size.mean()), float(size.std()) / math.sqrt(n)
    if float(size.max()) > 0.02 * n * ratio:
        return None  # one vector carries the sum: no central limit theorem at this sample size
    _require(
        abs(ratio - 1) <= _normal_quantile(FALSE_ALARM / 16) * error,
        f"the sample variance must be sigma^2 = {law.sigma**2:.6g}, got {ratio:.4f} times as much (+- {error:.4f})",
    )
    return ratio


def _check_fit(law: SmoothingDistribution, generator: torch.Generator) -> tuple[tuple[float, float], float | None]:
    """Goodness of fit along lines; return both Kolmogorov distances and the density's total mass.

    Given all other coordinates, a coordinate has a density proportional to q along its axis; given the direction of z,
    its length r has one proportional to r^(d-1) q along the ray. Both are integrated numerically, and the value drawn,
    put through its own distribution function, is uniform on [0, 1]. The total mass N(u) along a ray is the density of
    the direction u, so that the mean of 1 / N over the sample is the surface of the sphere.
    """
    d = law.dimension
    m = min(max(2**26 // (_POINTS * d), 100), 5000)
    # Rounding to float32, in which the engine draws, may leave the support of a bounded law by half a unit.
    z = law.sample(m, generator=generator).double().flatten(1) * (1 - 2.0**-20)
    inside = law.log_density(z.reshape(m, *law.shape)) > -torch.inf
    _require(bool(inside.all()), f"sample must stay where log_density is finite, {int((~inside).sum())} of {m} did not")

    axis = torch.randint(d, (m, 1), generator=generator)
    value = z.gather(1, axis)
    unit = value.abs().median().clamp(min=torch.finfo(torch.float64).tiny)

    def along_axis(u: Tensor, rows: slice) -> Tensor:
        points = z[rows, None, :].expand(-1, u.shape[1], -1).clone()
        points.scatter_(2, axis[rows, None, :].expand(-1, u.shape[1], 1), (unit * torch.sinh(u))[..., None])
        # log cosh, the Jacobian, without overflow.
        return _log_density(law, points) + u.abs() + torch.log1p(torch.exp(-2 * u.abs()))

    def along_ray(u: Tensor, rows: slice) -> Tensor:
        return _log_density(law, z[rows, None, :] * torch.exp(u)[..., None]) + d * u

    on_axis, _ = _distribution_function(along_axis, torch.asinh(value[:, 0] / unit), 14.0, d)
    on_ray, log_mass = _distribution_function(along_ray, torch.zeros(m, dtype=torch.float64), 12.0, d)
    # Dvoretzky, Kiefer and Wolfowitz, with the constant of Massart.
    threshold = math.sqrt(math.log(2 / (FALSE_ALARM / 16)) / (2 * m)) + _QUADRATURE
    distances = []
    for what, uniform in (("along the axes", on_axis), ("along rays from the origin", on_ray)):
        ordered = np.sort(uniform.numpy())
        steps = np.arange(m + 1) / m
        distance = float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))
        _require(
            distance <= threshold,
            f"sampler and log_density must fit {what}: their distance is {distance:.3f}, chance allows {threshold:.3f}",
        )
        distances.append(distance)

    log_surface = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
    inverse = torch.exp(-(log_mass + d * z.norm(dim=1).log() + log_surface))
    mean, error = float(inverse.mean()), float(inverse.std()) / math.sqrt(m) if d > 1 else 0.0
    if not error <= 0.02 * mean:
        return (distances[0], distances[1]), None
    mass = 1 / mean
    allowed = _QUADRATURE + _normal_quantile(FALSE_ALARM / 16) * error * mass
    _require(abs(mass - 1) <= allowed, f"log_density must be normalised, its integral is {mass:.4f} (+- {allowed:.4f})")
    return (distances[0], distances[1]), mass


_COARSE = 128
_FINE = 768
_POINTS = 2 * _COARSE + 2 * _FINE
"""Evaluations of the density per line."""
_QUADRATURE = 0.005
"""Allowance for the integration along a line; a jump of the density inside a cell costs most."""
_DEPTH = 25.0
"""A line is cut where the density has fallen by exp(-25)."""


def _distribution_function(
    log_density: Callable[[Tensor, slice], Tensor], at: Tensor, reach: float, dimension: int
) -> tuple[Tensor, Tensor]:
    """Return, for each line, the share of its mass below the point `at` [m], and the log of its whole mass.

    Args:
        log_density: Maps parameters [rows, points] and the slice of rows to unnormalised log densities.
        at: Parameter of the sampled point of each line; its density is positive.
        reach: Lines are searched over parameters [-reach, reach].
        dimension: d, to bound the memory.
    """
    shares, masses = [], []
    step = max(2**21 // (_FINE * dimension), 1)
    for start in range(0, len(at), step):
        rows = slice(start, start + step)
        here = at[rows, None]
        low, high = here.clamp(max=-reach), here.clamp(min=reach)
        for _ in range(2):
            # Narrow the interval to where the density is not negligible, keeping the sampled point inside.
            grid = low + (high - low) * torch.linspace(0, 1, _COARSE, dtype=torch.float64)
            values = log_density(grid, rows)
            top = torch.maximum(values.amax(1, keepdim=True), log_density(here, rows))
            index = torch.arange(_COARSE)
            kept = values > top - _DEPTH
            first = torch.where(kept, index, _COARSE).amin(1, keepdim=True) - 1
            last = torch.where(kept, index, -1).amax(1, keepdim=True) + 1
            cell = torch.searchsorted(grid, here)
            first = torch.minimum(first, cell - 1).clamp(0, _COARSE - 1)
            last = torch.maximum(last, cell).clamp(0, _COARSE - 1)
            low, high = torch.minimum(grid.gather(1, first), here), torch.maximum(grid.gather(1, last), here)
        fraction = torch.linspace(0, 1, _FINE, dtype=torch.float64)
        below = log_density(here + (low - here) * fraction, rows)
        above = log_density(here + (high - here) * fraction, rows)
        top = torch.maximum(below.amax(1, keepdim=True), above.amax(1, keepdim=True))
        left = torch.trapezoid(torch.exp(below - top), fraction) * (here - low)[:, 0]
        right = torch.trapezoid(torch.exp(above - top), fraction) * (high - here)[:, 0]
        shares.append(left / (left + right))
        masses.append(top[:, 0] + torch.log(left + right))
    return torch.cat(shares), torch.cat(masses)


def _log_density(law: SmoothingDistribution, points: Tensor) -> Tensor:
    """Return the log density of points [..., d], in pieces that fit the processor's cache."""
    rows = points.reshape(-1, law.dimension)
    step = max(2**17 // law.dimension, 1)
    pieces = [law.log_density(rows[i : i + step].reshape(-1, *law.shape)) for i in range(0, len(rows), step)]
    return torch.cat(pieces).reshape(points.shape[:-1])


def _normal_quantile(tail: float) -> float:
    return -NormalDist().inv_cdf(tail)


# --- Radius against the worst classifier ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Noise:
    """Samples of the law, in two halves: one to choose a set, one to measure its probabilities.

    Attributes:
        halves: Each [n, d], float64.
        log_q: Their log densities, each [n].
        coins: Uniform on [0, 1), [n], for sets that contain a share of an atom.
    """

    law: SmoothingDistribution
    halves: tuple[Tensor, Tensor]
    log_q: tuple[Tensor, Tensor]
    coins: Float64[ndarray, " n"]

    @classmethod
    def draw(cls, law: SmoothingDistribution, n: int, generator: torch.Generator) -> "_Noise":
        first, second = (law.sample(n, generator=generator, dtype=torch.float64).flatten(1) for _ in range(2))
        coins = np.random.default_rng(int(torch.randint(2**62, (), generator=generator))).random(n)
        return cls(law, (first, second), (_log_density(law, first), _log_density(law, second)), coins)

    def head(self, n: int) -> "_Noise":
        """Return the first `n` samples."""
        (first, second), (log_first, log_second) = self.halves, self.log_q
        return _Noise(self.law, (first[:n], second[:n]), (log_first[:n], log_second[:n]), self.coins[:n])

    def ratios(self, half: int, shift: Tensor, *, shifted: bool) -> Float64[ndarray, " n"]:
        """Return log q(z - v) / q(z) at samples z of the law, or of the shifted law; z + v are its samples."""
        log_q = self.log_q[half]
        moved = _log_density(self.law, self.halves[half] + shift if shifted else self.halves[half] - shift)
        ratio = log_q - moved if shifted else moved - log_q
        # q(z) = 0 costs a set nothing and gains it nothing; it is left out.
        result: Float64[ndarray, " n"] = torch.where(ratio.isnan(), torch.inf, ratio).numpy()
        return result


@dataclass(frozen=True)
class _Set:
    """The z whose ratio is below a threshold, and a share of those that are at it (atoms need randomisation)."""

    threshold: float
    share: float

    @classmethod
    def of_lowest(cls, ratios: Float64[ndarray, " n"], fraction: float) -> "_Set":
        """Return the set that holds this fraction of the samples."""
        wanted = round(fraction * len(ratios))
        threshold = float(np.partition(ratios, wanted)[wanted])
        below, ties = int((ratios < threshold).sum()), int((ratios == threshold).sum())
        return cls(threshold, (wanted - below) / ties)

    def holds(self, ratios: Float64[ndarray, " n"], coins: Float64[ndarray, " n"]) -> Bool[ndarray, " n"]:
        inside: Bool[ndarray, " n"] = (ratios < self.threshold) | ((ratios == self.threshold) & (coins < self.share))
        return inside


def _check_attacks(
    law: SmoothingDistribution, tight: set[Norm], inflation: float, samples: int, generator: torch.Generator
) -> tuple[Attack, ...]:
    """Attack every radius in three directions, one- and two-sided; then the inflated radii of the tight norms."""
    noise = _Noise.draw(law, samples, generator)
    few = noise.head(samples // 4)
    norms = sorted(law.norms, key=lambda norm: norm.value)
    d = law.dimension
    axis = torch.zeros(d, dtype=torch.float64)
    axis[int(torch.randint(d, (), generator=generator))] = 1.0
    corner = torch.randint(2, (d,), generator=generator).double() * 2 - 1
    directions = {"axis": axis, "corner": corner, "random": torch.randn(d, generator=generator).double()}
    if d == 1:
        directions = {"axis": axis}
    bounds = len(norms) * len(directions) * (2 * len(ATTACKED) + 4)
    level = FALSE_ALARM / 2 / bounds

    attacks = []
    for norm in norms:
        units = {name: vector / torch.linalg.vector_norm(vector, ord=norm.order) for name, vector in directions.items()}
        for name, unit in units.items():
            for p in ATTACKED:
                source = noise if p == ATTACKED[-1] else few
                attack, broken = _attack(source, norm, name, unit, p, factor=1.0, level=level)
                _require(
                    not broken,
                    f"the radius of {law.name} in {norm} is too large: a shift of {attack.radius:.6g} in direction "
                    f"{name} takes a set of probability {p - attack.gap:.5f} below one half, claimed for {p}",
                )
                attacks.append(attack)
            radius = law.radius(ATTACKED_PAIR[0], norm, rival_upper=ATTACKED_PAIR[1])
            _require(
                not _attack_pair(few, norm, radius * unit, radius, level),
                f"the radius of {law.name} in {norm} is too large with rival_upper: a shift of {radius:.6g} in "
                f"direction {name} brings a class of probability {ATTACKED_PAIR[1]} above one of {ATTACKED_PAIR[0]}",
            )
        if norm in tight:
            p, factor = ATTACKED[-1], 1 + inflation
            tries = (_attack(noise, norm, name, unit, p, factor=factor, level=level) for name, unit in units.items())
            _require(
                any(broken for _, broken in tries),
                f"the radius of {law.name} in {norm} is not shown to be tight: no attack on {factor} times the radius "
                f"at p = {p} succeeded with {samples} samples",
            )
    return tuple(attacks)


def _attack(
    noise: _Noise, norm: Norm, direction: str, unit: Tensor, p: float, *, factor: float, level: float
) -> tuple[Attack, bool]:
    """Shift by `factor` times the radius at p, and try the set that this brings just below one half.

    The set is chosen on one half of the samples. On the other, its probability at the origin is bounded from below and
    at the shift from above; it breaks the law if the second is below one half while `factor` times the radius certified
    by the first is at least the size of the shift.

    Returns:
        The attack, and whether it succeeded.
    """
    n = len(noise.coins)
    radius = factor * noise.law.radius(p, norm)
    v = radius * unit
    margin = (_normal_quantile(level) + 2 * _QUANTILE_OF_POWER) * 0.5 / math.sqrt(n)
    worst = _Set.of_lowest(noise.ratios(0, v, shifted=True), max(0.5 - margin, 0.0))
    here = int(worst.holds(noise.ratios(1, v, shifted=False), noise.coins).sum())
    there = int(worst.holds(noise.ratios(1, v, shifted=True), noise.coins).sum())
    q_upper = failure_upper_bound(n - here, n, level)
    claimed = factor * noise.law.radius(complement_down(q_upper), norm, q_upper=q_upper)
    broken = 0 < radius <= claimed and failure_upper_bound(there, n, level) < 0.5
    # The lowest ratio that is left out says how much of its own probability the set lacks to reach exactly one half.
    lacking = (0.5 - there / n) * math.exp(-worst.threshold) if math.isfinite(worst.threshold) else 0.0
    return Attack(norm, direction, p, radius, p - here / n - lacking), broken


def _attack_pair(noise: _Noise, norm: Norm, v: Tensor, radius: float, level: float) -> bool:
    """Try the sets of lowest and highest ratio as top class and runner-up; true if the shift exchanges them.

    The runner-up has its probability at the origin given; the top class is taken as probable as it can be while the
    shift still brings it below the runner-up.
    """
    n = len(noise.coins)
    rival = _Set.of_lowest(noise.ratios(0, v, shifted=False), 1 - ATTACKED_PAIR[1])
    moved = noise.ratios(0, v, shifted=True)
    margin = (_normal_quantile(level) + 2 * _QUANTILE_OF_POWER) / math.sqrt(n)
    share = 1 - float(rival.holds(moved, noise.coins).mean()) - margin
    top = _Set.of_lowest(moved, max(share, 0.0))
    here, there = (noise.ratios(1, v, shifted=shifted) for shifted in (False, True))
    top_here, top_there = (int(top.holds(ratios, noise.coins).sum()) for ratios in (here, there))
    rival_here, rival_there = (n - int(rival.holds(ratios, noise.coins).sum()) for ratios in (here, there))
    q_upper = failure_upper_bound(n - top_here, n, level)
    rival_upper = failure_upper_bound(rival_here, n, level)
    claimed = noise.law.radius(complement_down(q_upper), norm, q_upper=q_upper, rival_upper=rival_upper)
    exchanged = failure_upper_bound(top_there, n, level) < success_lower_bound(rival_there, n, level)
    disjoint = top.threshold < rival.threshold or (top.threshold == rival.threshold and top.share <= rival.share)
    return bool(0 < radius <= claimed and exchanged and disjoint)
