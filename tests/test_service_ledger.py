"""What was sent to a service counts against the budget, answered or not: faults, resumed runs, kills."""

import gc
import itertools
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ctrl_c import ctrl_c_at
from prediction_service import Service, serve
from service_runs import BATCH, account, certificates, looks, run_line, save_levels

from certify.blackbox import CallSettings, Canaries, LabelMap, MemoryStore, ServiceVotes
from certify.blackbox.budget import BudgetSpentError
from certify.blackbox.caller import _Wait
from certify.blackbox.ledger import FILE_NAME, Ledger, Purpose
from certify.blackbox.local import LocalCallable
from certify.cli import main
from certify.errors import JournalError
from certify.report.service import read_service
from certify.rundir import read_config
from smoothing import Gaussian
from smoothing.estimators import Phase
from smoothing.noise_source import TorchBlockNoise
from smoothing.votes import VoteRequest

N0, N, INPUTS = 5, 40, 3
COST = N0 + N


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(_Wait, "__call__", lambda self, state: 0.002)  # how long a client waits is tested elsewhere
    with serve() as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return save_levels(tmp_path / "toy.npz", (40, 130, 220))


def command(service: Service, data: Path, out: Path, *more: str) -> list[str]:
    return run_line(service, data, out, "--no-preflight", *more, n0=N0, n=N)


# --- The ledger alone -------------------------------------------------------------------------------------------------


def test_what_a_kill_leaves_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    ledger = Ledger(path)
    assert ledger.read() == 0
    first, second, third, fourth = (ledger.send(images, Purpose.VOTE) for images in (4, 5, 6, 7))
    assert Ledger(path).read() == ledger.unanswered == 22, "before the calls are made"
    ledger.settle(first)
    assert Ledger(path).read() == ledger.unanswered == 18, "its answers have rows of their own"
    ledger.lose(second)
    assert Ledger(path).read() == ledger.unanswered == 18
    ledger.undo(third)
    assert Ledger(path).read() == ledger.unanswered == 12
    assert ledger.send(1, Purpose.VOTE) in (first, second, third), "places are used again: the file does not grow"
    assert Ledger(path).read() == 13
    ledger.settle(fourth)
    path.write_bytes(path.read_bytes() + b"\0\1")  # cut by a power cut
    assert Ledger(path).read() == 6
    ledger.clear()
    assert not path.exists()
    assert ledger.unanswered == 0


def test_what_was_lost_is_on_the_disk_before_the_call_is_struck_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / FILE_NAME, []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(path.read_bytes()))
    ledger = Ledger(path)
    place = ledger.send(4, Purpose.VOTE)
    ledger.settle(ledger.send(5, Purpose.VOTE))
    assert not synced, "a sync for each call would take longer than the call"
    ledger.lose(place)
    assert synced == [struct.pack("<3q", 4, 4, 0)]
    assert Ledger(path).read() == 4


def test_a_call_that_could_not_be_written_down_takes_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / FILE_NAME)
    first, second, third = (ledger.send(images, Purpose.VOTE) for images in (1, 2, 4))
    ledger.settle(second)

    def full(file: int, data: bytes) -> int:
        return len(data) - 1

    with monkeypatch.context() as patch:
        patch.setattr("certify.blackbox.ledger.os.write", full)
        with pytest.raises(JournalError, match="No space left"):
            ledger.send(8, Purpose.VOTE)
    assert ledger.unanswered == 5
    more = [ledger.send(images, Purpose.VOTE) for images in (16, 32)]
    assert len({first, third, *more}) == 4, "no call is written over another"
    assert Ledger(tmp_path / FILE_NAME).read() == ledger.unanswered == 1 + 4 + 16 + 32


def test_a_file_that_a_power_cut_has_damaged_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(struct.pack("<2q", 3, 2**60))
    with pytest.raises(JournalError, match=r"is damaged: .* remove it to go on"):
        Ledger(path).read()


def test_what_may_be_paid_from_what() -> None:
    ledger = Ledger()
    assert ledger.allows(10**9, Purpose.SPARE), "without a limit"
    ledger.left, ledger.reserved, ledger.due = 20, 6, 10
    assert [ledger.allows(images, Purpose.VOTE) for images in (14, 15)] == [True, False]
    assert [ledger.allows(images, Purpose.RESERVED) for images in (20, 21)] == [True, False]
    assert [ledger.allows(images, Purpose.SPARE) for images in (4, 5)] == [True, False]
    ledger.settle(ledger.send(5, Purpose.VOTE))
    assert (ledger.left, ledger.reserved, ledger.due) == (15, 6, 5)
    ledger.lose(ledger.send(4, Purpose.VOTE))  # asked again, it is paid again: from what was to spare
    assert (ledger.left, ledger.reserved, ledger.due, ledger.lost) == (11, 6, 5, 4)
    assert not ledger.allows(1, Purpose.SPARE)
    ledger.lose(ledger.send(2, Purpose.RESERVED))
    assert (ledger.left, ledger.reserved) == (9, 6), "the question is still to be asked"
    ledger.settle(ledger.send(2, Purpose.RESERVED))
    assert (ledger.left, ledger.reserved) == (7, 4)
    ledger.undo(ledger.send(3, Purpose.VOTE))
    assert (ledger.left, ledger.due) == (7, 5)
    with pytest.raises(BudgetSpentError, match="calls without an answer"):
        ledger.send(4, Purpose.VOTE)
    ledger.lose(ledger.send(3, Purpose.VOTE))
    ledger.give_up(3, Purpose.VOTE, billed=True)  # its rows stand for the last call
    assert (ledger.left, ledger.due, ledger.lost) == (4, 2, 6)
    ledger.give_up(1, Purpose.VOTE, billed=False)
    assert (ledger.left, ledger.lost) == (3, 6)


def test_a_check_by_the_clock_is_left_out_where_nothing_is_to_spare() -> None:
    """It takes neither from votes nor from the checks that were foreseen, and no vote counts before one of those."""
    asked: list[int] = []

    def classify(images: Any) -> list[int]:
        asked.append(len(images))
        return [0] * len(images)

    images = np.zeros((2, 8, 8, 1), np.uint8)
    x = torch.zeros((1, 8, 8))
    votes, checks = 40, 2 * len(images)
    for spare, more in ((0, 0), (3, 1)):
        asked.clear()
        ledger = Ledger()
        ledger.left, ledger.reserved, ledger.due = votes + checks + spare, checks, votes
        canaries = Canaries(images, every=1e-9)
        noise = TorchBlockNoise(Gaussian((1, 8, 8), sigma=0.1), seed=1)
        adapter = LocalCallable(classify, batch=8)
        settings = CallSettings(concurrency=1)
        with ServiceVotes(
            adapter,
            noise,
            lambda key: x,
            LabelMap(2),
            MemoryStore(),
            settings=settings,
            canaries=canaries,
            ledger=ledger,
        ) as source:
            source.check_canaries()
            [(_, counts)] = source.votes([VoteRequest(3, Phase.ESTIMATE, 0, votes)])
        assert counts.tolist() == [votes, 0, 0]
        assert asked.count(8) == votes // 8
        assert checks + 2 * more <= asked.count(1) <= checks + spare
        assert ledger.left >= 0


# --- Runs -------------------------------------------------------------------------------------------------------------


def test_every_image_that_a_service_took_is_on_the_account(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turn = itertools.cycle(["503", None, "drop", None, "429", None, None])
    service.fault = lambda number, images: next(turn)
    out = tmp_path / "run"
    assert main(command(service, data, out, "--json")) == 0, capsys.readouterr().err
    queries = json.loads(capsys.readouterr().out)["queries"]
    assert service.taken > service.billed == INPUTS * COST + 1
    assert queries["sent"] == service.taken == sum(account(out).values())
    assert queries["unanswered"] == account(out)[-3] == service.taken - service.billed
    assert (queries["answered"], queries["votes"], queries["questions"]) == (INPUTS * COST + 1, INPUTS * COST, 1)
    assert not (out / FILE_NAME).exists()
    facts = read_service(out, read_config(out), range(INPUTS))
    assert facts is not None
    assert f"{queries['unanswered']} images were sent without an answer" in " ".join(facts.sentences())


def test_turned_away_is_not_billed(service: Service, data: Path, tmp_path: Path) -> None:
    service.fault = lambda number, images: "429" if number % 3 == 1 else None
    limit = INPUTS * COST + 1
    assert main(command(service, data, tmp_path / "run", "--max-queries", str(limit))) == 0
    assert service.requests * BATCH > limit
    assert len(certificates(tmp_path / "run")) == 1 + INPUTS
    assert account(tmp_path / "run") == {0: INPUTS * COST, -2: 1}


def test_the_budget_holds_for_calls_without_an_answer(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The budget is for everything but the faults: it ends before the last input does, and a larger one goes on."""
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "run"
    assert main(command(service, data, undisturbed)) == 0
    before = service.taken, service.billed
    service.fault = lambda number, images: "503" if number % 5 == 0 else None
    limit = INPUTS * COST + 1
    capsys.readouterr()
    assert main(command(service, data, out, "--max-queries", str(limit), "--concurrency", "2", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert limit - 2 * BATCH < service.taken - before[0] <= limit
    assert found["queries"]["sent"] == service.taken - before[0]
    assert found["queries"]["unanswered"] > 0
    assert 0 < found["inputs"] < INPUTS
    assert "the budget sufficed for" in found["ended_by_budget"]
    kept = account(out)[0]
    limit += INPUTS * COST
    assert main(command(service, data, out, "--max-queries", str(limit))) == 0, capsys.readouterr().err
    assert looks(out) == looks(undisturbed)
    assert certificates(out) == certificates(undisturbed)
    assert service.taken - before[0] <= limit
    assert service.billed - before[1] == INPUTS * COST + 2, f"{kept} votes of the first start were not asked again"
    assert main(["audit", str(out)]) == 0, capsys.readouterr().out


def test_inputs_that_are_complete_are_certified_where_the_budget_ends(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With known images too: what was complete is released after their last check, which is paid from the reserve."""
    service.version = None
    service.fault = lambda number, images: "503" if number % 4 == 0 and len(images) > 1 else None
    limit = INPUTS * COST + 1 + 2 * 3
    more = ("--max-queries", str(limit), "--canaries", "2", "--concurrency", "1")
    assert main(command(service, data, tmp_path / "run", *more)) == 0, capsys.readouterr().err
    assert 1 < len(certificates(tmp_path / "run")) <= INPUTS
    assert service.taken <= limit
    assert account(tmp_path / "run")[-2] == 1 + 2 * 3, "the last check was made"


def test_patience_that_ends_counts_once(service: Service, data: Path, tmp_path: Path) -> None:
    service.fault = lambda number, images: "503" if number == 2 or number % 7 == 0 else None
    more = ("--patience", "0.001", "--indices", "1")
    assert main(command(service, data, tmp_path / "run", *more)) == 0
    assert account(tmp_path / "run")[0] == COST
    assert sum(account(tmp_path / "run").values()) == service.taken > service.billed


def test_an_interrupted_question_is_on_the_account(
    service: Service, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The question before the first vote, which is asked by another thread than the one that the interrupt ends."""

    with ctrl_c_at(service, 1, answered=False):
        assert main(command(service, data, tmp_path / "run")) == 130
    assert account(tmp_path / "run") == {-3: 1}
    gc.collect()
    assert "was destroyed" not in capfd.readouterr().err, "nothing goes on behind a run that has ended"


def test_ctrl_c_puts_calls_in_flight_on_the_account(service: Service, data: Path, tmp_path: Path) -> None:
    with ctrl_c_at(service, 9, answered=False):
        assert main(command(service, data, tmp_path / "run", "--concurrency", "2")) == 130
    found = account(tmp_path / "run")
    assert BATCH <= found[-3] <= 2 * BATCH
    assert service.taken <= sum(found.values()) <= service.taken + 2 * BATCH


@pytest.mark.slow
def test_a_budget_holds_over_kills(
    service: Service, data: Path, tmp_path: Path, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed at random moments, with faults: no more is taken than the budget allows, and all of it is on the account."""
    out, dice, concurrency, kills = tmp_path / "run", random.Random(11), 2, 0
    undisturbed = tmp_path / "undisturbed"
    assert main(command(service, data, undisturbed)) == 0
    start = service.taken
    aims: list[int] = []

    def fault(number: int, images: Any) -> str | None:
        if aims and service.taken >= aims[0]:
            return "hold"  # until the client is killed, however late that is noticed here
        return dice.choice(["503", "drop", "slow", *[None] * 12])

    service.fault = fault
    limit = 2 * INPUTS * COST
    line = command(service, data, out, "--concurrency", str(concurrency), "--max-queries", str(limit))
    for _ in range(2):
        aims[:] = [service.taken + dice.randint(5, 40)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([sys.executable, "-m", "certify", *line], env=environment, stderr=subprocess.DEVNULL)
        while service.taken < aims[0] and process.poll() is None:
            time.sleep(0.005)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        kills += 1
        process.wait()
        aims.clear()
        service.released.set()
        service.released = threading.Event()
    assert main(line) == 0, capsys.readouterr().err
    sent = sum(account(out).values())
    record_property("counts", f"kills {kills}, taken {service.taken - start}, on the account {sent}, budget {limit}")
    assert service.taken - start <= sent <= limit
    assert sent <= service.taken - start + kills * concurrency * BATCH, (
        "no more than the calls in flight are counted in vain"
    )
    assert looks(out) == looks(undisturbed)
    assert certificates(out) == certificates(undisturbed)
