"""Connections to a service, each lent to one call at a time and then to the next."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx


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
