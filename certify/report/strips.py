"""Single inputs for people to look at: the clean image, noisy samples, the votes, the radius; failures come first."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from certify.errors import DatasetError, ModelError
from certify.outcomes import NAMES
from certify.rundir import Row, Run
from smoothing.errors import SmoothingError
from smoothing.estimators.base import Phase
from smoothing.noise import NOISE_VERSION
from smoothing.noise_table import rebuild_noise
from smoothing.rounding import floor_text

NOISY_SAMPLES = 3
CLASSES_SHOWN = 4
_LARGEST_SIDE = 96
_LARGEST_PNG = 48


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, with its caption and the pixels' size."""

    uri: str
    caption: str


@dataclass(frozen=True)
class VoteBar:
    """The estimation votes of one class; `share` is in percent of all n."""

    name: str
    count: int
    share: float
    role: str


@dataclass(frozen=True)
class Strip:
    """One input: what it looks like, what the votes were, and what they prove."""

    index: int
    outcome: str
    label: str
    predicted: str
    radius: str
    votes_total: int
    pictures: tuple[Picture, ...]
    votes: tuple[VoteBar, ...]


@dataclass(frozen=True)
class Strips:
    """The strips of one run, and what has to be said about them (why there are none, or which noise they show)."""

    strips: tuple[Strip, ...]
    note: str


def make_strips(run: Run, limit: int) -> Strips:
    """Return strips of up to `limit` inputs: wrong ones first, then abstained ones, then the smallest radii.

    The data set is loaded again, and used only if it is the one of the run: its digest, and the SHA-256 of each input,
    must be those that were recorded. Where the model brought its own resizing, that is built again from its recorded
    text, without the model. Where it cannot be loaded the note says so, and there are no strips.
    """
    rows = failures_first(run.rows)[:limit]
    try:
        inputs = _load_inputs(run, rows)
    except (SmoothingError, OSError, ImportError, ValueError, RuntimeError) as error:
        # The last two: a resizing out of run.json may ask for what cannot be done to an image.
        return Strips((), f"No pictures of single inputs: {error}")
    samples = _NoisySamples(run)
    names = run.config["settings"].get("class_names") or []
    strips = tuple(_strip(row, x, samples, names) for row, x in zip(rows, inputs, strict=True))
    return Strips(strips, f"{samples.note} {_clipping(run)}")


def _clipping(run: Run) -> str:
    """Say what the pictures' clipping has to do with the classifier."""
    service = run.identity.get("service")
    if service is None:
        return "Noisy images are clipped to [0, 1] for display only; the classifier saw them unclipped."
    if service.get("denoiser") is None:
        return (
            "Noisy images are clipped to [0, 1] and rounded to 8 bits, as they were before the service was asked: both "
            "belong to the classifier f."
        )
    return (
        "Noisy images are shown before the denoiser, clipped to [0, 1]; the service was sent what the denoiser made of "
        "them, clipped and rounded to 8 bits."
    )


def failures_first(rows: tuple[Row, ...]) -> list[Row]:
    """Order rows: wrong (from the largest radius down), without a class, then right (from the smallest radius up)."""

    def key(row: Row) -> tuple[int, float, int]:
        if row.predict in NAMES:
            return (1, 0.0, row.index)
        return (2, row.radius, row.index) if row.correct else (0, -row.radius, row.index)

    return sorted(rows, key=key)


def _load_inputs(run: Run, rows: list[Row]) -> list[Float[Tensor, "..."]]:
    from certify.datasets import load_dataset
    from certify.runner import input_digest

    identity, settings = run.identity, run.config["settings"]
    data = load_dataset(
        str(settings["data"]),
        root=settings.get("data_root"),
        split=str(identity["split"]),
        transform=_transform(identity.get("transform")),
    )
    if data.digest() != identity["data_digest"]:
        raise DatasetError(
            f"the data set {settings['data']} found here is not the one of the run (digest {data.digest()[:12]}, "
            f"recorded {str(identity['data_digest'])[:12]})"
        )
    inputs = [data.inputs([row.index])[0] for row in rows]
    for row, x in zip(rows, inputs, strict=True):
        if input_digest(x) != row.input_sha256:
            raise DatasetError(
                f"input {row.index} as loaded here is not the one that was certified (its SHA-256 differs): a model "
                "that brings its own resizing changes inputs before the noise"
            )
    return inputs


def _transform(text: str | None) -> Callable[[Any], Any] | None:
    from certify.models.transforms import rebuild_transform

    if text is None:
        return None
    try:
        transform: Callable[[Any], Any] = rebuild_transform(text)
    except ModelError:
        return None  # one that only its model can make; inputs that it changed are found out by their SHA-256
    return transform


class _NoisySamples:
    """Draws an input's first estimation samples again, and says whether they are really the ones that were counted."""

    def __init__(self, run: Run) -> None:
        identity = run.identity
        law = run.rows[0].certificate.rebuild_law()
        version = str(identity["noise_version"])
        plain = identity.get("noise") is None
        kind = str(identity["device_kind"])
        device = torch.device("cuda" if plain and kind == "cuda" and torch.cuda.is_available() else "cpu")
        if plain:
            recorded = (version, kind, str(identity["torch_version"]))
            # A GPU's noise depends on its model; where that is not recorded it cannot be called the same.
            name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
            same_device = name is None or name == identity.get("device_name")
            self.exact = same_device and recorded == (NOISE_VERSION, device.type, torch.__version__)
            description: dict[str, Any] = {"version": NOISE_VERSION}
        else:
            self.exact, description = True, dict(identity["noise"])
        if self.exact:
            self.note = "The noisy images are the first samples whose votes were counted for the radius."
        else:
            self.note = (
                f"The noisy images are drawn by the same law, but are not the samples of the run, which were drawn as "
                f"{version} on {identity.get('device_name') or kind} by torch {identity['torch_version']}."
            )
        self._source = rebuild_noise(description, law, int(identity["seed"]), device)

    def draw(self, x: Float[Tensor, "..."], index: int, count: int) -> Float[Tensor, "..."]:
        """Return the noisy copies, [count, *shape], on the CPU."""
        return self._source.draw(x, index, Phase.ESTIMATE, 0, count).cpu()


def _strip(row: Row, x: Float[Tensor, "..."], samples: _NoisySamples, names: list[Any]) -> Strip:
    certificate = row.certificate
    # A planned input without hope has no estimate: then its pilot is shown.
    look = next((look for look in reversed(certificate.looks) if look.phase is Phase.ESTIMATE), certificate.looks[-1])
    noisy = samples.draw(x, row.index, min(NOISY_SAMPLES, look.n))
    pictures = [Picture(_data_uri(x), "clean")]
    pictures += [Picture(_data_uri(sample), f"noisy {i}") for i, sample in enumerate(noisy, start=1)]
    outcome = NAMES.get(row.predict, "right" if row.correct else "wrong")
    return Strip(
        index=row.index,
        outcome=outcome,
        label=class_name(names, row.label),
        predicted=NAMES.get(row.predict) or class_name(names, row.predict),
        radius=floor_text(row.radius, 4),
        votes_total=look.n,
        pictures=tuple(pictures),
        votes=_vote_bars(look.counts, row, names),
    )


def _vote_bars(counts: tuple[int, ...], row: Row, names: list[Any]) -> tuple[VoteBar, ...]:
    """The classes with most votes, the label and the prediction among them; then the rest, and invalid answers."""
    classes = counts[:-1]
    total = sum(counts)
    order = sorted(range(len(classes)), key=lambda c: (-classes[c], c))
    needed = {row.label, row.predict} & set(order)
    shown = sorted({*(c for c in order[:CLASSES_SHOWN] if classes[c]), *needed}, key=order.index)
    bars = [
        VoteBar(
            class_name(names, c),
            classes[c],
            100 * classes[c] / total,
            "label" if c == row.label else "predicted" if c == row.predict else "other",
        )
        for c in shown
    ]
    rest = sum(classes) - sum(classes[c] for c in shown)
    if rest:
        bars.append(VoteBar("all others", rest, 100 * rest / total, "other"))
    if counts[-1]:
        bars.append(VoteBar("invalid answers", counts[-1], 100 * counts[-1] / total, "invalid"))
    return tuple(bars)


def class_name(names: list[Any], label: int) -> str:
    """Return a class's name with its number, or the number alone."""
    name = str(names[label]) if 0 <= label < len(names) else ""
    return f"class {label}" if name in ("", str(label)) else f"{name} ({label})"


def _data_uri(x: Float[Tensor, "..."]) -> str:
    from PIL import Image

    pixels = _pixels(x)
    # Every k-th pixel rather than an average: an average would show weaker noise than there is.
    step = -(-max(pixels.shape[:2]) // _LARGEST_SIDE)
    pixels = np.ascontiguousarray(pixels[::step, ::step])
    target = io.BytesIO()
    # Noise does not compress without loss; small images are exact, large ones would fill the file.
    kind = "png" if max(pixels.shape[:2]) <= _LARGEST_PNG else "jpeg"
    options: dict[str, Any] = {"optimize": True} if kind == "png" else {"quality": 85}
    Image.fromarray(pixels).save(target, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(target.getvalue()).decode()}"


def _pixels(x: Float[Tensor, "..."]) -> UInt8[ndarray, "..."]:
    """Return [H, W] or [H, W, 3] pixels of an input of any shape; what is no image becomes one row of grey values."""
    values = x.detach().cpu().float()
    if values.ndim == 3 and values.shape[0] == 3:
        values = values.permute(1, 2, 0)
    elif values.ndim == 3:
        values = values.mean(0)
    elif values.ndim != 2:
        values = values.reshape(1, -1)
    pixels: UInt8[ndarray, "..."] = (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return pixels
