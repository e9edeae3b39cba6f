"""The parts of a record that repeat `run.json`: law, norm, seed, alpha and the rest must be those of the run."""

from typing import Any

from certify.audit import fields
from certify.audit.findings import Findings
from certify.audit.folder import RawRow
from certify.audit.spec import RunSpec
from certify.audit.statement import GUARANTEE, covers_text, from_parting


def check_record(row: RawRow, spec: RunSpec, found: Findings) -> dict[str, Any] | None:
    """Check everything in a record but the votes and what follows from them.

    Returns:
        The certificate as recorded, or None where there is none to go on with.
    """
    index = row.index
    found.require_equal(index, "status of the row", row.status, "done")
    if index < 0 or (spec.data_size is not None and index >= spec.data_size):
        found.add(index, "index", index, f"an index of the data set, 0..{(spec.data_size or 0) - 1}")
    if row.payload is None:
        found.add(index, "payload", "no JSON object", "a JSON object with a certificate")
        return None
    label = fields.integer(row.payload.get("label"))
    if label is None or not 0 <= label < spec.num_classes:
        found.add(index, "label", row.payload.get("label"), f"a class, 0..{spec.num_classes - 1}")
    seconds = fields.number(row.payload.get("seconds"))
    if seconds is None or seconds < 0:
        found.add(index, "seconds", row.payload.get("seconds"), "a number of at least 0")
    if not _is_sha256(row.payload.get("input_sha256")):
        found.add(index, "input_sha256", row.payload.get("input_sha256"), "64 hexadecimal digits")
    certificate = fields.mapping(row.payload.get("certificate"))
    if certificate is None:
        found.add(index, "certificate", row.payload.get("certificate"), "a JSON object")
        return None
    _check_settings(index, certificate, spec, found)
    return certificate


def _check_settings(index: int, certificate: dict[str, Any], spec: RunSpec, found: Findings) -> None:
    promised = {
        "index": index,
        "law": spec.law,
        "norm": spec.norm,
        "converted_from": spec.convert_from,
        "alpha": spec.alpha,
        "seed": spec.seed,
        "noise_version": spec.noise_version,
        "precision": spec.precision,
    }
    if spec.slack or "probability_slack" in certificate:
        promised["probability_slack"] = spec.slack
    for key, value in promised.items():
        source = "the row's index" if key == "index" else "run.json"
        if not _same(certificate.get(key, _ABSENT), value):
            found.add(index, key, certificate.get(key, _ABSENT), f"{value!r}, by {source}")
    for key, words in (("guarantee", GUARANTEE), ("covers", covers_text(spec))):
        text = fields.text(certificate.get(key))
        if not text:
            found.add(index, key, certificate.get(key, _ABSENT), "the words that say what is proved, and what is not")
        elif words is not None and text != words:
            here, there = from_parting(text, words)
            found.add(index, key, here, f"{there!r}: the words of a run with this noise and this norm")


def _same(recorded: Any, promised: Any) -> bool:
    # 1 == 1.0 == True in Python, but not in a record: an alpha of 1 or a seed of true was not written by a run.
    if isinstance(promised, dict) and isinstance(recorded, dict):
        return set(recorded) == set(promised) and all(_same(recorded[key], promised[key]) for key in promised)
    if isinstance(promised, list) and isinstance(recorded, list):
        return len(recorded) == len(promised) and all(map(_same, recorded, promised))
    return type(recorded) is type(promised) and bool(recorded == promised)


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()
