"""Reports: tables, pages and failures of one run and of several sources."""

import base64
import csv
import gzip
import io
import json
import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from report_pages import COHEN, FILES, HOSTILE, N, Outcome, _Page, digits, make_run, read_page, some_outcomes

from certify.cli import main
from certify.datasets import load_dataset
from certify.errors import CertifyError, UsageError
from certify.metrics import CertifiedSet, certified_counts
from certify.models.transforms import CenterCrop, Geometry, Resize
from certify.report import (
    Report,
    certified_table,
    compare_paired,
    plot_certified_accuracy,
    read_source,
    read_sources,
    write_report,
)
from certify.report.page import LARGEST_BYTES, STRIPS, render_page
from certify.report.plots import outcome_bars, radius_histogram
from certify.report.strips import _NoisySamples, failures_first, make_strips
from certify.report.tables import latex_escape, markdown_escape
from certify.report.wording import over_text, table_caption
from certify.report.write import default_folder
from certify.rundir import read_run
from certify.summary import summary_table
from smoothing import Gaussian, SmoothedClassifier


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", some_outcomes())


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of one whole run, written once for the tests that only read it."""
    return write_report(make_run(tmp_path_factory.mktemp("reported") / "run", some_outcomes()))


def test_a_run_folder_and_its_export_give_the_same_set(run: Path, tmp_path: Path) -> None:
    source = read_source(run)
    copy = tmp_path / "copy.tsv"
    copy.write_bytes((run / "certificates.tsv").read_bytes())
    log = read_source(copy).certified
    for column in ("idx", "label", "predict", "radius", "correct", "seconds"):
        assert np.array_equal(getattr(source.certified, column), getattr(log, column)), column
    assert source.to_tsv() == copy.read_text()
    certified = source.certified
    assert (certified.kind, certified.planned, certified.complete) == ("run", 12, True)
    assert (certified.sigma, certified.norm, certified.alpha, certified.n0, certified.n) == (0.5, "l2", 0.001, 10, N)
    assert certified.law == "gaussian(sigma=0.5)"
    assert log.alpha is None


def test_report_of_one_run(reported: Report) -> None:
    report, run = reported, reported.sources[0].path
    assert {path.name for path in report.files} == FILES
    assert all(path.parent == run and path.stat().st_size > 0 for path in report.files)
    [row] = report.table.rows
    assert [share.count for share in row.accuracies] == certified_counts(row.certified, report.table.radii).tolist()
    assert row.accuracies[0].count == 9
    assert report.notices == []
    assert (run / "certified_accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "certified_accuracy.pdf").read_bytes().startswith(b"%PDF")
    markdown = (run / "table.md").read_text()
    assert "| run    |     12 | 75.0 |" in markdown
    assert "alpha = 0.001" in markdown
    assert "N alpha = 0.012" in markdown
    [line] = csv.DictReader(io.StringIO((run / "table.csv").read_text()))
    assert float(line["acr"]) == row.acr.value
    assert float(line["certified@0"]) == float(line["accuracy"]) == 9 / 12
    assert float(line["abstention"]) == 1 / 12
    assert (line["alpha"], line["complete"], line["notice"]) == ("0.001", "True", "")
    assert 0 < float(line["population_low@0"]) < float(line["certified@0"])


def test_page_of_one_run(reported: Report) -> None:
    run = reported.sources[0].path
    page, text = read_page(run / "report.html")
    certificate = read_run(run).rows[0].certificate
    assert certificate.guarantee in text
    assert certificate.covers in text
    assert "abababababababab" in text
    assert "identity.torch_version" in text
    assert re.search(r"configuration SHA-256 [0-9a-f]{64}", text)
    assert "N alpha = 0.012" in text
    assert (run / "certificates.tsv").read_text() in (run / "report.html").read_text()
    assert page.strips == ["strip wrong", "strip wrong", "strip abstained", *["strip right"] * 9]
    assert "7 (0.7 %)" in text, "invalid answers are shown"
    assert len(page.images) == 3 + 4 * 12
    assert "the first samples whose votes were counted" in text
    assert "Comparison" not in text


def test_failures_come_first(run: Path) -> None:
    rows = failures_first(read_run(run).rows)
    assert [row.index for row in rows[:3]] == [4, 1, 2]
    radii = [row.radius for row in rows[3:]]
    assert radii == sorted(radii)
    assert radii[0] > 0


def test_strips_show_the_samples_that_were_counted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strips = make_strips(read_run(run), 1)
    [strip] = strips.strips
    seen: list[torch.Tensor] = []

    def classifier(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return torch.zeros((len(x), 10))

    data = digits()
    # The selection votes fill one batch and the estimation votes the next, so that the second batch begins with them.
    smoothed = SmoothedClassifier(classifier, Gaussian((1, 8, 8), sigma=0.5), 10, batch_size=16)
    smoothed.certify(data.inputs([strip.index]), n0=16, n=16, seed=7, indices=[strip.index])
    for picture, expected in zip(strip.pictures, [data.inputs([strip.index])[0], *seen[-1][:3]], strict=True):
        pixels = Image.open(io.BytesIO(base64.b64decode(picture.uri.split(",")[1])))
        assert np.array_equal(np.asarray(pixels), (expected[0].clamp(0, 1) * 255).round().numpy().astype(np.uint8))
    assert strip.votes[0].role == "predicted"
    assert sum(bar.count for bar in strip.votes) == N
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert "not the samples of the run" in make_strips(read_run(run), 1).note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": {"data_digest": "0" * 64}}, "is not the one of the run"),
        ({"settings": {"data": "no/such/folder"}}, "no such file"),
        ({"settings": {"data": "mnist", "data_root": "no/such/root"}}, "No pictures of single inputs"),
    ],
)
def test_without_the_data_there_are_no_strips_but_a_reason(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    source = read_source(make_run(tmp_path / "run", some_outcomes(), **change))
    (tmp_path / "page.html").write_text(render_page([source], certified_table(source.certified), []))
    page, text = read_page(tmp_path / "page.html")
    assert page.strips == []
    assert message in text
    assert "r = 0" in text


def test_inputs_that_a_model_resized_are_not_shown_as_the_certified_ones(run: Path) -> None:
    read = read_run(run)
    other = replace(read, rows=tuple(replace(row, input_sha256="0" * 64) for row in read.rows))
    strips = make_strips(other, 3)
    assert strips.strips == ()
    assert "SHA-256 differs" in strips.note


def _image_run(tmp_path: Path, transform: Callable[[Any], Any], text: str) -> Path:
    """A run over images that its model resized before the noise."""
    random = np.random.default_rng(5)
    path = tmp_path / "images.npz"
    np.savez(path, images=random.integers(0, 256, (4, 12, 12, 3), dtype=np.uint8), labels=np.arange(4))
    data = load_dataset(str(path), transform=transform)
    outcomes: list[Outcome] = [(i, 0.1) for i in range(4)]
    return make_run(tmp_path / "run", outcomes, data=data, settings={"data": str(path)}, identity={"transform": text})


def test_strips_of_resized_inputs_are_drawn_without_the_model(tmp_path: Path) -> None:
    geometry = Geometry("RGB", (Resize((8, 8), "bilinear"), CenterCrop((6, 6))))
    run = _image_run(tmp_path, geometry, geometry.describe())
    strips = make_strips(read_run(run), 2)
    assert len(strips.strips) == 2
    assert "the first samples whose votes were counted" in strips.note
    shown = load_dataset(str(tmp_path / "images.npz"), transform=geometry)
    for strip in strips.strips:
        pixels = Image.open(io.BytesIO(base64.b64decode(strip.pictures[0].uri.split(",")[1])))
        expected = (shown.inputs([strip.index])[0] * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
        assert expected.shape == (6, 6, 3)
        assert np.array_equal(np.asarray(pixels), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine.crop 00ff", "SHA-256 differs"),
        (Geometry("RGB", (CenterCrop((6, 6)),)).describe(), "SHA-256 differs"),
        (Geometry("RGB", (CenterCrop((8, 6)),)).describe(), "No pictures of single inputs"),
    ],
)
def test_a_resizing_that_cannot_be_built_again_gives_a_notice(tmp_path: Path, text: str, message: str) -> None:
    run = _image_run(tmp_path, lambda image: image.crop((0, 0, 6, 6)), text)
    strips = make_strips(read_run(run), 2)
    assert strips.strips == ()
    assert message in strips.note


def test_noise_of_another_gpu_is_not_called_the_counted_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = read_run(run)
    for recorded, exact in (("This GPU", True), ("Another GPU", False), (None, False)):
        config = {**read.config, "identity": {**read.identity, "device_kind": "cuda", "device_name": recorded}}
        with monkeypatch.context() as patch:
            patch.setattr("certify.report.strips.torch.cuda.is_available", lambda: True)
            patch.setattr("certify.report.strips.torch.cuda.get_device_name", lambda device: "This GPU")
            patch.setattr("certify.report.strips.torch.Generator", lambda device: None)
            samples = _NoisySamples(replace(read, config=config))
        assert samples.exact is exact
        assert ("not the samples of the run" in samples.note) is not exact
    assert "drawn as torch-block-v1 on cuda by torch" in samples.note


PARTS = [
    ({"planned": 300}, "partial: 12 of 300 planned inputs"),
    ({"settings": {"shard": [1, 4]}}, "shard 1 of 4: a part of the run; merge first"),
]


@pytest.mark.parametrize(("change", "notice"), PARTS)
def test_a_part_is_marked_wherever_it_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], notice: str
) -> None:
    run = make_run(tmp_path / "run", some_outcomes(), **change)
    report = write_report(run)
    assert report.notices == [f"run: {notice}"]
    assert f"| run ({notice})" in (run / "table.md").read_text()
    assert f"run ({notice}) &" in (run / "table.tex").read_text()
    [line] = csv.DictReader(io.StringIO((run / "table.csv").read_text()))
    assert (line["complete"], line["notice"]) == ("False", notice)
    assert report.to_dict()["sources"][0]["complete"] is False
    _, text = read_page(run / "report.html")
    assert text.count(notice) >= 3
    assert "Not whole." in text
    assert main(["report", str(run), "--no-html"]) == 0
    printed = capsys.readouterr()
    assert notice in printed.out
    assert f"note: run: {notice}" in " ".join(printed.err.split())
    # The export alone would hide that it is a part: it is read with its folder.
    assert read_source(run / "certificates.tsv").certified.notice == notice


@pytest.mark.parametrize(("change", "notice"), PARTS)
def test_a_part_is_watermarked_in_plots(tmp_path: Path, change: dict[str, Any], notice: str) -> None:
    certified = read_source(make_run(tmp_path / "run", some_outcomes(), **change)).certified
    ax = plot_certified_accuracy(certified)
    assert [text.get_text() for text in ax.texts] == ["PARTIAL"]
    assert "PARTIAL" in ax.get_legend().get_texts()[0].get_text()
    assert "PARTIAL" in [text.get_text() for text in radius_histogram([certified]).axes[0].texts]
    assert "PARTIAL" in outcome_bars([certified]).axes[0].get_yticklabels()[0].get_text()
    whole = replace(certified, planned=len(certified), shard=None)
    assert list(plot_certified_accuracy(whole).texts) == []


def test_inputs_of_an_earlier_larger_command_still_belong_to_the_run(tmp_path: Path) -> None:
    certified = read_source(make_run(tmp_path / "run", some_outcomes(), planned=5)).certified
    assert len(certified) == certified.planned == 12
    assert certified.complete


def legend_text(certified: CertifiedSet) -> str:
    legend = plot_certified_accuracy(certified).get_legend()
    assert legend is not None
    return legend.get_texts()[0].get_text()


SELECTIONS: list[tuple[list[int], str, str]] = [
    (list(range(12)), "12 of the 364 test inputs (the first 12)", "12 of the 364 inputs"),
    (list(range(0, 364, 40)), "10 of the 364 test inputs (every 40th)", "10 of the 364 inputs"),
    (list(range(1, 364, 33)), "11 of the 364 test inputs (every 33rd)", "11 of the 364 inputs"),
    ([0, 40, 80], "3 of the 364 test inputs (the selection asked for)", "3 of the 364 inputs"),
    ([5], "1 of the 364 test inputs (the selection asked for)", "1 of the 364 inputs"),
]


@pytest.mark.parametrize(("indices", "over", "legend"), SELECTIONS)
def test_a_selection_is_never_called_all_inputs(tmp_path: Path, indices: list[int], over: str, legend: str) -> None:
    outcomes = [(int(digits().targets[i]), 0.1) for i in indices]
    report = write_report(make_run(tmp_path / "run", outcomes, certified=indices))
    certified = report.sources[0].certified
    assert certified.complete
    assert (certified.data_size, over_text(certified)) == (364, over)
    for name in ("table.md", "table.tex"):
        text = (tmp_path / "run" / name).read_text()
        assert over in text
        assert "all test inputs" not in text
        assert "all 364" not in text
    _, text = read_page(tmp_path / "run" / "report.html")
    assert text.count(over) >= 3
    assert "all test inputs" not in text
    assert legend in legend_text(certified)
    record = report.to_dict()["sources"][0]
    assert (record["data_size"], record["split"]) == (364, "test")
    assert record["selection"] in over


def test_a_whole_data_set_is_called_all_and_a_log_says_that_it_does_not_know(tmp_path: Path) -> None:
    outcomes = [(int(label), 0.1) for label in digits().targets]
    run = make_run(tmp_path / "run", outcomes)
    (tmp_path / "log.tsv").write_bytes((run / "certificates.tsv").read_bytes())
    whole, log = (source.certified for source in read_sources([run, tmp_path / "log.tsv"]))
    assert over_text(whole) == "all 364 test inputs"
    assert "all 364 inputs" in legend_text(whole)
    assert over_text(log) == "the 364 inputs in the log (not recorded: how many the data set has)"
    caption = table_caption([whole, log])
    assert "run: all 364 test inputs; log: the 364 inputs in the log" in caption
    old = replace(whole, data_size=None)
    assert over_text(old) == "the 364 inputs in the run (not recorded: how many the data set has)"
    assert over_text(replace(whole, split="train")) == "all 364 training inputs"


def test_a_part_of_a_selection_says_both(tmp_path: Path) -> None:
    part = read_source(make_run(tmp_path / "part", some_outcomes(), planned=150)).certified
    assert over_text(part) == "12 of the 364 test inputs (so far, of 150 planned: the first 150)"
    assert over_text(replace(part, planned=364, selection=None)) == "12 of the 364 test inputs (so far, of 364 planned)"
    shard = read_source(make_run(tmp_path / "shard", some_outcomes(), settings={"shard": [1, 4]})).certified
    assert over_text(shard) == "12 of the 364 test inputs (shard 1 of 4)"


@pytest.mark.parametrize(
    ("invalid", "sentence"),
    [
        ([0] * 12, None),
        (
            [0, 3, 0, 0, 1, *[0] * 7],
            "run: 4 invalid votes (non-finite scores or labels outside the classes), on 2 of 12",
        ),
        ([1, *[0] * 11], "run: 1 invalid vote (non-finite scores or labels outside the classes), on 1 of 12"),
        ([7] * 12, "run: 84 invalid votes (non-finite scores or labels outside the classes), on 12 of 12"),
    ],
)
def test_invalid_votes_are_reported_wherever_there_are_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], invalid: list[int], sentence: str | None
) -> None:
    from rich.console import Console

    from certify.report.terminal import print_report

    run = make_run(tmp_path / "run", some_outcomes(), invalid=invalid)
    report = write_report(run)
    target = io.StringIO()
    print_report(Console(file=target, width=100), report)
    assert main(["report", str(run), "--no-html"]) == 0
    texts = [
        (run / "table.md").read_text(),
        (run / "table.tex").read_text(),
        read_page(run / "report.html")[1],
        target.getvalue(),
        capsys.readouterr().out,
    ]
    for text in texts:
        flat = " ".join(text.split())
        assert ("invalid vote" in flat) is (sentence is not None)
        assert sentence is None or sentence in flat
    record = report.to_dict()["sources"][0]
    assert (record["invalid_votes"], record["invalid_inputs"]) == (sum(invalid), sum(count > 0 for count in invalid))
    [line] = csv.DictReader(io.StringIO((run / "table.csv").read_text()))
    assert line["invalid_votes"] == str(sum(invalid))


NONE = {"undecided": 0.0, "refuted": 0.0}


def test_the_summary_of_a_run_rounds_like_the_report() -> None:
    result = {
        "inputs": 10_000,
        "certified_accuracy": {"0": 0.9996, "0.5": 1.0},
        "acr": 0.5,
        "abstained": 0.99999,
        **NONE,
    }
    cells = [next(iter(column.cells)) for column in summary_table(result, "t").columns]
    assert cells == ["10,000", "99.9%", "100.0%", "0.5000", "100.0%"]
    result = {"inputs": 3, "certified_accuracy": {"0": 2 / 3}, "acr": 0.5, "abstained": 0.0, **NONE}
    cells = [next(iter(column.cells)) for column in summary_table(result, "t").columns]
    assert cells == ["3", "66.7%", "0.5000", "0.0%"]


def test_shards_that_were_not_merged_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run" / "shards" / "0-of-2", some_outcomes(), settings={"shard": [0, 2]})
    with pytest.raises(CertifyError, match=r"certify merge .*run` first"):
        write_report(tmp_path / "run")
    assert read_source(tmp_path / "run" / "shards" / "0-of-2").certified.shard == (0, 2)


def test_damaged_and_unfinished_runs_are_refused(run: Path, tmp_path: Path) -> None:
    empty = make_run(tmp_path / "empty", [], planned=5)
    with pytest.raises(CertifyError, match="no input of this run is finished yet"):
        read_source(empty)
    config = json.loads((run / "run.json").read_text())
    for part, key in (("identity", "law"), ("identity", "estimator"), ("settings", "indices"), ("settings", "data")):
        broken = {**config, part: {k: v for k, v in config[part].items() if k != key}}
        (run / "run.json").write_text(json.dumps(broken))
        with pytest.raises(CertifyError, match=rf"run\.json is damaged: .*{key}"):
            read_source(run)
    for part, key, value, message in (
        ("identity", "device_name", 7, "identity.device_name must be text or null, got 7"),
        ("identity", "transform", ["x"], "identity.transform must be text or null"),
        ("settings", "data_size", "many", "run.json is damaged: ValueError"),
        ("settings", "data_size", 11, "says that the data set has 11 inputs, but there is input 11"),
        ("settings", "shard", [1], "run.json is damaged: IndexError"),
        ("settings", "indices", ["x"], "run.json is damaged: ValueError"),
    ):
        (run / "run.json").write_text(json.dumps({**config, part: {**config[part], key: value}}))
        with pytest.raises(CertifyError, match=re.escape(message)):
            read_source(run)
    old = {k: v for k, v in config["identity"].items() if k not in ("device_name", "transform")}
    (run / "run.json").write_text(json.dumps({**config, "identity": old}))
    assert len(read_source(run).certified) == 12
    config["identity"]["estimator"]["alpha"] = 0.5
    (run / "run.json").write_text(json.dumps(config))
    with pytest.raises(CertifyError, match=r"input 0 has another alpha, norm or law.*certify audit"):
        read_source(run)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE inputs SET payload = '[]' WHERE \"index\" = 3", "input 3"),
        ("UPDATE inputs SET payload = '{' WHERE \"index\" = 3", "input 3"),
        ("UPDATE inputs SET payload = json_set(payload, '$.certificate', json('[1]')) WHERE \"index\" = 3", "input 3"),
        ("UPDATE inputs SET payload = json_set(payload, '$.certificate.radius', 'inf') WHERE \"index\" = 3", "finite"),
        ("UPDATE inputs SET payload = json_set(payload, '$.certificate.norm', 'l7') WHERE \"index\" = 3", "l7"),
        (
            "UPDATE inputs SET payload = json_set(payload, '$.label', json('1e999')) WHERE \"index\" = 3",
            "OverflowError",
        ),
        ("UPDATE inputs SET payload = json_remove(payload, '$.seconds') WHERE \"index\" = 3", "seconds"),
        ("UPDATE looks SET counts = '[1]' WHERE \"index\" = 3", "input 3"),
        ("UPDATE looks SET phase = 'dream' WHERE \"index\" = 3", "dream"),
        ("DROP TABLE looks", "looks"),
    ],
)
def test_damage_in_the_journal_is_not_blamed_on_run_json(run: Path, sql: str, message: str) -> None:
    with sqlite3.connect(run / "journal.sqlite") as connection:
        connection.execute(sql)
    connection.close()
    with pytest.raises(CertifyError, match=message) as caught:
        read_source(run)
    assert "journal.sqlite" in str(caught.value)
    assert str(run) in str(caught.value)
    assert "run.json" not in str(caught.value)
    assert not isinstance(caught.value, UsageError), "a damaged file is exit code 1"


@pytest.mark.shared
def test_published_logs_side_by_side(shared_dir: Path, tmp_path: Path) -> None:
    paths = [shared_dir / COHEN / f"noise_{s}_sigma_{s}.tsv" for s in ("0.25", "0.50")]
    report = write_report(paths, tmp_path, radii=[0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75], envelope=True)
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[3:-1]]
        for line in (tmp_path / "table.md").read_text().splitlines()
        if re.match(r"\| noise_\S+ +\| +500 ", line)
    }
    assert lines["noise_0.25_sigma_0.25"][:4] == ["74.8", "60.0", "42.8", "26.6"]
    assert lines["noise_0.25_sigma_0.25"][8] == "0.4289"
    assert lines["noise_0.50_sigma_0.50"][:9] == [
        "65.2",
        "54.6",
        "41.4",
        "32.0",
        "23.4",
        "15.2",
        "9.4",
        "5.2",
        "0.5375",
    ]
    [comparison] = report.comparisons
    assert comparison.common == 500
    _, text = read_page(tmp_path / "report.html")
    assert "alpha is not recorded" in text
    assert "Comparison on the same inputs" in text
    assert "not the certified accuracy of any one classifier" in text
    assert "Single inputs" not in text


def test_names_from_outside_are_only_text(tmp_path: Path) -> None:
    settings = {
        "model": HOSTILE,
        "class_names": [HOSTILE] * 10,
        "command": [HOSTILE],
        "model_description": HOSTILE,
    }
    run = make_run(tmp_path / "run", some_outcomes(), settings=settings)
    report = write_report(run, tmp_path / "out", names=[HOSTILE])
    _, text = read_page(tmp_path / "out" / "report.html")
    assert "<script>" not in (tmp_path / "out" / "report.html").read_text()
    assert HOSTILE in text
    latex = (tmp_path / "out" / "table.tex").read_text()
    assert "\\input" not in latex
    assert latex_escape(HOSTILE) in latex
    assert latex.count("&") - latex.count("\\&") == sum(
        (len(report.table.header()) - 1) * 2 - (i == 1) * 2 for i in range(2)
    )
    markdown = (tmp_path / "out" / "table.md").read_text()
    assert "<script>" not in markdown
    assert markdown_escape(HOSTILE) in markdown
    for line in markdown.splitlines():
        if line.startswith("|"):
            cells = len(re.findall(r"(?<!\\)\|", line)) - 1
            assert cells in (len(report.table.header()), len(report.table.header()) - 1)
    assert (tmp_path / "out" / "certified_accuracy.png").stat().st_size > 5000


def test_latex_escapes_every_special_character() -> None:
    assert latex_escape("\\{}$&#_%~^") == (
        "\\textbackslash{}\\{\\}\\$\\&\\#\\_\\%\\textasciitilde{}\\textasciicircum{}"
    )


def test_alternative_texts_of_figures_are_their_numbers(reported: Report) -> None:
    page, _ = read_page(reported.sources[0].path / "report.html")
    assert "run: 75.0 % at r = 0, " in page.images[0]["alt"]
    assert "9 right, 2 wrong, 1 abstained of 12" in page.images[1]["alt"]


def test_strips_are_shared_out_among_runs(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"run{k}", some_outcomes(20)) for k in range(2)]
    write_report(runs, tmp_path / "out")
    page, text = read_page(tmp_path / "out" / "report.html")
    assert len(page.strips) == STRIPS
    assert "Comparison on the same inputs" in text


def test_certificates_are_embedded_as_long_as_the_page_stays_small(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    lines = [f"{i}\t1\t1\t{r!r}\t1\t{t:.6f}" for i, (r, t) in enumerate(rng.random((200, 2)).tolist())]
    text = "\n".join(["idx\tlabel\tpredict\tradius\tcorrect\ttime", *lines, ""])
    (tmp_path / "log.tsv").write_text(text)
    sources = read_sources([tmp_path / "log.tsv", run])
    table = certified_table([source.certified for source in sources])

    def pages() -> tuple[_Page, str, str]:
        page = render_page(sources, table, [])
        (tmp_path / "page.html").write_text(page)
        return (*read_page(tmp_path / "page.html"), page)

    page, shown, whole = pages()
    assert text in whole
    monkeypatch.setattr("certify.report.page._LARGEST_PLAIN_DATA", 1000)
    page, shown, packed = pages()
    links = [link for link in page.links if link.startswith("data:application/gzip")]
    assert gzip.decompress(base64.b64decode(links[0].split(",")[1])).decode() == text
    assert len(page.strips) == STRIPS
    monkeypatch.setattr("certify.report.page.LARGEST_BYTES", len(packed))
    page, shown, bare = pages()
    assert "too many certificates for one page" in shown
    assert len(page.strips) == STRIPS
    monkeypatch.setattr("certify.report.page.LARGEST_BYTES", len(bare))
    page, shown, fewer = pages()
    assert len(page.strips) == STRIPS // 2
    assert "left out to keep this file under 1 MB" in shown
    assert len(fewer) < len(bare) < len(packed) < len(whole) < LARGEST_BYTES


def test_command_prints_json_and_says_where_files_are(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_run(tmp_path / "other", some_outcomes(), sigma=0.25)
    out = tmp_path / "out"
    arguments = [str(run), str(other), "--out", str(out), "--radii", "0.5,0", "--name", "A", "--name", "B"]
    assert main(["report", *arguments, "--json", "--compare", "--envelope"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["radii"] == [0.0, 0.5]
    assert [source["name"] for source in data["sources"]] == ["A", "B"]
    assert data["sources"][0]["alpha_over_all_inputs"] == pytest.approx(0.012)
    assert data["sources"][0]["certified_accuracy"][0]["count"] == 9
    assert data["comparisons"][0]["common"] == 12
    assert {Path(path).name for path in data["files"]} == FILES
    assert {path.name for path in out.iterdir()} == FILES
    assert main(["report", *arguments, "--no-html"]) == 0
    printed = capsys.readouterr().out
    assert "| A      |     12 | 75.0 |" in printed
    for path in set(data["files"]) - {str(out / "report.html")}:
        assert path in printed
    assert main(["report", *arguments, "--no-html", "--format", "csv"]) == 0
    printed = capsys.readouterr()
    assert list(csv.DictReader(io.StringIO(printed.out)))[1]["name"] == "B"
    assert str(out / "table.md") in printed.err


def test_default_folder(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.tsv").write_bytes((run / "certificates.tsv").read_bytes())
    assert default_folder(read_sources([run])) == run
    assert default_folder(read_sources([run, "log.tsv"])) == Path("certify-report")
    written = write_report("log.tsv", html=False).files
    assert {path.name for path in written} == FILES - {"report.html"}
    assert {path.parent for path in written} == {Path("certify-report")}
    assert {path.name for path in (tmp_path / "certify-report").iterdir()} == FILES - {"report.html"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing"], 1, "no run folder and no log at nothing"),
        (["run", "--radii", "0,x"], 2, "radii must be numbers"),
        (["run", "--compare"], 2, "a comparison needs two sources or more"),
        (["run", "--envelope"], 2, "over several runs, got one"),
        (["run", "--name", "a", "--name", "b"], 2, "one name per source"),
        (["run", "--format", "html"], 2, "markdown"),
        (["bad.tsv"], 1, "bad.tsv, line 2, column radius"),
        (["run", "other.tsv", "--compare"], 1, "no input in common"),
        (["."], 1, "is not a run folder"),
    ],
)
def test_wrong_usage_and_failures_have_their_exit_codes(
    tmp_path: Path,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    header = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
    (tmp_path / "bad.tsv").write_text(f"{header}0\t1\t1\tmuch\t1\t2\n")
    (tmp_path / "other.tsv").write_text(f"{header}5000\t1\t1\t0.5\t1\t2\n")
    assert main(["report", *arguments]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "certify-report").exists(), "nothing is written unless everything could be computed"
    assert not (run / "table.md").exists()


def test_two_sources_over_different_data_are_reported_without_a_comparison(run: Path, tmp_path: Path) -> None:
    (tmp_path / "log.tsv").write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n5000\t1\t1\t0.5\t1\t2\n")
    report = write_report([run, tmp_path / "log.tsv"], tmp_path / "out", html=False)
    assert report.comparisons == ()
    assert "Comparison" not in (tmp_path / "out" / "table.md").read_text()


def test_comparison_of_a_part_says_so(run: Path, tmp_path: Path) -> None:
    part = make_run(tmp_path / "part", some_outcomes()[:7], planned=12)
    sets = [source.certified for source in read_sources([run, part])]
    result = compare_paired(*sets, [0.0])
    text = " ".join(result.sentences())
    assert "partial: 7 of 12 planned inputs" in text
    assert "left out: 5 inputs of the first alone, 0 of the second alone" in text


def test_table_fits_a_terminal(run: Path, tmp_path: Path) -> None:
    from rich.console import Console

    from certify.report.terminal import print_report

    other = make_run(tmp_path / "other [red]", some_outcomes(), sigma=0.25, planned=99)
    sources = read_sources([run, other])
    table = certified_table([source.certified for source in sources], [k / 20 for k in range(20)])
    comparison = compare_paired(*table.sets, [0.0])
    report = Report(tuple(sources), table, (comparison,), (), envelope=True)
    target = io.StringIO()
    print_report(Console(file=target, width=100), report)
    text = target.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    assert "other [red]" in text
    assert "partial: 12 of 99" in " ".join(text.split())
    assert {f"r={k / 20:g}" for k in range(20)} <= set(text.split())
