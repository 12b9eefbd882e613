"""The command line answers quickly, and on the right stream."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from conftest import Command, read_log

from {{ cookiecutter.__package_name }} import __main__ as command_line
from {{ cookiecutter.__package_name }}.engine import record
from {{ cookiecutter.__package_name }}.train import load_config

SOURCE = Path(command_line.__file__).parents[1]
PACKAGE = command_line.__package__ or ""


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    "words",
    [["--help"], ["train", "--help"], ["train", "none.yaml"], ["evaluate", "none"], ["runs"]],
)
def test_help_and_missing_files_answer_without_importing_torch(words: list[str]) -> None:
    result = python("-X", "importtime", "-m", PACKAGE, *words)
    assert result.returncode in (0, 2)
    assert PACKAGE in result.stderr  # the times of imports are there to be searched
    assert not re.search(r"\| +torch$", result.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    "words", [[], ["fly"], ["predict", "x"], ["evaluate", "x", "--split", "a"]]
)
def test_a_wrong_command_exits_with_2(command: Command, words: list[str]) -> None:
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert "usage:" in err


def test_config_prints_yaml_that_gives_the_same_config_when_it_is_read(
    command: Command, tmp_path: Path
) -> None:
    code, out, err = command("config")
    assert (code, err) == (0, "")
    path = tmp_path / "printed.yaml"
    path.write_text(out, encoding="utf-8")
    assert load_config(path) == load_config(None)
    assert load_config(None).loader.batch_size == 16  # as the task has it
    assert re.search(r"(?m)^  batch_size: 16 +# int.*: samples per step", out)
    assert all(out.split("\n")[:-1])  # no line is empty


def test_train_help_prints_the_options_in_the_default_config(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "default.yaml"
    path.write_text("name: mine  # str: an option\n", encoding="utf-8")
    monkeypatch.setattr(command_line, "DEFAULT", path)
    assert "name: mine  # str: an option\n" in command("train", "--help")[1]
    path.unlink()
    assert command("train", "--help")[0] == 0


def test_help_says_what_each_word_is(command: Command) -> None:
    usage = " ".join(command("train", "--help")[1].partition("\n\n")[0].split())
    for words in ("[--run NAME]", "[--resume RUN]", "[--init-from RUN]", "[--partial]"):
        assert words in usage
    assert "[CONFIG, section.key=value ...]" in usage
    for name in ("evaluate", "predict", "reproduce"):
        usage = " ".join(command(name, "--help")[1].partition("\n\n")[0].split())
        assert " RUN" in usage and "[--source {run,today}]" in usage


def test_help_shows_the_name_under_which_it_was_called(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for called, shown in (("bin/my-tool", "my-tool"), ("x/__main__.py", f"python -m {PACKAGE}")):
        monkeypatch.setattr(sys, "argv", [called])
        for words, usage in (([], "[-h] COMMAND"), (["train"], "train [-h]")):
            out = " ".join(command(*words, "--help")[1].split())  # long names are wrapped
            assert out.startswith(f"usage: {shown} {usage}")


def test_config_checks_a_file_that_the_command_has_written(
    command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "default.yaml"
    path.write_text(command("config")[1], encoding="utf-8", newline="\r\n")
    assert command("config", "--check", str(path)) == (0, "", "")
    for damage in (lambda: path.write_text("seed: 1", "utf-8"), path.unlink):
        damage()
        code, out, err = command("config", "--check", str(path))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.endswith(f"write it anew: python -m {PACKAGE} config > {path}\n")


def test_resume_takes_neither_a_config_nor_another_run(command: Command, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("", encoding="utf-8")
    for words in (["mine.yaml"], ["--init-from", "{tmp}"]):
        code, out, err = command("train", "--resume", "{tmp}", *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "error: --resume continues a run with its own config" in err


def test_resume_changes_only_what_leaves_the_run_the_same(command: Command, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("", encoding="utf-8")
    code, _, err = command("train", "--resume", "{tmp}", "seed=3")
    assert code == 2
    assert err.startswith("error: seed: cannot be changed on --resume")


def test_a_run_survives_ascii_streams_and_names_the_encoding_of_each_file(tmp_path: Path) -> None:
    warnings = ["-X", "warn_default_encoding", "-W", "error::EncodingWarning"]
    config = tmp_path / "empty.yaml"
    config.write_text("", encoding="utf-8")
    folder = tmp_path / "\uc774"
    words = ["train", str(config), f"output_dir={folder}", "trainer.max_steps=1"]
    result = python(*warnings, tiny.__file__, *words, PYTHONIOENCODING="ascii:strict")
    assert result.returncode == 0, result.stderr
    assert "\r" not in result.stderr
    assert result.stdout.isascii()


def test_words_and_options_of_train_come_in_any_order(command: Command, tmp_path: Path) -> None:
    config = tmp_path / "a=b.yaml"  # a file that exists is a file
    config.write_text("seed: 3", encoding="utf-8")
    options = ("output_dir={tmp}/runs", "--run", "one", "trainer.max_steps=1", "--verify-data")
    code, out, err = command("train", str(config), *options, "optim.lr=0.02")
    assert code == 0, err
    settings = load_config(Path(out.strip()) / "config.yaml")
    assert (settings.seed, settings.trainer.max_steps, settings.optim.lr) == (3, 1, 0.02)
    for text in ("train seed=1 --run two --fast", "config seed=1"):
        words = text.split()
        code, _, err = command(*words)
        assert code == 2
        assert f"unrecognized arguments: {words[-1]}" in err


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
@pytest.mark.parametrize(
    "streams", ["2>&1 | head -1", "2>&-", ">&-", ">&- 2>&- <&-", "2>&1 | true", "2>/dev/full"]
)
def test_a_console_that_goes_away_does_not_end_training(tmp_path: Path, streams: str) -> None:
    config = tmp_path / "empty.yaml"
    config.write_text("", encoding="utf-8")
    words = f"train {config} --run one output_dir={tmp_path}/runs trainer.log_every=1"
    subprocess.run(
        ["sh", "-c", f"{sys.executable} {tiny.__file__} {words} {streams}"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        check=True,
    )
    folder = tmp_path / "runs" / "one"
    assert record.read(folder / "result.json")["status"] == "finished"
    assert [line["step"] for line in read_log(folder, "train")] == [*range(1, 9)]


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
def test_a_stdin_that_is_closed_has_no_lines(command: Command, empty_config: Path) -> None:
    options = ("output_dir={tmp}/runs", "trainer.max_steps=1")
    code, out, err = command("train", str(empty_config), *options)
    assert code == 0, err
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} {tiny.__file__} predict {out.strip()} - <&-"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        encoding="utf-8",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
def test_a_terminal_that_is_closed_does_not_end_training_if_sighup_is_ignored(
    tmp_path: Path,
) -> None:
    import pty

    config = tmp_path / "empty.yaml"
    config.write_text("trainer: {log_every: 1, epochs: 4}", encoding="utf-8")
    master, terminal = pty.openpty()
    words = [tiny.__file__, "train", str(config), "--run", "one", f"output_dir={tmp_path}/runs"]
    process = subprocess.Popen(
        ["sh", "-c", 'trap \'\' HUP; exec "$0" "$@"', sys.executable, *words],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    )
    os.close(terminal)
    assert os.read(master, 1)  # it has begun to show what it does
    os.close(master)
    assert process.wait() == 0
    assert read_log(tmp_path / "runs" / "one", "test")


def test_only_the_first_process_prints_results(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for rank, is_first in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setattr(sys, "stdout", sys.stdout)  # restored afterwards
        code, out, _ = command("config")
        assert code == 0
        assert bool(out) is is_first


def test_of_several_processes_of_a_machine_the_first_one_shows_an_error(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank, local_rank, is_shown in (("0", "0", True), ("2", "0", True), ("1", "1", False)):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        code, _, err = command("evaluate", "{tmp}/none")
        assert code == 2
        assert err.startswith("error: ") is is_shown


def test_runs_lists_those_of_the_project_from_wherever_it_is_called(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "ROOT", tmp_path / "project")
    (tmp_path / "project" / "runs" / "mine" / "checkpoints").mkdir(parents=True)
    code, out, _ = command("runs")
    assert code == 0
    assert "mine" in out


def test_a_word_that_is_too_long_for_a_file_name_is_no_traceback(command: Command) -> None:
    long = "x" * 5000
    for words in (["train", f"fast={long}"], ["evaluate", long], ["train", "--init-from", long]):
        code, out, err = command(*words)
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_an_output_folder_that_no_shell_has_expanded_is_refused(
    command: Command, empty_config: Path
) -> None:
    for folder in ("${SCRATCH}/runs", "~nobody-of-this-name/runs"):
        code, _, err = command("train", str(empty_config), f"output_dir={folder}")
        assert code == 2
        assert err.startswith("error: output_dir: expected a folder, found ")


def test_control_characters_in_a_name_do_not_reach_the_terminal(command: Command) -> None:
    code, _, err = command("train", "a\x1b[2J\nb.yaml")
    assert (code, err.count("\n")) == (2, 1)
    assert r"error: a\x1b[2J\nb.yaml: expected a config file" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_output_that_cannot_be_written_is_an_error_of_one_line() -> None:
    words = f"{sys.executable} -m {PACKAGE} config > /dev/full"
    done = subprocess.run(
        ["sh", "-c", words],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 1
    assert done.stderr == "error: stdout: cannot be written: No space left on device\n"


def test_a_default_config_that_cannot_be_read_is_left_out_of_the_help(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "DEFAULT", tmp_path)  # a folder
    assert command("train", "--help")[0] == 0
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff")
    monkeypatch.setattr(command_line, "DEFAULT", tmp_path / "latin.yaml")
    assert command("train", "--help")[0] == 0


def test_the_file_itself_can_be_run_as_editors_do() -> None:
    done = python(str(command_line.__file__), "evaluate", "nothing", PYTHONPATH="")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nothing: not the folder of a run")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps the current folder")
def test_a_current_folder_that_is_gone_is_an_error_of_one_line(tmp_path: Path) -> None:
    words = f"mkdir gone; cd gone; rmdir ../gone; exec {sys.executable} -m {PACKAGE} runs"
    done = subprocess.run(
        ["sh", "-c", words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        encoding="utf-8",
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "error: the current folder is gone; change to one that exists",
    )


def test_a_notebook_can_call_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()  # a notebook's stream cannot be configured either
    monkeypatch.setattr(sys, "stdout", printed)
    assert command_line.main(["config"]) == 0
    assert "trainer:" in printed.getvalue()
