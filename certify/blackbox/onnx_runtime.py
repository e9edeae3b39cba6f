"""ONNX Runtime in this process, asked like a service: behind the clip and the 8-bit step, with journal, retries and budget.

`certify run model.onnx --adapter onnxruntime` certifies what a server in front of this file would answer to PNGs;
`certify run onnx:model.onnx` is another base classifier, which runs the file on the noisy input as it is.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import httpx
from jaxtyping import UInt8
from numpy import ndarray

from certify.blackbox.adapter import Adapter
from certify.blackbox.answers import Answer, RefusedError
from certify.blackbox.local import torch_function
from certify.errors import ModelError, UsageError
from certify.models.from_onnx import load_onnx
from smoothing.errors import ClassifierError

PREFIX = "onnx:"


@dataclass(frozen=True)
class OnnxRuntime(Adapter):
    """A classifier in an ONNX file with one floating-point input and scores or labels out; k / 255, run, argmax.

    The version of every answer is the SHA-256 of the file (with the files that hold its large tensors): the file is read
    once, and a run goes on only with the same one.

    Args:
        file: The ONNX file; "onnx:" before it may stand or not.
        batch: Images a call.

    Raises:
        UsageError: If the batch is below 1, or the file is an address.
        ModelError: If onnxruntime is not installed, or the file is absent, damaged or no such classifier.
    """

    file: str
    batch: int = 64
    _loaded: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    name: ClassVar[str] = "onnxruntime"

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UsageError(f"batch must be at least 1, got batch={self.batch}")
        if re.match(r"[a-z][a-z0-9+.-]+://", self.file, re.IGNORECASE):
            raise UsageError(
                f"the onnxruntime adapter runs a file in this process: MODEL must be its path, got {self.file}"
            )
        path = Path(self.file.removeprefix(PREFIX)).expanduser()
        if not path.is_file():
            raise ModelError(f"{path} is no file: with --adapter onnxruntime MODEL must be the path of an ONNX file")
        self._loaded["model"] = load_onnx(str(path), path)

    @property
    def images_per_call(self) -> int:  # type: ignore[override]
        """Images that one call may carry."""
        return self.batch

    @property
    def num_classes(self) -> int | None:
        """Number of scores, where the file says it."""
        classes: int | None = self._loaded["model"].num_classes
        return classes

    @property
    def digest(self) -> str:
        """SHA-256 of the file and of the files that it names."""
        return str(self._loaded["model"].digest)

    def describe(self) -> dict[str, Any]:
        """Return what can change a label; not the path: a file may move."""
        return {"adapter": self.name, "model": f"sha256:{self.digest}"}

    async def ask(self, client: httpx.AsyncClient, prepared: Any) -> Sequence[Answer]:
        """Run the file on all images in a thread; see `Adapter.ask`."""
        try:
            return await asyncio.to_thread(self._run, prepared)
        except ClassifierError as error:
            raise RefusedError(str(error), version=self.digest) from None

    def _run(self, images: UInt8[ndarray, "batch height width channel"]) -> list[Answer]:
        labels = torch_function(self._loaded["model"].classifier)(images)
        return [
            Answer(None, self.digest, "a score is not finite") if label is None else Answer(str(label), self.digest)
            for label in labels
        ]
