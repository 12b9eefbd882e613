"""The command line under torchrun: as many processes as asked for, one run, and ends that tell."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from warm import run_processes, run_python

PACKAGE = "my_pytorch_project"
ONE_AGENT = "--standalone --nproc-per-node 2"
QUICK = ("loader.limit=300", "trainer.epochs=2", "model.hidden=16")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun there has no gloo")


@dataclass
class Project:
    folder: Path

    @contextmanager
    def launch(self, *words: str, agent: str = ONE_AGENT) -> Iterator[subprocess.Popen[str]]:
        """`torchrun AGENT -m PACKAGE WORDS`, ended in any case."""
        source = str(self.folder / "src")
        # torchrun takes --run for the beginning of its own --run-path, unless there is a -- before.
        module = ["-m", "--", PACKAGE] if "--run" in words else ["-m", PACKAGE]
        with subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *agent.split(), *module, *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": source},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            try:
                yield process
            finally:
                process.terminate()  # torchrun ends its processes

    def run(self, *words: str, agent: str = ONE_AGENT) -> tuple[int, str, str]:
        with self.launch(*words, agent=agent) as process:
            out, err = process.communicate(timeout=300)
            return process.returncode, out, err

    def in_two(self, *words: str) -> str:
        """What a command prints in two processes that are started as torchrun would, but sooner."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "src")}
        one, two = run_processes(2, "-m", PACKAGE, *words, folder=self.folder, env=environment)
        assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
        assert two.stdout == ""
        return one.stdout.strip()

    def train(self, *words: str) -> Path:
        return Path(self.in_two("train", *QUICK, *words))

    def alone(self, *words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "src")}
        done = run_python("-m", PACKAGE, *words, folder=self.folder, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / "src" / PACKAGE / file
        text = path.read_text("utf-8")
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def project(default_bake: Path, tmp_path: Path) -> Project:
    return Project(Path(shutil.copytree(default_bake, tmp_path / "project")))


def result(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "result.json").read_text("utf-8"))
    return values


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    found: dict[str, torch.Tensor] = state["model_state_dict"]
    return found


def assert_near(one: Path, other: Path) -> None:
    """Equal up to rounding.

    AdamW divides a gradient by its own size: where it is almost 0, rounding can be as large as a
    part of a step. That may be so for one weight in 100,000, and no more than 0.001.
    """
    assert weights(one).keys() == weights(other).keys()
    for key, value in weights(one).items():
        distances = (value - weights(other)[key]).abs()
        assert (distances > 1e-5).sum() <= distances.numel() / 100_000, key
        assert distances.max() < 0.001, key


def test_two_processes_make_one_run_with_one_log_and_end_with_0(project: Project) -> None:
    for _ in range(2):
        code, out, err = project.run("train", *QUICK, "loader.num_workers=1")
        assert code == 0, err
        for text in ("parameters; ", " test   loss ", "predict   "):
            assert err.count(text) == 1
        assert "; 2 x cpu, 1 threads" in err
        assert "\r" not in err  # no bar where there is no terminal
        run = Path(out.strip())
        *lines, test = [json.loads(line) for line in (run / "metrics.jsonl").open("rb")]
        steps = [line["step"] for line in lines]
        assert (
            test["split"] == "test"
            and steps == sorted(steps)
            and result(run)["status"] == "finished"
        )
    assert len(list(run.parent.iterdir())) == 2


def test_two_agents_with_a_process_each_do_what_one_with_two_does(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    agent = f"--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port}"
    agent += " --rdzv-id 1 --local-addr 127.0.0.1"
    words = ("train", *QUICK, "name=agents")
    with project.launch(*words, agent=agent) as one, project.launch(*words, agent=agent) as two:
        ends = [process.communicate(timeout=300) for process in (one, two)]
        assert (one.returncode, two.returncode) == (0, 0), ends
    (run,) = [Path(out.strip()) for out, _ in ends if out]
    assert list(run.parent.glob("agents*")) == [run]
    assert result(run)["digest"] == result(project.train())["digest"]


def test_a_mistake_is_told_once(project: Project) -> None:
    for word, message in (
        ("optim.lrr=1", "error: command line: optim.lrr"),
        ("data.path=none.csv", "none.csv: expected a CSV file"),
        ("device=cuda:99", "error: device: expected auto, cpu:0, cpu:1"),
    ):
        code, out, err = project.run("train", word)
        assert (code, out) == (1, "")
        assert err.count("error: ") == 1 and message in err


def test_sigterm_to_torchrun_ends_in_a_checkpoint(project: Project) -> None:
    project.edit("__main__.py", "    sys.exit(main())\n", NOTED)
    words = ("train", *QUICK, "trainer.epochs=10000", "loader.num_workers=1")
    with project.launch(*words) as process:
        while not (runs := list((project.folder / "runs").glob("*/checkpoints/last.pt"))):
            time.sleep(0.1)
            assert process.poll() is None
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - start < 30  # when torchrun kills
    assert [(project.folder / f"code{rank}").read_text("utf-8") for rank in (0, 1)] == ["143"] * 2
    run = runs[0].parents[1]
    assert result(run)["status"] == "stopped"
    assert "stopped   by SIGTERM after step" in err and "train --resume" in err
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert state["trainer"]["step"] == result(run)["steps"]


NOTED = """    try:
        code = main()
    except SystemExit as exit_:
        code = exit_.code
    Path("code" + os.environ["RANK"]).write_text(str(code), encoding="utf-8")
    sys.exit(code)
"""
HIT = """        self.step += 1
        if self.step == 3 and self.share.rank == 1:
            import os

            {hit}
"""
ONCE = "os.path.exists('hit') or open('hit', 'w').close() or os._exit(9)"


def test_a_process_that_fails_ends_the_others_and_its_error_comes_first(project: Project) -> None:
    project.edit(
        "engine/trainer.py", "        self.step += 1\n", HIT.format(hit="raise KeyError('mine')")
    )
    start = time.monotonic()
    code, _, err = project.run("train", *QUICK, "trainer.epochs=1000")
    assert code == 1
    assert time.monotonic() - start < 60  # the timeout of gloo is 30 minutes
    assert "[rank1]: KeyError: 'mine'" in err
    assert "[rank0]" not in err.partition("[rank1]: KeyError: 'mine'")[0]
    (run,) = (project.folder / "runs").iterdir()
    assert result(run)["status"] == "failed"


def test_torchrun_restarts_what_crashed_and_it_goes_on(project: Project) -> None:
    whole = project.train("trainer.save_every=2", "name=whole")
    project.edit("engine/trainer.py", "        self.step += 1\n", HIT.format(hit=ONCE))
    words = ("train", "--run", "part", *QUICK, "trainer.save_every=2")
    run = project.folder / "runs" / "part"
    code, _, _ = project.run(*words)
    assert code == 1 and result(run)["status"] == "failed"
    for resumes in (2, 1):  # the same command continues a run, and starts one
        (project.folder / "hit").unlink()
        code, out, err = project.run(*words, agent=f"{ONE_AGENT} --max-restarts 1")
        assert (code, out.strip()) == (0, str(run)), err
        assert (project.folder / "hit").exists()  # it crashed, and was started again
        assert result(run) == result(whole)
        manifest = json.loads((run / "manifest.json").read_text("utf-8"))
        assert len(manifest["resumes"]) == resumes
        shutil.rmtree(run)


def test_a_run_of_two_processes_is_reproduced_by_two_and_by_one(project: Project) -> None:
    run = project.train()
    assert json.loads(project.in_two("reproduce", str(run)))["identical"] is True
    assert json.loads(project.alone("reproduce", str(run)))["identical"] is True


def test_a_compiled_model_is_saved_like_any_other(project: Project) -> None:
    options = ("model.dropout=0", "loader.limit=128")  # full batches only: compiled once
    compiled = project.train("trainer.compile=true", "name=compiled", *options)
    plain = Path(project.alone("train", *QUICK, "name=plain", *options))
    assert_near(plain, compiled)
    values = [json.loads(project.alone("evaluate", str(run))) for run in (plain, compiled)]
    assert values[0]["accuracy"] == pytest.approx(values[1]["accuracy"], abs=0.01)
    alone = Path(project.alone("train", *QUICK, "trainer.compile=true", *options))
    assert_near(plain, alone)


def test_a_sharded_model_gives_the_result_of_one_that_is_not(project: Project) -> None:
    plain = ("model.dropout=0", "trainer.max_grad_norm=0.5", "optim.scheduler=constant")
    whole = Path(project.alone("train", *QUICK, *plain, "name=whole", "trainer.epochs=4"))
    half = Path(project.alone("train", *QUICK, *plain, "name=half"))
    sharded = project.train(*plain, "name=sharded", "sharding=true")
    assert_near(half, sharded)
    again = shutil.copytree(sharded, sharded.with_name("again"))
    assert project.in_two("train", "--resume", str(sharded), "trainer.epochs=4") == str(sharded)
    assert project.alone("train", "--resume", str(again), "trainer.epochs=4") == str(again)
    for run in (sharded, again):
        assert_near(whole, run)
    together = json.loads(project.in_two("evaluate", str(sharded)))
    alone = json.loads(project.alone("evaluate", str(sharded)))
    assert together | {"loss": 0} == alone | {"loss": 0}
