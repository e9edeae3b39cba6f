"""The table of adapters by name: the only place where text from outside becomes an adapter."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from certify.blackbox.adapter import Adapter
from certify.blackbox.hf_endpoint import HuggingFaceEndpoint
from certify.blackbox.http_json import HttpJson
from certify.blackbox.oip import OpenInference
from certify.blackbox.onnx_runtime import OnnxRuntime
from certify.blackbox.openai_chat import OpenAIChat
from certify.blackbox.rekognition import Rekognition
from certify.blackbox.secrets import refuse_literal_secrets
from certify.errors import UsageError


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        make: (address, options by name, class names) -> the adapter.
        summary: A few words for people.
        options: Names of the options that it takes.
    """

    make: Callable[[str, Mapping[str, str], Sequence[str] | None], Adapter]
    summary: str
    options: tuple[str, ...]


def _from_fields(kind: type[Adapter], skip: tuple[str, ...] = ("url",)) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind) if field.init and field.name not in skip)


def _convert(kind: type[Adapter], options: Mapping[str, str]) -> dict[str, Any]:
    """Turn option texts into the fields' types, which are text, bool, int, float or one of them and None."""
    found: dict[str, Any] = {}
    types = {
        field.name: field.type.__name__ if isinstance(field.type, type) else str(field.type) for field in fields(kind)
    }
    for key, text in options.items():
        declared = types[key]
        try:
            if "bool" in declared:
                found[key] = {"true": True, "false": False}[text.lower()]
            elif "int" in declared:
                found[key] = int(text)
            elif "float" in declared:
                found[key] = float(text)
            elif "tuple" in declared:
                found[key] = tuple(tuple(part.split("=", 1)) for part in text.split(";") if part)
            else:
                found[key] = text or None
        except (KeyError, ValueError):
            raise UsageError(f"--service {key}={text}: expected {declared}") from None
    missing = [
        field.name
        for field in fields(kind)
        if field.init
        and field.default is MISSING
        and field.name not in found
        and field.name not in ("url", "labels", "file")
    ]
    if missing:
        raise UsageError(f"the {kind.name} adapter needs " + " ".join(f"--service {key}=..." for key in missing))
    return found


def _oip(url: str, options: Mapping[str, str], names: Sequence[str] | None) -> Adapter:
    return OpenInference(url=url, **_convert(OpenInference, options))


def _http_json(url: str, options: Mapping[str, str], names: Sequence[str] | None) -> Adapter:
    path = options.get("file")
    if not path:
        raise UsageError("the http-json adapter needs --service file=ADAPTER.toml")
    adapter = HttpJson.from_file(Path(path))
    refuse_literal_secrets(adapter.url)  # before the message below shows it
    if url and url.rstrip("/") != adapter.url.rstrip("/"):
        raise UsageError(f"the address {url} is not the one in {path}, {adapter.url}: make them the same")
    return adapter


def _openai_chat(url: str, options: Mapping[str, str], names: Sequence[str] | None) -> Adapter:
    if not names:
        raise UsageError("the openai-chat adapter needs the names of the classes: --class-names")
    return OpenAIChat(url=url, labels=tuple(names), **_convert(OpenAIChat, options))


def _hf(url: str, options: Mapping[str, str], names: Sequence[str] | None) -> Adapter:
    return HuggingFaceEndpoint(url=url, **_convert(HuggingFaceEndpoint, options))


def _rekognition(url: str, options: Mapping[str, str], names: Sequence[str] | None) -> Adapter:
    return Rekognition(endpoint_url=url or None, **_convert(Rekognition, options))


def _onnxruntime(url: str, options: Mapping[str, str], names: Sequence[str] | None) -> Adapter:
    return OnnxRuntime(file=url, **_convert(OnnxRuntime, options))


ADAPTERS: dict[str, Row] = {
    "oip": Row(_oip, "Open Inference Protocol v2 (Triton, MLServer, KServe)", _from_fields(OpenInference)),
    "http-json": Row(_http_json, "any JSON service, described by a TOML file", ("file",)),
    "openai-chat": Row(
        _openai_chat, "a vision language model behind a chat interface", _from_fields(OpenAIChat, ("url", "labels"))
    ),
    "hf-endpoint": Row(_hf, "a Hugging Face inference endpoint", _from_fields(HuggingFaceEndpoint)),
    "rekognition": Row(_rekognition, "AWS Rekognition", _from_fields(Rekognition, ("endpoint_url",))),
    "onnxruntime": Row(
        _onnxruntime, "an ONNX file in this process, behind the 8-bit step", _from_fields(OnnxRuntime, ("file",))
    ),
}


_KEYS = {
    "oip": "--service 'headers=Authorization=Bearer ${NAME}', with NAME in the environment",
    "openai-chat": "--service key_variable=NAME, with NAME in the environment",
}
"""Adapters that put a path behind the address, where parameters would be in between, and how each is given a key."""


def build_adapter(
    name: str, url: str, options: Mapping[str, str] | None = None, class_names: Sequence[str] | None = None
) -> Adapter:
    """Build an adapter from text.

    Args:
        name: A key of `ADAPTERS`.
        url: Address of the service; the path of the file for one that runs in this process.
        options: Further options, by the names of the adapter's fields.
        class_names: Names of the classes, where the adapter must tell them to the service.

    Raises:
        UsageError: If there is no such adapter or option, a value is not allowed (the message lists what is), or a secret
            stands in the address, a header or the body itself.
    """
    from certify.models.base import did_you_mean

    if name not in ADAPTERS:
        hint = did_you_mean(name, ADAPTERS)
        raise UsageError(f"adapter must be one of {', '.join(ADAPTERS)}, got adapter={name!r}{hint}")
    row = ADAPTERS[name]
    for key in options or {}:
        if key not in row.options:
            hint = did_you_mean(key, row.options)
            raise UsageError(f"the {name} adapter takes {', '.join(row.options)}; got --service {key}{hint}")
    if "?" in url and name in _KEYS:
        raise UsageError(
            f"the address of the {name} adapter takes no parameters (?...); a key is given by {_KEYS[name]}"
        )
    refuse_literal_secrets(url)  # before any message can show it
    adapter = row.make(url, options or {}, class_names)
    # From a file, or from an option that is an address: whatever is kept of the adapter.
    for field in ("url", "endpoint_url"):
        refuse_literal_secrets(getattr(adapter, field, None))
    refuse_literal_secrets(None, getattr(adapter, "headers", ()), getattr(adapter, "body", None))
    return adapter
