"""HTTP/1.1 over one connection, as a transport of httpx: no more work than a call needs.

httpx's own transport spends two thirds of a small call on a pool, locks, and a cancel scope around every read and write. One
connection that is lent to one call at a time needs none of them: the event loop's own protocol reads and writes, and h11,
on which httpx stands as well, does HTTP.
"""

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Iterator

import h11
import httpx

_LONGEST_HEAD = 100 * 1024
"""Bytes of headers that are read at most; httpx's own limit."""

_JOINED = 64 * 1024
"""A body up to this size is sent together with its headers: copying it costs less than a second system call."""

LARGEST = 64 * 1024 * 1024
"""Bytes of an answer that are read at most, as they come and decompressed: labels are small, memory is not endless."""

_STEP = 16 * 1024
"""Compressed bytes that are undone at once: they make some 16 MiB at most."""


class TooLargeError(httpx.DecodingError):
    """The body of an answer is larger than `LARGEST`."""

    def __init__(self) -> None:
        super().__init__(f"the answer is larger than {LARGEST // 1024**2} MiB")


class DirectTransport(httpx.AsyncBaseTransport):
    """One connection, kept open between requests; a request for another host closes it.

    Timeouts are those of httpx, in the request's extension "timeout": `connect` for the connection with its TLS handshake,
    `write` for how long nothing may go out, `read` for how long the whole answer may take once the request is out: an
    answer that trickles in would hold its caller up without end. The answer is read whole.

    Args:
        certificates: Verifies the host of https:// addresses.
        keep: Seconds after which an idle connection is not used again: the server may be about to close it.

    Reference: RFC 9112, "HTTP/1.1".
    """

    def __init__(self, certificates: ssl.SSLContext, keep: float = 5.0) -> None:
        certificates.set_alpn_protocols(["http/1.1"])
        self._certificates = certificates
        self._keep = keep
        self._turn = asyncio.Lock()
        self._wire: _Wire | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return the response, with its body.

        Raises:
            httpx.TransportError: If no whole response came.
            httpx.DecodingError: If the body is not of the encoding that its header names, or too large.
        """
        content = await request.aread()
        limits = request.extensions.get("timeout", {})
        async with self._turn:
            wire = await self._connected(request.url, limits.get("connect"))
            try:
                event, body = await wire.ask(request, content, limits.get("read"), limits.get("write"))
            except BaseException:
                # Cancelled or too late, the answer may still come, and must not be taken for that of the next request.
                wire.abort()
                raise
        headers = list(event.headers)
        if any(name == b"content-encoding" for name, _ in headers):
            body = _decoded(headers, body, request)
            headers = [(name, value) for name, value in headers if name not in (b"content-encoding", b"content-length")]
        return httpx.Response(event.status_code, headers=headers, content=body, request=request)

    async def _connected(self, url: httpx.URL, seconds: float | None) -> "_Wire":
        origin = (url.scheme, url.raw_host, url.port)
        loop = asyncio.get_running_loop()
        wire = self._wire
        if wire is not None:
            if wire.origin == origin and wire.idle and loop.time() - wire.moved < self._keep:
                return wire
            wire.abort()
            self._wire = None
        if url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"an address must begin with http:// or https://, got {url.scheme!r}")
        name = url.raw_host.decode("ascii")
        secure = url.scheme == "https"
        try:
            async with asyncio.timeout(seconds):
                _, wire = await loop.create_connection(
                    lambda: _Wire(origin, loop),
                    name,
                    url.port or (443 if secure else 80),
                    ssl=self._certificates if secure else None,
                    server_hostname=name if secure else None,
                    # Cancelled as it succeeds, the race of several addresses leaves its socket open; one address needs none.
                    happy_eyeballs_delay=None if _is_address(name) else 0.25,
                )
        except TimeoutError:  # an OSError too, hence first
            raise httpx.ConnectTimeout("the connection took too long") from None
        except (OSError, UnicodeError) as error:  # of the network, of TLS, or of a name that is none
            raise httpx.ConnectError(str(error)) from error  # `send` looks for a certificate that is not to be trusted
        self._wire = wire
        return wire

    async def aclose(self) -> None:
        """Close the connection."""
        if self._wire is not None:
            self._wire.abort()
            self._wire = None
            await asyncio.sleep(0)  # the event loop closes the socket in its next round


class _Steps(httpx.SyncByteStream):
    """A body in steps, so that what is decompressed can be counted on the way."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return (self._body[at : at + _STEP] for at in range(0, len(self._body), _STEP))


def _decoded(headers: list[tuple[bytes, bytes]], body: bytes, request: httpx.Request) -> bytes:
    """Undo the content encoding of a body."""
    parts, size = [], 0
    for part in httpx.Response(200, headers=headers, stream=_Steps(body), request=request).iter_bytes():
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            raise TooLargeError
    return b"".join(parts)


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host.strip("[]")))
    return False


class _Wire(asyncio.Protocol):
    """A connection and the state of HTTP on it.

    Attributes:
        origin: Scheme, host and port.
        moved: When something came in last, or a request went out; time of the event loop.
        out: When the last byte of the request went out.
        idle: Whether a request may be sent.
    """

    def __init__(self, origin: tuple[str, bytes, int | None], loop: asyncio.AbstractEventLoop) -> None:
        self.origin = origin
        self.moved = self.out = loop.time()
        self.idle = False
        self._loop = loop
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD)
        self._waiter: asyncio.Future[tuple[h11.Response, bytes]] | None = None
        self._head: h11.Response | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._unsent = 0
        self._timer: asyncio.TimerHandle | None = None

    async def ask(
        self, request: httpx.Request, content: bytes, read: float | None, write: float | None
    ) -> tuple[h11.Response, bytes]:
        """Send a request; return the head and the body of the answer, as they came."""
        try:
            head = self._http.send(
                h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
            )
            body = self._http.send(h11.Data(data=content)) if content else b""
            end = self._http.send(h11.EndOfMessage())
        except h11.LocalProtocolError as error:
            raise httpx.LocalProtocolError(str(error)) from None
        self.idle = False
        waiter: asyncio.Future[tuple[h11.Response, bytes]] = self._loop.create_future()
        self._waiter = waiter
        self._head, self._parts, self._size = None, [], 0
        parts = [part for part in (head, body, end) if part]
        for part in [b"".join(parts)] if len(content) <= _JOINED else parts:
            self._transport.write(part)
        self.moved = self.out = self._loop.time()
        self._unsent = self._transport.get_write_buffer_size()
        self._look(read, write)
        try:
            return await waiter
        finally:
            self._waiter = None
            if self._timer is not None:
                self._timer.cancel()

    def _look(self, read: float | None, write: float | None) -> None:
        """Give up if nothing goes out, or no whole answer came in, for too long; else look again when that may be."""
        unsent, now = self._transport.get_write_buffer_size(), self._loop.time()
        if unsent < self._unsent:
            self._unsent, self.moved = unsent, now
        limit = write if unsent else read
        self._timer = None
        if limit is None and read is None and write is None:
            return
        since = self.moved if unsent else self.out
        left = since + limit - now if limit is not None else 1.0
        if left > 0:
            self._timer = self._loop.call_later(left, self._look, read, write)
        else:
            self._fail(
                httpx.WriteTimeout("nothing went out") if unsent else httpx.ReadTimeout("no whole answer came in")
            )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=0)  # so that `resume_writing` tells when all is out
        self.idle = True

    def resume_writing(self) -> None:
        self.out = self._loop.time()

    def data_received(self, data: bytes) -> None:
        self.moved = self._loop.time()
        if self._waiter is None or self._waiter.done():
            self.abort()  # nobody has asked for this: it must not be taken for the answer to what is asked next
            return
        self._receive(data)

    def eof_received(self) -> None:
        if self._waiter is not None:
            self._receive(b"")  # it ends a body without a length
        self.idle = False
        self._fail(httpx.RemoteProtocolError("the server closed the connection before its answer was whole"))

    def connection_lost(self, error: Exception | None) -> None:
        self.idle = False
        self._fail(httpx.ReadError("the connection was lost"))

    def _receive(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            while self._waiter is not None and not self._waiter.done():
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    return
                if isinstance(event, h11.Data):
                    self._size += len(event.data)
                    if self._size > LARGEST:
                        self._stop()
                        return
                    self._parts.append(event.data)
                elif isinstance(event, h11.Response):
                    self._head = event
                elif isinstance(event, h11.EndOfMessage):
                    self._finish()
                elif not isinstance(event, h11.InformationalResponse):
                    self._fail(httpx.RemoteProtocolError("the server ended the connection, or changed the protocol"))
        except h11.RemoteProtocolError as error:
            self._fail(httpx.RemoteProtocolError(str(error)))

    def _finish(self) -> None:
        head, body = self._head, b"".join(self._parts)
        self._head, self._parts = None, []
        done = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        if done and not self._http.trailing_data[0] and not self._transport.get_write_buffer_size():
            self._http.start_next_cycle()
            self.idle = True
        assert head is not None
        assert self._waiter is not None
        self._waiter.set_result((head, body))

    def _stop(self) -> None:
        """Read no more of a body that is too large; of an error, the status alone says what it is."""
        head, waiter = self._head, self._waiter
        assert head is not None
        assert waiter is not None
        if 200 <= head.status_code < 300:
            waiter.set_exception(TooLargeError())
        else:
            waiter.set_result((head, b""))
        self._parts = []
        self.abort()

    def _fail(self, error: httpx.TransportError) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def abort(self) -> None:
        """Close the connection at once."""
        self.idle = False
        self._transport.abort()
