"""Runs are listed and compared, whatever is in their folders, and without disturbing them."""

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

from {{ cookiecutter.__package_name }} import __main__ as command_line
from {{ cookiecutter.__package_name }}.engine import config
from {{ cookiecutter.__package_name }}.engine.logger import Logger
from {{ cookiecutter.__package_name }}.train import load_config

SOURCE = Path(command_line.__file__).parents[1]
MakeRun = Callable[..., Path]
Table = Callable[..., list[list[str]]]
LIST = """
import sys
opened = []
is_opened = lambda event, details: event == "open" and str(details[0]).startswith(sys.argv[1])
sys.addaudithook(lambda *what: is_opened(*what) and opened.append(what))
from {package}.__main__ import main
code = main(["runs", *sys.argv[1:]])
names = [name for name in ("torch", "yaml", "tqdm", "numpy") if name in sys.modules]
print(code, len(opened), *names)
"""


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make the folder of a run in tmp_path/runs that has finished, as `train` would leave it."""
    numbers = count(1)

    def make(name: str, *overrides: str, best: Any = 0.75, test: Any = 0.5, **facts: Any) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        settings = load_config(None, overrides)
        (folder / "config.yaml").write_text(config.dump(settings), encoding="utf-8")
        manifest = {"began": next(numbers), "config": config.flat(settings)}
        manifest |= {"source": "s", "data": "d", "parent": "", **facts}
        write(folder / "manifest.json", manifest)
        line = {"step": 4, "epoch": 1, "split": "train", "loss": 0.5}
        write(folder / "metrics.jsonl", line)
        result = {"status": "finished", "best": {"metric": "right", "value": best, "step": 4}}
        write(folder / "result.json", {**result, "steps": 8, "test": {"right": test, "loss": 1}})
        return folder

    return make


@pytest.fixture
def table(command: Command) -> Table:
    """List the runs in tmp_path/runs; get the cells of each line."""

    def lines(*words: str) -> list[list[str]]:
        code, out, err = command("runs", "{tmp}/runs", *words)
        assert code == 0, err
        return [line.split() for line in out.splitlines()]

    return lines


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")


def names(table: list[list[str]]) -> list[str]:
    return [cells[0] for cells in table[1:]]


def test_real_runs_are_listed_with_what_differs_between_them(
    train: Callable[..., Path], command: Command
) -> None:
    first = train("optim.lr=0.003", "trainer.max_steps=3")
    second = train("optim.lr=0.01", "trainer.max_steps=3", "device=cpu", "loader.num_workers=1")
    code, out, err = command("runs", "{tmp}/runs")
    assert (code, err) == (0, "")
    title, *rows = out.splitlines()
    assert title.split() == ["name", "status", "step", "lr", "best", "right", "test", "right"]
    assert [row.split()[:4] for row in rows] == [
        [first.name, "finished", "3", "0.003"],
        [second.name, "finished", "3", "0.01"],
    ]
    result = json.loads((second / "result.json").read_text("utf-8"))
    last = json.loads((second / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
    shown = [f"{result['best']['value']:,.4f}", f"{last['right']:,.4f}"]
    assert rows[1].split()[4:] == shown
    assert len({len(row) for row in out.splitlines()}) == 1  # the columns are aligned


def test_a_resumed_run_is_listed_with_the_options_that_it_ended_with(
    train: Callable[..., Path], command: Command, table: Table
) -> None:
    run = train("optim.scheduler=constant", "trainer.epochs=1")
    train("optim.scheduler=constant", "trainer.epochs=1")
    assert command("train", "--resume", str(run), "trainer.epochs=2")[0] == 0
    titles, first, second = table()
    assert titles[3] == "epochs"
    assert (first[0], first[2:4], second[2:4]) == (run.name, ["8", "2"], ["4", "1"])


def test_the_newest_run_is_last_whatever_its_name_is(make_run: MakeRun, table: Table) -> None:
    for name in ("b", "c", "a"):
        make_run(name)
    assert names(table()) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("name", ["a", "b", "c"]),
        ("lr", ["a", "c", "b"]),
        ("optim.lr", ["a", "c", "b"]),
        ("best", ["c", "b", "a"]),
        ("test", ["b", "c", "a"]),
        ("right", ["b", "c", "a"]),
        ("step", ["b", "c", "a"]),
    ],
)
def test_a_column_is_sorted_with_what_is_missing_last(
    make_run: MakeRun, table: Table, key: str, expected: list[str]
) -> None:
    make_run("b", "optim.lr=0.3", best=0.5, test=0.25)
    make_run("c", "optim.lr=0.2", best=0.25, test=0.5)
    make_run("a", "optim.lr=0.1", best=None, test=None)
    assert names(table("--sort", key)) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sort size", "--sort size: expected one of best, "),
        ("--sort patience", "expected one of optim.patience, trainer.patience"),
        ("--over speed", "--over speed: expected one of name, seed, device"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_possible_ones(
    make_run: MakeRun, command: Command, words: str, message: str
) -> None:
    make_run("a")
    code, out, err = command("runs", "{tmp}/runs", *words.split())
    assert (code, out) == (2, "")
    assert message in err


def test_json_has_all_options_and_all_numbers_of_the_test_split(
    make_run: MakeRun, command: Command
) -> None:
    folder = make_run("a", "seed=3", source="1234567890")
    code, out, _ = command("runs", "{tmp}/runs", "--json")
    assert code == 0
    (row,) = map(json.loads, out.splitlines())
    assert (Path(row["run"]).resolve(), row["status"], row["step"]) == (folder, "finished", 8)
    assert row["run"] == os.path.relpath(folder)
    assert row["test"] == {"right": 0.5, "loss": 1}
    assert row["options"]["seed"] == 3
    assert row["options"]["source"] == "12345678"
    assert row["options"].keys() > config.flat(load_config(None)).keys()


def test_other_code_other_data_and_another_start_are_differences_too(
    make_run: MakeRun, table: Table
) -> None:
    make_run("a")
    make_run("b", source="t", data="e", parent="runs/a")
    titles, *_ = table()
    assert titles[3:6] == ["parent", "source", "data"]


def test_a_folder_is_of_runs_or_a_run_and_none_is_listed_twice(
    make_run: MakeRun, command: Command
) -> None:
    make_run("a")
    make_run("b")
    code, out, _ = command("runs", "{tmp}/runs/b", "{tmp}/runs", "{tmp}/runs/a")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["a", "b"]


def test_a_missing_folder_is_an_error_and_no_runs_are_none(
    command: Command, tmp_path: Path
) -> None:
    code, out, err = command("runs", "{tmp}/none")
    assert (code, out) == (2, "")
    folder = tmp_path / "none"
    assert err == f"error: {folder}: expected a folder of runs, found: No such file or directory\n"
    folder.mkdir()
    (folder / "file").touch()
    (folder / "folder").mkdir()
    assert command("runs", "{tmp}/none") == (0, "", "no runs\n")


def test_the_default_is_the_folder_runs_of_the_project(
    make_run: MakeRun, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run("a")
    monkeypatch.setattr(command_line, "ROOT", tmp_path)
    assert command("runs")[1].splitlines()[1].startswith("a ")


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone")


def make_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "folder": make_folder,
    "link": make_link,
    "loop": make_loop,
    "pipe": make_pipe,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe{"),
    "a list": lambda path: path.write_bytes(b"[1, 2]\n"),
    "a number": lambda path: path.write_bytes(b"7\n"),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "long": lambda path: path.write_bytes(b" " * 1_000_001),
}


@pytest.mark.parametrize(
    ("resumes", "seed"), [([], 3), ([1], 3), (1, 3), ([1, {"config": {"seed": 5}}], 5)]
)
def test_the_options_are_those_of_the_last_resume_that_is_one(
    make_run: MakeRun, command: Command, resumes: Any, seed: int
) -> None:
    folder = make_run("a", "seed=3", resumes=resumes)
    (row,) = command("runs", str(folder.parent), "--json")[1].splitlines()
    assert json.loads(row)["options"]["seed"] == seed


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")
@pytest.mark.parametrize("name", ["manifest.json", "result.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_a_row_that_says_so(
    make_run: MakeRun, table: Table, name: str, damage: str
) -> None:
    make_run("b")
    folder = make_run("a")
    DAMAGES[damage](folder / name)
    rows = {cells[0]: cells for cells in table()}
    assert rows["b"][1] == "finished"
    row = rows["a"]
    if name == "result.json" and damage in ("link", "loop"):
        assert row[1] == "interrupted"  # there is no result
    else:
        assert row[1] == "damaged"
        assert name in row
        assert (row[-3:] == ["is", "too", "large"]) is (damage == "long")


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")
@pytest.mark.parametrize("damage", ["folder", "not UTF-8", "a list", "a number", "deep"])
def test_a_damaged_log_of_an_interrupted_run_is_said_to_be(
    make_run: MakeRun, table: Table, damage: str
) -> None:
    folder = make_run("a")
    (folder / "result.json").unlink()
    log = folder / "metrics.jsonl"
    DAMAGES[damage](log)
    if log.is_file():
        log.write_bytes(log.read_bytes().strip() + b"\n")
    assert " ".join(table()[1]).endswith("metrics.jsonl cannot be read")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", {"config": 3, "began": "x", "source": None}),
        ("manifest.json", {}),
        ("result.json", {"status": [1], "best": 3, "steps": "x", "test": {"right": "x"}}),
        ("result.json", {"best": {"value": True}}),
    ],
)
def test_values_of_a_wrong_type_are_missing(
    make_run: MakeRun, table: Table, name: str, content: Any
) -> None:
    make_run("b")
    write(make_run("a") / name, content)
    assert sorted(names(table())) == ["a", "b"]
    for key in ("test", "best", "step"):
        assert sorted(names(table("--sort", key))) == ["a", "b"]


def test_nothing_in_a_run_moves_the_cursor(make_run: MakeRun, table: Table) -> None:
    make_run("a", parent="\x1b[2Ja\nb")
    make_run("b")
    assert "'\\x1b[2Ja\\nb'" in table()[1]


def test_a_run_that_is_written_to_is_running_and_keeps_its_lock(
    make_run: MakeRun, tmp_path: Path
) -> None:
    folder = make_run("a")
    (folder / "result.json").unlink()
    logger = Logger()
    logger.open(folder)
    try:
        for _ in range(2):
            words = [sys.executable, "-m", command_line.__package__ or "", "runs", str(folder)]
            environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
            out = subprocess.check_output(words, env=environment, encoding="utf-8")
            status = out.splitlines()[1].split()[1]
            assert status == ("running" if sys.platform == "linux" else "interrupted")
    finally:
        logger.close()


def test_a_run_that_was_killed_is_interrupted_after_its_last_whole_line(
    make_run: MakeRun, table: Table
) -> None:
    folder = make_run("a")
    (folder / "result.json").unlink()
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 6}\n{"step": 7')
    assert table()[1][1:3] == ["interrupted", "6"]
    (folder / "metrics.jsonl").write_text("", encoding="utf-8")
    assert table()[1] == ["a", "interrupted"]
    (folder / "metrics.jsonl").unlink()
    assert table()[1] == ["a", "interrupted"]
    (folder / "config.yaml").unlink()
    assert " ".join(table()[1]).endswith("config.yaml is missing")


def test_runs_that_differ_in_the_seed_alone_become_mean_and_deviation(
    make_run: MakeRun, table: Table, command: Command
) -> None:
    values = {("0.1", 0): 0.5, ("0.1", 1): 0.7, ("0.1", 2): 0.9, ("0.2", 0): 0.6}
    for (lr, seed), value in values.items():
        make_run(f"{lr}-{seed}", f"optim.lr={lr}", f"seed={seed}", best=value, test=value - 0.25)
    make_run("again", "optim.lr=0.2", "seed=0", best=0.6, test=0.35)  # says nothing new
    running = make_run("running", "optim.lr=0.2", "seed=1")
    (running / "result.json").unlink()
    deviation = f"{statistics.stdev([0.5, 0.7, 0.9]):.4f}"
    titles, first, second = table("--over", "seed")
    assert titles == ["lr", "n", "best", "right", "+-", "test", "right", "+-"]
    assert first == ["0.1", "3", "0.7000", deviation, "0.4500", deviation]
    assert second == ["0.2", "1", "0.6000", "-", "0.3500", "-"]
    code, out, _ = command("runs", "{tmp}/runs", "--over", "seed", "--json", "--sort", "test")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["n"] for row in rows] == [1, 3]
    assert rows[1]["options"] == {"optim.lr": 0.1}
    assert rows[1]["test"]["right +-"] == pytest.approx(0.2)


def test_no_mean_hides_a_run_without_a_number(make_run: MakeRun, table: Table) -> None:
    make_run("a", "seed=0", best=None)
    make_run("b", "seed=1")
    assert table("--over", "seed")[1] == ["2", "0.5000", "0.0000"]


def test_runs_of_other_code_are_no_group(make_run: MakeRun, table: Table) -> None:
    make_run("a", "seed=0")
    make_run("b", "seed=1", source="t")
    assert [cells[:2] for cells in table("--over", "seed")[1:]] == [["s", "1"], ["t", "1"]]


def test_a_thousand_runs_take_two_files_each_and_no_slow_import(
    make_run: MakeRun, tmp_path: Path
) -> None:
    first = make_run("0")
    for number in range(1, 50):
        shutil.copytree(first, first.with_name(str(number)))
    script = LIST.format(package=command_line.__package__)
    result = subprocess.run(
        [sys.executable, "-c", script, str(first.parent)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        check=True,
        encoding="utf-8",
    )
    *rows, last = result.stdout.splitlines()
    assert len(rows) == 51
    code, opened, *modules = last.split()
    assert (code, modules) == ("0", [])
    assert int(opened) == 2 * 50


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
def test_head_may_close_the_pipe(make_run: MakeRun) -> None:
    folder = make_run("a")
    for number in range(50):
        shutil.copytree(folder, folder.with_name(f"a{number}"))
    command = f"{sys.executable} -m {command_line.__package__} runs {folder.parent} | head -1"
    result = subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        check=True,
        encoding="utf-8",
    )
    assert (len(result.stdout.splitlines()), result.stderr) == (1, "")


def test_options_that_leave_what_is_learnt_as_it_is_are_no_difference(
    make_run: MakeRun, table: Table
) -> None:
    options = ["name=b", "output_dir=b", "device=cpu", "loader.num_workers=1"]
    options += ["logger.tensorboard=false", "logger.trace=true"]
    options += ["trainer.log_every=7", "trainer.save_every=7", "trainer.keep=7"]
    make_run("a")
    make_run("b", *options)
    assert table()[0] == ["name", "status", "step", "best", "right", "test", "right"]


def test_runs_that_began_at_once_are_in_the_order_of_their_names(
    make_run: MakeRun, command: Command
) -> None:
    for name in ("b", "a"):
        make_run(name, began=5)
    _, out, _ = command("runs", "{tmp}/runs/b", "{tmp}/runs/a")
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["a", "b"]


def test_the_options_of_a_run_are_those_of_its_last_resume(
    make_run: MakeRun, command: Command
) -> None:
    resumes = [{"config": {"trainer.epochs": epochs}} for epochs in (3, 5)]
    make_run("a", resumes=resumes)
    (row,) = map(json.loads, command("runs", "{tmp}/runs", "--json")[1].splitlines())
    assert row["options"]["trainer.epochs"] == 5


def test_a_truth_value_is_no_number(make_run: MakeRun, command: Command) -> None:
    make_run("a", best=True, test=False)
    (row,) = map(json.loads, command("runs", "{tmp}/runs", "--json")[1].splitlines())
    assert (row["best"], row["test"]) == (None, {"right": None, "loss": 1})


def test_of_equal_runs_the_last_one_counts(
    make_run: MakeRun, table: Table, command: Command
) -> None:
    make_run("a", "seed=0", best=0.25)
    make_run("b", "seed=0", best=0.75)
    last = make_run("c", "seed=1", best=0.5)
    assert table("--over", "seed")[1][:2] == ["2", "0.6250"]
    _, out, _ = command("runs", "{tmp}/runs", "--over", "seed", "--json")
    (group,) = map(json.loads, out.splitlines())
    assert group["runs"] == [os.path.relpath(last.with_name("b")), os.path.relpath(last)]
    write(last / "result.json", {"status": "stopped"})
    assert table()[3][1] == "stopped"


def test_numbers_are_sorted_by_their_size(make_run: MakeRun, table: Table) -> None:
    for size in (10, 9, 100):
        make_run(f"of{size}", f"loader.batch_size={size}")
    assert names(table("--sort", "batch_size")) == ["of9", "of10", "of100"]


def test_a_title_is_the_last_part_of_a_key_unless_another_column_has_it(
    make_run: MakeRun, table: Table
) -> None:
    for number in (1, 2):
        options = {"optim.patience": number, "trainer.patience": number, "my.step": number}
        make_run(f"run{number}", config={**options, "my.size": number})
    titles = ["optim.patience", "trainer.patience", "my.step", "size"]
    assert table()[0][3:7] == titles
