"""The generated tests turn red when what keeps a resumed or repeated run exact is broken."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STATE = '("epoch", "step", "loss_sum", "count", "logged", "lr", "best", "stale")'
RESTORE = 'if hasattr(part, "load_state_dict")'
WATCH = "_compare(next(log, {}), run.logger.log(line))"
MUTANTS: dict[str, tuple[str, str, str, str]] = {  # file, what it has, what is put there, tests
    **{
        f"{key} is not restored": (
            "checkpoint.py",
            f"{RESTORE}:",
            f"{RESTORE} and key != {key!r}:",
            "resume",
        )
        for key in ("model_state_dict", "optimizer_state_dict", "scheduler", "trainer", "logger")
    },
    **{
        f"{key} is not restored": (
            "trainer.py",
            STATE,
            STATE.replace(f'"{key}"', '"epoch"'),
            "resume",
        )
        for key in ("step", "loss_sum", "count", "logged", "lr", "best", "stale")
    },
    "the epoch is not restored": ("trainer.py", '"epoch", "step"', '"step"', "resume"),
    "the position in the epoch is lost": (
        "trainer.py",
        "start = self.step - self.epoch * len(train)",
        "start = 0",
        "resume",
    ),
    "dropout does not depend on the step": (
        "trainer.py",
        "(self.seed, self.step, i)",
        "(self.seed, 0, i)",
        "trainer",
    ),
    "a sample does not depend on the epoch": (
        "data.py",
        "(self.seed or 0, epoch, index)",
        "(self.seed or 0, 0, index)",
        "data",
    ),
    "the order does not depend on the epoch": (
        "data.py",
        "(self.seed, epoch)",
        "(self.seed, 0)",
        "data",
    ),
    "a resume trains from scratch": (
        "train.py",
        'state := checkpoint.load_latest(folder / "checkpoints")',
        "state := None",
        "resume",
    ),
    "a resume takes the threads of the machine": (
        "train.py",
        'manifest.get("threads", torch.get_num_threads())',
        "2",
        "resume",
    ),
    "a run has no lock": ("logger.py", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_UN", "resume"),
    "workers share the group of the run": (
        "data.py",
        'getattr(os, "setpgrp", int)()',
        "return",
        "resume",
    ),
    "what reproduce compares is the old log with itself": (
        "reproduce.py",
        WATCH,
        "_compare(run.logger.log(line), {**line, 'time': 0})",
        "reproduce",
    ),
    "what reproduce compares is the old result with itself": (
        "reproduce.py",
        'again / "result.json"',
        'folder / "result.json"',
        "reproduce",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(default_bake: Path, tmp_path: Path, name: str) -> None:
    file, old, new, tests = MUTANTS[name]
    project = shutil.copytree(default_bake, tmp_path / "project")
    (path,) = project.glob(f"src/*/{file}")
    source = path.read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} is not in {file} once"
    path.write_text(source.replace(old, new), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", f"tests/test_{tests}.py"],
        cwd=project,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )
    assert result.returncode == 1, result.stdout  # 1: a test failed, and not its collection
    assert " failed" in result.stdout
