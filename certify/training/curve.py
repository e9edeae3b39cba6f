"""`train.png`: how a training went, epoch by epoch."""

import io
from collections.abc import Sequence
from pathlib import Path

from certify.files import write_atomically
from certify.training.log import EpochRecord

CURVE_FILE = "train.png"


def write_curve(folder: Path, records: Sequence[EpochRecord], title: str) -> None:
    """Draw loss, accuracies under noise and the selection's score over the epochs.

    Args:
        folder: The checkpoint folder.
        records: The rows of the log, at least one.
        title: What was trained, in a line.

    Raises:
        CertifyError: If the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    epochs = [record.epoch for record in records]
    left.plot(epochs, [record.loss for record in records], marker=".", label="training loss")
    left.set(xlabel="epoch", ylabel="loss")
    left.grid(alpha=0.3)
    right.plot(epochs, [record.noisy_accuracy for record in records], marker=".", label="training, under noise")
    held_out = [(r.epoch, r.held_out_noisy_accuracy) for r in records if r.held_out_noisy_accuracy is not None]
    if held_out:
        right.plot(*zip(*held_out, strict=True), marker=".", label="held out, under noise")
    scores = [(record.epoch, record.selection_score) for record in records if record.selection_score is not None]
    if scores:
        right.plot(*zip(*scores, strict=True), marker="o", label="selection score")
    right.set(xlabel="epoch", ylabel="share of images")
    right.grid(alpha=0.3)
    right.legend(fontsize="small", loc="lower right")
    figure.suptitle(title, fontsize="medium")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(folder / CURVE_FILE, buffer.getvalue())
