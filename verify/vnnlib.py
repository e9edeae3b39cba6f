"""VNN-LIB properties: the subset of SMT-LIB in which verification benchmarks state them.

A file declares inputs X_0... and outputs Y_0..., bounds the inputs and describes the *unsafe* outputs: a counterexample
is a point that satisfies all assertions. Assertions may nest `and` and `or` over linear comparisons; the formula is
brought into disjunctive form, and each disjunct becomes a box of inputs with a conjunction of linear output constraints.
Disjuncts with the same box are one problem. Decimal numbers mean the nearest double, as in all tools that read such files;
what is computed from them is exact, and rounded at the end: bounds of inputs outwards, coefficients to the nearest double.

Reference: Demarchi, Guidotti, Pulina, Tacchella 2023, "Supporting Standardization of Neural Networks Verification with
VNN-LIB and CoCoNet"; the format of the VNN-COMP benchmarks since 2021.
"""

import itertools
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from verify.errors import FileFormatError
from verify.packed import read_bytes
from verify.region import Region
from verify.specification import Specification

MAX_DISJUNCTS = 100_000
"""A formula that multiplies out to more is refused rather than filling the memory."""


@dataclass(frozen=True, eq=False)
class _Token:
    text: str
    line: int


@dataclass(frozen=True, eq=False)
class _List:
    items: "tuple[_Token | _List, ...]"
    line: int


_Expression = _Token | _List


@dataclass(frozen=True)
class _Linear:
    """Σ coefficients[variable] * variable + constant, exactly."""

    coefficients: tuple[tuple[str, Fraction], ...]
    constant: Fraction


_ZERO = _Linear((), Fraction(0))


_Constraint = tuple[_Linear, int, bool]  # the linear function is <= 0, or < 0 if true; the line it came from
_Disjunction = list[tuple[_Constraint, ...]]
_Row = tuple[np.ndarray, float, bool]  # a, d, strict: aᵀy + d <= 0, or < 0
_TOKEN = re.compile(r";[^\n]*|[()]|\|[^|]*\||\"(?:[^\"]|\"\")*\"|[^\s()|\";]+|[|\"]")
_QUOTED = re.compile(r"\|[^|\s();]+\|")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, eq=False)
class Property:
    """One box of inputs with the unsafe outputs over it: the property holds if none of them is reached.

    Attributes:
        lower: Lower bounds of the inputs, [inputs].
        upper: Upper bounds.
        specification: For a batch of one: row `aᵀy - b` > 0 refutes the constraint aᵀy <= b; one group per disjunct.
        open_lower: Where the file says X_i > lower: the box is closed, and proofs are about all of it, but a point on such a
            side is no counterexample. [inputs]
        open_upper: Likewise X_i < upper.
    """

    lower: np.ndarray
    upper: np.ndarray
    specification: Specification
    open_lower: np.ndarray
    open_upper: np.ndarray

    def region(self, shape: tuple[int, ...], description: str = "VNN-LIB box") -> Region:
        """Return the box for a network whose inputs have the given shape (the inputs in C order)."""
        lower, upper = (torch.from_numpy(v.copy()).reshape(1, *shape) for v in (self.lower, self.upper))
        return Region.box(lower, upper, description)

    def admits(self, point: np.ndarray) -> bool:
        """Return whether a point of the box, in any shape, lies on no side that is not part of it."""
        x = point.reshape(-1)
        return not bool((((x <= self.lower) & self.open_lower) | ((x >= self.upper) & self.open_upper)).any())


@dataclass(frozen=True, eq=False)
class PropertyFile:
    """What a file says.

    Attributes:
        inputs: How many inputs it declares; it is about networks with as many only, whatever it asserts.
        outputs: How many outputs.
        properties: The boxes, as `read_vnnlib` returns them.
    """

    inputs: int
    outputs: int
    properties: list[Property]


def read_vnnlib(path: str | Path) -> list[Property]:
    """Read a property file, packed by gzip or not.

    Returns:
        The boxes; the file is "unsat" (safe) if the property of every one of them holds, "sat" if one is violated. An empty
        list means that the assertions contradict each other already (unsat).

    Raises:
        FileFormatError: If the file is malformed, with line and reason.
    """
    return read_property_file(path).properties


def read_property_file(path: str | Path) -> PropertyFile:
    """Read a property file and how many variables it declares; see `read_vnnlib`."""
    path = Path(path)
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: cannot be read as text: {error}") from error
    try:
        return _read(text)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from None


def parse_vnnlib(text: str) -> list[Property]:
    """Read a property from text; see `read_vnnlib`.

    Example:
        >>> lines = [
        ...     "(declare-const X_0 Real)",
        ...     "(declare-const Y_0 Real)",
        ...     "(assert (>= X_0 0))",
        ...     "(assert (<= X_0 1))",
        ... ]
        >>> (unsafe,) = parse_vnnlib(" ".join([*lines, "(assert (<= Y_0 2))"]))
        >>> unsafe.specification.matrix.tolist(), unsafe.specification.offset.tolist()
        ([[[1.0]]], [[-2.0]])
    """
    return _read(text).properties


def _read(text: str) -> PropertyFile:
    declared: dict[str, int] = {}
    common: list[_Constraint] = []  # assertions without a choice: most of a file
    formula: _Disjunction = [()]
    for expression in _parse(text):
        command = _head(expression)
        if command in {"declare-const", "declare-fun"}:
            name, line = _declaration(expression)
            if name in declared:
                raise _error(line, f"{name} is declared twice")
            declared[name] = line
        elif command == "assert":
            if len(expression.items) != 2:
                raise _error(expression.line, "assert must have one formula")
            try:
                asserted = _formula(expression.items[1], declared)
            except RecursionError:
                raise _error(expression.line, "the formula is nested too deeply") from None
            if len(asserted) == 1:
                common.extend(asserted[0])
            else:
                formula = _conjoin(formula, asserted, expression.line)
        elif command not in {"set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"}:
            raise _error(expression.line, f"{command!r} is no command of VNN-LIB (declare-const, assert)")
    inputs, outputs = (_count(declared, letter) for letter in "XY")
    return PropertyFile(inputs, outputs, _properties(common, formula, declared, inputs, outputs))


def _error(line: int, reason: str) -> FileFormatError:
    return FileFormatError(f"line {line}: {reason}")


def _tokens(text: str) -> Iterator[_Token]:
    """Split; a semicolon begins a comment except inside quotes, and quoted names and strings may go over several lines.

    A carriage return ends a line, and with it a comment, as a line feed does (SMT-LIB 2.6, section 3.1).
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    number, seen = 1, 0
    for match in _TOKEN.finditer(text):
        number += text.count("\n", seen, match.start())
        seen, found = match.start(), match.group()
        if found.startswith(";"):
            continue
        if found in {"|", '"'}:
            raise _error(number, f"the quotation that begins with {found} is never closed")
        # |X_0| is another way to write X_0.
        yield _Token(found[1:-1] if _QUOTED.fullmatch(found) else found, number)


def _parse(text: str) -> Iterator[_List]:
    stack: list[tuple[int, list[_Expression]]] = []
    for token in _tokens(text):
        if token.text == "(":
            stack.append((token.line, []))
        elif token.text == ")":
            if not stack:
                raise _error(token.line, "a parenthesis is closed that was never opened")
            line, items = stack.pop()
            closed = _List(tuple(items), line)
            if stack:
                stack[-1][1].append(closed)
            else:
                yield closed
        elif stack:
            stack[-1][1].append(token)
        else:
            raise _error(token.line, f"{token.text!r} stands outside any parentheses")
    if stack:
        raise _error(stack[-1][0], "this parenthesis is never closed")


def _head(expression: _List) -> str:
    if not expression.items or not isinstance(expression.items[0], _Token):
        raise _error(expression.line, "an expression must begin with a word")
    return expression.items[0].text


def _declaration(expression: _List) -> tuple[str, int]:
    items = [item.text if isinstance(item, _Token) else "()" for item in expression.items]
    if len(items) not in (3, 4) or items[-1] != "Real" or (len(items) == 4) != (items[0] == "declare-fun"):
        raise _error(expression.line, f"a declaration must be (declare-const X_0 Real), got ({' '.join(items)})")
    if not re.fullmatch(r"[XY]_(0|[1-9][0-9]{0,8})", items[1]):
        raise _error(expression.line, f"variables must be called X_0, X_1, ... or Y_0, Y_1, ..., got {items[1]}")
    return items[1], expression.line


def _count(declared: dict[str, int], letter: str) -> int:
    numbers = sorted(int(name[2:]) for name in declared if name[0] == letter)
    if not numbers:
        raise _error(1, f"no {letter}_0 is declared: there must be inputs X_i and outputs Y_i")
    if numbers != list(range(len(numbers))):
        missing = next(i for i, n in enumerate(numbers) if i != n)
        raise _error(declared[f"{letter}_{numbers[missing]}"], f"{letter}_{missing} is missing before it")
    return len(numbers)


def _conjoin(first: _Disjunction, second: _Disjunction, line: int) -> _Disjunction:
    if len(first) * len(second) > MAX_DISJUNCTS:
        raise _error(line, f"the formula has more than {MAX_DISJUNCTS} disjuncts when multiplied out")
    return [a + b for a in first for b in second]


def _formula(expression: _Expression, declared: dict[str, int]) -> _Disjunction:
    if isinstance(expression, _Token):
        if expression.text in {"true", "false"}:
            return [()] if expression.text == "true" else []
        raise _error(expression.line, f"a formula must be a comparison, and, or; got {expression.text!r}")
    head, line = _head(expression), expression.line
    arguments = expression.items[1:]
    if head == "and":
        combined: _Disjunction = [()]
        for argument in arguments:
            combined = _conjoin(combined, _formula(argument, declared), line)
        return combined
    if head == "or":
        return [disjunct for argument in arguments for disjunct in _formula(argument, declared)]
    if head in {"<=", ">=", "<", ">", "="}:
        if len(arguments) < 2:
            raise _error(line, f"{head} must compare at least two values, got {len(arguments)}")
        values = [_linear(argument, declared) for argument in arguments]
        strict = head in {"<", ">"}
        constraints: list[_Constraint] = []
        # A chain (<= a b c) says a <= b and b <= c.
        for left, right in itertools.pairwise(values):
            under, over = (_finite(_combine(*pair, -1), line) for pair in ((left, right), (right, left)))
            below, above = (under, line, strict), (over, line, strict)
            constraints += [below, above] if head == "=" else [below] if head in {"<=", "<"} else [above]
        return [tuple(constraints)]
    raise _error(line, f"a formula must be built of and, or, <=, >=, <, >, =; got {head!r}")


def _linear(expression: _Expression, declared: dict[str, int]) -> _Linear:
    if isinstance(expression, _Token):
        if expression.text in declared:
            return _Linear(((expression.text, Fraction(1)),), Fraction(0))
        try:
            value = float(expression.text)
        except ValueError:
            value = None
        if value is not None and not math.isfinite(value):
            raise _error(expression.line, f"numbers must be finite, got {expression.text}")
        if value is None or not _NUMBER.fullmatch(expression.text):  # Python reads 1_0 as well
            raise _error(expression.line, f"{expression.text!r} is neither a number nor a declared variable")
        return _Linear((), Fraction(value))
    head, line = _head(expression), expression.line
    parts = [_linear(argument, declared) for argument in expression.items[1:]]
    if not parts:
        raise _error(line, f"{head} must have arguments")
    if head == "+":
        total = parts[0]
        for part in parts[1:]:
            total = _combine(total, part, 1)
        return total
    if head == "-":
        if len(parts) == 1:
            return _combine(_ZERO, parts[0], -1)
        total = parts[0]
        for part in parts[1:]:
            total = _combine(total, part, -1)
        return total
    if head in {"*", "/"} and len(parts) >= 2:
        total = parts[0]
        for part in parts[1:]:
            total = _product(total, part, line) if head == "*" else _quotient(total, part, line)
        return total
    raise _error(line, f"a linear expression must be built of +, -, * and numbers; got {head!r}")


def _product(left: _Linear, right: _Linear, line: int) -> _Linear:
    if not left.coefficients:
        left, right = right, left
    if right.coefficients:
        raise _error(line, "products of variables are not linear")
    factor = right.constant
    return _finite(_Linear(tuple((name, factor * c) for name, c in left.coefficients), factor * left.constant), line)


def _quotient(left: _Linear, right: _Linear, line: int) -> _Linear:
    if right.coefficients:
        raise _error(line, "quotients by variables are not linear")
    if right.constant == 0:
        raise _error(line, "division by zero")
    by = right.constant
    return _finite(_Linear(tuple((name, c / by) for name, c in left.coefficients), left.constant / by), line)


def _finite(value: _Linear, line: int) -> _Linear:
    """Return a value whose numbers are not too large for doubles, or raise."""
    try:
        for number in (value.constant, *(c for _, c in value.coefficients)):
            float(number)
    except OverflowError:
        raise _error(line, "a sum, product or quotient is too large for a number") from None
    return value


def _combine(first: _Linear, second: _Linear, factor: int) -> _Linear:
    total = dict(first.coefficients)
    for name, coefficient in second.coefficients:
        total[name] = total.get(name, Fraction(0)) + factor * coefficient
    return _Linear(tuple(total.items()), first.constant + factor * second.constant)


def _bound(constant: Fraction, c: Fraction) -> tuple[float, bool]:
    """Return the bound that c x + constant <= 0 puts on x, never inside the exact one, and whether it is outside."""
    exact = -constant / c
    try:
        bound = float(exact)
    except OverflowError:
        return (math.inf if exact > 0 else -math.inf), False
    if bound == exact:
        return bound, False
    inside = (bound < exact) == (c > 0)
    return (math.nextafter(bound, math.inf if c > 0 else -math.inf) if inside else bound), True


@dataclass(eq=False)
class _Conjunction:
    """What a conjunction says: a box of inputs, which of its sides do not belong to it, and rows."""

    lower: np.ndarray
    upper: np.ndarray
    open_lower: np.ndarray
    open_upper: np.ndarray
    rows: list[_Row]
    possible: bool = True

    @classmethod
    def anything(cls, inputs: int) -> "_Conjunction":
        """Return what no constraint says."""
        nowhere = np.zeros(inputs, dtype=bool)
        return cls(np.full(inputs, -np.inf), np.full(inputs, np.inf), nowhere, nowhere.copy(), [])

    @property
    def empty(self) -> bool:
        """Whether no input satisfies it."""
        closed = self.lower > self.upper
        return not self.possible or bool(
            (closed | ((self.lower == self.upper) & (self.open_lower | self.open_upper))).any()
        )

    @property
    def key(self) -> bytes:
        """Equal for equal boxes."""
        return b"".join(side.tobytes() for side in (self.lower, self.upper, self.open_lower, self.open_upper))

    def extended(self, constraints: Iterable[_Constraint], outputs: int) -> "_Conjunction":
        """Return the conjunction with more constraints."""
        sides = (self.lower.copy(), self.upper.copy(), self.open_lower.copy(), self.open_upper.copy())
        result = _Conjunction(*sides, list(self.rows), self.possible)
        for function, line, strict in constraints:
            terms = [(name, c) for name, c in function.coefficients if c != 0]
            kinds = {name[0] for name, _ in terms}
            if not terms:
                result.possible &= function.constant < 0 or (function.constant == 0 and not strict)
            elif kinds == {"X"} and len(terms) == 1:
                ((name, c),) = terms
                at = int(name[2:])
                bound, outwards = _bound(function.constant, c)
                # A bound that was rounded outwards is not part of the set; its neighbour inside is.
                opens = strict or outwards
                side, opened = (result.upper, result.open_upper) if c > 0 else (result.lower, result.open_lower)
                if (bound < side[at]) if c > 0 else (bound > side[at]):
                    side[at], opened[at] = bound, opens
                elif bound == side[at]:
                    opened[at] |= opens
            elif kinds == {"Y"}:
                row = np.zeros(outputs)
                for name, c in terms:
                    row[int(name[2:])] = float(c)
                result.rows.append((row, float(function.constant), strict))
            else:
                raise _error(
                    line, "a constraint must bound one input, or relate outputs only; others are not supported"
                )
        return result


def _properties(
    common: list[_Constraint], formula: _Disjunction, declared: dict[str, int], inputs: int, outputs: int
) -> list[Property]:
    """Group the disjuncts by their input box."""
    shared = _Conjunction.anything(inputs).extended(common, outputs)
    boxes: dict[bytes, tuple[_Conjunction, list[list[_Row]]]] = {}
    for disjunct in formula:
        case = shared.extended(disjunct, outputs)
        if case.empty:
            continue
        if not (np.isfinite(case.lower).all() and np.isfinite(case.upper).all()):
            at = int(np.flatnonzero(~(np.isfinite(case.lower) & np.isfinite(case.upper)))[0])
            raise _error(declared[f"X_{at}"], f"every input must have a lower and an upper bound, got none for X_{at}")
        # A row without outputs (-1, never positive) stands for a disjunct that every point of the box satisfies.
        boxes.setdefault(case.key, (case, []))[1].append(case.rows or [(np.zeros(outputs), -1.0, False)])
    properties = []
    for case, groups in boxes.values():
        flat = [row for group in groups for row in group]
        ends = np.cumsum([len(group) for group in groups]).tolist()
        starts = [0, *ends[:-1]]
        indices = tuple(tuple(range(a, b)) for a, b in zip(starts, ends, strict=True))
        # aᵀy + d <= 0 is refuted where aᵀy + d > 0.
        matrix, offset = np.stack([row for row, _, _ in flat]), np.array([constant for _, constant, _ in flat])
        strict = tuple(place for place, (_, _, strict) in enumerate(flat) if strict)
        specification = Specification(matrix[None], offset[None], indices, strict=strict)
        properties.append(Property(case.lower, case.upper, specification, case.open_lower, case.open_upper))
    return properties
