"""What the scripts say to wrong arguments: one line and exit code 2, or 1 where the world is not as it has to be."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
Load = Callable[[str], ModuleType]

TOY = """
import torch

def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
"""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Import a script as it is when run from its folder, beside the modules that scripts share."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    before, threads = set(sys.modules), torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if (SCRIPTS / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with twelve images of three classes and a linear model that says nothing about noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(12) % 3)
    (tmp_path / "toyscript.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMPARE = ("--data", "d.npz", "--out", "out")
WHOLE = "an integer of at least {} is expected, got {}"


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("compare_estimators", ("toyscript:make", *COMPARE, "--n", "0"), f"--n: {WHOLE.format(1, 0)}"),
        ("compare_estimators", ("toyscript:make", *COMPARE, "--inputs", "0"), f"--inputs: {WHOLE.format(1, 0)}"),
        ("compare_estimators", ("toyscript:make", *COMPARE, "--parts", "0"), f"--parts: {WHOLE.format(1, 0)}"),
        ("compare_estimators", ("toyscript:make", *COMPARE, "--more", "-1"), f"--more: {WHOLE.format(0, -1)}"),
        ("compare_estimators", ("toyscript:make", *COMPARE, "--figure", "x"), "ends in .png, .pdf, .svg is expected"),
        ("attack_floating_point", ("--votes", "0"), f"--votes: {WHOLE.format(100, 0)}"),
        ("attack_floating_point", ("--votes", "-3"), f"--votes: {WHOLE.format(100, -3)}"),
        ("attack_floating_point", ("--votes", "5"), f"--votes: {WHOLE.format(100, 5)}"),
        ("attack_floating_point", ("--pairs", "0"), f"--pairs: {WHOLE.format(2**20, 0)}"),
        ("attack_floating_point", ("--out", "x.bmp"), "ends in .png, .pdf, .svg is expected"),
        ("compare_services", ("--environments", "e", "--inputs", "0"), f"--inputs: {WHOLE.format(1, 0)}"),
        ("compare_services", ("--environments", "e", "--servers", "x"), "--servers are of litserve, mlserver, got x"),
        ("compare_l1", ("--n", "0"), f"--n: {WHOLE.format(1, 0)}"),
        ("compare_l1", ("--sigmas", "-1"), "--sigmas: a number in (0, 1e+150) is expected, got -1"),
        ("compare_guarantees", ("--network", "a=b", "--stride", "0"), f"--stride: {WHOLE.format(1, 0)}"),
        ("reproduce_denoising", ("--epochs", "0"), f"--epochs: {WHOLE.format(1, 0)}"),
        ("reproduce_training", ("--n", "0"), f"--n: {WHOLE.format(1, 0)}"),
        ("draw_wulff", ("--dimension", "0"), f"--dimension: {WHOLE.format(1, 0)}"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_measured(
    load: Load, toy: Path, script: str, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = load(script).main
    with pytest.raises(SystemExit) as leave:
        main(arguments)
    assert leave.value.code == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert message in captured.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("toyscript:make", *COMPARE), 2, "does not say which noise it was trained with: give --sigma, the standard"),
        (("toyscript:nosuch", *COMPARE, "--sigma", "0.25"), 2, "toyscript has no 'nosuch'"),
        (("toyscript:make", *COMPARE, "--sigma", "-1"), 2, "sigma"),
        (
            ("toyscript:make", *COMPARE, "--sigma", "0.25", "--n", "1"),
            2,
            "n=1 votes at alpha=0.001 can certify nothing",
        ),
        (("toyscript:make", "--data", "nosuch.npz", "--out", "out", "--sigma", "0.25"), 1, "nosuch.npz: no such file"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    load: Load, toy: Path, arguments: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load("compare_estimators").main(arguments) == code
    captured = capsys.readouterr()
    assert not captured.out
    [line] = captured.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert "--noise " not in line


def test_more_parts_than_images_are_as_many_as_images(
    load: Load, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("toyscript:make", *COMPARE, "--sigma", "0.25", "--n", "100", "--inputs", "2", "--parts", "9")
    assert load("compare_estimators").main((*arguments, "--more", "0", "--figure", "out/x.png")) == 0
    assert "On the same 2 images" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_a_failure(
    load: Load, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy / "file").write_text("")
    assert load("draw_wulff").main(("--out", "file/x.png")) == 1
    assert capsys.readouterr().err.startswith("error: ")
