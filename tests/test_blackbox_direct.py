"""The client's own HTTP transport: it gives every request its own answer, or none."""

import asyncio
import datetime
import gc
import gzip
import socket
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from certify.blackbox import NoAnswerError, RefusedError
from certify.blackbox.adapter import send
from certify.blackbox.connections import Connection, Connections
from certify.blackbox.direct import DirectTransport


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", *(headers or (f"Content-Length: {len(body)}",)), "", ""]
    return "\r\n".join(lines).encode() + body


HANG_UP = b"<hang up>"


class Scripted:
    """A server that answers with prepared bytes, one item a request; it hangs up after the last, and after `HANG_UP`."""

    def __init__(self, script: list[bytes], context: ssl.SSLContext | None) -> None:
        self.script = script
        self.connections = 0
        self.ended = 0
        self.requests: list[bytes] = []
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                with connection:
                    connection.settimeout(10)
                    if self._context is not None:
                        connection = self._context.wrap_socket(connection, server_side=True)
                    with connection:
                        self._talk(connection)
            except OSError:
                continue
            finally:
                self.ended += 1

    def _talk(self, connection: socket.socket) -> None:
        data = b""
        while self.script:
            while b"\r\n\r\n" not in data:
                part = connection.recv(65536)
                if not part:
                    return
                data += part
            head, _, data = data.partition(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            while len(data) < length:
                data += connection.recv(65536)
            self.requests.append(data[:length])
            data = data[length:]
            item = self.script.pop(0)
            connection.sendall(item.removesuffix(HANG_UP))
            if item.endswith(HANG_UP):
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@contextmanager
def scripted(*script: bytes, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    server = Scripted(list(script), context)
    try:
        yield server
    finally:
        server.close()


def talk(
    steps: Callable[[Callable[..., Awaitable[httpx.Response]]], Awaitable[Any]],
    server: Scripted,
    *,
    scheme: str = "http",
    host: str = "127.0.0.1",
    certificates: ssl.SSLContext | None = None,
) -> Any:
    """Run some steps with a function that sends a body over one connection and returns the response."""

    async def run() -> Any:
        transport = DirectTransport(certificates or ssl.create_default_context())

        async def ask(content: bytes, timeout: float = 10.0) -> httpx.Response:
            extensions = {"timeout": httpx.Timeout(timeout).as_dict()}
            url = f"{scheme}://{host}:{server.port}/a?b=c"
            return await transport.handle_async_request(
                httpx.Request("POST", url, content=content, extensions=extensions)
            )

        try:
            return await steps(ask)
        finally:
            await transport.aclose()

    return asyncio.run(run())


CHUNKED = answer(b"3\r\none\r\n4\r\n-two\r\n0\r\n\r\n", "Transfer-Encoding: chunked")
ZIPPED = gzip.compress(
    b"one-two", mtime=0
)  # no time in it: these bytes are the name of a test, the same in every process


@pytest.mark.parametrize(
    ("item", "connections"),
    [
        (answer(b"one-two"), 1),
        (CHUNKED, 1),
        (answer(ZIPPED, "Content-Encoding: gzip", f"Content-Length: {len(ZIPPED)}"), 1),
        (b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" + answer(b"one-two"), 1),
        (answer(b"one-two", "Content-Length: 7", "Connection: close"), 2),
        (answer(b"one-two").replace(b"HTTP/1.1", b"HTTP/1.0"), 2),
        (answer(b"one-two", "X: y") + HANG_UP, 2),  # the end of the connection ends the body
        (answer(b"one-two") + HANG_UP, 2),
        (answer(b"one-two") + answer(b"nobody asked"), 2),
    ],
)
def test_answers_in_every_form_and_what_becomes_of_the_connection(item: bytes, connections: int) -> None:
    async def steps(ask: Any) -> list[bytes]:
        first = await ask(b"first")
        while item.endswith(HANG_UP) and not server.ended:  # the end of a connection may come after the answer
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        return [first.content, (await ask(b"x" * 300_000)).content]

    with scripted(item, answer(b"other")) as server:
        assert talk(steps, server) == [b"one-two", b"other"]
        assert server.requests == [b"first", b"x" * 300_000]
        assert server.connections == connections


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (HANG_UP, httpx.RemoteProtocolError),
        (answer(b"one-", "Content-Length: 7") + HANG_UP, httpx.RemoteProtocolError),
        (CHUNKED[:-5] + HANG_UP, httpx.RemoteProtocolError),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", httpx.RemoteProtocolError),
        (b"nonsense\r\n\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, httpx.RemoteProtocolError),
        (answer(b"one-", "Content-Length: 7"), httpx.ReadTimeout),
        (answer(b"no gzip", "Content-Encoding: gzip", "Content-Length: 7"), httpx.DecodingError),
    ],
)
def test_what_is_no_answer_is_none_and_spoils_no_other(item: bytes, error: type[Exception]) -> None:
    async def steps(ask: Any) -> bytes:
        with pytest.raises(error):
            await ask(b"first", 0.3 if error is httpx.ReadTimeout else 10.0)
        return bytes((await ask(b"second")).content)

    with scripted(item, answer(b"other")) as server:
        assert talk(steps, server) == b"other"
        assert server.requests == [b"first", b"second"]


def test_the_answer_to_a_call_that_was_given_up_is_not_the_next_calls() -> None:
    given_up = threading.Event()

    async def steps(ask: Any) -> bytes:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(b"first"), 0.2)
        given_up.set()
        return bytes((await ask(b"second")).content)

    class Late(Scripted):
        def _talk(self, connection: socket.socket) -> None:
            if self.connections == 1:  # answers when the client has given up, on the connection of that call
                connection.recv(65536)
                given_up.wait(10)
                connection.sendall(answer(b"late"))
            else:
                super()._talk(connection)

    server = Late([answer(b"in time")], None)
    try:
        assert talk(steps, server) == b"in time"
    finally:
        server.close()


@pytest.mark.parametrize("rounds", range(1, 14))
def test_a_call_that_is_cancelled_while_it_connects_leaves_no_socket(rounds: int) -> None:
    async def steps(ask: Any) -> None:
        call = asyncio.ensure_future(ask(b"first"))
        for _ in range(rounds):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    unclosed: list[str] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda found: unclosed.append(str(found.exc_value))
    try:
        with scripted(answer(b"late")) as server:
            talk(steps, server)
            gc.collect()
    finally:
        sys.unraisablehook = before
    assert unclosed == []


@pytest.mark.parametrize("limit", [0.5, 10.0])
def test_an_answer_that_trickles_in_has_as_long_as_any_other(limit: float) -> None:
    class Slow(Scripted):
        def _talk(self, connection: socket.socket) -> None:
            connection.recv(65536)
            for byte in answer(b"one-two"):  # 45 bytes, 0.05 s each
                threading.Event().wait(0.05)
                connection.sendall(bytes([byte]))

    async def steps(ask: Any) -> bytes:
        if limit < 1:
            with pytest.raises(httpx.ReadTimeout):
                await ask(b"first", limit)
            return b"one-two"
        return bytes((await ask(b"first", limit)).content)

    server = Slow([], None)
    try:
        assert talk(steps, server) == b"one-two"
    finally:
        server.close()


def test_a_request_that_goes_out_slowly_takes_nothing_from_the_time_for_the_answer() -> None:
    class Slow(Scripted):
        def _talk(self, connection: socket.socket) -> None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            got = 0
            while got < 24_000_000:
                part = connection.recv(400_000)
                got += len(part)
                threading.Event().wait(0.01 if part else 10)
            connection.sendall(answer(b"one-two"))

    async def steps(ask: Any) -> bytes:
        return bytes((await ask(b"x" * 24_000_000, 10.0)).content)

    server = Slow([], None)
    try:
        assert talk(steps, server) == b"one-two"
    finally:
        server.close()


def test_two_requests_at_a_time_wait_for_each_other() -> None:
    async def steps(ask: Any) -> list[bytes]:
        return [found.content for found in await asyncio.gather(ask(b"a"), ask(b"b"))]

    with scripted(answer(b"A"), answer(b"B")) as server:
        assert talk(steps, server) == [b"A", b"B"]
        assert (server.requests, server.connections) == ([b"a", b"b"], 1)


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a self-signed certificate for a host name, and its key."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(encoding, kind, serialization.NoEncryption()))
    (folder / "certificate.pem").write_bytes(signed.public_bytes(encoding))
    return folder / "certificate.pem", folder / "key.pem"


@pytest.mark.parametrize(("name", "trusted"), [("localhost", True), ("localhost", False), ("elsewhere", True)])
def test_tls_is_verified(tmp_path: Path, name: str, trusted: bool) -> None:
    public, key = certificate(tmp_path, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, key)
    good = name == "localhost" and trusted

    async def steps(ask: Any) -> list[bytes]:
        if not good:
            with pytest.raises(httpx.ConnectError, match="certificate"):
                await ask(b"secret")
            return []
        return [(await ask(b"a")).content, (await ask(b"b")).content]

    mine = ssl.create_default_context(cafile=str(public) if trusted else None)
    with scripted(answer(b"A"), answer(b"B"), context=context) as server:
        found = talk(steps, server, scheme="https", host="localhost", certificates=mine)
        assert found == ([b"A", b"B"] if good else [])
        assert server.requests == ([b"a", b"b"] if good else [])


def test_the_clients_connections_verify_and_take_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async def client() -> httpx.AsyncClient:
        connections = Connections(5.0)
        assert connections._certificates.verify_mode is ssl.CERT_REQUIRED
        assert connections._certificates.check_hostname
        with connections.one() as found:
            pass
        await connections.close()
        return found

    assert isinstance(asyncio.run(client()), Connection)
    with scripted(answer(b"by the proxy")) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")

        async def ask() -> bytes:
            connections = Connections(5.0)
            with connections.one() as found:
                response = await send(found, "POST", "http://service.invalid/a", content=b"first")
            await connections.close()
            return response.content

        assert asyncio.run(ask()) == b"by the proxy"
        assert proxy.requests == [b"first"]


def test_a_name_and_password_in_the_address_become_a_header() -> None:
    class Heads(Scripted):
        heads = b""

        def _talk(self, connection: socket.socket) -> None:
            self.heads += connection.recv(65536)
            connection.sendall(answer(b"one"))

    async def ask(port: int) -> None:
        connections = Connections(5.0)
        with connections.one() as found:
            await send(found, "POST", f"http://me:secret@127.0.0.1:{port}/a", content=b"x")
        await connections.close()

    server = Heads([], None)
    try:
        asyncio.run(ask(server.port))
        assert b"\r\nAuthorization: Basic bWU6c2VjcmV0\r\n" in server.heads
    finally:
        server.close()


def test_the_fate_of_a_request() -> None:
    async def ask(port: int) -> None:
        connections = Connections(5.0)
        with connections.one() as found:
            with pytest.raises(NoAnswerError, match="lost the connection"):
                await send(found, "POST", f"http://127.0.0.1:{port}/a", content=b"x")
            with pytest.raises(RefusedError, match="cannot be decoded"):
                await send(found, "POST", f"http://127.0.0.1:{port}/a", content=b"x")
            with pytest.raises(NoAnswerError, match="cannot connect") as caught:
                await send(found, "POST", "http://127.0.0.1:9/a", content=b"x")
        assert not caught.value.reached
        await connections.close()

    with scripted(HANG_UP, answer(b"no gzip", "Content-Encoding: gzip", "Content-Length: 7")) as server:
        asyncio.run(ask(server.port))
