"""Means over some steps of a training."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """What some steps amounted to; adding two of them gives that of all their steps.

    Attributes:
        steps: Number of steps.
        images: Number of examples.
        seconds: Wall time.
        totals: Sum over the examples of the loss ("loss") and of each metric.
    """

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    totals: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, names: tuple[str, ...], rows: list[list[float]], sizes: list[int], seconds: float) -> "Progress":
        """Return that of steps with the means `rows` (one row a step, one column a name) over `sizes` examples each."""
        columns = zip(names, zip(*rows, strict=True), strict=True)
        totals = {name: sum(v * size for v, size in zip(column, sizes, strict=True)) for name, column in columns}
        return cls(len(rows), sum(sizes), seconds, totals)

    def __add__(self, other: "Progress") -> "Progress":
        names = dict.fromkeys((*self.totals, *other.totals))
        totals = {name: self.totals.get(name, 0.0) + other.totals.get(name, 0.0) for name in names}
        return Progress(self.steps + other.steps, self.images + other.images, self.seconds + other.seconds, totals)

    @property
    def means(self) -> dict[str, float]:
        """Mean of the loss and of each metric over the examples."""
        return {name: total / self.images for name, total in self.totals.items()}

    @property
    def images_per_second(self) -> float:
        """Examples per second of wall time."""
        return self.images / max(self.seconds, 1e-9)
