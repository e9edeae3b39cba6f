"""The digest of a model: a sha256 of what it computes, the same in every process and on every machine."""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

_LIBRARIES = {"torch", "torchvision", "timm", "transformers"}


@runtime_checkable
class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...


def module_digest(module: nn.Module, architecture: str) -> str:
    """Return sha256 (hex) over `architecture` and every parameter and buffer: name, dtype, shape and bytes.

    Buffers that are not saved with the state dict count too, for they change what is computed all the same.

    Args:
        module: On any device.
        architecture: Text that says how the tensors are put together (a configuration, a source text).
    """
    contents = dict(module.state_dict()) | dict(module.named_buffers())
    result = hashlib.sha256()
    _add_text(result, architecture)
    for name in sorted(contents):
        _add_text(result, name)
        _add_value(result, contents[name])
    return result.hexdigest()


def text_digest(*texts: str) -> str:
    """Return sha256 (hex) over texts, told apart whatever they contain."""
    result = hashlib.sha256()
    for text in texts:
        _add_text(result, text)
    return result.hexdigest()


def source_texts(modules: Iterable[ModuleType | str | None]) -> list[str]:
    """Return "name sha256" of the source files of Python modules, sorted; those without a file are left out."""
    texts = set()
    for module in modules:
        found = sys.modules.get(module) if isinstance(module, str) else module
        file = getattr(found, "__file__", None)
        if found is not None and file is not None and Path(file).is_file():
            texts.add(f"{found.__name__} {hashlib.sha256(Path(file).read_bytes()).hexdigest()}")
    return sorted(texts)


def class_modules(module: nn.Module) -> set[str]:
    """Return the names of the Python modules that define the classes of `module` and its parts.

    Those of the large libraries are left out: their sources change with every release, what they compute does not.
    """
    names = {type(part).__module__ for part in module.modules()}
    return {name for name in names if name.partition(".")[0] not in _LIBRARIES}


def _add_text(result: _Hash, text: str) -> None:
    data = text.encode()
    result.update(len(data).to_bytes(8, "little"))
    result.update(data)


def _add_value(result: _Hash, value: object) -> None:
    """Add one entry of a state dict: nearly always a tensor, else a layer's extra state (packed weights, ...)."""
    if isinstance(value, Tensor):
        _add_text(result, f"{value.dtype} {tuple(value.shape)}")
        tensor = value.detach().cpu()
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        if tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        result.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().data)
    elif isinstance(value, tuple | list):
        _add_text(result, f"{type(value).__name__} {len(value)}")
        for item in value:
            _add_value(result, item)
    elif isinstance(value, dict):
        _add_text(result, f"dict {len(value)}")
        for key in sorted(value, key=str):
            _add_text(result, str(key))
            _add_value(result, value[key])
    else:
        _add_text(result, repr(value))
