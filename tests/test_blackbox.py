"""Prediction services: every adapter counts the same votes, failures count against the top class, nothing is paid twice."""

import asyncio
import dataclasses
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from prediction_service import NAMES, Service, brightness_class, serve
from torch import Tensor

from certify.blackbox import (
    ADAPTERS,
    Adapter,
    Budget,
    BudgetError,
    CallSettings,
    Canaries,
    LabelMap,
    MemoryStore,
    ServiceError,
    ServiceVotes,
    build_adapter,
)
from certify.blackbox.answers import RefusedError
from certify.blackbox.hf_endpoint import HuggingFaceEndpoint
from certify.blackbox.http_json import HttpJson
from certify.blackbox.images import dequantize, encode_png, quantize
from certify.blackbox.local import LocalCallable, torch_function
from certify.blackbox.oip import OpenInference
from certify.blackbox.openai_chat import OpenAIChat
from certify.blackbox.record import Record, RecordedVotes, write_record
from certify.blackbox.rekognition import Rekognition
from certify.blackbox.secrets import redact
from certify.blackbox.store import JournalStore, StoredAnswer
from certify.errors import CertifyError, JournalError, UsageError
from certify.journal import Journal
from smoothing import Gaussian
from smoothing.driver import drive
from smoothing.estimators import FixedEstimator, Phase, Status
from smoothing.noise_source import TorchBlockNoise
from smoothing.votes import VoteRequest

SHAPE = (1, 8, 8)
LAW = Gaussian(SHAPE, sigma=0.5)
INPUTS = {3: torch.full(SHAPE, 0.37), 8: torch.full(SHAPE, 0.62), 11: torch.full(SHAPE, 0.1)}
FAST = CallSettings(concurrency=4, timeout=5.0, patience=20.0, first_wait=0.01)
REQUESTS = [VoteRequest(key, phase, 0, n) for key in INPUTS for phase, n in ((Phase.SELECT, 4), (Phase.ESTIMATE, 16))]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("TEST_KEY", "s3cr3t-value")
    with serve() as running:
        yield running


def adapters(url: str) -> dict[str, Adapter]:
    shared = {"label": "results[0].name", "version": "model.version", "refused": "error.code == 'content_filter'"}
    secret = (("Authorization", "Bearer ${TEST_KEY}"),)
    return {
        "oip": OpenInference(url, "toy", batch=5),
        "oip-binary": OpenInference(url, "toy", batch=5, binary=True, headers=secret),
        "oip-bytes": OpenInference(url, "toy", batch=3, datatype="UINT8", layout="NHWC", binary=True),
        "http-json": HttpJson(f"{url}/json", body={"image": "{{png_base64}}"}, headers=secret, **shared),
        "http-raw": HttpJson(f"{url}/raw", raw=True, **shared),
        "http-form": HttpJson(f"{url}/form", multipart="file", **shared),
        "openai-chat": OpenAIChat(f"{url}/v1", "toy", NAMES, key_variable="TEST_KEY"),
        "hf-endpoint": HuggingFaceEndpoint(f"{url}/hf", key_variable=None),
    }


KINDS = tuple(adapters("http://127.0.0.1:1"))


def label_map(adapter: Adapter) -> LabelMap:
    return LabelMap(3) if isinstance(adapter, OpenInference | LocalCallable) else LabelMap.from_names(NAMES)


def source(adapter: Adapter, store: Any = None, **options: Any) -> ServiceVotes:
    return ServiceVotes(
        adapter,
        TorchBlockNoise(LAW, seed=5),
        INPUTS.__getitem__,
        label_map(adapter),
        MemoryStore() if store is None else store,
        **{"settings": FAST, **options},
    )


def count(adapter: Adapter, requests: list[VoteRequest] = REQUESTS, **options: Any) -> dict[VoteRequest, list[int]]:
    with source(adapter, **options) as votes:
        found = {request: counts.tolist() for request, counts in votes.votes(requests)}
    assert set(found) == set(requests)
    return found


def direct() -> dict[VoteRequest, list[int]]:
    """The same votes without any client: the noise, 8 bits, the classifier."""
    noise = TorchBlockNoise(LAW, seed=5)
    found = {}
    for request in REQUESTS:
        images = quantize(noise.draw(INPUTS[request.index], request.index, request.phase, request.start, request.stop))
        found[request] = [*np.bincount(brightness_class(images), minlength=3).tolist(), 0]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_adapter_counts_the_votes_of_a_direct_call(service: Service, kind: str) -> None:
    assert count(adapters(service.url)[kind]) == direct()
    assert service.billed == sum(request.stop for request in REQUESTS)
    assert any(min(counts[:3]) < max(counts[:3]) and sorted(counts)[-2] > 0 for counts in direct().values())


def test_a_torch_classifier_in_process() -> None:
    def scores(x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor(brightness_class(quantize(x))), 3).float()

    assert count(LocalCallable(torch_function(scores), batch=9)) == direct()


def answers(function: Callable[[Any], Any], images: int = 3, adapter: LocalCallable | None = None) -> list[str | None]:
    asked = (adapter or LocalCallable(function)).ask(None, np.zeros((images, 8, 8, 1), np.uint8))  # type: ignore[arg-type]
    return [answer.label for answer in asyncio.run(asked)]  # type: ignore[arg-type]


class Column:
    """A column of another library's table."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array([0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    "returned",
    [
        [0, 1, 2],
        (0, 1.0, np.float32(2)),
        range(3),
        np.array([0, 1, 2], np.uint8),
        np.array([0.0, 1.0, 2.0], np.float16),
        np.array([0, 1.0, "2"], object),
        torch.tensor([0, 1, 2]),
        torch.tensor([0.0, 1.0, 2.0], dtype=torch.bfloat16, requires_grad=True),
        [torch.tensor(0), torch.tensor(1.0), np.array(2)],
        np.array(["0", "1", " 2 "]),
        Column(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_function_returns_its_labels_in(returned: Any) -> None:
    assert answers(lambda images: returned) == ["0", "1", "2"]


@pytest.mark.parametrize("one", [None, float("nan"), 1.5, np.inf, " ", torch.tensor(0.5), torch.tensor(float("nan"))])
def test_answers_without_a_label_count_against_the_top_class(one: Any) -> None:
    assert answers(lambda images: [0, one, 2]) == ["0", None, "2"]
    voted = count(LocalCallable(lambda images: [one] * len(images)), REQUESTS[:1])
    assert voted == {REQUESTS[0]: [0, 0, 0, REQUESTS[0].stop]}


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (np.eye(3), r"an array of shape \(3, 3\); of scores"),
        (torch.eye(3), r"a tensor of shape \(3, 3\); of scores"),
        ([[0.1, 0.9]] * 3, "a label of type list"),
        ([np.zeros(2)] * 3, "a label of type ndarray"),
        ((label for label in (0, 1, 2)), "one value of type generator"),
        ({0, 1, 2}, "one value of type set"),
        ("012", "one value of type str"),
        (b"012", "one value of type bytes"),
        ([b"a"] * 3, "a label of type bytes"),
        (np.array([True] * 3), "a label of type bool"),
        (1, "one value of type int"),
        (torch.tensor(1), r"a tensor of shape \(\)"),
        (torch.zeros(3, device="meta"), "a meta tensor"),
        (torch.zeros(3).to_sparse(), "a sparse tensor"),
        (None, "one value of type NoneType"),
        ([0, 1], "2 labels"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else type(value).__name__,
)
def test_a_function_that_returns_no_labels_is_wrong_usage(returned: Any, got: str) -> None:
    """Taken for refusals, its answers would make every input abstain, at full cost."""
    with pytest.raises(UsageError, match=rf"one label for each of the 3 images .* shape \(3,\), got {got}"):
        answers(lambda images: returned)
    adapter = LocalCallable(lambda images: np.eye(len(images)), batch=4)
    with source(adapter) as votes, pytest.raises(UsageError, match=r"got an array of shape \(4, 4\)"):
        list(votes.votes(REQUESTS))


def test_a_torch_classifier_without_classes_is_wrong_usage() -> None:
    for output in (torch.zeros(3, 1), torch.zeros(3), torch.zeros(3, 2, 2)):
        with pytest.raises(UsageError, match=r"of the classifier inside: it"):
            answers(torch_function(lambda x, output=output: output))


def test_a_function_that_has_answered_before_is_refused_by_nothing_but_its_votes() -> None:
    """Whether the run goes on must not depend on the noise from the first answer on: what comes later is a vote."""
    adapter = LocalCallable(lambda images: [0] * len(images) if len(images) < 5 else np.eye(len(images)), batch=4)
    assert answers(adapter.function, 3, adapter) == ["0"] * 3
    with pytest.raises(RefusedError, match=r"one label an image, got an array of shape \(5, 5\)"):
        answers(adapter.function, 5, adapter)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (3, "3"),
        (3.0, "3"),
        (-0.0, "0"),
        (3.5, None),
        (1e400, None),
        ("3.0", "3.0"),
        (" a ", "a"),
        (None, None),
        ([3], None),
    ],
)
def test_class_numbers_that_json_writes_as_floats(value: Any, label: str | None) -> None:
    assert HttpJson("http://x", raw=True, label="label").read({"label": value}).label == label
    if isinstance(value, float) and label is not None:
        assert HuggingFaceEndpoint("http://x").read([{"label": value, "score": 1}]).label == label
    if isinstance(value, float):
        for shape, kind in (([1], "FP64"), ([1], "INT64"), ([1, 1], "INT64")):
            body = {"outputs": [{"name": "y", "shape": shape, "datatype": kind, "data": [value]}]}
            [answer] = OpenInference("http://x", "m")._read(httpx.Response(200, text=json.dumps(body)), 1)
            assert answer.label == label


def test_every_adapter_is_in_the_table() -> None:
    def concrete(kind: type) -> set[type]:
        return {kind} | {inner for sub in kind.__subclasses__() for inner in concrete(sub)}

    assert {kind.name for kind in concrete(Adapter) - {Adapter}} == {*ADAPTERS, LocalCallable.name}


@pytest.mark.parametrize("fault", ["429", "503", "drop", "slow"])
@pytest.mark.parametrize("kind", ["oip", "http-json"])
def test_passing_faults_change_nothing_and_bill_nothing_twice(service: Service, kind: str, fault: str) -> None:
    service.fault = lambda number, images: fault if number % 4 == 1 else None
    assert count(adapters(service.url)[kind]) == direct()
    assert service.billed == sum(request.stop for request in REQUESTS)
    assert fault == "slow" or service.requests > service.billed // 5


FAILURES = [
    *((kind, fault) for kind in KINDS for fault in ("malformed", "empty")),
    *((kind, fault) for kind in ("oip", "http-json", "openai-chat") for fault in ("shape", "refuse", "400")),
]


def failing(images: Any) -> bool:
    """Whether the service fails on an image: by content, so that no scheduling can change which."""
    return bool(images.astype(np.int64).sum() % 3 == 0)


@pytest.mark.parametrize(("kind", "fault"), FAILURES)
def test_failures_are_votes_against_every_class(service: Service, kind: str, fault: str) -> None:
    adapter = adapters(service.url)[kind]
    if isinstance(adapter, OpenInference):
        adapter = dataclasses.replace(adapter, batch=1)
    service.fault = lambda number, images: fault if failing(images) else None
    found = count(adapter)
    noise = TorchBlockNoise(LAW, seed=5)
    for request, counts in found.items():
        images = quantize(noise.draw(INPUTS[request.index], request.index, request.phase, request.start, request.stop))
        bad = sum(failing(image) for image in images)
        good = [image for image in images if not failing(image)]
        assert counts == [*np.bincount(brightness_class(np.stack(good)), minlength=3).tolist(), bad]
        assert sum(counts) == request.stop - request.start, "a failure was dropped"


def test_exhausted_retries_count_as_invalid(service: Service) -> None:
    service.fault = lambda number, images: "503"
    request = VoteRequest(3, Phase.ESTIMATE, 0, 4)
    settings = CallSettings(concurrency=4, patience=0.1, first_wait=0.01)
    found = count(adapters(service.url)["http-raw"], [request], settings=settings)
    assert found[request] == [0, 0, 0, 4]


def test_what_is_stored_is_not_asked_again(service: Service) -> None:
    store = MemoryStore()
    adapter = adapters(service.url)["oip"]
    first = [VoteRequest(3, Phase.ESTIMATE, 0, 12)]
    count(adapter, first, store=store)
    whole = [VoteRequest(3, Phase.ESTIMATE, 0, 16)]
    assert count(adapter, whole, store=store)[whole[0]] == direct()[whole[0]]
    assert service.billed == 16


def test_stopping_in_the_middle_keeps_every_answer(service: Service) -> None:
    store = MemoryStore()
    adapter = adapters(service.url)["http-raw"]
    with source(adapter, store) as votes:
        for _ in votes.votes(REQUESTS):
            break
    kept = sum(len(store.find(key)) for key in INPUTS)
    assert service.billed - FAST.concurrency <= kept <= service.billed
    billed = service.billed
    assert count(adapter, store=store) == direct()
    total = sum(request.stop for request in REQUESTS)
    # No sample was asked again whose answer was kept: the store refuses a second one. The service's books may only be late
    # with what was in flight when the loop ended.
    assert sum(len(store.find(key)) for key in INPUTS) == total
    assert total - kept <= service.billed - billed <= total - kept + FAST.concurrency


def test_a_change_of_version_voids_the_input(service: Service) -> None:
    def change(number: int, images: Any) -> None:
        service.version = "1" if number <= 40 else "2"

    service.fault = change
    adapter = adapters(service.url)["http-json"]
    with source(adapter, settings=CallSettings(concurrency=1)) as votes:
        states = {key: FixedEstimator(n0=7, n=23, alpha=0.1).start() for key in INPUTS}
        for key, state in states.items():  # one input after the other, so that only the second sees the change
            for _ in drive(votes, {key: state}):
                pass
    first, second, third = (state.result() for state in states.values())
    assert second.status is Status.ABSTAINED
    assert second.looks[-1].counts == (0, 0, 0, 23)
    assert first.looks[-1].counts[-1] == third.looks[-1].counts[-1] == 0


@pytest.mark.parametrize("kept", ["memory", "journal"])
def test_a_void_input_is_not_asked_any_more(service: Service, tmp_path: Path, kept: str) -> None:
    def change(number: int, images: Any) -> None:
        service.version = "1" if number < 8 else "2"

    service.fault = change
    adapter = adapters(service.url)["http-json"]
    with Journal(tmp_path, kind="smoothing", write=True) as journal:
        store = MemoryStore() if kept == "memory" else JournalStore(journal)
        first = VoteRequest(3, Phase.ESTIMATE, 0, 10)
        assert count(adapter, [first], store=store)[first] == [0, 0, 0, 10]
        assert service.billed == 10
        more = [VoteRequest(3, Phase.ESTIMATE, 0, 30), VoteRequest(3, Phase.SELECT, 0, 4)]
        assert count(adapter, more, store=store) == {more[0]: [0, 0, 0, 30], more[1]: [0, 0, 0, 4]}
        other = VoteRequest(8, Phase.ESTIMATE, 0, 16)
        assert count(adapter, [other], store=store)[other] == direct()[other], "another input is none the worse"
        assert service.billed == 10 + 16
        # One row a vote all the same, from which the audit recounts; what was not asked is not on the bill.
        assert [(row.phase, row.sample) for row in store.find(3)] == [
            *((Phase.ESTIMATE, sample) for sample in range(30)),
            *((Phase.SELECT, sample) for sample in range(4)),
        ]
        assert kept == "memory" or journal.count_answers() == service.billed


def test_changed_canaries_void_what_was_asked_since_the_last_good_check(service: Service) -> None:
    service.version = None
    adapter = adapters(service.url)["hf-endpoint"]
    canaries = Canaries(np.full((2, 8, 8, 1), 200, np.uint8), every=1e9)
    store = MemoryStore()
    with source(adapter, store, canaries=canaries) as votes:
        good = VoteRequest(3, Phase.ESTIMATE, 0, 5)
        assert dict(votes.votes([good]))[good][-1] == 0
        service.classify = lambda images: [0] * len(images)
        bad = VoteRequest(8, Phase.ESTIMATE, 0, 5)
        with pytest.raises(ServiceError, match="the service has changed"):
            list(votes.votes([bad]))
        service.classify = brightness_class
        assert dict(votes.votes([bad]))[bad].tolist() == [0, 0, 0, 5], "void stays void"
        assert dict(votes.votes([good]))[good][-1] == 0


def test_answers_that_come_in_beside_a_bad_check_of_the_canaries_are_void(service: Service) -> None:
    service.version = None
    now = [0.0]
    canaries = Canaries(np.full((1, 8, 8, 1), 200, np.uint8), every=1.0, clock=lambda: now[0])
    store = MemoryStore()
    settings = CallSettings(concurrency=4)
    with source(adapters(service.url)["hf-endpoint"], store, canaries=canaries, settings=settings) as votes:
        votes.check_canaries()
        ask = votes._ask

        def slow(images: Any, *purpose: Any) -> Any:
            # The check goes on until an answer for the second input has come in: one canary and the first input are billed,
            # and of what is billed beyond that, no more than the calls in flight can be on its way.
            deadline = time.monotonic() + 60
            while service.billed < 1 + 60 + 1 + settings.concurrency and time.monotonic() < deadline:
                time.sleep(0.005)
            return ask(images, *purpose)

        def change(number: int, images: Any) -> None:
            now[0] = 5.0
            service.classify = lambda images: [0] * len(images)

        votes._ask = slow  # type: ignore[method-assign]
        service.fault = change
        requests = [VoteRequest(3, Phase.ESTIMATE, 0, 60), VoteRequest(8, Phase.ESTIMATE, 0, 60)]
        with pytest.raises(ServiceError, match="2 inputs asked since the last good check are void"):
            list(votes.votes(requests))
        service.fault, service.classify = lambda number, images: None, brightness_class
        votes._ask = ask  # type: ignore[method-assign]
        assert {key for key in INPUTS if store.find(key)} == {3, 8}
        assert [counts.tolist() for _, counts in votes.votes(requests)] == [[0, 0, 0, 60]] * 2, "void stays void"


def test_labels_that_no_journal_can_hold_are_votes_against_every_class(tmp_path: Path) -> None:
    request = VoteRequest(3, Phase.ESTIMATE, 0, 4)
    with Journal(tmp_path, kind="smoothing", write=True) as journal:
        adapter = LocalCallable(lambda images: ["\ud800"] * len(images))
        assert count(adapter, [request], store=JournalStore(journal)) == {request: [0, 0, 0, 4]}
        assert [row.label for row in JournalStore(journal).find(3)] == ["\\ud800"] * 4


def test_secrets_reach_the_service_and_nothing_else(service: Service) -> None:
    for kind in ("oip-binary", "http-json", "openai-chat"):
        adapter = adapters(service.url)[kind]
        store = MemoryStore()
        count(adapter, store=store)
        text = json.dumps(adapter.describe()) + repr(adapter) + repr([store.find(key) for key in INPUTS])
        assert "s3cr3t" not in text
    assert service.keys == {"Bearer s3cr3t-value"}
    assert redact("failed with s3cr3t-value!", ["TEST_KEY"]) == "failed with <TEST_KEY>!"


def test_a_key_in_the_address_is_in_no_message(service: Service) -> None:
    adapter = HttpJson(f"{service.url}/absent?key=${{TEST_KEY}}", raw=True, label="a")
    with source(adapter) as votes, pytest.raises(ServiceError, match="HTTP 404 from http") as caught:
        list(votes.votes(REQUESTS))
    assert "s3cr3t" not in f"{caught.value} {adapter.describe()}"


@pytest.mark.parametrize("kind", ["http-json", "openai-chat"])
def test_wrong_or_missing_credentials_stop_the_run(
    service: Service, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapters(service.url)[kind]
    monkeypatch.setenv("TEST_KEY", "wrong")
    with source(adapter) as votes, pytest.raises(ServiceError, match="refused the credentials") as caught:
        list(votes.votes(REQUESTS))
    assert caught.value.__cause__ is None
    monkeypatch.delenv("TEST_KEY")
    with source(adapter) as votes, pytest.raises(ServiceError, match="TEST_KEY is not set"):
        list(votes.votes(REQUESTS))
    assert service.billed == 0


def test_a_service_that_is_not_there() -> None:
    store = MemoryStore()
    adapter = OpenInference("http://127.0.0.1:9", "toy")
    with source(adapter, store, settings=CallSettings(patience=0.1, first_wait=0.01)) as votes:
        with pytest.raises(ServiceError, match=r"does not answer: cannot connect to http://127\.0\.0\.1:9"):
            votes.check()
        with pytest.raises(ServiceError, match="nothing was counted"):
            list(votes.votes(REQUESTS))
    assert not store.find(3), "an image that was never seen is no vote"


def test_the_check_before_the_first_vote(service: Service) -> None:
    with source(OpenInference(service.url, "toy")) as votes:
        assert votes.check(INPUTS[3]) is None
    with source(OpenInference(service.url, "boy")) as votes, pytest.raises(ServiceError, match="name of the model"):
        votes.check()
    other = OpenInference(service.url, "toy", input_name="x")
    with source(other) as votes, pytest.raises(ServiceError, match=r"inputs \['image'\], got input_name='x'"):
        votes.check()
    service.declare_inputs = False
    with source(OpenInference(service.url, "toy")) as votes, pytest.raises(ServiceError, match="input_name=NAME"):
        votes.check()
    with source(OpenInference(service.url, "toy", input_name="image")) as votes:
        assert votes.check(INPUTS[3]) is None
    adapter = adapters(service.url)["http-json"]
    noise = TorchBlockNoise(LAW)
    foreign = ServiceVotes(adapter, noise, INPUTS.__getitem__, LabelMap.from_names(["dog", "owl"]), MemoryStore())
    with foreign as votes, pytest.raises(ServiceError, match="'bee' is outside the 2 classes"):
        votes.check(INPUTS[8] * 0 + 0.5)


def test_certificates_are_those_of_the_local_classifier(service: Service) -> None:
    estimator = FixedEstimator(n0=10, n=60, alpha=0.01)

    def run(adapter: Adapter) -> list[Any]:
        with source(adapter) as votes:
            states = {key: estimator.start() for key in INPUTS}
            for _ in drive(votes, states):
                pass
        return [state.result() for state in states.values()]

    remote = run(adapters(service.url)["oip"])
    assert remote == run(LocalCallable(brightness_class))
    assert any(estimate.status is Status.CERTIFIED for estimate in remote)


def test_images_are_clipped_and_rounded_after_the_noise() -> None:
    x = torch.tensor([-0.5, 0.0, 0.49 / 255, 0.51 / 255, 1.0, 7.0, float("nan"), float("inf")]).reshape(1, 1, 2, 4)
    assert quantize(x).reshape(-1).tolist() == [0, 0, 0, 1, 255, 255, 0, 255]
    levels = torch.arange(256).reshape(1, 1, 16, 16) / 255
    assert torch.equal(dequantize(quantize(levels)), levels.float())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_is_lossless(channels: int) -> None:
    import io

    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (9, 7, channels), np.uint8)
    decoded = np.asarray(Image.open(io.BytesIO(encode_png(image)))).reshape(image.shape)
    assert np.array_equal(decoded, image)


def test_budget_counts_whole_inputs() -> None:
    assert Budget().affordable(1000) is None
    assert Budget(max_queries=5000).affordable(1000, spent=1500) == 3
    assert Budget(max_queries=5000).affordable(1000, spent=9000) == 0
    money = Budget(max_cost=0.3, price_per_1000=0.1)
    assert money.queries is not None
    assert money.queries * 0.1 / 1000 <= 0.3 < (money.queries + 1) * 0.1 / 1000
    assert Budget(max_queries=100, max_cost=5, price_per_1000=1, price_date="2026-11-01").queries == 100
    with pytest.raises(BudgetError, match="too small for one input"):
        Budget(max_queries=99).affordable(100)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


GOOD = 'url = "http://x"\nraw = true\nlabel = "a"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("label", "lable"), "unknown key 'lable'.*label"),
        (GOOD.replace("true", '"yes"'), "raw must be of type bool, got 'yes'"),
        (GOOD.replace("raw = true\n", ""), "exactly one of body, raw and multipart"),
        (GOOD.replace('"a"', '"a["'), "label is not a JMESPath"),
        (GOOD.replace('label = "a"', ""), "exactly one of label and scores"),
        (GOOD.replace("http://x", "ftp://x"), "url must begin with http"),
        (GOOD.replace('url = "http://x"\n', ""), "the key 'url' is missing"),
        (GOOD + 'headers = { "X-Api-Key" = "abc" }', "looks like a secret"),
        (GOOD.replace("raw = true", 'body = { image = "here" }'), "must hold the text"),
        ("url = ", "is not TOML"),
        (GOOD + 'method = "GET"', "method must be POST or PUT"),
    ],
)
def test_an_adapter_file_with_a_mistake(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        HttpJson.from_file(write(tmp_path / "a.toml", text))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_adapter("ois", "http://x"), "adapter must be one of oip, .*did you mean"),
        (lambda: build_adapter("oip", "http://x"), "needs --service model="),
        (lambda: build_adapter("oip", "http://x", {"modle": "m"}), "takes model, .*got --service modle"),
        (
            lambda: build_adapter("oip", "http://x", {"model": "m", "binary": "perhaps"}),
            "binary=perhaps: expected bool",
        ),
        (
            lambda: build_adapter("oip", "http://x", {"model": "m", "datatype": "FP64"}),
            "datatype must be FP32 or UINT8",
        ),
        (lambda: build_adapter("openai-chat", "http://x", {"model": "m"}), "needs the names of the classes"),
        (lambda: build_adapter("http-json", "http://x"), "needs --service file="),
        (lambda: CallSettings(concurrency=0), "concurrency must be positive, got concurrency=0"),
        (lambda: Budget(max_queries=0), "max_queries must be positive"),
        (lambda: Budget(max_cost=1.0), "max_cost needs the price"),
        (lambda: Budget(price_per_1000=1.0, price_date="yesterday"), "price_date must be a day"),
        (lambda: LabelMap(2, {"cat": 2}), "'cat' the class 2, but classes are 0..1"),
        (lambda: LabelMap.from_names(["a", "a"]), "distinct"),
    ],
)
def test_bad_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_options_as_text() -> None:
    adapter = build_adapter("oip", "http://x/", {"model": "m", "binary": "true", "batch": "7", "input_name": "x"})
    assert adapter == OpenInference("http://x/", "m", input_name="x", binary=True, batch=7)
    chat = build_adapter("openai-chat", "http://x/v1", {"model": "m", "temperature": "0.5"}, NAMES)
    assert chat == OpenAIChat("http://x/v1", "m", NAMES, temperature=0.5)


def test_label_map_file(tmp_path: Path) -> None:
    path = write(tmp_path / "map.csv", "tabby,1\nhound,0\npuppy,0\n")
    labels = LabelMap.from_csv(path, 2)
    assert [labels.outcome_of(name) for name in ("puppy", "tabby", "car", "", None)] == [0, 1, 2, 2, 2]
    with pytest.raises(UsageError, match="line 2: expected label,class"):
        LabelMap.from_csv(write(path, "a,0\nb\n"), 2)
    with pytest.raises(UsageError, match="line 2: the label 'a' already has the class 0"):
        LabelMap.from_csv(write(path, "a,0\na,1\n"), 2)
    numbers = LabelMap(3)
    assert [numbers.outcome_of(text) for text in ("0", "2", "3", "-1", "1.0", "²", "x")] == [0, 2, 3, 3, 3, 3, 3]
    assert numbers.outcome_of("1" * 5000) == 3  # more digits than Python reads


def test_rekognition_against_moto(monkeypatch: pytest.MonkeyPatch) -> None:
    moto = pytest.importorskip("moto")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws():
        adapter = Rekognition(region="us-east-1")
        labels = LabelMap(2, {"Mobile Phone": 1})
        noise = TorchBlockNoise(LAW, seed=5)
        with ServiceVotes(adapter, noise, INPUTS.__getitem__, labels, MemoryStore(), settings=FAST) as votes:
            request = VoteRequest(3, Phase.ESTIMATE, 0, 5)
            [(_, counts)] = votes.votes([request])
            [row, *_] = votes.store.find(3)
        assert counts.tolist() == [0, 5, 0]
        assert row.version == "3.0"


def all_rows(store: MemoryStore) -> list[StoredAnswer]:
    return [row for key in INPUTS for row in store.find(key)]


def test_a_log_certifies_like_the_service(service: Service, tmp_path: Path) -> None:
    service.fault = lambda number, images: "refuse" if failing(images) else None
    store = MemoryStore()
    adapter = adapters(service.url)["http-json"]
    expected = count(adapter, store=store)
    path = tmp_path / "answers.jsonl"
    header = {"law": LAW.describe(), "seed": 5}
    assert write_record(path, header, reversed(all_rows(store))) == sum(request.stop for request in REQUESTS)
    record = Record(path)
    record.check({"law": LAW.describe(), "seed": 5})
    found = {
        request: counts.tolist()
        for request, counts in RecordedVotes(record, label_map(adapter), TorchBlockNoise(LAW, seed=5)).votes(REQUESTS)
    }
    assert found == expected
    with pytest.raises(CertifyError, match="its seed is 5, but this run has 6"):
        record.check({"seed": 6})
    with pytest.raises(CertifyError, match=r"its law is .* but this run has"):
        record.check({"law": Gaussian(SHAPE, sigma=0.25).describe()})
    more = VoteRequest(3, Phase.ESTIMATE, 0, 17)
    with pytest.raises(ServiceError, match="samples 0 to 16, 16 are there"):
        list(RecordedVotes(record, label_map(adapter), TorchBlockNoise(LAW, seed=5)).votes([more]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "not a line of a log"),
        (lambda lines: [*lines[:5], *lines[6:]], "is not whole, or was altered"),
        (lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]], "is not whole, or was altered"),
        (lambda lines: [lines[0].replace("certify", "verify"), *lines[1:]], "line 1: not a line of a log"),
        (lambda lines: lines[:0], "line 1: not a line of a log"),
    ],
)
def test_a_log_that_was_altered(tmp_path: Path, change: Callable[[list[str]], list[str]], message: str) -> None:
    path = tmp_path / "answers.jsonl"
    rows = [StoredAnswer(3, Phase.ESTIMATE, sample, "ant", None) for sample in range(9)]
    write_record(path, {}, rows)
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    with pytest.raises(CertifyError, match=message):
        Record(path)


def test_a_log_with_a_gap(tmp_path: Path) -> None:
    rows = [StoredAnswer(3, Phase.ESTIMATE, sample, "ant", None) for sample in (0, 1, 3)]
    write_record(tmp_path / "gap.jsonl", {}, rows)
    with pytest.raises(CertifyError, match="line 4: expected sample 2 of phase estimate of input 3, got sample 3"):
        Record(tmp_path / "gap.jsonl")


def test_answers_in_a_journal(service: Service, tmp_path: Path) -> None:
    adapter = adapters(service.url)["oip"]
    with Journal(tmp_path, kind="smoothing", write=True) as journal:
        assert count(adapter, store=JournalStore(journal)) == direct()
        assert journal.count_answers() == service.billed
        with pytest.raises(JournalError, match="already has an answer"):
            journal.record_answers([(3, Phase.ESTIMATE, 99, "1", None), (3, Phase.ESTIMATE, 0, "1", None)])
        assert len(journal.answers(3)) == 20, "all or none"
    billed = service.billed
    with Journal(tmp_path, kind="smoothing", write=True) as journal:
        assert count(adapter, store=JournalStore(journal)) == direct()
    assert service.billed == billed


def test_a_journal_of_an_earlier_version_is_continued(service: Service, tmp_path: Path) -> None:
    adapter = adapters(service.url)["oip"]
    with Journal(tmp_path, kind="smoothing", write=True) as journal:
        connection = journal._connection
        connection.execute("DROP TABLE answers")
        connection.execute(
            'CREATE TABLE answers ("index" INTEGER NOT NULL, phase TEXT NOT NULL, sample INTEGER NOT NULL, '
            'label TEXT NOT NULL, version TEXT, PRIMARY KEY ("index", phase, sample))'
        )
        connection.execute("INSERT INTO answers VALUES (3, 'estimate', 2, '', '1')")
    with Journal(tmp_path, kind="smoothing", write=True) as journal:
        found = count(adapter, store=JournalStore(journal))
        assert found[REQUESTS[1]][-1] == 1
        assert sum(found[REQUESTS[1]]) == 16
        assert service.billed == sum(request.stop for request in REQUESTS) - 1
        rows = [(3, Phase.ESTIMATE, 100 + sample, "1", None) for sample in range(200)]
        with pytest.raises(JournalError, match="phase estimate, sample 100 already has an answer"):
            journal.record_answers([*rows, rows[0]])
        assert len(journal.answers(3)) == 20, "all or none"


def test_random_faults_give_the_undisturbed_result(service: Service) -> None:
    dice = random.Random(3)
    service.fault = lambda number, images: dice.choice(["429", "503", "drop", "slow", None, None, None, None])
    assert count(adapters(service.url)["oip"]) == direct()
    assert service.billed == sum(request.stop for request in REQUESTS)


def test_what_a_killed_process_had_noted_is_moved_into_the_journal(tmp_path: Path) -> None:
    rows = [StoredAnswer(3, Phase.ESTIMATE, sample, "1", "v") for sample in range(6)]
    pending = tmp_path / "answers.pending"
    with Journal(tmp_path, kind="smoothing", write=True) as journal:
        store = JournalStore(journal)
        for call in (rows[:2], rows[2:4]):
            store.note(call)
        store.add(rows[:2])
        assert pending.exists(), "one call is not in the journal yet"
        store._pending._file.close()  # as the end of the process would
    with pending.open("a") as file:
        file.write('[[3, "estimate", 4, "1", "v"], [3, "est')  # killed while it wrote
    with Journal(tmp_path, kind="smoothing", write=True) as journal:
        store = JournalStore(journal)
        assert store.find(3) == rows[:4]
        assert not pending.exists()
        store.note(rows[4:])
        store.add(rows[4:])
        assert store.find(3) == rows
        assert not pending.exists()


def test_what_another_run_had_noted_is_not_moved_into_the_journal(tmp_path: Path) -> None:
    rows = [StoredAnswer(3, Phase.ESTIMATE, sample, "1", "v") for sample in range(2)]
    with Journal(tmp_path, kind="smoothing", write=True) as journal:
        store = JournalStore(journal)
        store.note(rows)
        assert store._pending._file is not None
        store._pending._file.close()
    (tmp_path / "journal.sqlite").unlink()
    with Journal(tmp_path, kind="smoothing", write=True) as journal:
        with pytest.raises(JournalError, match=r"answers\.pending must hold answers of the journal beside it"):
            JournalStore(journal)
        assert not journal.answers(3)


def test_an_answer_counts_only_after_it_is_stored(service: Service) -> None:
    class Watched(MemoryStore):
        noted = 0

        def note(self, answers: Sequence[StoredAnswer]) -> None:
            assert not self.find(answers[0].key) or answers[0] not in self.find(answers[0].key)
            self.noted += len(answers)

    store = Watched()
    with source(adapters(service.url)["oip"], store) as votes:
        for request, counts in votes.votes(REQUESTS):
            stored = [row for row in store.find(request.index) if row.phase is request.phase]
            assert len(stored) == counts.sum() == request.stop
    assert store.noted == service.billed


def test_a_disk_that_is_full_loses_no_answer(service: Service) -> None:
    class Full(MemoryStore):
        def note(self, answers: Sequence[StoredAnswer]) -> None:
            raise JournalError("no space left")

    store = Full()
    with source(adapters(service.url)["http-raw"], store) as votes, pytest.raises(JournalError, match="no space"):
        list(votes.votes(REQUESTS))
    kept = sum(len(store.find(key)) for key in INPUTS)
    assert kept >= 1
    assert service.billed - kept <= FAST.concurrency


def test_numbers_in_json_are_those_of_a_direct_call() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(2, 8, 16, 1)
    tensor = OpenInference("http://x", "m").prepare(levels)
    assert tensor.shape == (2, 1, 8, 16)
    values = np.array(json.loads(b"[" + tensor.data + b"]"), np.float32)  # through float64, as most servers read JSON
    assert np.array_equal(values, dequantize(levels).numpy().reshape(-1))
    assert OpenInference("http://x", "m", binary=True).prepare(levels).data == values.astype("<f4").tobytes()
    scores = [[0.1, 0.7, 0.7], [float("nan"), 1.0, 0.0], [3, 2, 1], [True, 0.0, 0.0]]
    for rows in (scores[:1], scores[:2], scores):
        body = {"outputs": [{"name": "o", "datatype": "FP32", "shape": [len(rows), 3], "data": rows}]}
        expected = ["1", None, "0", None][: len(rows)]
        assert OpenInference("http://x", "m")._labels(body, b"", len(rows)) == expected
