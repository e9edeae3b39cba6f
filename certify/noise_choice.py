"""Which rule draws a run's noise: integer noise where inputs and law allow it, since its proof has no gap."""

from pathlib import Path
from typing import Any

from certify.errors import UsageError
from certify.rundir import RUN_FILE, read_config
from smoothing.distributions.base import SmoothingDistribution
from smoothing.integer import NOISE_VERSION as INTEGER_VERSION
from smoothing.integer import integer_laws, supports_integer_noise
from smoothing.noise import NOISE_VERSION as FLOAT_VERSION
from smoothing.noise_table import NOISE_SOURCES

AUTO = "auto"


def check_version(version: str) -> None:
    """Raise `UsageError` unless a noise version is known."""
    if version != AUTO and version not in NOISE_SOURCES:
        raise UsageError(f"noise version must be one of {AUTO}, {', '.join(NOISE_SOURCES)}, got {version!r}")


def settle_noise(
    version: str, law: SmoothingDistribution, grid: int | None, model_digest: str, out: Path
) -> tuple[dict[str, Any], str | None]:
    """Return the description of a run's noise, and a note for people where there is something to say.

    "auto" is what the folder has, if there is a run in it: a run that was begun with one noise goes on with it.

    Args:
        version: A released version, or "auto".
        law: The law.
        grid: Inputs are multiples of 1 / grid; None for floating-point data.
        model_digest: Digest of the model, which the key of integer noise depends on.
        out: Run folder.

    Raises:
        UsageError: If integer noise was asked for and data or law do not allow it.
    """
    exact = {"version": INTEGER_VERSION, "grid": grid, "model_digest": model_digest}
    plain = {"version": FLOAT_VERSION}
    possible = grid is not None and supports_integer_noise(law)
    if version == AUTO and (out / RUN_FILE).exists():
        there = read_config(out)["identity"].get("noise_version")
        version = there if there in NOISE_SOURCES else AUTO
    if version == AUTO:
        return (exact, None) if possible else (plain, None)
    if version == FLOAT_VERSION:
        return plain, None
    if not possible:
        laws = ", ".join(sorted(kind.__name__ for kind in integer_laws))
        reason = "the data are not on a grid" if grid is None else f"the law is {law.name} (integer noise: {laws})"
        raise UsageError(
            f"noise version {INTEGER_VERSION} needs data on a grid and a law of integer noise, but {reason}"
        )
    return exact, None
