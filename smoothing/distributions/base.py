"""The base of every smoothing law: what is sampled, how likely it is, and which radius a vote share proves."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, overload

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from smoothing.errors import InvalidArgumentError, UnsupportedNormError
from smoothing.rounding import complement_down, down, up
from smoothing.statistics.arguments import as_probabilities, broadcast
from smoothing.threat import Norm

FLOAT_NOISE_CAVEAT = (
    "noise is drawn and added in floating point: the rounding of x + noise, the finite resolution of the generator and "
    "the truncation of its tails are not covered by the proof"
)


SCALES = (1e-150, 1e150)
"""Range of the sigma or scale that a law is given: radii, densities and samples are some power of d away from it, and stay
clear of both ends of float64. At 1e308 a finite radius would come out as infinite."""


@dataclass(frozen=True)
class SmoothingDistribution(ABC):
    """A law of the noise z in g(x) = argmax_c P(f(x + z) = c), with the radii that it proves.

    A family is one frozen dataclass with `shape` first and then exactly one of `sigma` and the family's own scale; the
    other is derived. A subclass writes `_sample_unit`, `log_density` and one radius formula per norm, and is then usable
    everywhere; `smoothing.testing.check_distribution` tries it against Neyman-Pearson attacks.

    Attributes:
        shape: Event shape, for instance (3, 32, 32).
        sigma: sqrt(E ||z||_2^2 / d), the per-coordinate standard deviation in input units.
        norms: Norms with a proved radius of this law's own.
    """

    shape: tuple[int, ...]

    name: ClassVar[str]
    """The law's name on the command line."""

    norms: ClassVar[frozenset[Norm]]
    """Norms with a proved radius of this law's own."""

    scale_name: ClassVar[str]
    """Name of the family's own scale parameter."""

    method: ClassVar[str]
    """How the radii are computed, in one line for people."""

    reference: ClassVar[str]
    """The papers and theorems behind the radii."""

    sigma: float | None = None

    @property
    def dimension(self) -> int:
        """d, the number of coordinates."""
        return math.prod(self.shape)

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters that define the law apart from its shape: enough to build it again, exactly."""
        return {self.scale_name: float(getattr(self, self.scale_name))}

    @property
    def identity(self) -> str:
        """Text that is equal for equal laws and different for different ones; part of the key of the noise.

        Floats are written in hexadecimal: exact, and the same on every platform.
        """
        inner = ",".join(f"{key}={value.hex()}" for key, value in sorted(self.parameters.items()))
        return f"{self.name}({'x'.join(map(str, self.shape))};{inner})"

    @abstractmethod
    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "n *shape"]:
        """Draw `n` independent noise vectors, [n, *shape], in input units.

        Args:
            n: Number of vectors, at least 0.
            generator: Source of randomness; its device must be `device`.
            device: Where to draw; default: the generator's device.
            dtype: Floating dtype of the result.

        Raises:
            InvalidArgumentError: If `n` is no such number, the generator is none of torch's, or the dtype is not floating.
        """

    def perturb(self, x: Float[Tensor, "*shape"], n: int, *, generator: torch.Generator) -> Float[Tensor, "n *shape"]:
        """Return `n` independent noisy copies of one input `x`; all that the Monte Carlo engine calls.

        The default adds `sample`; a law whose noise depends on the input (random replacement, rounding) overrides it.
        """
        return self.sample(n, generator=generator, device=x.device, dtype=x.dtype).add_(x)

    @abstractmethod
    def log_density(self, noise: Float[Tensor, "n *shape"]) -> Float64[Tensor, " n"]:
        """Return log q(z) for each noise vector, float64, normalised; -inf outside the support.

        Raises:
            InvalidArgumentError: If `noise` is no floating-point tensor [n, *shape].
        """

    def _rows(self, noise: Tensor) -> Float64[Tensor, "n d"]:
        """Return noise vectors [n, *shape] as float64 rows, or raise: anything else would get the density of another law."""
        if not isinstance(noise, Tensor) or not noise.is_floating_point():
            kind = f"a tensor of {noise.dtype}" if isinstance(noise, Tensor) else type(noise).__name__
            raise InvalidArgumentError(f"noise must be a floating-point torch.Tensor, got {kind}")
        if noise.ndim != 1 + len(self.shape) or tuple(noise.shape[1:]) != self.shape:
            sizes = ", ".join(map(str, self.shape))
            raise InvalidArgumentError(f"noise must have shape (batch, {sizes}), got {tuple(noise.shape)}")
        return noise.flatten(1).double()

    def _check_draw(self, n: int, generator: torch.Generator, dtype: torch.dtype) -> None:
        """Raise unless `sample` can be called so; every law calls it first."""
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise InvalidArgumentError(f"n must be an integer of at least 0, got n={n!r}")
        if not isinstance(generator, torch.Generator):
            raise InvalidArgumentError(f"generator must be a torch.Generator, got {type(generator).__name__}")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise InvalidArgumentError(f"dtype must be a floating-point dtype of torch, got dtype={dtype!r}")

    @abstractmethod
    def _one_sided_radius(self, q_upper: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        """Return the radius for 1 - p_A <= q_upper and the runner-up bounded by all of 1 - p_A; not yet rounded.

        The caller guarantees 0 <= q_upper <= 1/2, and rounds the result down. The formula must be accurate in float64 to
        better than `rounding.FORMULA_SLACK` for every such q_upper, and give the proved limit at 0.
        """

    @overload
    def radius(
        self, p_lower: float, norm: Norm | str, *, q_upper: float | None = ..., rival_upper: float | None = ...
    ) -> float: ...
    @overload
    def radius(
        self,
        p_lower: Float[ndarray, "..."],
        norm: Norm | str,
        *,
        q_upper: Float[ndarray, "..."] | float | None = ...,
        rival_upper: Float[ndarray, "..."] | float | None = ...,
    ) -> Float64[ndarray, "..."]: ...
    def radius(
        self,
        p_lower: float | Float[ndarray, "..."],
        norm: Norm | str,
        *,
        q_upper: Float[ndarray, "..."] | float | None = None,
        rival_upper: Float[ndarray, "..."] | float | None = None,
    ) -> float | Float64[ndarray, "..."]:
        """Return the radius certified by a top-class probability of at least `p_lower`, rounded down.

        Args:
            p_lower: Lower bound on the top-class probability, in [0, 1]; scalar or array.
            norm: Norm of the perturbation; must be in `self.norms`.
            q_upper: Upper bound on 1 - p. float64 cannot resolve p near 1 (1 - 1e-17 is 1.0), so certification always
                passes it; it takes the place of 1 - p_lower, which is exact for p_lower in [1/2, 1].
            rival_upper: Upper bound on the runner-up's probability; default: all of 1 - p.

        Returns:
            Radius in input units, float64, same shape as the broadcast arguments; 0.0 where nothing is proved. At
            q_upper = 0 the proved limit: infinite for an unbounded law, finite for a bounded one.

        Raises:
            UnsupportedNormError: If no radius is proved for `norm`.
            InvalidArgumentError: If a probability is no number, outside [0, 1] or NaN, or the shapes do not fit together.

        Reference: Yang et al. 2020, the differential method, applied to both classes: per unit of distance no region's
        probability p changes by more than Phi(p), so G of it changes by at most 1, and the top class leads until
        G(p_A) and G(p_B) have met.
        """
        norm = self.require_norm(norm)
        p = _probability("p_lower", p_lower)
        q = np.asarray(1.0 - p) if q_upper is None else _probability("q_upper", q_upper)
        rival = q if rival_upper is None else _probability("rival_upper", rival_upper)
        p, q, rival = broadcast(p, q, rival)
        shape = p.shape
        # numpy turns the results for arrays without axes into scalars; the formulas need not care.
        p, q, rival = (np.atleast_1d(array) for array in (p, q, rival))
        if q_upper is not None:
            # It replaces 1 - p: where p_lower was rounded to 1.0, the smaller of the two would be 0.
            p = np.maximum(p, complement_down(q))
        rival = np.minimum(q, rival)
        # Formulas are infinite at q = 0 and may overflow next to it; p = 0 against p_B = 0 may be inf - inf, and the next
        # line gives it radius 0.
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            result = self._two_sided_radius(p, q, rival, norm)
        result = np.where(rival < p, np.maximum(result, 0.0), 0.0)
        return result.reshape(shape) if shape else float(result[0])

    def _two_sided_radius(
        self,
        p: Float64[ndarray, "..."],
        q: Float64[ndarray, "..."],
        rival: Float64[ndarray, "..."],
        norm: Norm,
    ) -> Float64[ndarray, "..."]:
        """Return the proved radius for p_A >= p, 1 - p_A <= q and p_B <= rival <= q; only used where rival < p.

        Every law here is even, so that the growth function G(p) = sign(p - 1/2) int dp / Phi of the differential method is
        odd about 1/2 and R = (G(p_A) - G(p_B)) / 2: the mean of two one-sided radii, rounded before the difference is
        taken (p_A and p_B may be close, and cancellation would eat a relative allowance).

        This holds for radii of the differential method only. A one-sided radius that is larger, since it was found for
        the whole shift at once (overlap of supports, level sets), may not be averaged: such a law overrides this.
        """
        top = self._growth(p, q, norm)
        # The smallest p_A next to p_B = 0: what is infinite in both directions proves nothing.
        return np.where(np.isneginf(top), 0.0, 0.5 * (top + self._growth(1.0 - rival, rival, norm)))

    def _one_sided_bounds(
        self, q_upper: Float64[ndarray, "..."], norm: Norm
    ) -> tuple[Float64[ndarray, "..."], Float64[ndarray, "..."]]:
        """Return proved bounds, below and above, on the exact value of `_one_sided_radius`.

        A law whose radius is not a closed formula overrides this; the upper bound matters for p_A < 1/2 only.
        """
        value = np.asarray(self._one_sided_radius(q_upper, norm), dtype=np.float64)
        return np.asarray(down(value)), np.asarray(up(value))

    def _growth(self, p: Float64[ndarray, "..."], q: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        """Return a lower bound on G(p), the odd extension of the one-sided radius; q is 1 - p, both at full precision."""
        with np.errstate(divide="ignore"):
            lower, _ = self._one_sided_bounds(np.minimum(q, 0.5), norm)
            # From p itself: 1 - q has lost the digits of a small p.
            _, upper = self._one_sided_bounds(np.minimum(p, 0.5), norm)
        return np.where(q < 0.5, lower, -upper)

    def require_norm(self, norm: Norm | str) -> Norm:
        """Return the parsed norm, or raise `UnsupportedNormError` with the list of norms that are proved."""
        norm = Norm.parse(norm)
        if norm not in self.norms:
            proved = ", ".join(sorted(n.value for n in self.norms))
            raise UnsupportedNormError(
                f"no radius is proved for {self.name} noise in norm {norm}; proved norms: {proved} "
                "(a radius in one of them can be converted explicitly, see smoothing.threat.convert_radius)"
            )
        return norm

    def _settle_scale(self, sigma_per_scale: float) -> None:
        """Fill in whichever of `sigma` and the family's own scale was not given; check shape and values."""
        object.__setattr__(self, "shape", checked_shape(self.shape))
        given = {key: getattr(self, key) for key in ("sigma", self.scale_name) if getattr(self, key) is not None}
        if len(given) != 1 and self.scale_name != "sigma":
            raise InvalidArgumentError(
                f"{self.name} takes exactly one of sigma and {self.scale_name}, got {given if given else 'neither'}"
            )
        if not given:
            raise InvalidArgumentError(f"{self.name} needs sigma, got none")
        (key, value), *_ = given.items()
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise InvalidArgumentError(f"{key} must be a number, got {key}={value!r}")
        if not isinstance(value, int):
            value = float(value)  # numpy's small floats would compare with the bounds in their own precision
        if not 0.0 < value < math.inf:
            raise InvalidArgumentError(f"{key} must be positive and finite, got {key}={value}")
        if not SCALES[0] <= value <= SCALES[1]:
            raise InvalidArgumentError(
                f"{key} must be in [{SCALES[0]:g}, {SCALES[1]:g}], so that radii and samples stay within float64, got "
                f"{key}={value}; change the unit of the inputs"
            )
        scale = float(value) if key != "sigma" else float(value) / sigma_per_scale
        object.__setattr__(self, "sigma", float(value) if key == "sigma" else float(value) * sigma_per_scale)
        if self.scale_name != "sigma":
            object.__setattr__(self, self.scale_name, scale)

    def describe(self) -> dict[str, Any]:
        """Return the law as JSON-ready data: name, shape, sigma and exact parameters."""
        return {"name": self.name, "shape": list(self.shape), "sigma": self.sigma, "parameters": self.parameters}

    @classmethod
    def parameter_names(cls) -> tuple[str, ...]:
        """Names of the parameters that the constructor takes after `shape`."""
        return tuple(field.name for field in fields(cls) if field.name != "shape")


def checked_shape(shape: object) -> tuple[int, ...]:
    """Return an event shape as a tuple of integers.

    Args:
        shape: What a law was given: a sequence of integers, of numpy's kind too (a list, a `torch.Size`, an array).

    Raises:
        InvalidArgumentError: If it is anything else, or does not name at least one axis, each of size 1 or more.
    """
    # The axes of an array of more than one axis are arrays, and those of a text are texts: no integers.
    sizes: list[Any] = (
        list(shape) if isinstance(shape, Sequence) or (isinstance(shape, ndarray) and shape.ndim) else [None]
    )
    if any(isinstance(size, bool) or not isinstance(size, int | np.integer) for size in sizes):
        raise InvalidArgumentError(f"shape must be a sequence of integers, such as (3, 32, 32), got shape={shape!r}")
    if not sizes or any(size < 1 for size in sizes):
        raise InvalidArgumentError(f"shape must name at least one axis, each of size 1 or more, got shape={shape!r}")
    return tuple(int(size) for size in sizes)


def _probability(name: str, value: Any) -> Float64[ndarray, "..."]:
    if isinstance(value, Tensor):
        # A bound takes part in no gradient; and numpy knows fewer floating dtypes than torch.
        value = value.detach().cpu()
        value = value.double() if value.is_floating_point() else value
    return as_probabilities(name, value, closed=True)
