"""Runs to report, and what every page of a report must be."""

from collections.abc import Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch

from certify.datasets import Dataset, load_dataset
from certify.journal import Journal
from certify.rundir import KIND, Row, claim_folder, export
from certify.runner import input_digest
from smoothing import Gaussian
from smoothing.certificate import issue_certificate
from smoothing.estimators.base import Estimate, Look, Phase, Status
from smoothing.noise import NOISE_VERSION
from smoothing.threat import Norm

COHEN = "data/published_certify_logs/cohen2019_cifar10_resnet110"
HOSTILE = "a<script>alert(1)</script>|\\input{x}$\\frac$%&_#^~[l](u)`"
N = 1000
FILES = {"table.md", "table.csv", "table.tex", "certified_accuracy.png", "certified_accuracy.pdf", "report.html"}

Outcome = tuple[int | None, float]
"""Prediction and upper bound on 1 - p of one input."""


@cache
def digits() -> Dataset:
    return load_dataset("digits")


def make_estimate(prediction: int | None, q_upper: float, classes: int = 10, invalid: int = 7) -> Estimate:
    counts = [0] * (classes + 1)
    top = 0 if prediction is None else prediction
    counts[top] = round(N * (1 - q_upper))
    counts[(top + 1) % classes] = N - counts[top] - invalid
    counts[-1] = invalid
    looks = (Look(Phase.SELECT, 10, (10, *[0] * classes)), Look(Phase.ESTIMATE, N, tuple(counts)))
    status = Status.ABSTAINED if prediction is None else Status.CERTIFIED
    return Estimate(status, prediction, 1 - q_upper, q_upper, None, 0.001, looks)


def make_run(
    folder: Path,
    outcomes: Sequence[Outcome],
    *,
    planned: int | None = None,
    sigma: float = 0.5,
    settings: dict[str, Any] | None = None,
    identity: dict[str, Any] | None = None,
    data: Dataset | None = None,
    invalid: Sequence[int] = (),
    certified: Sequence[int] | None = None,
) -> Path:
    """A run folder over the first digits of the test split (or `certified` inputs of `data`), as `certify run` leaves it.

    Every input has 7 invalid votes, or what `invalid` says for each.
    """
    data = data or digits()
    indices = list(range(len(outcomes))) if certified is None else list(certified)
    shape = data.require_shape()
    law = Gaussian(shape, sigma=sigma)
    folder.mkdir(parents=True)
    claim_folder(
        folder,
        {
            "schema": 1,
            "kind": KIND,
            "identity": {
                "model_digest": "ab" * 32,
                "data_digest": data.digest(),
                "split": "test",
                "input_shape": list(shape),
                "num_classes": 10,
                "law": law.describe(),
                "norm": "l2",
                "convert_from": None,
                "estimator": {"name": "fixed", "n0": 10, "n": N, "alpha": 0.001},
                "seed": 7,
                "noise_version": NOISE_VERSION,
                "precision": "fp32",
                "channels_last": False,
                "compile": False,
                "batch_size": 256,
                "transform": None,
                "device_kind": "cpu",
                "device_name": None,
                "torch_version": torch.__version__,
                **(identity or {}),
            },
            "settings": {
                "model": "models/digits",
                "data": "digits",
                "data_root": None,
                "indices": indices if planned is None else list(range(planned)),
                "data_size": len(data),
                "class_names": list(data.class_names),
                "shard": None,
                "command": ["certify", "run", "models/digits"],
                "trust_pickle": False,
                **(settings or {}),
            },
            "environment": {"tool": "0.1.0", "torch": torch.__version__, "started": "2026-01-01T00:00:00+0000"},
        },
    )
    with Journal(folder, kind=KIND, write=True) as journal:
        for i, (index, (prediction, q_upper)) in enumerate(zip(indices, outcomes, strict=True)):
            certificate = issue_certificate(
                make_estimate(prediction, q_upper, invalid=invalid[i] if invalid else 7),
                law,
                Norm.L2,
                index=index,
                seed=7,
                noise_version=NOISE_VERSION,
            )
            payload = {
                "label": int(data.targets[index]),
                "certificate": certificate.to_dict(),
                "seconds": 0.25,
                "input_sha256": input_digest(data.inputs([index])[0]),
            }
            journal.record_input(index, payload, certificate.looks)
        export(folder, [Row.from_entry(entry) for entry in journal.entries()])
    return folder


def some_outcomes(count: int = 12) -> list[Outcome]:
    """Wrong at 1 and 4, abstained at 2, else right with radii that differ."""
    labels = digits().targets
    outcomes: list[Outcome] = [(int(labels[i]), 0.01 + 0.03 * i / count) for i in range(count)]
    outcomes[1] = ((int(labels[1]) + 3) % 10, 0.2)
    outcomes[2] = (None, 0.6)
    outcomes[4] = ((int(labels[4]) + 3) % 10, 0.1)
    return outcomes


class _Page(HTMLParser):
    """What a browser would load, and the structure of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str]] = []
        self.open: list[str] = []
        self.strips: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        self.links += [values[key] for key in ("href", "src", "srcset", "action", "data") if key in values]
        assert not [key for key in values if key.startswith("on")]
        if tag == "img":
            self.images.append(values)
        if tag == "article":
            self.strips.append(values["class"])
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read_page(path: Path) -> tuple[_Page, str]:
    """Parse a page and check what every page must be: whole, offline, described, without script, under 1 MB."""
    data = path.read_bytes()
    assert len(data) < 1_000_000
    text = data.decode()
    page = _Page(text)
    assert page.open == []
    assert all(link.startswith("data:") for link in page.links)
    assert all(image["alt"] for image in page.images)
    assert "script" not in page.tags
    assert "link" not in page.tags
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    return page, " ".join(" ".join(page.texts).split())
