"""The recipes in docs/ of a generated project work as they stand."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import TASKS

PACKAGE = "my_pytorch_project"
# The command line, which dies without a word when the log has had its eighth line.
KILLED = f"""
import os, sys
from {PACKAGE}.__main__ import main
from {PACKAGE}.engine.logger import Logger

log, lines = Logger.log, []

def log_and_die(self, record):
    lines.append(log(self, record))
    if len(lines) == 8:
        os._exit(9)

Logger.log = log_and_die
sys.exit(main())
"""
OPTIONS = ["trainer.epochs=2", "trainer.log_every=2", "trainer.save_every=5", "loader.limit=400"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """MLflow keeps its runs in a folder, and calls nobody."""
    return {
        **os.environ,
        "PYTHONPATH": "src",
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def python(project: Path, *words: str, env: dict[str, str], code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=project,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == code, done.stderr
    assert "warning: tracker" not in done.stderr
    return done.stdout.strip()


def runs_of(folder: Path) -> list[Path]:
    """The runs that MLflow has, of all experiments, in files of its own."""
    return [path.parent for path in folder.glob("*/*/tags")]


def points(run: Path) -> dict[str, dict[int, float]]:
    """The values of each quantity by step, each of which is there once."""
    found: dict[str, dict[int, float]] = {}
    for path in (run / "metrics").rglob("*"):
        if path.is_file():
            rows = [line.split() for line in path.read_text("utf-8").splitlines()]
            steps = Counter(int(step) for _, _, step in rows)
            assert set(steps.values()) == {1}, path
            name = path.relative_to(run / "metrics").as_posix()
            found[name] = {int(step): float(value) for _, value, step in rows}
    return found


@pytest.mark.parametrize("task", TASKS)
def test_a_run_that_is_killed_and_resumed_is_one_run_in_the_tracker(
    task: str, bakes: dict[str, Path], tmp_path: Path, environment: dict[str, str]
) -> None:
    project = Path(shutil.copytree(bakes[task], tmp_path / "project"))
    text = (project / "docs" / "trackers.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert code.count("\n") <= 30
    path = project / "src" / PACKAGE / "task.py"
    place = "    def example(self)"
    path.write_text(path.read_text("utf-8").replace(place, f"{code}\n{place}"), "utf-8")
    (project / "killed.py").write_text(KILLED, "utf-8")
    options = [*OPTIONS, "loader.batch_size=32"]
    python(project, "killed.py", "train", *options, env=environment, code=9)
    (run,) = runs_of(tmp_path / "mlruns")
    before = points(run)
    (folder,) = (project / "runs").glob("[!.]*")
    python(project, "-m", PACKAGE, "train", "--resume", str(folder), env=environment)
    assert runs_of(tmp_path / "mlruns") == [run]
    assert (run / "tags" / "mlflow.runName").read_text("utf-8") == folder.name
    assert (run / "params" / "trainer.log_every").read_text("utf-8") == "2"
    sent = points(run)
    expected: dict[str, dict[int, Any]] = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines()):
        for key in line.keys() - {"split", "time", "rate"}:
            expected.setdefault(f"{key}/{line['split']}", {})[line["step"]] = line[key]
    assert {name: sent[name] for name in expected} == expected
    assert all(sent[name].items() >= values.items() for name, values in before.items())
