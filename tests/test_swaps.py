"""Other tasks: those that the template has, and those that are put into a project.

Where one is put in, the files that are yours change, and nothing else has to.
"""

import json
import os
import re
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
from conftest import TASKS, tree
from warm import run_processes, run_python

PACKAGE = "my_pytorch_project"
SWAPS = Path(__file__).with_name("swaps")
NAMES = sorted(path.name for path in SWAPS.iterdir() if path.is_dir())
QUICK = ("trainer.save_every=1", "trainer.log_every=1", "device=cpu")
SMALL = {"image": ("loader.limit=150", "trainer.epochs=2"), "tabular": ("trainer.epochs=4",)}
WHOLE_ENGINE = "gan"  # the task that changes most: it replaces the step


def run(
    project: Path, *words: str, module: tuple[str, ...] = (PACKAGE,)
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE WORDS` in a project, where it must succeed."""
    done = run_python("-m", *module, *words, folder=project, env=environment(project))
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


# One process of xdist does what there is to do with a task, and trains it once.
EACH = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in (*TASKS[1:], *NAMES)]


@pytest.fixture(scope="module", params=EACH)
def name(request: pytest.FixtureRequest) -> str:
    """A task: the default one is tested elsewhere, in all these ways and more."""
    return str(request.param)


@pytest.fixture(scope="module")
def quick(name: str) -> tuple[str, ...]:
    """Options of a short run that logs and saves at every step."""
    return (*QUICK, *SMALL.get(name, ()))


@pytest.fixture(scope="module")
def swapped(name: str, bakes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with this task in it."""
    folder = tmp_path_factory.mktemp(name)
    if name in TASKS:
        return Path(shutil.copytree(bakes[name], folder / "project"))
    default_bake = bakes["text"]
    project = Path(shutil.copytree(default_bake, folder / "project"))
    changed = put(name, project)
    before = tree(default_bake)
    after = tree(project)
    others = {path for path in before if before[path] != after.get(path)} - changed
    assert others == set()
    return project


def train_and_kill(project: Path, steps: int, words: tuple[str, ...]) -> Path:
    """Start a run, and kill it once it has logged that many steps; get its folder."""
    output = project / "killed"
    command = [sys.executable, "-m", PACKAGE, "train", f"output_dir={output}", *words]
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


@pytest.fixture(scope="module")
def whole(swapped: Path, quick: tuple[str, ...]) -> Path:
    """A run that nothing has interrupted."""
    return swapped / run(swapped, "train", *quick, "output_dir=whole").stdout.strip()


@pytest.mark.parametrize("swap", NAMES)
def test_a_swap_is_short(swap: str) -> None:
    lines = [line for file in SWAPS.joinpath(swap).iterdir() for line in file.open("rb")]
    assert len(lines) <= 120


@pytest.mark.usefixtures("mypy_cache")
@pytest.mark.parametrize("tool", ["ruff check .", "ruff format --check .", "mypy src"])
def test_its_code_is_clean(swapped: Path, tool: str) -> None:
    run(swapped, module=tuple(tool.split()))


def test_it_evaluates_predicts_and_is_reproduced(
    swapped: Path, whole: Path, quick: tuple[str, ...]
) -> None:
    metrics = json.loads(run(swapped, "evaluate", str(whole)).stdout)
    assert metrics["split"] == "test"
    finished = run(swapped, "train", *quick, "trainer.max_steps=1", "output_dir=other")
    (hint,) = [line for line in finished.stderr.splitlines() if line.startswith("predict ")]
    *_, example = shlex.split(hint)
    assert isinstance(json.loads(run(swapped, "predict", str(whole), example).stdout), dict)
    verdict = json.loads(run(swapped, "reproduce", str(whole)).stdout)
    assert verdict["identical"] is True


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_killed_and_ends_like_a_run_that_was_not(
    swapped: Path, whole: Path, quick: tuple[str, ...], workers: int
) -> None:
    shutil.rmtree(swapped / "killed", ignore_errors=True)
    part = train_and_kill(swapped, 3, (*quick, f"loader.num_workers={workers}"))
    run(swapped, "train", "--resume", str(part))
    assert_same_run(whole, part)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork, and no gloo")
def test_two_processes_give_the_result_of_one(swapped: Path, quick: tuple[str, ...]) -> None:
    options = (*quick, "trainer.max_steps=6", "trainer.epochs=1")
    one = run(swapped, "train", *options, "trainer.micro_batches=2", "output_dir=one")
    words = ("-m", PACKAGE, "train", *options, "output_dir=two")
    two, silent = run_processes(2, *words, folder=swapped, env=environment(swapped))
    assert (two.returncode, silent.returncode) == (0, 0), two.stderr + silent.stderr
    first, second = (swapped / done.stdout.strip() for done in (one, two))
    weights, others = (
        torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["model_state_dict"]
        for folder in (first, second)
    )
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name
    for line, other in zip(log(first), log(second), strict=True):
        # torchmetrics sums floating-point numbers in each process, and then over processes.
        rounded = {name: line.pop(name, None) for name in ("mae", "rmse", "r2")}
        assert rounded == pytest.approx({name: other.pop(name, None) for name in rounded})
        assert line == other


def test_the_tests_of_the_engine_pass(name: str, swapped: Path) -> None:
    """All of them with one task; with the others those that read the project's files."""
    tests = ["tests/engine/test_architecture.py"]
    if name == WHOLE_ENGINE:
        tests = ["tests/engine"]
    printed = run(swapped, "-q", "-p", "no:cacheprovider", *tests, module=("pytest",)).stdout
    assert re.search(r"^\d+ passed", printed, re.MULTILINE), printed
