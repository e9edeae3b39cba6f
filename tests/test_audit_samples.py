"""`certify audit --samples`: any range of recorded samples is drawn again, and compared as far as the record goes."""

import hashlib
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from certify.audit.neartie import NearTie
from certify.audit.ranges import Piece, SampleRange, cut, judge, parse_samples
from certify.cli import main
from certify.errors import UsageError
from certify.estimators import EstimatorOptions
from certify.runner import execute
from certify.setup import RunOptions, prepare
from smoothing import Gaussian, Phase
from smoothing.forward import ForwardSettings
from smoothing.integer import PhiloxIntNoise
from smoothing.noise_source import NoiseSource, TorchBlockNoise
from smoothing.votes import BatchingEngine, VoteRequest

MODEL = """
import torch


class Model(torch.nn.Module):
    num_classes = 3
    input_shape = (1, 4, 4)

    def forward(self, x):
        # Comparisons of single values: the same bits in any batch.
        pixels = x.flatten(1)
        return (pixels[:, 0] > 0.45).long() + (pixels[:, 5] > 0.8).long()


def fast():
    return Model()
"""
SIGMA, SEED = 0.25, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs over six 8-bit inputs: fixed n with torch's noise, sequential with integer noise."""
    place = tmp_path_factory.mktemp("samples")
    (place / "ranged_model.py").write_text(MODEL)
    images = np.random.default_rng(5).integers(0, 256, (6, 4, 4, 1), dtype=np.uint8)
    np.savez(place / "data.npz", images=images, labels=np.arange(6) % 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        patch.setattr("certify.runner._TESTED_VALUES", 2**13)
        sys.modules.pop("ranged_model", None)
        for name, version, estimator in (
            ("fixed", "torch-block-v1", EstimatorOptions()),
            ("sequential", "philox-int-v1", EstimatorOptions("sequential", radii="0,0.25,0.5", cap="900")),
        ):
            options = RunOptions(
                model="ranged_model:fast",
                data=str(place / "data.npz"),
                noise="gaussian",
                parameters=(("sigma", SIGMA),),
                noise_version=version,
                estimator=estimator,
                n=1000,
                n0=150,
                seed=SEED,
                batch_size=64,
                device="cpu",
                out=place / name,
            )
            execute(prepare(options, {}).plan)
    return place


@pytest.fixture(autouse=True)
def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))


def audit(capsys: pytest.CaptureFixture[str], run: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["audit", str(run), *arguments, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def recorded(run: Path, index: int) -> dict[str, dict[int, list[int]]]:
    """Return phase -> n -> counts, straight from the journal."""
    looks: dict[str, dict[int, list[int]]] = {}
    with sqlite3.connect(run / "journal.sqlite") as journal:
        for phase, n, counts in journal.execute('SELECT phase, n, counts FROM looks WHERE "index" = ?', (index,)):
            looks.setdefault(phase, {})[n] = json.loads(counts)
    return looks


def engine_counts(folder: Path, noise: NoiseSource, index: int, phase: Phase, start: int, stop: int) -> list[int]:
    """Return the votes of a range as the engine counts them: other code than the audit's."""
    from ranged_model import fast  # type: ignore[import-not-found]

    with np.load(folder / "data.npz") as arrays:
        images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2) / 255.0
    engine = BatchingEngine(
        fast(), noise.law, 3, lambda i: images[i], settings=ForwardSettings(64), seed=SEED, noise=noise
    )
    [(_, counts)] = engine.votes([VoteRequest(index, phase, start, stop)])
    return [int(count) for count in counts]


def sources(folder: Path) -> dict[str, NoiseSource]:
    law = Gaussian((1, 4, 4), sigma=SIGMA)
    noise = json.loads((folder / "sequential" / "run.json").read_text())["identity"]["noise"]
    return {
        "fixed": TorchBlockNoise(law, SEED),
        # torch's integer operations, as on a GPU: another implementation of the same bits.
        "sequential": PhiloxIntNoise(law, SEED, model_digest=noise["model_digest"], integer_arithmetic=True),
    }


@pytest.mark.parametrize(
    ("run", "start", "stop"),
    [
        ("fixed", 0, 1),
        ("fixed", 37, 301),
        ("fixed", 127, 129),
        ("fixed", 128, 384),
        ("sequential", 3, 120),
        ("sequential", 127, 129),
    ],
)
def test_a_range_is_drawn_again_bit_for_bit(
    folder: Path, capsys: pytest.CaptureFixture[str], run: str, start: int, stop: int
) -> None:
    source = sources(folder)[run]
    index = max(range(6), key=lambda i: max(recorded(folder / run, i)["estimate"]))
    code, report = audit(
        capsys, folder / run, "--indices", str(index), "--samples", f"estimate:{start}:{stop}", "--quiet"
    )
    assert (code, report["replay"]["looks"]) == (0, [])
    [part] = report["replay"]["ranges"]
    assert (part["index"], part["phase"], part["start"], part["stop"]) == (index, "estimate", start, stop)
    assert report["replay"]["votes"] == stop - start
    assert part["counted"] == engine_counts(folder, source, index, Phase.ESTIMATE, start, stop)
    with np.load(folder / "data.npz") as arrays:
        image = torch.from_numpy(arrays["images"][index]).permute(2, 0, 1) / 255.0
    copies = source.draw(image, index, Phase.ESTIMATE, start, stop)
    assert part["copies_sha256"] == hashlib.sha256(copies.numpy().astype("<f4").tobytes()).hexdigest()
    values = copies.flatten(1)
    votes = ((values[:, 0] > 0.45).long() + (values[:, 5] > 0.8).long()).numpy()
    assert part["votes_sha256"] == hashlib.sha256(votes.astype("<i8").tobytes()).hexdigest()


def test_what_is_compared_depends_on_the_looks_in_the_range(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "sequential"
    index = max(range(6), key=lambda i: len(recorded(run, i)["estimate"]))
    looks = sorted(recorded(run, index)["estimate"])
    first, second, third = looks[-3:]  # the first ones are one vote apart
    code, report = audit(capsys, run, "--indices", str(index), "--samples", f"{first - 1}:{third}")
    [part] = report["replay"]["ranges"]
    assert code == 0
    assert [(piece["start"], piece["stop"], piece["verdict"]) for piece in part["pieces"]] == [
        (first - 1, first, "possible"),
        (first, second, "equal"),
        (second, third, "equal"),
    ]
    code, report = audit(capsys, run, "--indices", "0-5", "--samples", "0:1000000")
    assert code == 0
    assert {piece["verdict"] for part in report["replay"]["ranges"] for piece in part["pieces"]} == {"equal"}
    everything = sum(max(counts) for i in range(6) for counts in recorded(run, i).values())
    assert report["replay"]["votes"] == everything


def test_a_range_of_all_phases_and_of_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, report = audit(capsys, folder / "fixed", "--replay", "2", "--samples", "100:200")
    phases = [(part["phase"], part["start"], part["stop"]) for part in report["replay"]["ranges"]]
    assert phases == [("select", 100, 150), ("estimate", 100, 200)] * 2
    assert main(["audit", str(folder / "fixed"), "--replay", "2", "--samples", "select:0:150"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Replayed 300 votes of 2 inputs: between looks, 2 of 2 intervals equal" in out
    assert out.count("noisy copies ") == 2


def tampered(folder: Path, copy: Path, change: Callable[[list[int]], None]) -> Path:
    """Return a copy of the fixed run whose estimation votes of input 2 are others, in the journal alone."""
    copy.mkdir()
    for path in (folder / "fixed").iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    with sqlite3.connect(copy / "journal.sqlite") as journal:
        counts = json.loads(
            journal.execute("SELECT counts FROM looks WHERE phase = 'estimate' AND \"index\" = 2").fetchone()[0]
        )
        change(counts)
        journal.execute("UPDATE looks SET counts = ? WHERE phase = 'estimate' AND \"index\" = 2", (json.dumps(counts),))
    return copy


def one_more(counts: list[int]) -> None:
    most, second = sorted(range(3), key=lambda outcome: -counts[outcome])[:2]
    counts[most] += 1
    counts[second] -= 1


def another_class(counts: list[int]) -> None:
    counts[:3] = counts[1:3] + counts[:1]


@pytest.mark.parametrize(
    ("change", "samples", "verdicts"),
    [
        (one_more, "estimate:0:1000", {"different"}),
        (one_more, "estimate:0:500", {"possible"}),  # a part of an interval cannot show a single vote
        (another_class, "estimate:200:900", {"impossible"}),
        (another_class, "select:0:150", {"equal"}),
    ],
)
def test_other_votes_in_the_journal_are_found_where_they_can_be(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[list[int]], None],
    samples: str,
    verdicts: set[str],
) -> None:
    run = tampered(folder, tmp_path / "run", change)
    _, report = audit(capsys, run, "--indices", "2", "--samples", samples)
    replay = report["replay"]
    assert {piece["verdict"] for part in replay["ranges"] for piece in part["pieces"]} == verdicts
    found = {(mismatch["index"], mismatch["where"], mismatch["rule"]) for mismatch in replay["mismatches"]}
    assert found == ({(2, "replay", "votes")} if verdicts & {"different", "impossible"} else set())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "0:10"], "--samples is for a replay"),
        (["--replay", "1", "--samples", "10:10"], "START < STOP"),
        (["--replay", "1", "--samples", "10-20"], "must be START:STOP"),
        (["--replay", "1", "--samples", "estimate:5000:6000"], "got none from 5000 on in phase estimate"),
        (["--replay", "1", "--samples", "pilot:0:10"], "150 of select for input"),
    ],
)
def test_wrong_ranges_exit_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["audit", str(folder / "fixed"), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_parse_samples() -> None:
    assert parse_samples("100:200") == SampleRange(100, 200)
    assert parse_samples(" estimate:0:7 ") == SampleRange(0, 7, "estimate")
    for text in ("", "5", "5:", ":5", "7:5", "-1:5", "Estimate:1:2", "1:2:3"):
        with pytest.raises(UsageError, match="--samples must be"):
            parse_samples(text)


def test_cut() -> None:
    looks = {10: [6, 4, 0], 30: [20, 9, 1]}
    assert cut(0, 30, looks) == [Piece(0, 10, True, (6, 4, 0)), Piece(10, 30, True, (14, 5, 1))]
    assert cut(4, 10, looks) == [Piece(4, 10, False, (6, 4, 0))]
    assert cut(12, 29, looks) == [Piece(12, 29, False, (14, 5, 1))]
    assert cut(9, 99, looks) == [Piece(9, 10, False, (6, 4, 0)), Piece(10, 30, True, (14, 5, 1))]
    assert cut(0, 5, {}) == []


def tie(best: int, second: int) -> NearTie:
    return NearTie(0, best, second, 0.0, 1.0)


@pytest.mark.parametrize(
    ("whole", "counted", "ties", "verdict"),
    [
        (True, (6, 4, 0), [], "equal"),
        (True, (7, 3, 0), [], "different"),
        (True, (7, 3, 0), [tie(0, 1)], "near-ties"),
        (True, (7, 3, 0), [tie(1, 0)], "different"),
        (False, (6, 1, 0), [], "possible"),
        (False, (7, 1, 0), [], "impossible"),
        (False, (7, 1, 0), [tie(0, 1)], "possible"),
        (False, (7, 1, 0), [tie(1, 0)], "impossible"),
        (False, (2, 1, 1), [tie(0, 1)], "impossible"),
    ],
)
def test_judge(whole: bool, counted: tuple[int, ...], ties: list[NearTie], verdict: str) -> None:
    assert judge(Piece(0, 10, whole, (6, 4, 0)), counted, ties).verdict == verdict
