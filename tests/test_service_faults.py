"""Faults of prediction services: what a dropped failure would fake, time-outs, Retry-After; the counts are printed."""

import asyncio
import datetime
import heapq
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from prediction_service import Service, brightness_class, serve
from tenacity import RetryCallState

from certify.blackbox import CallSettings, LabelMap, MemoryStore, ServiceVotes
from certify.blackbox.adapter import _retry_after
from certify.blackbox.answers import NoAnswerError
from certify.blackbox.caller import Caller, _Wait
from certify.blackbox.http_json import HttpJson
from certify.blackbox.images import quantize
from certify.blackbox.local import LocalCallable
from certify.blackbox.oip import OpenInference
from smoothing import Gaussian
from smoothing.driver import drive
from smoothing.errors import InvalidArgumentError
from smoothing.estimators import FixedEstimator, Phase, Status
from smoothing.noise_source import TorchBlockNoise
from smoothing.votes import VoteRequest

SHAPE = (1, 8, 8)
KEY = 5
BATCH = 5
REQUESTS = [VoteRequest(key, Phase.ESTIMATE, 0, 40) for key in (3, 8)]
INPUTS = {3: torch.full(SHAPE, 0.37), 8: torch.full(SHAPE, 0.62)}
VOTES = sum(request.stop for request in REQUESTS)


@pytest.fixture
def service() -> Iterator[Service]:
    with serve() as running:
        yield running


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Have the counts of a fault test printed at the end of the test run, whichever process it ran in."""

    def told(**counts: int) -> None:
        record_property("counts", ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()))

    return told


# --- A dropped failure fakes a certificate ----------------------------------------------------------------------------

SIGMA = 0.1
LOW, HIGH = 124, 131


def refusing(images: Any) -> list[int | None]:
    """Class 0 where the first pixel is dark, a refusal where it is bright, class 1 between: .45, .45 and .10 at x = .5."""
    return [0 if value <= LOW else None if value >= HIGH else 1 for value in images[:, 0, 0, 0]]


def certify(n: int, *, runner_up: bool) -> Any:
    """The estimate of x = .5 behind the refusing service."""
    x = torch.full(SHAPE, 0.5)
    noise = TorchBlockNoise(Gaussian(SHAPE, sigma=SIGMA), seed=1)
    adapter = LocalCallable(refusing, batch=128)
    with ServiceVotes(adapter, noise, lambda key: x, LabelMap(2), MemoryStore()) as votes:
        states = {KEY: FixedEstimator(n0=20, n=n, alpha=0.001, runner_up=runner_up).start()}
        for _ in drive(votes, states):
            pass
    return states[KEY].result()


@pytest.mark.parametrize("runner_up", [False, True])
def test_dropping_failures_would_give_a_false_certificate(
    monkeypatch: pytest.MonkeyPatch, runner_up: bool, tell: Callable[..., None]
) -> None:
    """A standing mutation: the rule that is broken here on purpose is what keeps a certificate from being false.

    The seed is fixed. With another, the honest count would certify with probability below 1e-9 (549 of 1,000 votes at
    .4532), and the mutated one would fail to with less.
    """
    n = 1000
    top = NormalDist().cdf((LOW + 0.5 - 127.5) / 255 / SIGMA)
    assert 0.45 < top < 0.46, "class 0 has less than half of the noisy images: certifying it is false"
    honest = certify(n, runner_up=runner_up)
    assert (honest.status, honest.prediction) == (Status.ABSTAINED, None)
    refused = honest.looks[-1].counts[-1]
    assert 350 < refused < 550
    tell(asked=n, answered=n - refused, counted_against_the_top_class=refused, dropped=0)

    counted = ServiceVotes._count

    def dropping(self: ServiceVotes, entry: Any) -> Any:
        """Ask again until there is a label, as a loop that skips failed calls does: the shares are those of the rest."""
        counts = counted(self, entry)
        total, valid = counts.sum(), np.repeat(np.arange(len(counts) - 1), counts[:-1])
        filled = np.random.default_rng(0).permutation(np.resize(valid, total))
        return np.bincount(filled, minlength=len(counts)).astype(np.int64)

    monkeypatch.setattr(ServiceVotes, "_count", dropping)
    fake = certify(n, runner_up=runner_up)
    assert (fake.status, fake.prediction) == (Status.CERTIFIED, 0)
    assert fake.p_lower > 0.75 > top

    def losing(self: ServiceVotes, entry: Any) -> Any:
        counts = counted(self, entry)
        counts[-1] = 0
        return counts

    monkeypatch.setattr(ServiceVotes, "_count", losing)
    with pytest.raises(InvalidArgumentError):
        certify(n, runner_up=runner_up)


# --- Time-outs --------------------------------------------------------------------------------------------------------


def ask(service: Service, settings: CallSettings) -> tuple[dict[VoteRequest, list[int]], MemoryStore, Any]:
    store = MemoryStore()
    noise = TorchBlockNoise(Gaussian(SHAPE, sigma=0.5), seed=5)
    adapter = OpenInference(service.url, "toy", batch=BATCH)
    with ServiceVotes(adapter, noise, INPUTS.__getitem__, LabelMap(3), store, settings=settings) as votes:
        found = {request: counts.tolist() for request, counts in votes.votes(REQUESTS)}
        return found, store, votes.counts


def direct() -> dict[VoteRequest, list[int]]:
    """The same votes without any client."""
    noise = TorchBlockNoise(Gaussian(SHAPE, sigma=0.5), seed=5)
    found = {}
    for request in REQUESTS:
        images = quantize(noise.draw(INPUTS[request.index], request.index, request.phase, 0, request.stop))
        found[request] = [*np.bincount(brightness_class(images), minlength=3).tolist(), 0]
    return found


def stored(store: MemoryStore) -> int:
    return sum(len(store.find(key)) for key in INPUTS)


def test_a_call_beyond_the_timeout_is_asked_again(service: Service, tell: Callable[..., None]) -> None:
    """The service does answer it, too late: that one call is billed twice, and counted once."""
    end, slow = threading.Event(), set()

    def fault(number: int, images: Any) -> None:
        if number == 7:
            slow.add(threading.get_ident())

    def classify(images: Any) -> list[int]:
        if threading.get_ident() in slow:
            slow.clear()  # the thread may serve a later call
            end.wait(60)
        return brightness_class(images)

    service.fault, service.classify = fault, classify
    try:
        settings = CallSettings(concurrency=2, timeout=4.0, patience=60.0, first_wait=0.01)
        found, store, counts = ask(service, settings)
    finally:
        end.set()
    twice, lost = service.billed - VOTES, VOTES - stored(store)
    tell(asked=service.requests * BATCH, answered=service.billed, billed_twice=twice, lost=lost)
    assert found == direct()
    assert (counts.retries, counts.attempts, counts.answered) == (1, VOTES // BATCH + 1, VOTES)
    assert (twice, lost) == (BATCH, 0)


@pytest.mark.parametrize("faults", [("429", "503"), ("drop",), ("429", "503", "drop", "slow")])
def test_passing_faults_lose_nothing_and_bill_nothing_twice(
    service: Service, faults: tuple[str, ...], tell: Callable[..., None]
) -> None:
    turn = itertools.cycle([*faults, None, None])
    service.fault = lambda number, images: next(turn)
    found, store, counts = ask(service, CallSettings(concurrency=4, timeout=30.0, patience=120.0, first_wait=0.01))
    twice, lost = service.billed - VOTES, VOTES - stored(store)
    tell(asked=service.requests * BATCH, answered=service.billed, billed_twice=twice, lost=lost)
    assert found == direct()
    assert (twice, lost, counts.answered) == (0, 0, VOTES)
    assert counts.retries == service.requests - VOTES // BATCH > 0


# --- Retry-After ------------------------------------------------------------------------------------------------------


def failed(attempt: int, after: float | None) -> RetryCallState:
    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    state.attempt_number = attempt
    error = NoAnswerError("HTTP 429", after=after)
    state.set_exception((NoAnswerError, error, None))
    return state


def test_a_retry_never_waits_less_than_the_service_asked_for() -> None:
    wait = _Wait(0.5, 3600.0)
    for attempt in range(1, 12):
        assert wait(failed(attempt, 75.0)) == 75.0, "beyond every back-off of our own"
        assert all(wait(failed(attempt, 0.2)) >= 0.2 for _ in range(20))
        assert all(0 <= wait(failed(attempt, None)) <= min(0.5 * 2 ** (attempt - 1), 60.0) for _ in range(20))


def test_nobody_waits_longer_than_patience_allows() -> None:
    assert _Wait(0.5, 300.0)(failed(1, 86_400.0)) == 300.0
    assert _Wait(0.5, 300.0)(failed(1, math.inf)) == 300.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        ("0.25", 0.25),
        ("-3", 0.0),
        ("Fri, 27 Nov 2026 12:00:30 GMT", 30.0),
        ("Fri, 27 Nov 2026 11:59:00 GMT", 0.0),
        ("Friday, 27-Nov-26 12:01:00 GMT", 60.0),  # the obsolete form, which RFC 9110 still has clients read
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_as_seconds_and_as_a_date(
    monkeypatch: pytest.MonkeyPatch, text: str | None, seconds: float | None
) -> None:
    class Noon(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Noon":
            return cls(2026, 11, 27, 12, 0, 0, tzinfo=tz)

    response = httpx.Response(429, headers={} if text is None else {"Retry-After": text})
    with monkeypatch.context() as patch:
        patch.setattr(datetime, "datetime", Noon)
        found = _retry_after(response)
    assert found == seconds


class Clock:
    """Time that passes only while everybody sleeps: an event loop's, with its sleepers."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._turn = asyncio.sleep

    async def sleep(self, seconds: float) -> None:
        waiter = asyncio.get_running_loop().create_future()
        heapq.heappush(self.sleepers, (self.now + seconds, next(self._numbers), waiter))
        await waiter

    async def settle(self) -> None:
        for _ in range(50):
            await self._turn(0)

    async def run(self, *tasks: "asyncio.Task[Any]") -> None:
        while True:
            await self.settle()
            if all(task.done() for task in tasks):
                return
            self.now, _, waiter = heapq.heappop(self.sleepers)
            waiter.set_result(None)


class Loop(asyncio.SelectorEventLoop):
    clock: Clock

    def time(self) -> float:
        return self.clock.now


def test_retry_after_of_one_call_pauses_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sent = Clock(), []
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    adapter = HttpJson("http://service/json", body={"image": "{{png_base64}}"}, label="label")

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(clock.now)
        if len(sent) == 1:
            return httpx.Response(429, headers={"Retry-After": "5"})
        return httpx.Response(200, json={"label": "bee"})

    async def scenario() -> list[Any]:
        caller = Caller(adapter, CallSettings(first_wait=0.01), transport=httpx.MockTransport(answer))
        image = adapter.prepare(np.zeros((1, 8, 8, 1), np.uint8))
        first = asyncio.create_task(caller.ask(image, 1))
        await clock.settle()
        assert sent == [100.0], "it was sent, and the service said when it wants to be asked again"
        others = [asyncio.create_task(caller.ask(image, 1)) for _ in range(3)]
        await clock.run(first, *others)
        await caller.close()
        assert (caller.counts.attempts, caller.counts.answered, caller.counts.retries) == (5, 4, 1)
        return [task.result() for task in (first, *others)]

    def loop() -> Loop:
        made = Loop()
        made.clock = clock
        return made

    with asyncio.Runner(loop_factory=loop) as runner:
        answers = runner.run(scenario())
    assert [[answer.label for answer in found] for found in answers] == [["bee"]] * 4
    assert len(sent) == 5
    assert all(moment >= 105.0 for moment in sent[1:]), "nobody asks before the service wants to be asked"
    assert max(sent) < 106.0, "and nobody waits much longer"
