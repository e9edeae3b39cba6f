"""Answers of an odd form: each is a vote against every class, none stops a run, none passes for a label."""

import asyncio
import gzip
import http.server
import json
import math
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from test_blackbox_direct import Scripted, answer, certificate, scripted

from certify.blackbox import Adapter, CallSettings, ServiceError
from certify.blackbox import direct as direct_module
from certify.blackbox.adapter import _retry_after, reading, top_score
from certify.blackbox.answers import Answer, NoAnswerError, RefusedError
from certify.blackbox.caller import Caller
from certify.blackbox.hf_endpoint import HuggingFaceEndpoint
from certify.blackbox.http_json import HttpJson
from certify.blackbox.ledger import Ledger
from certify.blackbox.oip import OpenInference
from certify.blackbox.openai_chat import OpenAIChat
from certify.blackbox.rekognition import Rekognition

BIG = 10**400
DEEP = b"[" * 200_000
URL = "http://127.0.0.1:1"
PIXELS = np.zeros((2, 8, 8, 1), np.uint8)
FAST = CallSettings(concurrency=1, timeout=5.0, patience=2.0, first_wait=0.01)

HF = HuggingFaceEndpoint(URL, key_variable=None)
OIP = OpenInference(URL, "toy", input_name="x")
SCORES = HttpJson(URL, raw=True, scores="s")


def ask(adapter: Adapter, response: httpx.Response, n: int = 1) -> Sequence[Answer]:
    """Ask through a caller; the service gives one answer to everything."""

    async def run() -> Sequence[Answer]:
        caller = Caller(adapter, FAST, transport=httpx.MockTransport(lambda request: response))
        try:
            return await caller.ask(adapter.prepare(PIXELS[:n]), n)
        finally:
            await caller.close()

    return asyncio.run(run())


def said(value: Any) -> httpx.Response:
    return httpx.Response(200, content=value if isinstance(value, bytes) else json.dumps(value).encode())


def output(shape: Any, data: Any, datatype: str = "FP32", **more: Any) -> httpx.Response:
    return said({"outputs": [{"name": "o", "shape": shape, "datatype": datatype, "data": data, **more}]})


def binary(header: bytes, tail: bytes = b"", length: int | None = None) -> httpx.Response:
    size = len(header) if length is None else length
    return httpx.Response(200, content=header + tail, headers={"Inference-Header-Content-Length": str(size)})


def binary_scores(size: int = 24, tail: bytes = np.arange(6, dtype="<f4").tobytes()) -> httpx.Response:
    entry = {"name": "o", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    return binary(json.dumps({"outputs": [entry]}).encode(), tail)


def labelled(path: str) -> HttpJson:
    return HttpJson(URL, raw=True, label=path)


@pytest.mark.parametrize(
    ("adapter", "response"),
    [
        (SCORES, said({"s": [1, 2, BIG]})),
        (SCORES, said({"s": [1, 2, -BIG]})),
        (SCORES, said({"s": [1, 2, math.inf]})),
        (SCORES, said(DEEP)),
        (labelled("ceil(s)"), said({"s": math.inf})),
        (labelled("floor(s)"), said({"s": math.nan})),
        (labelled("sum(s)"), said({"s": [BIG, 0.5]})),
        (labelled("s"), said({"s": math.inf})),
        (HF, said([{"score": BIG, "label": "a"}])),
        (HF, said([{"score": math.inf, "label": "a"}, {"score": 0.1, "label": "b"}])),
        (HF, said([{"score": -math.inf, "label": "a"}])),
        (HF, said([{"score": math.nan, "label": "a"}])),
        (HF, said([{"score": True, "label": "a"}])),
        (HF, said([{"score": "0.9", "label": "a"}])),
        (HF, said([{"score": 0.9, "label": None}])),
        (HF, said([{"score": 0.9, "label": {"x": 1}}])),
        (HF, said([{"score": 0.9, "label": True}])),
        (HF, said([{"score": 0.9, "label": " "}])),
        (HF, said([{"score": 0.9, "label": math.inf}])),
        (HF, said([{"score": 0.9, "label": "a"}, {"score": 0.1, "label": None}])),
        (HF, said(DEEP)),
    ],
)
def test_an_odd_answer_about_one_image_is_a_vote_against_every_class(
    adapter: Adapter, response: httpx.Response
) -> None:
    [found] = ask(adapter, response)
    assert found.label is None
    assert found.reason


@pytest.mark.parametrize(
    ("response", "labels"),
    [
        (output([2, 3], [BIG, 1.0, 1.0, 1.0, 2.0, 1.0]), [None, "1"]),
        (output([2, 3], [BIG] * 6, "INT64"), [None, None]),
        (output([math.inf, 3], [1.0] * 6), [None, None]),
        (output([math.nan, 3], [1.0] * 6), [None, None]),
        (output([2.9, 3], [1.0] * 6), [None, None]),
        (output([True, 6], [1.0] * 6), [None, None]),
        (output([2], ["a", None], "BYTES"), ["a", None]),
        (output([2], ["a", True], "BYTES"), ["a", None]),
        (output([2], [1, True], "INT64"), ["1", None]),
        (binary(DEEP), [None, None]),
        (binary(b"{}", length=-1), [None, None]),
        (binary_scores(tail=b"\0" * 25), [None, None]),
        (binary_scores(size=23), [None, None]),
        (binary_scores(size=25), [None, None]),
        (said(DEEP), [None, None]),
        # What looks odd, but says which labels there are:
        (output([2], [1, 2], "INT64", parameters=None), ["1", "2"]),
        (output(["2", "3"], [1.0, 2.0, 3.0, 6.0, 5.0, 4.0]), ["2", "0"]),
        (output([2.0, 3], [1.0, 2.0, 3.0, 6.0, 5.0, 4.0]), ["2", "0"]),
        (binary_scores(), ["2", "2"]),
    ],
)
def test_an_odd_answer_about_two_images(response: httpx.Response, labels: list[str | None]) -> None:
    assert [found.label for found in ask(OIP, response, 2)] == labels


def test_what_a_whole_answer_of_the_hugging_face_kind_is_read_as() -> None:
    def label(*entries: tuple[Any, Any]) -> str | None:
        return HF.read([{"score": score, "label": name} for score, name in entries]).label

    assert label((0.1, "b"), (0.9, " a ")) == "a"
    assert label((1, 3), (0, 4.0)) == "3"
    assert label((0.5, "b"), (0.5, "a")) == "a"


@pytest.mark.parametrize(
    "labels",
    [
        [{"Name": "a", "Confidence": math.nan}, {"Name": "b", "Confidence": 1.0}],
        [{"Name": "a", "Confidence": math.inf}],
        [{"Name": None, "Confidence": 1.0}],
        [{"Name": "a", "Confidence": BIG}],
        [],
    ],
)
def test_odd_answers_of_rekognition(labels: list[Any]) -> None:
    assert Rekognition().read({"Labels": labels}).label is None
    good = [{"Name": "b", "Confidence": 9.0}, {"Name": " a", "Confidence": 9.0}]
    assert Rekognition().read({"Labels": good, "LabelModelVersion": "3"}) == Answer("a", "3")


@contextmanager
def aws(body: bytes) -> Iterator[str]:
    """A stand-in for AWS that gives one answer to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"Labels": [{"Name": "a", "Confidence": BIG}]}).encode(),
        json.dumps({"Labels": 5}).encode(),
        json.dumps({"Labels": [5]}).encode(),
        json.dumps([5]).encode(),
        b'{"Labels": ' + DEEP,
    ],
)
def test_what_boto3_cannot_read_is_a_vote_against_every_class(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with aws(body) as url:
        [found] = ask(Rekognition(region="us-east-1", endpoint_url=url), said({}))
    assert found.label is None


@pytest.mark.parametrize(
    "adapter",
    [SCORES, HF, OIP, OpenAIChat(URL, "toy", ("a", "b"), key_variable=None)],
    ids=lambda adapter: adapter.name,
)
def test_whatever_goes_wrong_in_reading_is_a_vote_and_in_sending_is_not(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(type(adapter), "_read" if adapter is OIP else "read", fail)
    assert [found.label for found in ask(adapter, said({}))] == [None]
    monkeypatch.setattr(httpx, "Request", fail)
    with pytest.raises(ZeroDivisionError):
        ask(adapter, said({}))


def test_reading_hides_no_stop() -> None:
    for stop in (NoAnswerError("x"), RefusedError("x"), ServiceError("x"), KeyboardInterrupt()):
        with pytest.raises(type(stop)) as caught, reading():
            raise stop
        assert caught.value is stop
    assert top_score([1, BIG]) is None


def test_a_certificate_that_cannot_be_verified_stops_at_once(tmp_path: Path) -> None:
    public, key = certificate(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, key)

    async def run(port: int) -> None:
        ledger = Ledger()
        caller = Caller(HttpJson(f"https://localhost:{port}", raw=True, label="l"), FAST, ledger=ledger)
        try:
            with pytest.raises(
                ServiceError, match=rf"the certificate of https://localhost:{port} cannot be verified: \w"
            ):
                await caller.ask((b"x", "image/png"), 1)
            assert (caller.counts.attempts, caller.counts.retries) == (1, 0)
        finally:
            await caller.close()

    with scripted(answer(b"A"), context=context) as server:
        asyncio.run(run(server.port))
        assert server.requests == []


def test_an_answer_that_trickles_in_is_asked_for_again() -> None:
    class Slow(Scripted):
        def _talk(self, connection: socket.socket) -> None:
            connection.recv(65536)
            if self.connections == 1:
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b" " * 500:
                    threading.Event().wait(0.05)
                    connection.sendall(bytes([byte]))
            connection.sendall(answer(b'{"l": "cat"}'))

    class Threads(Slow):
        """Each connection has a thread: the first one is busy for long."""

        def _serve(self) -> None:
            while True:
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    return
                self.connections += 1
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

        def _one(self, connection: socket.socket) -> None:
            try:
                with connection:
                    self._talk(connection)
            except OSError:
                pass

    async def run(port: int) -> Answer:
        settings = CallSettings(concurrency=1, timeout=3.0, patience=60.0, first_wait=0.01)
        caller = Caller(HttpJson(f"http://127.0.0.1:{port}", raw=True, label="l"), settings)
        try:
            [found] = await caller.ask((b"x", "image/png"), 1)
            assert caller.counts.retries == 1
            return found
        finally:
            await caller.close()

    server = Threads([], None)
    try:
        assert asyncio.run(run(server.port)).label == "cat"
    finally:
        server.close()


def test_a_body_that_trickles_in_by_a_proxy_is_no_answer() -> None:
    class Trickle(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for _ in range(100):
                await asyncio.sleep(0.05)
                yield b" "
            yield b'{"s": [1, 2]}'

    async def run() -> Sequence[Answer]:
        settings = CallSettings(concurrency=1, timeout=0.3, patience=0.5, first_wait=0.01)
        transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=Trickle()))
        caller = Caller(SCORES, settings, transport=transport)
        try:
            return await caller.ask((b"x", "image/png"), 1)
        finally:
            await caller.close()

    [found] = asyncio.run(run())
    assert found.label is None
    assert found.reason.startswith("no answer within")


def zipped(body: bytes, status: str = "200 OK") -> bytes:
    packed = gzip.compress(body)
    return answer(packed, "Content-Encoding: gzip", f"Content-Length: {len(packed)}", status=status)


SPACE = b" " * 200_000
LABEL = b'{"l": "cat"}'


@pytest.mark.parametrize(
    ("items", "label", "retries"),
    [
        ([answer(SPACE + LABEL)], None, 0),
        ([zipped(SPACE + LABEL)], None, 0),
        ([answer(LABEL)], "cat", 0),
        ([zipped(LABEL)], "cat", 0),
        ([answer(SPACE[: 100_000 - len(LABEL)] + LABEL)], "cat", 0),
        ([zipped(SPACE[: 100_000 - len(LABEL)] + LABEL)], "cat", 0),
        (
            [answer(SPACE, status="500 Oh"), answer(LABEL)],
            "cat",
            1,
        ),  # an error says nothing about the image, however large
    ],
)
def test_an_answer_without_end_is_not_read_to_its_end(
    items: list[bytes], label: str | None, retries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_module, "LARGEST", 100_000)

    async def run(port: int) -> list[str | None]:
        caller = Caller(HttpJson(f"http://127.0.0.1:{port}", raw=True, label="l"), FAST)
        try:
            found = [(await caller.ask((b"x", "image/png"), 1))[0].label for _ in range(2)]
            assert caller.counts.retries == retries
            return found
        finally:
            await caller.close()

    with scripted(*items, answer(b'{"l": "next"}')) as server:
        assert asyncio.run(run(server.port)) == [label, "next"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Wed, 21 Oct 2099 07:28:00 -0000", True),
        ("Wed, 21 Oct 2099 07:28:00 GMT", True),
        ("Wed, 21 Oct 2015 07:28:00 -0000", False),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999", None),
    ],
)
def test_dates_of_retry_after(text: str, seconds: bool | None) -> None:
    found = _retry_after(httpx.Response(429, headers={"Retry-After": text}))
    assert (None if found is None else found > 0) == seconds
