"""Which rule draws a run's noise: integer noise where inputs and law allow it, since its proof has no gap."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from certify.errors import UsageError
from certify.laws import law_text
from certify.rundir import RUN_FILE, read_config
from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import InvalidArgumentError
from smoothing.integer import NOISE_VERSION as INTEGER_VERSION
from smoothing.integer import PhiloxIntNoise, integer_law, integer_laws, supports_integer_noise
from smoothing.integer.grid import LARGEST_LEVEL
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

    "auto" is what the folder has, if there is a run in it: a run that was begun with one noise goes on with it. Else it is
    integer noise where data and law allow it, which very wide noise does not: steps and levels are added in int16.

    Args:
        version: A released version, or "auto".
        law: The law.
        grid: Inputs are multiples of 1 / grid; None for floating-point data.
        model_digest: Digest of the model, which the key of integer noise depends on.
        out: Run folder.

    Raises:
        UsageError: If integer noise was asked for and data or law do not allow it; the message names the way out.
    """
    exact = {"version": INTEGER_VERSION, "grid": grid, "model_digest": model_digest}
    plain = {"version": FLOAT_VERSION}
    trouble = _trouble(law, grid)
    if version == AUTO and (out / RUN_FILE).exists():
        there = read_config(out)["identity"].get("noise_version")
        version = there if there in NOISE_SOURCES else AUTO
    if version == AUTO:
        if trouble is None and _has_room(law, grid):
            return exact, None
        if grid is None or not supports_integer_noise(law):
            return plain, None  # nothing that less noise or other data of the kind would change
        return plain, (
            f"noise is drawn in floating point ({FLOAT_VERSION}): integer noise cannot hold {law_text(law)} on data on the "
            f"grid k/{grid}; each certificate says what that leaves open"
        )
    if version == FLOAT_VERSION or trouble is None:
        return (plain if version == FLOAT_VERSION else exact), None
    raise UsageError(f"noise version {INTEGER_VERSION}: {trouble}; --noise-version {FLOAT_VERSION} draws any noise")


def narrow_noise(law: SmoothingDistribution, noise: Mapping[str, Any]) -> str | None:
    """Return what to say of noise that is too narrow for the way in which it is drawn; None where it is not.

    Args:
        law: The law.
        noise: The description of a run's noise, see `settle_noise`.
    """
    if noise["version"] != INTEGER_VERSION:
        if law.sigma is None or law.sigma >= 1e-4:
            return None
        return (
            f"sigma {law.sigma:g} is so small that x + noise is mostly rounding in float32: do not rely on such "
            "certificates"
        )
    steps = integer_law(law, noise["grid"])
    moved = float(steps.exact.sum() - steps.exact[steps.reach])
    if moved * law.dimension >= 0.01:
        return None
    return (
        f"the noise ({law_text(law)}) is so narrow that it rounds to 0 steps of 1/{noise['grid']} in at least 99 of 100 "
        "copies: what is certified is the classifier rounded to that grid itself, with hardly any noise"
    )


def _trouble(law: SmoothingDistribution, grid: int | None) -> str | None:
    """Return why a law cannot be drawn in whole steps on a grid; None where it can."""
    if grid is None or not supports_integer_noise(law):
        laws = ", ".join(sorted(kind.__name__ for kind in integer_laws))
        reason = "the data are not on a grid" if grid is None else f"the law is {law.name} (integer noise: {laws})"
        return f"it needs data on a grid and a law of integer noise, but {reason}"
    try:
        PhiloxIntNoise(law, grid=grid)
    except InvalidArgumentError as error:
        return str(error)
    return None


def _has_room(law: SmoothingDistribution, grid: int | None) -> bool:
    """Return whether levels and noise together stay within what integer noise can hold, for inputs in [0, 1]."""
    return grid is not None and grid + integer_law(law, grid).reach <= LARGEST_LEVEL
