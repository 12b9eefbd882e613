"""A few random inputs of each kind; `make fuzz` tries 10,000."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TASKS, TEMPLATE

FUZZ = TEMPLATE / "tests" / "fuzz"
INPUTS = 15
SEED = 1  # the same inputs each time, so that a test that fails is no accident


@pytest.mark.parametrize("task", TASKS)
def test_a_random_input_ends_in_a_result_or_in_one_line(
    task: str, bakes: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(bakes[task], tmp_path / task)  # an input may leave something in it
    words = [str(FUZZ / "run.py"), str(tmp_path), "--inputs", str(INPUTS)]
    done = subprocess.run(
        [sys.executable, *words, "--seed", str(SEED)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = {path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.py")}
    tried = {line.split()[1].partition(".")[0] for line in done.stdout.splitlines()[1:]}
    assert tried == (kinds if task == "text" else kinds - {"answers"})
