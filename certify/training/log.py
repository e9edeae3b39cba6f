"""`train.csv`: one row an epoch."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from certify.errors import CertifyError
from certify.files import write_atomically

LOG_FILE = "train.csv"
PENDING_LOG_FILE = "train.csv.partial"
"""Name of the log until the checkpoint that it belongs to is there."""


@dataclass(frozen=True)
class EpochRecord:
    """One row of the log.

    Attributes:
        epoch: Epoch, from 1.
        learning_rate: Rate of its last step.
        loss: Mean loss over its steps.
        noisy_accuracy: Share of its noisy training examples whose label the model returned.
        held_out_noisy_accuracy: The same for the held-out examples after the epoch; None where none are held out.
        images_per_second: Speed of the training.
        seconds: Time of the training, without the evaluation.
        selection_score: Score of the weights after the epoch (`certify.training.selection`); None where there was no look.
    """

    epoch: int
    learning_rate: float
    loss: float
    noisy_accuracy: float
    held_out_noisy_accuracy: float | None
    images_per_second: float
    seconds: float
    selection_score: float | None = None


class TrainingLog:
    """The rows so far on disk, whole after every epoch.

    While the training runs they stand in `train.csv.partial`, so that the log of a checkpoint that is about to be
    replaced stays with it; `finish` gives them their name. A training that was interrupted leaves the partial log.

    Args:
        folder: The checkpoint folder, which exists.
        records: Rows of a training that is resumed.

    Raises:
        CertifyError: If it cannot be written to; found before the training and not after it.
    """

    def __init__(self, folder: Path, records: Sequence[EpochRecord] = ()) -> None:
        self._folder = folder
        self._records = list(records)
        self._write()

    @property
    def records(self) -> tuple[EpochRecord, ...]:
        """The rows so far."""
        return tuple(self._records)

    def add(self, record: EpochRecord) -> None:
        """Append a row."""
        self._records.append(record)
        self._write()

    def finish(self) -> None:
        """Make it the log of the checkpoint in the folder."""
        try:
            os.replace(self._folder / PENDING_LOG_FILE, self._folder / LOG_FILE)
        except OSError as error:
            raise CertifyError(f"cannot write {self._folder / LOG_FILE}: {error.strerror or error}") from error

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([field.name for field in fields(EpochRecord)])
        writer.writerows(["" if value is None else value for value in astuple(record)] for record in self._records)
        write_atomically(self._folder / PENDING_LOG_FILE, text.getvalue())
