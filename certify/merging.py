"""Joins the shards of a run into one run folder."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from certify.errors import CertifyError, RunMismatchError
from certify.files import make_folder, write_atomically
from certify.journal import Entry, Journal
from certify.rundir import BOUNDARY_FOLDER, KIND, RUN_FILE, Row, claim_folder, compare_identities, export, read_config

_KNOWN, _CLEAN = -1, -4
_BESIDE = (-2, -3, _CLEAN)
"""Keys of what a service was asked beside the votes; here once more, for its client needs more packages than a merge."""

_APART = 10**12


@dataclass(frozen=True)
class Merged:
    """What a merge found.

    Attributes:
        rows: All rows of the joined run, by index.
        shards: Shards that were read.
        missing: Planned inputs that no shard has finished.
        kind: "smoothing" (certify run) or "verify".
    """

    rows: tuple[Any, ...]
    shards: tuple[Path, ...]
    missing: tuple[int, ...]
    kind: str = KIND


@runtime_checkable
class Joiner(Protocol):
    """What differs between the kinds of runs that can be joined."""

    def claim(self, entry: Entry) -> str:
        """What two shards, or a shard and the whole, must agree on about one input."""
        ...

    def finish(self, folder: Path, config: dict[str, Any], journal: Journal, shards: Iterable[Path]) -> tuple[Any, ...]:
        """Copy files that rows name, write the exports, and return the rows."""
        ...


def merge_shards(folder: Path, *, allow_partial: bool = False) -> Merged:
    """Join `folder/shards/i-of-n` into `folder`: run.json, journal and exports of the whole.

    Every shard must belong to the same run (equal identity, equal selection). Merging again, for instance after the last
    shard has come in, adds what is new; an input with other votes (or, in a verification, other claims) than before is
    refused.

    Args:
        folder: The run folder that holds `shards/`.
        allow_partial: Join what is there although shards or inputs are missing; the result is marked as partial.

    Raises:
        CertifyError: If there are no shards, or some are missing or unfinished and `allow_partial` is not set.
        RunMismatchError: If shards belong to different runs, or hold different votes for one input.
    """
    found = _find(folder / "shards")
    counts = {n for _, n in found}
    if len(counts) != 1:
        raise RunMismatchError(
            f"{folder / 'shards'} holds shards of different splits: {', '.join(sorted(p.name for p in found.values()))}; "
            "keep the folders of one split there and move the others away"
        )
    (count,) = counts
    configs = {position: read_config(path) for (position, _), path in found.items()}
    first = configs[min(configs)]
    for position, config in configs.items():
        differences = compare_identities(first["identity"], config["identity"])
        if config["settings"]["selected"] != first["settings"]["selected"]:
            differences.append("the selections of inputs (--stride, --max, --indices) differ")
        if differences:
            shown = "\n".join(f"  {line}" for line in differences)
            cure = ""
            if _may_grow(first["identity"], config["identity"]):
                cure = "\nIf one of them was extended, repeat its command with --shard i/n for every other shard"
            raise RunMismatchError(f"shard {position} belongs to another run than shard {min(configs)}:\n{shown}{cure}")
    kinds = {str(config["kind"]) for config in configs.values()}
    if len(kinds) != 1:
        raise RunMismatchError(f"{folder / 'shards'} holds shards of different kinds: {', '.join(sorted(kinds))}")
    (kind,) = kinds
    joiner = _joiner(kind)
    entries = _collect(found, kind, joiner)
    missing = tuple(index for index in first["settings"]["selected"] if index not in entries)
    absent = sorted(set(range(count)) - set(configs))
    if missing and not allow_partial:
        what = f"shards {', '.join(map(str, absent))} of {count} are not there; " if absent else ""
        raise CertifyError(
            f"{what}{len(missing)} of {len(first['settings']['selected'])} inputs are not done yet (the first: "
            f"{missing[0]}); finish the shards, or pass --allow-partial for a result that is marked as partial"
        )
    settings: dict[str, Any] = {**first["settings"], "shard": None, "indices": first["settings"]["selected"]}
    if isinstance(settings.get("service"), dict):
        settings["service"] = _joined_service([config["settings"].get("service") or {} for config in configs.values()])
        known = {tuple(labels) for labels in map(_known_labels, found.values()) if labels}
        if len(known) > len({len(labels) for labels in known}):  # another number of them is no change
            settings["service"]["warnings"].append(
                "the shards do not agree on the service's labels of known images: it changed between them, and the inputs "
                "of each are certified for the service that it was then"
            )
    config = {**first, "settings": settings}
    _check_whole(folder, config, count)
    with Journal(folder, kind=kind, write=True) as journal:
        claim_folder(folder, config)
        there = {entry.index: entry for entry in journal.entries()}
        for index, entry in sorted(entries.items()):
            if index not in there:
                journal.record_input(index, entry.payload, entry.looks)
            elif there[index].looks != entry.looks or joiner.claim(there[index]) != joiner.claim(entry):
                raise RunMismatchError(f"{folder} already holds input {index}, with other {_what(kind)} than its shard")
        rows = joiner.finish(folder, config, journal, found.values())
    return Merged(rows, tuple(found.values()), missing, kind)


def _check_whole(folder: Path, config: dict[str, Any], count: int) -> None:
    """Raise unless the folder holds no run yet or that of the shards, with what to do about it.

    Raises:
        RunMismatchError: If it holds another one, or the same one extended without the shards, or not extended with them.
    """
    if not (folder / RUN_FILE).exists():
        return
    there = read_config(folder)
    differences = compare_identities(there["identity"], config["identity"])
    if not differences:
        return
    shown = "\n".join(f"  {line}" for line in differences)
    apart = f"move everything but shards/ out of {folder} and merge again: the result is then that of the shards alone"
    before, after = there["identity"].get("estimator"), config["identity"].get("estimator")
    if after in there["settings"].get("extended_from", ()):
        text = (
            f"{folder} has been extended since its shards were made: repeat that command with --shard i/{count} for every "
            f"shard, and merge then; or {apart}"
        )
    elif before in config["settings"].get("extended_from", ()):
        text = (
            f"the shards have been extended since they were merged into {folder}: {apart}; or repeat the command that "
            "extended them without --shard, which extends the whole itself"
        )
    else:
        text = f"{folder} holds another run than its shards do: {apart}"
    raise RunMismatchError(f"{text}. Differences between {folder} (the folder) and its shards (this run):\n{shown}")


def _may_grow(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two identities differ in their estimators alone, as those of a run before and after an extension do."""
    return not compare_identities({**one, "estimator": None}, {**other, "estimator": None}) and bool(
        compare_identities(one, other)
    )


class _SmoothingJoiner:
    def claim(self, entry: Entry) -> str:
        return json.dumps(entry.payload["certificate"], sort_keys=True)

    def finish(self, folder: Path, config: dict[str, Any], journal: Journal, shards: Iterable[Path]) -> tuple[Any, ...]:
        rows = tuple(Row.from_entry(entry) for entry in journal.entries())
        shards = tuple(shards)
        _copy_boundaries(shards, folder)
        _copy_answers(shards, journal)
        export(folder, rows)
        return rows


def _joined_service(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how a service was asked, and what clean images have shown, of all shards together.

    The permutation test of each shard is about its own images, so that the whole has no p-value.
    """
    clean = [part["preflight"] for part in parts if part.get("preflight")]
    warnings = dict.fromkeys(str(warning) for part in parts for warning in part.get("warnings") or ())
    sums = {key: sum(int(found[key]) for found in clean) for key in ("images", "right", "no_class")}
    return {**parts[0], "warnings": list(warnings), "preflight": {**sums, "p_value": None} if clean else None}


def _known_labels(shard: Path) -> list[str]:
    """Return the service's labels of the known images that a shard was watched by; empty without any."""
    with Journal(shard, kind=KIND) as part:
        return [label for _, _, label, _ in part.answers(_KNOWN)]


def _copy_answers(shards: Iterable[Path], journal: Journal) -> None:
    """Copy what a service answered about the inputs, so that the audit can recount it; other runs have no answers.

    What it was asked beside the votes comes along, for the report, and so do the labels of the known images: those of the
    first shard that has any.
    """
    for shard in shards:
        place = int(shard.name.partition("-of-")[0])
        with Journal(shard, kind=KIND) as part:
            if not journal.answers(_KNOWN):
                journal.record_answers((_KNOWN, *answer) for answer in part.answers(_KNOWN))
            for key in _BESIDE:
                # Numbers of their own for each shard; clean images are numbered by their input.
                first = 0 if key == _CLEAN else place * _APART
                there = {sample for _, sample, _, _ in journal.answers(key)}
                journal.record_answers(
                    (key, phase, first + sample, label, version)
                    for phase, sample, label, version in part.answers(key)
                    if first + sample not in there
                )
            for entry in part.entries():
                answers = part.answers(entry.index)
                if answers and not journal.answers(entry.index):
                    journal.record_answers((entry.index, *answer) for answer in answers)


def _joiner(kind: str) -> Joiner:
    if kind == KIND:
        return _SmoothingJoiner()
    from certify.verification.merging import VerifyJoiner
    from certify.verification.plan import KIND as VERIFY

    if kind == VERIFY:
        return VerifyJoiner()
    raise CertifyError(f"shards must be of certify run or certify verify to be joined, got kind {kind!r}")


def _what(kind: str) -> str:
    return "votes" if kind == KIND else "claims"


def _find(shards: Path) -> dict[tuple[int, int], Path]:
    found = {}
    for path in sorted(shards.iterdir()) if shards.is_dir() else []:
        match = re.fullmatch(r"(\d+)-of-(\d+)", path.name)
        if match and path.is_dir():
            found[int(match[1]), int(match[2])] = path
    if not found:
        raise CertifyError(
            f"there are no shards in {shards} (folders named i-of-n, made by certify run --shard i/n or certify verify)"
        )
    return found


def _copy_boundaries(shards: Iterable[Path], folder: Path) -> None:
    """Copy what the shards' tests were made of; a file is named by its hash, so that equal names are equal files."""
    for shard in shards:
        for path in sorted((shard / BOUNDARY_FOLDER).glob("*.json")):
            make_folder(folder / BOUNDARY_FOLDER)
            write_atomically(folder / BOUNDARY_FOLDER / path.name, path.read_text())


def _collect(found: dict[tuple[int, int], Path], kind: str, joiner: Joiner) -> dict[int, Entry]:
    entries: dict[int, Entry] = {}
    for path in found.values():
        with Journal(path, kind=kind) as journal:
            for entry in journal.entries():
                other = entries.setdefault(entry.index, entry)
                if other.looks != entry.looks or joiner.claim(other) != joiner.claim(entry):
                    raise RunMismatchError(
                        f"input {entry.index} stands in two shards with different {_what(kind)} ({path})"
                    )
    return entries
