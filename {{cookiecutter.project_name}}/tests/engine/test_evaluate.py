"""Evaluation and prediction use the run's own weights, and what its task has learnt."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import Command, read_log
from tiny import FEATURES, TinyTask
from torch import nn

from {{ cookiecutter.__package_name }}.engine import (
    checkpoint,
    distributed,
    record,
)
from {{ cookiecutter.__package_name }}.evaluate import load

Train = Callable[..., Path]
INPUTS = [json.dumps([number / 10 - 2] * FEATURES) for number in range(40)]


class Stdin:
    """Puts these bytes on stdin."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
        stdin = io.TextIOWrapper(io.BytesIO(content), encoding="ascii")
        monkeypatch.setattr("sys.stdin", stdin)


def answers(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_evaluate_repeats_what_the_run_logged(train: Train, command: Command) -> None:
    run = train("trainer.epochs=4")
    best = checkpoint.load(run / "checkpoints" / "best.pt")["trainer"]["step"]
    (best_line,) = (line for line in read_log(run, "val") if line["step"] == best)
    expected = {
        ("test", "best"): read_log(run, "test")[0],
        ("val", "best"): best_line,
        ("val", "last"): read_log(run, "val")[-1],
    }
    for (split, name), line in expected.items():
        code, out, err = command("evaluate", str(run), "--split", split, "--checkpoint", name)
        assert (code, err) == (0, "")
        found = json.loads(out)
        assert (found["split"], found["checkpoint"], found["samples"]) == (split, name, 60)
        for key in ("step", "loss", "right"):
            assert found[key] == line[key]


def test_evaluate_takes_the_best_weights_and_the_test_split_by_itself(
    train: Train, command: Command
) -> None:
    found = json.loads(command("evaluate", str(train()))[1])
    assert (found["split"], found["checkpoint"]) == ("test", "best")


def test_evaluate_prints_what_the_task_reports_and_metrics_of_any_shape(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Table:
        """A metric that counts, in a matrix, and has a number that is not finite."""

        def reset(self) -> None:
            self.counts = torch.zeros(2, 2, dtype=torch.int64)

        def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
            for found, expected in zip(preds.argmax(1), target, strict=True):
                self.counts[expected, found] += 1

        def compute(self) -> dict[str, torch.Tensor]:
            return {"counts": self.counts, "nothing": torch.tensor(torch.nan)}

    ones = TinyTask.metrics
    monkeypatch.setattr(TinyTask, "metrics", lambda task: {**ones(task), "table": Table()})
    run = train()
    found = json.loads(command("evaluate", str(run))[1])
    assert found["features"] == FEATURES
    counts = found["table_counts"]
    assert sum(map(sum, counts)) == 60
    assert (counts[0][0] + counts[1][1]) / 60 == found["right"]
    assert found["table_nothing"] is None
    (line,) = read_log(run, "test")
    assert "table_counts" not in line
    assert line["table_nothing"] is None


def test_evaluate_uses_what_the_run_has_learnt_and_warns_that_the_data_has_changed(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "points.txt"
    file.write_text("as they were", encoding="utf-8")
    monkeypatch.setattr(TinyTask, "file", file)
    run = train()
    line = read_log(run, "test")[0]
    assert command("evaluate", str(run))[2] == ""
    # Today's training split is another one, from which another mean would be learnt.
    file.write_text("as they are", encoding="utf-8")
    monkeypatch.setattr(TinyTask, "sizes", {"train": 20, "val": 60, "test": 60})
    code, out, err = command("evaluate", str(run))
    assert code == 0, err
    change = f"{file.name} changed"
    assert err == f"warning: {file}: the data has changed since the run began: {change}\n"
    assert json.loads(out)["loss"] == line["loss"]


@pytest.mark.parametrize("words", [["evaluate", "{run}"], ["predict", "{run}", INPUTS[0]]])
def test_code_that_is_not_that_of_the_run_is_used_with_a_warning(
    train: Train, command: Command, words: list[str]
) -> None:
    run = train()
    manifest = {**record.read(run / "manifest.json"), "source": "0" * 64}
    record.write(run / "manifest.json", manifest)
    code, out, err = command(*(word.replace("{run}", str(run)) for word in words))
    assert (code, out.count("\n")) == (0, 1)
    changed = "the source code has changed since the run began"
    assert err == f"warning: {changed}; --source run uses the run's own code\n"


def test_evaluate_says_which_splits_there_are(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyTask, "sizes", {"train": 60, "val": 60})
    run = train()
    code, out, err = command("evaluate", str(run))
    assert (code, out) == (2, "")
    assert err == "error: the data has no test split; there are: train, val\n"
    assert command("evaluate", str(run), "--split", "val")[0] == 0


def test_predict_answers_in_order_and_in_batches(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train("loader.batch_size=15")
    model, task = load(run)
    one_by_one: list[dict[str, Any]] = []
    for text in INPUTS:
        one_by_one += task.predict(model, [task.parse(text)])
    sizes: list[int] = []
    predict = TinyTask.predict

    def watched(task: TinyTask, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        assert not model.training
        assert not torch.is_grad_enabled()
        sizes.append(len(samples))
        return predict(task, model, samples)

    monkeypatch.setattr(TinyTask, "predict", watched)
    code, out, err = command("predict", str(run), *INPUTS)
    assert (code, err) == (0, "")
    assert sizes == [15, 15, 10]
    found = answers(out)
    assert [answer["positive"] for answer in found] == [a["positive"] for a in one_by_one]
    for answer, expected in zip(found, one_by_one, strict=True):
        assert answer["score"] == pytest.approx(expected["score"], abs=2e-4)
    assert len({answer["positive"] for answer in found}) == 2  # so that an order can be seen


def test_an_input_that_cannot_be_taken_is_an_error_and_all_others_are_answered(
    train: Train, command: Command
) -> None:
    run = str(train())
    expected = command("predict", run, *INPUTS)[1]
    bad = ("[1, 2]", "no JSON")
    code, out, err = command("predict", run, *INPUTS[:3], bad[0], *INPUTS[3:], bad[1])
    assert code == 2
    assert out == expected
    first, second, last = err.splitlines()
    assert torch.are_deterministic_algorithms_enabled()
    assert first == "error: input 4: expected 16 numbers, found 2"
    assert second.startswith("error: input 42: ")
    assert last == "error: there is no answer for 2 of the inputs"


@pytest.mark.parametrize("error", [ValueError, KeyError, IndexError, FileNotFoundError])
def test_an_input_may_be_wrong_in_any_of_these_ways(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(*_: Any) -> None:
        raise error("no such thing")

    run = str(train("trainer.max_steps=1"))
    monkeypatch.setattr(TinyTask, "parse", refuse)
    code, out, err = command("predict", run, INPUTS[0])
    assert (code, out) == (2, "")
    assert err == (
        f"error: input 1: {error('no such thing')}\nerror: there is no answer for 1 of the inputs\n"
    )


def test_an_input_may_stand_for_any_number_of_samples(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(train())
    expected = command("predict", run, *INPUTS[:4])[1]

    def samples(task: TinyTask, text: str) -> Iterator[Any]:
        for part in text.split("|"):
            if part:
                yield task.parse(part)

    monkeypatch.setattr(TinyTask, "samples", samples)
    code, out, err = command("predict", run, "|".join(INPUTS[:3]), "", INPUTS[3])
    assert (code, out, err) == (0, expected, "")


def test_an_evaluation_needs_nothing_that_only_training_does(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train("optim.warmup=6", "loader.drop_last=true", 'optim.groups={"0.*": 0.5}')
    config = run / "config.yaml"
    text = config.read_text(encoding="utf-8").replace("0.*", "9.*")  # which no parameter has now
    config.write_text(text, encoding="utf-8")
    monkeypatch.setattr(TinyTask, "sizes", {"train": 12, "val": 60, "test": 60})  # no whole batch
    code, out, err = command("evaluate", str(run))
    assert code == 0, err
    assert json.loads(out)["samples"] == 60


def test_predict_needs_no_data(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(train())

    def gone(*_: Any) -> None:
        raise AssertionError("there is no data any more")

    monkeypatch.setattr(TinyTask, "points", gone)
    monkeypatch.setattr(TinyTask, "learn", gone)
    monkeypatch.setattr(TinyTask, "datasets", gone)
    code, out, _ = command("predict", run, INPUTS[0])
    assert (code, len(answers(out))) == (0, 1)


def test_predict_takes_the_best_device_that_there_is(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train()
    best = torch.device("cpu:0")
    devices: list[Any] = []
    move = nn.Module.to

    def noted(model: nn.Module, device: Any) -> nn.Module:
        devices.append(device)
        return move(model, device)

    monkeypatch.setattr(distributed, "select_device", lambda *_, **__: best)
    monkeypatch.setattr(nn.Module, "to", noted)
    assert command("predict", str(run), json.dumps([0.5] * FEATURES))[0] == 0
    assert best in devices


def test_predict_reads_lines_from_stdin(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(train())
    expected = command("predict", run, *INPUTS[:3])[1]
    for end in ("\n", "\r\n"):
        for mark in ("", "\ufeff"):  # an editor's byte order mark
            Stdin(monkeypatch, (mark + end.join(INPUTS[:3])).encode())
            assert command("predict", run, "-") == (0, expected, "")


def test_a_line_on_stdin_is_one_input_in_utf8_whatever_is_in_it(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(train())
    seen: list[str] = []

    def note(_: TinyTask, text: str) -> torch.Tensor:
        seen.append(text)
        return torch.zeros(FEATURES)

    monkeypatch.setattr(TinyTask, "parse", note)
    content = "one\u2028two\x85three\rfour \n\n\uc2ac".encode() + b"\n\xff\n"
    Stdin(monkeypatch, content)
    code, out, _ = command("predict", run, "-")
    assert code == 0
    assert len(answers(out)) == 4
    assert seen == ["one\u2028two\x85three\rfour ", "", "\uc2ac", "\udcff"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGPIPE")
def test_predict_ends_quietly_when_its_reader_has_had_enough(train: Train) -> None:
    run = train()
    source = Path(record.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, tiny.__file__, "predict", str(run), "-"],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write("\n".join(INPUTS[:16]) + "\n")  # one batch
        process.stdin.flush()
        assert json.loads(process.stdout.readline())
        process.stdout.close()  # as `head -1` does
        process.stdin.write("\n".join(INPUTS) + "\n")
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_notebook_gets_the_model_in_eval_mode_and_the_task_with_its_state(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train("trainer.epochs=3")
    monkeypatch.chdir(tmp_path)
    for name in ("best", "last"):
        model, task = load(os.path.relpath(run), name)
        state = checkpoint.load(run / "checkpoints" / f"{name}.pt")
        assert not model.training
        assert record.digest(model.state_dict()) == record.digest(state["model_state_dict"])
        assert torch.equal(task.state_dict()["mean"], state["task"]["mean"])
    (answer,) = task.predict(model, [task.parse(INPUTS[-1])])
    assert answer["positive"] in (True, False)


@pytest.mark.parametrize("words", [["evaluate", "{run}"], ["predict", "{run}", INPUTS[0]]])
def test_a_run_without_its_checkpoint_is_an_error_in_one_line(
    train: Train, command: Command, words: list[str]
) -> None:
    run = train()
    words = [word.replace("{run}", str(run)) for word in words]
    best = run / "checkpoints" / "best.pt"
    best.unlink()
    code, out, err = command(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "best.pt: damaged or missing: " in err
    torch.save({"weights": torch.zeros(3)}, best)
    code, out, err = command(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "not a checkpoint of this project: " in err


def test_weights_that_do_not_fit_the_model_are_an_error_in_one_line(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(train())
    monkeypatch.setattr(TinyTask, "hidden", 5)
    for words in (["evaluate", run], ["predict", run, INPUTS[0]]):
        code, out, err = command(*words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "the checkpoint does not fit this model: " in err
        assert "size mismatch for 0.weight" in err
        assert err.endswith("; --source run uses the run's own code\n")


def test_a_run_of_another_machine_is_evaluated_on_the_device_there_is(
    train: Train, command: Command
) -> None:
    run = train("device=cpu")
    config = run / "config.yaml"
    text = config.read_text(encoding="utf-8").replace("device: cpu", "device: cuda:77")
    config.write_text(text, encoding="utf-8")
    for words in (["evaluate", str(run)], ["predict", str(run), INPUTS[0]]):
        code, _, err = command(*words)
        assert code == 0, err


@pytest.mark.parametrize("words", [["evaluate"], ["reproduce"], ["train", "--resume"]])
def test_nothing_is_written_outside_of_the_project_though_the_config_of_a_run_says_so(
    train: Train,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
) -> None:
    monkeypatch.setattr(record, "CACHED_BYTES", 1)  # so that hashes of data are kept in a file
    monkeypatch.setattr(TinyTask, "file", tmp_path / "mine.csv")
    TinyTask.file.write_text("1\n", encoding="utf-8")
    run = train("trainer.epochs=1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    config = run / "config.yaml"
    here = str(tmp_path / "runs")
    text = config.read_text(encoding="utf-8")
    assert here in text
    config.write_text(text.replace(here, str(elsewhere)), encoding="utf-8")
    if "--resume" in words:  # as if it had been killed
        (run / "result.json").unlink()
    (run.parent / ".fingerprints.json").unlink()
    code, _, err = command(*words, str(run))
    assert code == 0, err
    assert list(elsewhere.iterdir()) == []
    assert (run.parent / ".fingerprints.json").exists()


def test_the_step_is_that_of_the_weights_and_not_of_their_last_evaluation(
    train: Train, command: Command
) -> None:
    run = train("trainer.max_steps=1")
    state = checkpoint.load(run / "checkpoints" / "last.pt")
    state["trainer"]["step"] = 3
    torch.save(state, run / "checkpoints" / "last.pt")
    found = json.loads(command("evaluate", str(run), "--checkpoint", "last")[1])
    assert found["step"] == 3
