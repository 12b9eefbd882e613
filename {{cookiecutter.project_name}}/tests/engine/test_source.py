"""A run can be evaluated and repeated by the code in its own folder, if that is asked for."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, read_log

from {{ cookiecutter.__package_name }} import __main__ as command_line
from {{ cookiecutter.__package_name }}.engine import record

Train = Callable[..., Path]
PACKAGE = Path(command_line.__file__).parent

DATA = '''
from dataclasses import dataclass

@dataclass(frozen=True)
class DataConfig:
    path: str = "data/points.csv"
    """the points"""
'''
MODEL = '''
from dataclasses import dataclass
from torch import nn

@dataclass(frozen=True)
class ModelConfig:
    hidden: int = 8
    """units"""

def build_model(config):
    return nn.Sequential(nn.Linear(4, config.hidden), nn.Dropout(), nn.Linear(config.hidden, 2))
'''
REWRITTEN_MODEL = '''
from dataclasses import dataclass
from torch import nn

@dataclass(frozen=True)
class ModelConfig:
    width: int = 5
    """units"""

class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.encode = nn.Linear(4, width)
        self.decode = nn.Linear(width, 2)

    def forward(self, inputs):
        return self.decode(self.encode(inputs).tanh())

def build_model(config):
    return Model(config.width)
'''
TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

from .engine.task import TaskDefaults
from .engine.trainer import Output
from .model import build_model

class Task(TaskDefaults):
    defaults = ("loader.batch_size=16", "device=cpu")

    def datasets(self):
        lines = self.path.read_text("utf-8").splitlines()
        points = torch.stack([self.parse(line) for line in lines])
        dataset = TensorDataset(points, (points.sum(1) > 0).long())
        return {"train": dataset, "val": dataset, "test": dataset}

    def build_model(self):
        return build_model(self.model)

    def forward(self, model, batch):
        inputs, target = batch
        scores = model(inputs)
        losses = nn.functional.cross_entropy(scores, target, reduction="none")
        return Output(losses, scores, target)

    def example(self):
        return "1,2,3,4"

    def parse(self, text):
        return torch.tensor([float(number) for number in text.split(",")])

    def predict(self, model, samples):
        for scores in model(torch.stack(samples)):
            yield {"class": int(scores.argmax()), "score": round(float(scores.max()), 3)}
"""


@dataclass
class Project:
    """A small project in a folder of its own, without git, whose commands are processes."""

    folder: Path
    package: str = PACKAGE.name

    def popen(self, *words: str, launch: tuple[str, ...] = ("-m",)) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *launch, self.package, *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder / "src"), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def run(self, *words: str, stdin: str = "", **options: Any) -> tuple[int, str, str]:
        """Type a command; get its exit code, stdout and stderr."""
        with self.popen(*words, **options) as process:
            out, err = process.communicate(stdin, timeout=120)
        return process.returncode, out, err

    def reproduce(self, run: Path) -> Path:
        """The folder of a new run, which the code of this run made and found to be identical."""
        code, out, err = self.run("reproduce", str(run), "--source", "run")
        assert code == 0, err
        verdict = json.loads(out)
        assert verdict["identical"] is True
        return Path(verdict["run"])

    def rewrite(self) -> None:
        """Change the model, the name of a module, and the default config."""
        package = self.folder / "src" / self.package
        (package / "model.py").write_text(REWRITTEN_MODEL, encoding="utf-8")
        (package / "engine" / "loader.py").rename(package / "engine" / "batches.py")
        text = (package / "train.py").read_text(encoding="utf-8")
        text = text.replace("from .engine.loader import", "from .engine.batches import")
        (package / "train.py").write_text(text, encoding="utf-8")
        config = "seed: 7\nmodel:\n  width: 3\ntrainer:\n  epochs: 1\n"
        (self.folder / "configs" / "default.yaml").write_text(config, encoding="utf-8")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with one run."""
    folder = tmp_path_factory.mktemp("original") / "project"
    package = folder / "src" / PACKAGE.name
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in (("data", DATA), ("model", MODEL), ("task", TASK)):
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    (folder / "pyproject.toml").write_text("", encoding="utf-8")
    for name in ("configs", "data"):
        (folder / name).mkdir()
    (folder / "configs" / "default.yaml").write_text("trainer:\n  epochs: 3\n", encoding="utf-8")
    points = "".join(f"{i % 7 - 3},{i % 5 - 2},{i % 3 - 1},{i % 11 - 5}\n" for i in range(60))
    (folder / "data" / "points.csv").write_text(points, encoding="utf-8")
    project = Project(folder)
    code, _, err = project.run("train", "name=first", "trainer.micro_batches=2")
    assert code == 0, err
    return project


@pytest.fixture
def project(original: Project, tmp_path: Path) -> Project:
    """The project in another folder, as a second clone of it would be."""
    return Project(Path(shutil.copytree(original.folder, tmp_path / "clone")))


def first_run(project: Project) -> Path:
    (run,) = (project.folder / "runs").glob("first-*")
    return run


def logged_loss(run: Path) -> float:
    """The loss of the best weights on the test split."""
    (line,) = read_log(run, "test")
    return float(line["loss"])


def content(folder: Path) -> dict[str, bytes]:
    """All files in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_run_is_repeated_by_its_own_code_after_everything_was_changed(project: Project) -> None:
    project.rewrite()
    run = first_run(project)
    before = content(run)
    code, out, err = project.run("reproduce", str(run))
    assert (code, out) == (2, "")
    assert "source changed since this run; use --source run to run its own code, " in err
    again = project.reproduce(run)
    assert again.parent == run.parent
    assert content(run) == before
    keys = ("source", "data", "packages", "variables", "git_commit")
    manifests = [record.read(folder / "manifest.json") for folder in (run, again)]
    assert [manifests[0][key] for key in keys] == [manifests[1][key] for key in keys]
    assert content(again / "source") == content(run / "source")
    assert manifests[1]["command"] == [PACKAGE.name, "reproduce", f"./runs/{run.name}"]


def test_a_run_that_was_moved_is_repeated_in_another_clone_of_another_name(
    project: Project, tmp_path: Path
) -> None:
    run = Path(shutil.move(first_run(project), tmp_path / "elsewhere" / "moved"))
    shutil.rmtree(project.folder / "runs")
    package = project.folder / "src" / project.package
    project.package = package.rename(package.with_name("renamed")).name
    again = project.reproduce(run)
    assert again.parent == project.folder / "runs"
    assert project.reproduce(again).parent == project.folder / "runs"


def test_a_run_is_evaluated_and_predicts_as_it_did_before_the_model_was_rewritten(
    project: Project,
) -> None:
    run = first_run(project)
    words = ("predict", str(run), "-")
    inputs = "1,2,3,4\n-1,-2,-3,-4\n"
    code, answers, err = project.run(*words, stdin=inputs)
    assert (code, err) == (0, "")
    project.rewrite()
    assert project.run(*words, "--source", "run", stdin=inputs) == (0, answers, "")
    code, out, err = project.run("evaluate", str(run), "--source", "run")
    assert (code, err) == (0, "")
    assert json.loads(out)["loss"] == logged_loss(run)


def test_each_process_of_torchrun_runs_the_code_of_the_run(project: Project) -> None:
    run = first_run(project)
    project.rewrite()
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    code, out, err = project.run("evaluate", str(run), "--source=run", launch=launch)
    assert code == 0, err
    assert json.loads(out)["loss"] == logged_loss(run)


def test_nothing_in_the_folder_of_a_run_is_executed_unless_it_is_asked_for(
    project: Project, tmp_path: Path
) -> None:
    run = first_run(project)
    trap = tmp_path / "sprung"
    for path in (run / "source").rglob("*.py"):
        path.write_text(f"open({str(trap)!r}, 'w')\n", encoding="utf-8")
    source = record.fingerprint(run / "source" / PACKAGE.name, pattern="*.py")
    manifest = {**record.read(run / "manifest.json"), "source": source}
    record.write(run / "manifest.json", manifest)
    for words in (["evaluate"], ["reproduce", "--force"]):
        code, _, err = project.run(*words, str(run))
        assert code == 0, err
    assert not trap.exists()
    assert project.run("evaluate", str(run), "--source", "run")[0] == 0
    assert trap.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.usefixtures("default_signals")
def test_a_signal_stops_the_code_of_a_run_as_it_stops_any_other(project: Project) -> None:
    code, out, err = project.run("train", "name=long", "trainer.epochs=60")
    assert code == 0, err
    with project.popen("reproduce", out.strip(), "--source", "run") as process:
        assert process.stderr
        while not process.stderr.readline().startswith("epoch "):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
    assert process.returncode == 130
    assert "stopped   by SIGINT after step" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("damage", ["missing", "changed", "another", "manifest"])
def test_a_run_without_its_code_is_an_error_of_one_line(
    train: Train, command: Command, damage: str
) -> None:
    run = train()
    source = run / "source"
    if damage in ("missing", "another"):
        shutil.rmtree(source)
    if damage == "another":
        (source / "other").mkdir(parents=True)
        (source / "other" / "__main__.py").write_text("raise SystemExit(0)", encoding="utf-8")
    if damage == "changed":
        (source / PACKAGE.name / "task.py").write_text("", encoding="utf-8")
    if damage == "manifest":
        (run / "manifest.json").unlink()
    for words in (["evaluate"], ["reproduce"], ["predict", "1"]):
        code, out, err = command(*words[:1], str(run), *words[1:], "--source", "run")
        assert (code, out, err.count("\n")) == (2, "", 1)
        reason = "manifest.json: expected" if damage == "manifest" else "missing or damaged"
        assert reason in err


def test_the_code_of_a_run_gets_the_command_as_it_was_typed_and_todays_project(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.name != "posix":
        pytest.skip("Windows cannot replace a process")
    run = str(train())
    seen: list[Any] = []

    def execve(*arguments: Any) -> None:
        seen.extend(arguments)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setenv("PYTHONPATH", "mine")
    inputs = ["-5", "- a dash", "--", "--source", "today"]
    for option in (["--source", "run"], ["--source=run"], ["--sour", "run"]):
        seen.clear()
        assert command("predict", run, *option, *inputs)[0] == 0
        executable, words, environment = seen
        assert words == [executable, "-P", "-m", PACKAGE.name, "predict", run, *inputs]
        source = Path(run).resolve() / "source"
        assert environment["PYTHONPATH"] == f"{source}{os.pathsep}mine"
        assert environment[command_line.ROOT_VARIABLE] == str(command_line.ROOT)
        assert environment["PYTHONDONTWRITEBYTECODE"] == "1"


def test_where_a_process_cannot_be_replaced_the_exit_code_is_that_of_the_other_one(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(train())
    monkeypatch.setattr(os, "execve", lambda *_: None)  # as if this were Windows, which has none
    calls: list[Any] = []

    def call(words: list[str], env: dict[str, str]) -> int:
        calls.append((words[-1], command_line.ROOT_VARIABLE in env))
        return 3

    monkeypatch.setattr(subprocess, "call", call)
    assert command("reproduce", run, "--source", "run")[0] == 3
    assert calls == [(run, True)]
