"""Vision language models behind an OpenAI-style chat interface, asked for one label of an enumerated set."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx
from jaxtyping import UInt8
from numpy import ndarray

from certify.blackbox.adapter import Adapter, read_json, reading, send, to_json
from certify.blackbox.answers import Answer, RefusedError
from certify.blackbox.images import encode_png
from certify.blackbox.secrets import expand
from certify.errors import UsageError

PROMPT = "Which one of the listed labels describes the image best? Answer with that label only."


@dataclass(frozen=True)
class OpenAIChat(Adapter):
    """`POST URL/chat/completions` with the image as a PNG data URL: OpenAI, Azure, vLLM, LitServe and others.

    The answer must be one of the labels, by a JSON schema where the service honours it; other text is "invalid". With
    temperature above 0 the base classifier is random, which is allowed as long as every answer is drawn afresh.

    Args:
        url: Base address, up to and with "/v1".
        model: Name of the model.
        labels: The labels, in the order of the classes.
        prompt: The question.
        key_variable: Environment variable with the key; None: the service wants none.
        temperature: Sampling temperature.
        detail: "low", "high" or "auto": how closely the service looks.
        schema: Ask for an enumerated answer by `response_format`.

    Raises:
        UsageError: If an option is not allowed.

    Reference: OpenAI API, "Chat completions", image inputs and structured outputs.
    """

    url: str
    model: str
    labels: tuple[str, ...]
    prompt: str = PROMPT
    key_variable: str | None = "OPENAI_API_KEY"
    temperature: float = 0.0
    detail: str = "low"
    schema: bool = True

    name: ClassVar[str] = "openai-chat"

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise UsageError(f"labels must be at least two distinct names, got {list(self.labels)}")
        if not 0 <= self.temperature <= 2:
            raise UsageError(f"temperature must be in [0, 2], got temperature={self.temperature}")
        if self.detail not in ("low", "high", "auto"):
            raise UsageError(f"detail must be low, high or auto, got detail={self.detail!r}")

    def describe(self) -> dict[str, Any]:
        """Return what can change a label."""
        return {
            "adapter": self.name,
            "url": self.url,
            "model": self.model,
            "labels": list(self.labels),
            "prompt": self.prompt,
            "temperature": self.temperature,
            "detail": self.detail,
            "schema": self.schema,
        }

    @property
    def variables(self) -> tuple[str, ...]:
        """See `Adapter.variables`."""
        return () if self.key_variable is None else (self.key_variable,)

    def prepare(self, images: UInt8[ndarray, "batch height width channel"]) -> bytes:
        """Return the body of the request about one image; see `Adapter.prepare`."""
        data = "data:image/png;base64," + base64.b64encode(encode_png(images[0])).decode()
        text = f"{self.prompt}\nLabels: {json.dumps(list(self.labels), ensure_ascii=False)}"
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": self.temperature,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": text},
                        {"type": "image_url", "image_url": {"url": data, "detail": self.detail}},
                    ],
                }
            ],
        }
        if self.schema:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {
                    "name": "label",
                    "strict": True,
                    "schema": {
                        "type": "object",
                        "properties": {"label": {"type": "string", "enum": list(self.labels)}},
                        "required": ["label"],
                        "additionalProperties": False,
                    },
                },
            }
        return to_json(body)

    async def ask(self, client: httpx.AsyncClient, prepared: Any) -> Sequence[Answer]:
        """Ask about one image; see `Adapter.ask`."""
        headers = {"Content-Type": "application/json"}
        if self.key_variable is not None:
            headers["Authorization"] = expand(f"Bearer ${{{self.key_variable}}}")
        url = f"{self.url.rstrip('/')}/chat/completions"
        response = await send(client, "POST", url, content=prepared, headers=headers)
        with reading():
            return [self.read(read_json(response))]

    def read(self, answer: Any) -> Answer:
        """Turn the JSON of an answer into an `Answer`."""
        try:
            choice = answer["choices"][0]
            version = "/".join(str(answer[key]) for key in ("model", "system_fingerprint") if answer.get(key)) or None
            if choice.get("finish_reason") not in (None, "stop"):
                return Answer(None, version, f"finish reason {str(choice['finish_reason'])[:40]}")
            if choice["message"].get("refusal"):
                return Answer(None, version, "the service refused")
            content = choice["message"]["content"]
        except (KeyError, IndexError, TypeError, AttributeError):
            raise RefusedError("the answer is not a chat completion") from None
        label = self._label(content)
        return Answer(label, version, "" if label is not None else "the answer is none of the labels")

    def _label(self, content: Any) -> str | None:
        if not isinstance(content, str):
            return None
        text = content.strip()
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, dict):
            text = str(parsed.get("label", "")).strip()
        elif isinstance(parsed, str):
            text = parsed.strip()
        return text if text in self.labels else None
