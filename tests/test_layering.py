"""The floors: imports point downwards only, there are no cycles, and nothing heavy is imported for a help page."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import certify
import denoisers
import smoothing
import verify

PACKAGES = {package.__name__: Path(str(package.__file__)).parent for package in (smoothing, denoisers, verify, certify)}
MAY_IMPORT = {
    "smoothing": {"smoothing"},
    "denoisers": {"denoisers", "smoothing"},
    "verify": {"verify", "smoothing"},
    "certify": {"certify", "denoisers", "verify", "smoothing"},
}
MODULES = {
    ".".join((name, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"): path
    for name, root in PACKAGES.items()
    for path in sorted(root.rglob("*.py"))
}


def imported(path: Path, *, top_level_only: bool) -> set[str]:
    """All modules of the four packages that a file imports, optionally only when it is itself imported."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return {name for name in found if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_downwards(name: str) -> None:
    package = name.split(".", maxsplit=1)[0]
    wrong = {m for m in imported(MODULES[name], top_level_only=False) if m.split(".")[0] not in MAY_IMPORT[package]}
    assert not wrong, f"{name} must not import {sorted(wrong)}"


def test_no_import_cycles() -> None:
    graph = {name: imported(path, top_level_only=True) & set(MODULES) for name, path in MODULES.items()}
    # A package's __init__ re-exports its modules; a module that imports a sibling by its full name does not go through it.
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join((*trail[trail.index(name) :], name))}"
        if name in done:
            return
        for target in sorted(graph[name]):
            walk(target, (*trail, name))
        done.add(name)

    for name in sorted(graph):
        walk(name, ())


def test_nothing_prints_in_smoothing() -> None:
    for name, path in MODULES.items():
        if name.startswith("smoothing"):
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], name


def test_nothing_is_evaluated_or_unpickled_by_default() -> None:
    for name, path in MODULES.items():
        for call in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)):
            function = call.func
            called = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            assert not (isinstance(function, ast.Name) and called in {"eval", "exec"}), name
            if (
                called == "load"
                and isinstance(function, ast.Attribute)
                and getattr(function.value, "id", "") == "torch"
            ):
                assert any(keyword.arg == "weights_only" for keyword in call.keywords), f"{name}: torch.load"


HEAVY = ("torch", "numpy", "scipy", "matplotlib", "pandas", "statsmodels", "sklearn", "torchvision")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["report", "--help"], ["radius", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom certify.cli import main\n"
        f"code = main({arguments!r})\n"
        f"print('HEAVY', sorted(m for m in {HEAVY!r} if m in sys.modules))\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("HEAVY []"), done.stdout[-200:]
    assert "certify" in done.stdout
