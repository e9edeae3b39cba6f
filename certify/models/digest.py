"""The digest of a model: a sha256 of what it computes, the same in every process and on every machine."""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from torch import nn

from certify.models.reachable import Reachable, look_into


def module_digest(module: nn.Module, architecture: str) -> str:
    """Return sha256 (hex) over `architecture` and all that makes up the module and its parts.

    Of every part, by its name: the name of its class, its plain attributes (a scale, a mode, a flag, a tensor), its
    hooks; and every parameter and buffer: name, dtype, shape and bytes. Buffers that are not saved with the state dict
    count too, for they change what is computed all the same.

    Args:
        module: On any device.
        architecture: Text that says how the tensors are put together (a configuration, a source text).
    """
    return text_digest(architecture, look_into(module).digest)


def callable_digest(value: object, *texts: str) -> str:
    """Return sha256 (hex) over `texts` and all that can be reached from any callable, or any other object.

    See `look_into` for what that is. What a module of Python computes is known by its source: the sources of all
    Python modules whose functions and classes are met belong to the digest, except those of libraries.
    """
    return reached_digest(look_into(value), *texts)


def reached_digest(reached: Reachable, *texts: str) -> str:
    """Return sha256 (hex) over `texts`, what was reached, and the sources of the Python modules met on the way."""
    return text_digest(*texts, *source_texts(reached.modules), reached.digest)


def text_digest(*texts: str) -> str:
    """Return sha256 (hex) over texts, told apart whatever they contain."""
    result = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        result.update(len(data).to_bytes(8, "little"))
        result.update(data)
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
