"""A Python callable on 8-bit images as a service: for tests, for what runs in this process, and for comparison."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx
import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from certify.blackbox.adapter import Adapter
from certify.blackbox.answers import Answer, RefusedError
from certify.blackbox.images import dequantize
from smoothing.errors import ClassifierError


@dataclass(frozen=True)
class LocalCallable(Adapter):
    """Calls a function that maps images (uint8, [batch, height, width, channel]) to one label each.

    A label is text, a class number, or None for a refusal; an exception of the function is a refusal of all.

    Args:
        function: What is asked.
        identity: Text that names the function in a run's identity.
        batch: Images a call.
    """

    function: Callable[[Any], Sequence[Any]]
    identity: str = "callable"
    batch: int = 64

    name: ClassVar[str] = "callable"

    @property
    def images_per_call(self) -> int:  # type: ignore[override]
        """Images that one call may carry."""
        return self.batch

    def describe(self) -> dict[str, Any]:
        """Return the identity."""
        return {"adapter": self.name, "identity": self.identity}

    async def ask(self, client: httpx.AsyncClient, prepared: Any) -> Sequence[Answer]:
        """Call the function in a thread; see `Adapter.ask`."""
        try:
            labels = await asyncio.to_thread(self.function, prepared)
        except Exception as error:  # whatever the user's function raises is its answer
            raise RefusedError(f"the function raised {type(error).__name__}") from None
        if len(labels) != len(prepared):
            raise RefusedError(f"the function returned {len(labels)} labels for {len(prepared)} images")
        return [_answer(label) for label in labels]


def torch_function(classifier: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], list[int | None]]:
    """Return the function on 8-bit images that a torch classifier makes: k / 255, forward, argmax.

    Its labels are None where a score is not finite. It raises `ClassifierError` where the classifier does, or where it gives
    one score an image.
    """

    def function(images: UInt8[ndarray, "batch height width channel"]) -> list[int | None]:
        with torch.inference_mode():
            output = classifier(dequantize(images))
        if not output.is_floating_point():
            return [int(label) for label in output.tolist()]
        if output.shape[1] < 2:
            raise ClassifierError(
                "it gives one score an image, which names no class: there must be one for each, or labels"
            )
        good = output.isfinite().all(1).tolist()
        return [int(label) if fine else None for label, fine in zip(output.argmax(1).tolist(), good, strict=True)]

    return function


def _answer(label: Any) -> Answer:
    if label is None:
        return Answer(None, None, "no label")
    if isinstance(label, bool) or not isinstance(label, str | int | np.integer):
        return Answer(None, None, "the label is neither text nor a class number")
    return Answer(str(label).strip() or None)
