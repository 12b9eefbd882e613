"""The task of this project: what it learns, and what it says of an input."""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from {{ cookiecutter.__package_name }} import data
from {{ cookiecutter.__package_name }} import task as task_module
from {{ cookiecutter.__package_name }}.__main__ import main
from {{ cookiecutter.__package_name }}.engine.table import Table, read_table
from {{ cookiecutter.__package_name }}.engine.task import DataError
from {{ cookiecutter.__package_name }}.evaluate import load
from {{ cookiecutter.__package_name }}.model import ModelConfig
from {{ cookiecutter.__package_name }}.task import Task

ROOT = Path(__file__).parents[1]
DEFAULT = ROOT / "configs" / "default.yaml"
QUICK = ("data.features=256", "model.hidden=8", "loader.limit=200", "trainer.epochs=2")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Type a command; get its exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return run


def train(command: Command, folder: Path, *overrides: str) -> Path:
    """Train with these overrides; get the folder of the run."""
    code, out, err = command("train", str(DEFAULT), f"output_dir={folder}", *overrides)
    assert code == 0, err
    return Path(out.strip())


def evaluate(command: Command, run: Path) -> dict[str, Any]:
    """What evaluate prints."""
    code, out, err = command("evaluate", str(run))
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture(scope="module")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default run, on all of the data that ships."""
    from {{ cookiecutter.__package_name }}.train import train

    folder = tmp_path_factory.mktemp("default")
    return train(DEFAULT, [f"output_dir={folder}"], ROOT)


def test_the_default_config_is_what_the_command_prints(command: Command) -> None:
    text = DEFAULT.read_text(encoding="utf-8")
    printed = command("config")[1]
    package = task_module.__package__
    assert printed == text, f"write it anew: python -m {package} config > configs/default.yaml"


def test_the_default_run_reaches_an_accuracy_of_087_on_test(
    default_run: Path, command: Command
) -> None:
    found = evaluate(command, default_run)
    assert found["accuracy"] >= 0.87
    assert found["classes"] == ["Negative", "Positive"]
    (negative, missed), (wrong, positive) = found["confusion"]
    assert negative + missed + wrong + positive == found["samples"] == 726
    assert (negative + positive) / 726 == found["accuracy"]


def test_with_shuffled_training_labels_nothing_is_learnt(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def shuffled(path: Path, required: list[str]) -> Table:
        table = read_table(path, required)
        texts, labels = table.columns["text"], table.columns["label"]
        places = [i for i, text in enumerate(texts) if data.split_of(text) == "train"]
        values = [labels[i] for i in places]
        random.Random(0).shuffle(values)
        for place, value in zip(places, values, strict=True):
            labels[place] = value
        return table

    monkeypatch.setattr(task_module, "read_table", shuffled)
    run = train(command, tmp_path, "trainer.epochs=4")
    assert evaluate(command, run)["accuracy"] <= 0.60


def test_predict_names_the_class_that_the_data_names(default_run: Path, command: Command) -> None:
    table = read_table(ROOT / "data" / "words.csv", ["text", "label"])
    pairs = list(zip(table.columns["text"], table.columns["label"], strict=True))
    pairs = [pair for pair in pairs if data.split_of(pair[0]) == "test"][:200]
    code, out, err = command("predict", str(default_run), *[text for text, _ in pairs])
    assert code == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    assert [line["input"] for line in found] == [text for text, _ in pairs]
    right = sum(line["class"] == label for line, (_, label) in zip(found, pairs, strict=True))
    assert right / 200 >= 0.8  # a wrong order of the classes would give at most 0.2
    assert all(0.5 <= line["probability"] <= 1 for line in found)


def test_predict_reads_texts_in_utf8_and_says_which_input_is_none(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = train(command, tmp_path, *QUICK)
    content = "happy\r\n\uc2ac\ud508\n\nglum".encode() + b"\nc\xff"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
    code, out, err = command("predict", str(run), "-")
    inputs = [json.loads(line)["input"] for line in out.splitlines()]
    assert (code, inputs) == (2, ["happy", "\uc2ac\ud508", "glum"])
    assert out.isascii()
    assert "error: input 3: expected a text in UTF-8, found ''" in err
    assert "error: input 5: expected a text in UTF-8, found 'c\\udcff'" in err


def test_a_notebook_gets_the_model_and_the_classes(default_run: Path) -> None:
    model, task = load(default_run)
    assert not model.training
    assert task.classes == ["Negative", "Positive"]
    with torch.no_grad():
        (answer,) = task.predict(model, [task.parse("HAPPY")])
    assert answer["class"] == "Positive"


def task_of(*rows: str, folder: Path) -> Task:
    path = folder / "mine.csv"
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    return Task(data.DataConfig(path=str(path)), ModelConfig(), ROOT)


def test_the_classes_are_those_of_the_training_split(tmp_path: Path) -> None:
    rows = [f"word {i},{' ' * (i % 3)}{'ab'[i % 2]} " for i in range(100)]
    task = task_of(*rows, folder=tmp_path)
    task.learn()
    assert task.classes == ["a", "b"]
    with pytest.raises(DataError, match=r"expected at least two labels, found \['a'\]"):
        task_of(*[f"word {i},a" for i in range(50)], folder=tmp_path).learn()


def test_a_label_that_is_not_in_the_training_split_is_an_error_that_names_it(
    tmp_path: Path,
) -> None:
    rows = [f"word {i},{'ab'[i % 2]}" for i in range(50)]
    place = next(i for i in range(50) if data.split_of(f"word {i}") == "test")
    rows[place] = f"word {place},c"
    task = task_of(*rows, folder=tmp_path)
    task.learn()
    message = r"mine.csv: the labels \['c'\] have no row in the training split"
    with pytest.raises(DataError, match=message):
        task.datasets()


def test_an_old_run_is_not_evaluated_with_classes_of_todays_data(
    command: Command, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.csv"
    words = (ROOT / "data" / "words.csv").read_text(encoding="utf-8")
    mine.write_text(words, encoding="utf-8")
    run = train(command, tmp_path, *QUICK, f"data.path={mine}")
    mine.write_text(words + "bon,Aaa\n" * 9, encoding="utf-8")  # would be the first class
    code, _, err = command("evaluate", str(run))
    assert code == 2
    assert "the labels ['Aaa'] have no row in the training split" in err
    mine.write_text(words + "bonny,Positive\n", encoding="utf-8")
    code, out, err = command("evaluate", str(run))
    assert code == 0
    assert "mine.csv: the data has changed since the run began" in err
    assert json.loads(out)["classes"] == ["Negative", "Positive"]
    mine.unlink()
    assert command("predict", str(run), "happy")[0] == 0  # needs no data
