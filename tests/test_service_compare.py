"""`certify compare` and `certify report` on finished runs of prediction services, and where services are no models."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prediction_service import Service, brightness_class, serve

from certify.cli import main
from certify.models.architectures import build_architecture
from certify.models.checkpoint import save_checkpoint
from certify.models.checkpoint_config import CheckpointConfig

LEVELS = (20, 130, 230)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serve() as running:
        yield running


@pytest.fixture(scope="module")
def folder(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the service, one on a network of this machine, and a verification of that network; all of the same inputs."""
    place = tmp_path_factory.mktemp("runs")
    images = np.stack([np.full((8, 8, 1), level, np.uint8) for level in LEVELS])
    np.savez(place / "toy.npz", images=images, labels=np.array(brightness_class(images)))
    network = build_architecture("mlp", num_classes=3, input_shape=(1, 8, 8))
    save_checkpoint(place / "network", network, CheckpointConfig("mlp", 3, (1, 8, 8)))
    data = ["--data", str(place / "toy.npz"), "--quiet"]
    noise = ["--noise", "gaussian", "--sigma", "0.25", "--n", "40"]
    remote = ["--adapter", "oip", "--service", "model=toy", "--num-classes", "3", "--n0", "5"]
    assert main(["run", service.url, *data, *noise, *remote, "--out", str(place / "service")]) == 0
    assert main(["run", str(place / "network"), *data, *noise, "--no-preflight", "--out", str(place / "local")]) == 0
    radius = ["--norm", "l2", "--eps", "0.5", "--no-clip", "--radius", "--method", "crown"]
    assert main(["verify", str(place / "network"), *data, *radius, "--out", str(place / "verify")]) == 0
    return place


@pytest.mark.parametrize("other", ["verify", "local"])
def test_certificates_of_a_service_are_compared(
    service: Service, folder: Path, tmp_path: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    billed = service.billed
    line = ["compare", str(folder / "service"), str(folder / other), "--quiet", "--out", str(tmp_path / "compared")]
    assert main(line) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"a prediction service gave the votes of {folder / 'service'}: give --no-attack" in error
    assert not (tmp_path / "compared").exists(), "nothing was attacked, or written, before"
    assert main([*line, "--no-attack", "--json"]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    [first, second] = found["sides"]
    assert (first["accuracy"], first["inputs"], second["inputs"]) == (1.0, len(LEVELS), len(LEVELS))
    assert first["mean_radius"] > 0
    notes = " ".join(found["notes"])
    assert f"service: the base classifier of g is the model toy of the service {service.url}" in notes
    assert "behind clipping to [0, 1] and rounding to 8 bits; nobody says how it was trained" in notes
    assert "service: g's network does not say" not in notes
    assert found["same_weights"] is False
    assert (tmp_path / "compared" / "compare.csv").exists()
    assert service.billed == billed, "no comparison asks a service"


def test_a_run_that_its_budget_has_ended_is_not_whole(
    service: Service, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [
        *("run", service.url, "--adapter", "oip", "--service", "model=toy", "--num-classes", "3", "--n0", "5"),
        *("--data", str(folder / "toy.npz"), "--noise", "gaussian", "--sigma", "0.25", "--n", "40", "--quiet"),
        *("--max-queries", "60", "--out", str(tmp_path / "part")),
    ]
    assert main(line) == 0
    capsys.readouterr()
    pair = [str(tmp_path / "part"), str(folder / "local"), "--no-attack", "--out", str(tmp_path / "compared")]
    assert main(["compare", *pair]) in (1, 2)
    error = capsys.readouterr().err
    assert str(tmp_path / "part") in error
    assert "Traceback" not in error
    assert main(["report", str(tmp_path / "part"), "--no-html", "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "table.md").read_text()
    assert "1 of 3" in text, "a partial run is never shown as whole"
    assert "None of these is part of any certificate" in text


def test_the_report_says_what_was_asked_beside_the_votes(folder: Path, tmp_path: Path) -> None:
    assert main(["report", str(folder / "service"), str(folder / "local"), "--no-html", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "table.md").read_text()
    assert (
        "Beside the votes the service was asked about 3 clean images before the votes, of which the service got 3 right and "
        "1 other images (the question before the first vote, known images). None of these is part of any certificate."
    ) in text


def test_a_journal_without_answers_is_compared_and_reported(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    old = tmp_path / "old"
    shutil.copytree(folder / "service", old)
    with sqlite3.connect(old / "journal.sqlite") as connection:
        connection.execute("DELETE FROM answers")
    connection.close()
    pair = [str(old), str(folder / "local"), "--no-attack", "--quiet", "--out", str(tmp_path / "compared")]
    assert main(["compare", *pair]) == 0, capsys.readouterr().err
    assert main(["report", str(old), "--no-html", "--out", str(tmp_path / "report")]) == 0
    assert "None of these is part" not in (tmp_path / "report" / "table.md").read_text()


@pytest.mark.parametrize(
    "command",
    [
        ("compare", "URL", "--norm", "l2", "--eps", "0.5", "--no-clip", "--sigma", "0.25"),
        ("verify", "URL", "--norm", "l2", "--eps", "0.5", "--no-clip"),
        ("predict", "URL"),
    ],
)
def test_a_service_is_no_model_of_other_commands(
    service: Service, folder: Path, tmp_path: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    line = [service.url if word == "URL" else word for word in command]
    out = [] if command[0] == "predict" else ["--out", str(tmp_path / "out")]
    assert main([*line, "--data", str(folder / "toy.npz"), *out]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "a prediction service is asked for labels alone, by certify plan and certify run" in error
