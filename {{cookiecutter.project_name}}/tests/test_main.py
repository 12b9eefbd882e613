"""The command line answers quickly, and on the right stream."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Command

from {{ cookiecutter.__package_name }} import __main__ as command_line

ROOT = Path(__file__).parents[1]
PACKAGE = command_line.__package__ or ""


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    source = {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, **source, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["evaluate", "none"]])
def test_help_and_missing_runs_answer_without_importing_torch(words: list[str]) -> None:
    result = python("-X", "importtime", "-m", PACKAGE, *words)
    assert result.returncode in (0, 2)
    assert PACKAGE in result.stderr  # the times of imports are there to be searched
    assert not re.search(r"\| +torch$", result.stderr, re.MULTILINE)


def test_train_help_prints_every_option(command: Command) -> None:
    code, out, _ = command("train", "--help")
    assert code == 0
    assert (ROOT / "configs" / "default.yaml").read_text(encoding="utf-8") in out


@pytest.mark.parametrize(
    "words", [[], ["fly"], ["predict", "x"], ["evaluate", "x", "--split", "a"]]
)
def test_a_wrong_command_exits_with_2(command: Command, words: list[str]) -> None:
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert "usage:" in err


def test_resume_takes_nothing_else(command: Command, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("", encoding="utf-8")
    code, _, err = command("train", "--resume", "{tmp}", "seed=3")
    assert code == 2
    assert "error: seed: expected only device, data.num_workers, trainer.epochs" in err


def test_a_run_survives_ascii_streams_and_opens_files_by_name_of_encoding(tmp_path: Path) -> None:
    warnings = ["-X", "warn_default_encoding", "-W", "error::EncodingWarning"]
    folder = tmp_path / "\uc774"
    words = ["train", f"output_dir={folder}", "trainer.max_steps=1", "data.limit=60"]
    result = python(*warnings, "-m", PACKAGE, *words, PYTHONIOENCODING="ascii:strict")
    assert result.returncode == 0, result.stderr
    assert "\r" not in result.stderr
