"""The forward pass at one recorded, fixed shape and precision: the function that a certificate speaks about."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smoothing.errors import InvalidArgumentError

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
        self.device = torch.device(device) if device is not None else _device_of(self.module)
        if self.module is not None:
            self.module.to(self.device)
            if settings.channels_last:
                self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._call: Callable[[Tensor], Any] = (
            torch.compile(classifier, dynamic=False) if settings.compile else classifier
        )

    def new_batch(self, shape: tuple[int, ...]) -> Tensor:
        """Return the buffer [batch_size, *shape] that batches are assembled in."""
        batch = torch.zeros((self.settings.batch_size, *shape), device=self.device)
        if self.settings.channels_last and batch.dim() == 4:
            return batch.contiguous(memory_format=torch.channels_last)
        return batch

    def __call__(self, batch: Tensor) -> Any:
        """Run the classifier once; to be called inside `evaluating` and `torch.inference_mode`."""
        with ExitStack() as stack:
            dtype = _AUTOCAST[self.settings.precision]
            if dtype is not None:
                stack.enter_context(torch.autocast(self.device.type, dtype=dtype))
            if self.device.type == "cuda":
                # TF32 and the search for the fastest kernel would make "fp32" depend on the moment of the run.
                stack.enter_context(
                    torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
                )
            return self._call(batch)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put every submodule in eval mode and restore each one's own flag afterwards."""
        if self.module is None:
            yield
            return
        flags = [(module, module.training) for module in self.module.modules()]
        self.module.eval()
        try:
            yield
        finally:
            for module, training in flags:
                module.training = training


def _device_of(module: nn.Module | None) -> torch.device:
    if module is not None:
        for tensor in (*module.parameters(), *module.buffers()):
            return tensor.device
    return torch.device("cpu")
