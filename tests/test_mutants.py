"""The generated tests turn red when what keeps a resumed or repeated run exact is broken.

Each patch in `mutants/` breaks one thing: its name says which, its second line what finds it.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from warm import run_python

PATCHES = sorted(Path(__file__).with_name("mutants").glob("*.patch"))


def apply(patch: Path, project: Path) -> None:
    """Apply a patch with git, which must not think of a repository around the project."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment["GIT_CEILING_DIRECTORIES"] = str(project.parent)
    command = ["git", "apply", "--recount", "-C1", str(patch)]
    subprocess.run(command, cwd=project, env=environment, check=True)


def test_there_are_mutants() -> None:
    assert len(PATCHES) >= 76


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_mutant_is_found(default_bake: Path, tmp_path: Path, patch: Path) -> None:
    found_by = re.search(r"^Found by: pytest (.*)$", patch.read_text("utf-8"), re.MULTILINE)
    assert found_by
    project = Path(shutil.copytree(default_bake, tmp_path / "project"))
    apply(patch, project)
    words = ("-x", "-q", *found_by[1].split())
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    result = run_python("-m", "pytest", *words, folder=project, env=environment)
    assert result.returncode == 1, result.stdout  # 1: a test failed, and not its collection
    assert " failed" in result.stdout
