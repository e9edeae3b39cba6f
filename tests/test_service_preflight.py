"""Clean images before the votes of a run on a service: when they are asked about, what they show, and what they cost."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ctrl_c import ctrl_c_at
from prediction_service import Service, brightness_class, serve
from service_runs import BATCH, certificates, rows, run_line, save_levels, wrong_order

from certify.blackbox import CallSettings, LabelMap, MemoryStore, ServiceVotes
from certify.blackbox.images import quantize
from certify.blackbox.local import LocalCallable
from certify.blackbox.preflight import ENOUGH, LEVEL, PREFLIGHT_KEY, judge
from certify.blackbox.spec import spread
from certify.blackbox.stored import StoredAnswer
from certify.cli import main
from certify.models.architectures import build_architecture
from certify.models.checkpoint import save_checkpoint
from certify.models.checkpoint_config import CheckpointConfig
from certify.report.service import read_service
from certify.rundir import read_config
from smoothing import Gaussian
from smoothing.estimators import Phase
from smoothing.noise_source import TorchBlockNoise
from smoothing.votes import VoteRequest

N0, N, INPUTS = 2, 20, 24
COST = N0 + N
LEVELS = np.linspace(8, 248, INPUTS).astype(np.uint8).tolist()
CLEAN = np.stack([np.full((8, 8, 1), level, np.uint8) for level in LEVELS])


@pytest.fixture
def service() -> Iterator[Service]:
    with serve() as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return save_levels(tmp_path / "toy.npz", LEVELS)


def command(service: Service, data: Path, out: Path, *more: str) -> list[str]:
    return run_line(service, data, out, *more, n0=N0, n=N)


def kept(folder: Path) -> list[tuple[Any, ...]]:
    """What the journal has of clean images."""
    return rows(folder, f'SELECT sample, label FROM answers WHERE "index" = {PREFLIGHT_KEY} ORDER BY 1')


def votes(folder: Path) -> list[tuple[Any, ...]]:
    return rows(folder, 'SELECT "index", phase, sample, label FROM answers WHERE "index" >= 0 ORDER BY 1, 2, 3')


# --- What is sent, and that none of it is a vote ----------------------------------------------------------------------


def test_clean_images_are_asked_about_once_and_are_no_votes(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def classify(images: Any) -> list[int]:
        seen.extend(images)
        return brightness_class(images)

    plain, out = tmp_path / "plain", tmp_path / "run"
    assert main(command(service, data, plain, "--no-preflight", "--max", "8")) == 0
    assert service.billed == 8 * COST + 1
    assert kept(plain) == []
    service.classify, billed = classify, service.billed
    line = command(service, data, out, "--concurrency", "1", "--max", "8")
    line.remove("--quiet")
    assert main(line) == 0
    assert "before  clean accuracy 100.0% on 8 inputs (their answers are no votes)" in capsys.readouterr().err
    assert service.billed - billed == 8 * COST + 1 + 8
    # One question, then the clean images as they are: the same 8-bit step, and no noise.
    assert np.array_equal(np.stack(seen[1:9]), CLEAN[:8])
    assert kept(out) == [(index, str(label)) for index, label in enumerate(brightness_class(CLEAN[:8]))]
    assert votes(out) == votes(plain), "the votes are those of a run without"
    assert certificates(out) == certificates(plain)
    assert json.loads((out / "run.json").read_text())["settings"]["service"]["preflight"]["right"] == 8
    billed = service.billed
    capsys.readouterr()
    assert main(command(service, data, out, "--max", "8", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["preflight"]["images"], found["preflight"]["right"], found["queries"]["preflight"]) == (8, 8, 8)
    assert main(command(service, data, out, "--max", "9")) == 0, "a folder may grow; its votes have begun"
    assert service.billed == billed + COST + 1
    assert len(kept(out)) == 8
    facts = read_service(out, read_config(out), range(9))
    assert facts is not None
    text = " ".join(facts.sentences())
    assert (
        "Beside the votes the service was asked about 8 clean images before the votes, of which the service got 8"
        in text
    )
    assert "None of these is part of any certificate." in text


def test_an_answer_under_the_key_of_clean_images_never_counts() -> None:
    """A row of the key is no vote, whatever its sample: votes are read by the number of their input."""
    store = MemoryStore()
    request = VoteRequest(3, Phase.ATTACK, 0, 6)
    store.add([StoredAnswer(PREFLIGHT_KEY, Phase.ATTACK, sample, "2", None) for sample in range(6)])
    noise = TorchBlockNoise(Gaussian((1, 8, 8), sigma=0.1), seed=1)
    adapter = LocalCallable(lambda images: [0] * len(images))
    x = torch.full((1, 8, 8), 0.3)
    with ServiceVotes(adapter, noise, lambda key: x, LabelMap(3), store) as source:
        [(_, counts)] = source.votes([request])
    assert counts.tolist() == [6, 0, 0, 0]


def test_clean_images_go_through_the_denoiser_and_the_8_bit_step() -> None:
    seen: list[Any] = []

    def classify(images: Any) -> list[int]:
        seen.extend(images)
        return [0] * len(images)

    x = torch.linspace(-0.2, 1.2, 64).reshape(1, 8, 8)
    store = MemoryStore()
    noise = TorchBlockNoise(Gaussian((1, 8, 8), sigma=0.1), seed=1)
    adapter = LocalCallable(classify, batch=2)
    settings = CallSettings(concurrency=1)
    with ServiceVotes(
        adapter, noise, lambda key: x * key, LabelMap(3), store, settings=settings, before=lambda x: 1 - x
    ) as source:
        source.ask_clean(PREFLIGHT_KEY, [1, 2, 3])
    assert np.array_equal(np.stack(seen), quantize(1 - torch.stack([x, 2 * x, 3 * x])))
    assert [row.sample for row in store.find(PREFLIGHT_KEY)] == [1, 2, 3]


# --- Resumed, killed --------------------------------------------------------------------------------------------------


def test_interrupted_it_goes_on_where_it_was(service: Service, data: Path, tmp_path: Path) -> None:
    line = command(service, data, tmp_path / "run", "--concurrency", "1")
    with ctrl_c_at(service, 4):  # the question, two calls, and this one
        assert main(line) == 130
    assert 2 * BATCH <= len(kept(tmp_path / "run")) <= 3 * BATCH
    assert votes(tmp_path / "run") == []
    assert main(line) == 0
    assert [sample for sample, _ in kept(tmp_path / "run")] == list(range(INPUTS))
    undisturbed = INPUTS * COST + 1 + INPUTS
    assert undisturbed + 1 <= service.billed <= undisturbed + 1 + BATCH, "one more question, and the call in flight"


@pytest.mark.slow
def test_killed_it_is_paid_once(service: Service, data: Path, tmp_path: Path) -> None:
    service.fault = lambda number, images: "slow" if len(images) > 1 else None
    line = command(service, data, tmp_path / "run", "--concurrency", "1", "--max", "12")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "certify", *line], env=environment, stderr=subprocess.DEVNULL)
    while service.billed < 1 + BATCH and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    service.fault = lambda number, images: None
    assert main(line) == 0
    assert [sample for sample, _ in kept(tmp_path / "run")] == list(range(12))
    undisturbed = 12 * COST + 1 + 12
    assert undisturbed + 1 <= service.billed <= undisturbed + 1 + BATCH
    # What the kill may have cost is on the account.
    [(unanswered,)] = rows(tmp_path / "run", 'SELECT count(*) FROM answers WHERE "index" = -3')
    assert service.taken - undisturbed - 1 <= unanswered <= BATCH


# --- What it shows ----------------------------------------------------------------------------------------------------


def test_a_wrong_mapping_stops_the_run_before_any_votes(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.classify = wrong_order
    out = tmp_path / "run"
    for billed in (1 + INPUTS, 1 + INPUTS):  # the second start knows, and asks nothing
        assert main(command(service, data, out)) == 1
        error = " ".join(capsys.readouterr().err.split())
        assert f"the service is right on 0 of {INPUTS} clean images" in error
        for reason in ("--label-map", "RGB and BGR", "another scale", "--no-preflight", "another --out"):
            assert reason in error
        assert service.billed == billed
        assert votes(out) == []
    assert main(command(service, data, out, "--no-preflight", "--max", "1")) == 0
    assert service.billed == 1 + INPUTS + 1 + COST


def test_few_images_only_warn(service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.classify = wrong_order
    assert main(command(service, data, tmp_path / "run", "--max", "3")) == 0
    assert "on these few images, or labels, that may be chance, and the run goes on" in " ".join(
        capsys.readouterr().err.split()
    )
    [warning] = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["service"]["warnings"]
    assert "right on 0 of 3 clean images" in warning


def findings(said: Sequence[int | str], true: Sequence[int], classes: int) -> Any:
    answers = [StoredAnswer(PREFLIGHT_KEY, Phase.ATTACK, i, str(label), None) for i, label in enumerate(said)]
    return judge(reversed(answers), dict(enumerate(true)), LabelMap(classes))


def test_who_is_stopped() -> None:
    ten = [i % 10 for i in range(60)]
    assert findings(ten, ten, 10).right == 60
    assert not findings(ten, ten, 10).doubtful
    shifted = findings([(i + 1) % 10 for i in ten], ten, 10)
    assert shifted.pointless
    assert shifted.p_value == 1.0
    # A bad classifier that does look at the images goes on: a fifth right of ten classes, where a tenth is chance.
    some = findings([label if i % 4 == 0 else (label + 1 + i % 9) % 10 for i, label in enumerate(ten)], ten, 10)
    assert 12 <= some.right <= 20
    assert not some.pointless
    # Nine in ten of one class, and a service that always says so: right on most, and nobody is stopped who is.
    lopsided = [0] * 54 + [1] * 6
    constant = findings([0] * 60, lopsided, 2)
    assert (constant.right, constant.same, constant.p_value) == (54, 0, 1.0)
    assert not constant.pointless
    always = findings([4] * 60, ten, 10)
    assert always.pointless
    assert always.trouble().index("it says class 4 whatever it sees") < always.trouble().index(
        "labels in another order"
    )
    # No class of the mapping at all.
    unknown = findings(["dog"] * 30, ten[:30], 10)
    assert (unknown.no_class, unknown.pointless, unknown.same) == (30, True, None)
    assert "30 of 30 answers name no class" in unknown.trouble()
    # Of one label only, no answers can be told from chance: 8 of 24 right is bad, and perhaps all that this class has.
    lone = findings([1] * 8 + [0] * 16, [1] * 24, 3)
    assert (lone.doubtful, lone.decisive, lone.pointless) == (True, False, False)
    few = findings([(i + 1) % 10 for i in ten[: ENOUGH - 1]], ten[: ENOUGH - 1], 10)
    assert few.doubtful
    assert not few.pointless


def test_the_permutation_test_is_the_hypergeometric_one_for_two_classes() -> None:
    """20 answers of two classes: the number of right ones is twice a hypergeometric number, and its tail is exact."""
    true = [0] * 12 + [1] * 8
    for ones in range(9):  # answers "1", all on images of class 1 as far as they go
        said = [0] * 12 + [1] * ones + [0] * (8 - ones)
        found = findings(said, true, 2)
        exact = math.comb(8, ones) / math.comb(20, ones)
        # 9,999 draws: five standard deviations, and the one that was seen.
        assert abs(found.p_value - exact) <= 5 * math.sqrt(exact / 9_999) + 2e-4
        assert found.p_value >= 1e-4
    assert findings(true, true, 2).p_value <= LEVEL


@pytest.mark.parametrize(("n", "count"), [(1, 64), (3, 64), (64, 64), (65, 64), (1000, 64), (5, 2)])
def test_images_are_spread_evenly(n: int, count: int) -> None:
    found = spread(range(100, 100 + n), count)
    assert len(set(found)) == len(found) == min(n, count)
    assert found[0] == 100
    assert len(found) == 1 or found[-1] == 99 + n
    gaps = np.diff(found)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


# --- When it is asked -------------------------------------------------------------------------------------------------

WHOLE = INPUTS * COST + 1
WATCHED = 5 * (1 + 2)
"""Known images of a service that should turn out to report no version: five, before, after the selection and at the end."""


@pytest.mark.parametrize(
    ("more", "images", "reason"),
    [
        ((), INPUTS, None),
        (("--no-preflight",), 0, None),
        (("--max-queries", str(COST + 1 + 5 * 3 + INPUTS)), INPUTS, None),
        (("--max-queries", str(COST + 1 + 5 * 3 + INPUTS - 1)), 0, "no room for 24 clean images beside an input"),
        (("--price-per-1000", "0"), INPUTS, None),
        (("--price-per-1000", "1"), 0, "no budget was named"),
        (("--price-per-1000", "1", "--preflight"), INPUTS, None),
        (("--price-per-1000", "1", "--max-queries", str(WHOLE + WATCHED + INPUTS)), INPUTS, None),
        (("--price-per-1000", "1", "--max-queries", str(WHOLE + WATCHED + INPUTS - 1)), 0, "beside the whole run"),
        (("--price-per-1000", "1", "--max-queries", str(2 * COST), "--preflight"), 0, "error"),
        (("--price-per-1000", "1", "--max-queries", str(3 * COST), "--preflight"), INPUTS, None),
        (("--price-per-1000", "1", "--max-cost", "0.066", "--preflight"), INPUTS, None),
    ],
)
def test_plan_says_whether_and_why_not(
    service: Service,
    data: Path,
    more: tuple[str, ...],
    images: int,
    reason: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = command(service, data, Path("unused"), *more)
    line = ["plan", *[word for word in line[1:] if word not in ("--quiet", "--out", "unused")], "--json"]
    code = main(line)
    streams = capsys.readouterr()
    if reason == "error":
        assert code == 1
        assert "too small for one input" in streams.err
        assert f"{INPUTS + 1} for questions that are no votes" in streams.err
        return
    assert code == 0, streams.err
    found = json.loads(streams.out)
    assert found["preflight_queries"] == images
    assert (found["preflight_off"] is None) == (reason is None)
    assert reason is None or reason in found["preflight_off"]
    assert found["total_queries"] == (
        found["queries_within_budget"] + found["question_queries"] + found["canary_queries"] + images
    )
    assert service.requests == 0


@pytest.mark.parametrize("limit", [4 * COST, 1 + INPUTS + COST])
def test_a_forced_one_keeps_to_the_budget(service: Service, data: Path, tmp_path: Path, limit: int) -> None:
    more = ("--price-per-1000", "1", "--yes", "--max-queries", str(limit), "--preflight")
    assert main(command(service, data, tmp_path / "run", *more)) == 0
    assert len(certificates(tmp_path / "run")) == 1 + (limit - 1 - INPUTS) // COST
    assert service.billed <= limit
    assert len(kept(tmp_path / "run")) == INPUTS


def test_without_a_budget_nothing_paid_is_asked_beside_the_votes(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--price-per-1000", "1", "--yes", "--max", "2")
    assert main(command(service, data, tmp_path / "run", *more)) == 0
    assert service.billed == 2 * COST
    assert "no clean accuracy beforehand: it costs money" in capsys.readouterr().err


def test_local_models_and_logs_have_none(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    line = command(service, data, tmp_path / "run", "--max", "1")
    assert main([*line, "--record", str(log)]) == 0
    assert str(PREFLIGHT_KEY) not in {row.split(",")[0].lstrip("[") for row in log.read_text().splitlines()}
    billed = service.billed
    again = command(service, data, tmp_path / "again", "--max", "1", "--from-record", str(log))
    assert main(again) == 0, capsys.readouterr().err
    assert service.billed == billed
    assert kept(tmp_path / "again") == []
    network = build_architecture("mlp", num_classes=10, input_shape=(1, 8, 8))
    save_checkpoint(tmp_path / "model", network, CheckpointConfig("mlp", 10, (1, 8, 8)))
    local = [str(tmp_path / "model"), "--data", "digits", "--noise", "gaussian", "--sigma", "0.5", "--max", "2"]
    assert main(["plan", *local, "--no-preflight"]) == 2
    assert "--no-preflight is for services alone" in capsys.readouterr().err
    assert main(["run", *local, "--n", "100", "--no-preflight", "--out", str(tmp_path / "local")]) == 0
    assert "before " not in capsys.readouterr().err
