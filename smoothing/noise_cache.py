"""What the engine keeps between requests: inputs that are ready to be noised, and samples that were drawn but not used.

A generator that draws whole blocks would draw a block of 128 again for every look of a few samples. What is kept here is
not read before it is asked for, and a part that has been forgotten is drawn again, to the same bits: the memory given to
this cache changes the speed and nothing else.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator

from jaxtyping import Float
from torch import Tensor

from smoothing.estimators.base import Phase
from smoothing.noise_source import Draw, NoiseSource

SAMPLE_BYTES = 256 * 2**20
"""Memory for samples that were drawn and not used yet."""

INPUT_BYTES = 64 * 2**20
"""Memory for inputs that are ready to be noised."""

_PIECE = 128
"""Samples drawn at once, about: enough to be fast, few enough to stay in the processor's cache."""


class NoiseCache:
    """Draws the noisy copies that are asked for, each sample once as far as the memory allows.

    Args:
        source: Who draws them.
        inputs: Returns the input [*shape] of a key.
    """

    def __init__(self, source: NoiseSource, inputs: Callable[[int], Float[Tensor, "..."]]) -> None:
        self._source = source
        self._inputs = inputs
        self._bound: OrderedDict[int, tuple[Draw, int]] = OrderedDict()
        self._bound_bytes = 0
        self._left: OrderedDict[tuple[int, Phase, int], Tensor] = OrderedDict()
        self._left_bytes = 0

    def samples(self, index: int, phase: Phase, start: int, stop: int) -> Iterator[Float[Tensor, "n ..."]]:
        """Yield samples [start, stop) of one phase of one input, in order and in pieces.

        Raises:
            InvalidArgumentError: If the source cannot add noise to the input.
        """
        draw, chunk = self._draw(index), self._source.chunk
        piece = chunk if chunk >= _PIECE else _PIECE - _PIECE % chunk
        while start < stop:
            block = start // piece
            # Whole chunks, since the source makes no fewer; but no chunk beyond the one in which the request ends.
            end = min((block + 1) * piece, -(-stop // chunk) * chunk)
            samples = self._take((index, phase, start))
            if samples is None:
                first = start - start % chunk
                samples = draw(phase, first, end)[start - first :]
            used = min(len(samples), stop - start)
            if used < len(samples):
                self._put((index, phase, start + used), samples[used:])
            yield samples[:used]
            start += used

    def _draw(self, index: int) -> Draw:
        found = self._bound.pop(index, None)
        if found is None:
            x = self._inputs(index)
            found = (self._source.bind(x, index), x.numel() * x.element_size())
            self._bound_bytes += found[1]
            while self._bound and self._bound_bytes > INPUT_BYTES:
                self._bound_bytes -= self._bound.popitem(last=False)[1][1]
        self._bound[index] = found
        return found[0]

    def _take(self, key: tuple[int, Phase, int]) -> Tensor | None:
        samples = self._left.pop(key, None)
        if samples is not None:
            self._left_bytes -= _storage(samples)
        return samples

    def _put(self, key: tuple[int, Phase, int], samples: Tensor) -> None:
        self._take(key)
        self._left[key] = samples
        self._left_bytes += _storage(samples)
        while self._left_bytes > SAMPLE_BYTES:
            self._left_bytes -= _storage(self._left.popitem(last=False)[1])


def _storage(samples: Tensor) -> int:
    # A slice keeps all of the block alive that it was cut from.
    return samples.untyped_storage().nbytes()
