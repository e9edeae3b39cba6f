"""What is special about joining the shards of a verification: claims instead of votes, and files of arrays."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from certify.errors import CertifyError
from certify.files import make_folder, write_atomically
from certify.journal import Entry, Journal
from certify.verification.arrays import FOLDER, arrays_path
from certify.verification.exports import export
from certify.verification.row import VerifyRow

_OWN = ("seconds", "device", "notes", "arrays_sha256")
"""What may differ between two answers to one question: how long it took, where, and the last digits of slopes."""


class VerifyJoiner:
    """See `certify.merging.Joiner`."""

    def claim(self, entry: Entry) -> str:
        """Return everything that was found out about an input."""
        return json.dumps({key: value for key, value in entry.payload.items() if key not in _OWN}, sort_keys=True)

    def finish(
        self, folder: Path, config: dict[str, Any], journal: Journal, shards: Iterable[Path]
    ) -> tuple[VerifyRow, ...]:
        """Copy the arrays that the rows name, and write the exports.

        Raises:
            CertifyError: If a file of arrays cannot be read, or is in no shard as its row names it.
        """
        rows = tuple(VerifyRow.from_entry(entry) for entry in journal.entries())
        make_folder(folder / FOLDER)
        places = [folder, *shards]
        for row in rows:
            if row.arrays_sha256 is not None:
                _fetch(row.index, row.arrays_sha256, places)
        export(folder, config, rows)
        return rows


def _fetch(index: int, sha256: str, places: Sequence[Path]) -> None:
    """Copy the arrays of an input to the first place from whichever has them: by content, for two shards may differ."""
    for place in places:
        path = arrays_path(place, index)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CertifyError(f"cannot read {path}: {error.strerror or error}") from None
        if hashlib.sha256(data).hexdigest() == sha256:
            if place != places[0]:
                write_atomically(arrays_path(places[0], index), data)
            return
    raise CertifyError(
        f"the arrays of input {index} with the sha256 {sha256} that its row names must lie in a shard, got none; verify it "
        "again in a new folder"
    )
