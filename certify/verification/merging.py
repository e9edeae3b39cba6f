"""What is special about joining the shards of a verification: claims instead of votes, and files of arrays."""

import json
from collections.abc import Iterable
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
            CertifyError: If a file of arrays cannot be read.
        """
        rows = tuple(VerifyRow.from_entry(entry) for entry in journal.entries())
        wanted = {row.index for row in rows if row.arrays_sha256 is not None}
        make_folder(folder / FOLDER)
        for shard in shards:
            for index in sorted(wanted):
                if (path := arrays_path(shard, index)).is_file() and not arrays_path(folder, index).exists():
                    try:
                        write_atomically(arrays_path(folder, index), path.read_bytes())
                    except OSError as error:
                        raise CertifyError(f"cannot read {path}: {error.strerror or error}") from None
        export(folder, config, rows)
        return rows
