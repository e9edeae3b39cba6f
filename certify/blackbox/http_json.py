"""Any service that takes an image and answers with JSON, described by a small validated TOML file.

An example::

    method = "POST"
    url = "https://api.example.com/v1/classify"
    headers = { Authorization = "Bearer ${EXAMPLE_KEY}" }
    body = { image = "{{png_base64}}", top = 1 }      # or: raw = true, or: multipart = "file"
    label = "predictions[0].name"                     # JMESPath; or: scores = "predictions[*].score"
    version = "model.version"
    refused = "error.code == 'content_filter'"

The keys are the arguments of `HttpJson`.
"""

import base64
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import httpx
from jaxtyping import UInt8
from numpy import ndarray

from certify.blackbox.adapter import UNREADABLE, Adapter, label_text, read_json, reading, send, to_json, top_score
from certify.blackbox.answers import Answer, RefusedError
from certify.blackbox.images import encode_png
from certify.blackbox.secrets import expand, expand_all, expand_json, variables
from certify.errors import UsageError
from certify.redaction import redact_argument

PLACEHOLDER = "{{png_base64}}"
_KEY = re.compile(r"key|token|secret|password|authorization", re.IGNORECASE)


@dataclass(frozen=True)
class HttpJson(Adapter):
    """A service described by a file; see the module.

    Args:
        url: Full address, with http:// or https://; `${NAME}` is taken from the environment.
        method: "POST" or "PUT".
        headers: Header -> value; values may hold `${NAME}`. A header that looks like a secret must.
        body: JSON body in which the text "{{png_base64}}" stands for the image, and `${NAME}` in any text for a value from
            the environment; exactly one of body, raw, multipart.
        raw: Send the PNG itself as the body.
        multipart: Send the PNG as a form's file of this name.
        label: JMESPath to the label (text, whole number or boolean); exactly one of label and scores.
        scores: JMESPath to the list of all scores, in the order of the classes.
        version: JMESPath to the version of the service: text, or any other value, which counts as its JSON.
        refused: JMESPath that is true (not null, false or empty) where the service refused to answer.

    Raises:
        UsageError: If a value is not allowed; the message names the key.
    """

    url: str
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    body: Any = None
    raw: bool = False
    multipart: str | None = None
    label: str | None = None
    scores: str | None = None
    version: str | None = None
    refused: str | None = None

    name: ClassVar[str] = "http-json"

    def __post_init__(self) -> None:
        import jmespath

        if not isinstance(self.url, str) or not self.url.startswith(("http://", "https://")):
            raise UsageError(f"url must begin with http:// or https://, got url={redact_argument(str(self.url))!r}")
        if self.method not in ("POST", "PUT"):
            raise UsageError(f"method must be POST or PUT, got method={self.method!r}")
        ways = [key for key in ("body", "raw", "multipart") if getattr(self, key)]
        if len(ways) != 1:
            raise UsageError(f"exactly one of body, raw and multipart says how the image is sent, got {ways or 'none'}")
        if self.body is not None and _count(self.body) != 1:
            raise UsageError(
                f"body must hold the text {PLACEHOLDER} once, where the image goes; got {_count(self.body)}"
            )
        if (self.label is None) == (self.scores is None):
            raise UsageError("exactly one of label and scores says where the answer is (a JMESPath)")
        for key in ("label", "scores", "version", "refused"):
            path = getattr(self, key)
            if path is None:
                continue
            try:
                jmespath.compile(path)
            except Exception as error:  # its error classes share no base but ValueError's
                raise UsageError(f"{key} is not a JMESPath: {path!r} ({error})") from None
        for header, value in self.headers:
            if _KEY.search(header) and not variables(value):
                raise UsageError(
                    f"the header {header} looks like a secret: write it as ${{NAME}} and put the value into the environment"
                )

    @classmethod
    def from_file(cls, path: Path) -> "HttpJson":
        """Read the file.

        Raises:
            UsageError: If it cannot be read, is no TOML, or has an unknown key or a value of the wrong type.
        """
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"cannot read the adapter file {path}: {error.strerror or error}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is not TOML: {error}") from None
        return cls.from_dict(data, str(path))

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str) -> "HttpJson":
        """Read what a file holds; `where` names it in messages."""
        from certify.models.base import did_you_mean

        allowed = {field.name for field in fields(cls)}
        for key, value in data.items():
            if key not in allowed:
                hint = did_you_mean(key, sorted(allowed))
                raise UsageError(f"{where}: unknown key {key!r}{hint}; allowed are {', '.join(sorted(allowed))}")
            kind = {"raw": bool, "headers": dict, "body": object}.get(key, str)
            if not isinstance(value, kind):
                # Of headers the type alone: headers = "Authorization: Bearer ..." holds a secret.
                got = type(value).__name__ if key == "headers" else repr(value)
                raise UsageError(f"{where}: {key} must be of type {kind.__name__}, got {got}")
        if "url" not in data:
            raise UsageError(f"{where}: the key 'url' is missing")
        headers = data.get("headers", {})
        for key, value in headers.items():
            if not isinstance(value, str):
                raise UsageError(f"{where}: headers.{key} must be text, got {type(value).__name__}")
        try:
            return cls(**{**data, "headers": tuple(sorted(headers.items()))})
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None

    def describe(self) -> dict[str, Any]:
        """Return the file's content; headers by name only, for their values may be secrets."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"adapter": self.name, **found, "headers": sorted(key for key, _ in self.headers)}

    @property
    def variables(self) -> tuple[str, ...]:
        """See `Adapter.variables`."""
        return tuple(variables(" ".join((self.url, *(value for _, value in self.headers), str(self.body)))))

    def prepare(self, images: UInt8[ndarray, "batch height width channel"]) -> tuple[bytes, str]:
        """Return the body of the request about one image and its Content-Type; see `Adapter.prepare`."""
        png = encode_png(images[0])
        if self.raw:
            return png, "image/png"
        if self.multipart:
            # httpx writes the form; the address is never used.
            files = {self.multipart: ("image.png", png, "image/png")}
            form = httpx.Request(self.method, "http://localhost", files=files)
            return form.read(), form.headers["Content-Type"]
        return to_json(_fill(self.body, base64.b64encode(png).decode())), "application/json"

    async def ask(self, client: httpx.AsyncClient, prepared: Any) -> Sequence[Answer]:
        """Ask about one image; see `Adapter.ask`."""
        content, kind = prepared
        if self.body is not None:
            content = expand_json(content)  # at the moment of the call, like the headers
        headers = expand_all(dict(self.headers))
        if not any(key.lower() == "content-type" for key in headers):
            headers["Content-Type"] = kind
        response = await send(client, self.method, expand(self.url), headers=headers, content=content)
        with reading():
            return [self.read(read_json(response))]

    def read(self, answer: Any) -> Answer:
        """Turn the JSON of an answer into an `Answer`."""
        version = None if self.version is None else self._version(self._find(self.version, answer))
        if self.refused is not None and self._find(self.refused, answer):
            return Answer(None, version, "the service refused")
        if self.scores is not None:
            scores = self._find(self.scores, answer)
            label = top_score(scores) if isinstance(scores, list) else None
        else:
            found = None if self.label is None else self._find(self.label, answer)
            label = label_text(found) if isinstance(found, float) else self._text(self.label, answer)
        return Answer(label, version, "" if label is not None else "the answer holds no label")

    def _find(self, path: str, answer: Any) -> Any:
        import jmespath

        try:
            return jmespath.search(path, answer)
        # Its functions stumble over Infinity and large numbers.
        except (jmespath.exceptions.JMESPathError, *UNREADABLE):
            raise RefusedError("the answer is not of the expected form") from None

    @staticmethod
    def _version(found: Any) -> str | None:
        """Return what stands for a version, of whatever type: one that is not read is a change that is not seen."""
        if isinstance(found, str):
            return found if found.strip() else None
        try:
            if _is_blank(found):
                return None
            return json.dumps(found, sort_keys=True, separators=(",", ":"))
        except UNREADABLE:
            raise RefusedError("the answer is not of the expected form") from None

    def _text(self, path: str | None, answer: Any) -> str | None:
        found = None if path is None else self._find(path, answer)
        if isinstance(found, bool):
            return "true" if found else "false"
        if isinstance(found, str | int):
            return str(found).strip() or None
        return None


def _is_blank(value: Any) -> bool:
    """Whether nothing is said: taken for a version, the `[null, null]` of a path to two would leave a service unwatched."""
    if isinstance(value, dict | list):
        return all(map(_is_blank, value.values() if isinstance(value, dict) else value))
    return value is None or (isinstance(value, str) and not value.strip())


def _count(body: Any) -> int:
    if isinstance(body, str):
        return body.count(PLACEHOLDER)
    if isinstance(body, dict):
        return sum(_count(value) for value in body.values())
    return sum(_count(value) for value in body) if isinstance(body, list) else 0


def _fill(body: Any, text: str) -> Any:
    if isinstance(body, str):
        return body.replace(PLACEHOLDER, text)
    if isinstance(body, dict):
        return {key: _fill(value, text) for key, value in body.items()}
    return [_fill(value, text) for value in body] if isinstance(body, list) else body
