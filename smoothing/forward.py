"""The forward pass at one recorded, fixed shape and precision: the function that a certificate speaks about."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from smoothing.errors import ClassifierError, InvalidArgumentError, SmoothingError

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ForwardSettings:
    """Everything that can change the last bits of a score; part of the identity of a run.

    Attributes:
        batch_size: Rows of every forward pass, the last one padded: kernels depend on the shape, and near-ties with them.
        precision: "fp32", or "bf16"/"fp16" by autocast; the certificate is for the classifier at this precision.
        channels_last: Keep image batches and convolution weights in NHWC order, often faster.
        compile: Run the classifier through `torch.compile`.

    Raises:
        InvalidArgumentError: If a value is out of range.
    """

    batch_size: int = 256
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise InvalidArgumentError(
                f"batch_size must be an integer of at least 1, got batch_size={self.batch_size!r}"
            )
        if self.precision not in _AUTOCAST:
            raise InvalidArgumentError(
                f"precision must be one of {', '.join(_AUTOCAST)}, got precision={self.precision!r}"
            )


class Forward:
    """A classifier bound to a device and to `ForwardSettings`.

    An `nn.Module` is moved to the device (and memory format); its training flags are restored after `evaluating`.
    """

    def __init__(
        self, classifier: Callable[[Tensor], Any], settings: ForwardSettings, device: torch.device | str | None = None
    ) -> None:
        if not callable(classifier):
            raise InvalidArgumentError(f"the classifier must be callable, got {type(classifier).__name__}")
        self.settings = settings
        self.module = classifier if isinstance(classifier, nn.Module) else None
        self._behind = modules_behind(classifier)
        if settings.precision != "fp32" and not self._behind:
            # Autocast reaches torch's operators only: the certificate would name a precision that f never had.
            raise InvalidArgumentError(
                f"precision={settings.precision!r} needs a classifier that is an nn.Module; "
                f"{type(classifier).__name__} decides about its own precision: use precision='fp32'"
            )
        self.device = torch.device(device) if device is not None else _device_of(self._behind)
        if self.module is not None:
            self.module.to(self.device)
            if settings.channels_last:
                self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._call: Callable[[Tensor], Any] = (
            torch.compile(classifier, dynamic=False) if settings.compile else classifier
        )

    def new_batch(self, shape: tuple[int, ...]) -> Tensor:
        """Return the buffer [batch_size, *shape] that batches are assembled in."""
        try:
            batch = torch.zeros((self.settings.batch_size, *shape), device=self.device)
        except RuntimeError as error:
            raise InvalidArgumentError(
                f"a batch of shape {(self.settings.batch_size, *shape)} does not fit into memory; use a smaller batch_size"
            ) from error
        if self.settings.channels_last and batch.dim() == 4:
            return batch.contiguous(memory_format=torch.channels_last)
        return batch

    def __call__(self, batch: Tensor) -> Any:
        """Run the classifier once; to be called inside `evaluating` and `torch.inference_mode`.

        Raises:
            ClassifierError: If the classifier raises; its own error is the cause.
        """
        with ExitStack() as stack:
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
            dtype = _AUTOCAST[self.settings.precision]
            if dtype is not None:
                stack.enter_context(torch.autocast(self.device.type, dtype=dtype))
            if self.device.type == "cuda":
                # TF32 and the search for the fastest kernel would make "fp32" depend on the moment of the run.
                stack.enter_context(
                    torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
                )
            try:
                return self._call(batch)
            except SmoothingError:
                raise
            except Exception as error:
                reason = str(error).strip().split("\n")[0]
                raise ClassifierError(
                    f"the classifier failed on a batch of shape {tuple(batch.shape)}: {type(error).__name__}: {reason}"
                ) from error

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put every submodule in eval mode and restore each one's own flag afterwards.

        Modules behind a plain callable (a bound method, a closure, an attribute) are found and treated alike.
        """
        flags = [(module, module.training) for root in self._behind for module in root.modules()]
        for root in self._behind:
            root.eval()
        try:
            yield
        finally:
            for module, training in flags:
                module.training = training


def modules_behind(classifier: Any) -> list[nn.Module]:
    """Return the modules that a callable consists of or holds: itself, or those of its closure, arguments and attributes.

    Looks through bound methods, `functools.partial`, closure cells, instance attributes and plain containers, a few levels
    deep; what is hidden deeper is still noticed by `smoothing.coupling`.
    """
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()

    def look(value: Any, depth: int) -> None:
        if id(value) in seen or depth > 4:
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found[id(value)] = value
            return
        inner: list[Any] = [getattr(value, "__self__", None)]
        if isinstance(value, partial):
            inner += [value.func, value.args, value.keywords]
        if isinstance(value, FunctionType):
            for cell in value.__closure__ or ():
                with suppress(ValueError):  # a cell that is still empty
                    inner.append(cell.cell_contents)
            inner += [value.__defaults__, value.__kwdefaults__]
        elif isinstance(value, list | tuple | set | frozenset):
            inner += list(value)
        elif isinstance(value, dict):
            inner += list(value.values())
        elif not isinstance(value, ModuleType | type):
            inner.append(getattr(value, "__dict__", None))
        for part in inner:
            if part is not None:
                look(part, depth + 1)

    look(classifier, 0)
    return list(found.values())


def _device_of(modules: list[nn.Module]) -> torch.device:
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            return tensor.device
    return torch.device("cpu")
