"""A run, from the command to the folder that it leaves."""

import json
import multiprocessing
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import tiny
import torch
from conftest import Command, assert_equal, assert_same_run, read_log
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tiny import FEATURES, RightAnswers, TinyTask
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from {{ cookiecutter.__package_name }} import __main__ as command_line
from {{ cookiecutter.__package_name }} import evaluate
from {{ cookiecutter.__package_name }}.engine import checkpoint, config, record
from {{ cookiecutter.__package_name }}.engine.distributed import StopSignal
from {{ cookiecutter.__package_name }}.engine.loader import Loader, LoaderConfig
from {{ cookiecutter.__package_name }}.engine.optim import OptimConfig
from {{ cookiecutter.__package_name }}.engine.task import DataError
from {{ cookiecutter.__package_name }}.engine.trainer import (
    MicroBatch,
    Output,
    Trainer,
    TrainerConfig,
)
from {{ cookiecutter.__package_name }}.train import Config, Run, load_config

Train = Callable[..., Path]
Patch = pytest.MonkeyPatch
PACKAGE = command_line.__package__ or ""

# With these the best weights are not the last ones.
OVERSHOOTS = (
    "trainer.monitor=loss",
    "trainer.epochs=6",
    "optim.scheduler=constant",
    "optim.lr=0.3",
)


@pytest.fixture
def refused(command: Command, empty_config: Path, tmp_path: Path) -> Callable[..., str]:
    """Train what is an error in one line, with exit code 2, before anything is written; get it."""

    def run(*overrides: str) -> str:
        output = "output_dir={tmp}/runs"
        code, out, err = command("train", str(empty_config), output, *overrides)
        assert (code, out) == (2, ""), err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert not (tmp_path / "runs").exists()
        return err

    return run


def result(run: Path) -> dict[str, Any]:
    return record.read(run / "result.json")


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    state = checkpoint.load(run / "checkpoints" / f"{name}.pt")
    found: dict[str, torch.Tensor] = state["model_state_dict"]
    return found


def test_the_run_folder_holds_what_the_readme_says(train: Train) -> None:
    run = train("name=my run")
    assert re.fullmatch(r"my_run-\d{8}-\d{6}(-\d+)?", run.name)
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    checkpoints = {f"checkpoints/{name}.pt" for name in ("last", "last.prev", "best")}
    files = {"config.yaml", "manifest.json", "metrics.jsonl", "result.json"}
    files |= {"data.sha256", "requirements.txt"}
    source = {name for name in names if name.startswith("source/")}
    assert names - events - source == files | checkpoints
    package = Path(record.__file__).parents[1]
    assert (run / "source" / package.name / "task.py").read_bytes() == (
        package / "task.py"
    ).read_bytes()
    assert set(result(run)) == {"status", "best", "steps", "digest", "test"}
    (line,) = read_log(run, "test")
    assert result(run)["test"] == {name: line[name] for name in ("loss", "right")}
    assert (result(run)["status"], result(run)["steps"]) == ("finished", 8)
    assert set(result(run)["best"]) == {"metric", "value", "step"}


def test_the_log_has_a_loss_in_each_line_and_metrics_on_val_and_test(train: Train) -> None:
    run = train("trainer.log_every=1", "loader.batch_size=25")
    log = read_log(run)
    *lines, test = [(line["step"], line["epoch"], line["split"]) for line in log]
    assert lines == [
        (1, 1, "train"), (2, 1, "train"), (3, 1, "train"), (3, 1, "val"),
        (4, 2, "train"), (5, 2, "train"), (6, 2, "train"), (6, 2, "val"),
    ]  # fmt: skip
    best = result(run)["best"]["step"]
    assert test == (best, best // 3, "test")
    for line in log:
        numbers = {"loss"} if line["split"] == "train" else {"loss", "right"}
        assert set(line) == {"step", "epoch", "split", "lr"} | numbers


def test_a_checkpoint_holds_what_the_contract_says_in_plain_types(train: Train) -> None:
    state = torch.load(train() / "checkpoints" / "last.pt", weights_only=True)
    assert set(state) == {
        "model_state_dict", "optimizer_state_dict", "scheduler", "scaler", "trainer", "logger",
        "task", "config",
    }  # fmt: skip
    assert state["task"]["mean"].shape == (FEATURES,)
    assert state["config"]["loader"]["batch_size"] == 16
    assert (state["trainer"]["step"], state["trainer"]["evaluated_step"]) == (8, 8)
    assert "0.weight" in state["model_state_dict"]


def test_the_digest_is_that_of_the_last_weights_and_not_of_the_best(train: Train) -> None:
    run = train(*OVERSHOOTS)
    assert result(run)["digest"] == record.digest(weights(run, "last"))
    assert result(run)["digest"] != record.digest(weights(run, "best"))


def test_the_saved_config_repeats_the_run(train: Train, command: Command) -> None:
    first = train("optim.lr=3e-3", "trainer.log_every=1", "seed=7")
    code, out, _ = command("train", str(first / "config.yaml"))
    again = Path(out.strip())
    assert code == 0
    assert again != first
    assert_same_run(first, again)
    assert load_config(first / "config.yaml").optim.lr == 0.003


def test_another_seed_is_another_run(train: Train) -> None:
    digests = {result(train(f"seed={seed}"))["digest"] for seed in (1, 2)}
    assert len(digests) == 2


def test_defaults_of_the_task_come_before_the_file_and_the_command_line(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    machine = Config()
    path = tmp_path / "mine.yaml"
    path.write_text("loader: {batch_size: 3}\ntrainer: {epochs: 4}\n", encoding="utf-8")
    defaults = ("loader.batch_size=2", "trainer.epochs=2", "optim.lr=0.5")
    monkeypatch.setattr(TinyTask, "defaults", defaults)
    config = load_config(path, ["trainer.epochs=5"])
    assert (config.optim.lr, config.loader.batch_size, config.trainer.epochs) == (0.5, 3, 5)
    assert config.optim == replace(machine.optim, lr=0.5)
    monkeypatch.setattr(TinyTask, "defaults", ())
    assert load_config(None) == machine


def test_a_default_of_the_task_that_is_no_option_is_named(
    refused: Callable[..., str], monkeypatch: Patch
) -> None:
    monkeypatch.setattr(TinyTask, "defaults", ("trainer.epoch=2",))
    assert "Task.defaults: trainer.epoch: " in refused()


def test_init_from_starts_with_the_best_weights_of_a_run(train: Train) -> None:
    parent = train(*OVERSHOOTS)
    still = ("optim.lr=0", "optim.weight_decay=0", "trainer.epochs=1")
    child = train(*still, "--init-from", str(parent))
    assert record.digest(weights(child)) == record.digest(weights(parent, "best"))
    assert result(child)["steps"] == 4


def test_a_run_that_started_from_another_names_it(train: Train) -> None:
    parent = train()
    manifest = record.read(train("--init-from", str(parent)) / "manifest.json")
    assert (command_line.ROOT / manifest["parent"]).resolve() == parent
    assert manifest["parent_digest"] == record.digest(weights(parent, "best"))
    assert record.read(parent / "manifest.json")["parent"] == ""


def test_init_from_takes_a_checkpoint_and_any_file_of_weights(train: Train, tmp_path: Path) -> None:
    parent = train(*OVERSHOOTS)
    still = ("optim.lr=0", "optim.weight_decay=0", "trainer.epochs=1")
    last = parent / "checkpoints" / "last.pt"
    plain = tmp_path / "plain.pt"
    torch.save({f"module.{name}": weight for name, weight in weights(parent).items()}, plain)
    for path in (last, plain):
        child = train(*still, "--init-from", str(path))
        assert record.digest(weights(child)) == record.digest(weights(parent))
        manifest = record.read(child / "manifest.json")
        assert (command_line.ROOT / manifest["parent"]).resolve() == path
    assert manifest["parent_digest"] == record.digest(checkpoint.load_weights(plain))


def test_what_does_not_fit_is_listed_and_an_error_unless_partial(
    train: Train, command: Command, empty_config: Path, tmp_path: Path
) -> None:
    parent = train("trainer.epochs=1")
    others = {**weights(parent), "3.weight": torch.zeros(5, 8), "old": torch.zeros(2)}
    file = tmp_path / "others.pt"
    torch.save({"state_dict": others}, file)
    words = ("train", str(empty_config), "output_dir={tmp}/new", "trainer.epochs=1")
    still = ("optim.lr=0", "optim.weight_decay=0", "--init-from", str(file))
    code, _, err = command(*words, *still)
    report = "loaded 3 of 4 tensors; new: 3.weight (2, 8); unused: 3.weight (5, 8), old (2,)"
    assert code == 2
    assert err == (
        f"error: {file}: the weights do not fit this model: {report}; --partial loads what fits\n"
    )
    assert not (tmp_path / "new").exists()
    code, out, err = command(*words, *still, "--partial")
    assert code == 0
    assert report in err
    child = weights(Path(out.strip()))
    assert torch.equal(child["0.weight"], others["0.weight"])
    assert child["3.weight"].shape == (2, 8)
    code, _, err = command(*words, "--partial")
    assert (code, err) == (2, "error: --partial needs --init-from, which says what to load\n")


def test_the_average_is_what_is_tested_evaluated_and_predicted_with(
    train: Train, command: Command
) -> None:
    run = train("optim.ema=0.9", "optim.lr=0.1", "trainer.epochs=3")
    state = checkpoint.load(run / "checkpoints" / "last.pt")
    averages = checkpoint.weights_of(state)
    assert not torch.equal(averages["0.weight"], state["model_state_dict"]["0.weight"])
    model, _ = evaluate.load(run, "last")
    assert_equal(dict(model.state_dict()), averages)
    code, out, err = command("evaluate", str(run))
    assert code == 0, err
    values = json.loads(out)
    (line,) = read_log(run, "test")
    assert (line["loss"], line["right"]) == (values["loss"], values["right"])
    child = train("optim.lr=0", "optim.weight_decay=0", "--init-from", str(run))
    best = checkpoint.weights_of(checkpoint.load(run / "checkpoints" / "best.pt"))
    assert record.digest(weights(child)) == record.digest(best)


def test_groups_are_shown_at_the_start(command: Command, empty_config: Path) -> None:
    words = ("train", str(empty_config), "output_dir={tmp}/runs", "trainer.epochs=1")
    code, _, err = command(*words, 'optim.groups={"0.*": 0, "3.*": 0.1}')
    assert code == 0
    assert "optim.groups: 0.*: 136 parameters, frozen" in err
    assert "\n154 parameters; " in err  # those that are frozen count too
    assert "optim.groups: 3.*: 18 parameters, learning rate x 0.1" in err
    code, _, err = command(*words, 'optim.groups={"4.*": 0}')
    assert code == 2
    assert err.startswith("error: optim.groups: '4.*' matches no parameter")


def test_the_n_best_checkpoints_are_kept(train: Train) -> None:
    options = ("trainer.monitor=loss", "trainer.eval_every=2", "trainer.keep=3")
    run = train("trainer.epochs=3", *options)
    values = {line["step"]: line["loss"] for line in read_log(run, "val")}
    best = sorted(values, key=lambda step: values[step])[:3]
    assert 2 not in best  # the first one is not kept
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"best.pt", "last.pt", "last.prev.pt", *(f"best-{step}.pt" for step in best)}
    for step in best:
        assert checkpoint.load(run / "checkpoints" / f"best-{step}.pt")["trainer"]["step"] == step


def test_a_run_in_a_thread_trains_without_signals(train: Train) -> None:
    runs: list[Path] = []
    thread = threading.Thread(target=lambda: runs.append(train("trainer.epochs=1")))
    thread.start()
    thread.join()
    assert result(runs[0])["status"] == "finished"


def test_training_ends_when_its_time_is_up_and_is_reproduced_to_that_step(
    train: Train, command: Command, monkeypatch: Patch
) -> None:
    train_step = Trainer.train_step

    def slow(trainer: Trainer, step: Any) -> None:
        time.sleep(0.02)
        train_step(trainer, step)

    monkeypatch.setattr(Trainer, "train_step", slow)
    run = train("trainer.epochs=100", "trainer.max_minutes=0.01")  # 0.6 s
    found = result(run)
    assert found["status"] == "finished"
    assert 0 < found["steps"] < 400
    assert read_log(run, "val")[-1]["step"] == found["steps"]
    assert read_log(run, "test")
    monkeypatch.setattr(Trainer, "train_step", train_step)
    code, out, err = command("reproduce", str(run), "--force")
    assert code == 0, err
    assert json.loads(out)["identical"] is True


def test_training_works_from_any_folder_with_a_config_by_relative_path(
    command: Command, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("trainer: {max_steps: 1}\n", encoding="utf-8")
    code, out, err = command("train", "mine.yaml", "output_dir={tmp}/out")
    assert code == 0, err
    assert Path(out.strip()).parent == tmp_path / "out"


def test_run_folders_are_made_in_the_project_from_wherever_it_is_called(
    command: Command, empty_config: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "ROOT", tmp_path / "project")
    code, out, err = command("train", str(empty_config), "trainer.max_steps=1")
    assert code == 0, err
    assert Path(out.strip()).parent == tmp_path / "project" / "runs"


def test_the_end_says_where_the_run_is_and_what_can_be_done_with_it(
    command: Command, empty_config: Path
) -> None:
    words = ("train", str(empty_config), "output_dir={tmp}/runs", "trainer.epochs=1")
    code, out, err = command(*words)
    assert code == 0
    head, *_, run, best, look, evaluate, predict = err.splitlines()
    size = 8 * FEATURES + 8 + 2 * 8 + 2
    splits = "60 train, 60 val, 60 test"
    where = f"1 x cpu, {torch.get_num_threads()} threads"
    assert head == f"{size} parameters; {splits}; 0 of 4 steps; {where}"
    assert run.startswith("run       ") and run.endswith(Path(out.strip()).name)
    assert evaluate.startswith(f"evaluate  python -m {PACKAGE} evaluate ")
    assert predict.startswith(f"predict   python -m {PACKAGE} predict ")
    assert predict.endswith(" '[0.5" + ", 0.5" * 15 + "]'")
    assert look == f"look      tensorboard --logdir {os.path.relpath(Path(out.strip()).parent)}"
    assert re.fullmatch(r"best      right [01]\.\d{4} on val, step 4", best)
    assert out.count("\n") == 1  # stdout has the run folder alone
    assert "early stop" not in err


def test_a_run_that_stops_early_says_so_and_why(command: Command, empty_config: Path) -> None:
    words = ("train", str(empty_config), "output_dir={tmp}/runs", "optim.lr=0")
    patient = ("trainer.patience=2", "trainer.epochs=50")
    code, out, err = command(*words, *patient)
    assert code == 0
    assert result(Path(out.strip()))["steps"] == 3 * 4  # the first is the best
    assert "early stop: right has not improved in 2 evaluations\n" in err
    _, _, err = command(*words, "trainer.patience=1", "trainer.monitor=loss", "trainer.epochs=50")
    assert "early stop: loss has not improved in 1 evaluation\n" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.yaml"], "error: nowhere.yaml: expected a config file, found: No such "),
        (["{empty}", "optim.lrr=1"], "error: command line: optim.lrr: "),
        (["{empty}", "trainer.monitor=acc"], "error: trainer.monitor: unknown metric 'acc'"),
        (["{empty}", "device=tpu"], "error: device: "),
        (["--resume", "{tmp}/x"], "x: not the folder of a run: there is no config.yaml in it"),
        (["--init-from", "{tmp}/x"], "x: not the folder of a run: there is no config.yaml in it"),
        (["{empty}", "seed=1", "b.yaml"], "error: command line: "),
        (["{empty}", "output_dir={empty}"], "error: output_dir: cannot make"),
        (["{empty}", "optim.warmup=9"], "error: optim.warmup: "),
        (
            ["{empty}", "loader.drop_last=true", "loader.batch_size=61"],
            "error: the train split has no batch: ",
        ),
    ],
)
def test_an_error_is_one_line_with_exit_code_2_and_leaves_nothing(
    command: Command, empty_config: Path, tmp_path: Path, words: list[str], told: str
) -> None:
    words = [word.replace("{empty}", str(empty_config)) for word in words]
    if "--resume" not in words and not words[-1].startswith("output_dir"):
        words = [*words, "output_dir={tmp}/runs"]
    code, out, err = command("train", *words)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [empty_config]


def test_a_run_that_diverges_fails_with_exit_code_1_and_one_line(
    command: Command, empty_config: Path, tmp_path: Path
) -> None:
    words = ("optim.lr=1e38", "trainer.log_every=2", "output_dir={tmp}/runs")
    code, _, err = command("train", str(empty_config), *words)
    assert code == 1
    last = err.splitlines()[-1]
    assert re.match(r"error: (the loss became (nan|inf) in steps \d+|a weight is not finite)", last)
    (run,) = (tmp_path / "runs").iterdir()
    assert result(run)["status"] == "failed"


def test_an_error_in_the_users_own_python_keeps_its_traceback(
    command: Command, empty_config: Path, monkeypatch: Patch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("mine")

    monkeypatch.setattr(TinyTask, "forward", broken)
    with pytest.raises(KeyError, match="mine"):
        command("train", str(empty_config), "output_dir={tmp}/runs")


def split_is_missing(split: str) -> Callable[[TinyTask], dict[str, Any]]:
    datasets = TinyTask.datasets

    def without(task: TinyTask) -> dict[str, Any]:
        return {name: dataset for name, dataset in datasets(task).items() if name != split}

    return without


def split_is_empty(split: str) -> Callable[[TinyTask], dict[str, Any]]:
    datasets = TinyTask.datasets
    empty = TensorDataset(torch.zeros(0, FEATURES), torch.zeros(0, dtype=torch.int64))
    return lambda task: {**datasets(task), split: empty}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("change", [split_is_missing, split_is_empty])
def test_a_run_needs_samples_to_train_on_and_to_validate_with(
    refused: Callable[..., str], monkeypatch: Patch, change: Callable[[str], Any], split: str
) -> None:
    monkeypatch.setattr(TinyTask, "datasets", change(split))
    assert refused().startswith(f"error: the {split} split has no batch: it is missing or empty, ")


@pytest.mark.parametrize("change", [split_is_missing, split_is_empty])
def test_a_run_without_a_test_split_finishes_without_a_test_line(
    train: Train, monkeypatch: Patch, change: Callable[[str], Any]
) -> None:
    whole = train()
    monkeypatch.setattr(TinyTask, "datasets", change("test"))
    run = train()
    assert read_log(run, "test") == []
    assert result(run) == {**result(whole), "test": {}}
    assert read_log(run) == [line for line in read_log(whole) if line["split"] != "test"]


def test_a_dataset_without_a_length_is_refused(
    refused: Callable[..., str], monkeypatch: Patch
) -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter(range(9))

    datasets = TinyTask.datasets
    monkeypatch.setattr(TinyTask, "datasets", lambda task: {**datasets(task), "val": Stream()})
    assert "Stream has no length" in refused()


def test_an_example_that_predict_cannot_take_is_refused(
    refused: Callable[..., str], monkeypatch: Patch
) -> None:
    monkeypatch.setattr(TinyTask, "example", lambda _: "[1, 2]")
    assert refused() == "error: expected 16 numbers, found 2\n"


def test_what_was_found_in_the_data_is_shown_at_the_start(
    command: Command, empty_config: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(TinyTask, "summary", lambda _: ["2 classes", "warning: few points"])
    _, _, err = command("train", str(empty_config), "output_dir={tmp}/runs")
    assert err.startswith("2 classes\nwarning: few points\n154 parameters; ")


def test_groups_are_drawn_equally_often_in_training_alone_and_the_start_says_so(
    command: Command, empty_config: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(TinyTask, "is_balanced", True)
    drawn: dict[bool, list[int]] = {True: [], False: []}
    forward = TinyTask.forward

    def watched(task: TinyTask, model: nn.Module, batch: Any) -> Output:
        drawn[model.training] += batch[1].tolist()
        return forward(task, model, batch)

    monkeypatch.setattr(TinyTask, "forward", watched)
    code, _, err = command("train", str(empty_config), "output_dir={tmp}", "trainer.epochs=3")
    assert code == 0, err
    splits = "60 train, 60 val, 60 test; 2 groups drawn equally often in training; 0 of 12 steps"
    assert splits in err
    for epoch in range(3):
        assert sum(drawn[True][60 * epoch : 60 * (epoch + 1)]) == 30
    task = TinyTask(None, None, Path())
    positive = [int(task.points(split)[1].sum()) for split in ("val", "test")]
    assert sum(drawn[False][-240:]) == 3 * positive[0] + positive[1]  # as they are


def test_predict_must_give_one_answer_for_one_sample(
    refused: Callable[..., str], monkeypatch: Patch
) -> None:
    predict = TinyTask.predict

    def twice(task: TinyTask, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        return [*predict(task, model, samples), *predict(task, model, samples)]

    monkeypatch.setattr(TinyTask, "predict", twice)
    assert "Task.predict: expected an answer for each of 1 samples, found [{" in refused()


def test_an_answer_that_json_does_not_know_shows_before_the_first_step(
    command: Command, empty_config: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(TinyTask, "predict", lambda *_: [{"score": torch.zeros(1)}])
    with pytest.raises(TypeError, match="Tensor is not JSON serializable"):
        command("train", str(empty_config), "output_dir={tmp}/runs")
    assert not (tmp_path / "runs").exists()


def test_a_state_of_the_task_that_cannot_be_read_back_is_refused(
    refused: Callable[..., str], monkeypatch: Patch
) -> None:
    monkeypatch.setattr(TinyTask, "state_dict", lambda _: {"mean": numpy.float64(0.5)})
    told = "task.mean: expected plain data or a tensor, found numpy.float64"
    assert told in refused()


def test_losses_that_are_not_one_for_each_sample_are_refused(
    refused: Callable[..., str], monkeypatch: Patch
) -> None:
    forward = TinyTask.forward

    def reduced(task: TinyTask, model: nn.Module, batch: Any) -> Any:
        output = forward(task, model, batch)
        return replace(output, losses=output.losses.mean())

    monkeypatch.setattr(TinyTask, "forward", reduced)
    assert "forward: expected losses of shape (16,), one for each sample" in refused()


def test_a_batch_that_does_not_fit_is_shown_by_its_shapes_before_the_first_step(
    command: Command, empty_config: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    def too_narrow(task: TinyTask, model: nn.Module, batch: Any) -> Output:
        return forward(task, model, (batch[0][:, :3], batch[1]))

    forward = TinyTask.forward
    monkeypatch.setattr(TinyTask, "forward", too_narrow)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        command("train", str(empty_config), "output_dir={tmp}/runs")
    shapes = "[(16, 16), (16,)]"
    assert caught.value.__notes__ == [f"The shapes of the tensors of the batch: {shapes}"]
    assert not (tmp_path / "runs").exists()


def test_a_monitor_that_is_not_a_single_number_is_refused(
    refused: Callable[..., str], monkeypatch: Patch
) -> None:
    class Vector(RightAnswers):
        def compute(self) -> torch.Tensor:
            return torch.ones(2)

    monkeypatch.setattr(TinyTask, "metrics", lambda _: {"right": Vector()})
    assert "error: trainer.monitor: 'right' is not a single number" in refused()


def test_a_monitor_that_gives_a_dict_is_refused(
    refused: Callable[..., str], monkeypatch: Patch
) -> None:
    class Two(RightAnswers):
        def compute(self) -> dict[str, float]:  # type: ignore[override]
            return {"first": 1.0, "second": 2.0}

    monkeypatch.setattr(TinyTask, "metrics", lambda _: {"right": Two()})
    assert "error: trainer.monitor: 'right' is not a single number" in refused()


def test_what_is_tried_before_the_first_step_is_one_micro_batch_of_each_split(
    train: Train, monkeypatch: Patch
) -> None:
    def forward(task: TinyTask, model: nn.Module, batch: Any) -> Output:
        sizes.append(len(batch[-1]))
        return forward_of_task(task, model, batch)

    def checked(run: Run) -> None:
        check(run)
        tried.extend(sizes)

    sizes: list[int] = []
    tried: list[int] = []
    forward_of_task = TinyTask.forward
    check = Run.check
    monkeypatch.setattr(TinyTask, "forward", forward)
    monkeypatch.setattr(Run, "check", checked)
    train("trainer.micro_batches=4", "loader.batch_size=16", "trainer.max_steps=1")
    assert tried == [4, 4]


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_what_is_tried_before_the_first_step_changes_no_bit_of_the_run(
    train: Train, monkeypatch: Patch, decay: float
) -> None:
    def with_batch_norm(task: TinyTask) -> nn.Module:
        return nn.Sequential(build_model(task), nn.BatchNorm1d(2))

    build_model = TinyTask.build_model
    monkeypatch.setattr(TinyTask, "build_model", with_batch_norm)
    monkeypatch.setattr(TinyTask, "is_noisy", True)
    words = ("trainer.log_every=1", f"optim.ema={decay}")
    tried = train(*words)
    monkeypatch.setattr(Run, "check", lambda _: None)
    untried = train(*words)
    assert_same_run(tried, untried)


def test_an_error_of_the_data_is_the_same_line_from_a_worker_as_from_the_main_process(
    command: Command, empty_config: Path, monkeypatch: Patch
) -> None:
    order = Loader(range(60), LoaderConfig(), seed=0, shuffle=True).order(epoch=0)
    monkeypatch.setattr(TinyTask, "datasets", broken_at(order[-1]))
    lines = []
    for workers in (0, 2):
        words = ("output_dir={tmp}/runs", f"loader.num_workers={workers}")
        code, out, err = command("train", str(empty_config), *words)
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        lines.append(err.splitlines()[-1])
    assert lines == [f"error: points.csv:{order[-1]}: expected a point, found none"] * 2


class Broken:
    """A dataset with an error in one of its samples."""

    def __init__(self, dataset: Any, index: int) -> None:
        self.dataset = dataset
        self.index = index

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        if index == self.index:
            raise DataError(f"points.csv:{index}: expected a point, found none")
        return self.dataset[index]


def broken_at(index: int) -> Callable[[TinyTask], dict[str, Any]]:
    """The splits, with an error in one sample of the training split."""
    datasets = TinyTask.datasets

    def with_error(task: TinyTask) -> dict[str, Any]:
        found = datasets(task)
        return {**found, "train": Broken(found["train"], index)}

    return with_error


def test_the_test_line_tensorboard_and_evaluate_name_the_step_of_the_best_weights(
    train: Train, command: Command
) -> None:
    run = train(*OVERSHOOTS)
    best = result(run)["best"]["step"]
    assert best < result(run)["steps"]
    (line,) = read_log(run, "test")
    (val_line,) = (found for found in read_log(run, "val") if found["step"] == best)
    assert (line["step"], line["epoch"], line["lr"]) == (best, best // 4, val_line["lr"])
    events = EventAccumulator(str(run)).Reload()
    (point,) = events.Scalars("loss/test")
    assert (point.step, point.value) == (best, pytest.approx(line["loss"]))
    found = json.loads(command("evaluate", str(run))[1])
    assert (found["step"], found["loss"]) == (best, line["loss"])
    found = json.loads(command("evaluate", str(run), "--checkpoint", "last")[1])
    assert found["step"] == result(run)["steps"]


def test_the_trainer_of_the_task_is_used(train: Train, monkeypatch: Patch) -> None:
    class Undone(Trainer):
        """Puts the weights back after each step."""

        def update(self, micro_batches: Sequence[MicroBatch], total: int) -> None:
            before = [parameter.detach().clone() for parameter in self.model.parameters()]
            super().update(micro_batches, total)
            for parameter, weight in zip(self.model.parameters(), before, strict=True):
                parameter.data = weight

    monkeypatch.setattr(TinyTask, "trainer", Undone)
    short = result(train("trainer.max_steps=1"))
    long = result(train("trainer.max_steps=7"))
    assert (short["steps"], long["steps"]) == (1, 7)
    assert short["digest"] == long["digest"]


def test_the_parts_get_their_options() -> None:
    settings = Config(
        seed=5,
        device="cpu",
        loader=LoaderConfig(batch_size=20),
        optim=OptimConfig(scheduler="plateau"),
        trainer=TrainerConfig(max_steps=1, monitor="right"),
    )
    run = Run(settings, Path.cwd())
    assert list(run.loaders) == ["train", "val", "test"]
    assert [loader.shuffle for loader in run.loaders.values()] == [True, False, False]
    assert [len(loader) for loader in run.loaders.values()] == [3, 3, 3]
    assert run.loaders["train"].seed == run.trainer.seed == 5
    assert run.total_steps == 1
    assert getattr(run.trainer.scheduler, "mode", "") == "max"
    assert torch.are_deterministic_algorithms_enabled()
    assert run.share.is_exact
    assert run.trainer.mode == "max"
    free = Run(replace(settings, deterministic=False), Path.cwd())
    assert not torch.are_deterministic_algorithms_enabled()
    assert not free.share.is_exact


def test_the_schedule_ends_where_training_ends(train: Train) -> None:
    options = ("trainer.max_steps=4", "trainer.epochs=9", "trainer.log_every=1")
    run = train(*options, "optim.scheduler=linear", "optim.lr=1e-3")
    rates = [line["lr"] for line in read_log(run, "train")]
    assert rates == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_the_manifest_has_what_decided_the_run(train: Train, monkeypatch: Patch) -> None:
    monkeypatch.setattr(TinyTask, "file", Path(__file__))
    run = train("seed=3", "device=cpu", "trainer.micro_batches=3")
    manifest = record.read(run / "manifest.json")
    assert (manifest["seed"], manifest["device"]) == (3, "cpu")
    assert (manifest["micro_batches"], manifest["same_bits"]) == (3, False)
    assert record.read(train() / "manifest.json")["same_bits"] is True
    assert abs(manifest["began"] - time.time()) < 100
    assert manifest["config"] == config.flat(load_config(run / "config.yaml"))
    assert manifest["data"] == record.fingerprint(Path(__file__))
    package = Path(command_line.__file__).parent
    assert manifest["source"] == record.fingerprint(package, pattern="*.py")
    assert {"torch", "numpy", "pytest"} <= set(manifest["packages"])


def test_no_worker_outlives_its_run(train: Train) -> None:
    train("loader.num_workers=1")
    assert multiprocessing.active_children() == []


class Watcher:
    """A metric that draws random numbers of every kind."""

    higher_is_better = True

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        torch.rand(3)
        random.random()
        numpy.random.random()

    def reset(self) -> None:
        self.update(torch.empty(0), torch.empty(0))

    def compute(self) -> torch.Tensor:
        return torch.rand(())


@pytest.mark.parametrize(
    "change",
    ["log_every=1", "log_every=3", "save_every=1", "monitor=loss", "metric", "evaluations", "bar"],
)
def test_what_observes_leaves_the_weights_as_they_are(
    train: Train, monkeypatch: Patch, change: str
) -> None:
    options: tuple[str, ...] = ("trainer.epochs=4",)
    plain = train(*options)
    if change == "metric":
        monkeypatch.setattr(TinyTask, "metrics", lambda _: {"right": Watcher()})
    elif change == "evaluations":
        evaluate = Trainer.evaluate

        def twice(trainer: Trainer, loader: Any) -> dict[str, Any]:
            evaluate(trainer, loader)
            return evaluate(trainer, loader)

        monkeypatch.setattr(Trainer, "evaluate", twice)
    elif change == "bar":
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    else:
        options = (*options, f"trainer.{change}")
    changed = train(*options)
    assert result(plain)["digest"] == result(changed)["digest"]
    assert len(read_log(changed)) >= len(read_log(plain))


def test_time_continues_where_a_run_does(train: Train, command: Command) -> None:
    run = train()
    state = checkpoint.load(run / "checkpoints" / "last.pt")
    state["logger"]["seconds"] += 1000
    torch.save(state, run / "checkpoints" / "last.pt")
    (run / "result.json").unlink()
    assert command("train", "--resume", str(run))[0] == 0
    last = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert 1000 < json.loads(last)["time"] < 2000


def test_the_variables_of_a_scheduler_alone_make_no_processes(
    train: Train, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert record.read(train() / "manifest.json")["processes"] == 1


class PageTask(TinyTask):
    """It shows of how many samples, of which split, it could show something."""

    sizes = {"train": 60, "val": 30, "test": 1500}  # noqa: RUF012
    calls: list[Any] = []  # noqa: RUF012

    def page(self, split: str, rows: list[int], output: Output) -> dict[str, Any]:
        self.calls.append((split, rows, output))
        torch.rand(1)
        return {"words": f"{len(rows)} of {split}"}


class PageOfValTask(PageTask):
    sizes = {"train": 60, "val": 30}  # noqa: RUF012


class BrokenPageTask(PageTask):
    def page(self, split: str, rows: list[int], output: Output) -> dict[str, Any]:
        raise ZeroDivisionError("nothing to show")


def words_of(run: Path) -> list[tuple[int, bytes]]:
    """The steps and texts of the page."""
    events = EventAccumulator(str(run)).Reload()
    (tag,) = [tag for tag in events.Tags()["tensors"] if "words" in tag]
    return [(event.step, event.tensor_proto.string_val[0]) for event in events.Tensors(tag)]


def test_the_task_shows_a_page_of_the_best_weights_on_at_most_1000_samples_of_test(
    train: Train, monkeypatch: Patch
) -> None:
    tiny.install(monkeypatch.setattr, PageTask)
    monkeypatch.setattr(PageTask, "calls", [])
    run = train(*OVERSHOOTS, "trainer.micro_batches=4")
    ((split, rows, output),) = PageTask.calls
    assert (split, len(rows), len(set(rows))) == ("test", 1000, 1000)
    assert words_of(run) == [(result(run)["best"]["step"], b"1000 of test")]
    # It is what the best weights make of these samples.
    loaded = Run(load_config(run / "config.yaml"), Path.cwd())
    state = checkpoint.load(run / "checkpoints" / "best.pt")
    loaded.model.load_state_dict(state["model_state_dict"])
    inputs, target = loaded.loaders["test"].dataset[rows]
    with torch.no_grad():
        expected = loaded.model.eval()(inputs)
    assert torch.allclose(output.preds, expected, atol=1e-6)
    assert torch.equal(output.target, target)
    assert output.losses.shape == (1000,)


def test_without_a_test_split_the_page_is_of_val(train: Train, monkeypatch: Patch) -> None:
    tiny.install(monkeypatch.setattr, PageOfValTask)
    monkeypatch.setattr(PageTask, "calls", [])
    run = train("loader.limit=20")
    ((split, rows, _),) = PageTask.calls
    assert (split, len(rows)) == ("val", 20)
    assert words_of(run) == [(result(run)["best"]["step"], b"20 of val")]
    tags = EventAccumulator(str(run)).Reload().Tags()["tensors"]
    assert "val/words/text_summary" in tags
    PageTask.calls.clear()
    run = train("optim.ema=0.5")  # of which the average alone was evaluated, not the model
    ((_, rows, output),) = PageTask.calls
    model, task = evaluate.load(run)
    inputs, _ = task.datasets()["val"][rows]
    assert torch.allclose(output.preds, model(inputs).detach(), atol=1e-6)


@pytest.mark.parametrize("task", [PageTask, BrokenPageTask])
def test_a_page_changes_nothing_of_a_run_and_an_error_in_it_is_a_warning(
    train: Train, command: Command, empty_config: Path, monkeypatch: Patch, task: Any
) -> None:
    monkeypatch.setattr(TinyTask, "sizes", PageTask.sizes)
    plain = train()
    tiny.install(monkeypatch.setattr, task)
    code, out, err = command("train", str(empty_config), "output_dir={tmp}/runs")
    assert code == 0
    assert_same_run(plain, Path(out.strip()))
    warning = "warning: no page in TensorBoard: ZeroDivisionError: nothing to show\n"
    assert (warning in err) is (task is BrokenPageTask)
    events = EventAccumulator(out.strip()).Reload()
    assert "_hparams_/session_end_info" in events.PluginTagToContent("hparams")


def test_without_tensorboard_there_is_no_page_and_no_event_file(
    train: Train, monkeypatch: Patch
) -> None:
    tiny.install(monkeypatch.setattr, PageTask)
    monkeypatch.setattr(PageTask, "calls", [])
    run = train("logger.tensorboard=false")
    assert PageTask.calls == []
    assert not list(run.glob("events*"))


def test_tensorboard_has_the_config_and_the_options_of_a_run(train: Train) -> None:
    run = train("trainer.max_steps=3")
    events = EventAccumulator(str(run)).Reload()
    ((step, text),) = [
        (event.step, event.tensor_proto.string_val[0].decode())
        for event in events.Tensors("config/text_summary")
    ]
    lines = (run / "config.yaml").read_text(encoding="utf-8").splitlines()
    assert (step, text.splitlines()) == (0, [f"    {line}" for line in lines])
    start = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert b"trainer.max_steps" in start


class TrackedTask(TinyTask):
    """It notes what a tracker would get."""

    sent: list[Any] = []  # noqa: RUF012

    def tracker(self, folder: Path, options: dict[str, Any]) -> Any:
        self.sent.append((folder, options["trainer.epochs"]))
        return self.sent.append


def test_a_tracker_gets_the_folder_the_options_and_each_line(
    train: Train, command: Command, monkeypatch: Patch
) -> None:
    tiny.install(monkeypatch.setattr, TrackedTask)
    monkeypatch.setattr(TrackedTask, "sent", [])
    run = train("optim.scheduler=constant")
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    assert TrackedTask.sent == [(run, 2), *log]
    TrackedTask.sent.clear()
    assert command("train", "--resume", str(run), "trainer.epochs=3")[0] == 0
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    assert TrackedTask.sent == [(run, 3), *log]


def test_weights_and_data_depend_neither_on_each_other_nor_on_what_was_drawn_before(
    train: Train, monkeypatch: Patch
) -> None:
    datasets = TinyTask.datasets
    drawn: list[torch.Tensor] = []

    def draws(task: TinyTask) -> dict[str, Any]:
        drawn.append(torch.rand(3))
        return datasets(task)

    plain = train("trainer.max_steps=1")
    monkeypatch.setattr(TinyTask, "datasets", draws)
    torch.manual_seed(1234)
    other = train("trainer.max_steps=1")
    torch.manual_seed(4321)
    train("trainer.max_steps=1")
    train("trainer.max_steps=1", "seed=1")
    assert result(plain)["digest"] == result(other)["digest"]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_the_task_collates_its_batches(train: Train, monkeypatch: Patch) -> None:
    seen: set[int] = set()

    def collate(_: TinyTask, samples: list[Any]) -> Any:
        seen.add(len(samples))
        inputs, target = zip(*samples, strict=True)
        return torch.stack(inputs), torch.stack(target)

    monkeypatch.setattr(TinyTask, "collate", collate)
    train("loader.batch_size=25")
    assert seen == {25, 10}


def test_a_folder_of_runs_may_be_in_the_home_folder(
    command: Command, empty_config: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    words = ("train", str(empty_config), "output_dir=~/mine", "trainer.max_steps=1", "--run", "one")
    for said in ("best      right", "this run is finished"):
        code, out, err = command(*words)
        assert (code, Path(out.strip())) == (0, tmp_path / "mine" / "one"), err
        assert said in err


def test_the_weights_that_a_run_began_from_are_named_from_the_folder_of_the_project(
    train: Train, tmp_path: Path, monkeypatch: Patch
) -> None:
    parent = train("trainer.max_steps=1")
    monkeypatch.chdir(tmp_path)
    run = train("trainer.max_steps=1", "--init-from", os.path.relpath(parent))
    manifest = record.read(run / "manifest.json")
    assert manifest["parent"] == os.path.relpath(parent, command_line.ROOT)


def test_on_a_terminal_each_epoch_of_a_run_has_a_bar(
    command: Command, empty_config: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _, _, err = command("train", str(empty_config), "output_dir={tmp}/runs")
    assert "epoch 1: " in err and "epoch 2: " in err
    assert "4/4" in err


def test_micro_batches_are_shown_at_the_start_with_what_they_promise(
    command: Command, empty_config: Path
) -> None:
    words = ("train", str(empty_config), "output_dir={tmp}/runs", "trainer.max_steps=1")
    promises = {2: "the same bits in any", 3: "the same up to rounding in any"}
    for count, promise in promises.items():
        _, _, err = command(*words, f"trainer.micro_batches={count}")
        assert f"\n{count} micro-batches a step, {promise} number of processes\n" in err
    assert "micro-batches" not in command(*words)[2]


def test_minutes_are_minutes_and_the_end_says_that_they_are_over(
    command: Command, empty_config: Path, monkeypatch: Patch
) -> None:
    left: list[float] = []

    def is_late(stop: StopSignal) -> bool:
        left.append(stop.deadline - time.monotonic())
        return len(left) >= 3

    monkeypatch.setattr(StopSignal, "is_time_up", property(is_late, lambda *_: None), raising=False)
    words = ("train", str(empty_config), "output_dir={tmp}/runs", "trainer.max_minutes=50")
    code, _, err = command(*words)
    assert code == 0, err
    assert 2900 < left[0] <= 3000
    assert "\ntime is up after step 3\n" in err


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_batch_of_either_split_is_tried_before_anything_is_written(
    command: Command, empty_config: Path, tmp_path: Path, monkeypatch: Patch, split: str
) -> None:
    datasets = TinyTask.datasets

    def broken(task: TinyTask) -> dict[str, Any]:
        found = datasets(task)
        return {**found, split: Broken(found[split], 0)}

    monkeypatch.setattr(TinyTask, "datasets", broken)
    words = ("train", str(empty_config), "output_dir={tmp}/runs", "loader.batch_size=60")
    code, _, err = command(*words)
    assert (code, err) == (2, "error: points.csv:0: expected a point, found none\n")
    assert not (tmp_path / "runs").exists()


def test_predict_must_give_an_answer(refused: Callable[..., str], monkeypatch: Patch) -> None:
    monkeypatch.setattr(TinyTask, "predict", lambda *_: [])
    assert "Task.predict: expected an answer for each of 1 samples, found []" in refused()


def test_the_data_is_that_of_the_last_hashes_which_are_beside_the_runs(
    train: Train, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(record, "CACHED_BYTES", 1)
    mine = tmp_path / "mine.csv"
    mine.write_text("1\n", encoding="utf-8")
    monkeypatch.setattr(TinyTask, "file", mine)
    first = record.read(train("trainer.max_steps=1") / "manifest.json")["data"]
    assert (tmp_path / "runs" / ".fingerprints.json").is_file()
    modified = mine.stat().st_mtime_ns
    mine.write_text("2\n", encoding="utf-8")
    os.utime(mine, ns=(modified, modified))
    again = record.read(train("trainer.max_steps=1") / "manifest.json")["data"]
    read = record.read(train("trainer.max_steps=1", "--verify-data") / "manifest.json")["data"]
    assert again == first != read


def test_a_number_of_test_that_is_not_finite_is_null_in_the_result(
    train: Train, monkeypatch: Patch
) -> None:
    class Undefined(RightAnswers):
        def compute(self) -> torch.Tensor:
            return torch.tensor(torch.nan)

    metrics = TinyTask.metrics
    monkeypatch.setattr(TinyTask, "metrics", lambda task: {**metrics(task), "odd": Undefined()})
    run = train("trainer.max_steps=1")
    text = (run / "result.json").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert found["test"]["odd"] is None


def test_the_model_is_compiled_if_that_is_asked_for(train: Train, monkeypatch: Patch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda model: compiled.append(model))
    train("trainer.max_steps=1")
    assert compiled == []
    train("trainer.max_steps=1", "trainer.compile=true")
    assert len(compiled) == 1
