"""`training.pt`: everything that an interrupted training needs to go on; nothing else is ever read from it."""

import io
import pickle
import warnings
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch

from certify.errors import CertifyError, RunMismatchError
from certify.files import write_atomically
from certify.rundir import compare_identities
from certify.training.log import EpochRecord

STATE_FILE = "training.pt"
_SCHEMA = 1


@dataclass(frozen=True)
class SavedTraining:
    """What `training.pt` holds.

    Attributes:
        identity: What defines the training, JSON-ready: data, law, objective, configuration.
        trainer: `Trainer.state_dict()`.
        records: The rows of the log so far.
        best: The best epoch so far: {"epoch", "score", "model"}, or None.
        seconds: Wall time so far.
    """

    identity: dict[str, Any]
    trainer: dict[str, Any]
    records: tuple[EpochRecord, ...]
    best: dict[str, Any] | None
    seconds: float


def save_training(folder: Path, saved: SavedTraining) -> None:
    """Write `training.pt`, whole or not at all.

    Raises:
        CertifyError: If it cannot be written; the one before it is untouched.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "schema": _SCHEMA,
            "identity": saved.identity,
            "trainer": saved.trainer,
            "records": [list(astuple(record)) for record in saved.records],
            "best": saved.best,
            "seconds": saved.seconds,
        },
        buffer,
    )
    write_atomically(folder / STATE_FILE, buffer.getvalue())


def load_training(folder: Path) -> SavedTraining | None:
    """Read `training.pt`, or return None where there is none.

    Only tensors, numbers and text are unpickled.

    Raises:
        CertifyError: If it is damaged or of another version.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the pickle protocol of a file that is not ours
            content = torch.load(path, map_location="cpu", weights_only=True)
        if content["schema"] != _SCHEMA:
            raise CertifyError(
                f"{path} must have schema {_SCHEMA}, got {content['schema']}; start anew with --overwrite"
            )
        return SavedTraining(
            content["identity"],
            content["trainer"],
            tuple(EpochRecord(*values) for values in content["records"]),
            content["best"],
            content["seconds"],
        )
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise CertifyError(
            f"{path} is damaged ({type(error).__name__}{': ' + reason[0] if reason else ''}): "
            "start the training anew with --overwrite"
        ) from error


def check_same(saved: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """Check that an interrupted training is the one that is asked for.

    Raises:
        RunMismatchError: If it is not; the message shows the differences.
    """
    differences = compare_identities(saved, wanted)
    if differences:
        raise RunMismatchError(
            f"{folder} holds an interrupted training of another configuration ({'; '.join(differences)}): repeat its own "
            "command to go on with it, choose another --out, or give --overwrite to start anew"
        )


def drop_training(folder: Path) -> None:
    """Remove `training.pt` once it is not needed any more."""
    (folder / STATE_FILE).unlink(missing_ok=True)
