"""A run, from the command to the folder that it leaves."""

import json
import multiprocessing
import random
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from conftest import Command, read_log

from {{ cookiecutter.__package_name }} import __main__ as command_line
from {{ cookiecutter.__package_name }} import checkpoint, config, data, record
from {{ cookiecutter.__package_name }} import train as train_module
from {{ cookiecutter.__package_name }}.optim import OptimConfig
from {{ cookiecutter.__package_name }}.train import Config, Run
from {{ cookiecutter.__package_name }}.trainer import Trainer, TrainerConfig

Train = Callable[..., Path]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default run, on all of the data that ships."""
    from {{ cookiecutter.__package_name }}.train import train

    output = tmp_path_factory.mktemp("real")
    return train(ROOT / "configs" / "default.yaml", [f"output_dir={output}"], ROOT)


def test_the_default_run_reaches_an_accuracy_of_087_on_test(real_run: Path) -> None:
    (line,) = read_log(real_run, "test")
    assert line["accuracy"] >= 0.87


def test_with_shuffled_training_labels_nothing_is_learnt(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load_data = data.load_data

    def shuffled(path: Path) -> tuple[dict[str, data.CustomDataset], list[str]]:
        splits, classes = load_data(path)
        labels = list(splits["train"].labels)
        random.Random(0).shuffle(labels)
        splits["train"] = data.CustomDataset(splits["train"].texts, labels)
        return splits, classes

    monkeypatch.setattr(data, "load_data", shuffled)
    code, out, _ = command("train", "output_dir={tmp}", "trainer.epochs=4")
    assert code == 0
    assert read_log(Path(out.strip()), "test")[0]["accuracy"] <= 0.60


def test_the_run_folder_holds_what_the_readme_says(train: Train) -> None:
    run = train("name=my run")
    assert re.fullmatch(r"my_run-\d{8}-\d{6}(-\d+)?", run.name)
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    checkpoints = {f"checkpoints/{name}.pt" for name in ("last", "last.prev", "best")}
    files = {"config.yaml", "manifest.json", "metrics.jsonl", "result.json"}
    assert names - events - {"source.patch"} == files | checkpoints
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert set(result) == {"status", "best", "steps", "digest"}
    assert (result["status"], result["steps"]) == ("finished", 2)
    assert set(result["best"]) == {"metric", "value", "step"}


def test_the_log_has_a_loss_in_each_line_and_metrics_on_val_and_test(train: Train) -> None:
    log = read_log(train("trainer.log_every=1", "data.batch_size=25"))
    steps = [(line["step"], line["epoch"], line["split"]) for line in log]
    assert steps == [
        (1, 1, "train"), (2, 1, "train"), (3, 1, "train"), (3, 1, "val"),
        (4, 2, "train"), (5, 2, "train"), (6, 2, "train"), (6, 2, "val"), (6, 2, "test"),
    ]  # fmt: skip
    for line in log:
        numbers = {"loss"} if line["split"] == "train" else {"loss", "accuracy", "f1"}
        assert set(line) == {"step", "epoch", "split", "lr"} | numbers


def test_a_checkpoint_holds_what_the_contract_says_in_plain_types(train: Train) -> None:
    state = torch.load(train() / "checkpoints" / "last.pt", weights_only=True)
    assert set(state) == {
        "model_state_dict", "optimizer_state_dict", "scheduler", "scaler", "trainer", "logger",
        "classes", "config",
    }  # fmt: skip
    assert state["classes"] == ["Negative", "Positive"]
    assert state["config"]["data"]["limit"] == 60
    assert set(state["trainer"]) >= {"epoch", "step", "best", "stale", "loss_sum", "count"}
    assert (state["trainer"]["epoch"], state["trainer"]["step"]) == (2, 2)
    assert "hidden.weight" in state["model_state_dict"]


def test_the_digest_is_that_of_the_last_weights(train: Train) -> None:
    run = train("trainer.epochs=3")
    last = checkpoint.load(run / "checkpoints" / "last.pt")["model_state_dict"]
    assert record.read(run / "result.json")["digest"] == record.digest(last)


def test_the_saved_config_repeats_the_run(train: Train, command: Command) -> None:
    first = train("optim.lr=3e-3", "trainer.log_every=1", "seed=7")
    code, out, _ = command("train", str(first / "config.yaml"))
    again = Path(out.strip())
    assert code == 0
    assert again != first
    assert read_log(first) == read_log(again)
    results = [record.read(run / "result.json") for run in (first, again)]
    assert results[0] == results[1]
    assert config.load(Config, first / "config.yaml").optim.lr == 0.003


def test_another_seed_is_another_run(train: Train) -> None:
    digests = {record.read(train(f"seed={s}") / "result.json")["digest"] for s in (1, 2)}
    assert len(digests) == 2


def test_init_from_starts_with_the_best_weights_of_a_run(train: Train, command: Command) -> None:
    parent = train("trainer.epochs=3", "optim.lr=0.05")
    options = ("optim.lr=0", "optim.weight_decay=0", "trainer.epochs=1", "output_dir={tmp}/runs")
    code, out, err = command(
        "train", str(parent / "config.yaml"), *options, "--init-from", str(parent)
    )
    assert code == 0, err
    child = checkpoint.load(Path(out.strip()) / "checkpoints" / "last.pt")
    best = checkpoint.load(parent / "checkpoints" / "best.pt")
    assert record.digest(child["model_state_dict"]) == record.digest(best["model_state_dict"])
    assert child["trainer"]["step"] == 1


def test_training_works_from_any_folder_with_a_config_by_relative_path(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("trainer: {max_steps: 1}\ndata: {limit: 60}\n", encoding="utf-8")
    code, out, err = command("train", "mine.yaml", "output_dir={tmp}/out")
    assert code == 0, err
    assert Path(out.strip()).parent == tmp_path / "out"


def test_the_end_tells_where_the_run_is_and_what_to_do_next(
    command: Command,
) -> None:
    code, out, err = command("train", "output_dir={tmp}/runs", "data.limit=60", "trainer.epochs=1")
    assert code == 0
    head, *_, run, best, look, evaluate, predict = err.splitlines()
    assert re.match(
        r"262,338 parameters; 60 train, 60 val, 60 test; 0 of 1 steps; .*, \d+ threads", head
    )
    package = data.__name__.partition(".")[0]
    assert run.startswith("run       ") and run.endswith(Path(out.strip()).name)
    assert evaluate.startswith(f"evaluate  python -m {package} evaluate ")
    assert predict.startswith(f"predict   python -m {package} predict ")
    assert look.startswith("look      tensorboard --logdir ")
    assert re.fullmatch(r"best      accuracy 0\.\d{4} on val, step 1", best)
    assert out.count("\n") == 1  # stdout has the run folder alone


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.yaml"], "error: nowhere.yaml: expected a config file, found none"),
        (["optim.lrr=1"], "error: command line: optim.lrr: expected a known key"),
        (
            ["trainer.monitor=acc"],
            "trainer.monitor: expected one of ['loss', 'accuracy', 'f1'], found 'acc'",
        ),
        (["data.path=none.csv"], "none.csv: expected a CSV file, found: No such file"),
        (["device=tpu"], "error: device: expected auto, "),
        (["--resume", "{tmp}"], "expected the folder of a run, found no config.yaml in it"),
        (["--init-from", "{tmp}/x"], "expected the folder of a run, found no config.yaml in it"),
        (["seed=1", "b.yaml"], "error: command line: expected section.key=value, found 'b.yaml'"),
        (["output_dir=pyproject.toml"], "error: output_dir: cannot make"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_exit_code_2_and_leaves_nothing(
    command: Command, tmp_path: Path, words: list[str], told: str
) -> None:
    where = (
        [] if any(word.startswith("output_dir") for word in words) else ["output_dir={tmp}/runs"]
    )
    if "--resume" in words:
        where = []
    code, out, err = command("train", *words, *where)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_that_diverges_fails_with_exit_code_1_and_one_line(
    command: Command, tmp_path: Path
) -> None:
    words = ("optim.lr=1e38", "data.limit=200", "trainer.log_every=2", "output_dir={tmp}/runs")
    code, _, err = command("train", *words)
    assert code == 1
    assert re.search(r"error: the loss became (nan|inf) in steps \d+ to \d+:", err.splitlines()[-1])
    (run,) = (tmp_path / "runs").iterdir()
    assert record.read(run / "result.json")["status"] == "failed"


def test_a_mistake_in_the_users_own_python_keeps_its_traceback(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Trainer, batch: object) -> None:
        raise KeyError("mine")

    monkeypatch.setattr(Trainer, "forward", broken)
    with pytest.raises(KeyError, match="mine"):
        command("train", "output_dir={tmp}/runs", "data.limit=60")


def test_the_digest_is_not_that_of_the_best_weights(train: Train) -> None:
    options = ("optim.lr=0.3", "trainer.monitor=loss", "optim.scheduler=constant")
    run = train("trainer.epochs=5", *options)
    digests = [
        record.digest(checkpoint.load(run / "checkpoints" / f"{name}.pt")["model_state_dict"])
        for name in ("last", "best")
    ]
    assert record.read(run / "result.json")["digest"] == digests[0] != digests[1]


def test_the_parts_get_their_options() -> None:
    small = data.DataConfig(limit=60, features=64)
    plateau, one_step = OptimConfig(scheduler="plateau"), TrainerConfig(max_steps=1)
    config = Config(seed=5, device="cpu", data=small, optim=plateau, trainer=one_step)
    run = Run(config, ROOT)
    assert [run.loaders[split].seed for split in data.SPLITS] == [5, None, None]
    assert (run.trainer.seed, run.steps) == (5, 1)
    assert getattr(run.trainer.scheduler, "mode", "") == "max"
    assert torch.are_deterministic_algorithms_enabled()
    Run(replace(config, deterministic=False), ROOT)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_schedule_ends_where_training_ends(train: Train) -> None:
    options = ("trainer.max_steps=4", "data.batch_size=16", "trainer.epochs=9")
    run = train(*options, "optim.scheduler=linear", "optim.lr=1e-3", "trainer.log_every=1")
    rates = [line["lr"] for line in read_log(run, "train")]
    assert rates == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_the_manifest_has_what_decided_the_run(train: Train) -> None:
    manifest = record.read(train("seed=3", "device=cpu") / "manifest.json")
    facts = (manifest["seed"], manifest["device"], manifest["deterministic_algorithms"])
    assert facts == (3, "cpu", True)
    assert manifest["data"] == record.fingerprint(ROOT / "data" / "words.csv")
    assert manifest["source"] == record.fingerprint(Path(data.__file__).parent, "*.py")


def test_no_worker_outlives_its_run(train: Train) -> None:
    train("data.num_workers=1")
    assert multiprocessing.active_children() == []


def test_run_folders_are_made_in_the_project_from_wherever_it_is_called(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "ROOT", tmp_path / "project")
    words = (ROOT / "data" / "words.csv").read_text(encoding="utf-8")
    (tmp_path / "project" / "data").mkdir(parents=True)
    (tmp_path / "project" / "data" / "words.csv").write_text(words, encoding="utf-8")
    code, out, err = command("train", "trainer.max_steps=1", "data.limit=60")
    assert code == 0, err
    assert Path(out.strip()).parent == tmp_path / "project" / "runs"


class Watcher:
    """A metric that draws random numbers of every kind."""

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        torch.rand(3), random.random(), numpy.random.random()

    def reset(self) -> None: ...
    def compute(self) -> torch.Tensor:
        return torch.rand(())


@pytest.mark.parametrize(
    "change",
    ["log_every=1", "log_every=3", "save_every=1", "monitor=loss", "metric", "evaluations", "bar"],
)
def test_what_observes_leaves_the_weights_as_they_are(
    train: Train, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    options: tuple[str, ...] = ("data.batch_size=16", "trainer.epochs=4", "data.features=512")
    plain = train(*options)
    if change == "metric":
        monkeypatch.setattr(train_module, "build_metrics", lambda _: {"accuracy": Watcher()})
    elif change == "evaluations":
        evaluate = Trainer.evaluate
        monkeypatch.setattr(
            Trainer, "evaluate", lambda *args: (evaluate(*args), evaluate(*args))[1]
        )
    elif change == "bar":
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    else:
        options = (*options, f"trainer.{change}")
    changed = train(*options)
    digests = [record.read(run / "result.json")["digest"] for run in (plain, changed)]
    assert digests[0] == digests[1]
    assert len(read_log(changed)) >= len(read_log(plain))


def test_a_run_that_started_from_another_names_it(train: Train) -> None:
    parent = train()
    manifest = record.read(train("--init-from", str(parent)) / "manifest.json")
    assert (ROOT / manifest["parent"]).resolve() == parent
    best = checkpoint.load(parent / "checkpoints" / "best.pt")["model_state_dict"]
    assert manifest["parent_digest"] == record.digest(best)
    assert record.read(parent / "manifest.json")["parent"] == ""


def test_time_goes_on_where_a_run_does(train: Train, command: Command) -> None:
    run = train()
    state = checkpoint.load(run / "checkpoints" / "last.pt")
    state["logger"]["seconds"] += 1000
    torch.save(state, run / "checkpoints" / "last.pt")
    (run / "result.json").unlink()
    assert command("train", "--resume", str(run))[0] == 0
    last = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert 1000 < json.loads(last)["time"] < 2000


def test_the_variables_of_a_scheduler_alone_make_no_processes(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert record.read(train() / "manifest.json")["processes"] == 1
