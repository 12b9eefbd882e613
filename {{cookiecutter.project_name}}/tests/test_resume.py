"""A run that was stopped and continued is bit for bit the run that was not."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Command, read_log

from {{ cookiecutter.__package_name }} import checkpoint, record
from {{ cookiecutter.__package_name }}.__main__ import main

Train = Callable[..., Path]


def die_after(saves: int, words: list[str]) -> None:
    """Train, and die at once when `last.pt` has been written that many times."""
    save, left = checkpoint.save, [saves]

    def counted(path: Path, *rest: Any, **options: Any) -> None:
        save(path, *rest, **options)
        left[0] -= path.name == "last.pt"
        if not left[0]:
            os._exit(9)

    checkpoint.save = counted
    multiprocessing.set_start_method(None, force=True)  # for workers, as users have it
    main(words)


def interrupted(tmp_path: Path, saves: int, *options: str) -> Path:
    """The folder of a run that died in a process of its own."""
    context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload([record.__name__, "torch._dynamo"])
    words = ["train", *TINY, f"output_dir={tmp_path / 'part'}", *options]
    process = context.Process(target=die_after, args=(saves, words))
    process.start()
    process.join()
    assert process.exitcode == 9
    (run,) = (tmp_path / "part").iterdir()
    return run


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("last.pt", "best.pt"):
        states = [checkpoint.load(run / "checkpoints" / name) for run in (one, other)]
        for state in states:
            state.pop("config"), state.pop("logger")
        assert_equal(*states)
    assert read_log(one) == read_log(other)
    assert record.read(one / "result.json") == record.read(other / "result.json")


def assert_equal(one: Any, other: Any) -> None:
    """Equal to the bit, in every tensor of a nest of dicts and lists."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


@pytest.mark.parametrize("saves", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        ("trainer.save_every=1", "trainer.log_every=2"),
        ("optim.scheduler=plateau", "optim.patience=0", "trainer.patience=2"),
        ("optim.scheduler=linear", "optim.warmup=3", "trainer.accumulate=3", "trainer.clip=0.1"),
        ("data.num_workers=2", "trainer.save_every=2"),
    ],
    ids=["steps", "plateau", "accumulate", "workers"],
)
def test_continued_equals_uninterrupted(
    train: Train, command: Command, tmp_path: Path, options: tuple[str, ...], saves: int
) -> None:
    options = ("data.batch_size=16", "trainer.epochs=6", *options)
    whole = train(*options)
    part = interrupted(tmp_path, saves, *options)
    bytes_before = (part / "metrics.jsonl").read_bytes()
    logged = checkpoint.load(part / "checkpoints" / "last.pt")["logger"]["bytes"]
    code, out, err = command("train", "--resume", str(part))
    assert code == 0, err
    assert out.strip() == str(part)
    assert (part / "metrics.jsonl").read_bytes()[:logged] == bytes_before[:logged]
    assert_same_run(whole, part)


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
    code, out, err = command("train", "--resume", str(run))
    assert (code, out.strip()) == (0, str(run))
    assert "this run is finished" in err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_resuming_with_another_model_names_what_differs(command: Command, tmp_path: Path) -> None:
    run = interrupted(tmp_path, 1)
    config = run / "config.yaml"
    text = config.read_text(encoding="utf-8").replace("hidden: 8", "hidden: 9")
    config.write_text(text, encoding="utf-8")
    code, _, err = command("train", "--resume", str(run))
    assert code == 2
    assert "another model: expected hidden.bias (9,), found (8,)" in err


@pytest.mark.parametrize(("saves", "max_steps"), [(1, 3), (3, 6), (2, 8)])
def test_a_run_that_died_at_its_last_step_is_still_evaluated(
    train: Train, command: Command, tmp_path: Path, saves: int, max_steps: int
) -> None:
    options = ("data.batch_size=16", "trainer.save_every=3", f"trainer.max_steps={max_steps}")
    whole = train(*options)
    part = interrupted(tmp_path, saves, *options)
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


def test_resuming_with_other_classes_or_a_shorter_log_is_refused(
    command: Command, tmp_path: Path
) -> None:
    words = (Path(__file__).parents[1] / "data" / "words.csv").read_text(encoding="utf-8")
    mine = tmp_path / "mine.csv"
    mine.write_text(words, encoding="utf-8")
    run = interrupted(tmp_path, 1, f"data.path={mine}")
    mine.write_text(words.replace("Positive", "Good"), encoding="utf-8")
    code, _, err = command("train", "--resume", str(run))
    assert code == 2
    assert "expected the classes of the run, Negative, Positive, found Good, Negative" in err
    mine.write_text(words, encoding="utf-8")
    (run / "metrics.jsonl").unlink()
    code, _, err = command("train", "--resume", str(run))
    assert code == 2
    assert "bytes that were logged, found 0" in err
