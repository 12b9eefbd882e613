"""A generated project with uv, and with the oldest versions that it says it works with.

uv would download the largest build of PyTorch. So it gets a wheel of that name in which nothing
is but the path to the PyTorch that runs these tests: older ones are not tried.
"""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution, version
from pathlib import Path

import pytest
from conftest import Cookiecutter

TORCH = version("torch").partition("+")[0] + "+here"
# The tests of what uses other packages: PyYAML, TensorBoard, tqdm and Pillow.
TESTS = [
    *("tests/test_data.py", "tests/test_model.py"),
    *("tests/engine/test_config.py", "tests/engine/test_figures.py", "tests/engine/test_logger.py"),
]


def write_torch(folder: Path) -> None:
    """Write a wheel that brings the PyTorch of this environment into another one."""
    info = f"torch-{TORCH}.dist-info"
    tags = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"torch-{TORCH}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("torch.pth", f"{distribution('torch').locate_file('')}\n")
        about = f"Metadata-Version: 2.1\nName: torch\nVersion: {TORCH}\n"
        wheel.writestr(f"{info}/METADATA", about)
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")


class Uv:
    """uv in the folder of a project."""

    def __init__(self, project: Path, *constraints: str) -> None:
        self.project = project
        write_torch(project.parent)
        options = f"override-dependencies = ['torch=={TORCH}']\nfind-links = ['..']\n"
        options += f"constraint-dependencies = {[*constraints]}\n"
        with (project / "pyproject.toml").open("a", encoding="utf-8") as file:
            file.write(f"\n[tool.uv]\n{options}")

    def __call__(self, *words: str) -> str:
        """What `uv WORDS` prints, which must succeed."""
        outside = ("PYTHON", "PYTEST", "VIRTUAL_ENV", "UV_")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(outside)}
        ours = {"UV_PYTHON": sys.executable, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "uv", *words],
            cwd=self.project,
            env={**clean, **ours},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def test_uv_makes_the_environment_and_trains(cookiecutter: Cookiecutter) -> None:
    project = cookiecutter.bake()
    uv = Uv(project)
    uv("sync")
    run = project / uv("run", "my-pytorch-project", "train", "trainer.max_steps=2").strip()
    assert json.loads((run / "result.json").read_text("utf-8"))["status"] == "finished"
    uv("run", "ruff", "--version")  # the group dev is installed too


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="packages of that time have no wheels")
def test_a_project_works_with_the_oldest_versions_that_it_allows(
    cookiecutter: Cookiecutter,
) -> None:
    project = cookiecutter.bake({"task": "image"})
    about = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    uv = Uv(project, "numpy==1.23.2")  # which TensorBoard brings; the first for Python 3.11
    uv("sync", "--resolution", "lowest-direct")
    listed = json.loads(uv("pip", "list", "--python", ".venv", "--format", "json"))
    versions = {entry["name"].lower(): entry["version"] for entry in listed}
    for text in (*about["project"]["dependencies"], *about["dependency-groups"]["dev"]):
        name, _, lowest = text.lower().partition(">=")
        assert f"{versions[name]}.".startswith(f"{lowest}.") or name == "torch", text
    run = ("run", "--no-sync")
    uv(*run, "ruff", "check")
    uv(*run, "ruff", "format", "--check")
    uv(*run, "mypy", "src/my_pytorch_project/engine/config.py")  # all of it takes a minute
    uv(*run, "pytest", "-q", "-p", "no:cacheprovider", *TESTS)
    folder = uv(*run, "my-pytorch-project", "train", "trainer.max_steps=2").strip()
    uv(*run, "my-pytorch-project", "evaluate", folder)
