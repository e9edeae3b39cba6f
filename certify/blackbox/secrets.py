"""Secrets: read from the environment at the moment of a call, and struck out of everything that people see."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from certify.blackbox.answers import ServiceError
from certify.errors import UsageError
from certify.redaction import has_userinfo, is_secret, parameters, secrets_in

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_WRITTEN = re.compile(_VARIABLE.pattern.encode())


def variables(text: str) -> list[str]:
    """Return the names of the environment variables that a template `${NAME}` mentions."""
    return _VARIABLE.findall(text)


def expand(text: str) -> str:
    """Put the environment's values into a template such as "Bearer ${API_KEY}".

    Raises:
        ServiceError: If a variable is not set or empty; the message names it, never a value.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match.group(1), "")
        if not found:
            raise ServiceError(f"the environment variable {match.group(1)} is not set, but the service needs it")
        return found

    return _VARIABLE.sub(value, text)


def require_variables(names: Iterable[str]) -> None:
    """Check that environment variables are set, and not empty, before anything is asked that needs them.

    Raises:
        UsageError: If some are not; the message names them all.
    """
    absent = [name for name in dict.fromkeys(names) if not os.environ.get(name)]
    if absent:
        plural = len(absent) > 1
        raise UsageError(
            f"the environment variable{'s' if plural else ''} {', '.join(absent)} {'are' if plural else 'is'} not set, but "
            f"the service needs {'them' if plural else 'it'}"
        )


def expand_json(content: bytes) -> bytes:
    """Put the environment's values into JSON that was written with `${NAME}` in its texts; see `expand`."""
    if b"${" not in content:
        return content
    return _WRITTEN.sub(lambda match: json.dumps(expand(match.group(0).decode()))[1:-1].encode(), content)


def expand_all(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with their templates filled in; see `expand`."""
    return {key: expand(value) for key, value in headers.items()}


def refuse_literal_secrets(address: str | None, headers: Iterable[tuple[str, str]] = (), body: Any = None) -> None:
    """Check that an address, headers and the template of a body hold no secret themselves: they are kept with the run.

    Raises:
        UsageError: If one does; the message names it, never its value.
    """
    if address is not None:
        if has_userinfo(address):
            raise UsageError(
                "the address of the service holds a user or a password (scheme://user:password@host), which would be kept "
                "with the run: leave it out, and send it as a header whose value is ${NAME}, with NAME in the environment"
            )
        for name, value in parameters(address):
            if is_secret(name, value):
                raise UsageError(_advice(f"the parameter {name} of the address"))
    for name, value in headers:
        if is_secret(name, value):
            raise UsageError(_advice(f"the header {name}"))
    for where in secrets_in(body):
        raise UsageError(_advice(where))


def _advice(what: str) -> str:
    return (
        f"{what} looks like a secret, which would be kept with the run: write ${{NAME}} for it and set NAME in the "
        "environment"
    )


def redact(text: str, names: Iterable[str]) -> str:
    """Return `text` with the values of the named environment variables struck out."""
    for name in names:
        value = os.environ.get(name, "")
        if len(value) >= 4:
            text = text.replace(value, f"<{name}>")
    return text
