"""The audit's replay: the same votes again, and what it does where they cannot be the same."""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audit_runs import SHAPE, Votes, cell, config_of, counts, identity, put, run_json, write_run

from certify.audit import AuditError, audit_folder
from certify.audit.identity import check_machine
from certify.audit.neartie import NearTie, explained
from certify.audit.recount import recount
from certify.audit.replaying import ReplayOptions, choose_evenly, replay
from certify.cli import main
from certify.models import load_model
from certify.runner import execute
from certify.setup import RunOptions, prepare
from smoothing import Gaussian, Norm
from smoothing.errors import ClassifierError
from smoothing.estimators import Phase
from smoothing.forward import Forward, ForwardSettings
from smoothing.noise import NOISE_VERSION
from smoothing.noise_source import TorchBlockNoise
from smoothing.votes import BatchingEngine, VoteRequest

MODEL = """
import torch


class Model(torch.nn.Module):
    num_classes = 3
    input_shape = (1, 2, 2)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(4, 3).cos())

    def forward(self, x):
        return x.flatten(1) @ self.weight


class Coarse(Model):
    def forward(self, x):
        return (2 * super().forward(x)).round()


def make():
    return Model()


def changed():
    model = Model()
    model.weight.data[0, 0] += 1e-6
    return model


def coarse():
    return Coarse()
"""


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model module that can be imported, and twelve inputs."""
    (tmp_path / "audited_model.py").write_text(MODEL)
    random = np.random.default_rng(3)
    np.savez(tmp_path / "data.npz", images=random.random((12, *SHAPE), dtype=np.float32), labels=np.arange(12) % 3)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("audited_model", None)
    return tmp_path


def real_run(workshop: Path, **changes: Any) -> Path:
    """Certify all twelve inputs for real."""
    options = RunOptions(
        model="audited_model:make",
        data=str(workshop / "data.npz"),
        noise="gaussian",
        parameters=(("sigma", 0.25),),
        n=1000,
        n0=150,
        seed=11,
        batch_size=64,
        device="cpu",
        out=workshop / "run",
    )
    plan = prepare(replace(options, **changes), {}).plan
    execute(plan)
    return plan.out


def test_a_real_run_passes_and_its_replay_counts_the_same_votes(
    workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = real_run(workshop)
    code, report = run_json(folder, "--replay", "3", capsys=capsys)
    assert (code, report["mismatches"], report["checked"]) == (0, [], 12)
    assert report["replay"]["indices"] == [2, 6, 10]
    assert report["replay"]["votes"] == 3 * 1150
    assert [(look["phase"], look["verdict"]) for look in report["replay"]["looks"]] == [
        ("select", "equal"),
        ("estimate", "equal"),
    ] * 3
    assert main(["audit", str(folder), "--indices", "0,4-5"]) == 0
    assert "6 of 6 looks equal vote for vote" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 128, "precision": "bf16"},
        {"batch_size": 50, "noise": "laplace", "norm": "l1"},
        {"batch_size": 1000, "noise": "uniform", "norm": "l1", "channels_last": True},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_replay_follows_the_recorded_settings(workshop: Path, changes: dict[str, Any]) -> None:
    report = audit_folder(real_run(workshop, **changes))
    assert report.mismatches == ()
    replayed = replay(report.run, report.spec, [1, 8], ReplayOptions())
    assert [look.verdict for look in replayed.looks] == ["equal"] * 4


def _reseeded(folder: Path) -> None:
    """Pretend, consistently, that the run had another seed: no arithmetic can tell."""
    identity("seed", 12)(folder)
    for index in range(12):
        put("seed", 12, index=index)(folder)
    cells = [cell("certificates.csv", index, "seed", lambda text: "12") for index in range(12)]
    for change in cells:
        change(folder)


def test_another_seed_passes_the_arithmetic_and_fails_the_replay(
    workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = real_run(workshop)
    _reseeded(folder)
    code, report = run_json(folder, capsys=capsys)
    assert (code, report["mismatches"]) == (0, [])
    code, report = run_json(folder, "--replay", "4", capsys=capsys)
    assert (code, report["passed"], report["mismatches"]) == (1, False, [])
    assert {mismatch["rule"] for mismatch in report["replay"]["mismatches"]} == {"votes"}
    assert {mismatch["index"] for mismatch in report["replay"]["mismatches"]} == {1, 4, 7, 10}


def _other_pixel(workshop: Path) -> None:
    with np.load(workshop / "data.npz") as arrays:
        images, labels = arrays["images"].copy(), arrays["labels"]
    images[11, 0, 0, 0] /= 2
    np.savez(workshop / "data.npz", images=images, labels=labels)


REFUSALS: list[tuple[str, Callable[[Path], None], tuple[str, ...], str]] = [
    ("changed weight", lambda shop: None, ("--model", "audited_model:changed"), "the model must be that of the run"),
    ("changed pixel", _other_pixel, (), "the data must be that of the run"),
    (
        "input hash",
        lambda shop: put("input_sha256", "a" * 64, index=4, inside=False)(shop / "run"),
        (),
        "input 4 must be that of the run",
    ),
    ("label", lambda shop: put("label", 0, index=4, inside=False)(shop / "run"), (), "the label of input 4 must be"),
    (
        "torch",
        lambda shop: identity("torch_version", "2.0.0+rocm")(shop / "run"),
        (),
        f"the run used torch 2.0.0+rocm, here is torch {torch.__version__}",
    ),
    (
        "device",
        lambda shop: identity("device_kind", "tpu")(shop / "run"),
        (),
        "the run used 'tpu', this machine has cpu",
    ),
    (
        "resizing",
        lambda shop: identity("transform", "crop to 2")(shop / "run"),
        (),
        "the model must resize and crop as in the run: run.json has 'crop to 2', what was loaded has None",
    ),
    (
        "noise version",
        lambda shop: identity("noise_version", "philox-int-v9")(shop / "run"),
        (),
        "noise version must be one of torch-block-v1, philox-int-v1 to be replayed, got 'philox-int-v9'",
    ),
    ("batch size", lambda shop: identity("batch_size", None)(shop / "run"), (), "batch_size=None"),
]


@pytest.mark.parametrize("case", REFUSALS, ids=[case[0] for case in REFUSALS])
def test_what_votes_depend_on_is_compared_before_any_vote(
    workshop: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[str, Callable[[Path], None], tuple[str, ...], str],
) -> None:
    _, tamper, arguments, message = case
    folder = real_run(workshop)
    tamper(workshop)
    monkeypatch.setattr("certify.audit.replaying.recount", lambda *_, **__: pytest.fail("a vote was drawn"))
    assert main(["audit", str(folder), "--indices", "4", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_run_on_a_cpu_without_the_later_keys_is_replayed(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = real_run(workshop)
    config = json.loads((folder / "run.json").read_text())
    assert config["identity"].pop("device_name") is None
    assert config["identity"].pop("transform") is None
    (folder / "run.json").write_text(json.dumps(config))
    code, report = run_json(folder, "--replay", "1", capsys=capsys)
    assert (code, report["passed"]) == (0, True)


GPUS = ["Small GPU", "Large GPU"]


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        ({"device_name": "Small GPU"}, None),
        ({"device_name": "Large GPU"}, None),
        ({"device_name": "Other GPU"}, r"the run used 'Other GPU', this machine has 'Small GPU', 'Large GPU'"),
        ({"device_name": None}, r"must name \(device_name\), got None"),
        ({"device_name": ""}, r"must name \(device_name\), got ''"),
        ({}, r"must name \(device_name\), got None"),
    ],
)
def test_noise_of_a_gpu_is_drawn_again_only_on_a_gpu_of_that_name(
    monkeypatch: pytest.MonkeyPatch, recorded: dict[str, Any], message: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(GPUS))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: GPUS[index])
    run = {"noise_version": NOISE_VERSION, "torch_version": torch.__version__, "device_kind": "cuda", **recorded}
    if message is None:
        assert check_machine(run) == torch.device("cuda", GPUS.index(recorded["device_name"]))
    else:
        with pytest.raises(AuditError, match=message):
            check_machine(run)
    assert check_machine({**run, "device_kind": "cpu"}) == torch.device("cpu")


def test_replay_finds_model_and_data_elsewhere(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = real_run(workshop)
    (workshop / "moved").mkdir()
    (workshop / "data.npz").rename(workshop / "moved" / "data.npz")
    assert main(["audit", str(folder), "--replay", "1"]) == 1
    assert "no such file" in capsys.readouterr().err
    moved = ["--data", str(workshop / "moved" / "data.npz"), "--model", "audited_model:make"]
    assert main(["audit", str(folder), "--replay", "1", *moved]) == 0


def _coarse_votes(workshop: Path) -> tuple[Votes, Callable[[int], torch.Tensor]]:
    with np.load(workshop / "data.npz") as arrays:
        images = torch.from_numpy(arrays["images"])
    engine = BatchingEngine(
        load_model("audited_model:coarse").classifier,
        Gaussian(SHAPE, sigma=0.5),
        3,
        lambda index: images[index],
        settings=ForwardSettings(32),
        seed=7,
    )
    requests = [VoteRequest(0, Phase.SELECT, 0, 20), VoteRequest(0, Phase.ESTIMATE, 0, 1000)]
    found = {request.phase: counts.tolist() for request, counts in engine.votes(requests)}
    return {0: (found[Phase.SELECT], found[Phase.ESTIMATE])}, lambda index: images[index]


def test_near_ties_are_listed_and_explain_exactly_what_they_can(
    workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    votes, inputs = _coarse_votes(workshop)
    law = Gaussian(SHAPE, sigma=0.5)
    forward = Forward(load_model("audited_model:coarse").classifier, ForwardSettings(32))
    draw = TorchBlockNoise(law, 7).bind(inputs(0), 0)
    early, found = recount(forward, draw, SHAPE, phase=Phase.ESTIMATE, prefixes=(300, 1000), num_classes=3)
    assert early == recount(forward, draw, SHAPE, phase=Phase.ESTIMATE, prefixes=(300,), num_classes=3)[0]
    assert list(found.counts) == votes[0][1]
    ties = sum((tie.best, tie.second) == (0, 1) for tie in found.near_ties)
    assert ties > 20, "rounded scores have to tie often for this test"
    assert all(tie.margin == 0.0 for tie in found.near_ties)

    for moved, source, target, verdict, code in (
        (0, 0, 1, "equal", 0),
        (20, 0, 1, "near-ties", 0),
        (ties + sum((tie.best, tie.second) == (0, 2) for tie in found.near_ties) + 1, 0, 1, "different", 1),
        (1, 1, 0, "different", 1),  # a tie goes to the lower class, so that no near-tie gives a vote of class 1 to 0
        (1, 0, 3, "different", 1),  # and none makes a vote invalid
    ):
        changed = list(votes[0][1])
        changed[source] -= moved
        changed[target] += moved
        folder = workshop / f"run-{moved}-{source}-{target}"
        config = config_of(law, Norm.L2, None, [0])
        model = load_model("audited_model:coarse")
        with np.load(workshop / "data.npz") as arrays:
            image = arrays["images"][0]
        config["settings"] |= {"model": "audited_model:coarse", "data": str(workshop / "data.npz")}
        config["identity"] |= {"model_digest": model.digest, "data_digest": _data_digest(workshop)}
        sha = hashlib.sha256(image.astype("<f4").tobytes()).hexdigest()
        write_run(
            folder,
            law,
            votes={0: (votes[0][0], changed)},
            config=config,
            payload=lambda index, sha=sha: {"input_sha256": sha},  # type: ignore[misc]
        )
        exit_code, report = run_json(folder, "--replay", "1", capsys=capsys)
        assert report["mismatches"] == []
        look = report["replay"]["looks"][1]
        assert (look["verdict"], exit_code) == (verdict, code), (moved, source, target)
        assert len(look["near_ties"]) == len(found.near_ties)


def _data_digest(workshop: Path) -> str:
    from certify.datasets import load_dataset

    return load_dataset(str(workshop / "data.npz")).digest()


def tie(best: int, second: int) -> NearTie:
    return NearTie(0, best, second, 0.0, 1.0)


@pytest.mark.parametrize(
    ("recorded", "counted", "near_ties", "expected"),
    [
        ([5, 5, 0], [5, 5, 0], [], True),
        ([4, 6, 0], [5, 5, 0], [], False),
        ([4, 6, 0], [5, 5, 0], [tie(0, 1)], True),
        ([4, 6, 0], [5, 5, 0], [tie(1, 0)], False),  # the replay voted for 1 there: turning it takes from 1
        ([3, 7, 0], [5, 5, 0], [tie(0, 1)], False),
        ([3, 7, 0], [5, 5, 0], [tie(0, 1)] * 2, True),
        ([4, 5, 1, 0], [5, 5, 0, 0], [tie(0, 1), tie(1, 2)], True),  # one vote from 0 to 1, one from 1 to 2
        ([4, 5, 1, 0], [5, 5, 0, 0], [tie(0, 1), tie(2, 1)], False),
        ([3, 5, 1, 1, 0], [5, 5, 0, 0, 0], [tie(0, 2), tie(0, 2), tie(2, 3)], True),
        ([4, 5, 1], [5, 5, 0], [tie(0, 1)], False),  # to "invalid"
        ([4, 5, 0], [5, 5, 0], [tie(0, 1)], False),  # a vote has gone
        # The first path found, 0 -> 2, has to be taken back for both votes to arrive.
        ([4, 4, 1, 1, 0], [5, 5, 0, 0, 0], [tie(0, 2), tie(0, 3), tie(1, 2)], True),
    ],
)
def test_explained(recorded: list[int], counted: list[int], near_ties: list[NearTie], expected: bool) -> None:
    assert explained(recorded, counted, near_ties) is expected


def test_recount_counts_broken_scores_as_invalid_and_reads_labels() -> None:
    law = Gaussian((2,), sigma=1.0)

    def count(classifier: Callable[[torch.Tensor], Any]) -> Any:
        forward = Forward(classifier, ForwardSettings(50))
        draw = TorchBlockNoise(law, 1).bind(torch.zeros(2), 0)
        return recount(forward, draw, (2,), phase=Phase.SELECT, prefixes=(333,), num_classes=2)[0]

    scores = count(lambda x: x)
    assert sum(scores.counts) == 333
    assert min(scores.counts[:2]) > 100
    assert scores.counts[2] == 0
    broken = count(lambda x: torch.where(x[:, :1] > 0, x, torch.nan))
    assert broken.counts[2] > 100
    assert count(lambda x: x[:, 0].gt(0).long() * 5 - 1).counts == (0, 0, 333)
    labels = count(lambda x: x[:, 1].gt(x[:, 0]).long())
    assert labels.counts == scores.counts
    assert labels.near_ties == ()
    tied = count(torch.zeros_like)
    assert tied.counts == (333, 0, 0)
    assert [near.sample for near in tied.near_ties] == list(range(333))
    for wrong in (lambda x: x[:, :1], lambda x: x[:, 0], lambda x: [1, 2], lambda x: x[:-1]):
        with pytest.raises(ClassifierError):
            count(wrong)


@pytest.mark.parametrize(
    ("indices", "count", "expected"),
    [
        (list(range(10)), 1, [5]),
        (list(range(10)), 2, [2, 7]),
        (list(range(10)), 10, list(range(10))),
        ([4, 2, 9], 5, [2, 4, 9]),
        (list(range(0, 100, 10)), 3, [10, 50, 80]),
    ],
)
def test_choose_evenly(indices: list[int], count: int, expected: list[int]) -> None:
    assert choose_evenly(indices, count) == expected


def test_a_look_that_cannot_be_counted_again_fails_the_replay(
    workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = real_run(workshop)
    counts(6, "estimate", "[NaN, 0, 0, 0]")(folder)
    code, report = run_json(folder, "--indices", "6", capsys=capsys)
    assert code == 1
    assert [m["rule"] for m in report["replay"]["mismatches"]] == ["votes"]
    assert [look["phase"] for look in report["replay"]["looks"]] == ["select"]
