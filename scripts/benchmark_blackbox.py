"""Throughput of the client for prediction services, over each local server's own maximum.

The maximum is measured in the same run by a plain loop: prepared requests, sent by as many concurrent tasks as the client
uses, nothing else. The client draws noise, clips, rounds, encodes, sends, retries, stores every answer and counts.

    python scripts/benchmark_blackbox.py --environments ~/.cache/certify-servers
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
import torch
from services import export_onnx, running, small_classifier

from certify.blackbox import Adapter, CallSettings, LabelMap, MemoryStore, ServiceVotes
from certify.blackbox.images import quantize
from certify.datasets import load_dataset
from smoothing import Gaussian
from smoothing.estimators import Phase
from smoothing.noise_source import TorchBlockNoise
from smoothing.votes import VoteRequest

SIGMA = 0.25


class Recorder(httpx.AsyncBaseTransport):
    """Keeps the requests that an adapter would send."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        if request.method == "GET":
            return httpx.Response(200, json={"inputs": [{"name": "image"}]})
        self.requests.append(request)
        return httpx.Response(200, json={})


async def prepare(adapter: Adapter, images: torch.Tensor, calls: int) -> list[httpx.Request]:
    """Return the requests of so many calls, ready to be sent."""
    recorder = Recorder()
    levels = quantize(images)
    size = adapter.images_per_call
    async with httpx.AsyncClient(transport=recorder) as client:
        for call in range(calls):
            part = levels[(call * size) % (len(levels) - size + 1) :][:size]
            try:
                await adapter.ask(client, part)
            except Exception:  # the stand-in's answer is empty; only the request matters
                continue
    return recorder.requests


async def plain(requests: list[httpx.Request], concurrency: int) -> float:
    """Send all requests; return the seconds that it took."""
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    waiting = iter(requests)
    async with httpx.AsyncClient(limits=limits, timeout=60.0) as client:

        async def worker() -> None:
            for request in waiting:
                response = await client.post(request.url, content=request.content, headers=dict(request.headers))
                response.raise_for_status()

        await client.post(requests[0].url, content=requests[0].content, headers=dict(requests[0].headers))
        start = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        return time.perf_counter() - start


def client(adapter: Adapter, noise: TorchBlockNoise, x: torch.Tensor, n: int, concurrency: int) -> float:
    """Ask for n votes through the client; return the seconds that it took."""
    settings = CallSettings(concurrency=concurrency)
    with ServiceVotes(adapter, noise, lambda key: x, LabelMap(10), MemoryStore(), settings=settings) as source:
        source.check(x)
        start = time.perf_counter()
        [(_, counts)] = source.votes([VoteRequest(0, Phase.ESTIMATE, 0, n)])
        seconds = time.perf_counter() - start
    if counts[-1]:
        raise RuntimeError(f"{counts[-1]} votes were invalid")
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="folder for the servers' environments")
    parser.add_argument("--servers", default="mlserver,litserve", help="which servers, comma separated")
    parser.add_argument("--images", type=int, default=2048, help="images per measurement")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    torch.set_num_threads(1)
    data = load_dataset("digits")
    shape = data.require_shape()
    x = data.inputs([0])[0]
    noise = TorchBlockNoise(Gaussian(shape, sigma=SIGMA), seed=0)
    print(f"{options.images} images a measurement, concurrency {options.concurrency}, median of {options.repeats}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(small_classifier(SIGMA), shape, path)
        for name in options.servers.split(","):
            with running(name, path, options.environments, Path(folder)) as adapter:
                calls = options.images // adapter.images_per_call
                n = calls * adapter.images_per_call
                requests = asyncio.run(prepare(adapter, noise.draw(x, 0, Phase.ESTIMATE, 0, 128), calls))
                ratios, most, ours = [], [], []
                for _ in range(options.repeats):
                    # One after the other in every repeat, so that a busy machine slows both.
                    most.append(n / asyncio.run(plain(requests, options.concurrency)))
                    ours.append(n / client(adapter, noise, x, n, options.concurrency))
                    ratios.append(ours[-1] / most[-1])
                print(
                    f"{name:10} plain loop {statistics.median(most):7.0f} images/s, client {statistics.median(ours):7.0f}, "
                    f"ratio {statistics.median(ratios):.2f}"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
