"""A generated project in an environment that holds what it declares, and nothing else."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import HOSTILE, TEMPLATE, Cookiecutter

IMPORT_ALL = """
import importlib, pkgutil, my_pytorch_project as package
for module in pkgutil.walk_packages(package.__path__, "my_pytorch_project."):
    importlib.import_module(module.name)
"""
SUMMARY = """
import importlib.metadata
print(importlib.metadata.metadata("my-pytorch-project")["Summary"].encode().hex())
"""


@pytest.fixture
def programs() -> Iterator[Path]:
    """The programs of a new, empty environment, which is deleted afterwards: it gets large."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        yield Path(folder) / ("Scripts" if os.name == "nt" else "bin")


def test_a_project_needs_only_what_it_declares(
    programs: Path, cookiecutter: Cookiecutter, tmp_path: Path
) -> None:
    answers = {key: value for key, value in HOSTILE.items() if key != "project_name"}
    project = cookiecutter.bake(answers)
    outside = ("PYTHON", "PYTEST", "VIRTUAL_ENV", "COV")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(outside)}

    def run(program: str, *arguments: str | Path, folder: Path = tmp_path) -> str:
        done = subprocess.run(
            [programs / program, *arguments],
            cwd=folder,
            env=clean,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pins = TEMPLATE / "requirements.txt"
    run("python", "-m", "pip", "install", "-q", "-c", pins, "-e", f"{project}[dev]")
    run("python", "-m", "pip", "check")
    run("python", "-c", IMPORT_ALL)
    assert bytes.fromhex(run("python", "-c", SUMMARY)).decode() == HOSTILE["description"]
    run("pytest", "-q", "tests/test_model.py", folder=project)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    trained = run("my-pytorch-project", "train", "trainer.max_steps=20", folder=elsewhere)
    folder = elsewhere / trained.strip()
    result = json.loads((folder / "result.json").read_text("utf-8"))
    assert (result["status"], result["steps"]) == ("finished", 20)
    assert folder.resolve().parent == project / "runs"
    assert list(elsewhere.iterdir()) == []
    metrics = json.loads(run("my-pytorch-project", "evaluate", folder, folder=elsewhere))
    assert 0 <= metrics["accuracy"] <= 1
