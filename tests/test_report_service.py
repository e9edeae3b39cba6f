"""Reports of runs on prediction services state by which rules answers became votes, and how often each was needed."""

import io
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prediction_service import Service, brightness_class, serve
from rich.console import Console

from certify import merging
from certify.blackbox import CallSettings
from certify.blackbox.preflight import PREFLIGHT_KEY
from certify.blackbox.running import _CANARY_KEY
from certify.blackbox.source import VOID
from certify.blackbox.spec import ServiceOptions
from certify.blackbox.spending import QUESTION_KEY, UNANSWERED_KEY
from certify.blackbox.table import ADAPTERS
from certify.cli import main
from certify.errors import CertifyError
from certify.journal import NOT_ASKED
from certify.report import Report, read_source, service, write_report
from certify.report.strips import make_strips
from certify.report.terminal import print_report
from certify.rundir import read_run
from certify.runner import execute
from certify.setup import RunOptions, prepare

LEVELS = (40, 130, 220)
N0, N = 5, 40


@pytest.fixture
def toy() -> Iterator[Service]:
    with serve() as running:
        yield running


def run_on(toy: Service, folder: Path, **chosen: Any) -> Path:
    """Certify three grey images on the toy service, by the adapter that sends PNG; return the run folder."""
    images = np.stack([np.full((8, 8, 1), level, np.uint8) for level in LEVELS])
    np.savez(folder / "toy.npz", images=images, labels=np.array(brightness_class(images)))
    (folder / "api.toml").write_text(
        f'url = "{toy.url}/json"\nlabel = "results[0].name"\nversion = "model.version"\n'
        'refused = "error.code"\nbody = { image = "{{png_base64}}" }\n'
    )
    asked = ServiceOptions(
        adapter="http-json",
        options=(f"file={folder / 'api.toml'}",),
        class_names=("ant", "bee", "cat"),
        calls=CallSettings(concurrency=1, first_wait=0.01),
        **{"preflight": False, **chosen},
    )
    options = RunOptions(
        model=f"{toy.url}/json",
        data=str(folder / "toy.npz"),
        num_classes=3,
        noise="gaussian",
        parameters=(("sigma", 0.25),),
        n0=N0,
        n=N,
        device="cpu",
        service=asked,
        out=folder / "run",
    )
    execute(prepare(options, {}).plan)
    return folder / "run"


def stated(run: Path) -> str:
    found = read_source(run).service
    assert found is not None
    return " ".join(found.sentences())


def everywhere(report: Report) -> list[str]:
    """What a reader of Markdown, page and terminal sees, in one line each."""
    target = io.StringIO()
    print_report(Console(file=target, width=100), report)
    folder = report.sources[0].path
    page = (folder / "report.html").read_text()
    texts = ((folder / "table.md").read_text().replace("\\", ""), page[page.index("<body>") :], target.getvalue())
    return [" ".join(text.split()) for text in texts]


def test_the_rules_and_their_counts_are_stated(toy: Service, tmp_path: Path) -> None:
    # One call at a time, and the first is the question before the votes: which of them fail is known.
    toy.fault = lambda number, images: {7: "refuse", 9: "malformed", 11: "empty"}.get(number)
    run = run_on(toy, tmp_path, canaries=2)
    with sqlite3.connect(run / "journal.sqlite") as connection:
        invalid = [sum(json.loads(counts)[-1] for (counts,) in connection.execute("SELECT counts FROM looks"))]
    connection.close()
    assert invalid == [3], "the faults came where this test believes"
    report = write_report(run)
    for text in everywhere(report):
        assert f"of the service {toy.url}, asked by the http-json adapter, behind clipping to [0, 1]" in text
        assert "rounding to 8 bits and PNG" in text
        assert "belongs to the base classifier f" in text
        assert "counts against the top class" in text
        assert f"Of {3 * (N0 + N)} stored answers, 3 have no label and 0 one outside the mapping" in text
        assert "Version that the service named: 1 (" in text
        assert "Void inputs: none" in text
        assert "The service was not declared random. Canaries: 2 known images" in text
        assert "no label, labels outside the classes, or answers about void inputs" in text
        assert "saw them unclipped" not in text
    [facts] = report.to_dict()["services"]
    assert facts["counts"]["no_label"] == 3
    assert facts["counts"]["versions"] == ["1"]
    assert (facts["adapter"], facts["png"], facts["is_random"]) == ("http-json", True, False)
    assert "clipped to [0, 1] and rounded to 8 bits, as they were before" in make_strips(read_run(run), 1).note
    assert "model digest" not in everywhere(report)[1].split("What is certified")[1].split("Service</h2>")[0]


def test_a_change_of_version_and_randomness_are_stated(toy: Service, tmp_path: Path) -> None:
    def change(number: int, images: Any) -> None:
        toy.version = "1" if number < 110 else "2"  # among the estimation votes of the last input

    toy.fault = change
    run = run_on(toy, tmp_path, canaries=2, is_random=True)
    facts = read_source(run).service
    assert facts is not None
    assert facts.counts is not None
    [void] = facts.counts.void
    assert facts.counts.versions == ("1", "2")
    text = stated(run)
    assert "Versions that the service named: 1, 2." in text
    assert f"Void inputs: 1 (input {void})." in text
    assert "The service was declared random by design. Canaries would mean nothing, and were off." in text


def test_labels_outside_and_no_version(toy: Service, tmp_path: Path) -> None:
    toy.version = None
    run = run_on(toy, tmp_path, canaries=0)
    with sqlite3.connect(run / "journal.sqlite") as connection:
        connection.execute("UPDATE answers SET label = 'dog' WHERE \"index\" = 1 AND sample = 3")
        connection.execute('UPDATE answers SET version = ? WHERE "index" = 2 AND sample = 4', (NOT_ASKED,))
        connection.execute("INSERT INTO answers VALUES (2, 'attack', -1, 'the canaries changed', ?)", (VOID,))
    connection.close()
    text = stated(run)
    assert f"Of {3 * (N0 + N) - 2} stored answers, 0 have no label and 2 one outside the mapping." in text
    assert "2 further votes were not asked for" in text
    assert "The service named no version." in text
    assert "Void inputs: 1 (input 2)." in text
    assert "The service was not declared random. Canaries: none." in text
    config = json.loads((run / "run.json").read_text())
    warnings = config["settings"]["service"].pop("warnings")
    assert all(f"The run warned: {warning}." in text for warning in warnings)
    (run / "run.json").write_text(json.dumps(config))
    text = stated(run)
    assert "Canaries: none. That one and the same service gave all answers without a version is taken on trust." in text


def test_what_is_not_recorded_is_not_claimed(toy: Service, tmp_path: Path) -> None:
    run = run_on(toy, tmp_path)
    config = json.loads((run / "run.json").read_text())
    del config["settings"]["service"]  # as earlier versions left it
    (run / "run.json").write_text(json.dumps(config))
    with sqlite3.connect(run / "journal.sqlite") as connection:
        connection.execute("DELETE FROM answers")
    connection.close()
    text = stated(run)
    assert "How many of these there were is not recorded here" in text
    assert "Which versions the service named is not recorded here" in text
    assert "Whether the service was declared random is not recorded. Whether canaries were used is not recorded" in text
    config["identity"]["service"]["denoiser"] = "ab12"
    (run / "run.json").write_text(json.dumps(config))
    assert "Noisy images are shown before the denoiser" in make_strips(read_run(run), 1).note
    assert "behind the denoiser ab12, clipping" in stated(run)
    del config["identity"]["service"]["adapter"]
    (run / "run.json").write_text(json.dumps(config))
    with pytest.raises(CertifyError, match="does not describe its service"):
        read_source(run)


def test_the_report_names_what_the_client_names() -> None:
    """Reports need none of the client's packages, so that a few names stand in them once more."""
    assert (service._VOID, service._CANARY_KEY) == (VOID, _CANARY_KEY)
    beside = (QUESTION_KEY, UNANSWERED_KEY, PREFLIGHT_KEY)
    assert (service._QUESTION_KEY, service._UNANSWERED_KEY, service._PREFLIGHT_KEY) == beside == merging._BESIDE
    assert merging._CLEAN == PREFLIGHT_KEY
    assert set(service._TENSORS) - {"callable"} <= set(ADAPTERS)


def test_a_key_in_the_address_is_not_in_these_sentences() -> None:
    assert (
        service._address("https://user:pass@api.example.com:8443/v1/KEY?key=SECRET") == "https://api.example.com:8443"
    )
    assert service._address(None) is None
    assert service._address("http://[bad") is None


def test_runs_on_this_machine_have_no_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.tsv"
    log.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.5\t1\t0.1\n")
    assert main(["report", str(log), "--no-html", "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["services"] == []
    assert "Service" not in (tmp_path / "out" / "table.md").read_text()
