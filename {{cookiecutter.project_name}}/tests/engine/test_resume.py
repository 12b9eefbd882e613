"""A run that was stopped and continued is bit for bit the run that was not."""

import io
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from conftest import Command, assert_same_run, read_log
from processes import Counted, context
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tensorboard.summary.writer import event_file_writer  # type: ignore[import-untyped]
from tiny import RightAnswers, TinyTask
from torch import nn

from {{ cookiecutter.__package_name }}.__main__ import main
from {{ cookiecutter.__package_name }}.engine import checkpoint, config, record
from {{ cookiecutter.__package_name }}.engine.distributed import StopSignal
from {{ cookiecutter.__package_name }}.engine.loader import Loader, LoaderConfig
from {{ cookiecutter.__package_name }}.engine.logger import Logger
from {{ cookiecutter.__package_name }}.engine.trainer import (
    MicroBatch,
    Output,
    Trainer,
    TrainerConfig,
)
from {{ cookiecutter.__package_name }}.resume import check_overrides, check_same
from {{ cookiecutter.__package_name }}.train import Config, load_config

Train = Callable[..., Path]
Stopped = Callable[..., Path]
Killed = Callable[..., Path]
Patch = pytest.MonkeyPatch
SOURCE = Path(record.__file__).parents[2]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
USR1 = getattr(signal, "SIGUSR1", None)

# Four steps in each epoch, unless a test says otherwise.
BASE = ("trainer.epochs=6",)
PLATEAU = ("optim.scheduler=plateau", "optim.patience=0", "trainer.patience=2")
ACCUMULATE = ("optim.warmup=3", "trainer.micro_batches=3", "trainer.max_grad_norm=0.1")
MANY = ("optim.scheduler=linear", *ACCUMULATE)

# Where a run ends too early: a function, and a text that has to be in the arguments of a call.
POINTS: dict[str, tuple[Any, str, str]] = {
    "step": (Trainer, "train_step", ""),
    "evaluation": (RightAnswers, "update", ""),
    "save": (checkpoint, "save", "last.pt"),
    "saving": (torch, "save", "last.pt"),
    "rename": (os, "replace", "last.pt"),
}
CALLS_BEFORE_THE_FIRST_STEP = {"evaluation": 2}  # a batch of train and one of val are tried

write_scalars = Logger._write_scalars


def intercept(
    patch: Callable[[Any, str, Any], None], at: str, count: int, act: Callable[..., Any]
) -> None:
    """Do something else instead of the `count`th call of a point.

    `act` gets the function of the point and the arguments of the call.
    """
    owner, name, text = POINTS[at]
    original = getattr(owner, name)
    left = count + CALLS_BEFORE_THE_FIRST_STEP.get(at, 0)

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        counts = not text or text in str(arguments)
        left -= counts
        if counts and left == 0:
            return act(original, *arguments, **options)
        return original(*arguments, **options)

    patch(owner, name, counted)


@dataclass
class Death:
    """How a process that trains dies."""

    at: str
    """the point"""
    count: int
    """the call of it"""
    task: type[TinyTask] = TinyTask
    threads: int = 1
    signals: int = 0
    """how many signals it dies of; 0: of none"""


def die(death: Death, temporary: str, words: list[str]) -> None:
    """Train, until death."""

    def act(original: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        if death.at == "saving":
            state, file = arguments
            whole = io.BytesIO()
            original(state, whole)
            file.write(whole.getvalue()[:1000])
            file.flush()
        else:
            original(*arguments, **options)
        for _ in range(death.signals):
            signal.raise_signal(signal.SIGTERM)
        os._exit(9)

    intercept(setattr, death.at, death.count, act)
    tempfile.tempdir = temporary  # what the dead leave behind lies there
    multiprocessing.set_start_method(None, force=True)  # for workers, as users have it
    torch.set_num_threads(death.threads)
    tiny.install(task=death.task)
    main(words)


@pytest.fixture
def killed(tmp_path: Path, empty_config: Path) -> Killed:
    """Train in a process of its own, which dies; get the folder of the run."""

    def run(at: str, count: int, *overrides: str, **how: Any) -> Path:
        death = Death(at, count, **how)
        words = ["train", str(empty_config), f"output_dir={tmp_path / 'part'}", *overrides]
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            process = context().Process(target=die, args=(death, temporary, words))
            process.start()
            process.join()
        assert process.exitcode == (-signal.SIGTERM if death.signals else 9)
        (folder,) = (tmp_path / "part").iterdir()
        return folder

    return run


@pytest.fixture
def stopped(command: Command, empty_config: Path) -> Stopped:
    """Train, or continue a run with `--resume RUN`, until a signal comes at a point; get the
    folder of the run from what is said about how to resume it."""

    def run(at: str, count: int, *words: str, number: int = signal.SIGTERM) -> Path:
        def act(original: Callable[..., Any], *arguments: Any) -> Any:
            signal.raise_signal(number)
            return original(*arguments)

        new = (str(empty_config), "output_dir={tmp}/part")
        words = words if "--resume" in words else (*new, *words)
        with Patch.context() as patch:
            intercept(patch.setattr, at, count, act)
            code, out, err = command("train", *words)
        assert (code, out) == (128 + number, "")
        why, how = err.splitlines()[-2:]
        assert re.fullmatch(r"stopped   by SIG(TERM|INT|USR1|HUP) after step \d+", why)
        assert how.startswith(f"resume    python -m {main.__module__.partition('.')[0]} train ")
        folder = Path(how.partition(" --resume ")[2]).resolve()
        assert record.read(folder / "result.json")["status"] == "stopped"
        return folder

    return run


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch: Patch) -> None:
    """Write no event files: a second one has to wait for another second."""
    monkeypatch.setattr(Logger, "_write_scalars", lambda *_: None)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Compute with one thread: for a model as small as this, more of them take longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def files_of(run: Path) -> dict[Path, bytes]:
    """The files of a run, to see whether one has changed."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def resumes(run: Path) -> list[int]:
    """The steps at which a run was continued."""
    return [entry["step"] for entry in record.read(run / "manifest.json")["resumes"]]


@pytest.mark.parametrize(
    ("at", "count", "options"),
    [
        ("step", 10, ("trainer.save_every=3", "trainer.log_every=2")),
        ("step", 1, ()),  # before the first checkpoint
        ("step", 23, ("loader.num_workers=2", "trainer.save_every=2")),
        ("step", 14, PLATEAU),
        ("step", 9, ("loader.limit=50", "loader.drop_last=true", "trainer.save_every=2")),
        ("step", 9, ("loader.limit=37", "trainer.micro_batches=2", "trainer.save_every=4")),
        ("evaluation", 6, ("trainer.log_every=3", "trainer.save_every=4")),
        ("evaluation", 10, ("loader.num_workers=2", *MANY)),
        ("save", 1, ("trainer.save_every=1",)),
        ("save", 4, PLATEAU),
        ("save", 3, ("optim.scheduler=constant", *ACCUMULATE, "trainer.save_every=3")),
        ("saving", 2, MANY),
        ("saving", 3, ("trainer.save_every=1", "trainer.log_every=1")),
        ("rename", 2, ("trainer.save_every=3",)),
        (
            "step",
            9,
            ("trainer.precision=fp16", "trainer.max_grad_norm=0.1", "trainer.save_every=2"),
        ),
        ("step", 11, ("trainer.precision=bf16", "trainer.micro_batches=2", "trainer.save_every=4")),
        ("step", 11, ("trainer.eval_every=3", "trainer.log_every=2")),
        ("evaluation", 9, ("trainer.eval_every=3", "trainer.save_every=2")),
        ("evaluation", 5, ("trainer.eval_every=5", *PLATEAU)),
        ("step", 8, ("optim.ema=0.9", "trainer.eval_every=3", "trainer.keep=2")),
        ("save", 7, ("trainer.keep=3", "trainer.eval_every=2")),
        ("step", 9, ('optim.groups={"0.*": 0.1, "3.bias": 0}', "trainer.save_every=2")),
        ("step", 11, ("logger.trace=true", "trainer.save_every=4")),
    ],
)
def test_continued_equals_uninterrupted(
    train: Train, command: Command, killed: Killed, at: str, count: int, options: tuple[str, ...]
) -> None:
    whole = train(*BASE, *options)
    part = killed(at, count, *BASE, *options)
    before = (part / "metrics.jsonl").read_bytes()
    state = checkpoint.load_latest(part / "checkpoints")
    logged = state["logger"]["bytes"] if state else 0
    manifest = record.read(part / "manifest.json")
    code, out, err = command("train", "--resume", str(part))
    assert (code, out.strip()) == (0, str(part)), err
    assert (part / "metrics.jsonl").read_bytes()[:logged] == before[:logged]
    after = record.read(part / "manifest.json")
    (entry,) = after.pop("resumes")
    assert after == manifest  # but for the entry
    assert entry["step"] == (state["trainer"]["step"] if state else 0)
    assert entry["threads"] == torch.get_num_threads()
    assert_same_run(whole, part)
    assert not list(part.rglob("*.tmp"))


class NoisyTask(TinyTask):
    """Its samples have random numbers in them."""

    is_noisy = True


@pytest.mark.parametrize("workers", [0, 2])
def test_random_samples_and_the_number_of_threads_stay_as_they_were(
    train: Train, command: Command, killed: Killed, monkeypatch: Patch, workers: int
) -> None:
    options = (*BASE, "trainer.save_every=5", f"loader.num_workers={workers}")
    part = killed("step", 9, *options, task=NoisyTask, threads=2)
    tiny.install(monkeypatch.setattr, NoisyTask)
    assert command("train", "--resume", str(part), f"loader.num_workers={2 - workers}")[0] == 0
    assert torch.get_num_threads() == 2  # as the run had it: bits can depend on it
    assert_same_run(train(*options), part)


class BalancedTask(NoisyTask):
    """An epoch draws both classes of points equally often, some of them more than once."""

    is_balanced = True


@pytest.mark.parametrize("count", [6, 9])
def test_groups_that_are_drawn_equally_often_continue_in_mid_epoch(
    train: Train, command: Command, killed: Killed, monkeypatch: Patch, count: int
) -> None:
    options = (*BASE, "trainer.save_every=1", "loader.limit=53")
    unbalanced = train(*options)
    part = killed("step", count, *options, task=BalancedTask)
    tiny.install(monkeypatch.setattr, BalancedTask)
    assert command("train", "--resume", str(part), "loader.num_workers=2")[0] == 0
    assert resumes(part) == [count - 1]
    whole = train(*options)
    assert_same_run(whole, part)
    assert read_log(whole) != read_log(unbalanced)


def test_what_the_task_has_learnt_is_kept_and_not_learnt_again(
    train: Train, command: Command, stopped: Stopped, monkeypatch: Patch
) -> None:
    whole = train(*BASE)
    part = stopped("step", 6, *BASE)

    def learn_something_else(task: TinyTask) -> None:
        task.mean = torch.ones(tiny.FEATURES)

    monkeypatch.setattr(TinyTask, "learn", learn_something_else)
    assert command("train", "--resume", str(part))[0] == 0
    assert_same_run(whole, part)
    learnt = checkpoint.load(part / "checkpoints" / "last.pt")["task"]
    assert not torch.equal(learnt["mean"], torch.ones(tiny.FEATURES))


class TwoOptimizers(Trainer):
    """Moves the weights by a second optimizer too, which has a momentum to remember."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.second = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)

    def update(self, micro_batches: Sequence[MicroBatch], total: int) -> None:
        super().update(micro_batches, total)
        self.second.step()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "second": self.second.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.second.load_state_dict(state["second"])


class TwoOptimizersTask(TinyTask):
    trainer = TwoOptimizers


def test_a_trainer_of_the_task_continues_with_the_state_that_it_adds(
    train: Train, command: Command, killed: Killed, monkeypatch: Patch
) -> None:
    options = (*BASE, "trainer.save_every=3")
    plain = train(*options)
    part = killed("step", 11, *options, task=TwoOptimizersTask)
    tiny.install(monkeypatch.setattr, TwoOptimizersTask)
    whole = train(*options)
    assert command("train", "--resume", str(part))[0] == 0
    assert resumes(part) == [9]
    assert_same_run(whole, part)
    assert read_log(whole) != read_log(plain)


class ValuesTask(TinyTask):
    """Logs a second number of each sample beside the loss."""

    def forward(self, model: nn.Module, batch: Any) -> Output:
        output = super().forward(model, batch)
        largest, _ = output.preds.detach().softmax(1).max(1)
        return replace(output, values={"confidence": largest})


class UnitsTask(ValuesTask):
    """Counts the loss by units, of which samples have different numbers; not the other number."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.units = count_positive

    def forward(self, model: nn.Module, batch: Any) -> Output:
        output = super().forward(model, batch)
        inputs, _ = batch
        return replace(output, losses=output.losses[:, None] * (inputs > 0))


def count_positive(batch: Any) -> int:
    """The number of positive coordinates in a batch."""
    inputs, _ = batch
    return int((inputs > 0).sum())


@pytest.mark.parametrize("task", [ValuesTask, UnitsTask])
def test_values_beside_the_loss_have_the_means_of_the_whole_epoch(
    train: Train, command: Command, stopped: Stopped, monkeypatch: Patch, task: type[TinyTask]
) -> None:
    tiny.install(monkeypatch.setattr, task)
    options = (*BASE, "trainer.micro_batches=2", "trainer.log_every=4")
    part = stopped("step", 7, *options)
    assert command("train", "--resume", str(part))[0] == 0
    assert resumes(part) == [7]
    assert_same_run(train(*options), part)
    for line in read_log(part):
        assert 0.5 < line["confidence"] < 1


def test_only_the_remaining_samples_are_loaded(
    command: Command, stopped: Stopped, monkeypatch: Patch
) -> None:
    part = stopped("step", 2, "trainer.epochs=1")
    loaded: list[int] = []
    datasets = TinyTask.datasets

    def watched(task: TinyTask) -> dict[str, Any]:
        found = datasets(task)
        return {**found, "train": Counted(found["train"], loaded)}

    monkeypatch.setattr(TinyTask, "datasets", watched)
    assert command("train", "--resume", str(part))[0] == 0
    loader = Loader(range(60), LoaderConfig(batch_size=16), seed=0, shuffle=True)
    order = loader.order(0)
    assert loaded == order[:16] + order[32:]  # the first batch is tried before the first step


def test_a_run_may_be_stopped_at_every_step_of_its_way(
    train: Train, command: Command, stopped: Stopped
) -> None:
    options = ("trainer.epochs=2", "trainer.log_every=3", "optim.scheduler=plateau")
    part = stopped("step", 1, *options)
    for _ in range(3):
        assert stopped("step", 2, "--resume", str(part)) == part
    assert stopped("evaluation", 2, "--resume", str(part)) == part
    assert command("train", "--resume", str(part))[0] == 0
    assert resumes(part) == [1, 3, 5, 7, 8]
    assert_same_run(train(*options), part)


def test_an_evaluation_within_an_epoch_that_a_signal_interrupts_is_made_on_resume(
    train: Train, command: Command, stopped: Stopped
) -> None:
    options = ("trainer.epochs=2", "trainer.eval_every=3", "trainer.log_every=1")
    part = stopped("evaluation", 2, *options)
    state = checkpoint.load(part / "checkpoints" / "last.pt")["trainer"]
    assert (state["step"], state["evaluated_step"]) == (3, 0)
    assert command("train", "--resume", str(part))[0] == 0
    assert_same_run(train(*options), part)


def test_a_run_whose_time_was_up_is_not_trained_further_on_resume(
    command: Command, stopped: Stopped, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(StopSignal, "is_time_up", property(is_late, lambda *_: None), raising=False)
    part = stopped("evaluation", 1, "trainer.epochs=9", "trainer.max_minutes=9")
    assert checkpoint.load(part / "checkpoints" / "last.pt")["trainer"]["last_step"] == 3
    monkeypatch.setattr(StopSignal, "is_time_up", False)
    assert command("train", "--resume", str(part))[0] == 0
    result = record.read(part / "result.json")
    assert (result["status"], result["steps"]) == ("finished", 3)


def test_what_a_kill_has_left_half_is_removed(train: Train, command: Command) -> None:
    run = train("optim.scheduler=constant", "trainer.epochs=1")
    half = run / "checkpoints" / "best-3.pt.tmp"
    half.touch()
    folder = run / "checkpoints" / "best-4.pt"  # which no run has made
    folder.mkdir()
    assert command("train", "--resume", str(run), "trainer.epochs=2")[0] == 0
    assert not half.exists()
    assert folder.exists()


def test_the_minutes_before_a_resume_count(train: Train, command: Command) -> None:
    run = train("trainer.epochs=2", "trainer.max_minutes=60")
    path = run / "checkpoints" / "last.prev.pt"
    state = checkpoint.load(path)
    assert state["trainer"]["step"] == 4
    state["logger"]["seconds"] = 3600
    torch.save(state, run / "checkpoints" / "last.pt")
    (run / "result.json").unlink()
    assert command("train", "--resume", str(run))[0] == 0
    assert record.read(run / "result.json")["steps"] == 5


def is_late(stop: StopSignal) -> bool:
    """Stands in for `is_time_up`: the time is up with the third step."""
    steps = getattr(stop, "steps", 0) + 1
    stop.steps = steps  # type: ignore[attr-defined]
    return bool(steps >= 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, pytest.param(USR1, marks=POSIX)])
@pytest.mark.parametrize(("at", "count", "step"), [("step", 3, 3), ("evaluation", 6, 8)])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.usefixtures("default_signals")
def test_a_signal_ends_the_step_and_leaves_a_checkpoint(
    train: Train, command: Command, stopped: Stopped, number: int, at: str, count: int, step: int,
    workers: int,
) -> None:  # fmt: skip
    options = ("trainer.epochs=3", f"loader.num_workers={workers}")
    handlers = [signal.getsignal(either) for either in (signal.SIGTERM, signal.SIGINT)]
    part = stopped(at, count, *options, number=number)
    assert checkpoint.load(part / "checkpoints" / "last.pt")["trainer"]["step"] == step
    assert multiprocessing.active_children() == []
    assert [signal.getsignal(either) for either in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert command("train", "--resume", str(part))[0] == 0
    assert_same_run(train(*options), part)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_second_signal_ends_the_process_at_once(
    train: Train, command: Command, killed: Killed
) -> None:
    options = (*BASE, "trainer.save_every=2")
    part = killed("step", 7, *options, signals=2)
    assert not (part / "result.json").exists()
    assert command("train", "--resume", str(part))[0] == 0
    assert resumes(part) == [6]
    assert_same_run(train(*options), part)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")
def test_a_signal_to_the_whole_group_spares_the_workers(tmp_path: Path, empty_config: Path) -> None:
    options = ("trainer.epochs=400", "trainer.log_every=1", "loader.num_workers=2")
    words = ["train", str(empty_config), f"output_dir={tmp_path / 'part'}", *options]
    process = subprocess.Popen(
        [sys.executable, tiny.__file__, *words],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    # A worker leaves the group a moment after it was forked. After two epochs, which have fewer
    # bytes than this, the workers of train and of val have left it.
    logs: list[Path] = []
    while not logs or logs[0].stat().st_size < 2000:
        assert process.poll() is None
        time.sleep(0.01)
        logs = list((tmp_path / "part").glob("*/metrics.jsonl"))
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert record.read(logs[0].parent / "result.json")["status"] == "stopped"


def test_a_run_without_a_checkpoint_starts_from_its_beginning(
    train: Train, command: Command, monkeypatch: Patch
) -> None:
    whole = train()
    part = train()
    for path in (part / "checkpoints").iterdir():
        path.unlink()
    (part / "result.json").unlink()
    states: list[Any] = []
    load_state_dict = Logger.load_state_dict

    def noted(log: Logger, state: Any) -> None:
        states.append(state)
        load_state_dict(log, state)

    monkeypatch.setattr(Logger, "load_state_dict", noted)
    code, _, err = command("train", "--resume", str(part))
    assert code == 0
    assert "; 0 of 8 steps; " in err
    assert states == [{"bytes": 0, "seconds": 0}]
    assert resumes(part) == [0]
    assert_same_run(whole, part)


def test_resuming_a_finished_run_says_so_and_changes_nothing(
    train: Train, command: Command
) -> None:
    run = train()
    before = files_of(run)
    code, out, err = command("train", "--resume", str(run), "loader.num_workers=1")
    assert (code, out.strip()) == (0, str(run))
    assert "this run is finished" in err
    assert files_of(run) == before


@pytest.mark.parametrize("scheduler", ["constant", "plateau"])
def test_more_epochs_give_the_run_that_had_them_from_the_start(
    train: Train, command: Command, scheduler: str
) -> None:
    options = (f"optim.scheduler={scheduler}", "optim.patience=0")
    part = train(*options, "trainer.epochs=3")
    words = ("trainer.epochs=6", "device=cpu", "loader.num_workers=1")
    assert command("train", "--resume", str(part), *words)[0] == 0
    assert_same_run(train(*options, "trainer.epochs=6"), part)
    saved = load_config(part / "config.yaml")
    assert (saved.trainer.epochs, saved.loader.num_workers, saved.device) == (6, 1, "cpu")
    (entry,) = record.read(part / "manifest.json")["resumes"]
    replaced = entry["replaced"]
    assert (replaced["device"], replaced["loader"]["num_workers"]) == ("auto", 0)
    assert (replaced["trainer"]["epochs"], entry["overrides"]) == (3, list(words))


@pytest.mark.parametrize("option", ["trainer.eval_every=3", "trainer.max_minutes=60"])
def test_a_run_whose_end_was_not_one_of_an_epoch_gets_no_more_epochs(
    train: Train, command: Command, option: str
) -> None:
    run = train("optim.scheduler=constant", option)
    code, _, err = command("train", "--resume", str(run), "trainer.epochs=9")
    assert code == 2
    assert "trainer.epochs: cannot be changed on --resume" in err


def test_a_run_that_gets_more_epochs_and_dies_is_not_taken_for_finished(
    train: Train, command: Command, stopped: Stopped
) -> None:
    part = train("optim.scheduler=constant", "trainer.epochs=2")
    stopped("step", 2, "--resume", str(part), "trainer.epochs=4")
    (part / "result.json").unlink()  # as if it had been killed
    assert command("train", "--resume", str(part))[0] == 0
    assert resumes(part) == [8, 10]
    assert_same_run(train("optim.scheduler=constant", "trainer.epochs=4"), part)


def test_a_finished_run_that_dies_while_it_gets_more_epochs_is_not_taken_for_finished(
    train: Train, command: Command, monkeypatch: Patch
) -> None:
    options = ("optim.scheduler=constant", "trainer.epochs=2")
    run = train(*options)
    more = ("train", "--resume", str(run), "trainer.epochs=4")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Logger, "load_state_dict", die)  # before the log is cut
        assert command(*more)[0] == 130
    assert not (run / "result.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(record, "write", die)  # and after it
        assert command(*more)[0] == 130
    assert command("train", "--resume", str(run))[0] == 0
    assert_same_run(train(*options), run)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=1"], "error: seed: cannot be changed on --resume (only device, loader.num_workers"),
        (["optim.lr=1"], "use --init-from to start a new run"),
        (["trainer.epoch=9"], "trainer.epoch: "),
        (
            ["trainer.epochs=9"],
            "schedule and without eval_every or max_minutes, a larger trainer.epochs can",
        ),
        (
            ["trainer.epochs=1"],
            "schedule and without eval_every or max_minutes, a larger trainer.epochs can",
        ),
        (["--init-from", "{run}"], "--resume continues a run with its own config"),
        (["{run}/config.yaml"], "--resume continues a run with its own config"),
    ],
)
@pytest.mark.parametrize("scheduler", ["cosine", "linear"])
def test_what_would_change_the_run_is_refused(
    train: Train, command: Command, words: list[str], expected: str, scheduler: str
) -> None:
    run = train(f"optim.scheduler={scheduler}")
    before = files_of(run)
    words = [word.replace("{run}", str(run)) for word in words]
    code, out, err = command("train", "--resume", str(run), *words)
    assert (code, out) == (2, "")
    assert expected in err
    assert files_of(run) == before


@pytest.mark.parametrize("scheduler", ["constant", "plateau"])
def test_fewer_epochs_are_refused_under_any_schedule(
    train: Train, command: Command, scheduler: str
) -> None:
    run = train(f"optim.scheduler={scheduler}")
    code, _, err = command("train", "--resume", str(run), "trainer.epochs=1")
    assert code == 2
    assert "error: trainer.epochs: cannot be changed on --resume" in err


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on Windows")
def test_two_processes_cannot_have_one_run_and_a_dead_ones_lock_is_free(
    command: Command, killed: Killed
) -> None:
    part = killed("step", 9, *BASE, "loader.num_workers=2")  # its workers live on
    before = files_of(part)
    go = context().Event()
    locked = context().Event()
    process = context().Process(target=hold, args=(part, locked, go), daemon=True)
    process.start()
    locked.wait()
    code, _, err = command("train", "--resume", str(part))
    assert code == 2
    assert f"error: {part}: another process is writing to this run" in err
    assert {path: path.read_bytes() for path in before} == before
    go.set()
    process.join()
    assert command("train", "--resume", str(part))[0] == 0


def hold(run: Path, locked: Any, go: Any) -> None:
    """Write to a run until this is allowed to end."""
    log = Logger()
    log.open(run)
    log.load_state_dict(log.state_dict())  # which reads the log, and must not lose the lock
    locked.set()
    go.wait()


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    train: Train, command: Command, killed: Killed
) -> None:
    options = (*BASE, "trainer.save_every=2")
    part = killed("save", 4, *options)
    last = part / "checkpoints" / "last.pt"
    weights = next(iter(checkpoint.load(last)["model_state_dict"].values()))
    content = bytearray(last.read_bytes())
    content[content.index(weights.numpy().tobytes())] ^= 1
    last.write_bytes(content)
    code, _, err = command("train", "--resume", str(part))
    assert code == 0
    (warning,) = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert "last.pt: damaged or missing: " in warning
    assert "using last.prev.pt" in warning
    assert_same_run(train(*options), part)


def test_resuming_without_a_whole_checkpoint_is_refused_and_changes_nothing(
    command: Command, stopped: Stopped
) -> None:
    run = stopped("step", 6, *BASE)
    for name in ("last.pt", "last.prev.pt"):
        (run / "checkpoints" / name).write_bytes(b"")
    before = files_of(run)
    code, _, err = command("train", "--resume", str(run))
    assert code == 2
    assert f"error: {run / 'checkpoints' / 'last.prev.pt'}: damaged or missing: " in err
    assert files_of(run) == before


def test_what_is_tried_before_the_first_step_is_tried_on_resume_too(
    train: Train, command: Command, stopped: Stopped, monkeypatch: Patch
) -> None:
    run = stopped("step", 5)
    before = files_of(run)
    with monkeypatch.context() as patch:
        patch.setattr(TinyTask, "example", lambda _: "[1, 2]")
        code, _, err = command("train", "--resume", str(run))
    assert (code, err) == (2, "error: expected 16 numbers, found 2\n")
    assert files_of(run) == before
    code, _, err = command("train", "--resume", str(run))
    assert code == 0
    assert "; 5 of 8 steps; " in err


def changed(settings: Config, key: str) -> Config:
    """The settings with another value of an option."""
    section, _, name = key.rpartition(".")
    owner: Any = getattr(settings, section) if section else settings
    value = getattr(owner, name)
    if isinstance(value, bool):
        other: Any = not value
    elif isinstance(value, int | float):
        other = value + 1
    else:
        other = "other"
    changes: dict[str, Any] = {name: other}
    owner = replace(owner, **changes)
    in_section: dict[str, Any] = {section: owner}
    whole: Config = replace(settings, **in_section) if section else owner
    return whole


def test_an_option_can_be_another_on_resume_only_if_it_leaves_the_run_the_same() -> None:
    old = Config()
    for key in config.flat(old):
        overrides = [f"{key}=1"]
        if key in ("device", "loader.num_workers"):
            check_overrides(old, changed(old, key), overrides)
            continue
        with pytest.raises(record.RunError, match=f"^{re.escape(key)}: cannot be changed"):
            check_overrides(old, changed(old, key), overrides)


def test_a_run_by_name_continues_only_with_options_that_leave_it_the_same() -> None:
    old = Config(trainer=TrainerConfig(micro_batches=2))
    free = {"device", "loader.num_workers", "name", "output_dir"}
    for key in config.flat(old):
        settings = changed(old, key)
        if key in free:
            check_same(Path("one"), old, settings)
            continue
        with pytest.raises(record.RunError, match=f"another config: {re.escape(key)} was "):
            check_same(Path("one"), old, settings)
    for count, is_same in ((0, True), (1, False)):  # 0: that of the run
        settings = Config(trainer=TrainerConfig(micro_batches=count))
        with nullcontext() if is_same else pytest.raises(record.RunError):
            check_same(Path("one"), old, settings)


def test_resuming_with_another_model_names_what_differs(
    command: Command, stopped: Stopped, monkeypatch: Patch
) -> None:
    run = stopped("step", 1)
    before = files_of(run)
    monkeypatch.setattr(TinyTask, "hidden", 9)
    code, _, err = command("train", "--resume", str(run))
    assert code == 2
    assert "error: the checkpoint does not fit this model: model_state_dict: " in err
    assert "size mismatch for 0.bias" in err
    assert files_of(run) == before


@pytest.mark.parametrize(("saves", "max_steps"), [(1, 3), (3, 6), (2, 8)])
def test_a_run_that_died_at_its_last_step_is_still_evaluated(
    train: Train, command: Command, killed: Killed, saves: int, max_steps: int
) -> None:
    options = ("trainer.save_every=3", f"trainer.max_steps={max_steps}")
    whole = train(*options)
    part = killed("save", saves, *options)
    assert command("train", "--resume", str(part))[0] == 0
    assert_same_run(whole, part)


def test_a_run_that_died_after_its_last_checkpoint_gets_the_same_end(
    train: Train, command: Command
) -> None:
    run = train()
    log = read_log(run)
    result = record.read(run / "result.json")
    (run / "result.json").unlink()
    assert command("train", "--resume", str(run))[0] == 0
    assert (read_log(run), record.read(run / "result.json")) == (log, result)
    assert resumes(run) == [8]


def is_first(trainer: Trainer, value: float) -> bool:
    """Stands in for `is_better`: the best weights are those of the first epoch."""
    return trainer.epoch == 1


def test_a_signal_while_the_best_weights_are_tested_keeps_the_last(
    train: Train, command: Command, stopped: Stopped, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(Trainer, "is_better", is_first)
    options = ("trainer.epochs=3",)
    whole = train(*options)
    assert record.read(whole / "result.json")["best"]["step"] == 4
    part = stopped("evaluation", 13, *options)  # four batches in each of three epochs
    assert read_log(part, "test") == []
    assert command("train", "--resume", str(part))[0] == 0
    assert_same_run(whole, part)


def test_resuming_with_other_data_is_refused_and_changes_nothing(
    train: Train, command: Command, stopped: Stopped, monkeypatch: Patch, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("1\n", encoding="utf-8")
    monkeypatch.setattr(TinyTask, "file", mine)
    run = stopped("step", 3)
    before = files_of(run)
    mine.write_text("2\n", encoding="utf-8")
    code, _, err = command("train", "--resume", str(run))
    assert code == 2
    change = f"{mine.name} changed"
    expected = f"error: {mine}: the data has changed since the run began: {change}; use --init-from"
    assert expected in err
    assert files_of(run) == before
    mine.write_text("1\n", encoding="utf-8")
    assert command("train", "--resume", str(run))[0] == 0
    assert_same_run(train(), run)


def test_resuming_with_a_log_that_has_become_shorter_is_refused(
    command: Command, stopped: Stopped
) -> None:
    run = stopped("step", 5)
    (run / "metrics.jsonl").unlink()
    code, _, err = command("train", "--resume", str(run))
    assert code == 2
    assert f"error: {run / 'metrics.jsonl'}: " in err
    assert "found 0" in err


def test_a_run_from_another_that_died_before_its_first_checkpoint_starts_from_it_again(
    train: Train, command: Command, killed: Killed
) -> None:
    parent = train(*BASE, "optim.lr=0.1")
    whole = train(*BASE, "--init-from", str(parent))
    part = killed("step", 2, *BASE, "--init-from", str(parent))
    assert command("train", "--resume", str(part))[0] == 0
    assert_same_run(whole, part)
    assert record.read(part / "result.json") != record.read(train(*BASE) / "result.json")


def test_a_run_from_another_that_has_changed_since_does_not_start_from_it_again(
    train: Train, command: Command, killed: Killed
) -> None:
    parent = train(*BASE, "optim.lr=0.1")
    part = killed("step", 2, *BASE, "--init-from", str(parent))
    best = parent / "checkpoints" / "best.pt"
    state = checkpoint.load(best)
    next(iter(state["model_state_dict"].values())).add_(1)
    torch.save(state, best)
    before = files_of(part)
    code, _, err = command("train", "--resume", str(part))
    assert code == 2
    assert f"error: {part}: the weights that this run began from have changed, in " in err
    assert files_of(part) == before


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"threads": 2}'])
def test_a_run_without_its_manifest_is_refused(
    stopped: Stopped, command: Command, content: str | None
) -> None:
    run = stopped("step", 1)
    manifest = run / "manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_text(content, encoding="utf-8")
    before = files_of(run)
    code, _, err = command("train", "--resume", str(run))
    assert code == 2
    assert f"error: {manifest}: expected a JSON object" in err
    assert files_of(run) == before


def test_tensorboard_shows_the_log_of_a_run_that_was_stopped_twice_and_got_more_epochs(
    command: Command, stopped: Stopped, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(Logger, "_write_scalars", write_scalars)
    # Event files get the names of seconds to come, so that none has to wait for its second.
    seconds = itertools.count(int(time.time()) + 1000)
    monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: next(seconds)))
    monkeypatch.setattr(Trainer, "is_better", is_first)
    options = ("trainer.epochs=3", "trainer.log_every=1", "optim.scheduler=constant")
    part = stopped("evaluation", 2, *options)
    stopped("step", 3, "--resume", str(part))
    assert command("train", "--resume", str(part))[0] == 0
    assert_shown(part)
    steps = [line["step"] for line in read_log(part)]
    assert steps[-2:] == [12, 4]  # the line of test has the step of the best weights
    assert command("train", "--resume", str(part), "trainer.epochs=5")[0] == 0
    assert len(read_log(part, "val")) == 5
    assert_shown(part)


def assert_shown(run: Path) -> None:
    """TensorBoard shows each line of the log once, and no other."""
    events = EventAccumulator(str(run))
    events.Reload()
    for split in ("train", "val", "test"):
        log = [(line["step"], line["loss"]) for line in read_log(run, split)]
        shown = [(event.step, event.value) for event in events.Scalars(f"loss/{split}")]
        assert shown == [(step, pytest.approx(loss)) for step, loss in log]
