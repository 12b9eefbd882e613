"""What is logged is on disk at once, in each of its places."""

import errno
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.metadata import (  # type: ignore[import-untyped]
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
    parse_session_start_info_plugin_data,
)
from torch.utils.tensorboard import SummaryWriter

from {{ cookiecutter.__package_name }}.engine.logger import (
    LogError,
    Logger,
    LogWriteError,
    SilentLogger,
    null_if_not_finite,
)


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[Logger]:
    """A logger that is open in tmp_path."""
    logger = Logger()
    logger.open(tmp_path)
    yield logger
    logger.close()


def record(step: int, split: str = "train", **numbers: Any) -> dict[str, Any]:
    return {"step": step, "epoch": 1, "split": split, "lr": 0.1, **numbers}


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    if tag not in events.Tags()["scalars"]:
        return []
    return [(event.step, event.value) for event in events.Scalars(tag)]


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_crash_right_after_a_line_loses_nothing(tmp_path: Path, logger: Logger) -> None:
    logger.log(record(1, loss=0.5))
    assert lines(tmp_path)[0]["loss"] == 0.5  # read while the logger is still open


def test_numbers_of_torch_and_numpy_are_logged_as_numbers_and_none_as_null(
    tmp_path: Path, logger: Logger
) -> None:
    numbers: dict[str, Any] = {
        "tensor": torch.tensor(0.5),
        "double": numpy.float64(0.25),
        "count": numpy.int64(3),
        "array": numpy.array(2.0),
        "largest": 2**63 - 1,
        "nothing": None,
    }
    expected = {"tensor": 0.5, "double": 0.25, "count": 3, "array": 2.0, "nothing": None}
    expected["largest"] = 2**63 - 1
    assert logger.log(record(1, **numbers)).items() >= expected.items()
    assert lines(tmp_path)[0].items() >= expected.items()
    logger.state_dict()
    assert scalars(tmp_path, "tensor/train") == [(1, 0.5)]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("loss", "0.5", "loss: expected a number, found '0.5'"),
        ("loss", [0.5], r"loss: expected a number, found \[0\.5\]"),
        ("loss", {"a": 1}, "loss: expected a number, found {'a': 1}"),
        ("loss", torch.ones(1), r"loss: expected a number, found tensor\(\[1\.\]\)"),
        ("loss", 2**63, "loss: expected a number, found 9223372036854775808"),
        ("step", "1", "step: expected a number, found '1'"),
        ("step", None, "step: expected a number, found None"),
        ("split", 1, "split: expected a text, found 1"),
    ],
)
def test_what_is_no_number_is_refused_by_name_before_anything_is_written(
    tmp_path: Path, logger: Logger, name: str, value: Any, message: str
) -> None:
    logger.log(record(1, loss=0.5))
    with pytest.raises(LogError, match=message):
        logger.log({**record(2, loss=0.5), name: value})
    logger.state_dict()
    assert len(lines(tmp_path)) == 1
    assert scalars(tmp_path, "loss/train") == [(1, 0.5)]


def test_tensorboard_has_at_a_checkpoint_all_that_was_logged(
    tmp_path: Path, logger: Logger
) -> None:
    logger.log(record(1, loss=0.5))
    logger.state_dict()
    assert scalars(tmp_path, "loss/train") == [(1, 0.5)]
    assert len(list(tmp_path.glob("events.out.tfevents*"))) == 1


def test_log_returns_what_it_wrote(tmp_path: Path, logger: Logger) -> None:
    written = logger.log(record(1, loss=0.5, f1=math.nan))
    assert lines(tmp_path) == [written]
    assert written["f1"] is None
    assert written["time"] >= 0


def test_every_line_is_json_even_with_values_that_are_not_finite(
    tmp_path: Path, logger: Logger
) -> None:
    logger.log(record(1, loss=math.nan, f1=math.inf))
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    line = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (line["loss"], line["f1"]) == (None, None)
    # TensorBoard has what a resumed run would show, which reads the line.
    logger.close()
    assert all(math.isnan(scalars(tmp_path, f"{name}/train")[0][1]) for name in ("loss", "f1"))


def test_numbers_that_are_not_finite_become_null_at_any_depth() -> None:
    value = {"a": [1.5, math.nan, [-math.inf]], "b": "nan", "c": 3, "d": True}
    assert null_if_not_finite(value) == {"a": [1.5, None, [None]], "b": "nan", "c": 3, "d": True}


def test_a_log_continues_without_repeats_or_gaps(tmp_path: Path) -> None:
    logger = Logger()
    logger.open(tmp_path)
    for step in (1, 2, 3):
        logger.log(record(step, loss=float(step)))
        if step == 2:
            state = logger.state_dict()
    logger.log(record(3, "val", loss=30.0))
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


def test_tensorboard_shows_what_the_log_holds_after_a_test_line_of_an_earlier_step_is_removed(
    tmp_path: Path,
) -> None:
    logger = Logger()
    logger.open(tmp_path)
    for step in (1, 2, 3):
        logger.log(record(step, loss=float(step)))
        logger.log(record(step, "val", loss=10.0 * step, f1=math.nan))
    state = logger.state_dict()
    logger.log(record(1, "test", loss=100.0))  # of the best weights, which are those of step 1
    logger.close()
    for _ in range(2):  # stopped twice, at the same checkpoint
        logger = Logger()
        logger.open(tmp_path)
        logger.load_state_dict(state)
        logger.log(record(4, loss=4.0))
        logger.log(record(4, "val", loss=40.0, f1=0.5))
        logger.log(record(4, "test", loss=400.0))
        logger.close()
    for split in ("train", "val", "test"):
        held = [(line["step"], line["loss"]) for line in lines(tmp_path) if line["split"] == split]
        assert scalars(tmp_path, f"loss/{split}") == held
    assert [line["step"] for line in lines(tmp_path)] == [1, 1, 2, 2, 3, 3, 4, 4, 4]
    values = dict(scalars(tmp_path, "f1/val"))
    assert (math.isnan(values[3]), values[4]) == (True, 0.5)


def test_a_log_can_go_back_to_its_beginning(tmp_path: Path, logger: Logger) -> None:
    logger.log(record(5, loss=5.0))
    logger.load_state_dict({"bytes": 0, "seconds": 0.0})
    logger.log(record(9, loss=9.0))
    assert [line["step"] for line in lines(tmp_path)] == [9]
    logger.state_dict()  # writes what TensorBoard's file lacks
    assert scalars(tmp_path, "loss/train") == [(9, 9.0)]


def test_the_name_of_an_event_file_does_not_have_the_name_of_the_computer(
    tmp_path: Path, logger: Logger
) -> None:
    logger.log(record(1, loss=1.0))
    (path,) = tmp_path.glob("events.out.tfevents.*")
    assert re.fullmatch(r"events\.out\.tfevents\.\d+\.run\.\d+\.\d+", path.name)


def test_a_state_is_taken_when_tensorboard_has_written_all_of_it(
    logger: Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger.log(record(1, loss=1.0))
    assert logger._board is not None
    flushed: list[str] = []
    monkeypatch.setattr(logger._board.writer, "flush", lambda: flushed.append("all"))
    logger.state_dict()
    assert flushed == ["all"]


def test_the_half_line_of_a_crash_is_removed(tmp_path: Path, logger: Logger) -> None:
    logger.log(record(1, loss=1.0))
    state = logger.state_dict()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "lo')
    logger.load_state_dict(state)
    logger.log(record(2, loss=2.0))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    logger.state_dict()  # writes what TensorBoard's file lacks
    assert scalars(tmp_path, "loss/train") == [(1, 1.0), (2, 2.0)]


def test_event_files_that_follow_each_other_have_names_in_the_order_of_their_making(
    tmp_path: Path,
) -> None:
    names: list[str] = []
    for step in (1, 2, 3):
        logger = Logger()
        logger.open(tmp_path)
        logger.log(record(step, loss=1.0))
        logger.close()
        new = {path.name for path in tmp_path.glob("events.out.tfevents*")} - set(names)
        names += new
    assert names == sorted(names)
    seconds = [name.split(".")[3] for name in names]
    assert len(set(seconds)) == 3


def test_a_log_that_was_cut_back_knows_its_length(logger: Logger) -> None:
    logger.log(record(1, loss=1.0))
    state = logger.state_dict()
    logger.log(record(2, loss=1.0))
    logger.load_state_dict(state)
    assert logger.state_dict()["bytes"] == state["bytes"] > 0


def test_the_time_has_milliseconds(logger: Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    logger.load_state_dict({"bytes": 0, "seconds": 0.0})
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now)
    logger.load_state_dict({"bytes": 0, "seconds": 1.23456})
    assert logger.log(record(1))["time"] == 1.235
    assert logger.state_dict()["seconds"] == pytest.approx(1.23456)


def test_tensorboard_gets_what_was_logged_at_least_every_ten_seconds(
    logger: Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: list[int] = []

    class Noted(SummaryWriter):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            seconds.append(options["flush_secs"])
            super().__init__(*arguments, **options)

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", Noted)
    logger.log(record(1, loss=1.0))
    assert [0 < every <= 10 for every in seconds] == [True]


def test_time_goes_on_from_the_checkpoint(logger: Logger) -> None:
    logger.load_state_dict({"bytes": 0, "seconds": 1000.0})
    assert 1000 <= logger.log(record(1))["time"] < 1100
    assert 1000 <= logger.state_dict()["seconds"] < 1100


def test_a_log_that_is_shorter_than_its_checkpoint_says_is_refused(
    tmp_path: Path, logger: Logger
) -> None:
    logger.log(record(1, loss=1.0))
    size = logger.state_dict()["bytes"]
    expected = rf"metrics\.jsonl: expected the 99999 bytes .*, found {size}"
    with pytest.raises(LogError, match=expected):
        logger.load_state_dict({"bytes": 99999, "seconds": 0.0})
    assert len(lines(tmp_path)) == 1


def test_a_log_with_something_else_in_it_is_refused_with_its_line(
    tmp_path: Path, logger: Logger
) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "split": "val"}\nhello\n', encoding="utf-8"
    )
    state = logger.state_dict()
    with pytest.raises(LogError, match=r"metrics\.jsonl:2: expected a JSON object with a step"):
        logger.load_state_dict(state)


def tensors(folder: Path, tag: str) -> list[tuple[int, bytes]]:
    """The steps and contents that TensorBoard's server has of a tag.

    There, what comes later replaces what has the same or a later step.
    """
    events = EventAccumulator(str(folder), {"tensors": 0})
    events.Reload()
    found: list[tuple[int, bytes]] = []
    for event in events.Tensors(tag):
        found = [pair for pair in found if pair[0] < event.step]
        found.append((event.step, event.tensor_proto.string_val[0]))
    return found


def texts(folder: Path, tag: str) -> list[tuple[int, str]]:
    """The steps and texts that TensorBoard shows under a tag."""
    return [(step, content.decode()) for step, content in tensors(folder, tag)]


def layouts(folder: Path) -> list[tuple[int, dict[str, dict[str, list[str]]]]]:
    """The steps of the layouts that TensorBoard has, with the patterns of each chart."""
    found = []
    for step, content in tensors(folder, "custom_scalars__config__"):
        layout = layout_pb2.Layout.FromString(content)
        charts = {
            category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
            for category in layout.category
        }
        found.append((step, charts))
    return found


def options_of(folder: Path) -> tuple[dict[str, Any], bool]:
    """The options in TensorBoard's table of runs, and whether the run is finished."""
    events = EventAccumulator(str(folder))
    events.Reload()
    content = events.PluginTagToContent("hparams")
    start = parse_session_start_info_plugin_data(content[SESSION_START_INFO_TAG])
    options = {}
    for name, value in start.hparams.items():
        options[name] = value.number_value or value.string_value
    return options, SESSION_END_INFO_TAG in content


TEXT = "lr: 0.5\ntags: [a, b]\n"
OPTIONS = {"lr": 0.5, "model.tags": ["a", "b"], "is_new": True, "x": "y"}


def test_one_chart_has_all_splits_of_a_quantity(tmp_path: Path, logger: Logger) -> None:
    logger.log(record(1, loss=1.0, rate=5.0, grad_norm=2.0, memory=1.5))
    logger.log(record(2, loss=1.0, rate=5.0, grad_norm=2.0, memory=1.5))
    logger.log(record(2, "val", loss=1.0, f1=0.5))
    logger.log(record(3, "val", loss=1.0, f1=0.5))
    logger.close()
    shared = {"loss": [r"loss(/|$)"], "f1": [r"f1(/|$)"]}
    alone = {"learning rate": [r"lr(/|$)"], "samples a second": [r"rate(/|$)"]}
    alone["gradient norm"] = [r"grad_norm(/|$)"]
    alone["peak memory of the GPU, GB"] = [r"memory(/|$)"]
    assert layouts(tmp_path) == [(2, {"train, val and test": shared, "training": alone})]
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
    for pattern, matches in [("loss(/|$)", {"loss/train", "loss/val"}), ("lr(/|$)", {"lr"})]:
        assert {tag for tag in tags if re.match(pattern, tag)} == matches
    assert [step for step, _ in scalars(tmp_path, "lr")] == [1, 2]
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_the_config_is_shown_as_text_and_as_a_row_of_the_table_of_runs(
    tmp_path: Path, logger: Logger
) -> None:
    logger.describe(TEXT, OPTIONS)
    logger.log(record(1, loss=1.0))
    logger.state_dict()
    assert texts(tmp_path, "config/text_summary") == [(0, "    lr: 0.5\n    tags: [a, b]")]
    options = {"lr": 0.5, "model.tags": '["a", "b"]', "is_new": "true", "x": "y"}
    assert options_of(tmp_path) == (options, False)
    logger.finish(1)
    logger.close()
    assert options_of(tmp_path) == (options, True)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_page_is_texts_and_pictures(tmp_path: Path, logger: Logger) -> None:
    logger.log(record(1, loss=1.0))
    picture = torch.full((3, 4, 5), 7, dtype=torch.uint8)
    logger.show(1, {"test/words": "**bold**", "test/picture": picture})
    logger.close()
    assert texts(tmp_path, "test/words/text_summary") == [(1, "**bold**")]
    (event,) = EventAccumulator(str(tmp_path)).Reload().Images("test/picture")
    assert (event.step, event.width, event.height) == (1, 5, 4)


@pytest.mark.parametrize(("at", "best"), [(0, 2), (1, 2), (3, 2), (3, 4), (4, 2), (4, 4)])
def test_a_log_that_continues_is_shown_with_one_layout_its_config_and_one_page(
    tmp_path: Path, at: int, best: int
) -> None:
    """It was stopped twice after `at` lines, each time with another config."""
    records = [
        record(1, loss=1.0),
        record(2, loss=0.5),
        record(2, "val", loss=2.0),
        record(4, loss=0.25),
        record(4, "val", loss=1.0),
        record(best, "test", loss=3.0),
    ]
    state = {"bytes": 0, "seconds": 0.0}
    for attempt in range(3):
        logger = Logger()
        logger.open(tmp_path)
        logger.describe(f"attempt: {attempt}", {"attempt": 1})
        if attempt:
            logger.load_state_dict(state)
        for number, line in enumerate(records):
            if attempt and number < at:
                continue
            if number == at and not attempt:
                state = logger.state_dict()
            logger.log(line)
        logger.show(best, {"page": f"attempt {attempt}"})
        logger.finish(4)
        logger.close()
    assert len(layouts(tmp_path)) == 1
    assert layouts(tmp_path)[0][0] == 2
    shown = texts(tmp_path, "config/text_summary")
    first = [] if at == 0 else [(0, "    attempt: 0")]
    resumed = min(best, records[at - 1]["step"]) if at else 0
    assert shown == [*first, (resumed, "    attempt: 2")]
    assert texts(tmp_path, "page/text_summary") == [(best, "attempt 2")]
    assert options_of(tmp_path) == ({"attempt": 1.0}, True)


def test_without_tensorboard_nothing_of_it_is_written(tmp_path: Path) -> None:
    program = f"import sys; sys.path[:] = {sys.path!r}\n"
    program += f"from pathlib import Path\nfrom {Logger.__module__} import Logger, LoggerConfig\n"
    program += "logger = Logger(LoggerConfig(tensorboard=False))\n"
    program += f"logger.open(Path({str(tmp_path)!r}))\n"
    program += "for split in ('train', 'val'):\n"
    program += "    logger.log({'step': 1, 'epoch': 1, 'split': split, 'loss': 1.0})\n"
    program += "logger.load_state_dict(logger.state_dict())\n"
    program += "logger.show(1, {'page': 'text'}); logger.finish(1); logger.close()\n"
    program += "assert 'tensorboard' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_on_cuda_lines_of_training_have_the_most_memory_that_was_used(
    logger: Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "memory" not in logger.log(record(1))
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 1_234_567_890)
    assert logger.log(record(2))["memory"] == 1.235
    assert "memory" not in logger.log(record(2, "val"))


def test_a_tracker_gets_each_line_and_those_of_before_when_the_log_continues(
    tmp_path: Path, logger: Logger
) -> None:
    sent: list[dict[str, Any]] = []
    logger.send_to(sent.append)
    logger.log(record(1, loss=1.0))
    state = logger.state_dict()
    logger.log(record(2, loss=math.nan))
    assert sent == lines(tmp_path)
    assert sent[1]["loss"] is None
    sent.clear()
    logger.load_state_dict(state)
    logger.log(record(2, loss=2.0))
    assert sent == lines(tmp_path)
    assert [line["loss"] for line in sent] == [1.0, 2.0]


def test_a_tracker_that_fails_ends_no_run(
    tmp_path: Path, logger: Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def fail(line: dict[str, Any]) -> None:
        calls.append(line["step"])
        raise ConnectionError("no route")

    logger.send_to(fail)
    for step in (1, 2):
        logger.log(record(step, loss=1.0))
    assert calls == [1]
    assert len(lines(tmp_path)) == 2
    assert capsys.readouterr().err == (
        "warning: tracker: ConnectionError: no route: nothing more is sent until the run is "
        "resumed\n"
    )


def test_off_a_terminal_there_is_no_bar_and_few_lines(
    logger: Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in logger.track(range(100), epoch=1, start=0, total=100):
        logger.log(record(step, loss=0.5))
    logger.log(record(100, "val", loss=0.25, accuracy=0.75))
    out, err = capsys.readouterr()
    assert out == ""
    assert "\r" not in err
    assert err.splitlines() == ["epoch 1   step 100    val    loss 0.2500  accuracy 0.7500"]
    logger.log({**record(7, "val", loss=12345.67891, rate=3.5, memory=1.5), "epoch": 12})
    expected = "epoch 12  step 7      val    loss 12,345.6789  rate 3.5000  memory 1.5000\n"
    assert capsys.readouterr().err == expected


def test_on_a_terminal_a_bar_shows_epoch_rate_loss_and_time_left(
    logger: Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    steps = logger.track(range(3), epoch=7, start=2, total=5)
    for step in steps:
        logger.log(record(step, loss=0.123456))
    err = capsys.readouterr().err
    assert "\r" in err
    assert "epoch 7" in err
    assert "5/5" in err  # entered after 2 of 5 steps
    assert "loss 0.1235" in err
    assert "it/s" in err or "s/it" in err


def test_plain_lines_on_train_come_now_and_then(
    logger: Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger.log(record(1, loss=0.5))
    assert capsys.readouterr().err == ""
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 11)
    for step in (2, 3):
        logger.log(record(step, loss=0.5))
    assert capsys.readouterr().err == "epoch 1   step 2      train  loss 0.5000\n"


def test_info_goes_to_stderr_so_that_stdout_holds_results_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Logger().info("hello")
    assert capsys.readouterr() == ("", "hello\n")


class Gone:
    """A console whose other end was closed."""

    def write(self, text: str) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def flush(self) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def isatty(self) -> bool:
        return False


class Closed(Gone):
    """A console that this process itself has closed."""

    def write(self, text: str) -> None:
        raise ValueError("I/O operation on closed file.")


@pytest.mark.parametrize("console", [Gone(), Closed(), None])
def test_training_goes_on_when_the_console_goes_away(
    tmp_path: Path,
    logger: Logger,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    console: Any,
) -> None:
    monkeypatch.setattr(sys, "stderr", console)
    for step in logger.track(range(2), epoch=1, start=0, total=2):
        logger.log(record(step, "val", loss=1.0))
    logger.info("done")
    assert len(lines(tmp_path)) == 2
    assert capsys.readouterr().out == ""


def test_a_full_disk_is_an_error_of_one_line_and_the_log_can_be_closed_and_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    logger = Logger()
    logger.open(tmp_path)
    logger.log(record(1, loss=1.0))
    state = logger.state_dict()
    with monkeypatch.context() as patch:
        full_disk = type("Full", (), {"add_scalar": full, "close": full})()
        patch.setattr(logger._board, "writer", full_disk)
        with pytest.raises(LogWriteError, match=r"metrics\.jsonl: cannot be written: .*No space"):
            logger.log(record(2, loss=2.0))
        logger.close()
    logger = Logger()
    logger.open(tmp_path)
    logger.load_state_dict(state)
    logger.log(record(2, loss=20.0))
    logger.close()
    assert [line["loss"] for line in lines(tmp_path)] == [1.0, 20.0]
    assert (LogError.exit_code, LogWriteError.exit_code) == (2, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device on this system")
def test_a_line_that_does_not_fit_on_the_disk_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    logger = Logger()
    logger.open(tmp_path)
    with pytest.raises(LogWriteError, match="No space left on device"):
        logger.log(record(1, loss=1.0))
    logger.close()


def test_what_a_checkpoint_counts_on_is_synced_to_disk(
    tmp_path: Path, logger: Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    logger.log(record(1, loss=1.0))
    monkeypatch.setattr("os.fsync", lambda number: synced.append(os.fstat(number).st_ino))
    logger.state_dict()
    assert synced == [(tmp_path / "metrics.jsonl").stat().st_ino]

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(LogWriteError, match=r"metrics\.jsonl: cannot be written: .*No space"):
        logger.state_dict()


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked on Windows")
def test_a_run_that_another_process_writes_to_is_refused(tmp_path: Path) -> None:
    program = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'a+')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "metrics.jsonl")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8") as other:
        assert other.stdin and other.stdout
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(LogError, match="another process is writing to this run"):
            Logger().open(tmp_path)
        other.stdin.close()
    logger = Logger()
    logger.open(tmp_path)
    logger.close()


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked on Windows")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.lockf", refuse)
    logger = Logger()
    logger.open(tmp_path)
    logger.log(record(1, loss=1.0))
    logger.close()
    err = capsys.readouterr().err
    assert err.count("warning: ") == 1
    assert "this file system has no locks" in err
    assert len(lines(tmp_path)) == 1


def test_a_log_that_cannot_be_opened_or_is_not_open_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"metrics\.jsonl: cannot be opened: No such file"):
        Logger().open(tmp_path / "none")
    with pytest.raises(LogError, match="the log is not open"):
        Logger().log(record(1))
    Logger().close()


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked on Windows")
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_is_taken_is_an_error_whatever_the_system_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.lockf", refuse)
    with pytest.raises(LogError, match="another process is writing to this run"):
        Logger().open(tmp_path)


def test_a_closed_logger_lets_go_of_the_loader(
    logger: Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logger.track(range(3), epoch=1, start=0, total=3)
    assert logger._bar is not None
    logger.close()
    assert logger._bar is None


def test_a_silent_logger_does_nothing_that_a_logger_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = SilentLogger()
    silent.open(tmp_path)
    steps = [1, 2]
    assert silent.track(steps, epoch=1, start=0, total=2) is steps
    assert silent.log(record(1, loss=1.0)) == record(1, loss=1.0)
    silent.info("hello")
    silent.close()
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    public = {name for name in vars(Logger) if not name.startswith("_")}
    # These the first process alone needs.
    assert public - set(dir(silent)) == {"seconds", "state_dict", "load_state_dict"}


def test_torch_is_imported_only_when_something_is_logged() -> None:
    program = f"import sys; sys.path[:] = {sys.path!r}\nimport {Logger.__module__}\n"
    program += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
