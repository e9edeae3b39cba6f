"""Image classification behind a Hugging Face inference endpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx
from jaxtyping import UInt8
from numpy import ndarray

from certify.blackbox.adapter import Adapter, read_json, reading, send, top_label
from certify.blackbox.answers import Answer, RefusedError
from certify.blackbox.images import encode_png
from certify.blackbox.secrets import expand, variables


@dataclass(frozen=True)
class HuggingFaceEndpoint(Adapter):
    """`POST URL` with the PNG itself; the answer is a list of {"label", "score"}, and the largest score counts.

    Such an endpoint reports no version: pin its revision, and let canaries watch it.

    Args:
        url: Address of the endpoint; `${NAME}` is taken from the environment.
        key_variable: Environment variable with the token; None: the endpoint is open.

    Reference: Hugging Face Inference, task "image classification".
    """

    url: str
    key_variable: str | None = "HF_TOKEN"

    name: ClassVar[str] = "hf-endpoint"

    def describe(self) -> dict[str, Any]:
        """Return what can change a label."""
        return {"adapter": self.name, "url": self.url}

    @property
    def variables(self) -> tuple[str, ...]:
        """See `Adapter.variables`."""
        return (*variables(self.url), *([] if self.key_variable is None else [self.key_variable]))

    def prepare(self, images: UInt8[ndarray, "batch height width channel"]) -> bytes:
        """Return the PNG of one image; see `Adapter.prepare`."""
        return encode_png(images[0])

    async def ask(self, client: httpx.AsyncClient, prepared: Any) -> Sequence[Answer]:
        """Ask about one image; see `Adapter.ask`."""
        headers = {"Content-Type": "image/png", "Accept": "application/json"}
        if self.key_variable is not None:
            headers["Authorization"] = expand(f"Bearer ${{{self.key_variable}}}")
        response = await send(client, "POST", expand(self.url), content=prepared, headers=headers)
        with reading():
            return [self.read(read_json(response))]

    def read(self, answer: Any) -> Answer:
        """Turn the JSON of an answer into an `Answer`; equal scores go to the smallest name."""
        entries = answer[0] if isinstance(answer, list) and answer and isinstance(answer[0], list) else answer
        try:
            scored = [(entry["score"], entry["label"]) for entry in entries]
        except (KeyError, TypeError):
            raise RefusedError("the answer is not a list of labels and scores") from None
        label = top_label(scored)
        return Answer(label, None, "" if label is not None else "the answer holds no label, or an unusable score")
