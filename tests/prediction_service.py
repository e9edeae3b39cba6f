"""A prediction service on localhost that speaks several protocols and can be made to fail, for tests of the client.

It is a real server: requests go through sockets, PNG and JSON. Every answer that it gives is counted ("billed").
"""

import base64
import contextlib
import io
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("ant", "bee", "cat")


def brightness_class(images: Any) -> list[int]:
    """Class by mean brightness of uint8 images [n, h, w, c]: a classifier that needs no framework."""
    means = images.reshape(len(images), -1).astype(np.float64).mean(1)
    return [int(mean > 95) + int(mean > 160) for mean in means]


def decode_png(data: bytes) -> Any:
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    return (pixels[:, :, None] if pixels.ndim == 2 else pixels)[None]


class Service:
    """The state behind the server.

    Attributes:
        classify: uint8 [n, h, w, c] -> class numbers.
        fault: Called with (number of the request, images) before an answer; returns None for an honest answer, or one of
            "429", "503", "drop", "hold", "slow", "late", "malformed", "shape", "refuse", "empty", "400", "nan".
        released: When it is set, calls on "hold" end, without an answer, and those that are "late" with one.
        version: Version that is reported; None: none.
        billed: Images answered.
        taken: Images that came in and were not turned away (429): what another service might bill.
        requests: Requests that came in.
        keys: Authorization headers seen.
        declare_inputs: Whether the metadata name the model's inputs.
    """

    def __init__(self) -> None:
        self.classify: Callable[[Any], list[int]] = brightness_class
        self.fault: Callable[[int, Any], str | None] = lambda number, images: None
        self.released = threading.Event()
        self.version: str | None = "1"
        self.billed = 0
        self.taken = 0
        self.requests = 0
        self.keys: set[str] = set()
        self.declare_inputs = True
        self.lock = threading.Lock()
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits some 40 ms for an acknowledgement
    wbufsize = -1
    service: Service

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that has given up, or was killed
            super().handle()

    def finish(self) -> None:
        try:
            super().finish()
        except ConnectionError:  # what was not sent cannot be; the socket is closed when both of its files are
            pass
        finally:
            self.rfile.close()

    def do_GET(self) -> None:
        if self.path == "/v2/models/toy":
            inputs = (
                [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}] if self.service.declare_inputs else []
            )
            self._reply(200, {"name": "toy", "inputs": inputs, "outputs": []})
        else:
            self._reply(404, {"error": "no such model"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        service = self.service
        key = self.headers.get("Authorization", "")
        if key == "Bearer wrong":
            self._reply(401, {"error": "bad key"})
            return
        routes: dict[str, Callable[[bytes], tuple[Any, Callable[[list[int]], Any]]]] = {
            "/v2/models/toy/infer": self._oip,
            "/json": self._json,
            "/raw": lambda data: (decode_png(data), self._named),
            "/form": self._form,
            "/v1/chat/completions": self._chat,
            "/hf": lambda data: (decode_png(data), self._hf),
        }
        if self.path not in routes:
            self._reply(404, {"error": "no such path"})
            return
        images, answer = routes[self.path](body)
        with service.lock:
            service.requests += 1
            number = service.requests
            service.keys.add(key)
            fault = service.fault(number, images)
            service.taken += 0 if fault == "429" else len(images)
        if fault == "hold":
            service.released.wait(60)
        if fault in ("drop", "hold"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault in ("429", "503"):
            self._reply(int(fault), {"error": "later"}, {"Retry-After": "0.05"} if fault == "429" else {})
            return
        with service.lock:
            service.billed += len(images)
        # Billed before the wait: a client that gives up may have ended its run by the answer.
        if fault == "slow":
            time.sleep(0.3)
        if fault == "late":
            service.released.wait(60)
        if fault == "malformed":
            self._send(200, b'{"outputs": [', {})
        elif fault == "400":
            self._reply(400, {"error": "this image is not allowed"})
        elif fault == "shape":
            self._reply(200, answer([0] * (len(images) + 1)))
        elif fault == "refuse":
            self._reply(200, self._refusal())
        elif fault == "empty":
            self._reply(200, {})
        else:
            self._reply(200, answer(service.classify(images)), binary=self.headers.get("X-Binary") == "1")

    def _oip(self, body: bytes) -> tuple[Any, Callable[[list[int]], Any]]:
        length = self.headers.get("Inference-Header-Content-Length")
        head = json.loads(body[: int(length)] if length else body)
        [entry] = head["inputs"]
        assert entry["name"] == "image"
        dtype = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}[entry["datatype"]]
        if length:
            raw = body[int(length) :]
            assert len(raw) == entry["parameters"]["binary_data_size"]
            values = np.frombuffer(raw, dtype)
        else:
            values = np.array(entry["data"], dtype)
        tensor = values.reshape(entry["shape"])
        if entry["shape"][1] in (1, 3):
            tensor = tensor.transpose(0, 2, 3, 1)
        images = np.rint(tensor * 255).astype(np.uint8) if entry["datatype"] == "FP32" else tensor

        def answer(classes: list[int]) -> Any:
            scores = [[float(k == c) for k in range(3)] for c in classes]
            flat = [s for row in scores for s in row]
            output: dict[str, Any] = {"name": "scores", "datatype": "FP32", "shape": [len(classes), 3], "data": flat}
            return {"model_name": "toy", "model_version": self.service.version, "outputs": [output]}

        def binary(classes: list[int]) -> tuple[bytes, dict[str, str]]:
            found = answer(classes)
            data = struct.pack(f"<{3 * len(classes)}f", *found["outputs"][0].pop("data"))
            found["outputs"][0]["parameters"] = {"binary_data_size": len(data)}
            text = json.dumps(found).encode()
            return text + data, {"Inference-Header-Content-Length": str(len(text))}

        return images, binary if length else answer

    def _json(self, body: bytes) -> tuple[Any, Callable[[list[int]], Any]]:
        return decode_png(base64.b64decode(json.loads(body)["image"])), self._named

    def _form(self, body: bytes) -> tuple[Any, Callable[[list[int]], Any]]:
        start = body.index(b"\x89PNG")
        return decode_png(body[start : body.index(b"IEND") + 8]), self._named

    def _named(self, classes: list[int]) -> Any:
        if len(classes) != 1:
            return {"results": "two for one"}
        return {"results": [{"name": NAMES[classes[0]]}], "model": {"version": self.service.version}}

    def _refusal(self) -> Any:
        if self.path == "/v1/chat/completions":
            return {
                "model": "toy",
                "system_fingerprint": self.service.version,
                "choices": [{"finish_reason": "content_filter", "message": {"content": ""}}],
            }
        return {"error": {"code": "content_filter"}}

    def _chat(self, body: bytes) -> tuple[Any, Callable[[list[int]], Any]]:
        message = json.loads(body)
        [part] = [p for p in message["messages"][0]["content"] if p["type"] == "image_url"]
        png = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,"))

        def answer(classes: list[int]) -> Any:
            text = json.dumps({"label": NAMES[classes[0]]}) if len(classes) == 1 else "a cat, or perhaps a bee"
            choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            return {"model": "toy", "system_fingerprint": self.service.version, "choices": [choice]}

        return decode_png(png), answer

    def _hf(self, classes: list[int]) -> Any:
        if len(classes) != 1:
            return {"error": "loading"}
        return [{"label": name, "score": 0.8 if k == classes[0] else 0.1} for k, name in enumerate(NAMES)]

    def _reply(self, status: int, body: Any, headers: dict[str, str] | None = None, *, binary: bool = False) -> None:
        if isinstance(body, tuple):
            data, extra = body
            self._send(status, data, {**(headers or {}), **extra})
        else:
            self._send(status, json.dumps(body).encode(), headers or {})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(data)


@contextlib.contextmanager
def serve() -> Iterator[Service]:
    """Run the service on a free port until the block ends."""
    service = Service()
    handler = type("Handler", (_Handler,), {"service": service})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
