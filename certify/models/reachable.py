"""Looking into objects: one sha256 over all the numbers and texts that can be reached from a callable.

A classifier may keep its weights anywhere: in a module, an attribute, a closure, a default, a global of its Python
module. Whatever is found there becomes part of the hash, so that replaced weights are noticed. What Python cannot look
into (objects of compiled libraries, locks, files) enters by the name of its class, and is reported.
"""

import functools
import hashlib
import inspect
import re
import sys
from array import array
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_LIBRARIES = {
    "torch", "torchvision", "timm", "transformers", "numpy", "scipy", "sklearn", "onnxruntime", "PIL",
    "jaxtyping", "beartype", "huggingface_hub", "safetensors",
}  # fmt: skip
_OWN = {"certify", "smoothing", "denoisers", "verify"}
_STANDARD = sys.stdlib_module_names - {"__main__"}
_HOLDERS = {"_ctypes", "_io", "_socket", "ctypes", "mmap", "multiprocessing", "socket", "sqlite3", "subprocess"}
"""Of the standard library, those whose objects may hold weights; its others (loggers, locks, paths) do not."""
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
_BOOKKEEPING = {"name_or_path"}  # where a network of transformers was loaded from, not what it computes
_DEEPEST = 60


@dataclass(frozen=True)
class Reachable:
    """What was found.

    Attributes:
        digest: sha256 (hex) of the contents; the same in every process.
        modules: Names of the Python modules, libraries left out, whose functions and classes were met.
        opaque: Names of the classes of objects that could not be looked into.
    """

    digest: str
    modules: frozenset[str]
    opaque: frozenset[str]


def look_into(value: object) -> Reachable:
    """Hash all that is reachable from `value`.

    Followed are containers; attributes of objects; the parts, parameters, buffers, plain attributes and hooks of
    `nn.Module`s; of functions the closure, the defaults, the attributes and the globals that their code names; of
    methods the object; of `functools.partial` the function and its arguments; of classes the attributes. Functions and
    classes of libraries enter by name. Cycles are cut where they close.

    Tensors and arrays enter by dtype, shape and bytes; numbers, texts, bytes and enums by their value.
    """
    walk = _Walk()
    digest = walk.of(value)
    return Reachable(digest.hex(), frozenset(walk.modules), frozenset(walk.opaque))


def is_library(module: str) -> bool:
    """Return whether a Python module belongs to a library, whose source says nothing about the user's classifier."""
    top = module.partition(".")[0]
    return top in _LIBRARIES or top in _STANDARD


def own_attributes(module: nn.Module) -> dict[str, object]:
    """Return what was set on a module beyond what every `nn.Module` has, by name, without bookkeeping.

    Private names are left out for classes of libraries, which keep caches and flags of their own there.
    """
    private = not is_library(type(module).__module__)
    return {
        name: value
        for name, value in vars(module).items()
        if name not in _MODULE_ATTRIBUTES and name not in _BOOKKEEPING and (private or not name.startswith("_"))
    }


class _Walk:
    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.opaque: set[str] = set()
        self._open: dict[int, int] = {}  # objects that are being hashed, and how deep they are
        self._done: dict[int, tuple[bytes, object]] = {}  # the object is kept, so that its id stays its own

    def of(self, value: Any) -> bytes:
        """Return the sha256 of one value."""
        atom = _atom(value)
        if atom is not None:
            return _sha(atom)
        key = id(value)
        if key in self._done:
            return self._done[key][0]
        if key in self._open:
            return _sha("again", str(len(self._open) - self._open[key]))
        if len(self._open) >= _DEEPEST:
            self.opaque.add(f"{_name(type(value))} ({_DEEPEST} levels deep)")
            return self._unseen(value)
        self._open[key] = len(self._open)
        try:
            digest = self._compound(value)
        finally:
            del self._open[key]
        self._done[key] = (digest, value)
        return digest

    def _compound(self, value: Any) -> bytes:
        if isinstance(value, Tensor):
            return _tensor(value)
        if isinstance(value, np.ndarray | np.generic):
            return self._array(np.asarray(value))
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, ModuleType):
            return _sha("module", value.__name__)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            return _sha("method", self.of(value.__self__), self.of(value.__func__))
        if isinstance(value, BuiltinFunctionType):
            owner = value.__self__
            bound = b"" if owner is None or isinstance(owner, ModuleType) else self.of(owner)
            return _sha("builtin", str(value.__module__), value.__qualname__, bound)
        if isinstance(value, functools.partial):
            return _sha("partial", self.of(value.func), self.of(value.args), self.of(value.keywords))
        if isinstance(value, staticmethod | classmethod):
            return _sha(type(value).__name__, self.of(value.__func__))
        if isinstance(value, property):
            return _sha("property", self.of(value.fget))
        return self._instance(value)

    def _instance(self, value: Any) -> bytes:
        """Return the hash of a container or any other object: its class, its items, its attributes."""
        pieces: list[str | bytes] = [_name(type(value)), self.of(type(value))]
        known = True
        if isinstance(value, dict):
            pieces += self._mapping(value)
        elif isinstance(value, list | tuple | deque):
            pieces += [self.of(item) for item in value]
        elif isinstance(value, set | frozenset):
            pieces += sorted(self.of(item) for item in value)
        elif isinstance(value, memoryview | array):
            pieces.append(bytes(value))
        else:
            known = False
        if type(value).__module__.partition(".")[0] in _STANDARD and type(value) is not SimpleNamespace:
            # Their attributes are states of the process (all loggers, ...), but for what they wrap or call.
            inner = [getattr(value, name) for name in ("__wrapped__", "func") if hasattr(value, name)]
            if known or inner:
                return _sha(*pieces, *(self.of(item) for item in inner))
            return self._unseen(value)
        attributes = dict(getattr(value, "__dict__", {}))
        for cls in type(value).__mro__:
            slots = vars(cls).get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                    attributes[slot] = getattr(value, slot)
        if attributes:
            pieces += ["attributes", *self._mapping(attributes)]
        elif not known and is_library(type(value).__module__):
            return self._unseen(value)
        return _sha(*pieces)

    def _mapping(self, values: dict[Any, object]) -> list[bytes]:
        return sorted(_sha(self.of(key), self.of(value)) for key, value in values.items())

    def _module(self, module: nn.Module) -> bytes:
        """Return the hash of a network: of each part by name its class and attributes, then all tensors by name."""
        pieces: list[str | bytes] = []
        for name, part in module.named_modules():
            cls = type(part)
            pieces += ["part", name, cls.__qualname__]
            self._meet(cls.__module__)
            if not _known_by_name(cls.__module__):
                pieces.append(self.of(cls))
            for key, value in sorted(own_attributes(part).items()):
                if is_library(cls.__module__) and not _plain(value):
                    continue
                pieces += [key, self.of(value)]
            if isinstance(part, torch.jit.ScriptModule):
                pieces += self._script(part)
            for hooks in (part._forward_pre_hooks, part._forward_hooks):
                pieces += [self.of(hook) for hook in hooks.values()]
        contents = dict(module.state_dict()) | dict(module.named_buffers())
        for name in sorted(contents):
            pieces += ["tensor", name, self.of(contents[name])]
        return _sha("network", *pieces)

    def _script(self, part: Any) -> list[str | bytes]:
        """Return the code and the constants of a TorchScript module; its plain attributes cannot be listed."""
        self.opaque.add("torch.jit.ScriptModule")
        try:
            code, constants = part.code_with_constants
        except RuntimeError:  # a part without a forward function
            return []
        # The numbers in mangled names count what was loaded before in this process.
        return [re.sub(r"___torch_mangle_\d+\.?", "", code), *self._mapping(dict(constants.const_mapping))]

    def _function(self, function: FunctionType) -> bytes:
        module = function.__module__ or ""
        name = f"{module}.{function.__qualname__}"
        self._meet(module)
        if _known_by_name(module):
            # Known by name; but a closure made by a library may still hold the user's values.
            return _sha("function", name, *self._cells(function))
        codes = list(_codes(function.__code__))
        pieces: list[str | bytes] = ["function", name, str(function.__code__.co_firstlineno), *self._cells(function)]
        pieces += [self.of(function.__defaults__), self.of(function.__kwdefaults__)]
        pieces += self._mapping(dict(vars(function)))
        # The source of the module tells what a function does, unless there is none, or several lambdas on one line.
        if function.__name__ == "<lambda>" or not getattr(sys.modules.get(module), "__file__", None):
            pieces += [piece for code in codes for piece in (code.co_code, " ".join(code.co_names))]
            pieces += [self.of(c) for code in codes for c in code.co_consts if not isinstance(c, CodeType)]
        used = sorted({used for code in codes for used in code.co_names})
        for word in used:
            value = function.__globals__.get(word)
            if isinstance(value, ModuleType) and not _known_by_name(value.__name__):
                # `helpers.WEIGHTS`: which attributes of the module are meant is known by name only
                inside = vars(value)
                pieces += [piece for other in used if other in inside for piece in (other, self.of(inside[other]))]
            elif value is not None:
                pieces += [word, self.of(value)]
        return _sha(*pieces)

    def _cells(self, function: FunctionType) -> list[str | bytes]:
        pieces: list[str | bytes] = []
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                pieces += [name, self.of(cell.cell_contents)]
            except ValueError:  # not filled yet
                pieces += [name, "empty"]
        return pieces

    def _class(self, cls: type) -> bytes:
        pieces: list[str | bytes] = ["class", _name(cls)]
        for base in cls.__mro__:
            self._meet(base.__module__)
            if _known_by_name(base.__module__):
                continue
            for name, value in sorted(vars(base).items()):
                special = name.startswith("__") and name.endswith("__") and not inspect.isfunction(value)
                slot = inspect.isdatadescriptor(value) and not isinstance(value, property)
                if not special and not slot:
                    pieces += [name, self.of(value)]
        return _sha(*pieces)

    def _array(self, values: Any) -> bytes:
        if values.dtype.hasobject:
            return _sha("array", str(values.shape), *(self.of(item) for item in values.ravel().tolist()))
        data = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
        return _sha("array", values.dtype.str.lstrip("<>=|"), str(values.shape), data.tobytes())

    def _unseen(self, value: object) -> bytes:
        top = type(value).__module__.partition(".")[0]
        if top not in _STANDARD or top in _HOLDERS:
            self.opaque.add(_name(type(value)))
        return _sha("unseen", _name(type(value)))

    def _meet(self, module: str) -> None:
        if module and not is_library(module):
            self.modules.add(module)


def _atom(value: Any) -> str | None:
    """Return a text for a value without parts, None for every other."""
    if value is None or value is Ellipsis or value is NotImplemented:
        return repr(value)
    if isinstance(value, Enum):
        return f"enum {type(value).__qualname__} {value.name}"
    for kind in (bool, int, float, complex, str):
        if isinstance(value, kind):
            return f"{kind.__name__} {kind.__repr__(value)}"
    if isinstance(value, bytes | bytearray):
        return f"bytes {hashlib.sha256(value).hexdigest()}"
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format | range | slice):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, torch.device):
        return "device"  # the device of a run is recorded by itself
    return None


def _known_by_name(module: str) -> bool:
    """Return whether functions and classes of a Python module hold nothing of the user's: libraries and the tool."""
    return is_library(module) or module.partition(".")[0] in _OWN


def _plain(value: object) -> bool:
    """Return whether an attribute of a library's module is one that its computation reads: no dict, no other object."""
    if isinstance(value, list | tuple):
        return all(_plain(item) for item in value)
    kinds = (Tensor, np.ndarray, np.generic, FunctionType, MethodType, BuiltinFunctionType, functools.partial, type)
    return isinstance(value, kinds) or _atom(value) is not None


def _tensor(value: Tensor) -> bytes:
    tensor = value.detach().cpu()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.resolve_conj().resolve_neg()
    data = tensor.reshape(-1).contiguous().view(torch.uint8).numpy()
    return _sha("tensor", f"{value.dtype} {tuple(value.shape)}", data.data)


def _codes(code: CodeType) -> Iterable[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _sha(*pieces: str | bytes | memoryview) -> bytes:
    result = hashlib.sha256()
    for piece in pieces:
        data = piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        result.update((b"t" if isinstance(piece, str) else b"b") + size.to_bytes(8, "little"))
        result.update(data)
    return result.digest()
