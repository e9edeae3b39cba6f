"""Who makes the noisy copies of an input: one interface, two released rules.

* `TorchBlockNoise`, version `torch-block-v1` (the rule of `smoothing.noise`): any law, any input, floating-point noise.
* `smoothing.integer.PhiloxIntNoise`, version `philox-int-v1`: inputs on a grid k / m, integer noise, exact up to a computed
  total variation, the same bits on every device.

A source is asked once per input (`bind`, which checks the input and derives its key, best while the input is still on the
host) and then as often as is wanted for samples [start, stop) of a phase. However the samples are asked for, sample i of a
phase of an input is always the same.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from smoothing.distributions.base import FLOAT_NOISE_CAVEAT, SmoothingDistribution
from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Phase
from smoothing.noise import BLOCK, NOISE_VERSION, check_seed, draw_block, input_base

Draw = Callable[[Phase, int, int], Tensor]
"""(phase, start, stop) -> noisy copies [stop - start, *shape], float32, on the source's device."""


@runtime_checkable
class NoiseSource(Protocol):
    """Makes the noisy copies that the classifier is shown; a function of (seed, law, input, phase, sample index).

    Attributes:
        version: Name of the rule, "torch-block-v1" or "philox-int-v1"; a released rule never changes.
        law: The law of the theorem.
        seed: The run's seed.
        chunk: Samples that are made at once without waste; requests aligned at multiples of it are the cheapest.
        probability_slack: How much the probability of any class may differ from that under the law of the theorem, at
            most: d times the total variation per coordinate, float64, rounded up. To be added to an upper bound on 1 - p,
            once. 0.0 where nothing is claimed (`covers` then says so).
        covers: What the certificate says of the noise: what the proof leaves out.
    """

    @property
    def version(self) -> str: ...  # noqa: D102 - see the class
    @property
    def law(self) -> SmoothingDistribution: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def chunk(self) -> int: ...  # noqa: D102
    @property
    def probability_slack(self) -> float: ...  # noqa: D102
    @property
    def covers(self) -> str: ...  # noqa: D102

    def describe(self) -> dict[str, Any]:
        """Return version and parameters, JSON-ready: with law, seed and device all that is needed to build it again."""
        ...

    def bind(self, x: Tensor, index: int) -> Draw:
        """Check one input and return the function that draws its noisy copies.

        Args:
            x: The input [*shape], on the host or on the source's device.
            index: Key of the input.

        Raises:
            InvalidArgumentError: If the input is not one that this source can add noise to.
        """
        ...

    def draw(self, x: Tensor, index: int, phase: Phase, start: int, stop: int) -> Tensor:
        """Return `bind(x, index)(phase, start, stop)`: samples [start, stop) of one phase, [stop - start, *shape]."""
        ...


class TorchBlockNoise:
    """Floating-point noise by torch's generators, the rule `torch-block-v1` of `smoothing.noise`.

    Args:
        law: Any law.
        seed: The run's seed, in [0, 2^63).
        device: Where the copies are made; torch's streams differ between kinds of devices.

    Raises:
        InvalidArgumentError: If the seed is out of range.
    """

    version = NOISE_VERSION
    chunk = BLOCK
    probability_slack = 0.0
    covers = FLOAT_NOISE_CAVEAT

    def __init__(self, law: SmoothingDistribution, seed: int = 0, device: torch.device | str = "cpu") -> None:
        check_seed(seed)
        self.law = law
        self.seed = seed
        self.device = torch.device(device)
        self._generator = torch.Generator(device=self.device)

    def describe(self) -> dict[str, Any]:
        """Return the version; there is nothing else to choose."""
        return {"version": self.version}

    def bind(self, x: Float[Tensor, "..."], index: int) -> Draw:
        """See `NoiseSource.bind`."""
        check_shape(x, self.law, index)
        x = to_device(x, self.device)
        base = input_base(self.seed, self.law, index)

        def draw(phase: Phase, start: int, stop: int) -> Tensor:
            check_range(start, stop)
            parts = []
            for block in range(start // BLOCK, -(-stop // BLOCK)):
                with torch.inference_mode():
                    samples = draw_block(self._generator, self.law, x, base, phase, block)
                first = block * BLOCK
                parts.append(samples[max(start - first, 0) : stop - first])
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        return draw

    def draw(
        self, x: Float[Tensor, "..."], index: int, phase: Phase, start: int, stop: int
    ) -> Float[Tensor, "samples ..."]:
        """See `NoiseSource.draw`."""
        return self.bind(x, index)(phase, start, stop)


def check_shape(x: Tensor, law: SmoothingDistribution, index: int) -> None:
    """Raise `InvalidArgumentError` unless the input has the shape of the law."""
    if tuple(x.shape) != law.shape:
        raise InvalidArgumentError(f"input {index} has shape {tuple(x.shape)}, but the law is over {law.shape}")


def check_range(start: int, stop: int) -> None:
    """Raise `InvalidArgumentError` unless [start, stop) is a range of samples."""
    if not 0 <= start < stop:
        raise InvalidArgumentError(f"samples need 0 <= start < stop, got [{start}, {stop})")


def to_device(x: Tensor, device: torch.device) -> Float[Tensor, "..."]:
    """Return the input as float32 on the device; from the host to a GPU without waiting for the queue."""
    x = x.to(dtype=torch.float32)
    if device.type == "cuda" and x.device.type == "cpu":
        # A copy from pageable memory would wait for the device; from pinned memory it joins the queue.
        x = x.pin_memory()
    return x.to(device=device, non_blocking=True)
