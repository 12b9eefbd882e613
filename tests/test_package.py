"""The generated package: its size, its import graph, and that its own checks pass."""

import ast
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import HOSTILE, PROJECT, SOURCE, TEMPLATE

FILES = sorted(SOURCE.rglob("*.py"))
CORE = ("data", "model", "metrics", "trainer", "train")
ROOTS = ("train", "evaluate", "reproduce", "__main__")  # all that may import a sibling
# Besides torch; numpy in what seeds it.
THIRD_PARTY = {"config": {"yaml"}, "data": {"numpy"}, "logger": {"tensorboard", "tqdm"}}
BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try, ast.Match)


@pytest.fixture(scope="module")
def project(hostile_bake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the hostile project, for tools that leave their caches in it."""
    return shutil.copytree(hostile_bake, tmp_path_factory.mktemp("tools") / hostile_bake.name)


def code_lines(path: Path) -> int:
    """Its lines that are neither blank nor a comment."""
    lines = (line.strip() for line in path.read_text("utf-8").splitlines())
    return sum(1 for line in lines if line and not line.startswith("#"))


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    tree = ast.parse(path.read_text("utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def length(function: ast.FunctionDef) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def nesting(node: ast.AST) -> int:
    """The levels of blocks below a node, in which an elif counts for no more than its if."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and node.orelse == [child] and isinstance(child, ast.If)
        deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    """The level (1: a sibling) and the dotted name of each import below a node."""
    for found in ast.walk(node):
        if isinstance(found, ast.Import):
            yield from ((0, alias.name) for alias in found.names)
        elif isinstance(found, ast.ImportFrom) and found.module:
            yield found.level, found.module
        elif isinstance(found, ast.ImportFrom):
            yield from ((found.level, alias.name) for alias in found.names)


def check(*command: str, folder: Path, **variables: str) -> str:
    """What a Python command prints in a folder, where it must succeed."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**inherited, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_package_has_at_most_1200_lines_of_code() -> None:
    sizes = {path.stem: code_lines(path) for path in FILES}
    assert sum(sizes.values()) <= 1200, sizes


def test_the_readme_gives_the_true_number_of_lines() -> None:
    total = sum(code_lines(path) for path in FILES)
    readme = (TEMPLATE / "README.md").read_text("utf-8")
    assert f"\n{total:,} lines of code in `src`" in readme
    assert f"| this one | {total:,} |" in readme


def test_what_is_read_first_has_at_most_600_lines_of_code() -> None:
    sizes = {path.stem: code_lines(path) for path in FILES if path.stem in CORE}
    assert sizes.keys() == set(CORE)
    assert sum(sizes.values()) <= 600, sizes


def test_functions_are_short() -> None:
    lengths = {f"{path.stem}.{f.name}": length(f) for path in FILES for f in functions(path)}
    assert {name: lines for name, lines in lengths.items() if lines > 40} == {}
    assert statistics.median(length(f) for path in FILES for f in functions(path)) <= 10


def test_functions_are_flat() -> None:
    depths = {f"{path.stem}.{f.name}": nesting(f) for path in FILES for f in functions(path)}
    assert {name: depth for name, depth in depths.items() if depth > 3} == {}
    assert max(depths.values()) > 0


def test_the_import_graph_is_a_star() -> None:
    siblings = {path.stem for path in FILES}
    for path in FILES:
        found = list(imports(ast.parse(path.read_text("utf-8"))))
        names = {name for level, name in found if level}
        assert names <= siblings, (
            path.stem
        )  # not `from .data.more`, `from ..more` or `from . import load`
        assert path.stem in ROOTS or not names, path.stem
        if path.stem == "train":
            assert not names & {"evaluate", "reproduce", "__main__"}
        packages = {name.partition(".")[0] for level, name in found if not level}
        packages -= sys.stdlib_module_names
        assert packages <= {"torch"} | THIRD_PARTY.get(path.stem, set()), path.stem


def test_the_command_line_imports_a_command_when_it_is_called() -> None:
    tree = ast.parse((SOURCE / "__main__.py").read_text("utf-8"))
    at_once = {
        name
        for node in tree.body
        if not isinstance(node, ast.FunctionDef)
        for name in imports(node)
    }
    assert {name for level, name in at_once if level or name.startswith("torch")} == set()
    assert (1, "train") in set(imports(tree))


def test_source_has_no_jinja_and_tests_only_in_imports(default_bake: Path) -> None:
    for path in FILES:
        baked = default_bake / "src" / "my_pytorch_project" / path.name
        assert not re.search(r"\{[{%#]", path.read_text("utf-8")), path.name
        assert baked.read_bytes() == path.read_bytes(), path.name
    name = r"\{\{ ?cookiecutter\.__package_name ?\}\}"
    for path in (PROJECT / "tests").rglob("*.py"):
        text = path.read_text("utf-8")
        without = re.sub(rf"^( *)(from|import) {name}(?=[. ])", r"\1\2 package", text, flags=re.M)
        assert not re.search(r"\{[{%#]", without), path.name


@pytest.mark.parametrize("tool", ["ruff check", "ruff format --check", "mypy"])
def test_the_templates_own_python_is_clean(tool: str) -> None:
    check("-m", *tool.split(), *["benchmarks", "hooks", "scripts", "tests"], folder=TEMPLATE)


@pytest.mark.parametrize("tool", ["ruff check .", "ruff format --check .", "mypy"])
def test_a_generated_project_is_clean(tool: str, project: Path) -> None:
    check("-m", *tool.split(), folder=project)


def test_the_tests_of_a_generated_project_pass(project: Path) -> None:
    printed = check("-m", "pytest", "-q", "-p", "no:cacheprovider", folder=project)
    assert re.search(r"^\d+ passed", printed, re.MULTILINE), printed


def test_training_prints_ascii_and_names_each_encoding(project: Path, tmp_path: Path) -> None:
    package = HOSTILE["project_name"].replace("-", "_")
    warn = ["-X", "warn_default_encoding", "-W", "always::EncodingWarning"]
    command = ["-m", package, "train", "trainer.max_steps=2", f"output_dir={tmp_path}"]
    variables = {"PYTHONPATH": "src", "PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"}
    printed = check(*warn, *command, folder=project, **variables)
    ours = re.escape(str(project))
    assert not re.search(rf"{ours}.*EncodingWarning", printed), printed
    [result] = tmp_path.glob("*/result.json")
    assert json.loads(result.read_text("utf-8"))["status"] == "finished"
