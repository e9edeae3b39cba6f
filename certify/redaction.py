"""Secrets that stand in the text of a command: found by how their names look, and struck out before it is kept."""

import re

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
