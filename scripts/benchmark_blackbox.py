"""Throughput of the client for prediction services, over each local server's own maximum.

The maximum is measured in the same run by a plain loop: requests that were built before, sent by as many concurrent tasks
as the client has calls in flight, each on a connection of its own, and nothing else: answers are received, not read. The
client draws noise, clips, rounds, encodes, sends, reads, stores every answer in a journal on disk and counts. The two take
turns, in changing order, so that whatever else the machine does slows both; the ratio is that of each turn, and the median
of all turns is printed.

    python scripts/benchmark_blackbox.py --environments ~/.cache/certify-servers
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch
from services import export_onnx, running, small_classifier

from certify.blackbox import Adapter, CallSettings, LabelMap, RefusedError, ServiceVotes
from certify.blackbox.images import quantize
from certify.blackbox.store import JournalStore
from certify.datasets import load_dataset
from certify.journal import Journal
from smoothing import Gaussian
from smoothing.estimators import Phase
from smoothing.noise_source import TorchBlockNoise
from smoothing.votes import VoteRequest

SIGMA = 0.25


@dataclass(frozen=True)
class Measured:
    """One measurement: seconds that it took, and processor seconds of this process (not of the server)."""

    seconds: float
    processor: float


@contextmanager
def timed() -> Iterator[list[Measured]]:
    """Measure a block; the list has the result afterwards."""
    found: list[Measured] = []
    start, used = time.perf_counter(), time.process_time()
    yield found
    found.append(Measured(time.perf_counter() - start, time.process_time() - used))


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
                await adapter.ask(client, adapter.prepare(part))
            except RefusedError:  # the stand-in's answer is empty; only the request matters
                continue
    return recorder.requests


async def plain(requests: list[httpx.Request], concurrency: int) -> Measured:
    """Send all requests."""
    waiting = iter(requests)
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    certificates = httpx.create_ssl_context()
    clients = [httpx.AsyncClient(limits=limits, timeout=60.0, verify=certificates) for _ in range(concurrency)]

    async def send(client: httpx.AsyncClient, some: Iterator[httpx.Request]) -> None:
        for request in some:
            response = await client.send(request)
            response.raise_for_status()

    # Connections are there before the clock starts, here and in the client.
    await asyncio.gather(*(send(client, iter(requests[:1])) for client in clients))
    with timed() as found:
        await asyncio.gather(*(send(client, waiting) for client in clients))
    for client in clients:
        await client.aclose()
    return found[0]


def client(
    adapter: Adapter, noise: TorchBlockNoise, x: torch.Tensor, n: int, concurrency: int, folder: Path
) -> Measured:
    """Ask for n votes through the client."""
    folder.mkdir()
    settings = CallSettings(concurrency=concurrency)
    warm = concurrency * adapter.images_per_call
    with (
        Journal(folder, kind="smoothing", write=True) as journal,
        ServiceVotes(adapter, noise, lambda key: x, LabelMap(10), JournalStore(journal), settings=settings) as source,
    ):
        source.check(x)
        list(source.votes([VoteRequest(0, Phase.SELECT, 0, warm)]))
        with timed() as found:
            [(_, counts)] = source.votes([VoteRequest(0, Phase.ESTIMATE, 0, n)])
        if journal.count_answers() != warm + n:
            raise RuntimeError(f"{journal.count_answers()} answers are in the journal, expected {warm + n}")
    if counts[-1]:
        raise RuntimeError(f"{counts[-1]} votes were invalid")
    return found[0]


def compare(name: str, adapter: Adapter, noise: TorchBlockNoise, x: torch.Tensor, options: argparse.Namespace) -> None:
    """Measure one server and print a line."""
    calls, concurrency = options.calls, options.concurrency
    n = calls * adapter.images_per_call
    requests = asyncio.run(prepare(adapter, noise.draw(x, 0, Phase.ESTIMATE, 0, 128), calls))
    if len(requests) != calls:
        raise RuntimeError(f"the adapter made {len(requests)} requests of {calls} calls")
    most: list[Measured] = []
    ours: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.repeats):
            steps = [
                lambda: most.append(asyncio.run(plain(requests, concurrency))),
                lambda turn=turn: ours.append(client(adapter, noise, x, n, concurrency, Path(folder) / str(turn))),
            ]
            for step in steps if turn % 2 == 0 else reversed(steps):
                step()
    ratios = sorted(a.seconds / b.seconds for a, b in zip(most, ours, strict=True))
    speeds = [n / statistics.median(m.seconds for m in found) for found in (most, ours)]
    used = [1e3 * statistics.median(m.processor for m in found) / calls for found in (most, ours)]
    quarter = len(ratios) // 4
    print(
        f"{name:10} plain loop {speeds[0]:7.0f} images/s ({used[0]:.2f} ms of this process a call), "
        f"client {speeds[1]:7.0f} ({used[1]:.2f} ms), ratio {statistics.median(ratios):.2f}, "
        f"half of the turns {ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="folder for the servers' environments")
    parser.add_argument("--servers", default="mlserver,litserve", help="which servers, comma separated")
    parser.add_argument("--calls", type=int, default=512, help="calls a measurement")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()

    torch.set_num_threads(1)
    data = load_dataset("digits")
    shape = data.require_shape()
    x = data.inputs([0])[0]
    noise = TorchBlockNoise(Gaussian(shape, sigma=SIGMA), seed=0)
    print(
        f"{options.calls} calls a measurement, concurrency {options.concurrency}, median of {options.repeats} turns; "
        f"load average at the start {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(small_classifier(SIGMA), shape, path)
        for name in options.servers.split(","):
            with running(name, path, options.environments, Path(folder)) as adapter:
                compare(name, adapter, noise, x, options)
    print(f"load average at the end {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
