"""Integer noise on a grid, drawn by a counter-based generator: the rule `philox-int-v1`.

Why: what a floating-point program adds to x is not the noise of the theorem. float32 sums leak x through their low bits (a
classifier may see which input it has been given), and generators cut tails. Here inputs are multiples k / grid, noise is an
integer number of steps whose law is that of round(z grid) up to a computed total variation (`smoothing.integer.thresholds`),
and the classifier is shown a function of the integer sum alone.

The rule. All words come from Philox4x64-10.

* Key, 128 bits: the first 16 bytes, as two little-endian words, of SHA-256 over version, seed, model digest, law, grid and
  SHA-256 of the input's levels. The position of the input in a data set is no part of it: the same input has the same noise.
* Counter (c, 0, phase, level), phases numbered as in `PHASES`. Let an input have d coordinates, in row-major order.
* Level 0 holds 16 bits per value: sample i, coordinate j is the (j mod 16)-th 16-bit piece, lowest first, of the block
  c = i ceil(d / 16) + floor(j / 16). They are the upper 16 bits of a 64-bit word U.
* Level 1 holds the lower 48 bits of U: the upper 48 bits of the (j mod 4)-th word of the block
  c = i ceil(d / 4) + floor(j / 4). They are computed only where the first 16 bits do not decide (one value in a hundred).
* n = -K + #{k : T_k <= U}; the copy's coordinate is the float32 nearest to (k + n) / grid.

So a sample depends on nothing but (key, phase, i), whatever else is drawn, and on every device it has the same bits.
"""

import decimal
import hashlib
import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int16, Int64
from numpy import ndarray
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Phase
from smoothing.integer.grid import LARGEST_LEVEL, grid_levels
from smoothing.integer.on_device import drawer
from smoothing.integer.on_host import draw_steps
from smoothing.integer.philox import Key
from smoothing.integer.thresholds import IntegerLaw, integer_law
from smoothing.noise import check_seed
from smoothing.noise_source import Draw, check_range, check_shape

NOISE_VERSION = "philox-int-v1"
"""Name of the rule in this file; a released rule never changes, a new one gets a new name."""

PHASES = {Phase.SELECT: 0, Phase.ESTIMATE: 1, Phase.PREDICT: 2, Phase.PILOT: 3, Phase.ATTACK: 4}

_LARGEST_SAMPLE = 2**36
"""Samples per phase; with fewer than 2^26 coordinates all counters stay below 2^62, in int64 too."""

_VALUES_PER_CALL = {"cpu": 2**14, "cuda": 2**21}
"""Values that make the cost of a call small beside that of drawing them."""


class PhiloxIntNoise:
    """Integer noise for inputs on a grid; see this file.

    Args:
        law: A law of `integer_laws`.
        seed: The run's seed, in [0, 2^63), committed to before the run.
        device: Where the copies are made; makes no difference to them.
        grid: Steps per unit: inputs are k / grid. 255 for 8-bit images.
        model_digest: What the classifier is; part of the key, so that a seed chosen for one model is none for another.
        integer_arithmetic: Use torch's integer operations on the CPU too, as on GPUs: the same bits, more slowly.

    Raises:
        InvalidArgumentError: If an argument is out of range or the law has no integer noise.

    Example:
        >>> from smoothing import Gaussian, Phase
        >>> noise = PhiloxIntNoise(Gaussian((3,), sigma=0.25), seed=1)
        >>> copies = noise.draw(torch.tensor([0.0, 1.0, 128 / 255]), 0, Phase.ESTIMATE, 0, 1000)
        >>> tuple(copies.shape), bool((copies * 255).round().div(255).eq(copies).all())
        ((1000, 3), True)
    """

    version = NOISE_VERSION

    def __init__(
        self,
        law: SmoothingDistribution,
        seed: int = 0,
        device: torch.device | str = "cpu",
        *,
        grid: int = 255,
        model_digest: str = "",
        integer_arithmetic: bool = False,
    ) -> None:
        check_seed(seed)
        self.integer_law: IntegerLaw = integer_law(law, grid)
        if law.dimension >= 2**26:
            raise InvalidArgumentError(f"integer noise is for fewer than 2**26 coordinates, got shape {law.shape}")
        self.law = law
        self.seed = seed
        self.grid = grid
        self.model_digest = model_digest
        self.device = torch.device(device)
        self._in_torch = integer_arithmetic or self.device.type != "cpu"
        # Any range is drawn as it is, without a block around it; but each call has a cost of its own.
        enough = _VALUES_PER_CALL.get(self.device.type, 2**21) / law.dimension
        self.chunk = int(
            min(max(2.0 ** math.ceil(math.log2(enough)), 1.0), 128.0 if self.device.type == "cpu" else 1024.0)
        )
        self.probability_slack = _float_up(self.integer_law.total_variation * law.dimension)

    @property
    def covers(self) -> str:
        """What the certificate says of the noise."""
        return (
            f"f is the base classifier after rounding to multiples of 1/{self.grid}, and the input is exactly on that grid; "
            "noise is drawn in whole steps, with the law of the theorem up to a total variation of "
            f"{_two_digits_up(self.probability_slack)} per copy, which the bounds allow for; it is assumed that the words "
            "of Philox4x64-10 under the recorded key are independent and uniform"
        )

    def describe(self) -> dict[str, Any]:
        """Return version, grid and model digest."""
        return {"version": self.version, "grid": self.grid, "model_digest": self.model_digest}

    def key(self, x: Float[Tensor, "..."]) -> Key:
        """Return the key of an input's noise."""
        return self._key(grid_levels(x, self.grid))

    def bind(self, x: Float[Tensor, "..."], index: int) -> Draw:
        """See `NoiseSource.bind`; an input on a GPU is copied to the host for it."""
        check_shape(x, self.law, index)
        levels = grid_levels(x, self.grid, f"input {index}")
        room = LARGEST_LEVEL - self.integer_law.reach
        if np.abs(levels).max() > room:
            raise InvalidArgumentError(
                f"levels plus noise must stay within {LARGEST_LEVEL} steps: input {index} may have levels up to {room} "
                f"under this law, got {np.abs(levels).max()}: use a coarser grid"
            )
        key = self._key(levels)
        flat = levels.ravel()
        in_torch = drawer(self.integer_law, key, flat, self.device) if self._in_torch else None
        narrow = flat.astype(np.int16)

        def draw(phase: Phase, start: int, stop: int) -> Tensor:
            _check_samples(start, stop)
            if in_torch is not None:
                copies = in_torch(PHASES[phase], start, stop)
            else:
                copies = torch.from_numpy(self._copies(key, narrow, PHASES[phase], start, stop))
            return copies.reshape(stop - start, *self.law.shape)

        return draw

    def draw(
        self, x: Float[Tensor, "..."], index: int, phase: Phase, start: int, stop: int
    ) -> Float[Tensor, "samples ..."]:
        """See `NoiseSource.draw`."""
        return self.bind(x, index)(phase, start, stop)

    def draw_integers(
        self, x: Float[Tensor, "..."], phase: Phase, start: int, stop: int
    ) -> Int16[ndarray, "samples ..."]:
        """Return the noise itself, in steps, without the input: what the self-test looks at."""
        _check_samples(start, stop)
        noise = draw_steps(self.integer_law, self.key(x), PHASES[phase], start, stop, self.law.dimension)
        return noise.reshape(stop - start, *self.law.shape)

    def _key(self, levels: Int64[ndarray, "..."]) -> Key:
        content = hashlib.sha256(f"{levels.shape}|".encode() + levels.astype("<i8").tobytes()).hexdigest()
        parts = (self.version, str(self.seed), self.model_digest, self.law.identity, str(self.grid), content)
        digest = hashlib.sha256()
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        first = digest.digest()[:16]
        return Key(int.from_bytes(first[:8], "little"), int.from_bytes(first[8:], "little"))

    def _copies(
        self, key: Key, levels: Int16[ndarray, " d"], phase: int, start: int, stop: int
    ) -> Float32[ndarray, "samples d"]:
        noise = draw_steps(self.integer_law, key, phase, start, stop, self.law.dimension)
        copies = np.empty(noise.shape, dtype=np.float32)
        np.add(noise, levels, out=copies)
        # As `values_of`: the float32 nearest to (k + n) / grid.
        return np.divide(copies, np.float32(self.grid), out=copies)


def _check_samples(start: int, stop: int) -> None:
    check_range(start, stop)
    if stop > _LARGEST_SAMPLE:
        raise InvalidArgumentError(f"a phase holds {_LARGEST_SAMPLE} samples at most, got stop={stop}")


def _two_digits_up(value: float) -> str:
    """Return a number of two digits at or above the value."""
    with decimal.localcontext(prec=2, rounding=decimal.ROUND_CEILING):
        return f"{+decimal.Decimal(value):.1e}"


def _float_up(value: Fraction) -> float:
    """Return the smallest float64 at or above a fraction."""
    nearest = float(value)
    return nearest if nearest >= value else float(np.nextafter(nearest, np.inf))
