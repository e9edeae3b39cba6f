"""The base of every adapter: how one kind of service is asked, and how its answers are read."""

import asyncio
import json
import math
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, ClassVar

import httpx
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from certify.blackbox.answers import Answer, NoAnswerError, RefusedError, ServiceError
from certify.blackbox.connections import Connection
from certify.blackbox.direct import TooLargeError

UNREADABLE = (ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What reading an answer of an unexpected form may fail with: numbers beyond floats, wrong types, absent keys, nesting."""


@dataclass(frozen=True)
class Adapter(ABC):
    """One kind of service. A concrete adapter is one frozen dataclass in a file of its own, with a row in `table.py`.

    Its fields say how to reach the service; secrets are not among them, they are read from the environment when a call is
    made, and never stored. `describe` is part of a run's identity.
    """

    name: ClassVar[str]
    """Name on the command line."""

    images_per_call: ClassVar[int] = 1
    """Images that one call may carry; a bill usually counts images."""

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the environment variables that its calls are filled in from."""
        return ()

    def prepare(self, images: UInt8[ndarray, "batch height width channel"]) -> Any:
        """Return at most `images_per_call` images as `ask` takes them: encoded, once, whatever retries follow.

        Called in another thread than `ask`, ahead of it, so that encoding holds up no call.
        """
        return images

    @abstractmethod
    async def ask(self, client: httpx.AsyncClient, prepared: Any) -> Sequence[Answer]:
        """Ask once, without retry, about some images; one answer each, in order.

        What is done with an answer that has come goes into `with reading():`.

        Args:
            client: Sends the request.
            prepared: What `prepare` made of the images.

        Raises:
            NoAnswerError: If no answer was obtained: asked again by the caller.
            RefusedError: If the service answered without a label: the outcome "invalid" for all the images.
            ServiceError: If the service cannot be used as asked for: stops the run.
            UsageError: If what is asked can never answer: stops the run.
        """

    async def check(self, client: httpx.AsyncClient) -> str | None:
        """Ask the service about itself, before the first vote; return a remark for people, or None.

        Raises:
            NoAnswerError: If it does not answer.
            ServiceError: If it cannot be used.
        """
        return None

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the adapter as JSON-ready data, all that can change a label among it, and no secret."""


_HEADERS = {"Accept": "*/*", "Accept-Encoding": "gzip, deflate", "User-Agent": "certify (randomized smoothing)"}


async def send(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
) -> httpx.Response:
    """Send one request and sort its fate; the response returned is a 2xx.

    Args:
        client: Follows no redirects and verifies certificates.
        method: "GET", "POST" or "PUT".
        url: Where to.
        headers: Beside the usual ones.
        content: Body.

    Raises:
        NoAnswerError: On transport errors, 408, 429 and 5xx.
        RefusedError: On 400, 413, 415, 422 and other errors that speak about this request, and where the body of the answer
            is not of the encoding that it claims, or too large.
        ServiceError: On 401, 403, 404, 405, redirects and a certificate that cannot be verified: they would meet every
            request alike.
    """
    try:
        # A request of our own rather than `client.request`: it skips cookies, which no answer may depend on, and much work.
        request = httpx.Request(
            method,
            parse_url(url),
            headers={**_HEADERS, **(headers or {})},
            content=content,
            extensions={"timeout": client.timeout.as_dict()},
        )
        response = await _sent(client, request)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        unverified = _unverified(error)
        if unverified is not None:  # waiting mends no certificate
            raise ServiceError(f"the certificate of {host(url)} cannot be verified: {unverified}") from None
        raise NoAnswerError(f"cannot connect to {host(url)}: {type(error).__name__}", reached=False) from None
    except httpx.TransportError as error:
        # From None: a traceback would carry the request with its headers.
        raise NoAnswerError(f"lost the connection to {host(url)}: {type(error).__name__}") from None
    except TooLargeError as error:
        raise RefusedError(str(error)) from None
    except httpx.DecodingError:
        raise RefusedError("the answer cannot be decoded") from None
    except httpx.InvalidURL:
        raise ServiceError("the address of the service is not a URL: check --service and the adapter's file") from None
    status = response.status_code
    if 200 <= status < 300:
        return response
    if status in (408, 429) or status >= 500:
        raise NoAnswerError(f"HTTP {status}", after=_retry_after(response), taken=status != 429)
    if status in (401, 403):
        raise ServiceError(
            f"{host(url)} refused the credentials (HTTP {status}); check the environment variable that holds them"
        )
    if status in (404, 405) or status < 400:
        # The host alone: path and query were filled in from the environment, and may hold a key.
        raise ServiceError(f"HTTP {status} from {host(url)}: check the address and the name of the model")
    raise RefusedError(f"HTTP {status}")


async def _sent(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Send a request and read the answer, whose body must be there in time as a whole."""
    if isinstance(client, Connection):  # it has that limit itself
        return await client.send(request)
    response = await client.send(request, stream=True)  # by a proxy: httpx's own limits start anew with every byte
    try:
        async with asyncio.timeout(client.timeout.read):
            await response.aread()
    except TimeoutError:
        raise httpx.ReadTimeout("no whole answer came in") from None
    finally:
        await response.aclose()
    return response


def _unverified(error: BaseException | None) -> str | None:
    """Return why a certificate could not be verified, None where a connection failed otherwise."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return str(getattr(error, "verify_message", "") or "its verification failed")
        error = error.__cause__ or error.__context__
    return None


@lru_cache(maxsize=64)
def parse_url(url: str) -> httpx.URL:
    """Return a URL, parsed once: a run has one or two of them.

    Raises:
        httpx.InvalidURL: If it is none.
    """
    return httpx.URL(url)


def to_json(body: Any) -> bytes:
    """Return JSON without blanks, UTF-8."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def host(url: str) -> str:
    """Return scheme, host and port of a URL: a query or path may hold a key."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return "the service"
    port = f":{parsed.port}" if parsed.port else ""
    return f"{parsed.scheme}://{parsed.host}{port}"


@contextmanager
def reading() -> Iterator[None]:
    """Make whatever an odd answer lets its reader fail with a refusal: an answer came, so that its vote must count.

    Raises:
        RefusedError: If the answer cannot be read.
    """
    try:
        yield
    except UNREADABLE:
        # From None: the text of such an error may quote the answer.
        raise RefusedError("the answer cannot be read") from None


def read_json(response: httpx.Response) -> Any:
    """Return the body as JSON.

    Raises:
        RefusedError: If it is none: an answer was given, but it cannot be read.
    """
    return from_json(response.content)


def from_json(content: bytes) -> Any:
    """Return a body, or a part of one, as JSON.

    Raises:
        RefusedError: If it is none.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise RefusedError("the answer is not JSON") from None


def finite(score: Any) -> float | None:
    """Return a score as a float; None where it is no finite number, or beyond the range of floats."""
    if isinstance(score, bool) or not isinstance(score, int | float):
        return None
    try:
        value = float(score)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def top_score(scores: Sequence[Any]) -> str | None:
    """Return the number of the largest score as text; None where a score is no finite number. Ties go to the first."""
    values = [value for value in map(finite, scores) if value is not None]
    if not values or len(values) != len(scores):
        return None
    return str(values.index(max(values)))


def top_label(scored: Iterable[tuple[Any, Any]]) -> str | None:
    """Return the label of the largest score, of pairs (score, label); equal scores go to the smallest name.

    None where there is no pair, a score is no finite number, or a label is none: which one leads is not known then.
    """
    found: list[tuple[float, str]] = []
    for score, label in scored:
        value, text = finite(score), label_text(label)
        if value is None or text is None:
            return None
        found.append((-value, text))
    return min(found)[1] if found else None


def label_text(value: Any) -> str | None:
    """Return a label as text: as it is, or the decimal number of a whole one, 3.0 too; None where it is no label.

    Many services and languages know one kind of number only, and write class 3 as 3.0.
    """
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    whole = isinstance(value, float | np.floating) and np.isfinite(value) and value == int(value)
    return str(int(value)) if whole else None


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        from datetime import UTC, datetime

        when = parsedate_to_datetime(text)
        if when.tzinfo is None:  # "-0000": a date in UTC from a machine that does not say where it is
            when = when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, ArithmeticError):
        return None
