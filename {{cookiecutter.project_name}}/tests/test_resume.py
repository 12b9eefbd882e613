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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TINY, Command, Noisy, assert_same_run, read_log
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tensorboard.summary.writer import event_file_writer  # type: ignore[import-untyped]

from {{ cookiecutter.__package_name }} import (
    checkpoint,
    config,
    data,
    logger,
    metrics,
    record,
    trainer,
)
from {{ cookiecutter.__package_name }}.__main__ import main
from {{ cookiecutter.__package_name }}.train import Config

Train = Callable[..., Path]
ROOT = Path(__file__).parents[1]
FORK = "spawn" if sys.platform == "win32" else "forkserver"
BASE = ("data.batch_size=16", "trainer.epochs=6")
POINTS: dict[str, tuple[Any, str]] = {
    "step": (trainer.Trainer, "train_step"),
    "evaluation": (metrics.Accuracy, "update"),
    "save": (checkpoint, "save"),
    "saving": (torch, "save"),
    "rename": (os, "replace"),
}
MANY = ("optim.scheduler=linear", "optim.warmup=3", "trainer.accumulate=3", "trainer.clip=0.1")


def die(at: str, count: int, noisy: bool, threads: int, temporary: str, words: list[str]) -> None:
    """Train, and die the `count`th time that this point is reached."""
    owner, name = POINTS[at]
    original, left = getattr(owner, name), [count]

    def counted(*arguments: Any, **options: Any) -> Any:
        left[0] -= "last.pt" in str(arguments) or name in ("train_step", "update")
        if at == "saving" and not left[0]:
            whole = io.BytesIO()
            original(arguments[0], whole)
            arguments[1].write(whole.getvalue()[:1000])
            arguments[1].flush()
        else:
            original(*arguments, **options)
        if not left[0]:
            os._exit(9)

    setattr(owner, name, counted)
    tempfile.tempdir = temporary  # what the dead leave behind lies there
    multiprocessing.set_start_method(None, force=True)  # for workers, as users have it
    torch.set_num_threads(threads)
    if noisy:
        Noisy.install(setattr)
    main(words)


def interrupted(
    tmp_path: Path, at: str, count: int, *options: str, noisy: bool = False, threads: int = 2
) -> Path:
    """The folder of a run that died in a process of its own."""
    context: Any = multiprocessing.get_context(FORK)
    if sys.platform != "win32":
        context.set_forkserver_preload([record.__name__, "torch._dynamo"])
    words = ["train", *TINY, f"output_dir={tmp_path / 'part'}", *options]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        arguments = (at, count, noisy, threads, temporary, words)
        process = context.Process(target=die, args=arguments)
        process.start()
        process.join()
    assert process.exitcode == 9
    (run,) = (tmp_path / "part").iterdir()
    return run


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Quicker, and event files of the same second would not be in order."""
    if "tensorboard" not in request.node.name:
        monkeypatch.setattr(logger.Logger, "_write_scalars", lambda *_: None)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("at", "count", "options"),
    [
        ("step", 10, ("trainer.save_every=3", "trainer.log_every=2")),
        ("step", 1, ()),  # before the first checkpoint
        ("step", 23, ("data.num_workers=2", "trainer.save_every=2")),
        ("step", 14, ("optim.scheduler=plateau", "optim.patience=0", "trainer.patience=2")),
        ("evaluation", 6, ("trainer.log_every=3", "trainer.save_every=4")),
        ("evaluation", 10, ("data.num_workers=2", *MANY)),
        ("save", 1, ("trainer.save_every=1",)),
        ("save", 4, ("optim.scheduler=plateau", "optim.patience=0", "trainer.patience=2")),
        ("save", 3, ("optim.scheduler=constant", *MANY[1:], "trainer.save_every=3")),
        ("saving", 2, MANY),
        ("saving", 3, ("trainer.save_every=1", "trainer.log_every=1")),
        ("rename", 2, ("trainer.save_every=3",)),
        ("step", 9, ("trainer.precision=fp16", "trainer.clip=0.1", "trainer.save_every=2")),
        ("step", 11, ("trainer.precision=bf16", "trainer.accumulate=2", "trainer.save_every=4")),
    ],
)
def test_continued_equals_uninterrupted(
    train: Train, command: Command, tmp_path: Path, at: str, count: int, options: tuple[str, ...]
) -> None:
    whole = train(*BASE, *options)
    part = interrupted(tmp_path, at, count, *BASE, *options)
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


@pytest.mark.parametrize("workers", [0, 2])
def test_random_samples_and_one_thread_go_on_as_they_were(
    train: Train, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    options = (*BASE, "trainer.save_every=5", "data.features=4096", f"data.num_workers={workers}")
    part = interrupted(tmp_path, "step", 9, *options, noisy=True, threads=1)
    Noisy.install(monkeypatch.setattr)
    assert command("train", "--resume", str(part), f"data.num_workers={2 - workers}")[0] == 0
    assert torch.get_num_threads() == 1  # as the run had it: bits depend on it
    assert_same_run(train(*options), part)


def test_only_the_remaining_samples_are_loaded(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = interrupted(tmp_path, "step", 3, *BASE, "trainer.epochs=1", "trainer.save_every=2")
    loaded: list[tuple[int, list[int]]] = []
    original = data.EncodedDataset.__getitems__

    def counted(self: data.EncodedDataset, indices: list[int]) -> Any:
        loaded.append((id(self), indices))
        return original(self, indices)

    monkeypatch.setattr(data.EncodedDataset, "__getitems__", counted)
    assert command("train", "--resume", str(part))[0] == 0
    order = data.Loader(range(60), data.DataConfig(batch_size=16), seed=0).order(0)
    train_split = loaded[0][0]
    assert [i for split, indices in loaded if split == train_split for i in indices] == order[32:]


def test_a_run_may_be_stopped_at_every_step_of_its_way(train: Train, command: Command) -> None:
    options = (*BASE, "trainer.epochs=2", "trainer.log_every=3", "optim.scheduler=plateau")
    whole = train(*options)
    with raised_at("step", 1):
        part = stopped(command, "train", *TINY, "output_dir={tmp}/part", *options)
    for _ in range(3):
        with raised_at("step", 2):
            assert stopped(command, "train", "--resume", str(part)) == part
    with raised_at("evaluation", 2):
        stopped(command, "train", "--resume", str(part))
    assert command("train", "--resume", str(part))[0] == 0
    assert [entry["step"] for entry in record.read(part / "manifest.json")["resumes"]] == [
        1, 3, 5, 7, 8,
    ]  # fmt: skip
    assert_same_run(whole, part)


@contextmanager
def raised_at(at: str, count: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """The `count`th time that this point is reached, the process gets a signal."""
    owner, name = POINTS[at]
    original, left = getattr(owner, name), [count]

    def counted(*arguments: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), number)
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        yield


def stopped(command: Command, *words: str, code: int = 143) -> Path:
    """Type a command that a signal ends; get the run's folder from what it tells to do next."""
    found, out, err = command(*words)
    assert (found, out) == (code, "")
    told, resume = err.splitlines()[-2:]
    assert re.fullmatch(r"stopped   by SIG(TERM|INT) after step \d+", told)
    assert resume.startswith(f"resume    python -m {record.__package__} train --resume ")
    run = Path(resume.split()[-1]).resolve()
    assert record.read(run / "result.json")["status"] == "stopped"
    return run


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("at", "count", "step"), [("step", 3, 3), ("evaluation", 6, 8)])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_ends_the_step_and_leaves_a_checkpoint(
    train: Train, command: Command, number: int, at: str, count: int, step: int, workers: int
) -> None:
    options = (*BASE, "trainer.epochs=3", f"data.num_workers={workers}")
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with raised_at(at, count, number):
        words = ("train", *TINY, "output_dir={tmp}/part", *options)
        part = stopped(command, *words, code=128 + number)
    assert checkpoint.load(part / "checkpoints" / "last.pt")["trainer"]["step"] == step
    assert multiprocessing.active_children() == []
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert command("train", "--resume", str(part))[0] == 0
    assert_same_run(train(*options), part)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")
def test_a_signal_to_the_whole_group_spares_the_workers_and_a_second_one_ends_it(
    command: Command, train: Train, tmp_path: Path
) -> None:
    options = (*BASE, "trainer.epochs=400", "trainer.log_every=1", "data.num_workers=2")
    words = ["-m", str(record.__package__), "train", *TINY, f"output_dir={tmp_path}/part", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for signals, code in ((1, 143), (2, -15)):
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(
            [sys.executable, *words], env=environment, start_new_session=True, **pipes
        )
        while not (logs := sorted((tmp_path / "part").glob("*/metrics.jsonl"))) or (
            len(logs[-1].read_bytes()) < 500
        ):
            assert process.poll() is None
            time.sleep(0.01)
        for _ in range(signals):
            os.killpg(process.pid, signal.SIGTERM)
        _, err = process.communicate()
        assert process.returncode == code, err
        assert "Traceback" not in err
        words = [*words[:2], "train", "--resume", str(logs[-1].parent)]


def test_a_run_without_a_checkpoint_starts_from_its_beginning(
    train: Train, command: Command
) -> None:
    whole, part = train(), train()
    for path in (part / "checkpoints").iterdir():
        path.unlink()
    (part / "result.json").unlink()
    assert command("train", "--resume", str(part))[0] == 0
    assert_same_run(whole, part)


def test_resuming_a_finished_run_says_so_and_changes_nothing(
    train: Train, command: Command
) -> None:
    run = train()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, out, err = command("train", "--resume", str(run), "data.num_workers=1")
    assert (code, out.strip()) == (0, str(run))
    assert "this run is finished" in err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("scheduler", ["constant", "plateau"])
def test_more_epochs_give_the_run_that_had_them_from_the_start(
    train: Train, command: Command, scheduler: str
) -> None:
    options = (*BASE[:1], f"optim.scheduler={scheduler}", "optim.patience=0")
    part = train(*options, "trainer.epochs=3")
    words = ("trainer.epochs=6", "device=cpu", "data.num_workers=1")
    assert command("train", "--resume", str(part), *words)[0] == 0
    assert_same_run(train(*options, "trainer.epochs=6"), part)
    saved = config.load(Config, part / "config.yaml")
    assert (saved.trainer.epochs, saved.data.num_workers, saved.device) == (6, 1, "cpu")
    (entry,) = record.read(part / "manifest.json")["resumes"]
    replaced = entry["replaced"]
    assert (replaced["device"], replaced["data"]["num_workers"]) == ("auto", 0)
    assert (replaced["trainer"]["epochs"], entry["overrides"]) == (3, list(words))


def test_a_run_that_gets_more_epochs_and_dies_is_not_taken_for_finished(
    train: Train, command: Command
) -> None:
    part = train(*BASE, "optim.scheduler=constant", "trainer.epochs=2")
    with raised_at("step", 2):
        stopped(command, "train", "--resume", str(part), "trainer.epochs=4")
    (part / "result.json").unlink()  # as if it had been killed
    assert command("train", "--resume", str(part))[0] == 0
    assert_same_run(train(*BASE, "optim.scheduler=constant", "trainer.epochs=4"), part)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["seed=1"], "seed: expected only device, data.num_workers, trainer.epochs"),
        (["optim.lr=1"], "else use --init-from"),
        (["trainer.epoch=9"], "expected a known key, found 'epoch'; did you mean"),
        (["trainer.epochs=9"], "(more, under constant or plateau) to change"),
        (["trainer.epochs=1"], "(more, under constant or plateau) to change"),
        (["--init-from", "{run}"], "--resume continues a run as it was"),
        (["{run}/config.yaml"], "--resume continues a run as it was"),
    ],
)
@pytest.mark.parametrize("scheduler", ["cosine", "linear"])
def test_what_would_change_the_run_is_refused(
    train: Train, command: Command, words: list[str], told: str, scheduler: str
) -> None:
    run = train(f"optim.scheduler={scheduler}")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    words = [word.replace("{run}", str(run)) for word in words]
    code, out, err = command("train", "--resume", str(run), *words)
    assert (code, out) == (2, "")
    assert told in err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on Windows")
def test_two_processes_cannot_have_one_run_and_a_dead_ones_lock_is_free(
    command: Command, tmp_path: Path
) -> None:
    part = interrupted(tmp_path, "step", 9, *BASE, "data.num_workers=2")  # its workers live on
    before = {path: path.read_bytes() for path in part.rglob("*") if path.is_file()}
    context: Any = multiprocessing.get_context(FORK)
    go, locked = context.Event(), context.Event()
    process = context.Process(target=hold, args=(part, locked, go), daemon=True)
    process.start()
    locked.wait()
    code, _, err = command("train", "--resume", str(part))
    assert code == 2
    assert f"error: {part}: expected it to rest, found it in use" in err
    assert {path: path.read_bytes() for path in before} == before
    go.set()
    process.join()
    assert command("train", "--resume", str(part))[0] == 0


def hold(run: Path, locked: Any, go: Any) -> None:
    log = logger.Logger()
    log.open(run)
    log.load_state_dict(log.state_dict())  # which reads the log, and must not lose the lock
    locked.set()
    go.wait()


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    train: Train, command: Command, tmp_path: Path
) -> None:
    options = (*BASE, "trainer.save_every=2")
    part = interrupted(tmp_path, "save", 4, *options)
    last = part / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    code, _, err = command("train", "--resume", str(part))
    assert code == 0
    assert (
        "warning: " in err
        and "last.pt: damaged or missing: " in err
        and "using last.prev.pt" in err
    )
    assert_same_run(train(*options), part)


def test_resuming_with_another_model_names_what_differs(command: Command, tmp_path: Path) -> None:
    run = interrupted(tmp_path, "save", 1)
    config = run / "config.yaml"
    text = config.read_text(encoding="utf-8").replace("hidden: 8", "hidden: 9")
    config.write_text(text, encoding="utf-8")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, _, err = command("train", "--resume", str(run))
    assert code == 2
    assert "other model_state_dict: " in err and "size mismatch for hidden.bias" in err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("saves", "max_steps"), [(1, 3), (3, 6), (2, 8)])
def test_a_run_that_died_at_its_last_step_is_still_evaluated(
    train: Train, command: Command, tmp_path: Path, saves: int, max_steps: int
) -> None:
    options = ("data.batch_size=16", "trainer.save_every=3", f"trainer.max_steps={max_steps}")
    whole = train(*options)
    part = interrupted(tmp_path, "save", saves, *options)
    assert command("train", "--resume", str(part))[0] == 0
    assert_same_run(whole, part)


def test_a_run_that_died_after_its_last_checkpoint_gets_the_same_end(
    train: Train, command: Command
) -> None:
    run = train()
    log, result = read_log(run), record.read(run / "result.json")
    (run / "result.json").unlink()
    assert command("train", "--resume", str(run))[0] == 0
    assert (read_log(run), record.read(run / "result.json")) == (log, result)
    assert [entry["step"] for entry in record.read(run / "manifest.json")["resumes"]] == [2]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_signal_while_the_best_weights_are_tested_keeps_the_last(
    train: Train, command: Command
) -> None:
    options = (*BASE, "trainer.epochs=3", "optim.lr=0.3", "trainer.monitor=loss")
    with raised_at("evaluation", 13):  # four batches in each of three epochs
        part = stopped(command, "train", *TINY, "output_dir={tmp}/part", *options)
    assert read_log(part, "test") == []
    assert command("train", "--resume", str(part))[0] == 0
    assert_same_run(train(*options), part)


def test_resuming_with_other_data_or_a_shorter_log_is_refused_and_changes_nothing(
    command: Command, tmp_path: Path
) -> None:
    words = (ROOT / "data" / "words.csv").read_text(encoding="utf-8")
    mine = tmp_path / "mine.csv"
    mine.write_text(words, encoding="utf-8")
    run = interrupted(tmp_path, "save", 1, f"data.path={mine}")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    mine.write_text(words + "newword,Positive\n", encoding="utf-8")
    code, _, err = command("train", "--resume", str(run))
    assert code == 2
    assert f"error: {mine}: changed since the run began: use --init-from" in err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    mine.write_text(words, encoding="utf-8")
    (run / "metrics.jsonl").unlink()
    code, _, err = command("train", "--resume", str(run))
    assert code == 2
    assert "bytes, found 0" in err


def test_a_run_from_another_that_died_before_its_first_checkpoint_starts_from_it_again(
    train: Train, command: Command, tmp_path: Path
) -> None:
    parent = train(*BASE, "optim.lr=0.1")
    whole = train(*BASE, "--init-from", str(parent))
    part = interrupted(tmp_path, "step", 2, *BASE, "--init-from", str(parent))
    assert command("train", "--resume", str(part))[0] == 0
    assert_same_run(whole, part)
    assert record.read(part / "result.json") != record.read(train(*BASE) / "result.json")


def test_a_finished_run_that_dies_while_it_gets_more_epochs_is_not_taken_for_finished(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*BASE, "optim.scheduler=constant", "trainer.epochs=2")
    run = train(*options)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(logger.Logger, "load_state_dict", killed)  # before the log is cut
        assert command("train", "--resume", str(run), "trainer.epochs=4")[0] == 130
    assert not (run / "result.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(record, "write", killed)  # and after it
        assert command("train", "--resume", str(run), "trainer.epochs=4")[0] == 130
    assert command("train", "--resume", str(run))[0] == 0
    assert_same_run(train(*options), run)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"threads": 2}'])
def test_a_run_without_its_manifest_is_refused(
    train: Train, command: Command, content: str
) -> None:
    run = train()
    (run / "result.json").unlink()
    (run / "manifest.json").write_text(content, encoding="utf-8")
    code, _, err = command("train", "--resume", str(run))
    assert code == 2
    assert f"error: {run / 'manifest.json'}: expected a JSON object" in err


def test_tensorboard_shows_the_log_of_a_run_that_was_stopped_twice(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It reads the files of a run in the order of their names, which have the second in them. That
    # of processes which follow each other differs, for they take longer to start.
    seconds = itertools.count(int(time.time()))
    monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: next(seconds)))
    options = (*BASE, "trainer.epochs=2", "trainer.log_every=1")
    with raised_at("evaluation", 2):
        part = stopped(command, "train", *TINY, "output_dir={tmp}/part", *options)
    with raised_at("step", 3):
        stopped(command, "train", "--resume", str(part))
    assert command("train", "--resume", str(part))[0] == 0
    events = EventAccumulator(str(part))
    events.Reload()
    for split in ("train", "val", "test"):
        log = [(line["step"], line["loss"]) for line in read_log(part, split)]
        shown = [(event.step, event.value) for event in events.Scalars(f"loss/{split}")]
        assert shown == [(step, pytest.approx(loss)) for step, loss in log]
