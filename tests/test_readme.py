"""The README says what is true: its Python runs, its commands exist, and the gate runs the two that a new user types."""

import re
import shlex
from pathlib import Path

import pytest

from certify.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
LINES = sorted(
    {
        line
        for match in re.finditer(r"^(certify .*)$|`(certify [a-z]+ [^`]*)`", README.replace("\\\n", " "), re.MULTILINE)
        for line in match.groups()
        if line
    }
)


def test_python_block_runs(capsys: pytest.CaptureFixture[str]) -> None:
    block, *others = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    exec(compile(block, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 4
    for other in others:
        exec(compile(other, "README.md", "exec"), {})


@pytest.mark.parametrize("line", LINES)
def test_commands_and_options_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line, comments=True)
    if words[1] == "COMMAND":
        return
    command = words[1:3] if words[1] == "denoise" else words[1:2]
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--") and word != "--help"):
        assert re.search(rf"{re.escape(option)}\b", text), f"{option} is not an option of certify {words[1]}"


def test_the_gate_finds_its_commands() -> None:
    install, tests = (re.search(rf"<!-- {name} -->\n```\n(.*)\n```", README) for name in ("ci:install", "ci:tests"))
    assert install is not None
    assert install[1].endswith("certify demo")
    assert tests is not None
    assert tests[1].endswith("pytest")


def test_pictures_are_there() -> None:
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README, re.DOTALL):
        assert (ROOT / picture).stat().st_size < 300_000


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"[A-Z]+_SECTION|TODO|TBD", README)
