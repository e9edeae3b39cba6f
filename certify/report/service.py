"""What a report says of a run on a prediction service: who answered, by which rules, and what the journal holds of it."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from certify.errors import CertifyError
from certify.journal import FILE_NAME as JOURNAL_FILE
from certify.journal import NOT_ASKED

# Written here once more: a report needs none of the packages that the client of a service needs.
_VOID = "void"
_CANARY_KEY = -1
_QUESTION_KEY = -2
_UNANSWERED_KEY = -3
_PREFLIGHT_KEY = -4
_TENSORS = ("oip", "onnxruntime", "callable")
"""Adapters that send numbers; all others send PNG."""


@dataclass(frozen=True)
class AnswerCounts:
    """What the journal holds of a service's answers about the finished inputs of a run.

    Attributes:
        answers: Samples that the service was asked about.
        no_label: Of these, without a label: refusals, empty or unreadable answers, retries that ran out.
        outside: Of these, with a label outside the mapping.
        no_version: Of these, without a version.
        not_asked: Samples that were not asked about any more, because their input was void already.
        versions: Versions that the service named, sorted.
        void: Inputs that are void, ascending.
        canaries: Known images whose labels were stored at the first check; 0 where there was none.
        questions: Images of questions that are no votes: the one before the first vote, and known images.
        clean: Images that were asked about without noise, before the votes.
        unanswered: Images that were sent and never answered.
    """

    answers: int
    no_label: int
    outside: int
    no_version: int
    not_asked: int
    versions: tuple[str, ...]
    void: tuple[int, ...]
    canaries: int
    questions: int = 0
    clean: int = 0
    unanswered: int = 0


@dataclass(frozen=True)
class ServiceFacts:
    """A service as a base classifier.

    Attributes:
        adapter: Name of the adapter.
        model: What the service was asked for: the model's name, where the adapter has one.
        address: Scheme, host and port; None where the adapter knows none.
        png: Whether images went out as PNG, rather than as numbers.
        denoiser: What stood before the 8-bit step; None for nothing.
        is_random: Whether the service was declared random by design; None where that is not recorded.
        from_record: Whether the answers were read from a log; None where that is not recorded.
        counts: What the journal holds; None where it holds no answers.
        warnings: What the run itself warned of.
        preflight: What clean images showed before the votes: "images", "right", "no_class", "p_value" (None for merged
            shards, of which each has its own); None without any.
    """

    adapter: str
    model: str | None
    address: str | None
    png: bool
    denoiser: str | None
    is_random: bool | None
    from_record: bool | None
    counts: AnswerCounts | None
    warnings: tuple[str, ...] = ()
    preflight: dict[str, Any] | None = None

    @property
    def classifier(self) -> str:
        """The base classifier f in words."""
        model = "the model" if self.model is None else f"the model {self.model}"
        where = "" if self.address is None else f" of the service {self.address}"
        denoised = "" if self.denoiser is None else f"the denoiser {self.denoiser[:40]}, "
        png = " and PNG" if self.png else ""
        return (
            f"{model}{where}, asked by the {self.adapter} adapter, behind {denoised}clipping to [0, 1] and rounding to 8 "
            f"bits{png}"
        )

    def sentences(self) -> list[str]:
        """Return the rules by which answers became votes, and how often each of them was needed."""
        found = [
            f"f is {self.classifier}. The noise is added first; whatever comes after it belongs to the base classifier f, "
            "so that the certificates are about every input x, also one that is no 8-bit image.",
            "No vote is dropped: a refusal, an empty or unreadable answer, a label outside the mapping and retries that ran "
            f"out are an outcome of their own, which counts against the top class. {self._failures()}",
            f"{self._versions()} An input whose answers come from two versions, or that was asked between a good and a bad "
            f"check of the canaries, is void: all of its votes count against every class. {self._void()}",
            self._canaries(),
            *self._beside(),
        ]
        if self.from_record:
            found.append("The answers were read from a log of an earlier run; the service was not asked.")
        return [*found, *(f"The run warned: {warning}." for warning in self.warnings)]

    def _failures(self) -> str:
        counts = self.counts
        if counts is None:
            return "How many of these there were is not recorded here: the journal holds no answers."
        skipped = (
            f" {counts.not_asked:,} further votes were not asked for, because their input was void already."
            if counts.not_asked
            else ""
        )
        return (
            f"Of {counts.answers:,} stored answers, {counts.no_label:,} have no label and {counts.outside:,} one outside "
            f"the mapping.{skipped}"
        )

    def _versions(self) -> str:
        counts = self.counts
        if counts is None:
            return "Which versions the service named is not recorded here."
        if not counts.versions:
            return "The service named no version."
        shown = ", ".join(counts.versions[:8]) + (", ..." if len(counts.versions) > 8 else "")
        some = f" ({counts.no_version:,} answers name none)" if counts.no_version else ""
        return f"{'Version' if len(counts.versions) == 1 else 'Versions'} that the service named: {shown}{some}."

    def _void(self) -> str:
        counts = self.counts
        if counts is None:
            return ""
        shown = ", ".join(map(str, counts.void[:8])) + (", ..." if len(counts.void) > 8 else "")
        return f"Void inputs: {len(counts.void):,} (input {shown})." if counts.void else "Void inputs: none."

    def _canaries(self) -> str:
        declared = {
            True: "The service was declared random by design.",
            False: "The service was not declared random.",
            None: "Whether the service was declared random is not recorded.",
        }[self.is_random]
        counts = self.counts
        if counts is not None and counts.canaries:
            return f"{declared} Canaries: {counts.canaries} known images, asked for before, during and after the run."
        if self.is_random:
            return f"{declared} Canaries would mean nothing, and were off."
        if self.from_record or counts is None:
            return f"{declared} Whether canaries were used is not recorded here."
        unversioned = not self.warnings and (not counts.versions or counts.no_version > 0)
        trust = (
            " That one and the same service gave all answers without a version is taken on trust."
            if unversioned
            else ""
        )
        return f"{declared} Canaries: none.{trust}"

    def _beside(self) -> list[str]:
        """What was sent and is no part of any certificate; nothing where nothing was."""
        counts, found = self.counts, []
        if counts is None:
            return []
        if counts.clean:
            right = ""
            if self.preflight is not None:
                right = f", of which the service got {int(self.preflight['right']):,} right"
            found.append(f"{counts.clean:,} clean images before the votes{right}")
        if counts.questions:
            found.append(f"{counts.questions:,} other images (the question before the first vote, known images)")
        sentences = []
        if found:
            sentences.append(f"Beside the votes the service was asked about {' and '.join(found)}.")
        if counts.unanswered:
            sentences.append(
                f"{counts.unanswered:,} images were sent without an answer (time-outs, lost connections, errors of the "
                "server, kills); they may have been billed, and count against a budget."
            )
        if sentences:
            sentences.append("None of these is part of any certificate.")
        return [" ".join(sentences)] if sentences else []

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-ready data."""
        counts = None if self.counts is None else asdict(self.counts)
        if counts is not None:
            counts |= {"versions": list(counts["versions"]), "void": list(counts["void"])}
        return {**asdict(self), "counts": counts, "warnings": list(self.warnings)}


def read_service(folder: Path, config: dict[str, Any], finished: Iterable[int]) -> ServiceFacts | None:
    """Return what a run folder says of the service that gave its votes; None where the model ran on a machine.

    Args:
        folder: The run folder.
        config: Content of its `run.json`.
        finished: Inputs that have a certificate; answers about others have proved nothing yet.

    Raises:
        CertifyError: If the description of the service, or its answers, cannot be read.
    """
    service = config["identity"].get("service")
    if service is None:
        return None
    called = config["settings"].get("service") or {}
    try:
        adapter = service["adapter"]
        name = str(adapter["adapter"])
        model = adapter.get("model") or adapter.get("project_version")
        counts = _count(folder / JOURNAL_FILE, set(finished), service["labels"])
        return ServiceFacts(
            adapter=name,
            model=None if model is None else str(model),
            address=_address(adapter.get("url") or adapter.get("endpoint_url")),
            png=name not in _TENSORS,
            denoiser=service.get("denoiser"),
            is_random=called.get("random"),
            from_record=called.get("from_record"),
            counts=counts,
            warnings=tuple(str(warning) for warning in called.get("warnings") or ()),
            preflight=called.get("preflight"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CertifyError(
            f"{folder / 'run.json'} is damaged: it does not describe its service ({type(error).__name__} {error})"
        ) from None


def _count(journal: Path, finished: set[int], labels: dict[str, Any]) -> AnswerCounts | None:
    classes, total = labels["classes"], int(labels["num_classes"])
    query = 'SELECT "index", sample >= 0, label, version, count(*) FROM answers GROUP BY 1, 2, 3, 4'
    try:
        with closing(sqlite3.connect(f"{journal.resolve().as_uri()}?mode=ro", uri=True, timeout=10.0)) as connection:
            there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            groups = connection.execute(query).fetchall() if "answers" in there else []
    except sqlite3.Error as error:
        raise CertifyError(f"{journal}: its answers cannot be read: {error}") from None
    if not groups:
        return None
    beside = {
        _CANARY_KEY: "canaries",
        _QUESTION_KEY: "questions",
        _PREFLIGHT_KEY: "clean",
        _UNANSWERED_KEY: "unanswered",
    }
    found = dict.fromkeys(("answers", "no_label", "outside", "no_version", "not_asked", *beside.values()), 0)
    versions: dict[int, set[str | None]] = {}
    for index, is_sample, label, version, count in groups:
        if index in beside:
            found[beside[index]] += count
        if index not in finished:
            continue
        if label or version is not None:  # an answer with neither is no second version
            versions.setdefault(index, set()).add(version)
        if not is_sample:
            continue
        if version == NOT_ASKED:
            found["not_asked"] += count
            continue
        found["answers"] += count
        found["no_version"] += count if version is None else 0
        if not label:
            found["no_label"] += count
        elif label not in classes if classes else not (label.isascii() and label.isdecimal() and int(label) < total):
            found["outside"] += count
    named = {version for own in versions.values() for version in own if version is not None}
    named -= {_VOID, NOT_ASKED}
    void = sorted(index for index, own in versions.items() if _VOID in own or len(own) > 1)
    return AnswerCounts(**found, versions=tuple(sorted(named)), void=tuple(void))


def _address(url: Any) -> str | None:
    """Return scheme, host and port of a URL: what is behind them may hold a key."""
    try:
        parts = urlsplit(str(url))
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    return f"{parts.scheme}://{parts.hostname}{port}" if parts.hostname else None
