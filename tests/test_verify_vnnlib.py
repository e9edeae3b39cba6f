"""VNN-LIB: the structure of benchmark files, malformed files with line and reason, and the sample instances."""

import gzip
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.alpha_crown import AlphaCrown
from verify.attack import Attack
from verify.checker import check
from verify.crown import Crown
from verify.errors import FileFormatError
from verify.onnx_import import load_onnx, onnx_original
from verify.problem import Problem
from verify.result import Status
from verify.vnnlib import parse_vnnlib, read_vnnlib

HEAD = """
; a comment
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(declare-const Y_2 Real)
(assert (>= X_0 -1)) (assert (<= X_0 1.5e0))
(assert (and (<= 0.25 X_1) (<= X_1 0.75)))
"""


def test_conjunction() -> None:
    (one,) = parse_vnnlib(HEAD + "(assert (>= Y_0 Y_1)) (assert (<= (+ (* 2 Y_2) 1) Y_0))")
    assert one.lower.tolist() == [-1, 0.25]
    assert one.upper.tolist() == [1.5, 0.75]
    assert one.specification.groups == ((0, 1),)
    # Y_1 - Y_0 <= 0 and 2 Y_2 + 1 - Y_0 <= 0; the rows are what must be positive to refute them.
    assert one.specification.matrix[0].tolist() == [[-1, 1, 0], [-1, 0, 2]]
    assert one.specification.offset[0].tolist() == [0, 1]


def test_disjunction_over_outputs() -> None:
    (one,) = parse_vnnlib(HEAD + "(assert (or (and (>= Y_1 Y_0)) (and (>= Y_2 Y_0) (<= Y_2 3))))")
    assert one.specification.groups == ((0,), (1, 2))
    assert one.specification.violated(np.array([[1.0, -1.0, 0.0]])).all()
    assert not one.specification.violated(np.array([[1.0, -1.0, 0.1]])).any()


def test_disjunction_over_inputs_gives_several_boxes() -> None:
    text = (
        HEAD
        + """(assert (or (and (<= X_0 0) (>= Y_0 1)) (and (>= X_0 0.5) (>= Y_0 1)) (and (<= X_0 0) (>= Y_1 9))
                               (and (>= X_0 7) (>= Y_0 1))))"""
    )
    boxes = parse_vnnlib(text)
    assert [(p.lower[0], p.upper[0]) for p in boxes] == [(-1, 0), (0.5, 1.5)]
    assert [p.specification.groups for p in boxes] == [((0,), (1,)), ((0,),)]


def test_contradictions_and_trivialities() -> None:
    assert parse_vnnlib(HEAD + "(assert (>= X_0 2)) (assert (<= Y_0 0))") == []
    (always,) = parse_vnnlib(HEAD)  # every point of the box is unsafe
    assert always.specification.violated(always.specification.values(np.zeros((1, 3)))).all()
    assert not always.specification.proved(always.specification.values(np.zeros((1, 3)))).any()


def test_chains_products_and_quotations() -> None:
    """Legal SMT-LIB that exporters write: (<= a b c), (* a b c), |quoted| names, strings with ; and over several lines."""
    text = """\ufeff; with a byte order mark
(set-info :source |over ; several (
lines|) (set-info :note "a; b (""c"")")
(declare-const |X_0| Real) (declare-fun Y_0 () Real) ; and " a comment |
(assert (<= -1 X_0 1.5)) (assert (or (< 0 Y_0 1) (>= Y_0 (* 2 |Y_0| 0.25) (/ 8 2 2))))
"""
    (one,) = parse_vnnlib(text.removeprefix("\ufeff"))
    assert (one.lower.tolist(), one.upper.tolist()) == ([-1], [1.5])
    assert one.specification.groups == ((0, 1), (2, 3))
    assert one.specification.matrix[0].tolist() == [[-1], [1], [-0.5], [-0.5]]
    assert one.specification.offset[0].tolist() == [0, -1, 0, 2]
    assert one.specification.strict == (0, 1)


def test_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "p.vnnlib"
    path.write_bytes(b"\xef\xbb\xbf" + (HEAD + "(assert (<= Y_0 0))").encode())
    assert len(read_vnnlib(path)) == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_in_every_usual_way(tmp_path: Path, end: str) -> None:
    """A comment that swallowed the rest of the file would leave out assertions, or all of them."""
    text = HEAD + "(assert (<= Y_0 0)) ; safe\n(assert (<= Y_1 0))\n"
    path = tmp_path / "p.vnnlib"
    path.write_bytes(text.replace("\n", end).encode())
    (unsafe,) = read_vnnlib(path)
    assert unsafe.specification.matrix.shape == (1, 2, 3)
    path.write_bytes((text + ")").replace("\n", end).encode())
    with pytest.raises(FileFormatError, match=r"line 12: a parenthesis"):
        read_vnnlib(path)


def test_bounds_that_are_no_doubles_are_rounded_outwards() -> None:
    """3 x <= 1 and 7 x >= -1: the box is closed outside, where no point is a counterexample."""
    text = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= (* 3 X_0) 1))(assert (<= (* -7 X_0) 1))"
    (one,) = parse_vnnlib(text + "(assert (<= Y_0 0))")
    assert Fraction(one.upper[0]) > Fraction(1, 3) > Fraction(math.nextafter(one.upper[0], -1))
    assert Fraction(one.lower[0]) < Fraction(-1, 7) < Fraction(math.nextafter(one.lower[0], 1))
    assert not one.admits(one.upper)
    assert not one.admits(one.lower)
    assert one.admits(np.nextafter(one.upper, -1))


def test_strict_comparisons() -> None:
    """A proof is about the closed sets; a point that an open side excludes is no counterexample."""
    closed, opened = (parse_vnnlib(HEAD + f"(assert ({sign} Y_0 0)) (assert (<= Y_1 1))")[0] for sign in ("<=", "<"))
    zero, below = np.array([[0.0, 0.0, 5.0]]), np.array([[-1e-300, 0.0, 5.0]])
    assert closed.specification.violated(closed.specification.values(zero))[0]
    assert not opened.specification.violated(opened.specification.values(zero))[0]
    assert opened.specification.violated(opened.specification.values(below))[0]
    assert opened.specification[:1].strict == (0,)
    assert not opened.specification.proved(np.zeros((1, 2))).any()
    assert opened.specification.proved(np.array([[1e-9, -1.0]])).all()
    (one,) = parse_vnnlib(HEAD + "(assert (< X_0 1.5)) (assert (> X_0 -2)) (assert (> 0.7 X_1)) (assert (<= Y_0 0))")
    assert (one.lower.tolist(), one.upper.tolist()) == ([-1, 0.25], [1.5, 0.7])
    assert one.admits(np.array([[-1.0], [0.25]]))
    for point in ([1.5, 0.5], [0.0, 0.7]):
        assert not one.admits(np.array(point))
    # The same box, once with and once without its side, is two problems; nothing lies above 1 and below 1.
    both = parse_vnnlib(HEAD + "(assert (or (and (< X_0 1) (<= Y_0 0)) (and (<= X_0 1) (<= Y_1 0))))")
    assert [p.open_upper.tolist() for p in both] == [[True, False], [False, False]]
    assert parse_vnnlib(HEAD + "(assert (> X_0 1)) (assert (<= X_0 1)) (assert (<= Y_0 0))") == []
    assert parse_vnnlib(HEAD + "(assert (< Y_0 Y_0))") == []
    assert len(parse_vnnlib(HEAD + "(assert (<= Y_0 Y_0))")) == 1


def test_numbers() -> None:
    for text, value in {"-1.5E-1": -0.15, "+2.": 2.0, ".5e+1": 5.0, "(- 3)": -3.0, "(/ 1 4)": 0.25, "7": 7.0}.items():
        (one,) = parse_vnnlib(HEAD + f"(assert (<= Y_0 {text}))")
        assert one.specification.offset[0, 0] == -value


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_formulas_mean_what_they_say(seed: int) -> None:
    """Random nested formulas, evaluated directly at random outputs, against the disjunctive form."""
    rng = np.random.default_rng(seed)

    def build(depth: int) -> tuple[str, "object"]:
        if depth == 0 or rng.random() < 0.3:
            i, j, c = rng.integers(0, 3), rng.integers(0, 3), int(rng.integers(-2, 3))
            op = ("<=", ">=")[rng.integers(0, 2)]
            text = f"({op} (+ Y_{i} {c}) (- (* 2 Y_{j}) 1))"
            sign = 1 if op == "<=" else -1
            return text, lambda y: sign * (y[i] + c - 2 * y[j] + 1) <= 0
        word = ("and", "or")[rng.integers(0, 2)]
        parts = [build(depth - 1) for _ in range(rng.integers(1, 4))]
        join = all if word == "and" else any
        return f"({word} {' '.join(t for t, _ in parts)})", lambda y: join(f(y) for _, f in parts)  # type: ignore[operator]

    text, truth = build(3)
    (one,) = parse_vnnlib(HEAD + f"(assert {text})")
    for y in rng.integers(-3, 4, (30, 3)).astype(float):
        assert bool(one.specification.violated(one.specification.values(y[None]))[0]) == truth(y)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(declare-const X_0 Real", "line 1: this parenthesis is never closed"),
        ("(declare-const X_0 Real))", "line 1: a parenthesis is closed that was never opened"),
        (HEAD + "(assert (<= Y_9 0))", "line 10: 'Y_9' is neither a number nor a declared variable"),
        (HEAD + "\n\n(assert (<= (* X_0 X_1) 0))", "line 12: products of variables are not linear"),
        (HEAD + "(assert (=> Y_0 1))", "line 10: a formula must be built of"),
        (HEAD + "(assert (<= X_0 Y_0))", "line 10: a constraint must bound one input"),
        (HEAD + "(assert (<= Y_0 nan))", "line 10: numbers must be finite"),
        (HEAD + "(assert (<= Y_0 1_0))", "line 10: '1_0' is neither a number"),
        (HEAD + "(assert (<= Y_0))", "line 10: <= must compare at least two values, got 1"),
        (HEAD + "(assert (/ Y_0 0))", "line 10: a formula must be built of"),
        (HEAD + "(assert (<= (/ Y_0 0) 1))", "line 10: division by zero"),
        (HEAD + "(check (<= Y_0 1))", "line 10: 'check' is no command"),
        (HEAD + "word", "line 10: 'word' stands outside"),
        ("(declare-const Z_0 Real)", "line 1: variables must be called"),
        ("(declare-const X_0 Int)", "line 1: a declaration must be"),
        ("(declare-const X_0 Real)(declare-const X_0 Real)", "line 1: X_0 is declared twice"),
        ("(declare-const X_1 Real)(declare-const Y_0 Real)", "line 1: X_0 is missing"),
        ("(declare-const X_0 Real)", "no Y_0 is declared"),
        ("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1))", "got none for X_0"),
        ("", "no X_0 is declared"),
    ],
)
def test_malformed(text: str, message: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        parse_vnnlib(text)
    assert message in str(caught.value)


def test_files(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_vnnlib(tmp_path / "missing.vnnlib")
    bad = tmp_path / "bad.vnnlib"
    bad.write_text("(assert")
    with pytest.raises(FileFormatError, match=r"bad.vnnlib: line 1"):
        read_vnnlib(bad)
    packed = tmp_path / "good.vnnlib.gz"
    packed.write_bytes(gzip.compress((HEAD + "(assert (<= Y_0 0))").encode()))
    (one,) = read_vnnlib(packed)
    assert one.upper.tolist() == [1.5, 0.75]
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(FileFormatError, match=r"good.vnnlib.gz: cannot be read"):
        read_vnnlib(packed)


@pytest.mark.shared
@pytest.mark.parametrize(("number", "verdict"), [(0, None), (2, Status.VERIFIED), (7, Status.FALSIFIED)])
def test_samples(shared_dir: Path, number: int, verdict: Status | None) -> None:
    """Published verdicts. Instance 0 is robust, but not within reach of bound propagation (exact methods prove it)."""
    folder = shared_dir / "data" / "vnnlib_sample"
    network = folder / "mnist-net_256x2.onnx"
    graph = load_onnx(network)
    (unsafe,) = read_vnnlib(folder / f"prop_{number}_0.03.vnnlib")
    problem = Problem.build(graph, unsafe.region(graph.input_shape), unsafe.specification)
    attack = Attack(steps=10, restarts=1, original=onnx_original(network)).bound(problem)
    bound = Crown().bound(problem)
    if verdict is None:
        bound = AlphaCrown(steps=3, box_steps=2).bound(problem, bound)
        assert bound.lower.min() < 0
        assert attack.status == (Status.UNKNOWN,)
    else:
        assert verdict in (attack.status[0], bound.status[0])
    assert (attack.status[0] is Status.FALSIFIED) == (number == 7)
    assert (bound.status[0] is Status.VERIFIED) == (number == 2)
    checked = check(graph, problem.region, problem.specification, bound.certificates)
    assert checked.status == bound.status


def test_what_is_computed_from_numbers_is_never_inside_the_exact_bound():
    """Sums and products are exact, and rounded outwards once; a side that was rounded is not part of the set."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (float(v) for v in rng.normal(size=2))
        c = float(rng.uniform(0.1, 3))
        exact = (Fraction(b) - Fraction(a)) / Fraction(c)
        for sign, side, opened in (("<=", "upper", "open_upper"), (">=", "lower", "open_lower")):
            text = (
                "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= Y_0 0))(assert (<= -99 X_0 99))"
                f"(assert ({sign} (+ (* {c!r} X_0) {a!r}) {b!r}))"
            )
            (found,) = parse_vnnlib(text)
            bound = Fraction(float(getattr(found, side)[0]))
            inwards = np.nextafter(float(bound), -np.inf if sign == "<=" else np.inf)
            assert bound >= exact >= Fraction(inwards) if sign == "<=" else bound <= exact <= Fraction(inwards)
            assert bool(getattr(found, opened)[0]) is (bound != exact)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(declare-const X_00 Real)", "line 1: variables must be called"),
        ("(declare-const X_0 Real)\n(declare-const X_\u0661 Real)", "line 2: variables must be called"),
        (f"(declare-const X_{'1' * 5000} Real)", "line 1: variables must be called"),
        (
            "(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(assert " + "(and " * 5000 + "true" + ")" * 5001,
            "line 3: the formula is nested too deeply",
        ),
        (
            "(declare-const Y_0 Real)\n(declare-const X_0 Real)\n(assert (<= X_0 1))",
            "line 2: every input must have a lower and an upper bound",
        ),
    ],
)
def test_malformed_text_is_refused_with_its_line(text, reason):
    with pytest.raises(FileFormatError, match=reason):
        parse_vnnlib(text)
