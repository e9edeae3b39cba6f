"""Fixtures shared by all tests."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Test processes run beside each other, one per core: more threads in each would only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tables computed by tests are not left in anybody's cache, and none is read from there.
os.environ["CERTIFY_CACHE"] = tempfile.mkdtemp(prefix="wulff-tests-")

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have counted, `record_property("counts", text)`: in whichever process they ran, and if they pass."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    lines = sorted(
        f"{report.nodeid.rpartition('::')[2]}: {text}"
        for report in reports
        for name, text in report.user_properties
        if name == "counts"
    )
    if lines:
        terminalreporter.section("counts")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def untyped() -> Iterator[None]:
    """Off with the checks of types, behind which users never see a message of ours."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the real data sets beside the repository are absent")
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20260725)
