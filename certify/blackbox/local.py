"""A Python callable on 8-bit images as a service: for tests, for what runs in this process, and for comparison."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx
import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from certify.blackbox.adapter import Adapter, label_text
from certify.blackbox.answers import Answer, RefusedError
from certify.blackbox.images import dequantize
from certify.errors import UsageError
from smoothing.errors import ClassifierError


@dataclass(frozen=True)
class LocalCallable(Adapter):
    """Calls a function that maps images (uint8, [batch, height, width, channel]) to one label each.

    A label is text, a class number, or None for a refusal; an exception of the function is a refusal of all. Class numbers
    may be whole floats, and labels stand in a sequence or in an array or tensor of one axis, on whatever device. A number
    that is not whole, NaN among them, is an answer without a label.

    Args:
        function: What is asked.
        identity: Text that names the function in a run's identity.
        batch: Images a call.
    """

    function: Callable[[Any], Any]
    identity: str = "callable"
    batch: int = 64
    _known: dict[str, bool] = field(default_factory=dict, init=False, compare=False, repr=False)

    name: ClassVar[str] = "callable"

    @property
    def images_per_call(self) -> int:  # type: ignore[override]
        """Images that one call may carry."""
        return self.batch

    def describe(self) -> dict[str, Any]:
        """Return the identity."""
        return {"adapter": self.name, "identity": self.identity}

    async def ask(self, client: httpx.AsyncClient, prepared: Any) -> Sequence[Answer]:
        """Call the function in a thread; see `Adapter.ask`.

        Raises:
            UsageError: If it does not return labels at all, before it has ever done so.
        """
        count = len(prepared)
        try:
            answers = [_answer(label) for label in _labels(await asyncio.to_thread(self.function, prepared), count)]
        except (_UnreadableError, ClassifierError) as error:
            got = f"got {error}" if isinstance(error, _UnreadableError) else f"but of the classifier inside: {error}"
            if not self._known:
                # All answers would be unreadable: every input would abstain, at full cost.
                raise UsageError(
                    f"the function must return one label for each of the {count} images (text, a whole number, or None "
                    f"for a refusal) in a list, a tuple, or an array or tensor of shape ({count},), {got}"
                ) from None
            raise RefusedError(f"the function must return one label an image, {got}") from None
        except Exception as error:  # whatever the user's function raises is its answer
            raise RefusedError(f"the function raised {type(error).__name__}") from None
        self._known["readable"] = True
        return answers


class _UnreadableError(Exception):
    """What the function returned is no sequence of labels; the message says what it is."""


def torch_function(classifier: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], list[int | None]]:
    """Return the function on 8-bit images that a torch classifier makes: k / 255, forward, argmax.

    Its labels are None where a score is not finite. It raises `ClassifierError` where the classifier does, or where it gives
    one score an image.
    """

    def function(images: UInt8[ndarray, "batch height width channel"]) -> list[int | None]:
        with torch.inference_mode():
            output = classifier(dequantize(images))
        if not output.is_floating_point() and output.ndim == 1:
            return [int(label) for label in output.tolist()]
        if output.ndim not in (1, 2):
            raise ClassifierError(
                f"its output must be scores [batch, classes] or integer labels [batch], got shape {tuple(output.shape)}"
            )
        if output.ndim == 1 or output.shape[1] < 2:
            raise ClassifierError(
                "it gives one score an image, which names no class: there must be one for each, or labels"
            )
        good = output.isfinite().all(1).tolist()
        return [int(label) if fine else None for label, fine in zip(output.argmax(1).tolist(), good, strict=True)]

    return function


def _labels(returned: Any, count: int) -> list[Any]:
    """Return what stands for a label of each image, whatever the sequence was."""
    if isinstance(returned, torch.Tensor):
        if returned.layout is not torch.strided or returned.is_meta:
            raise _UnreadableError(f"a {'meta' if returned.is_meta else 'sparse'} tensor")
        returned = returned.detach().cpu()
    elif not isinstance(returned, ndarray) and hasattr(returned, "__array__"):
        # Of other libraries: columns of tables, arrays on their devices.
        try:
            returned = np.asarray(returned)
        except Exception:  # each library has its own way to refuse
            raise _UnreadableError(f"an array of type {type(returned).__name__}, which numpy cannot read") from None
    if isinstance(returned, torch.Tensor | ndarray):
        if returned.ndim != 1:
            kind = "a tensor" if isinstance(returned, torch.Tensor) else "an array"
            scores = "; of scores, the largest must be chosen first" if returned.ndim == 2 else ""
            raise _UnreadableError(f"{kind} of shape {tuple(returned.shape)}{scores}")
        labels = returned.tolist()
    elif isinstance(returned, Sequence) and not isinstance(returned, str | bytes | bytearray | memoryview):
        labels = list(returned)
    else:
        raise _UnreadableError(f"one value of type {type(returned).__name__}")
    if len(labels) != count:
        raise _UnreadableError(f"{len(labels)} labels")
    return labels


def _answer(label: Any) -> Answer:
    if isinstance(label, torch.Tensor | ndarray) and label.ndim == 0:
        label = label.item()
    if label is None:
        return Answer(None, None, "no label")
    if isinstance(label, bool) or not isinstance(label, str | int | float | np.integer | np.floating):
        raise _UnreadableError(f"a label of type {type(label).__name__}")
    text = label_text(label)
    return Answer(text, None, "" if text is not None else "the label is empty, or no whole number")
