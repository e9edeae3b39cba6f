"""What may be compared: one norm, the same inputs, the same labels; conversions only inward, asked for and flagged."""

from collections.abc import Sequence
from pathlib import Path

from certify.audit.findings import list_indices
from certify.comparison.sides import Side
from certify.errors import UsageError
from certify.rundir import RUN_FILE
from smoothing.threat import Norm


def align(sides: Sequence[Side], norm: Norm | None = None) -> list[Side]:
    """Return the sides in one norm, after checking that they are about the same inputs.

    Args:
        sides: At least two.
        norm: The norm to compare in; radii proved in another one are replaced by those of inscribed balls. None: all must
            have one norm already.

    Raises:
        UsageError: If the data, the inputs, the labels or the norms differ.
    """
    if len(sides) < 2:
        raise UsageError(f"a comparison must have at least two runs, got {len(sides)}")
    first = sides[0]
    for side in sides[1:]:
        names = f"{first.folder} and {side.folder}"
        if (first.data_digest, first.split) != (side.data_digest, side.split):
            raise UsageError(f"runs must be of the same data set and split to be compared, got others in {names}")
        differing = set(first.points) ^ set(side.points)
        if differing:
            raise UsageError(
                f"runs must be about the same inputs to be compared, got {len(first.points)} and {len(side.points)} in "
                f"{names}; only one of them has {list_indices(differing)}"
            )
        for index, point in first.points.items():
            other = side.points[index]
            if (point.label, point.input_sha256) != (other.label, other.input_sha256):
                raise UsageError(
                    f"input {index} must be the same in both runs, got another one or another label in {names}"
                )
    norms = {side.norm for side in sides}
    if norm is None and len(norms) > 1:
        listed = ", ".join(sorted(str(found) for found in norms))
        raise UsageError(
            f"radii must be in one norm to be compared, got {listed}; --norm N converts the others inward (to inscribed "
            "balls, flagged), which is a real loss"
        )
    return [side if norm is None else side.converted(norm) for side in sides]


def require_networks(sides: Sequence[Side]) -> None:
    """Check that every smoothed classifier can be attacked, before the first of them is, which takes long.

    Raises:
        UsageError: If one of them smooths a prediction service; the message says what to leave out.
    """
    remote = [str(side.folder) for side in sides if side.of_service]
    if remote:
        raise UsageError(
            "an attack on g needs the gradients of its network, but a prediction service gave the votes of "
            f"{', '.join(remote)}: give --no-attack, which leaves attacks out; the certificates are compared all the same"
        )


def require_runs(folders: Sequence[Path]) -> None:
    """Check that every folder holds a run, before any is read.

    Raises:
        UsageError: Naming each that is absent, or is no run folder, and why.
    """
    faults = [f"{folder}: {fault}" for folder in folders if (fault := _fault(folder)) is not None]
    if faults:
        raise UsageError(
            "compare takes one MODEL, or two or more finished run folders of certify run and certify verify, got "
            + "; ".join(faults)
        )


def _fault(folder: Path) -> str | None:
    if (folder / RUN_FILE).is_file():
        return None
    if not folder.exists():
        return "there is no such folder"
    if not folder.is_dir():
        return "this is a file"
    if (folder / "shards").is_dir():
        return f"its shards were not joined yet, run certify merge {folder}"
    return f"there is no {RUN_FILE} in it"
