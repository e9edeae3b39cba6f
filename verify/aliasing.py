"""Values of a traced network that share memory: what is written into one in place changes the others too.

`relu(h, inplace=True) + h` is twice the ReLU: the skip connection reads what was written. A translation that maps each
operation to a new node would read the old value of h there, so after every operation it is asked here what was written.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Traced:
    """A value that depends on the input: its node, and its concrete value in the trial run.

    `stale` holds the name of an operation that changed a part of the value in place through another view, after which no
    node has it; None as long as there is none.
    """

    def __init__(self, node: int, value: Tensor) -> None:
        self.node, self.value = node, value
        self.stale: str | None = None


def traced_in(tree: Any) -> list[Traced]:
    """All traced values in the nested arguments of an operation."""
    if isinstance(tree, Traced):
        return [tree]
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple | list) else ()
    return [found for item in items for found in traced_in(item)]


class Memory:
    """All traced values so far, and how often the memory of each was written (torch counts it per memory, not per view)."""

    def __init__(self) -> None:
        self.values: list[Traced] = []

    def add(self, value: Traced) -> Traced:
        """Remember a value; return it."""
        self.values.append(value)
        return value

    @staticmethod
    def versions(tensors: Sequence[Tensor]) -> list[int]:
        """Return how often each tensor's memory was written so far."""
        return [0 if tensor.is_inference() else tensor._version for tensor in tensors]

    def rebind(self, written: Tensor, node: int, name: str, reshape: Callable[[int, Sequence[int], str], int]) -> None:
        """Give all values in the memory of `written` their node after an operation in place.

        Args:
            written: What was written, as it is now; all of it is the value of `node`.
            node: The operation's.
            name: The operation's.
            reshape: (node, shape, name) -> node, for values that are the same memory in another shape.
        """
        for value in self.values:
            other = value.value
            if other.untyped_storage().data_ptr() != written.untyped_storage().data_ptr():
                continue
            same_start = other.data_ptr() == written.data_ptr() and other.numel() == written.numel()
            if same_start and other.shape == written.shape and other.stride() == written.stride():
                value.node, value.stale = node, None
            elif (
                same_start and other.is_contiguous() and written.is_contiguous() and other.shape[0] == written.shape[0]
            ):
                value.node, value.stale = reshape(node, other.shape[1:], name), None
            elif bool(torch.isin(_places(other), _places(written)).any()):
                value.stale = name


def _places(tensor: Tensor) -> Tensor:
    """Return where each entry lies in the tensor's memory."""
    everything = torch.arange(tensor.untyped_storage().nbytes() // tensor.element_size())
    return everything.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).flatten()
