"""Bakes: projects that the command line of cookiecutter generates from this template."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a thread that waits frees its core
TEMPLATE = Path(__file__).resolve().parents[1]
PROJECT = TEMPLATE / "{{cookiecutter.project_name}}"
SOURCE = PROJECT / "src" / "{{cookiecutter.__package_name}}"
QUESTIONS: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
DEFAULTS: dict[str, str] = {
    field: default[0] if isinstance(default, list) else default
    for field, default in QUESTIONS.items()
    if not field.startswith("_")
}
HOSTILE = {
    "project_name": "a-name-of-fifty-characters-0123456789-0123456789-x",
    "description": "# 'Yes': \"no\" & <b>*bold*</b> | `code` [x](y) _z_ \\n ${HOME} 이서연 🙂 a\\",
    "author": 'Dan O\'H "Elf" \\ Ada # x: 이서연 🙂',
    "author_email": "o'hara+elf@mail.example.org",
    "license": "BSD-3-Clause",
}


TASKS: tuple[str, ...] = tuple(QUESTIONS["task"])


def of_task(task: str, name: str) -> str:
    """How the template names a file that only the projects of one task have."""
    return f"{{% if cookiecutter.task == '{task}' %}}{name}{{% endif %}}"


# The tests that take longest come first, so that none is left when all others are done.
LONGEST = (
    "test_the_tests_of_the_engine_pass[gan]",
    "test_the_tests_of_a_generated_project_pass[text]",
    "test_a_project_needs_only_what_it_declares",
    "test_a_run_that_is_killed_at_any_moment_ends_like_one_that_is_not[options1-20]",
    "test_a_run_that_is_killed_at_any_moment_ends_like_one_that_is_not[options0-30]",
    "test_a_project_works_with_the_oldest_versions_that_it_allows",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.name, len(places)))


@dataclass(frozen=True)
class Cookiecutter:
    """Its command line, with a home of its own so that no settings or old answers leak in."""

    folder: Path

    def run(
        self, *arguments: str | Path, typed: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """`cookiecutter ARGUMENTS`, without a terminal; what it generates is put into `out`."""
        home = str(self.folder / "home")
        environment = {**os.environ, "HOME": home, "USERPROFILE": home, **variables}
        environment.pop("COOKIECUTTER_CONFIG", None)
        return subprocess.run(
            [sys.executable, "-m", "cookiecutter", "--output-dir", str(self.out), *arguments],
            env=environment,
            input=typed,  # empty: at its end at once
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )

    def bake(
        self, answers: dict[str, str] | None = None, *options: str | Path, **variables: str
    ) -> Path:
        """The project that these answers give."""
        words = [f"{field}={value}" for field, value in (answers or {}).items()]
        done = self.run("--no-input", *options, TEMPLATE, *words, **variables)
        assert done.returncode == 0, done.stderr
        return self.out / (answers or {}).get("project_name", DEFAULTS["project_name"])

    def config_file(self, answers: dict[str, str]) -> Path:
        path = self.folder / "answers.yaml"
        text = yaml.safe_dump({"default_context": answers}, allow_unicode=True)
        path.write_text(text, encoding="utf-8")
        return path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def left(self) -> list[str]:
        """What lies in the output folder."""
        return sorted(str(path.relative_to(self.out)) for path in self.out.rglob("*"))


def tree(folder: Path) -> dict[str, bytes]:
    """Each file below a folder with what it holds."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def cookiecutter(tmp_path: Path) -> Cookiecutter:
    return Cookiecutter(tmp_path)


@pytest.fixture(scope="session")
def bakes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A project of each task, for tests that change nothing in it."""
    folders = {task: tmp_path_factory.mktemp(task) for task in TASKS}
    return {task: Cookiecutter(folders[task]).bake({"task": task}) for task in TASKS}


@pytest.fixture(scope="session")
def default_bake(bakes: dict[str, Path]) -> Path:
    """A project of the default answers, for tests that change nothing in it."""
    return bakes["text"]


@pytest.fixture(scope="session")
def hostile_bakes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each task a project of answers with all that is special, and with the longest name."""
    folders = {task: tmp_path_factory.mktemp(f"hostile-{task}") for task in TASKS}
    return {task: Cookiecutter(folders[task]).bake({**HOSTILE, "task": task}) for task in TASKS}


@pytest.fixture(scope="session")
def hostile_bake(hostile_bakes: dict[str, Path]) -> Path:
    """That of the default task."""
    return hostile_bakes["text"]


@pytest.fixture(scope="session")
def mypy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


@pytest.fixture
def mypy_cache(mypy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let mypy find out once what the types of torch are, and not in each project anew."""
    monkeypatch.setenv("MYPY_CACHE_DIR", str(mypy_folder))
