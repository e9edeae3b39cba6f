"""Secrets that stand in a command or in the body of a request: found by how they and their names look.

In a command they are struck out before it is kept; an adapter's address, headers and body are refused with them.
"""

import re
from collections.abc import Iterator
from typing import Any

HIDDEN = "<hidden>"

_NAME = re.compile(
    r"key|token|secret|passw|pwd|credential|authori[sz]ation|cookie|(^|[^a-z])(auth|sig|signature|code)($|[^a-z])",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"^\s*(bearer|basic|token|digest)\s+\S", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/?#\s]*@", re.IGNORECASE)
_QUERY = re.compile(r"([?&;])([^=&;#\s]+)=([^&;#\s]*)")
_HEADERS = re.compile(r"(^|=)headers=(.*)$", re.DOTALL)


def is_secret(name: str, value: str) -> bool:
    """Return whether a header, or a parameter of an address, holds a secret itself, and not a `${NAME}` for one."""
    return bool(value) and not _VARIABLE.search(value) and bool(_NAME.search(name) or _SCHEME.match(value))


def has_userinfo(address: str) -> bool:
    """Return whether an address names a user or a password: scheme://user:password@host."""
    return bool(_USERINFO.search(address))


def parameters(address: str) -> list[tuple[str, str]]:
    """Return names and values of an address's parameters (after "?"), as they are written."""
    return [(name, value) for _, name, value in _QUERY.findall(address)]


_SURE = re.compile(
    r"(api|access|private|subscription|account|service)[^a-z0-9]?key|(api|access|auth|refresh|session|id)[^a-z0-9]?token|"
    r"secret|passw|pwd|credential|authori[sz]ation|cookie",
    re.IGNORECASE,
)
"""Names of a member whose value is a secret, whatever it looks like."""

_PERHAPS = re.compile(r"(?<![a-z])(key|token|auth|sig|signature|bearer)(?![a-z])", re.IGNORECASE)
"""Names whose value is a secret if it looks like one: {"key": "image"} or a "tokenizer" are ordinary."""

_ISSUED = re.compile(
    r"(?<![\w+/=.-])(sk-[\w-]{16,}|hf_\w{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|xox[abeprs]-[\w-]{10,}|"
    r"(AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{35}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})(?![\w+/=-])|-----BEGIN [A-Z ]*PRIVATE KEY"
)
"""Keys and tokens by the form in which they are issued, standing alone: within the base64 of an image anything occurs."""

_SENT = re.compile(r"^\s*(bearer|basic|token|digest)\s+(\S+)\s*$", re.IGNORECASE)


def secrets_in(body: Any, name: str = "body") -> Iterator[str]:
    """Yield where the body of a request, JSON-ready, holds a secret itself: "body.auth.api_key".

    Everywhere in it: members whose names say so, tokens in the form in which they are issued or sent, and addresses with a
    user, a password or a key. What is filled in later (`${NAME}`, the image) is none, nor is a number, and a text of several
    words only where such a token stands in it.
    """
    if isinstance(body, dict):
        for key, value in body.items():
            where = f"{name}.{key}"
            if isinstance(value, str) and _named_secret(str(key), value):
                yield where
            else:
                yield from secrets_in(value, where)
    elif isinstance(body, list):
        for place, value in enumerate(body):
            yield from secrets_in(value, f"{name}[{place}]")
    elif isinstance(body, str) and _holds_secret(body):
        yield name


def _named_secret(name: str, value: str) -> bool:
    if not value.strip() or _VARIABLE.search(value) or "{{" in value:
        return False
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)  # apiKey is api_Key
    return bool(_SURE.search(words)) or (bool(_PERHAPS.search(words)) and _looks_random(value))


def _holds_secret(text: str) -> bool:
    sent = _SENT.match(text)
    if _ISSUED.search(text) or (sent is not None and not _VARIABLE.search(text) and _looks_random(sent[2])):
        return True
    if not re.match(r"[a-z][a-z0-9+.-]*://\S+$", text, re.IGNORECASE):
        return False  # an address, and not a text that mentions one
    return has_userinfo(text) or any(is_secret(key, value) for key, value in parameters(text))


def _looks_random(text: str) -> bool:
    """Whether a text is one long word with letters and digits, as keys are and words are not."""
    return (
        len(text) >= 12 and not re.search(r"\s", text) and bool(re.search(r"[A-Za-z]", text) and re.search(r"\d", text))
    )


def redact_argument(text: str) -> str:
    """Return one argument of a command without the secrets that are recognised in it.

    Args:
        text: For instance an address, or `--service=headers=NAME=VALUE;NAME=VALUE`.
    """
    text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    headers = _HEADERS.search(text)
    if headers is None:
        return _QUERY.sub(lambda found: _struck(found[1] + found[2], found[2], found[3]), text)
    parts = [part.partition("=") for part in headers[2].split(";")]
    return text[: headers.start(2)] + ";".join(
        _struck(name, name, value) if sign else name for name, sign, value in parts
    )


def _struck(head: str, name: str, value: str) -> str:
    return f"{head}={HIDDEN if is_secret(name, value) else value}"
