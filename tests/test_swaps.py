"""Other tasks put into a project: the files that are yours change, and nothing else has to."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tree

PACKAGE = "my_pytorch_project"
SWAPS = Path(__file__).with_name("swaps")
NAMES = sorted(path.name for path in SWAPS.iterdir() if path.is_dir())
QUICK = ("trainer.save_every=1", "trainer.log_every=1", "device=cpu")


def run(
    project: Path, *words: str, module: tuple[str, ...] = (PACKAGE,)
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE WORDS` in a project, where it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", *module, *words],
        cwd=project,
        env=environment(project),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def environment(project: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}


def put(name: str, project: Path) -> set[str]:
    """Put the files of a swap into a project, as a user would; the paths of those that changed."""
    changed = {"configs/default.yaml"}
    for file in SWAPS.joinpath(name).glob("*.py"):
        if file.name != "make_data.py":
            shutil.copy(file, project / "src" / PACKAGE)
            changed.add(f"src/{PACKAGE}/{file.name}")
    for test in project.glob("tests/test_*.py"):  # they go with what they test
        test.unlink()
        changed.add(f"tests/{test.name}")
    config = run(project, "config").stdout
    (project / "configs" / "default.yaml").write_text(config, encoding="utf-8")
    subprocess.run([sys.executable, SWAPS / name / "make_data.py"], cwd=project, check=True)
    return changed


@pytest.fixture(scope="module", params=NAMES)
def swapped(
    request: pytest.FixtureRequest, default_bake: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A project with another task in it."""
    folder = tmp_path_factory.mktemp(request.param)
    project = Path(shutil.copytree(default_bake, folder / "project"))
    changed = put(request.param, project)
    before = tree(default_bake)
    after = tree(project)
    others = {path for path in before if before[path] != after.get(path)} - changed
    assert others == set()
    return project


def train_and_kill(project: Path, steps: int, *words: str) -> Path:
    """Start a run, and kill it once it has logged that many steps; get its folder."""
    output = project / "killed"
    command = [sys.executable, "-m", PACKAGE, "train", *QUICK, f"output_dir={output}", *words]
    with subprocess.Popen(command, cwd=project, env=environment(project)) as process:
        while process.poll() is None:
            lines = [line for log in output.glob("*/metrics.jsonl") for line in log.open()]
            if sum('"train"' in line for line in lines) >= steps:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.005)
    assert process.returncode == -signal.SIGKILL  # and not at its end
    (folder,) = output.iterdir()
    return folder


def state(folder: Path, name: str) -> dict[str, Any]:
    parts: dict[str, Any] = torch.load(folder / "checkpoints" / name, weights_only=True)
    return {key: bits(parts[key]) for key in parts.keys() - {"logger", "config"}}


def bits(value: Any) -> Any:
    """The same with the bytes of tensors, to be compared by ==."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return [bits(item) for item in value] if isinstance(value, list | tuple) else value


def log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open(encoding="utf-8")]
    return [{key: line[key] for key in line.keys() - {"time", "rate"}} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("last.pt", "best.pt"):
        assert state(one, name) == state(other, name)
    assert log(one) == log(other)
    results = [json.loads((run / "result.json").read_text("utf-8")) for run in (one, other)]
    assert results[0] == results[1]


@pytest.mark.parametrize("tool", ["ruff check .", "ruff format --check .", "mypy src"])
def test_its_code_is_clean(swapped: Path, tool: str) -> None:
    run(swapped, module=tuple(tool.split()))


def test_it_trains_evaluates_predicts_and_is_reproduced(swapped: Path) -> None:
    trained = run(swapped, "train", *QUICK, "output_dir=runs")
    folder = trained.stdout.strip()
    metrics = json.loads(run(swapped, "evaluate", folder).stdout)
    assert metrics["split"] == "test"
    (hint,) = [line for line in trained.stderr.splitlines() if line.startswith("predict ")]
    *_, example = shlex.split(hint)
    assert isinstance(json.loads(run(swapped, "predict", folder, example).stdout), dict)
    verdict = json.loads(run(swapped, "reproduce", folder).stdout)
    assert verdict["identical"] is True


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_killed_and_ends_like_a_run_that_was_not(swapped: Path, workers: int) -> None:
    options = f"loader.num_workers={workers}"
    whole = Path(run(swapped, "train", *QUICK, options, "output_dir=whole").stdout.strip())
    shutil.rmtree(swapped / "killed", ignore_errors=True)
    part = train_and_kill(swapped, 3, options)
    run(swapped, "train", "--resume", str(part))
    assert_same_run(swapped / whole, part)
