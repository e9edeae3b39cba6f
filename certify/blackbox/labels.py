"""From a service's labels to classes: part of the base classifier, and therefore of a run's identity."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certify.blackbox.answers import Answer
from certify.errors import UsageError


@dataclass(frozen=True)
class LabelMap:
    """Label text -> class; a label outside is the outcome "invalid".

    Args:
        num_classes: K.
        classes: Label -> class in 0..K-1; several labels may share a class. Empty: labels are decimal class numbers.

    Raises:
        UsageError: If a class is out of range.
    """

    num_classes: int
    classes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise UsageError(f"num_classes must be at least 2, got num_classes={self.num_classes}")
        for label, number in self.classes.items():
            if not 0 <= number < self.num_classes:
                raise UsageError(
                    f"the label map gives {label!r} the class {number}, but classes are 0..{self.num_classes - 1}"
                )

    @classmethod
    def from_names(cls, names: Sequence[str]) -> "LabelMap":
        """Classes in the order of their names."""
        if len(set(names)) != len(names):
            raise UsageError(f"class names must be distinct, got {list(names)}")
        return cls(len(names), {name: number for number, name in enumerate(names)})

    @classmethod
    def from_csv(cls, path: Path, num_classes: int) -> "LabelMap":
        """Read lines `label,class`, UTF-8, without a header.

        Raises:
            UsageError: If the file cannot be read or a line is not of that form; the message names the line.
        """
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the label map {path}: {getattr(error, 'strerror', None) or error}") from None
        classes: dict[str, int] = {}
        for line, row in enumerate(rows, 1):
            if not row:
                continue
            if len(row) != 2 or not row[1].strip().isdecimal():
                raise UsageError(f"{path}, line {line}: expected label,class, got {','.join(row)!r}")
            label, number = row[0].strip(), int(row[1])
            if classes.setdefault(label, number) != number:
                raise UsageError(f"{path}, line {line}: the label {label!r} already has the class {classes[label]}")
        if not classes:
            raise UsageError(f"the label map {path} holds no line label,class")
        return cls(num_classes, classes)

    def outcome(self, answer: Answer) -> int:
        """Return the class, or K for "invalid"."""
        return self.outcome_of(answer.label)

    def outcome_of(self, label: str | None) -> int:
        """Return the class of a label, or K for "invalid"."""
        if label is None:
            return self.num_classes
        if self.classes:
            return self.classes.get(label, self.num_classes)
        # No class number is that long, and Python refuses to read thousands of digits.
        number = int(label) if label.isascii() and label.isdecimal() and len(label) < 19 else self.num_classes
        return min(number, self.num_classes)

    def describe(self) -> dict[str, Any]:
        """Return the map as JSON-ready data."""
        return {"num_classes": self.num_classes, "classes": dict(sorted(self.classes.items()))}
