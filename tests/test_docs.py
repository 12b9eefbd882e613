"""The recipes in docs/ of a generated project, and AGENTS.md, work as they stand."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import TASKS, TEMPLATE
from warm import run_python

PACKAGE = "my_pytorch_project"
RECIPES = sorted(path.stem for path in TEMPLATE.glob("*cookiecutter*/docs/*.md"))
COMMAND = f"""
import sys
from {PACKAGE}.__main__ import main
sys.exit(main({{words!r}}))
"""
# The command line, which dies without a word when the log has had its eighth line.
KILLED = f"""
import os
from {PACKAGE}.engine.logger import Logger

log, lines = Logger.log, []

def log_and_die(self, record):
    lines.append(log(self, record))
    if len(lines) == 8:
        os._exit(9)

Logger.log = log_and_die
{COMMAND}"""
# Three epochs of four steps; the eighth line of the log is that of step 7, and step 6 is saved.
SMALL = ("device=cpu", "trainer.epochs=3", "loader.batch_size=16", "loader.limit=64")
OPTIONS = (*SMALL, "trainer.log_every=1", "trainer.save_every=3")
# What a block of a recipe says of its place, and before which text of the file that is.
PLACES = {
    "# task.py": "\n\nclass Task(",
    "# task.py, in the class Task": "\n    def example(self)",
    "# task.py, in datasets, before its return": "        return datasets\n",
    "# task.py, in forward, before its return": "        return Output(losses, scores",
    "# task.py, in forward, before its last return": "        return Output(losses, self.in_units",
    "# model.py, in ModelConfig": "\n\nclass MyLinear(",
    "# data.py, in DataConfig": '    path: str = "data/',
}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")


def run_code(
    project: Path, code: str, exit_code: int = 0, variables: dict[str, str] | None = None
) -> str:
    """What the code prints in the folder of a project, where it ends with this exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(project / "src")}
    done = run_python("-c", code, folder=project, env={**environment, **(variables or {})})
    printed = done.stdout + done.stderr
    assert done.returncode == exit_code, printed
    return printed


def run_command(
    project: Path,
    *words: str,
    exit_code: int = 0,
    variables: dict[str, str] | None = None,
) -> str:
    """What `python -m PACKAGE WORDS` prints."""
    return run_code(project, COMMAND.format(words=list(words)), exit_code, variables)


def kill(project: Path, *words: str, variables: dict[str, str] | None = None) -> None:
    """`python -m PACKAGE WORDS`, which is killed after the eighth line of its log."""
    run_code(project, KILLED.format(words=list(words)), 9, variables)


def blocks(project: Path, recipe: str) -> list[tuple[str, str]]:
    """The Python of a recipe: what is said of the place of each block, and the block."""
    text = (project / "docs" / f"{recipe}.md").read_text("utf-8")
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return [(code.partition("\n")[0], code.partition("\n")[2]) for code in found]


def put(project: Path, recipe: str) -> None:
    """Put the blocks of a recipe where they say, as a user does; imports go to the others."""
    for place, code in blocks(project, recipe):
        name = place.removeprefix("# ").partition(",")[0]
        path = project / name
        if place in PLACES:
            path = project / "src" / PACKAGE / name
            code, imports = without_imports(code)
            head, before, rest = path.read_text("utf-8").rpartition(PLACES[place])
            assert before, place
            head = re.sub(r"^(?=from)", imports, head, count=1, flags=re.MULTILINE)
            code = f"{head}{code}{before}{rest}"
        path.write_text(code, "utf-8")


def without_imports(code: str) -> tuple[str, str]:
    """The code without its imports, and these."""
    is_import = re.compile(r"^(?:import|from) .*\n", re.MULTILINE)
    return is_import.sub("", code), "".join(is_import.findall(code))


def lines_of(code: str) -> int:
    """How many lines of code there are: docstrings, comments, imports, blank lines are free."""
    code, _ = without_imports(code)
    code = re.sub(r'^ *""".*?"""\n', "", code, flags=re.DOTALL | re.MULTILINE)
    return len(re.findall(r"^ *[^#\s]", code, re.MULTILINE))


def log(run: Path) -> list[dict[str, Any]]:
    """The log of a run, without what a clock says."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
    return [{key: line[key] for key in line.keys() - {"time", "rate"}} for line in lines]


def result(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "result.json").read_text("utf-8"))
    return values


@pytest.fixture(scope="module")
def plain(bakes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A project of each task with a run of it, runs/plain, and nothing else that is special."""
    projects = {}
    for task in TASKS:
        folder = tmp_path_factory.mktemp(task) / "project"
        projects[task] = Path(shutil.copytree(bakes[task], folder))
        run_command(projects[task], "train", "--run", "plain", *OPTIONS)
    return projects


@pytest.fixture(params=TASKS)
def project(request: pytest.FixtureRequest, plain: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of such a project of each task."""
    return Path(shutil.copytree(plain[request.param], tmp_path / "project"))


def interrupt(project: Path, *options: str) -> tuple[Path, str]:
    """Train with these options twice, once with a kill and a resume, which must give the same bits.

    Returns the run that was not killed, and what it printed.
    """
    printed = run_command(project, "train", "--run", "whole", *options)
    kill(project, "train", "--run", "part", *options)
    run_command(project, "train", "--run", "part", *options)
    whole = project / "runs" / "whole"
    part = project / "runs" / "part"
    manifest = json.loads((part / "manifest.json").read_text("utf-8"))
    assert [entry["step"] for entry in manifest["resumes"]] == [6]
    assert log(part) == log(whole)
    assert result(part) == result(whole)
    return whole, printed


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("task", TASKS)
def test_a_recipe_is_short_and_listed(task: str, recipe: str, bakes: dict[str, Path]) -> None:
    code = [code for _, code in blocks(bakes[task], recipe)]
    if recipe == "gan":
        code = code[:1]  # the rest is of the task that it is tried on
    assert 0 < sum(map(lines_of, code)) <= 25
    readme = (bakes[task] / "README.md").read_text("utf-8")
    assert f"(docs/{recipe}.md)" in readme.partition("\n## Recipes\n")[2].partition("\n## ")[0]


def test_profiling_writes_a_trace_and_changes_no_bit(project: Path) -> None:
    put(project, "profiling")
    whole, printed = interrupt(project, *OPTIONS)
    assert result(whole) == result(project / "runs" / "plain")
    assert "ProfilerStep*" in printed and "Self CPU time total" in printed
    (trace,) = (project / "profile").iterdir()
    names = [event.get("name") for event in json.loads(trace.read_text("utf-8"))["traceEvents"]]
    assert {"ProfilerStep#7", "ProfilerStep#8", "ProfilerStep#9"} <= set(names)


def test_a_teacher_is_imitated_and_is_in_no_checkpoint(project: Path) -> None:
    put(project, "distillation")
    whole, _ = interrupt(project, *OPTIONS, "model.teacher=runs/plain")
    plain = project / "runs" / "plain"
    assert result(whole)["digest"] != result(plain)["digest"]
    assert log(whole)[0]["loss"] != log(plain)[0]["loss"]
    same = """
import torch
one, other = [torch.load(f"runs/{name}/checkpoints/last.pt") for name in ("plain", "whole")]
for part in ("model_state_dict", "optimizer_state_dict"):
    assert one[part].keys() == other[part].keys()
assert one["optimizer_state_dict"]["state"].keys() == other["optimizer_state_dict"]["state"].keys()
"""
    run_code(project, same)
    # A run whose teacher has changed is not continued.
    (whole / "result.json").unlink()
    shutil.copy(plain / "checkpoints" / "last.pt", plain / "checkpoints" / "best.pt")
    printed = run_command(project, "train", "--resume", str(whole), exit_code=2)
    assert "the data has changed" in printed and "best.pt" in printed


def test_a_curriculum_begins_with_what_is_easy(project: Path) -> None:
    put(project, "curriculum")
    whole, _ = interrupt(project, *OPTIONS)
    plain = result(project / "runs" / "plain")
    assert result(whole)["digest"] != plain["digest"]
    drawn = f"""
from pathlib import Path
from {PACKAGE}.task import Curriculum
keys = [Curriculum(range(60), [-n for n in range(60)], 3).draw((0, epoch, index))[2]
        for epoch in range(5) for index in range(60)]
epochs = [sorted(keys[first : first + 60]) for first in range(0, 300, 60)]
assert epochs[0] == sorted(3 * [*range(40, 60)])
assert sorted(set(epochs[1])) == [*range(20, 60)]
assert epochs[2] == epochs[3] == epochs[4] == [*range(60)]
"""
    run_code(project, drawn)


def test_a_stream_is_trained_on_in_chunks(project: Path) -> None:
    put(project, "streaming")
    write_stream(project)
    interrupt(project, *OPTIONS, "data.chunk=64")
    # In the third epoch the stream has begun again.
    drawn = f"""
from itertools import islice
from types import SimpleNamespace
from {PACKAGE}.task import Chunks


class Encoded(list):
    def __getitems__(self, indices):
        return [self[index] for index in indices]

class Numbers:
    data = SimpleNamespace(chunk=64)
    encode_chunk = Encoded

    def stream(self):
        while True:
            yield from range(100)

def draw(chunks, epoch):
    return chunks.__getitems__([(0, epoch, index) for index in range(64)])

one, other = Chunks(Numbers()), Chunks(Numbers())
epochs = [draw(one, epoch) for epoch in range(3)]
assert sum(epochs, []) == list(islice(Numbers().stream(), 192))
assert draw(other, 2) == epochs[2] and draw(other, 0) == epochs[0]
"""
    run_code(project, drawn)


def write_stream(project: Path) -> None:
    """Write 100 samples of the data as a stream."""
    (data,) = (path for path in (project / "data").iterdir() if path.suffix != ".md")
    if data.suffix == ".csv":
        lines = data.read_text("utf-8").splitlines()[:101]
    else:
        with zipfile.ZipFile(data) as file:
            lines = [name for name in file.namelist() if name.endswith(".png")][:100]
    suffix = ".csv" if data.suffix == ".csv" else ".txt"
    (project / "data" / f"stream{suffix}").write_text("\n".join(lines), "utf-8")


def test_a_model_is_exported_and_gives_the_same_outputs(project: Path) -> None:
    put(project, "export")
    run = project / "runs" / "plain"
    code = f"import runpy, sys\nsys.argv = ['export.py', {str(run)!r}]\nrunpy.run_path('export.py')"
    run_code(project, code)
    assert {"model.pt2", "model.onnx"} <= {path.name for path in run.iterdir()}


def test_a_search_that_is_killed_is_continued(default_bake: Path, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    project = Path(shutil.copytree(default_bake, tmp_path / "project"))
    put(project, "search")
    path = project / "search.py"
    path.write_text(path.read_text("utf-8").replace("< 20", "< 2"), "utf-8")
    command = [sys.executable, "search.py", *OPTIONS]
    variables = {**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1"}
    options: dict[str, Any] = {"cwd": project, "env": variables, "start_new_session": True}
    with subprocess.Popen(command, **options) as process:
        while process.poll() is None:
            lines = [line for path in project.glob("runs/*/metrics.jsonl") for line in path.open()]
            if len(lines) >= 5:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.005)
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in project.glob("runs/t*")] == ["trial-0"]
    subprocess.run(command, **options, check=True)
    subprocess.run(command, **options, check=True)
    manifests = [project / "runs" / f"trial-{number}" / "manifest.json" for number in range(2)]
    resumes = [json.loads(path.read_text("utf-8")).get("resumes", []) for path in manifests]
    assert [len(entries) for entries in resumes] == [1, 0]
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{project}/search.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    for number, trial in enumerate(study.trials):
        best = result(project / "runs" / f"trial-{number}")["best"]
        assert trial.value == best["value"]
        # What a search that was not killed would have suggested.
        other = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=number))
        assert other.ask(trial.distributions).params == trial.params


def test_the_code_of_the_gan_is_that_which_is_tried_as_a_swap(default_bake: Path) -> None:
    swap = (TEMPLATE / "tests" / "swaps" / "gan" / "task.py").read_text("utf-8")
    for place, code in blocks(default_bake, "gan"):
        assert place in PLACES
        assert code in swap


def test_agents_are_told_few_things_which_work(project: Path) -> None:
    text = (project / "AGENTS.md").read_text("utf-8")
    assert text.count("\n") <= 60
    workflow = (project / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    setup, check = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    readme = (project / "README.md").read_text("utf-8")
    assert f"\n```bash\n{setup}" in readme  # tests/test_fresh.py does what this says
    written = re.findall(r"^ *`(python -m .*)`$", text, re.MULTILINE)
    for command in (*written, *check.splitlines()):
        words = command.split()
        if words[0] in ("mypy", "pytest"):  # tests/test_package.py does these in each project
            assert f"run: {words[0]}\n" in workflow
            assert all((project / word).exists() for word in words[2:])
        elif words[0] == "ruff":
            subprocess.run([sys.executable, "-m", *words], cwd=project, check=True)
        elif ">" in words:
            *words, _, path = words
            assert run_command(project, *words[3:]) == (project / path).read_text("utf-8")
        else:
            small = ["loader.limit=64"] if "trainer.max_minutes=1" in words else []
            printed = run_command(project, *words[3:], *small)
            assert words[:3] == ["python", "-m", PACKAGE] and printed
    assert result(project / "runs" / "smoke")["steps"] == 20
    assert {"status", "best", "test", "digest"} <= result(project / "runs" / "smoke").keys()


def runs_of(folder: Path) -> list[Path]:
    """The runs that MLflow has, of all experiments, in files of its own."""
    return [path.parent for path in folder.glob("*/*/tags")]


def points(run: Path) -> dict[str, dict[int, float]]:
    """The values of each quantity by step, each of which is there once."""
    found: dict[str, dict[int, float]] = {}
    for path in (run / "metrics").rglob("*"):
        if path.is_file():
            rows = [line.split() for line in path.read_text("utf-8").splitlines()]
            steps = Counter(int(step) for _, _, step in rows)
            assert set(steps.values()) == {1}, path
            name = path.relative_to(run / "metrics").as_posix()
            found[name] = {int(step): float(value) for _, value, step in rows}
    return found


def test_a_run_that_is_killed_and_resumed_is_one_run_in_the_tracker(
    project: Path, tmp_path: Path
) -> None:
    put(project, "trackers")
    variables = {  # MLflow keeps its runs in a folder, and calls nobody
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    kill(project, "train", "--run", "sent", *OPTIONS, variables=variables)
    (run,) = runs_of(tmp_path / "mlruns")
    before = points(run)
    folder = project / "runs" / "sent"
    printed = run_command(project, "train", "--resume", str(folder), variables=variables)
    assert "warning: tracker" not in printed
    assert runs_of(tmp_path / "mlruns") == [run]
    assert (run / "tags" / "mlflow.runName").read_text("utf-8") == folder.name
    assert (run / "params" / "trainer.log_every").read_text("utf-8") == "1"
    sent = points(run)
    expected: dict[str, dict[int, Any]] = {}
    for line in log(folder):
        for key in line.keys() - {"split"}:
            expected.setdefault(f"{key}/{line['split']}", {})[line["step"]] = line[key]
    assert {name: sent[name] for name in expected} == expected
    assert all(sent[name].items() >= values.items() for name, values in before.items())
