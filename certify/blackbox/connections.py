"""Connections to a service, each lent to one call at a time and then to the next."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import getproxies

import httpx

from certify.blackbox.direct import DirectTransport


class Connection(httpx.AsyncClient):
    """A client with one connection, and a short way for plain requests.

    What `httpx.AsyncClient` does beside sending (cookies, redirects, log lines with the address) no call needs.

    Args:
        certificates: Verifies the hosts.
        timeout: Of requests that `build_request` makes.
    """

    def __init__(self, certificates: ssl.SSLContext, timeout: httpx.Timeout) -> None:
        self._direct = DirectTransport(certificates)
        super().__init__(transport=self._direct, timeout=timeout, follow_redirects=False)

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """See `httpx.AsyncClient.send`."""
        if options or request.url.userinfo:  # a name and password in the address become a header there
            return await super().send(request, **options)
        return await self._direct.handle_async_request(request)


class Connections:
    """Clients with one connection each, as many as there are calls at the same time.

    Clients of their own, because a pool that several calls share gives one free connection to all that wait, and lets all
    but one of them ask again: several starting together cost more than what they send.

    Args:
        timeout: Seconds to wait for one answer.
        transport: Of httpx, for tests.
    """

    def __init__(self, timeout: float, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._timeout = httpx.Timeout(timeout)
        self._transport = transport
        self._certificates = httpx.create_ssl_context()  # read once, not by every client
        proxies = getproxies()
        self._proxies = any(proxies.get(kind) for kind in ("http", "https", "all"))
        self._free: list[httpx.AsyncClient] = []

    @contextmanager
    def one(self) -> Iterator[httpx.AsyncClient]:
        """Lend a connection; the one used last comes first, which is the least likely to have been closed meanwhile."""
        client = self._free.pop() if self._free else self._new()
        try:
            yield client
        finally:
            self._free.append(client)

    def _new(self) -> httpx.AsyncClient:
        # Certificates are verified and redirects refused: a redirect could carry a key elsewhere.
        if self._transport is None and not self._proxies:
            return Connection(self._certificates, self._timeout)
        return httpx.AsyncClient(
            verify=self._certificates,
            timeout=self._timeout,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            follow_redirects=False,
            transport=self._transport,
        )

    async def close(self) -> None:
        """Close all connections."""
        for client in self._free:
            await client.aclose()
        self._free.clear()
