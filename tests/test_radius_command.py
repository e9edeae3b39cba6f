"""`certify radius`, its picture, and the parameters of laws on every command line."""

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from certify.calculator import calculate
from certify.cli import main, options, plan, predict, radius, run, train
from certify.errors import UsageError
from certify.laws import LawChoice, best_norm, build_laws, law_text, parse_laws
from certify.radius_plot import draw_radius_curves, radius_curves
from smoothing import Gaussian, InvalidArgumentError, Laplace, Norm, Uniform
from smoothing.distributions.table import LAWS, make_law, try_law
from smoothing.radius.impossibility import radius_upper_bound

COMMANDS: dict[str, Callable[..., None]] = {
    "radius": radius.radius,
    "run": run.run,
    "plan": plan.plan,
    "predict": predict.predict,
    "train": train.train,
}


@dataclass(frozen=True)
class Shaped(Laplace):
    """A law with a shape parameter that has to be given and one that has not."""

    k: float | None = None
    j: float = 0.5

    name: ClassVar[str] = "shaped"

    @property
    def parameters(self) -> dict[str, float]:
        assert self.k is not None
        return {**super().parameters, "k": float(self.k), "j": float(self.j)}


@pytest.fixture
def shaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAWS, "shaped", Shaped)


# --- Laws and their parameters ----------------------------------------------------------------------------------------


def test_help_pages_list_the_laws_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    takes = {name: set(law.parameter_names()) - {"sigma"} for name, law in LAWS.items()}
    assert {name: set(names) for name, names in options.LAW_PARAMETERS.items()} == takes
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        page = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert options.law_names() in page
        assert "Scale of laplace" in page


@pytest.mark.parametrize("command", COMMANDS)
def test_every_parameter_of_every_law_is_an_option_of_every_command(command: str) -> None:
    offered = set(inspect.signature(COMMANDS[command]).parameters)
    assert {name for law in LAWS.values() for name in law.parameter_names()} <= offered


@pytest.mark.parametrize("parameter", ["scale", "half-width", "ball-radius", "k", "j", "a", "p"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_hands_every_parameter_to_the_law(
    command: str, parameter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which then refuses those that are not its own, and says what it takes."""
    monkeypatch.chdir(tmp_path)
    needed = {
        "radius": ["--p-lower", "0.9"],
        "run": ["math:sqrt", "--data", "digits", "--out", "x"],
        "plan": ["math:sqrt", "--data", "digits"],
        "predict": ["math:sqrt", "--data", "digits", "--num-classes", "10"],
        "train": ["--data", "digits", "--out", "x"],
    }[command]
    arguments = [command, *needed, "--noise", "gaussian", "--sigma", "1", f"--{parameter}", "2"]
    assert main(arguments) == 2
    assert f"gaussian noise takes sigma, got {parameter.replace('-', '_')}=2.0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_law_parameters_keeps_what_was_given() -> None:
    assert options.law_parameters(sigma=None, k=0.0, a=2.0) == (("k", 0.0), ("a", 2.0))


@pytest.mark.usefixtures("shaped")
def test_missing_and_unknown_parameters_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"takes sigma or scale, k, j \(default 0.5\), got no k$"):
        make_law("shaped", (3,), sigma=1.0)
    with pytest.raises(InvalidArgumentError, match=r"takes sigma or scale, k, j \(default 0.5\), got a=2.0$"):
        make_law("shaped", (3,), sigma=1.0, k=1.0, a=2.0)
    with pytest.raises(InvalidArgumentError, match="got no k"):
        try_law("shaped", sigma=1.0)
    assert try_law("shaped", sigma=1.0, k=5.0) is None  # whether 5 is allowed may depend on the dimension
    assert try_law("laplace", sigma=1.0) == Laplace((1,), sigma=1.0)
    assert main(["radius", "--noise", "shaped", "--sigma", "1", "--norm", "l1", "--p-lower", "0.9"]) == 2
    assert "got no k" in capsys.readouterr().err
    assert main(["radius", "--noise", "shaped", "--k", "2", "--sigma", "1", "--norm", "l1", "--p-lower", "0.9"]) == 0
    assert "law     shaped, sigma 1, k 2, j 0.5, d = 1" in capsys.readouterr().out


def test_laws_are_read_from_text() -> None:
    assert parse_laws(["gaussian, laplace", "uniform:half_width=2"]) == (
        LawChoice("gaussian"),
        LawChoice("laplace"),
        LawChoice("uniform", (("half_width", 2.0),)),
    )
    assert parse_laws(["uniform:half_width=2"])[0].text == "uniform:half_width=2"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([""], "at least one law, got none"),
        (["gumbel"], "noise must be one of .*got noise='gumbel'"),
        (["laplace:scale"], "NAME:KEY=NUMBER, for instance laplace:k=2, got 'laplace:scale'"),
        (["laplace:scale=two"], "NAME:KEY=NUMBER"),
        (["laplace:scale=1:scale=2"], "got scale twice"),
    ],
)
def test_bad_laws_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        parse_laws(texts)


@pytest.mark.usefixtures("shaped")
def test_several_laws_take_their_part_of_the_options() -> None:
    choices = parse_laws(["gaussian,shaped:k=3,shaped"])
    laws = build_laws(choices, (4,), {"sigma": 0.5, "k": 1.0})
    assert [law.parameters.get("k") for law in laws] == [None, 3.0, 1.0]
    with pytest.raises(
        UsageError, match=r"none of gaussian, shaped, shaped takes a, got a=2\.0: they take j, k, scale"
    ):
        build_laws(choices, (4,), {"sigma": 0.5, "a": 2.0})
    with pytest.raises(UsageError, match="got k beside the law and as an option"):
        build_laws(choices[1:2], (4,), {"sigma": 0.5, "k": 1.0})
    with pytest.raises(InvalidArgumentError, match=r"got half_width=1\.0"):
        build_laws(parse_laws(["laplace"]), (4,), {"sigma": 0.5, "half_width": 1.0})


def test_text_of_a_law() -> None:
    assert law_text(Gaussian((2,), sigma=0.25)) == "gaussian, sigma 0.25"
    assert law_text(Shaped((2,), scale=1.0, k=2.0)) == "shaped, sigma 1.41421, k 2, j 0.5"
    unbounded = Laplace((2,), scale=3.0)
    object.__setattr__(unbounded, "sigma", None)  # as a law without a variance has it
    assert law_text(unbounded) == "laplace, scale 3"
    assert calculate(law=unbounded, norm="l1", p_lower=0.9)["upper_limit"] is None


def test_best_norm() -> None:
    assert best_norm(Gaussian((3072,), sigma=1.0)) is Norm.L2
    assert best_norm(Laplace((3072,), sigma=1.0)) is Norm.L1
    assert best_norm(Uniform((3072,), sigma=1.0)) is Norm.L1


# --- The limit of every noise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "limit"),
    [
        (["--p-lower", "0.9"], math.sqrt(5)),
        (["--q-upper", "1e-20"], 1e10 / math.sqrt(2)),
        (["--q-upper", "0"], math.inf),
        (["--p-lower", "0.6", "--norm", "linf", "--shape", "3x32x32"], math.sqrt(1.5 / 0.4) * 0.2 / math.sqrt(3072)),
        (["--p-lower", "0.45", "--p-upper", "0.05"], math.sqrt(5)),
        (["--p-lower", "0.4"], 0.0),
        (["--p-lower", "0.9", "--convert-from", "l2", "--norm", "linf", "--shape", "4"], math.sqrt(5) / 2),
    ],
)
def test_the_limit_stands_beside_the_radius(
    arguments: list[str], limit: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["radius", "--noise", "gaussian", "--sigma", "1", *arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert float(result["upper_limit"]) == pytest.approx(limit, rel=1e-9)
    assert float(result["radius"]) <= float(result["upper_limit"])
    assert main(["radius", "--noise", "gaussian", "--sigma", "1", *arguments]) == 0
    (line,) = [text for text in capsys.readouterr().out.splitlines() if text.startswith("limit")]
    assert limit <= float(line.split()[1]) <= limit * (1 + 1e-5)
    assert "no additive noise of this sigma" in line


# --- The picture ------------------------------------------------------------------------------------------------------

LINE = ["radius", "--noise", "gaussian,laplace", "--noise", "uniform", "--sigma", "0.5", "--norm", "l1", "--shape", "9"]


def test_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, start in (("a.png", b"\x89PNG"), ("b.pdf", b"%PDF"), ("deep/c.svg", b"<?xml")):
        assert main([*LINE, "--plot", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes().startswith(start)
        assert "for gaussian, laplace, uniform" in " ".join(capsys.readouterr().out.split())
    assert main([*LINE, "--plot", str(tmp_path / "a.png"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [curve["law"] for curve in result["curves"]] == ["gaussian", "laplace", "uniform"]
    assert result["sigma"] == 0.5
    assert result["p"][0] == 0.5
    limit = np.array(result["upper_limit"])
    for curve in result["curves"]:
        radii = np.array(curve["radius"])
        assert radii[0] == 0.0
        assert (np.diff(radii) > 0).all()
        assert (radii <= limit).all()
        at = result["p"][20]
        law = make_law(curve["law"], (9,), **curve["parameters"])
        assert radii[20] == law.radius(at, "l1")
        assert limit[20] == radius_upper_bound(at, "l1", sigma=0.5, dimension=9)


def test_the_picture_holds_a_line_for_each_law_and_the_limit() -> None:
    laws = (Gaussian((9,), sigma=0.5), Uniform((9,), sigma=0.5), Shaped((9,), sigma=0.5, k=2.0))
    (ax,) = draw_radius_curves(radius_curves(laws, "l1", points=9)).axes
    labels = [line.get_label() for line in ax.lines]
    assert labels == ["gaussian", "uniform", "shaped (k=2, j=0.5)", "limit of every additive noise"]
    limit = np.asarray(ax.lines[-1].get_ydata())
    assert (limit >= radius_upper_bound(np.asarray(ax.lines[-1].get_xdata()), "l1", sigma=0.5, dimension=9)).all()
    assert "sigma = 0.5, d = 9" in ax.get_title("left")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*LINE, "--plot", "x.gif"], "plot must end in .png, .pdf, .svg, got plot=x.gif"),
        ([*LINE, "--plot", "x.png", "--p-lower", "0.9"], "leave out --p-lower"),
        ([*LINE, "--plot", "x.png", "--convert-from", "l1"], "leave out --convert-from"),
        ([*LINE, "--p-lower", "0.9"], "one radius is that of one law, got gaussian, laplace, uniform"),
        ([*LINE, "--plot", "x.png", "--norm", "l0"], "proved norms"),
        ([*LINE, "--plot", "x.png", "--norm", "l8"], "norm must be one of"),
        ([*LINE, "--plot", "x.png", "--noise", "gaussian:sigma=2"], "must have the same sigma and shape"),
        ([*LINE, "--plot", "x.png", "--scale", "2"], "exactly one of sigma and scale"),
        (["radius", "--sigma", "1"], "Missing option '--noise'"),
    ],
)
def test_bad_lines(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.replace("│", " ").split())
    assert not captured.out
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LINE, "--plot", "/proc/none/x.png"]) == 1
    assert "cannot create the folder" in capsys.readouterr().err


def test_curves_of_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one law"):
        radius_curves([], "l1")
