"""Logs of answers: kept by one run, certified from offline by another, without asking the service again.

A log is JSON lines. The first says what the answers belong to, each further one is an answer `[key, phase, sample, label,
version]`, in the order of keys, phases and samples without a gap, and the last has their number and the SHA-256 of all
lines before it: a log that was cut, reordered or put together from two is refused.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from certify.blackbox.answers import ServiceError
from certify.blackbox.labels import LabelMap
from certify.blackbox.source import is_void
from certify.blackbox.stored import StoredAnswer, versions_of
from certify.errors import CertifyError
from certify.files import write_atomically
from smoothing.estimators.base import Look, Phase
from smoothing.noise_source import NoiseSource
from smoothing.votes import VoteRequest

FORMAT = "certify-answers-1"


def write_record(path: Path, header: Mapping[str, Any], answers: Iterable[StoredAnswer]) -> int:
    """Write a log, whole or not at all; return the number of answers.

    Args:
        path: File to write.
        header: What the answers belong to: law, noise, seed, digests, adapter, label map; JSON-ready.
        answers: In any order; sorted here.

    Raises:
        CertifyError: If the file cannot be written.
    """
    rows = sorted(answers, key=lambda row: (row.key, str(row.phase), row.sample))
    lines = [json.dumps({"format": FORMAT, **header}, sort_keys=True)]
    lines += [json.dumps([row.key, str(row.phase), row.sample, row.label, row.version]) for row in rows]
    body = "".join(line + "\n" for line in lines)
    end = json.dumps({"answers": len(rows), "sha256": hashlib.sha256(body.encode()).hexdigest()})
    write_atomically(path, body + end + "\n")
    return len(rows)


class Record:
    """A log that was read and checked, as a `VoteSource`.

    Args:
        path: The file.

    Raises:
        CertifyError: If it cannot be read, is no log, was cut or altered, or has a gap; the message names the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CertifyError(f"cannot read the log {path}: {getattr(error, 'strerror', None) or error}") from None
        lines = text.splitlines(keepends=True)
        self.header, rows = self._parse(lines)
        self._rows: dict[int, list[StoredAnswer]] = {}
        for number, row in enumerate(rows, 2):
            there = self._rows.setdefault(row.key, [])
            previous = [old.sample for old in there[-1:] if old.phase is row.phase]
            expected = previous[0] + 1 if previous else row.sample if row.sample < 0 else 0
            if row.sample != expected:
                raise CertifyError(
                    f"{path}, line {number}: expected sample {expected} of phase {row.phase} of input {row.key}, "
                    f"got sample {row.sample}: the log has a gap or another order"
                )
            there.append(row)

    def _parse(self, lines: list[str]) -> tuple[dict[str, Any], list[StoredAnswer]]:
        number = 1
        try:
            header = json.loads(lines[0])
            if header.pop("format") != FORMAT:
                raise ValueError("another format")
            number = len(lines)
            end = json.loads(lines[-1])
            body = "".join(lines[:-1])
            if end["answers"] != len(lines) - 2 or end["sha256"] != hashlib.sha256(body.encode()).hexdigest():
                raise CertifyError(f"{self.path} is not whole, or was altered: its last line does not fit the others")
            rows: list[StoredAnswer] = []
            for line in lines[1:-1]:
                number = len(rows) + 2
                key, phase, sample, label, version = json.loads(line)
                if version is not None and not isinstance(version, str):
                    raise CertifyError(
                        f"{self.path}, line {number}: the version of the service must be text or null, "
                        f"got {json.dumps(version)[:80]}"
                    )
                rows.append(StoredAnswer(int(key), Phase(phase), int(sample), str(label), version))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise CertifyError(f"{self.path}, line {number}: not a line of a log of answers ({FORMAT})") from None
        return header, rows

    def check(self, expected: Mapping[str, Any]) -> None:
        """Check that the log belongs to a run.

        Args:
            expected: What the header must say, member by member.

        Raises:
            CertifyError: If it says otherwise; the message names the member and both values.
        """
        for key, value in expected.items():
            if self.header.get(key) != value:
                raise CertifyError(
                    f"the log {self.path} belongs to another run: its {key} is {self.header.get(key)!r}, "
                    f"but this run has {value!r}"
                )

    @property
    def keys(self) -> tuple[int, ...]:
        """Inputs that the log has answers of, ascending."""
        return tuple(sorted(self._rows))

    def find(self, index: int) -> list[StoredAnswer]:
        """Return the answers of one input."""
        return self._rows.get(index, [])


class RecordedVotes:
    """Votes from a log.

    Args:
        record: The log.
        labels: From labels to classes.
        noise: Who drew the noisy copies, for the certificates' record.
    """

    def __init__(self, record: Record, labels: LabelMap, noise: NoiseSource) -> None:
        self.record = record
        self.noise = noise
        self.labels = labels
        self.num_classes = labels.num_classes

    def votes(self, requests: Sequence[VoteRequest]) -> Iterator[tuple[VoteRequest, Int64[ndarray, " outcomes"]]]:
        """Yield every request with its counts; see `VoteSource`.

        Raises:
            ServiceError: If the log lacks an answer that is asked for.
        """
        for request in requests:
            rows = self.record.find(request.index)
            counts = np.zeros(self.num_classes + 1, dtype=np.int64)
            found = [row for row in rows if row.phase is request.phase and request.start <= row.sample < request.stop]
            if len(found) != request.stop - request.start:
                raise ServiceError(
                    f"the log {self.record.path} lacks answers of input {request.index}: phase {request.phase} needs "
                    f"samples {request.start} to {request.stop - 1}, {len(found)} are there"
                )
            outcomes = [self.labels.outcome_of(row.label or None) for row in found]
            np.add.at(counts, outcomes, 1)
            if is_void(versions_of(rows)):
                counts[:] = 0
                counts[-1] = len(found)
            yield request, counts

    def voided(self, index: int) -> bool:
        """See `certify.voiding.Voiding`."""
        return is_void(versions_of(self.record.find(index)))

    def settle(self, looks: Mapping[int, Sequence[Look]]) -> None:
        """See `certify.voiding.Voiding`.

        Raises:
            ServiceError: If the log lacks an answer.
        """
        requests = [VoteRequest(index, look.phase, 0, look.n) for index, own in looks.items() for look in own]
        for _ in self.votes(requests):
            pass
