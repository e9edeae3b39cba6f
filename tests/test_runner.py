"""The runner: resumable after anything, with the votes of an undisturbed run."""

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from certify.errors import CertifyError, DatasetError, JournalError, ModelError, RunMismatchError, UsageError
from certify.journal import Journal
from certify.merging import merge_shards
from certify.rundir import KIND, read_run
from certify.runner import execute, preflight
from certify.setup import RunOptions, prepare
from smoothing.errors import InvalidArgumentError, UnsupportedNormError
from smoothing.estimators.base import Look, Phase

MODEL = """
import os
import time

import torch


class Model(torch.nn.Module):
    num_classes = 3
    input_shape = (1, 4, 4)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 48).reshape(16, 3).cos())

    def forward(self, x):
        time.sleep(float(os.environ.get("PAUSE", 0)))
        return x.flatten(1) @ self.weight


def make():
    return Model()


def fast():
    return Model()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model module and twelve inputs; the module is importable."""
    (tmp_path / "slow_model.py").write_text(MODEL)
    random = np.random.default_rng(5)
    np.savez(tmp_path / "data.npz", images=random.random((12, 1, 4, 4), dtype=np.float32), labels=np.arange(12) % 3)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("slow_model", None)
    return tmp_path


def options(folder: Path, **changes: object) -> RunOptions:
    base = RunOptions(
        model="slow_model:fast",
        data=str(folder / "data.npz"),
        noise="gaussian",
        parameters=(("sigma", 0.25),),
        n=300,
        n0=50,
        batch_size=64,
        device="cpu",
        out=folder / "run",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def certify(folder: Path, **changes: object) -> list[str]:
    """Run, and return everything but the times, as text: votes, bounds, radii."""
    plan = prepare(options(folder, **changes), {}).plan
    execute(plan)
    return evidence(plan.out)


def evidence(out: Path) -> list[str]:
    with Journal(out, kind=KIND) as journal:
        return [
            json.dumps([e.index, e.payload["label"], e.payload["certificate"], [str(look) for look in e.looks]])
            for e in journal.entries()
        ]


def exports_without_time(out: Path) -> list[list[str]]:
    return [line.split("\t")[:-1] for line in (out / "certificates.tsv").read_text().splitlines()]


def in_child(work: Callable[[], None]) -> tuple[int, str]:
    """Run `work` in a forked child; return its exit code and the message of the error that it raised."""
    receive, send = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        try:
            work()
            send.send("")
            os._exit(0)
        except BaseException as error:
            send.send(f"{type(error).__name__}: {error}")
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), receive.recv() if receive.poll() else ""


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_at_random_moments_changes_nothing(folder: Path, seed: int) -> None:
    reference = certify(folder, model="slow_model:make", out=folder / "calm")
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("killing.py")),
            str(folder),
            str(folder / "wild"),
            "30",
            str(seed),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PAUSE": "0.002"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["killed"] >= 5, (
        "the run finished before it was killed often enough to mean something"
    )
    assert evidence(folder / "wild") == reference
    assert exports_without_time(folder / "wild") == exports_without_time(folder / "calm")
    assert not [p.name for p in (folder / "wild").iterdir() if p.suffix == ".sqlite-journal"]


def test_interruption_within_a_window_keeps_what_is_finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certify.window._FLUSH_SECONDS", 0.0)
    reference = certify(folder, out=folder / "calm")
    plan = prepare(options(folder), {}).plan
    seen = 0

    def interrupt(_row: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(plan, on_row=interrupt)
    assert len(evidence(plan.out)) == 4
    assert not read_run(plan.out).complete
    assert len(exports_without_time(plan.out)) == 5  # the exports of an interrupted run are those of its journal
    execute(plan)
    assert evidence(plan.out) == reference
    assert read_run(plan.out).complete


def test_same_votes_for_any_order_of_work(folder: Path) -> None:
    whole = certify(folder, out=folder / "whole")
    pieces = folder / "pieces"
    for indices in ("7", "0,11", "3-5", "0-11"):
        certify(folder, out=pieces, indices=indices)
    assert evidence(pieces) == whole


def test_batch_size_changes_nothing_for_an_exact_classifier(folder: Path) -> None:
    def votes(lines: list[str]) -> list[object]:
        return [json.loads(line)[3] for line in lines]

    first = votes(certify(folder, out=folder / "a", batch_size=64))
    for size in (1, 7, 1024):
        assert votes(certify(folder, out=folder / f"b{size}", batch_size=size)) == first


def test_asking_for_less_does_not_make_an_unfinished_run_complete(folder: Path) -> None:
    certify(folder, indices="0-3")
    plan = prepare(options(folder), {}).plan

    def stop(_row: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(plan, on_row=stop)
    certify(folder, indices="0-3")
    run = read_run(folder / "run")
    assert run.planned == tuple(range(12))
    assert not run.complete


def test_shards_merge_into_the_whole(folder: Path) -> None:
    whole = certify(folder, out=folder / "whole")
    for shard in range(3):
        certify(folder, shard=f"{shard}/3")
    merged = merge_shards(folder / "run")
    assert not merged.missing
    assert evidence(folder / "run") == whole
    assert exports_without_time(folder / "run") == exports_without_time(folder / "whole")
    assert read_run(folder / "run").complete
    assert merge_shards(folder / "run").rows == merged.rows  # again: nothing new, nothing lost


def test_a_part_is_never_merged_silently(folder: Path) -> None:
    certify(folder, shard="0/3")
    certify(folder, shard="2/3")
    with pytest.raises(CertifyError, match=r"shards 1 of 3 are not there; 4 of 12 inputs"):
        merge_shards(folder / "run")
    merged = merge_shards(folder / "run", allow_partial=True)
    assert merged.missing == (1, 4, 7, 10)
    assert not read_run(folder / "run").complete


def test_shards_of_different_runs_do_not_merge(folder: Path) -> None:
    certify(folder, shard="0/2")
    certify(folder, shard="1/2", seed=1)
    with pytest.raises(RunMismatchError, match="seed: the folder has 0, now 1"):
        merge_shards(folder / "run")


def test_shard_auto_reads_the_environment(folder: Path) -> None:
    prepared = prepare(options(folder, shard="auto"), {"RANK": "1", "WORLD_SIZE": "4"})
    assert prepared.plan.indices == (1, 5, 9)
    assert prepared.plan.out == folder / "run" / "shards" / "1-of-4"
    assert "RANK" in prepared.notes[0]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 3}, "seed: the folder has 0, now 3"),
        ({"n": 400}, "estimator.n: the folder has 300, now 400"),
        ({"parameters": (("sigma", 0.5),)}, "law.parameters.sigma: the folder has 0.25, now 0.5"),
        ({"alpha": 0.01}, "estimator.alpha"),
        ({"batch_size": 32}, "batch_size: the folder has 64, now 32"),
        ({"norm": "l1"}, "norm: the folder has 'l2', now 'l1'"),
        ({"model": "slow_model:make"}, None),
    ],
)
def test_another_identity_is_refused(folder: Path, changes: dict[str, object], difference: str | None) -> None:
    before = certify(folder, indices="0-2")
    config = (folder / "run" / "run.json").read_bytes()
    if difference is None:
        certify(folder, indices="0-2", **changes)  # the same weights by another name are the same model
        return
    with pytest.raises(RunMismatchError, match=difference.split(":")[0]) as caught:
        certify(folder, indices="0-2", **changes)
    assert difference in str(caught.value)
    assert evidence(folder / "run") == before
    assert (folder / "run" / "run.json").read_bytes() == config


def test_two_processes_on_one_folder(folder: Path) -> None:
    certify(folder, indices="0")
    with Journal(folder / "run", kind=KIND, write=True):
        code, message = in_child(lambda: execute(prepare(options(folder), {}).plan) and None)
    assert code == 1
    assert "another process is writing to" in message
    assert len(certify(folder)) == 12


def test_a_report_can_be_read_while_the_run_goes_on(folder: Path) -> None:
    certify(folder, indices="0")
    with Journal(folder / "run", kind=KIND, write=True):
        assert len(read_run(folder / "run").rows) == 1


@pytest.mark.parametrize("limit", [20_000, 45_000])
def test_full_disk(folder: Path, limit: int) -> None:
    reference = certify(folder, out=folder / "calm")

    def work() -> None:
        torch.set_num_threads(1)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        execute(prepare(options(folder), {}).plan)

    code, message = in_child(work)
    assert code == 1
    assert message.startswith("JournalError"), message
    assert "disk" in message
    assert certify(folder) == reference


def test_database_full(folder: Path) -> None:
    folder.joinpath("j").mkdir()
    with Journal(folder / "j", kind=KIND, write=True) as journal:
        journal._connection.execute("PRAGMA max_page_count = 12")

        def fill() -> None:
            for index in range(100):
                journal.record_input(index, {"text": "x" * 2000}, ())

        with pytest.raises(JournalError, match="database or disk is full; free some space"):
            fill()
    with Journal(folder / "j", kind=KIND) as journal:
        entries = list(journal.entries())
    assert entries, "the limit came before the first row"
    assert [e.index for e in entries] == list(range(len(entries)))
    assert all(e.payload["text"] == "x" * 2000 for e in entries)


@pytest.mark.parametrize("existing", [False, True])
def test_read_only_folder_as_an_ordinary_user(folder: Path, existing: bool) -> None:
    if existing:
        certify(folder, indices="0")
    else:
        (folder / "run").mkdir()
    before = sorted((p.name, p.stat().st_size) for p in (folder / "run").iterdir())
    plan = prepare(options(folder), {}).plan
    plan.data.inputs([0])
    for path in (folder / "run").iterdir():
        path.chmod(0o444)
    (folder / "run").chmod(0o555)
    for parent in [folder, *folder.parents][:4]:
        if parent.stat().st_uid == os.getuid():
            parent.chmod(parent.stat().st_mode | 0o055)

    def work() -> None:
        torch.set_num_threads(1)
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        execute(plan)

    import filelock  # noqa: F401 - an ordinary user may not be able to read where root has installed it

    code, message = in_child(work)
    assert code == 1
    assert "cannot write to" in message or "readonly" in message, message
    assert sorted((p.name, p.stat().st_size) for p in (folder / "run").iterdir()) == before
    (folder / "run").chmod(0o755)


def test_damaged_journal(folder: Path) -> None:
    certify(folder, indices="0-2")
    path = folder / "run" / "journal.sqlite"
    path.write_bytes(b"not a journal at all" * 100)
    with pytest.raises(JournalError, match="not a database"):
        read_run(folder / "run")
    with pytest.raises(JournalError, match="not a database"):
        certify(folder)


def test_a_row_with_other_votes_is_refused(folder: Path) -> None:
    certify(folder, indices="0-2")
    with Journal(folder / "run", kind=KIND, write=True) as journal:
        journal._connection.execute("UPDATE looks SET counts = '[1, 2, 3, 4]' WHERE \"index\" = 1")
        entry = next(e for e in journal.entries() if e.index == 0)
        other = replace(entry.looks[0], counts=(0, 0, 50, 0))
        with pytest.raises(JournalError, match="other votes"):
            journal.record_input(0, entry.payload, (other,))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"n": 8}, UsageError, "n=8 votes at alpha=0.001 can certify nothing.*at least 10"),
        ({"n": 0}, InvalidArgumentError, "n must be an integer of at least 1, got n=0"),
        ({"n0": 0}, InvalidArgumentError, "n0 must be an integer of at least 1"),
        ({"alpha": 0.0}, InvalidArgumentError, r"alpha must be in \(0, 1\), got alpha=0.0"),
        ({"alpha": 2.0}, InvalidArgumentError, r"alpha must be in \(0, 1\), got alpha=2.0"),
        ({"alpha": float("nan")}, InvalidArgumentError, r"alpha must be in \(0, 1\)"),
        ({"parameters": (("sigma", 0.0),)}, InvalidArgumentError, "sigma must be positive and finite, got sigma=0.0"),
        ({"parameters": (("sigma", -1.0),)}, InvalidArgumentError, "sigma must be positive"),
        ({"parameters": (("sigma", float("nan")),)}, InvalidArgumentError, "sigma must be positive"),
        ({"parameters": (("scale", 0.1),)}, InvalidArgumentError, "gaussian noise takes sigma, got scale=0.1"),
        ({"parameters": ()}, InvalidArgumentError, "gaussian needs sigma"),
        ({"noise": "gausian"}, InvalidArgumentError, r"noise must be one of .*gaussian.*, got noise='gausian'"),
        ({"noise": None}, UsageError, "does not say which noise"),
        ({"norm": "l3"}, InvalidArgumentError, "norm must be one of l0, l1, l2, linf, got norm='l3'"),
        ({"noise": "laplace", "norm": "l0"}, UnsupportedNormError, "laplace noise in norm l0; proved norms: l1"),
        ({"norm": "l0"}, UnsupportedNormError, "proved norms: l1, l2, linf"),
        ({"data": "cifar11"}, UsageError, "cifar10"),
        ({"model": "nonsense"}, Exception, "nonsense"),
        ({"model": "slow_model:nothing"}, Exception, "nothing"),
        ({"seed": -1}, InvalidArgumentError, "seed must be"),
        ({"batch_size": 0}, InvalidArgumentError, "batch_size must be"),
        ({"precision": "fp8"}, InvalidArgumentError, "precision must be one of fp32, bf16, fp16"),
        ({"device": "tpu"}, UsageError, "device must be cpu, cuda"),
        ({"indices": "99"}, UsageError, "99"),
        ({"maximum": 0}, Exception, "max"),
        ({"shard": "3/3"}, UsageError, "shard"),
        ({"shard": "auto"}, UsageError, "RANK"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    folder: Path, changes: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        prepare(options(folder, **changes), {})
    assert not (folder / "run").exists()


def test_wrong_shape_and_labels(folder: Path) -> None:
    np.savez(folder / "wide.npz", images=np.zeros((4, 1, 5, 5), np.float32), labels=np.zeros(4, np.int64))
    with pytest.raises(ModelError, match=r"takes inputs of shape \(1, 4, 4\), but .* has \(1, 5, 5\)"):
        prepare(options(folder, data=str(folder / "wide.npz")), {})
    np.savez(folder / "labels.npz", images=np.zeros((4, 1, 4, 4), np.float32), labels=np.array([0, 1, 2, 7]))
    with pytest.raises(DatasetError, match=r"labels must be in 0\.\.2.*input 3 has label 7"):
        prepare(options(folder, data=str(folder / "labels.npz")), {})


def test_preflight_measures_clean_accuracy(folder: Path) -> None:
    plan = prepare(options(folder), {}).plan
    found = preflight(plan)
    x = plan.data.inputs(range(12))
    with torch.inference_mode():
        right = (plan.model.classifier(x).argmax(1).numpy() == plan.data.labels(range(12))).mean()
    assert found.checked == 12
    assert found.clean_accuracy == pytest.approx(right)
    assert found.votes_per_second > 0


def test_converted_norm_is_marked(folder: Path) -> None:
    certify(folder, norm="linf", convert_from="l2")
    own = {row.index: row for row in read_run(folder / "run").rows}
    certify(folder, norm="l2", out=folder / "l2")
    for row in read_run(folder / "l2").rows:
        other = own[row.index].certificate
        assert other.converted_from is not None
        assert "converted from l2" in other.covers
        assert other.radius <= row.radius / 4.0
        assert other.radius == pytest.approx(row.radius / 4.0, rel=1e-9)


def test_certificates_without_a_run_file_are_nobodys(folder: Path) -> None:
    certify(folder, indices="0-2")
    (folder / "run" / "run.json").unlink()
    with pytest.raises(RunMismatchError, match=r"holds certificates or votes but no run\.json"):
        certify(folder)


def test_rows_of_another_run_are_noticed(folder: Path) -> None:
    certify(folder, indices="0-2")
    certify(folder, seed=1, out=folder / "other")
    (folder / "other" / "run.json").write_bytes((folder / "run" / "run.json").read_bytes())
    with pytest.raises(RunMismatchError, match="belongs to another run"):
        certify(folder, out=folder / "other")


def test_inputs_that_changed_behind_the_digest_are_noticed(folder: Path) -> None:
    """Image folders are known by names and sizes of their files."""
    random = np.random.default_rng(0)
    for index in range(4):
        path = folder / "photos" / f"class{index % 2}" / f"{index}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (4, 4, 3), dtype=np.uint8)).save(path)
    (folder / "colour_model.py").write_text(
        "import torch\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))\n"
    )
    changes = {"data": str(folder / "photos"), "model": "colour_model:make", "num_classes": 2}
    certify(folder, indices="0-1", **changes)
    for path in (folder / "photos").rglob("*.bmp"):
        Image.fromarray(random.integers(0, 255, (4, 4, 3), dtype=np.uint8)).save(path)
    with pytest.raises(RunMismatchError, match="is not the one that was certified"):
        certify(folder, **changes)


def test_a_reader_never_sees_half_of_what_a_writer_finishes(folder: Path) -> None:
    """`entries` is one moment: a done input always has its looks."""
    (folder / "run").mkdir()
    look = Look(Phase.SELECT, 3, (3, 0))
    stop, enough = threading.Event(), threading.Event()

    def write() -> None:
        with Journal(folder / "run", kind=KIND, write=True) as journal:
            for index in range(20_000):  # until the reader has come in between often enough
                journal.record_input(index, {"n": index}, (look,))
                if index >= 60 and enough.is_set():
                    break
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not stop.is_set():
        if (folder / "run" / "journal.sqlite").exists() and (folder / "run" / "journal.sqlite").stat().st_size:
            with contextlib.suppress(JournalError), Journal(folder / "run", kind=KIND) as journal:
                entries = list(journal.entries())
                assert all(entry.looks == (look,) for entry in entries)
                reads += bool(entries)
        if reads >= 10:
            enough.set()
    writer.join()
    assert reads >= 10


def test_a_hot_journal_is_rolled_back_by_a_reader(folder: Path) -> None:
    """A writer that is killed inside a transaction leaves a rollback journal, which a read-only connection may not use."""
    before = certify(folder, indices="0-2")

    def work() -> None:
        journal = Journal(folder / "run", kind=KIND, write=True)
        connection = journal._connection
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        for index in range(100, 400):
            connection.execute("INSERT INTO inputs VALUES (?, 'done', ?)", (index, "x" * 3000))
        os.kill(os.getpid(), signal.SIGKILL)

    in_child(work)
    assert (folder / "run" / "journal.sqlite-journal").exists(), "the writer left nothing to roll back"
    assert evidence(folder / "run") == before


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE looks SET phase = 'zzz'", "the row of input 0 is damaged"),
        ("UPDATE looks SET counts = 'xx'", "the row of input 0 is damaged"),
        ("UPDATE inputs SET payload = '{'", "the row of input 0 is damaged"),
        ("UPDATE inputs SET payload = '{}'", "the journal's row of input 0 cannot be read"),
        ("DELETE FROM looks", "are not those of its certificate"),
        ("UPDATE meta SET value = '7' WHERE key = 'schema_version'", "schema version 7"),
        ("UPDATE meta SET value = 'other' WHERE key = 'kind'", "kind 'other'"),
    ],
)
def test_damaged_rows_are_named(folder: Path, statement: str, message: str) -> None:
    certify(folder, indices="0-2")
    with Journal(folder / "run", kind=KIND, write=True) as journal:
        journal._connection.execute(statement)
    with pytest.raises(JournalError, match=message):
        certify(folder)


@pytest.mark.parametrize("key", ["selected", "indices"])
def test_damaged_run_file(folder: Path, key: str) -> None:
    certify(folder, indices="0-2")
    path = folder / "run" / "run.json"
    config = json.loads(path.read_text())
    del config["settings"][key]
    path.write_text(json.dumps(config))
    with pytest.raises(CertifyError, match=r"run\.json is damaged"):
        certify(folder)
    path.write_text(json.dumps({**config, "identity": []}))
    with pytest.raises(CertifyError, match=r"run\.json is damaged"):
        certify(folder)
