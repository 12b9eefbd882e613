"""What is wrong in a run folder is named in one line, before anything of the run is changed."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import Command

from {{ cookiecutter.__package_name }}.__main__ import main
from {{ cookiecutter.__package_name }}.engine import checkpoint, record
from {{ cookiecutter.__package_name }}.engine.trainer import Trainer

GONE = object()  # in place of a value: the key is removed
EVALUATION = {"value": 0.5, "step": 9}
NAN = float("nan")
STEPS = 6  # after which the run was stopped, of 12 in three epochs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, `finished` and `stopped`, that tests make copies of."""
    folder = tmp_path_factory.mktemp("runs")
    config = folder / "tiny.yaml"
    config.write_text("", encoding="utf-8")
    step = Trainer.train_step

    def stop(trainer: Trainer, batches: Any) -> None:
        step(trainer, batches)
        if trainer.step == STEPS:
            signal.raise_signal(signal.SIGTERM)

    words = ["train", str(config), "trainer.epochs=3", "logger.tensorboard=false"]
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch.setattr)
        assert main([*words, f"output_dir={folder}", "--run", "finished"]) == 0
        patch.setattr(Trainer, "train_step", stop)
        with pytest.raises(SystemExit):
            main([*words, f"output_dir={folder}", "--run", "stopped"])
    return folder


@pytest.fixture
def stopped(runs: Path, tmp_path: Path) -> Path:
    """A copy of the run that was stopped."""
    return Path(shutil.copytree(runs / "stopped", tmp_path / "runs" / "stopped"))


@pytest.fixture
def finished(runs: Path, tmp_path: Path) -> Path:
    """A copy of the run that was not."""
    return Path(shutil.copytree(runs / "finished", tmp_path / "runs" / "finished"))


def files_of(run: Path) -> dict[Path, bytes]:
    """The files of a run, to see whether one has changed."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def change(path: Path, place: str, value: Any) -> None:
    """Put a value at a place in a checkpoint or in a JSON file, or remove what is there."""
    is_json = path.suffix == ".json"
    content = record.read(path) if is_json else checkpoint.load(path)
    inner: Any = content
    *parents, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    for key in parents:
        inner = inner[key]
    if value is GONE:
        del inner[last]
    else:
        inner[last] = value
    if is_json:
        path.write_text(json.dumps(content), encoding="utf-8")
    else:
        torch.save(content, path)


def assert_refused(command: Command, run: Path, *words: str) -> str:
    """A command refuses a run in one line, which is returned, and changes no file."""
    before = files_of(run)
    code, out, err = command(*words)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert files_of(run) == before
    return err


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("trainer", {}, "trainer.step is missing"),
        ("trainer", None, "trainer: expected dict, found None"),
        ("trainer.best", GONE, "trainer.best is missing"),
        ("trainer.evaluated_step", GONE, "trainer.evaluated_step is missing"),
        ("trainer.step", "6", "trainer.step: expected int, found '6'"),
        ("trainer.step", 13, "trainer.step: expected 0 to 12, found 13"),
        ("trainer.step", -1, "trainer.step: expected 0 to 12, found -1"),
        ("trainer.logged_step", 7, "trainer.logged_step: expected 0 to 6, found 7"),
        ("trainer.samples", -1, "trainer.samples: expected 0 to 1e+18, found -1"),
        ("trainer.lr", NAN, "trainer.lr: expected 0 to 1e+18, found nan"),
        ("trainer.best.step", 7, "trainer.best.step: expected 0 to 6, found 7"),
        ("trainer.best.at.step", 10**30, "trainer.best.at.step: expected 0 to 6, found 1000"),
        ("trainer.best.at.lr", 10**30, "trainer.best.at.lr: expected 0 to 1e+18, found 1000"),
        ("trainer.best.at.epoch", -1, "trainer.best.at.epoch: expected 0 to 6, found -1"),
        ("trainer.ranking", [EVALUATION], "trainer.ranking.step: expected 0 to 6, found 9"),
        ("trainer.best", {"value": 0.5}, "trainer.best.step is missing"),
        ("trainer.ranking", [0.5], "trainer.ranking.0: expected dict, found 0.5"),
        ("trainer.sums", {}, "trainer.sums.loss is missing"),
        ("trainer.sums", {"loss": "1"}, "trainer.sums.loss: expected float, found '1'"),
        ("scheduler", {}, "scheduler.base_lrs is missing"),
        ("scheduler.last_epoch", None, "scheduler.last_epoch: expected int, found None"),
        ("optimizer_state_dict.state", {}, "optimizer_state_dict.state.0 is missing"),
        ("optimizer_state_dict.state.1", {}, "optimizer_state_dict.state.1.step is missing"),
        ("optimizer_state_dict.state.0.exp_avg", torch.zeros(3), "state.0.exp_avg: expected torch"),
        ("optimizer_state_dict.param_groups.0.lr", "1", "param_groups.0.lr: expected float"),
        ("optimizer_state_dict.param_groups.0.maximize", True, "maximize: expected bool, found Tr"),
        ("optimizer_state_dict.param_groups.0.foreach", True, "foreach: expected NoneType, found"),
        ("optimizer_state_dict.param_groups", [], "optimizer_state_dict.param_groups.0 is missing"),
        ("model_state_dict", {"x": 1}, "model_state_dict: RuntimeError: "),
        ("logger", GONE, "logger is missing"),
        ("logger.bytes", -1, "metrics.jsonl: expected the -1 bytes"),
        ("logger.seconds", "1", "logger.seconds: expected float, found '1'"),
        ("task", {}, "task: KeyError: 'mean'"),
        ("task", GONE, "task is missing"),
    ],
)
def test_a_state_that_no_run_can_have_is_refused_by_name(
    command: Command, stopped: Path, place: str, value: Any, expected: str
) -> None:
    change(stopped / "checkpoints" / "last.pt", place, value)
    assert expected in assert_refused(command, stopped, "train", "--resume", str(stopped))


def test_a_state_is_not_taken_from_the_checkpoint_before_if_the_last_one_can_be_read(
    command: Command, stopped: Path
) -> None:
    assert (stopped / "checkpoints" / "last.prev.pt").exists()
    torch.save({}, stopped / "checkpoints" / "last.pt")
    err = assert_refused(command, stopped, "train", "--resume", str(stopped))
    assert "error: not a checkpoint of this project: " in err


@pytest.mark.parametrize("place", ["optimizer_state_dict.state.0", "scheduler._is_initial"])
def test_what_a_run_may_lack_is_not_asked_for(command: Command, stopped: Path, place: str) -> None:
    change(stopped / "checkpoints" / "last.pt", place, GONE)  # as if it never got a gradient
    assert command("train", "--resume", str(stopped))[0] == 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def not_utf8(path: Path) -> None:
    path.write_bytes(b'{"\xff' + path.read_bytes()[3:])


def noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


def nested(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)


def folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def loop(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path)


def dead_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("nowhere")


def file(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.touch()


def without_step(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"step"', b'"stop"', 1))


def with_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"epoch": 1', b'"epoch": "1"', 1))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("metrics.jsonl", damage) for damage in (cut, not_utf8, noise, nested, folder, loop)),
        ("metrics.jsonl", without_step),
        ("metrics.jsonl", with_text),
        *(("manifest.json", damage) for damage in (cut, not_utf8, noise, nested, folder, loop)),
        *(("result.json", damage) for damage in (not_utf8, noise, nested, folder)),
        *(("checkpoints", damage) for damage in (file, loop, dead_link)),
        *(("checkpoints/best.pt", damage) for damage in (cut, noise, folder, loop)),
    ],
)
def test_a_damaged_file_of_a_run_is_named_and_nothing_is_changed(
    command: Command, stopped: Path, name: str, damage: Callable[[Path], object]
) -> None:
    damage(stopped / name)
    err = assert_refused(command, stopped, "train", "--resume", str(stopped))
    assert str(stopped / name) in err


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("threads", -1),
        ("threads", 1_000_000),  # with which torch ends the process
        ("threads", 1025),
        ("threads", "2"),
        ("threads", True),
        ("data", None),
        ("parent", 0),
        ("resumes", {}),
        ("resumes", [1]),
        ("packages", []),
        ("processes", "1"),
    ],
)
def test_a_manifest_with_something_else_in_it_is_refused_by_name(
    command: Command, stopped: Path, finished: Path, place: str, value: Any
) -> None:
    for words in (["train", "--resume", str(stopped)], ["reproduce", str(finished)]):
        run = Path(words[-1])
        change(run / "manifest.json", place, value)
        err = assert_refused(command, run, *words)
        assert f"error: {run / 'manifest.json'}: " in err
        assert place in err or "JSON object" in err


@pytest.mark.parametrize(
    ("words", "name", "place"),
    [
        (("evaluate",), "best.pt", "trainer"),
        (("evaluate",), "best.pt", "task"),
        (("evaluate",), "best.pt", "model_state_dict"),
        (("predict", "[0]"), "best.pt", "task"),
        (("predict", "[0]"), "best.pt", "model_state_dict"),
        (("reproduce",), "last.pt", "trainer"),
    ],
)
@pytest.mark.parametrize("value", [GONE, 5, {}])
def test_what_a_command_needs_of_a_checkpoint_is_named(
    command: Command, finished: Path, words: tuple[str, ...], name: str, place: str, value: Any
) -> None:
    change(finished / "checkpoints" / name, place, value)
    first, *others = words
    err = assert_refused(command, finished, first, str(finished), *others)
    assert place in err or "Missing key(s)" in err
