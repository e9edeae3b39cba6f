"""KServe's Open Inference Protocol v2: Triton, MLServer, KServe, OpenVINO Model Server, Seldon."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import httpx
import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from numpy import ndarray

from certify.blackbox.adapter import (
    UNREADABLE,
    Adapter,
    from_json,
    label_text,
    read_json,
    reading,
    send,
    to_json,
    top_score,
)
from certify.blackbox.answers import Answer, RefusedError, ServiceError
from certify.blackbox.secrets import expand_all, variables
from certify.errors import UsageError

_LENGTH = "Inference-Header-Content-Length"


def to_unit(pixels: UInt8[ndarray, "..."]) -> Float32[ndarray, "..."]:
    """Return k / 255, divided in float32 as torch does it: the network must see the numbers of a direct call."""
    return pixels.astype(np.float32) / np.float32(255.0)


_BYTES = np.array([f"{level}," for level in range(256)], dtype=np.bytes_)

_LEVELS = np.array([f"{value}," for value in to_unit(np.arange(256, dtype=np.uint8))], dtype=np.bytes_)
"""The 256 numbers that a pixel can be, as the shortest text that reads back as the same float32; padded with zero bytes."""


def to_text(pixels: UInt8[ndarray, "..."], texts: Shaped[ndarray, "256"]) -> bytes:
    """Return the texts of all pixels, in order, without the last comma."""
    padded: bytes = texts[pixels.reshape(-1)].tobytes()
    return padded.translate(None, b"\0")[:-1]


class Tensor(NamedTuple):
    """Images as the body of a request holds them.

    Attributes:
        shape: Sizes, the number of images first.
        data: Numbers between commas, or the raw little-endian tensor.
    """

    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class OpenInference(Adapter):
    """A model behind `POST /v2/models/NAME/infer`.

    The output may be scores [N, K] (the largest counts), integer labels [N] or [N, 1], whole floats [N], or text (BYTES). A
    server that knows its model says what inputs it has; where it does not (KServe), name them.

    Args:
        url: Address of the server, without the path.
        model: Name of the model.
        model_version: Version in the path; None: the server's choice.
        input_name: Name of the input tensor; None: ask the server.
        output_name: Name of the output tensor; None: the first in the answer.
        datatype: "FP32" sends k / 255, "UINT8" the bytes.
        layout: "NCHW" or "NHWC".
        binary: Use the binary tensor extension (Triton; KServe for the request): a fifth of the size of JSON.
        batch: Images a call.
        headers: Extra headers; values may hold `${NAME}` from the environment.

    Raises:
        UsageError: If an option is not one of those.

    Reference: Open Inference Protocol, "Predict Protocol - Version 2" and its binary tensor data extension.
    """

    url: str
    model: str
    model_version: str | None = None
    input_name: str | None = None
    output_name: str | None = None
    datatype: str = "FP32"
    layout: str = "NCHW"
    binary: bool = False
    batch: int = 32
    headers: tuple[tuple[str, str], ...] = ()
    _known: dict[str, str] = field(default_factory=dict, init=False, compare=False, repr=False)

    name: ClassVar[str] = "oip"

    def __post_init__(self) -> None:
        if self.datatype not in ("FP32", "UINT8"):
            raise UsageError(f"datatype must be FP32 or UINT8, got datatype={self.datatype!r}")
        if self.layout not in ("NCHW", "NHWC"):
            raise UsageError(f"layout must be NCHW or NHWC, got layout={self.layout!r}")
        if self.batch < 1:
            raise UsageError(f"batch must be at least 1, got batch={self.batch}")
        if not self.model:
            raise UsageError("the oip adapter needs the name of a model: --service model=NAME")

    @property
    def images_per_call(self) -> int:  # type: ignore[override]
        """Images that one call may carry."""
        return self.batch

    def describe(self) -> dict[str, Any]:
        """Return what can change a label."""
        return {
            "adapter": self.name,
            "url": self.url,
            "model": self.model,
            "model_version": self.model_version,
            "input_name": self.input_name,
            "output_name": self.output_name,
            "datatype": self.datatype,
            "layout": self.layout,
        }

    @property
    def variables(self) -> tuple[str, ...]:
        """See `Adapter.variables`."""
        return tuple(name for _, value in self.headers for name in variables(value))

    @property
    def _path(self) -> str:
        version = "" if self.model_version is None else f"/versions/{self.model_version}"
        return f"{self.url.rstrip('/')}/v2/models/{self.model}{version}"

    async def check(self, client: httpx.AsyncClient) -> str | None:
        """Read the model's metadata; see `Adapter.check`."""
        inputs = await self._inputs(client)
        if self.input_name is None and len(inputs) != 1:
            raise ServiceError(
                f"the server does not say which input {self.model} has (it lists {inputs or 'none'}); "
                "name it: --service input_name=NAME"
            )
        if self.input_name is not None and inputs and self.input_name not in inputs:
            raise ServiceError(f"{self.model} has the inputs {inputs}, got input_name={self.input_name!r}")
        return None

    async def _inputs(self, client: httpx.AsyncClient) -> list[str]:
        try:
            found = read_json(await send(client, "GET", self._path, headers=expand_all(dict(self.headers))))
        except RefusedError as error:
            raise ServiceError(f"the server's description of {self.model} cannot be read: {error.reason}") from None
        entries = found.get("inputs") if isinstance(found, dict) else None
        entries = entries if isinstance(entries, list) else []
        return [str(entry["name"]) for entry in entries if isinstance(entry, dict) and "name" in entry]

    def prepare(self, images: UInt8[ndarray, "batch height width channel"]) -> Tensor:
        """Encode the images as one tensor; see `Adapter.prepare`."""
        pixels = images if self.layout == "NHWC" else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        if not self.binary:
            return Tensor(pixels.shape, to_text(pixels, _LEVELS if self.datatype == "FP32" else _BYTES))
        if self.datatype == "FP32":
            return Tensor(pixels.shape, to_unit(pixels).astype("<f4", copy=False).tobytes())
        return Tensor(pixels.shape, pixels.tobytes())

    async def ask(self, client: httpx.AsyncClient, prepared: Any) -> Sequence[Answer]:
        """Ask about all images in one call; see `Adapter.ask`."""
        tensor: Tensor = prepared
        name = self.input_name or self._known.get("input")
        if name is None:
            # Once: asked for every call, it would double the traffic.
            [name] = await self._inputs(client) or [""]
            self._known["input"] = name
        content, headers = self._request(name, tensor)
        response = await send(
            client,
            "POST",
            f"{self._path}/infer",
            content=content,
            headers={**expand_all(dict(self.headers)), **headers},
        )
        with reading():
            return self._read(response, tensor.shape[0])

    def _request(self, name: str, tensor: Tensor) -> tuple[bytes, dict[str, str]]:
        entry: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "datatype": self.datatype}
        body: dict[str, Any] = {"inputs": [entry]}
        if self.output_name is not None:
            body["outputs"] = [{"name": self.output_name}]
        if not self.binary:
            # The numbers are text already; they come last in the last member, before the brackets that close it.
            entry["data"] = []
            body["inputs"] = body.pop("inputs")
            head = to_json(body)
            return b"".join((head[:-4], tensor.data, b"]}]}")), {"Content-Type": "application/json"}
        entry["parameters"] = {"binary_data_size": len(tensor.data)}
        body["parameters"] = {"binary_data_output": True}
        head = to_json(body)
        return head + tensor.data, {"Content-Type": "application/octet-stream", _LENGTH: str(len(head))}

    def _read(self, response: httpx.Response, n: int) -> list[Answer]:
        # httpx has undone any content encoding by now: the length counts bytes of the plain body.
        length = response.headers.get(_LENGTH)
        try:
            if length is None:
                body, tail = read_json(response), b""
            else:
                at = int(length)
                if not 0 <= at <= len(response.content):
                    raise ValueError("length")
                body, tail = from_json(response.content[:at]), response.content[at:]
            version = body.get("model_version")
            version = None if version is None else str(version)
            labels = self._labels(body, tail, n)
        except UNREADABLE:
            raise RefusedError("the answer is not a response of the protocol with one label an image") from None
        return [
            Answer(label, version) if label is not None else Answer(None, version, "a score or a label is unusable")
            for label in labels
        ]

    def _labels(self, body: Any, tail: bytes, n: int) -> list[str | None]:
        chosen, data = None, None
        for output in body["outputs"]:
            size = (output.get("parameters") or {}).get("binary_data_size")
            part = None
            if size is not None:
                at = _size(size)
                part, tail = tail[:at], tail[at:]
                if len(part) != at:
                    raise ValueError("truncated")
            if chosen is None and self.output_name in (None, output["name"]):
                chosen, data = output, part
        if chosen is None:
            raise KeyError(self.output_name)
        if tail:  # bytes that no output claims: the sizes are wrong, and so may be what was taken by them
            raise ValueError("trailing")
        shape = [_size(size) for size in chosen["shape"]]
        values = chosen["data"] if data is None else _decode(data, chosen["datatype"])
        flat, kinds = _flatten(values)
        if not shape or shape[0] != n or len(flat) != math.prod(shape):
            raise ValueError("shape")
        width = len(flat) // n
        kind = chosen["datatype"]
        if kinds == {float} and kind.startswith(("FP", "INT", "UINT")) and width > 1:
            return _top_scores(flat, n)
        rows = [flat[i * width : (i + 1) * width] for i in range(n)]
        if kind == "BYTES":
            return [_text(row[0]) if width else None for row in rows]
        if kind.startswith(("INT", "UINT")) and width == 1:
            return [_number(row[0]) for row in rows]
        if kind.startswith("FP") and len(shape) == 1:
            # Class numbers of a server that computes in floats; [N, 1] may as well be the score of one class.
            return [_number(row[0]) for row in rows]
        if kind.startswith(("FP", "INT", "UINT")) and width > 1:
            return [top_score(row) for row in rows]
        raise ValueError("datatype")


def _size(value: Any) -> int:
    """Return a size of a shape or of binary data; int64 is text in the JSON of gRPC gateways.

    Raises:
        ValueError: If it is no whole number from 0 up; OverflowError and TypeError likewise.
    """
    size = int(value)
    if isinstance(value, bool) or size < 0 or (not isinstance(value, str) and size != value):
        raise ValueError("size")
    return size


def _number(value: Any) -> str | None:
    """Return a class number as text; None where a float, or anything else, is none."""
    return str(int(value)) if isinstance(value, str) else label_text(value)


def _flatten(values: Any) -> tuple[list[Any], set[type]]:
    """Return the values without nesting, and their types."""
    kinds: set[type] = set(map(type, values)) if isinstance(values, list) else {list}
    if list in kinds:
        values = list(np.asarray(values, dtype=object).reshape(-1))
        kinds = set(map(type, values))
    return values, kinds


def _top_scores(flat: list[float], n: int) -> list[str | None]:
    """Return `top_score` of each of n rows, all at once."""
    scores = np.array(flat).reshape(n, -1)
    labels: list[str | None] = list(map(str, scores.argmax(1).tolist()))
    finite = np.isfinite(scores)
    if not finite.all():
        labels = [label if fine else None for label, fine in zip(labels, finite.all(1).tolist(), strict=True)]
    return labels


def _decode(data: bytes, datatype: str) -> list[Any]:
    if datatype == "BYTES":
        found: list[Any] = []
        while data:
            size = int.from_bytes(data[:4], "little")
            if len(data) < 4 + size:
                raise ValueError("truncated")
            found.append(data[4 : 4 + size])
            data = data[4 + size :]
        return found
    kinds = {"FP": "f", "UINT": "u", "INT": "i"}
    prefix = datatype.rstrip("0123456789")
    dtype = np.dtype(f"<{kinds[prefix]}{int(datatype[len(prefix) :]) // 8}")
    values: list[Any] = np.frombuffer(data, dtype).tolist()
    return values


def _text(value: Any) -> str | None:
    return label_text(value.decode("utf-8") if isinstance(value, bytes) else value)
