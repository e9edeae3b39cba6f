"""Throughput of the client for prediction services, over each local server's own maximum.

The maximum is measured in the same run by plain loops: requests that were built before, sent by as many concurrent tasks as
the client has calls in flight, each on a connection of its own, and nothing else: answers are received, not read. One loop
sends by `httpx.AsyncClient`, the other by the client's own connections, which cost less; the faster of the two is the
maximum. The client draws noise, clips, rounds, encodes, sends, reads, stores every answer in a journal on disk and counts.
The three take turns, in changing order, so that whatever else the machine does slows all; the ratio is that of each turn,
and the median of all turns is printed. Processor time is that of this process, without the server's: it says more than the
clock where other programs run beside.

    python scripts/benchmark_blackbox.py --environments ~/.cache/certify-servers
    python scripts/benchmark_blackbox.py --environments DIR --data mnist --data-root DIR --architecture lenet
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
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import torch
from command_line import in_one_line, whole
from services import PACKAGES, export_onnx, running, small_classifier

from certify.blackbox import Adapter, CallSettings, LabelMap, RefusedError, ServiceVotes
from certify.blackbox.connections import Connection
from certify.blackbox.images import quantize
from certify.blackbox.oip import OpenInference
from certify.blackbox.store import JournalStore
from certify.datasets import load_dataset
from certify.journal import Journal
from certify.models.checkpoint import load_checkpoint
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


async def plain(requests: list[httpx.Request], concurrency: int, *, own: bool) -> Measured:
    """Send all requests by `httpx.AsyncClient`, or by the client's own connections."""
    waiting = iter(requests)
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    certificates = httpx.create_ssl_context()
    clients: list[httpx.AsyncClient] = [
        Connection(certificates, httpx.Timeout(60.0))
        if own
        else httpx.AsyncClient(limits=limits, timeout=60.0, verify=certificates)
        for _ in range(concurrency)
    ]

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
    adapter: Adapter, noise: TorchBlockNoise, x: torch.Tensor, n: int, concurrency: int, classes: int, folder: Path
) -> Measured:
    """Ask for n votes through the client."""
    folder.mkdir()
    settings = CallSettings(concurrency=concurrency)
    warm = concurrency * adapter.images_per_call
    with (
        Journal(folder, kind="smoothing", write=True) as journal,
        ServiceVotes(
            adapter, noise, lambda key: x, LabelMap(classes), JournalStore(journal), settings=settings
        ) as source,
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


def compare(
    name: str, adapter: Adapter, noise: TorchBlockNoise, x: torch.Tensor, classes: int, options: argparse.Namespace
) -> None:
    """Measure one server and print what was found."""
    calls, concurrency = options.calls, options.concurrency
    n = calls * adapter.images_per_call
    images = noise.draw(x, 0, Phase.ESTIMATE, 0, max(128, 2 * adapter.images_per_call))
    requests = asyncio.run(prepare(adapter, images, calls))
    if len(requests) != calls:
        raise RuntimeError(f"the adapter made {len(requests)} requests of {calls} calls")
    found: dict[str, list[Measured]] = {"plain httpx loop": [], "plain loop on own connections": [], "client": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.repeats):
            steps = [
                lambda: asyncio.run(plain(requests, concurrency, own=False)),
                lambda: asyncio.run(plain(requests, concurrency, own=True)),
                lambda turn=turn: client(adapter, noise, x, n, concurrency, classes, Path(folder) / str(turn)),
            ]
            for k in range(3):
                at = (turn + k) % 3
                list(found.values())[at].append(steps[at]())
    size = len(requests[0].content)
    print(f"{name}, {adapter.images_per_call} images a call, {size:,} bytes:")
    for label, times in found.items():
        speed = n / statistics.median(m.seconds for m in times)
        used = 1e3 * statistics.median(m.processor for m in times) / calls
        print(f"    {label:30} {speed:7.0f} images/s, {used:.2f} ms of this process a call")
    loop, own, ours = found.values()
    faster = [min(a.seconds, b.seconds) for a, b in zip(loop, own, strict=True)]
    for label, most in (("the faster loop", faster), ("the httpx loop", [m.seconds for m in loop])):
        ratios = sorted(a / b.seconds for a, b in zip(most, ours, strict=True))
        quarter = len(ratios) // 4
        print(
            f"    client over {label:18} {statistics.median(ratios):.2f}, "
            f"half of the turns {ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f}",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="folder for the servers' environments")
    parser.add_argument("--servers", default="mlserver,litserve", help="which servers, comma separated")
    parser.add_argument("--calls", type=whole(1), default=512, help="calls a measurement")
    parser.add_argument("--concurrency", type=whole(1), default=8)
    parser.add_argument("--repeats", type=whole(1), default=9)
    parser.add_argument("--images-per-call", default="16", help="where a server takes several; comma separated")
    parser.add_argument("--data", default="digits", help="data set of the images")
    parser.add_argument("--data-root", type=Path, help="its folder, where it has one")
    parser.add_argument("--architecture", default="cnn", help="network that is trained on it and served")
    parser.add_argument("--model", type=Path, help="checkpoint folder of a network to serve instead")
    options = parser.parse_args()
    if unknown := [name for name in options.servers.split(",") if name not in PACKAGES]:
        parser.error(f"--servers are of {', '.join(sorted(PACKAGES))}, got {', '.join(unknown)}")
    counts = options.images_per_call.split(",")
    if not all(count.isascii() and count.isdigit() and int(count) for count in counts):
        parser.error(
            f"--images-per-call must be integers of at least 1, comma separated, got {options.images_per_call!r}"
        )
    return in_one_line(lambda: measure(options))


def measure(options: argparse.Namespace) -> None:
    """Measure every server and print the table."""
    torch.set_num_threads(1)
    data = load_dataset(options.data, root=options.data_root)
    shape = data.require_shape()
    x = data.inputs([0])[0]
    noise = TorchBlockNoise(Gaussian(shape, sigma=SIGMA), seed=0)
    if options.model is None:
        model = small_classifier(SIGMA, options.data, options.data_root, options.architecture)
        what = f"{options.architecture}, trained on {options.data}"
    else:
        model, config = load_checkpoint(options.model)
        what = f"{config.architecture} of {options.model}"
    size = sum(weights.numel() for weights in model.parameters())
    print(f"served: {what}, {size:,} parameters, in ONNX Runtime; images {shape} with noise of sigma {SIGMA}")
    print(
        f"{options.calls} calls a measurement, concurrency {options.concurrency}, median of {options.repeats} turns; "
        f"load average at the start {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, shape, path)
        for name in options.servers.split(","):
            with running(name, path, options.environments, Path(folder)) as adapter:
                sizes = [int(count) for count in options.images_per_call.split(",")]
                several = [replace(adapter, batch=count) for count in sizes if isinstance(adapter, OpenInference)]
                for one in several or [adapter]:
                    compare(name, one, noise, x, data.num_classes, options)
    print(f"load average at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    sys.exit(main())
