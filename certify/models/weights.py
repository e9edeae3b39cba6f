"""Putting named tensors into an architecture, with an answer to what does not fit."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from certify.errors import ModelError

_SHOWN = 4


def misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Return what keeps `found` from being `expected`: names missing, unexpected, of another shape; "" for nothing.

    Only the first few of each kind are named.
    """
    wrong = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    kinds = {
        "missing": [name for name in expected if name not in found],
        "unexpected": sorted(name for name in found if name not in expected),
        "of another shape": wrong,
    }
    return "; ".join(f"{len(names)} {kind}: {_first(names)}" for kind, names in kinds.items() if names)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> nn.Module:
    """Give `module`, built on the meta device, the values of `tensors`, and return it on the CPU in eval mode.

    Values take the architecture's dtypes; nothing is shared with `tensors`.

    Args:
        module: Built under `torch.device("meta")`, so that no random weights are drawn first.
        tensors: All of its parameters and buffers by name.
        what: How to call the source of the tensors in an error.

    Raises:
        ModelError: If names or shapes are not those of the module.
    """
    expected = module.state_dict()
    problem = misfits(expected, tensors)
    if problem:
        raise ModelError(f"{what} does not fit the architecture; tensors {problem}")
    values = {name: tensors[name].detach().to("cpu", expected[name].dtype, copy=True).contiguous() for name in expected}
    module.load_state_dict(values, strict=True, assign=True)
    return module.eval()


def on_meta() -> torch.device:
    """Return the device to build on when the weights will be replaced anyway; use as a context."""
    return torch.device("meta")


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
