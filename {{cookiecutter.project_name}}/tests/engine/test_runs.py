"""Runs are listed and compared, whatever is in their folders, and without disturbing them."""

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import Command

from {{ cookiecutter.__package_name }} import __main__ as command_line
from {{ cookiecutter.__package_name }} import runs
from {{ cookiecutter.__package_name }}.engine import config
from {{ cookiecutter.__package_name }}.engine.logger import Logger
from {{ cookiecutter.__package_name }}.train import load_config

SOURCE = Path(command_line.__file__).parents[1]
MakeRun = Callable[..., Path]
Table = Callable[..., list[list[str]]]
LIST = """
import sys
opened = []
is_opened = lambda event, details: event == "open" and details[1] is None  # by os.open
sys.addaudithook(lambda *what: is_opened(*what) and opened.append(str(what[1][0])))
from {package}.__main__ import main
code = main(["runs", sys.argv[1], *sys.argv[2:]])
found = [path for path in opened if path.startswith(sys.argv[1])]
names = [name for name in ("torch", "yaml", "tqdm", "numpy") if name in sys.modules]
print(code, len(found), *names)
"""


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make the folder of a run in tmp_path/runs that has finished, as `train` would leave it."""

    def make(
        name: str,
        *overrides: str,
        best: float | None = 0.75,
        test: float | None = 0.5,
        **facts: str,
    ) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        settings = load_config(None, overrides)
        (folder / "config.yaml").write_text(config.dump(settings), encoding="utf-8")
        write(folder / "manifest.json", {"source": "s", "data": "d", "parent": "", **facts})
        lines = [{"step": 4, "split": "train", "loss": 0.5}]
        lines.append({"step": 4, "split": "test", "right": test, "loss": 0.25, "time": 1.5})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
        result = {"status": "finished", "best": {"metric": "right", "value": best, "step": 4}}
        write(folder / "result.json", {**result, "steps": 8})
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
    path.write_text(json.dumps(value), encoding="utf-8")


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def names(table: list[list[str]]) -> list[str]:
    return [cells[0] for cells in table[1:]]


# The table.


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


def test_the_newest_run_is_last_whatever_its_name_is(
    make_run: MakeRun, table: Table, tmp_path: Path
) -> None:
    for name, seconds in (("mine", 2e9), ("early", 10.0)):
        folder = make_run(name)
        for path in folder.iterdir():
            os.utime(path, (seconds, seconds))
    make_run("b-20300101-000000")
    make_run("a-20300101-000000-2")
    make_run("a-20300101-000000-10")
    os.utime(make_run("z-20200101-000000") / "config.yaml")  # a copy is as old as its name
    expected = ["early", "z-20200101-000000", "b-20300101-000000"]
    expected += ["a-20300101-000000-2", "a-20300101-000000-10", "mine"]
    assert names(table()) == expected
    (tmp_path / "runs" / "early" / "config.yaml").touch()  # as by a resume
    assert names(table())[0] == "early"


def test_a_column_is_sorted_with_what_is_missing_last(make_run: MakeRun, table: Table) -> None:
    make_run("a", "optim.lr=0.1", best=0.9, test=0.1)
    make_run("b", "optim.lr=0.02", best=None, test=0.2)
    make_run("c", "optim.lr=0.003", best=0.8, test=None)
    assert names(table("--sort", "best")) == ["c", "a", "b"]
    assert names(table("--sort", "right")) == ["a", "b", "c"]
    assert names(table("--sort", "test")) == ["a", "b", "c"]
    assert names(table("--sort", "lr")) == names(table("--sort", "optim.lr")) == ["c", "b", "a"]
    assert names(table("--sort", "name")) == ["a", "b", "c"]


def test_an_unknown_key_is_an_error_that_names_the_possible_ones(
    make_run: MakeRun, command: Command
) -> None:
    make_run("a", "optim.lr=0.1")
    make_run("b", "optim.lr=0.2", "optim.patience=3")
    keys = "name, status, step, began, best, test, right, loss, optim.lr, optim.patience"
    code, out, err = command("runs", "{tmp}/runs", "--sort", "bets")
    assert (code, out, err) == (2, "", f"error: --sort bets: expected one of {keys}\n")
    _, _, err = command("runs", "{tmp}/runs", "--sort", "patience")
    assert err.endswith("expected one of optim.patience, trainer.patience\n")
    _, _, err = command("runs", "{tmp}/runs", "--over", "sed")
    assert err == "error: --over sed: expected one of optim.lr, optim.patience\n"


def test_json_has_all_options_and_all_numbers_of_the_test_split(
    make_run: MakeRun, command: Command
) -> None:
    folder = make_run("a", "optim.lr=1e-7", parent="runs/other")
    code, out, _ = command("runs", "{tmp}/runs", "--json")
    [run] = objects(out)
    assert code == 0
    assert Path(run["run"]).resolve() == folder.resolve()
    assert (run["status"], run["step"], run["damage"]) == ("finished", 8, [])
    assert (run["source"], run["data"], run["parent"]) == ("s", "d", "runs/other")
    assert run["best"] == {"metric": "right", "value": 0.75, "step": 4}
    assert run["test"] == {"right": 0.5, "loss": 0.25}
    options = run["options"]
    for section, value in config.plain(load_config(None, ["optim.lr=1e-7"])).items():
        if not isinstance(value, dict):
            assert options.pop(section) == value
        else:
            assert {name: options.pop(f"{section}.{name}") for name in value} == value
    assert options == {}


def test_values_are_read_as_they_were_written(tmp_path: Path) -> None:
    text = """
a: {b: [x, "1.0"], c: null}
d:
  e: 'it''s'
  f: "\\u2028"
  g: [1, 2.5, x, [true]]
  h: two words  # a comment
  i: .inf
j: |
  k: 1
"""
    run = runs.Run(tmp_path)
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    runs.read_config(run)
    assert run.values == {
        "a.b": ["x", 1.0],
        "a.c": None,
        "d.e": "it's",
        "d.f": "\u2028",
        "d.g": [1, 2.5, "x", [True]],
        "d.h": "two words",
        "d.i": ".inf",
        "j": "k: 1\n",
    }


def test_long_values_are_shortened_and_nothing_moves_the_cursor(
    make_run: MakeRun, command: Command
) -> None:
    make_run("a\x1b[2J", f"data.path=data/{'x' * 100}/1.csv")
    make_run("b\nc", f"data.path=data/{'x' * 100}/2.csv")
    _, out, _ = command("runs", "{tmp}/runs")
    assert out.count("\n") == 3
    assert "\x1b" not in out and "a\\x1b[2J" in out
    assert "/1.csv" in out and "/2.csv" in out
    assert max(map(len, out.splitlines())) <= 100


def test_runs_of_other_tasks_and_versions_are_listed_too(make_run: MakeRun, table: Table) -> None:
    make_run("a", "optim.lr=0.1")
    other = make_run("b")
    (other / "config.yaml").write_text("old: {lr: 1}\noptim:\n  lr: 0.2\n", encoding="utf-8")
    bare = make_run("c")
    (bare / "config.yaml").write_text("seed: 3\n", encoding="utf-8")
    (bare / "manifest.json").write_text("{}", encoding="utf-8")
    assert [cells[:5] for cells in table()] == [
        ["name", "status", "step", "seed", "lr"],
        ["a", "finished", "8", "0", "0.1"],
        ["b", "finished", "8", "-", "0.2"],
        ["c", "finished", "8", "3", "-"],
    ]


def test_other_code_other_data_and_another_start_are_differences_too(
    make_run: MakeRun, table: Table
) -> None:
    make_run("a", source="1" * 64)
    make_run("b", source="2" * 64, data="e", parent="runs/a")
    assert [cells[3:6] for cells in table()] == [
        ["source", "data", "parent"],
        ["1" * 8, "d", "none"],
        ["2" * 8, "e", "runs/a"],
    ]


# Folders.


def test_a_folder_is_of_runs_or_a_run_and_none_is_listed_twice(
    make_run: MakeRun, command: Command, tmp_path: Path
) -> None:
    first = make_run("a")
    make_run("b")
    (tmp_path / "runs" / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "runs" / "plots").mkdir()
    (tmp_path / "runs" / "plots" / "a.png").write_bytes(b"")
    (tmp_path / "runs" / ".cache").mkdir()
    code, out, _ = command("runs", str(first), "{tmp}/runs", "{tmp}/runs/", "--json")
    assert code == 0
    assert [run["name"] for run in objects(out)] == ["a", "b"]
    shutil.copytree(first, tmp_path / "more" / "a")
    _, out, _ = command("runs", "{tmp}/runs", "{tmp}/more")
    assert sorted(line.split()[0] for line in out.splitlines()[1:]) == sorted(
        [os.path.relpath(first), os.path.relpath(tmp_path / "more" / "a"), "b"]
    )


def test_a_missing_folder_is_an_error_and_no_runs_are_none(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = command("runs", "{tmp}/nothing")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "expected a folder of runs, found: No such file" in err
    (tmp_path / "empty").mkdir()
    assert command("runs", "{tmp}/empty") == (0, "", f"no runs in {tmp_path}/empty\n")
    monkeypatch.setattr(command_line, "ROOT", tmp_path)
    assert command("runs") == (0, "", "no runs\n")


def test_the_default_is_the_folder_runs_of_the_project(
    make_run: MakeRun, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run("a")
    monkeypatch.setattr(command_line, "ROOT", tmp_path)
    assert command("runs")[1].splitlines()[1].split()[0] == "a"


# Damage.

DAMAGES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "missing config": ("config.yaml is missing", lambda run: (run / "config.yaml").unlink()),
    "no UTF-8": ("not UTF-8", lambda run: (run / "config.yaml").write_bytes(b"\xff")),
    "no YAML": ("not valid YAML", lambda run: (run / "config.yaml").write_text("a: [")),
    "no options": ("has no options", lambda run: (run / "config.yaml").write_text("hello")),
    "aliases": ("not valid", lambda run: (run / "config.yaml").write_text("a: &a [x]\nb: *a\n")),
    "empty": ("config.yaml is empty", lambda run: (run / "config.yaml").write_bytes(b"")),
    "too long": ("too long", lambda run: os.truncate(run / "config.yaml", 2_000_000)),
    "cut JSON": ("result.json is cut off", lambda run: os.truncate(run / "result.json", 30)),
    "no object": ("not a JSON object", lambda run: (run / "manifest.json").write_text("[1]")),
    "deep JSON": ("cut off", lambda run: (run / "result.json").write_text("[" * 100_000)),
    "no status": ("has no status", lambda run: (run / "result.json").write_text("{}")),
    "no log": ("metrics.jsonl is missing", lambda run: (run / "metrics.jsonl").unlink()),
    "no lines": ("is cut off, or not", lambda run: (run / "metrics.jsonl").write_text("\n\n")),
    "endless": ("has no line in", lambda run: os.truncate(run / "metrics.jsonl", 10**11)),
    "a folder": ("config.yaml is a folder", lambda run: put_folder(run / "config.yaml")),
    "a pipe": ("manifest.json is not a file", lambda run: put_pipe(run / "manifest.json")),
    "dead link": ("is a link to a file that is gone", lambda run: put_link(run / "result.json")),
    "nothing": ("config.yaml is missing, and 1 more", lambda run: put_folder(run)),
    "gone": ("a link to a folder that is gone", lambda run: put_link(run)),
}


def put_folder(path: Path) -> None:
    remove(path)
    path.mkdir()


def put_pipe(path: Path) -> None:
    remove(path)
    os.mkfifo(path)


def put_link(path: Path) -> None:
    remove(path)
    path.symlink_to("nowhere")


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_a_row_that_says_so(
    name: str, make_run: MakeRun, command: Command
) -> None:
    if sys.platform == "win32" and name in ("a pipe", "dead link", "gone"):
        pytest.skip("there is no such thing on Windows")
    make_run("a")
    expected, damage = DAMAGES[name]
    damage(make_run("b"))
    code, out, err = command("runs", "{tmp}/runs")
    assert (code, err) == (0, "")
    title, *rows = out.splitlines()
    assert title.endswith("  damage")
    [row] = [row for row in rows if row.startswith("b ")]
    assert row.split()[1] == "damaged"
    assert expected in row
    assert command("runs", "{tmp}/runs", "--over")[0] == 0
    assert len(objects(command("runs", "{tmp}/runs", "--json")[1])) == 2


def test_numbers_that_are_none_are_missing(make_run: MakeRun, command: Command) -> None:
    folder = make_run("a")
    log = '{"step": 3, "split": "test", "right": NaN, "loss": 1e999, "n": 1' + "0" * 400 + "}\n"
    (folder / "metrics.jsonl").write_text(log, encoding="utf-8")
    best = '"best": {"metric": 1e999, "value": 1e999, "step": NaN}'
    result = '{"status": "finished", "steps": 1e999, ' + best + "}"
    (folder / "result.json").write_text(result, encoding="utf-8")
    assert command("runs", "{tmp}/runs")[1].split()[-4:] == ["finished", "3", "-", "-"]
    [run] = objects(command("runs", "{tmp}/runs", "--json")[1])
    assert run["test"] == {"right": None, "loss": None, "n": None}
    assert (run["best"]["value"], run["best"]["step"]) == (None, None)
    assert "Infinity" not in command("runs", "{tmp}/runs", "--json", "--over")[1]


def test_a_line_that_began_before_the_end_that_is_read_is_not_read(
    make_run: MakeRun, table: Table
) -> None:
    log = make_run("a") / "metrics.jsonl"
    line = json.dumps({"step": 7, "split": "test", **dict.fromkeys(map(str, range(3000)), 0.5)})
    log.write_text(f"{line}\n" * 3, encoding="utf-8")
    (log.parent / "result.json").unlink()
    assert table()[1][2] == "7"


# Runs that have not finished.


@pytest.fixture
def open_run(make_run: MakeRun) -> Iterator[Path]:
    """A run that another process is writing to."""
    folder = make_run("a")
    (folder / "result.json").unlink()
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 5, "split": "train", "loss": 0.5}\n{"step": 6, "spl')
    code = (
        "import sys; from pathlib import Path;"
        f"from {command_line.__package__}.engine.logger import Logger;"
        "logger = Logger(); logger.open(Path(sys.argv[1])); print('open', flush=True); input()"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", code, str(folder)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"open")
        yield folder


needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")


@needs_locks
def test_a_run_that_is_written_to_is_running_and_keeps_its_lock(
    open_run: Path, table: Table
) -> None:
    for _ in range(2):
        assert table()[1][:3] == ["a", "running", "5"]
    logger = Logger()
    with pytest.raises(ValueError, match="another process is writing"):
        logger.open(open_run)
    logger.close()


@needs_locks
def test_a_run_that_was_killed_is_interrupted_and_can_be_continued(
    make_run: MakeRun, table: Table
) -> None:
    folder = make_run("a")
    (folder / "result.json").unlink()
    assert table()[1][:3] == ["a", "interrupted", "4"]
    (folder / "metrics.jsonl").unlink()
    assert table()[1][:3] == ["a", "interrupted", "-"]


@needs_locks
def test_the_lock_of_a_run_in_the_same_process_stays(make_run: MakeRun, table: Table) -> None:
    folder = make_run("a")
    (folder / "result.json").unlink()
    logger = Logger()
    logger.open(folder)
    assert table()[1][:3] == ["a", "running", "4"]
    code = "import sys, fcntl;fcntl.lockf(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    arguments = [sys.executable, "-c", code, str(folder / "metrics.jsonl")]
    assert subprocess.run(arguments, stderr=subprocess.DEVNULL).returncode != 0
    logger.close()
    assert subprocess.run(arguments).returncode == 0


# Mean and deviation.


def test_runs_that_differ_in_the_seed_alone_become_mean_and_deviation(
    make_run: MakeRun, command: Command
) -> None:
    tests = {0: 0.5, 1: 0.75, 2: 0.625}
    for seed, test in tests.items():
        make_run(f"a{seed}", f"seed={seed}", "optim.lr=0.1", test=test, best=test + 0.1)
    make_run("b", "seed=7", "optim.lr=0.2", test=0.25)
    (make_run("c", "seed=8", "optim.lr=0.1", test=0) / "result.json").unlink()
    make_run("d", "seed=2", "optim.lr=0.1", test=0.625, best=0.725)  # as `reproduce` makes it
    code, out, err = command("runs", "{tmp}/runs", "--over", "seed")
    assert code == 0
    deviation = statistics.stdev(tests.values())
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["lr", "n", "best", "right", "+-", "test", "right", "+-"]
    assert ["0.1", "3", "0.7250", f"{deviation:.4f}", "0.6250", f"{deviation:.4f}"] in rows
    assert ["0.2", "1", "0.7500", "-", "0.2500", "-"] in rows
    assert err == "1 run left out: not finished\n1 run left out: repeated with the same seed\n"
    _, out, _ = command("runs", "{tmp}/runs", "--json", "--sort", "n", "--over", "seed")
    alone, group = objects(out)
    assert (alone["n"], alone["test"]["right"]["deviation"]) == (1, None)
    assert (group["n"], group["options"]) == (3, {"optim.lr": 0.1})
    assert group["test"]["right"] == {"mean": 0.625, "deviation": pytest.approx(deviation)}


def test_the_default_is_over_seeds_and_folds(make_run: MakeRun, command: Command) -> None:
    for number, (seed, fold) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        folder = make_run(f"run{number}", f"seed={seed}", "optim.lr=0.1", test=number)
        with (folder / "config.yaml").open("a", encoding="utf-8") as file:
            file.write(f"data:\n  fold: {fold}\n")
    [group] = objects(command("runs", "{tmp}/runs", "--json", "--over")[1])
    assert (group["over"], group["n"]) == (["seed", "data.fold"], 4)
    assert group["test"]["right"]["mean"] == 1.5
    _, out, _ = command("runs", "{tmp}/runs", "--over", "data.fold")
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["seed", "n"],
        ["0", "2"],
        ["1", "2"],
    ]


def test_no_mean_hides_a_run_without_a_number(make_run: MakeRun, command: Command) -> None:
    make_run("a", "seed=0", test=0.5)
    make_run("b", "seed=1", test=None)
    _, out, _ = command("runs", "{tmp}/runs", "--over")
    assert out.splitlines()[1].split() == ["2", "0.7500", "0.0000", "-", "-"]


def test_runs_of_other_code_are_no_group(make_run: MakeRun, command: Command) -> None:
    make_run("a", "seed=0", source="1" * 64)
    make_run("b", "seed=1", source="2" * 64)
    assert len(objects(command("runs", "{tmp}/runs", "--json", "--over")[1])) == 2
    over = command("runs", "{tmp}/runs", "--json", "--over", "seed,source")[1]
    assert [group["n"] for group in objects(over)] == [2]


# Speed.


def list_elsewhere(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """List in a process of its own, which then says what it has opened and imported."""
    code = LIST.format(package=command_line.__package__)
    return subprocess.run(
        [sys.executable, "-c", code, str(folder), *words],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )


def test_a_thousand_runs_take_four_files_each_and_no_slow_import(
    make_run: MakeRun, tmp_path: Path
) -> None:
    one = make_run("0")
    with (one / "metrics.jsonl").open("r+b") as file:
        line = file.read()
        file.truncate(0)
        file.seek(10**11)  # a log of 100 gigabytes, of which all but the end is a hole
        file.write(b"\n" + line)
    for number in range(1, 1000):
        folder = tmp_path / "runs" / str(number)
        folder.mkdir()
        for path in one.iterdir():
            os.link(path, folder / path.name)
    for words in ([], ["--over"], ["--json", "--sort", "best"]):
        lines = list_elsewhere(tmp_path / "runs", *words).stdout.splitlines()
        assert lines[-1] == "0 4000"
    assert len(lines) == 1001


def test_head_may_close_the_pipe(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a")
    command = [sys.executable, tiny.__file__, "runs", str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
