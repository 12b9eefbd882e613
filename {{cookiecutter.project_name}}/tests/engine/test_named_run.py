"""`train --run NAME` starts a run, continues it, or says that it is finished."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command, assert_same_run

from {{ cookiecutter.__package_name }}.engine import record
from {{ cookiecutter.__package_name }}.engine.logger import Logger
from {{ cookiecutter.__package_name }}.engine.trainer import Trainer

Named = Callable[..., tuple[int, str, str]]
TINY = Path(__file__).with_name("tiny.py")


@pytest.fixture
def named(command: Command, empty_config: Path) -> Named:
    """Type `train --run one` with these words; get the exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        config = [] if any(word.endswith(".yaml") for word in words) else [str(empty_config)]
        return command("train", *config, "--run", "one", "output_dir={tmp}/runs", *words)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


def stop_at_step(step: int, patch: pytest.MonkeyPatch) -> None:
    """Let SIGTERM come in a step."""
    train_step = Trainer.train_step

    def interrupted(trainer: Trainer, *arguments: object) -> None:
        train_step(trainer, *arguments)  # type: ignore[arg-type]
        if trainer.step == step:
            signal.raise_signal(signal.SIGTERM)

    patch.setattr(Trainer, "train_step", interrupted)


def test_the_same_command_starts_continues_and_then_says_that_the_run_is_finished(
    named: Named, train: Callable[..., Path], folder: Path
) -> None:
    whole = train("trainer.epochs=3", "trainer.log_every=1")
    words = ("trainer.epochs=3", "trainer.log_every=1")
    for step in (2, 7):
        with pytest.MonkeyPatch.context() as patch:
            stop_at_step(step, patch)
            assert named(*words)[0] == 143
        assert record.read(folder / "result.json")["steps"] == step
    code, out, err = named(*words)
    assert (code, out.strip()) == (0, str(folder)), err
    assert [entry["step"] for entry in record.read(folder / "manifest.json")["resumes"]] == [2, 7]
    assert_same_run(whole, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out, err = named(*words)
    assert (code, out.strip()) == (0, str(folder))
    assert err.splitlines() == [f"{folder}: this run is finished"]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_another_config_is_refused_with_the_options_that_differ(named: Named, folder: Path) -> None:
    assert named("optim.lr=0.02", "trainer.epochs=1")[0] == 0
    before = (folder / "config.yaml").read_bytes()
    code, out, err = named("seed=3", "trainer.epochs=1")
    assert (code, out) == (2, "")
    assert "this run has another config: seed was 0, and is 3; optim.lr was 0.02, and is " in err
    assert "epochs" not in err
    assert f"--resume {folder}" in err
    assert (folder / "config.yaml").read_bytes() == before


def test_what_leaves_the_run_as_it_is_may_differ(named: Named, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at_step(1, patch)
        assert named("trainer.micro_batches=0", "loader.num_workers=1")[0] == 143
    assert named("trainer.micro_batches=0", "name=other", "device=cpu:0")[0] == 0
    config = (folder / "config.yaml").read_text("utf-8")
    assert "num_workers: 0" in config
    assert "device: 'cpu:0'" in config
    assert "name: baseline" in config


@pytest.mark.parametrize("name", ["manifest.json", "data.sha256", "config.yaml"])
def test_a_run_that_was_killed_while_its_folder_was_made_starts(
    named: Named, folder: Path, name: str
) -> None:
    write = record.write

    def fail(path: Path, content: object) -> None:
        if path.name == name:
            raise KeyboardInterrupt
        write(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "write", fail)
        assert named()[0] == 130
    assert folder.exists()
    stale = folder / "source" / "gone.py"
    stale.parent.mkdir(exist_ok=True)
    stale.touch()
    (folder / "requirements.txt.tmp").touch()  # as a kill leaves it
    assert named()[0] == 0
    assert record.read(folder / "result.json")["status"] == "finished"
    assert not stale.exists()


def test_a_folder_with_other_files_is_refused(named: Named, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").touch()
    code, _, err = named()
    assert code == 2
    assert f"--run: {folder} is not the folder of a run: it has thesis.tex" in err
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "-x y", "a\nb", "\u00e9", "x" * 201])
def test_a_name_that_is_none_of_a_folder_is_refused(command: Command, name: str) -> None:
    code, _, err = command("train", f"--run={name}", "output_dir={tmp}/runs")
    assert code == 2
    assert "--run: expected a name of at most 200 letters, digits, dots, underscores and hy" in err


@pytest.mark.parametrize("has_begun", [True, False])
def test_of_two_at_once_one_runs_and_the_other_is_told(
    named: Named, folder: Path, has_begun: bool
) -> None:
    folder.mkdir(parents=True)
    if has_begun:
        assert named("trainer.epochs=1")[0] == 0
        (folder / "result.json").unlink()
    script = (
        "import fcntl, sys; log = open(sys.argv[1], 'a'); fcntl.lockf(log, fcntl.LOCK_EX); "
        "print(flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(folder / "metrics.jsonl")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    holder.stdout.readline()
    try:
        code, _, err = named("trainer.epochs=1")
        assert code == 2
        assert f"{folder}: another process is writing to this run" in err
    finally:
        holder.communicate(b"\n")


def test_a_run_that_another_process_has_begun_meanwhile_is_left_alone(
    named: Named, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_log = Logger.open

    def open_late(logger: Logger, path: Path) -> None:
        open_log(logger, path)
        (path / "config.yaml").write_text("seed: 7\n", encoding="utf-8")

    monkeypatch.setattr(Logger, "open", open_late)
    code, _, err = named()
    assert code == 2
    assert "another process has begun this run meanwhile" in err
    assert (folder / "config.yaml").read_text("utf-8") == "seed: 7\n"


def test_a_run_that_began_from_other_weights_is_refused(
    named: Named, train: Callable[..., Path], folder: Path
) -> None:
    parents = [train("trainer.epochs=1", f"seed={seed}") for seed in (1, 2)]
    words = ("--init-from", str(parents[0]), "trainer.epochs=1")
    assert named(*words)[0] == 0
    assert named(*words)[2].endswith("this run is finished\n")
    code, _, err = named("--init-from", str(parents[1]), "trainer.epochs=1")
    assert code == 2
    assert f"this run began from {os.path.relpath(parents[0])}" in err
    assert "and is to begin from " in err
    assert "and is to begin from new weights" in named("trainer.epochs=1")[2]


def test_resume_and_run_are_not_both_allowed(command: Command, train: Callable[..., Path]) -> None:
    run = train("trainer.epochs=1")
    code, _, err = command("train", "--run", "one", "--resume", str(run))
    assert code == 2
    assert "--resume continues a run with its own config" in err


@pytest.mark.skipif(sys.platform == "win32", reason="a loop of a POSIX shell")
def test_a_sweep_that_is_killed_twice_ends_as_if_it_had_not_been(
    tmp_path: Path, command: Command
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("trainer:\n  epochs: 40\n  log_every: 4\n", encoding="utf-8")
    rates = ("0.003", "0.01")
    for lr in rates:
        words = ("train", str(config), "--run", lr, "output_dir={tmp}/whole", f"optim.lr={lr}")
        assert command(*words)[0] == 0
    program = shlex.join([sys.executable, "-u", str(TINY), "train", str(config)])
    output = shlex.quote(f"output_dir={tmp_path / 'part'}")
    loop = (
        f"for lr in {' '.join(rates)}; do {program} --run $lr {output} optim.lr=$lr || exit; done"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(record.__file__).parents[2])}
    for killed in (*rates, ""):
        sweep = subprocess.Popen(
            ["sh", "-c", loop], env=environment, start_new_session=True, cwd=tmp_path
        )
        if not killed:
            assert sweep.wait() == 0
            break
        log = tmp_path / "part" / killed / "metrics.jsonl"
        while not log.exists() or log.stat().st_size < 500:
            assert sweep.poll() is None
            time.sleep(0.01)
        os.killpg(sweep.pid, signal.SIGKILL)
        sweep.wait()
        assert not (log.parent / "result.json").exists()
    for lr in rates:
        assert_same_run(tmp_path / "whole" / lr, tmp_path / "part" / lr)
        manifest = record.read(tmp_path / "part" / lr / "manifest.json")
        assert len(manifest["resumes"]) == 1
