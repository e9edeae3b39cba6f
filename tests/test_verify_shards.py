"""`certify verify --shard` and `certify merge`; networks behind a denoiser; solvers and memory that give out."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from certify.cli import main
from certify.denoising.checkpoint import DenoiserConfig, save_denoiser
from certify.errors import CertifyError, RunMismatchError
from certify.journal import Journal
from certify.merging import merge_shards
from certify.models.architectures import build_architecture
from certify.models.checkpoint import save_checkpoint
from certify.models.checkpoint_config import CheckpointConfig
from certify.verification.audit import audit_verification
from certify.verification.open_folder import open_run
from certify.verification.row import VerifyRow
from denoisers import build_denoiser
from tests.verify_commands import install
from verify.lp import memory
from verify.lp import solve as solving
from verify.lp.simplex import Answer

COMMON = ["verify", "tiny_verified:make", "--data", "digits", "--norm", "linf", "--clip", "--quiet", "--device", "cpu"]
ASKED = [*COMMON, "--eps", "0.06", "--indices", "0-5", "--method", "ibp,crown,pgd", "--steps", "10", "--restarts", "0"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path, monkeypatch)
    return tmp_path


def claims(out: Path) -> dict[int, Any]:
    with Journal(out, kind="verify") as journal:
        found = [VerifyRow.from_entry(entry) for entry in journal.entries()]
    return {row.index: (row.status, row.claims, row.attack_radius) for row in found}


def test_shards_join_into_the_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, out = folder / "whole", folder / "out"
    assert main([*ASKED, "--out", str(whole), "--batch-size", "1"]) == 0
    assert main([*ASKED, "--out", str(out), "--batch-size", "1", "--shard", "0/2"]) == 0
    assert "This is shard 0 of 2" in capsys.readouterr().out
    assert set(claims(out / "shards" / "0-of-2")) == {0, 2, 4}
    assert any("one shard of the run" in note for note in audit_verification(out / "shards" / "0-of-2").notes)
    with pytest.raises(CertifyError, match=r"shards 1 of 2 are not there; 3 of 6 inputs are not done yet"):
        merge_shards(out)
    assert main([*ASKED, "--out", str(out), "--batch-size", "1", "--shard", "1/2"]) == 0
    capsys.readouterr()
    assert main(["merge", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"6 inputs in {out}/verify.csv" in shown
    assert f"next: certify audit {out}" in shown
    assert claims(out) == claims(whole)
    for name in ("robust_error.csv",):
        assert (out / name).read_text() == (whole / name).read_text()
    report = audit_verification(out)
    assert (report.mismatches, report.inputs, report.notes) == ((), 6, ())
    assert report.checked + report.bounds + report.refuted >= 5
    merge_shards(out)  # again, for nothing
    assert claims(out) == claims(whole)


def test_only_the_arrays_that_a_row_names_are_joined(folder: Path) -> None:
    out = folder / "out"
    command = [*COMMON, "--eps", "0.02", "--indices", "0,1", "--method", "ibp", "--out", str(out)]
    for shard in ("0/2", "1/2"):
        assert main([*command, "--shard", shard]) == 0
    right = out / "shards" / "1-of-2" / "certificates" / "1.npz"
    stray = out / "shards" / "0-of-2" / "certificates" / "1.npz"
    stray.write_bytes(b"left by a kill before its row was written")
    merge_shards(out)
    assert (out / "certificates" / "1.npz").read_bytes() == right.read_bytes()
    assert audit_verification(out).mismatches == ()
    (out / "certificates" / "1.npz").unlink()
    right.unlink()
    with pytest.raises(CertifyError, match=r"the arrays of input 1 with the sha256 .* must lie in a shard, got none"):
        merge_shards(out)


def test_shards_of_other_runs_are_refused(folder: Path) -> None:
    out, one = folder / "out", [*COMMON, "--indices", "0,1", "--method", "ibp"]
    assert main([*one, "--eps", "0.02", "--out", str(out), "--shard", "0/2"]) == 0
    assert main([*one, "--eps", "0.03", "--out", str(out), "--shard", "1/2"]) == 0
    with pytest.raises(RunMismatchError, match=r"shard 1 belongs to another run than shard 0:\n  eps"):
        merge_shards(out)
    shutil.rmtree(out / "shards" / "1-of-2")
    merge_shards(out, allow_partial=True)
    with sqlite3.connect(out / "shards" / "0-of-2" / "journal.sqlite") as connection:
        (text,) = connection.execute("SELECT payload FROM inputs").fetchone()
        connection.execute("UPDATE inputs SET payload = ?", (json.dumps(json.loads(text) | {"claims": []}),))
    connection.close()
    with pytest.raises(RunMismatchError, match="already holds input 0, with other claims than its shard"):
        merge_shards(out, allow_partial=True)


def test_a_file_has_no_shards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["verify", "--onnx", "x", "--vnnlib", "y", "--shard", "0/2", "--out", str(folder / "run")]
    assert main(command) == 2
    assert "the file says what is to be proved, got also shard" in " ".join(capsys.readouterr().err.split())


def test_a_network_behind_a_denoiser_is_one_network(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch norm, convolutions and the residual of a DnCNN are traced with the classifier; the audit finds both again."""
    # Only the tests check shapes at run time, and a tracer's symbols have none.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch.manual_seed(0)
    shape = (1, 8, 8)
    classifier = build_architecture("mlp", num_classes=10, input_shape=shape)
    save_checkpoint(folder / "mlp", classifier, CheckpointConfig("mlp", 10, shape))
    config = DenoiserConfig("dncnn-small", 1, "gaussian", {"sigma": 0.25}, 0.25, "digits")
    save_denoiser(folder / "denoiser", build_denoiser("dncnn-small", 1), config)
    command = ["verify", str(folder / "mlp"), *COMMON[2:], "--against", "prediction", "--eps", "0.0001", "--max", "1"]
    command += ["--method", "ibp", "--denoiser", str(folder / "denoiser")]
    assert main([*command, "--out", str(folder / "run")]) == 0
    opened = open_run(json.loads((folder / "run" / "run.json").read_text()))
    operators = {type(node.op).__name__ for node in opened.network.graph}
    assert operators >= {"Conv2d", "Scale", "LeakyReLU", "Add", "Linear"}
    report = audit_verification(folder / "run")
    assert (report.mismatches, report.inputs) == ((), 1)
    capsys.readouterr()
    assert main([*command[:-1], "classical:median", "--out", str(folder / "no")]) == 2
    assert "must be a trained network" in " ".join(capsys.readouterr().err.split())


class TestFallingBack:
    """What a solver that fails, or a program too large for memory, leaves: the earlier rung's bounds, and a note."""

    METHODS = ("--method", "crown,lp-all,milp", "--indices", "0,1", "--eps", "0.06")

    @pytest.mark.parametrize("mode", [(), ("--pure",), ("--radius",)])
    def test_a_program_too_large_for_memory(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: tuple[str, ...]
    ) -> None:
        monkeypatch.setattr(memory, "free_memory", lambda: 20_000)
        assert main([*COMMON, *self.METHODS, *mode, "--out", str(folder / "run"), "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        notes = " ".join(result["notes"])
        assert "0.0191 MiB of memory, got an estimate of 0.1" in notes
        for method in ("lp-all", "milp"):
            assert f"{method}" in notes
        assert result["verified"] >= 1
        assert result["verified_with_certificate"] >= 1
        assert audit_verification(folder / "run").mismatches == ()

    @pytest.mark.parametrize("mode", [(), ("--pure",), ("--radius",)])
    def test_a_solver_out_of_time(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: tuple[str, ...]
    ) -> None:
        class Late(solving.Simplex):
            def minimise(self, cost: Any, *, stop_above: float | None = None) -> Answer:
                return Answer("time limit reached", float("nan"), None, None)

        monkeypatch.setattr(solving, "Simplex", Late)
        command = [*COMMON, *self.METHODS, "--method", "crown,lp-all", *mode, "--out", str(folder / "run"), "--json"]
        assert main(command) == 0
        result = json.loads(capsys.readouterr().out)
        assert any("time limit reached" in note and "are kept there" in note for note in result["notes"])
        assert result["verified"] >= 1
        assert audit_verification(folder / "run").mismatches == ()
