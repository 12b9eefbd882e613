"""What other machines run, checked as far as it can be here: workflows, hooks, files for programs.

The workflows themselves have not been run: what Linux can do of them, other tests do.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PROJECT, TEMPLATE, tree

WORKFLOW = ".github/workflows/ci.yml"
SCHEMAS = {
    WORKFLOW: "github-workflows",
    ".github/dependabot.yml": "dependabot",
    "CITATION.cff": "citation-file-format",  # of the template alone
}
SYSTEMS = {"ubuntu-latest", "windows-latest", "macos-latest"}
PYTHONS = {"3.11", "3.12", "3.13", "3.14"}
CHECKOUT = "actions/checkout"
# What runs each line of the workflow of a project, or the like of it, on Linux.
RUN_BY = {
    'python -m pip install -e ".[dev]"': "test_fresh.py",
    "ruff check .": "test_package.py",
    "ruff format --check .": "test_package.py",
    "mypy": "test_package.py",
    "pytest": "test_package.py",
    "python -m my_pytorch_project config --check configs/default.yaml": __file__,
    "python -m my_pytorch_project train trainer.epochs=1": "test_readme.py",
}
# And of that of the template, beside these.
BAKED_BY = {
    "make test": "CONTRIBUTING.md",
    "python -m pip install cookiecutter": "../requirements.txt",
    "cookiecutter . --no-input --output-dir demo task=${{ matrix.task }}": "conftest.py",
}


@pytest.fixture(params=["template", "project"])
def root(request: pytest.FixtureRequest, default_bake: Path) -> Path:
    """The template, and a project that it has generated."""
    return TEMPLATE if request.param == "template" else default_bake


@pytest.fixture
def workflow(root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((root / WORKFLOW).read_text("utf-8"))
    return loaded


def steps_of(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def without_git(folder: Path) -> dict[str, str]:
    """An environment in which git knows only repositories in a folder, and needs no settings."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    names = [f"GIT_{role}_{what}" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]
    ours = {"GIT_CEILING_DIRECTORIES": str(folder), "GIT_CONFIG_GLOBAL": os.devnull}
    return {**variables, **ours, **dict.fromkeys(names, "nobody")}


def commit_all(folder: Path, environment: dict[str, str]) -> None:
    """Make a repository of a folder, with one commit."""
    for words in ("init -q", "add -A", "commit -q -m all"):
        subprocess.run(["git", *words.split()], cwd=folder, env=environment, check=True)


@pytest.mark.parametrize("path", SCHEMAS)
def test_files_for_other_programs_fit_their_schemas(path: str, default_bake: Path) -> None:
    files = [str(root / path) for root in (TEMPLATE, default_bake) if (root / path).exists()]
    assert len(files) == (1 if path == "CITATION.cff" else 2)
    schema = f"vendor.{SCHEMAS[path]}"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_metadata_of_a_project_is_valid(bakes: dict[str, Path]) -> None:
    from validate_pyproject import api

    for project in bakes.values():
        about = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
        api.Validator()(about)
        assert about["dependency-groups"] == about["project"]["optional-dependencies"]


def test_each_action_is_pinned_by_its_hash_and_named_by_its_version(default_bake: Path) -> None:
    pins = []
    for root in (TEMPLATE, default_bake):
        text = (root / WORKFLOW).read_text("utf-8")
        found = re.findall(r"uses: (\S+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)$", text, re.MULTILINE)
        assert len(found) == text.count("uses:") >= 2
        pins.append(set(found))
    assert pins[0] == pins[1]


def test_a_workflow_may_only_read_and_keeps_no_token(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    assert all(job["timeout-minutes"] <= 120 for job in workflow["jobs"].values())
    checkouts = [step for step in steps_of(workflow) if CHECKOUT in step.get("uses", "")]
    assert len(checkouts) == len(workflow["jobs"])
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)
    triggers = dict[Any, Any](workflow)[True]  # what YAML makes of "on"
    assert triggers.keys() == {"push", "pull_request"}  # not pull_request_target, which may write


def test_a_workflow_runs_on_each_system_and_python(workflow: dict[str, Any], root: Path) -> None:
    *_, job = workflow["jobs"].values()
    matrix = job["strategy"]["matrix"]
    systems = [*matrix["system"], *(entry["system"] for entry in matrix["include"])]
    assert set(systems) == SYSTEMS
    assert set(matrix["python"]) == PYTHONS
    assert job["runs-on"] == "${{ matrix.system }}"
    (setup,) = [step for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert setup["with"]["python-version"] == "${{ matrix.python }}"
    if root != TEMPLATE:
        about = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
        assert about["requires-python"] == ">=" + min(PYTHONS)


def test_a_workflow_has_only_lines_of_which_it_is_known_what_runs_them(
    workflow: dict[str, Any], root: Path
) -> None:
    lines = {step["run"] for step in steps_of(workflow) if "run" in step}
    expected = {**RUN_BY, **BAKED_BY} if root == TEMPLATE else RUN_BY
    assert lines == expected.keys()


@pytest.mark.parametrize("folder", ["template", "project"])
def test_a_clone_with_the_line_ends_of_windows_has_the_same_bytes(
    folder: str, default_bake: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    if folder == "project":
        shutil.copytree(default_bake, here)
        (here / "data" / "mine.csv").write_bytes(b"text,label\r\na,b\r\n")  # and stays so
    else:
        shutil.copytree(PROJECT, here / PROJECT.name)
        shutil.copy(TEMPLATE / ".gitattributes", here)
    expected = tree(here)
    environment = without_git(tmp_path)
    commit_all(here, environment)
    clone = ["git", "clone", "-q", "-c", "core.autocrlf=true", str(here), str(tmp_path / "there")]
    subprocess.run(clone, env=environment, check=True)
    found = tree(tmp_path / "there")
    assert {path: found[path] for path in found if not path.startswith(".git/")} == expected


def test_pre_commit_runs_the_checks_of_the_workflow(default_bake: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(default_bake, tmp_path / "project"))
    environment = {
        **without_git(tmp_path),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(project / "src"),
        "PRE_COMMIT_HOME": str(tmp_path / "home"),
        "SKIP": "mypy",  # it takes a while, and test_package.py runs the same
    }
    hooks = yaml.safe_load((project / ".pre-commit-config.yaml").read_text("utf-8"))
    entries = [hook["entry"] for hook in hooks["repos"][0]["hooks"]]
    checks = [line.removesuffix(" .") for line in RUN_BY if re.search("ruff|mypy|config", line)]
    assert [entry.removesuffix(" --force-exclude") for entry in entries] == checks

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pre_commit", "run", "--all-files"]
        return subprocess.run(
            command, cwd=project, env=environment, capture_output=True, encoding="utf-8"
        )

    commit_all(project, environment)
    done = run()
    assert (done.returncode, done.stdout.count("Passed")) == (0, 3), done.stdout + done.stderr
    (project / "configs" / "default.yaml").write_text("seed: 1\n", encoding="utf-8")
    done = run()
    assert (done.returncode, done.stdout.count("Failed")) == (1, 1), done.stdout
    assert "error: configs/default.yaml: this is not what config prints" in done.stdout
