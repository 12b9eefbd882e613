"""What other systems do differently, imitated here: Windows, macOS, and newer Pythons.

On Windows and macOS workers are spawned, from Python 3.14 on Linux has a fork server; Windows has
drives, no `fcntl` and no process groups, and refuses to replace a file that a scanner reads.
"""

import builtins
import errno
import io
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, assert_same_run, read_log
from tiny import TinyTask

from {{ cookiecutter.__package_name }} import __main__ as command_line
from {{ cookiecutter.__package_name }} import runs
from {{ cookiecutter.__package_name }}.engine import logger, record
from {{ cookiecutter.__package_name }}.engine.loader import Loader, LoaderConfig
from {{ cookiecutter.__package_name }}.train import load_config

Train = Callable[..., Path]
Patch = pytest.MonkeyPatch


class Windows:
    """The module `sys` of Windows, as far as it is asked."""

    platform = "win32"

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


@pytest.fixture(params=["spawn", "forkserver"])
def start_method(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start workers as other systems do."""
    if request.param not in multiprocessing.get_all_start_methods():
        pytest.skip("this system has no such method")
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def inputs_of_epoch(workers: int) -> torch.Tensor:
    """What a loader gives in an epoch of samples that have random numbers added."""
    task = TinyTask(None, None, Path())
    task.is_noisy = True
    task.learn()
    options = LoaderConfig(batch_size=16, num_workers=workers)
    loader = Loader(task.datasets()["train"], options, shuffle=True)
    batches = [step.micro_batches[0].batch[0] for step in loader.steps_of_epoch(epoch=1)]
    return torch.cat(batches)


@pytest.mark.usefixtures("start_method")
def test_workers_that_are_not_forked_give_the_same_samples() -> None:
    assert torch.equal(inputs_of_epoch(workers=1), inputs_of_epoch(workers=0))


def test_runs_and_their_parents_may_be_on_another_drive(
    train: Train, command: Command, monkeypatch: Patch
) -> None:
    def no_way(*_: object) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr("os.path.relpath", no_way)
    parent = train("trainer.epochs=1")
    words = ("--run", "child", "--init-from", str(parent), "trainer.epochs=1")
    child = train(*words)
    assert record.read(child / "manifest.json")["parent"] == str(parent)
    (child / "result.json").unlink()
    assert train(*words) == child  # continues it
    code, out, err = command("runs", str(child.parent), "--json")
    assert code == 0, err
    assert f'"run": "{parent}"'.replace("\\", "\\\\") in out


def test_without_fcntl_and_process_groups_a_run_is_the_same(
    train: Train, command: Command, monkeypatch: Patch
) -> None:
    expected = train()
    monkeypatch.setitem(sys.modules, "fcntl", None)  # which makes its import fail
    monkeypatch.setattr(logger, "sys", Windows())
    monkeypatch.setattr(runs, "sys", Windows())
    monkeypatch.delattr(os, "setpgrp", raising=False)
    run = train()
    assert_same_run(run, expected)
    (run / "result.json").unlink()
    code, _, err = command("train", "--resume", str(run))
    assert code == 0, err
    assert command("runs", str(run.parent))[0] == 0


def test_files_that_cannot_be_replaced_at_once_are_replaced_later(
    train: Train, monkeypatch: Patch
) -> None:
    expected = train()
    replace = os.replace
    refused: set[str] = set()

    def held_once(source: Any, target: Any) -> None:
        if str(target) not in refused:
            refused.add(str(target))
            raise PermissionError(13, "Access is denied")
        replace(source, target)

    monkeypatch.setattr("os.replace", held_once)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    run = train()
    assert_same_run(run, expected)
    names = {Path(path).name for path in refused}
    assert names >= {"config.yaml", "manifest.json", "last.pt", "best.pt", "result.json"}


def make_read_only(folder: Path, monkeypatch: Patch) -> None:
    """Refuse whatever would change something in a folder, as a read-only file system does."""

    def is_in(path: Any) -> bool:
        return isinstance(path, str | Path) and Path(path).absolute().is_relative_to(folder)

    def refuse(owner: Any, name: str, changes: Callable[..., bool]) -> None:
        original = getattr(owner, name)

        def checked(*arguments: Any, **options: Any) -> Any:
            if is_in(arguments[0]) and changes(*arguments, **options):
                raise OSError(errno.EROFS, "Read-only file system", str(arguments[0]))
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, checked)

    for owner in (builtins, io):
        refuse(owner, "open", lambda _, mode="r", *__, **___: set(mode) & set("wax+") != set())
    for name in ("mkdir", "rename", "replace", "rmdir", "symlink", "truncate", "unlink", "utime"):
        refuse(os, name, lambda *_, **__: True)


def test_a_run_in_a_tree_that_is_read_only_is_evaluated_and_listed(
    train: Train, command: Command, empty_config: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    run = train("trainer.epochs=1")
    stopped = train("trainer.epochs=1")
    (stopped / "result.json").unlink()
    metrics = command("evaluate", str(run))
    example = TinyTask(None, None, tmp_path).example()
    make_read_only(tmp_path, monkeypatch)
    assert metrics[0] == 0 and command("evaluate", str(run)) == metrics
    assert command("predict", str(run), example)[0] == 0
    assert command("runs", str(run.parent))[0] == 0
    new = ["train", str(empty_config), "output_dir={tmp}/runs", "trainer.epochs=1"]
    for words in (new, [*new, "--run", "one"], ["train", "--resume", str(stopped)]):
        code, out, err = command(*words)
        *_, last = err.splitlines()
        assert (code, out) == (2, "")
        assert last.startswith("error: ") and "Read-only file system" in last


def test_line_ends_of_windows_in_a_config_change_nothing(tmp_path: Path) -> None:
    text = "seed: 3  # mine\noptim:\n  lr: 0.5\n"
    configs = []
    for name, content in (("unix", text), ("windows", text.replace("\n", "\r\n"))):
        (tmp_path / name).write_bytes(content.encode())
        configs.append(load_config(tmp_path / name))
    assert configs[0] == configs[1] != load_config(None)


def project_in(folder: Path, package: str = command_line.PACKAGE.name) -> Path:
    """A folder that looks like a project."""
    (folder / "src" / package).mkdir(parents=True)
    (folder / "pyproject.toml").write_text("", encoding="utf-8")
    return folder


def test_another_project_around_an_environment_is_not_taken_for_this_one(tmp_path: Path) -> None:
    mine = project_in(tmp_path / "mine")
    other = project_in(tmp_path / "other", package="another")
    installed = other / "venv" / "site-packages"
    (installed / command_line.PACKAGE.name).mkdir(parents=True)
    assert command_line.find_project(*installed.parents) is None
    assert command_line.find_project(other, mine / "runs", mine) == mine


def test_a_run_brings_its_project_along_where_there_is_no_other(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    mine = project_in(tmp_path / "mine")
    monkeypatch.setattr(command_line, "ROOT", tmp_path)
    assert command_line.root_of(mine / "runs" / "one") == tmp_path  # here is a project
    monkeypatch.setattr(command_line, "PROJECT", None)
    assert command_line.root_of(mine / "runs" / "one") == mine
    assert command_line.root_of(tmp_path / "runs" / "one") == tmp_path
    monkeypatch.setenv(command_line.ROOT_VARIABLE, str(tmp_path))
    assert command_line.root_of(mine / "runs" / "one") == tmp_path


def test_a_project_whose_default_config_is_gone_does_not_train(
    command: Command, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(command_line, "PROJECT", tmp_path)
    monkeypatch.setattr(command_line, "DEFAULT", tmp_path / "default.yaml")
    expected = f"error: {tmp_path / 'default.yaml'}: expected a config file, found: No such file"
    code, out, err = command("train", "trainer.max_steps=1")
    assert (code, out) == (2, "")
    assert err.startswith(expected)


def test_outside_a_project_train_takes_the_defaults_or_says_what_it_needs(
    command: Command, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(command_line, "PROJECT", None)
    monkeypatch.setattr(command_line, "ROOT", tmp_path)
    monkeypatch.setattr(command_line, "DEFAULT", tmp_path / "configs" / "default.yaml")
    code, out, err = command("train", "trainer.max_steps=1")
    assert code == 0, err
    assert len(read_log(Path(out.strip()), "train")) == 1

    def missing(_: object) -> None:
        raise record.RunError("points.csv: expected a file, found none")

    monkeypatch.setattr(TinyTask, "learn", missing)
    code, out, err = command("train", "trainer.max_steps=1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: points.csv: expected a file, found none; run train in the folder")
