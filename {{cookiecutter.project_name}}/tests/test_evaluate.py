"""Evaluation and prediction use the run's own weights, classes and encoding."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Command, read_log

from {{ cookiecutter.__package_name }} import checkpoint, data
from {{ cookiecutter.__package_name }}.evaluate import load

Train = Callable[..., Path]
ROOT = Path(__file__).parents[1]


def test_evaluate_repeats_what_the_run_logged(train: Train, command: Command) -> None:
    run = train("trainer.epochs=4")
    best = checkpoint.load(run / "checkpoints" / "best.pt")["trainer"]["step"]
    expected = {
        ("test", "best"): read_log(run, "test")[0],
        ("val", "best"): next(line for line in read_log(run, "val") if line["step"] == best),
        ("val", "last"): read_log(run, "val")[-1],
    }
    for (split, name), line in expected.items():
        code, out, err = command("evaluate", str(run), "--split", split, "--checkpoint", name)
        assert code == 0, err
        found = json.loads(out)
        assert (found["split"], found["checkpoint"], found["samples"]) == (split, name, 60)
        assert [found[key] for key in ("loss", "accuracy", "f1")] == [
            line[key] for key in ("loss", "accuracy", "f1")
        ]
        counts = found["confusion"]
        assert sum(map(sum, counts)) == 60
        assert (counts[0][0] + counts[1][1]) / 60 == line["accuracy"]


def test_predict_names_the_class_that_the_data_names(train: Train, command: Command) -> None:
    run = train("data.limit=2000", "data.features=2048", "trainer.epochs=3")
    splits, _ = data.load_data(ROOT / "data" / "words.csv")
    texts, labels = splits["test"].texts[:200], splits["test"].labels[:200]
    code, out, err = command("predict", str(run), *texts)
    assert code == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    assert [line["input"] for line in found] == list(texts)
    right = sum(line["class"] == label for line, label in zip(found, labels, strict=True))
    assert right / 200 >= 0.75  # a wrong order of the classes would give at most 0.25
    assert all(0.5 <= line["probability"] <= 1 for line in found)


def test_predict_reads_lines_from_stdin_in_utf8(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(train())
    stdin = io.TextIOWrapper(io.BytesIO("happy\r\n\uc2ac\ud508\nglum".encode()), encoding="ascii")
    monkeypatch.setattr("sys.stdin", stdin)
    code, out, err = command("predict", run, "-")
    assert code == 0, err
    assert [json.loads(line)["input"] for line in out.splitlines()] == [
        "happy",
        "\uc2ac\ud508",
        "glum",
    ]
    assert out.isascii()
    for content, number in ((b"a\n\nb", 2), (b"a\nb\nc\xff", 3)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        code, out, err = command("predict", run, "-")
        assert (code, out) == (2, "")
        assert f"error: input {number}: expected a text in UTF-8, found" in err


def test_a_notebook_gets_the_model_ready_to_use(train: Train) -> None:
    model, classes, encode = load(train())
    assert not model.training
    assert model(encode("happy")[None]).shape == (1, len(classes))
    assert torch.equal(model(encode("happy")), model(encode("HAPPY")))


def test_data_with_other_classes_than_the_runs_is_refused(
    train: Train, command: Command, tmp_path: Path
) -> None:
    words = (ROOT / "data" / "words.csv").read_text(encoding="utf-8")
    mine = tmp_path / "mine.csv"
    mine.write_text(words, encoding="utf-8")
    run = train(f"data.path={mine}")
    mine.write_text(words.replace("Positive", "Good"), encoding="utf-8")
    code, _, err = command("evaluate", str(run))
    assert code == 2
    assert "other classes: expected ['Negative', 'Positive'], found ['Good', 'Negative']" in err
    mine.unlink()
    assert command("predict", str(run), "happy")[0] == 0  # needs no data


def test_a_run_without_checkpoints_is_told(train: Train, command: Command) -> None:
    run = train()
    (run / "checkpoints" / "best.pt").unlink()
    for words in (["evaluate", str(run)], ["predict", str(run), "a"]):
        code, _, err = command(*words)
        assert code == 2
        assert "best.pt: damaged or missing: " in err


def test_evaluate_takes_the_best_weights_and_the_test_split_by_itself(
    train: Train, command: Command
) -> None:
    found = json.loads(command("evaluate", str(train()))[1])
    assert (found["split"], found["checkpoint"]) == ("test", "best")


def test_a_run_of_another_machine_is_evaluated_on_the_device_there_is(
    train: Train, command: Command
) -> None:
    run = train("device=cpu")
    config = run / "config.yaml"
    text = config.read_text(encoding="utf-8").replace("device: cpu", "device: cuda:77")
    config.write_text(text, encoding="utf-8")
    code, _, err = command("evaluate", str(run))
    assert code == 0, err


def test_a_line_on_stdin_is_one_input_whatever_else_is_in_it(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "one\u2028two\x85three\x0cfour\n".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    _, out, _ = command("predict", str(train()), "-")
    assert out.count("\n") == 1
