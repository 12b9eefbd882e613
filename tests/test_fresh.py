"""A generated project in an environment that holds what it declares, and nothing else."""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import HOSTILE, TEMPLATE, Cookiecutter, tree

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
    """The programs of a new, empty environment, which is deleted afterwards: it gets large.

    Around it is another project.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pyproject.toml").write_text("", encoding="utf-8")
        environment = Path(folder) / "venv"
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        yield environment / ("Scripts" if os.name == "nt" else "bin")


def build(project: Path, folder: Path) -> tuple[Path, Path]:
    """The source distribution of a project, and the wheel that is built from it."""
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(project)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def test_a_project_needs_only_what_it_declares(
    programs: Path, cookiecutter: Cookiecutter, tmp_path: Path
) -> None:
    answers = {key: value for key, value in HOSTILE.items() if key != "project_name"}
    project = cookiecutter.bake(answers)
    outside = ("PYTHON", "PYTEST", "VIRTUAL_ENV", "COV")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(outside)}

    def run(
        program: str, *arguments: str | Path, folder: Path = tmp_path, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [programs / program, *arguments],
            cwd=folder,
            env=clean,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    pins = TEMPLATE / "requirements.txt"
    # Python compiles a module when it is imported; most of what is installed never is.
    quick = ("pip", "install", "-q", "--no-compile")
    run("python", "-m", *quick, "-c", pins, "-e", f"{project}[dev]")
    run("python", "-m", "pip", "check")
    run("python", "-c", IMPORT_ALL)
    assert bytes.fromhex(run("python", "-c", SUMMARY).stdout).decode() == HOSTILE["description"]
    run("pytest", "-q", "tests/test_model.py", folder=project)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    name = "my-pytorch-project"
    trained = run(name, "train", "trainer.max_steps=20", folder=elsewhere).stdout
    folder = elsewhere / trained.strip()
    result = json.loads((folder / "result.json").read_text("utf-8"))
    assert (result["status"], result["steps"]) == ("finished", 20)
    assert folder.resolve().parent == project / "runs"
    assert list(elsewhere.iterdir()) == []
    metrics = json.loads(run(name, "evaluate", folder, folder=elsewhere).stdout)
    assert 0 <= metrics["accuracy"] <= 1

    # The same as a wheel, which knows of no project.
    _, wheel = build(project, tmp_path / "dist")
    run("python", "-m", *quick, "--no-deps", "--force-reinstall", wheel)
    again = run(name, "evaluate", folder, folder=elsewhere)
    assert (json.loads(again.stdout), again.stderr) == (metrics, "")
    answer = json.loads(run(name, "predict", folder, "delightful", folder=elsewhere).stdout)
    assert answer["input"] == "delightful"
    (row,) = run(name, "runs", folder.parent, "--json", folder=elsewhere).stdout.splitlines()
    assert json.loads(row)["status"] == "finished"
    failed = run(name, "train", folder=elsewhere, code=2)
    assert (failed.stdout, failed.stderr.count("\n")) == ("", 1)
    assert failed.stderr.startswith(f"error: {elsewhere / 'data' / 'words.csv'}: ")
    assert failed.stderr.endswith(", or give the path of its data\n")
    assert list(elsewhere.iterdir()) == []
    data = f"data.path={project / 'data' / 'words.csv'}"
    run(name, "train", "--run", "mine", data, "trainer.max_steps=2", folder=elsewhere)
    assert (elsewhere / "runs" / "mine" / "result.json").is_file()
    trained = run(name, "train", "trainer.max_steps=2", folder=project / "docs").stdout
    assert Path(trained.strip()).parent == project / "runs"
    assert f"usage: {name} [-h]" in run(name, "--help").stdout


def test_distributions_have_what_they_need(cookiecutter: Cookiecutter, tmp_path: Path) -> None:
    project = cookiecutter.bake()
    files = {path for path in tree(project) if not path.startswith(".")}
    sdist, wheel = build(project, tmp_path / "dist")
    with tarfile.open(sdist) as file:
        packed = {member.name.partition("/")[2] for member in file if member.isfile()}
    assert files <= packed
    assert not [path for path in packed if path.endswith((".pyc", ".pyo"))]
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info" not in name}
    assert names == {path.removeprefix("src/") for path in files if path.startswith("src/")}
    assert "my_pytorch_project/py.typed" in names
