"""The text after `--normalize` -> mean and standard deviation of each channel."""

from certify.errors import UsageError
from certify.models.normalize import NORMALISATIONS
from certify.training.data import TrainingData

FROM_DATA = "data"

Numbers = tuple[tuple[float, ...], tuple[float, ...]]


def parse_normalization(text: str) -> Numbers | str | None:
    """Return what `text` says: numbers, `FROM_DATA`, or None for no normalisation.

    Args:
        text: "none", "data", a key of `NORMALISATIONS`, or MEAN/STD with one number a channel, as in
            "0.49,0.48,0.45/0.25,0.24,0.26".

    Raises:
        UsageError: If it is none of these.
    """
    if text in NORMALISATIONS:
        return NORMALISATIONS[text]
    if text == FROM_DATA:
        return FROM_DATA
    parts = text.split("/")
    if len(parts) == 2:
        try:
            mean, std = (tuple(float(number) for number in part.split(",")) for part in parts)
        except ValueError:
            pass
        else:
            return mean, std
    raise UsageError(
        f"normalize must be one of {', '.join([FROM_DATA, *NORMALISATIONS])}, or MEAN/STD with one number a channel "
        f"(0.1307/0.3081), got normalize={text!r}"
    )


def settle_normalization(parsed: Numbers | str | None, data: TrainingData) -> Numbers | None:
    """Return mean and standard deviation of each channel, measured on the examples where that was asked for.

    Raises:
        UsageError: If a channel is the same in all examples, and so has no standard deviation to divide by.
    """
    if not isinstance(parsed, str):
        return parsed
    mean, std = data.channel_statistics()
    if not all(value > 0 for value in std):
        raise UsageError(f"normalize=data needs a positive standard deviation in every channel, got std={std}")
    return mean, std
