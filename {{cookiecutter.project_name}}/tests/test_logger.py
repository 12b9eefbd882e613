"""What is logged is on disk at once, in each of its places."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from {{ cookiecutter.__package_name }}.logger import Logger


def record(step: int, **numbers: Any) -> dict[str, Any]:
    return {"step": step, "epoch": 1, "split": "train", "lr": 0.1, **numbers}


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_crash_right_after_a_line_loses_nothing(tmp_path: Path) -> None:
    logger = Logger()
    logger.open(tmp_path)
    logger.log(record(1, loss=0.5))
    assert lines(tmp_path)[0]["loss"] == 0.5  # read while the logger is still open
    assert scalars(tmp_path, "loss/train") == [(1, 0.5)]
    assert len(list(tmp_path.glob("events.out.tfevents*"))) == 1
    logger.close()


def test_every_line_is_json_even_with_values_that_are_not_finite(tmp_path: Path) -> None:
    logger = Logger()
    logger.open(tmp_path)
    logger.log(record(1, loss=math.nan, f1=math.inf))
    logger.close()
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    line = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (line["loss"], line["f1"]) == (None, None)


def test_the_log_is_cut_back_and_goes_on_without_repeats_or_gaps(tmp_path: Path) -> None:
    logger = Logger()
    logger.open(tmp_path)
    for step in (1, 2, 3):
        logger.log(record(step, loss=float(step)))
        if step == 2:
            state = logger.state_dict()
    logger.log({**record(3, loss=30.0), "split": "val"})
    logger.close()
    logger = Logger()
    logger.open(tmp_path)
    logger.load_state_dict(state)
    for step in (3, 4):
        logger.log(record(step, loss=float(step)))
    logger.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert scalars(tmp_path, "loss/train") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert scalars(tmp_path, "loss/val") == []


def test_off_a_terminal_there_is_no_bar_and_few_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = Logger()
    logger.open(tmp_path)
    for step in logger.track(range(100), 1, 0, 100):
        logger.log(record(step, loss=0.5))
    logger.log({**record(100, loss=0.25, accuracy=0.75), "split": "val"})
    logger.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert "\r" not in err
    assert err.splitlines() == ["epoch 1   step 100    val    loss 0.2500  accuracy 0.7500"]


def test_on_a_terminal_a_bar_shows_epoch_rate_loss_and_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logger = Logger()
    logger.open(tmp_path)
    steps = logger.track(range(3), 7, 2, 5)
    for step in steps:
        logger.log(record(step, loss=0.123456))
    logger.close()
    err = capsys.readouterr().err
    assert "\r" in err
    assert "epoch 7" in err
    assert "5/5" in err  # entered after 2 of 5 steps
    assert "loss 0.1235" in err
    assert "it/s" in err or "s/it" in err


def test_a_log_that_was_cut_back_knows_its_length(tmp_path: Path) -> None:
    logger = Logger()
    logger.open(tmp_path)
    logger.log(record(1, loss=1.0))
    state = logger.state_dict()
    logger.log(record(2, loss=1.0))
    logger.load_state_dict(state)
    assert logger.state_dict()["bytes"] == state["bytes"] > 0
    logger.close()


def test_plain_lines_on_train_come_now_and_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = Logger()
    logger.open(tmp_path)
    logger.shown -= 3600
    for step in (1, 2):
        logger.log(record(step, loss=0.5))
    logger.close()
    assert capsys.readouterr().err == "epoch 1   step 1      train  loss 0.5000\n"


def test_what_a_checkpoint_counts_on_is_synced_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    logger = Logger()
    logger.open(tmp_path)
    logger.log(record(1, loss=1.0))
    logger.state_dict()
    assert synced == [logger.file.fileno()]
    logger.close()
