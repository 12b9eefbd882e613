"""The generated tests turn red when what keeps a resumed or repeated run exact is broken."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STATE = '("epoch", "step", "loss_sum", "count", "logged", "lr", "best", "stale")'
RESTORE = 'if hasattr(part, "load_state_dict")'
WATCH = "_compare(next(log, {}), run.logger.log(line))"
MUTANTS = {  # what is broken: file, what it has, what is put there, tests that tell
    "the position in the epoch is lost": (
        "trainer.py",
        "start = self.step - self.epoch * len(train)",
        "start = 0",
        "resume -k continued",
    ),
    "dropout does not depend on the step": (
        "trainer.py",
        "(self.seed, self.step, shard)",
        "(self.seed, 0, shard)",
        "trainer",
    ),
    "a sample does not depend on the epoch": (
        "data.py",
        "(self.seed or 0, epoch, index)",
        "(self.seed or 0, 0, index)",
        "data",
    ),
    "the order does not depend on the epoch": (
        "data.py",
        "(self.seed, epoch))",
        "(self.seed, 0))",
        "data",
    ),
    "a resume trains from scratch": (
        "train.py",
        'checkpoint.load_latest(folder / "checkpoints")',
        "None",
        "resume -k continued",
    ),
    "a resume takes the threads of the machine": (
        "train.py",
        'manifest["threads"])',
        "2)",
        "resume -k one_thread",
    ),
    "the log is not cut back": (
        "logger.py",
        'self.file.truncate(state["bytes"])',
        "pass",
        "resume -k continued",
    ),
    "a run from another starts over without it": (
        "train.py",
        'elif manifest["parent"]:',
        "elif False:",
        "resume -k from_another",
    ),
    "a run has no lock": (
        "logger.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_UN",
        "resume -k two_processes",
    ),
    "workers share the group of the run": (
        "data.py",
        'getattr(os, "setpgrp", int)()',
        "return",
        "resume -k whole_group",
    ),
    "reproduce compares the old log with itself": (
        "reproduce.py",
        WATCH,
        "_compare(run.logger.log(line), {**line, 'time': 0})",
        "reproduce",
    ),
    "reproduce compares the old result with itself": (
        "reproduce.py",
        'again / "result.json"',
        'folder / "result.json"',
        "reproduce -k no_line_shows",
    ),
    "processes draw the same numbers": (
        "trainer.py",
        "(self.seed, self.step, shard)",
        "(self.seed, self.step, self.own.index(shard))",
        "distributed -k random_numbers",
    ),
    "processes that share a batch each take the mean": (
        "trainer.py",
        "self.world / total if count",
        "1 / count if count",
        "distributed",
    ),
    "losses are those of one process": (
        "trainer.py",
        "dist.all_reduce(sums)",
        "dist.broadcast(sums, 0)",
        "distributed",
    ),
    "metrics are those of one process": (
        "metrics.py",
        "torch.distributed.all_reduce(counts)",
        "torch.distributed.broadcast(counts, 0)",
        "distributed",
    ),
    "every process loads the whole batch": (
        "data.py",
        "batch[len(batch) * i // of : len(batch) * (i + 1) // of] for i in own",
        "batch for i in own",
        "distributed -k loaded_once",
    ),
    "the stand-in for an empty shard is trained on": (
        "trainer.py",
        "self.world / total if count else 0",
        "self.world / total",
        "distributed",
    ),
    "each step waits for its loss": (
        "trainer.py",
        "        self.count += total",
        "        self.count += total\n        self.sync_loss()",
        "trainer -k waits",
    ),
    "weights whose sum is too large count as not finite": (
        "trainer.py",
        " or p.isfinite().all()",
        "",
        "trainer",
    ),
    "a batch that comes as a list of samples is left so": (
        "data.py",
        "return self.loader.collate_fn(batch)",
        "return batch",
        "data",
    ),
    "gradients are clipped while they are scaled": (
        "trainer.py",
        "self.scaler.unscale_(self.optimizer)",
        "pass",
        "trainer",
    ),
    "the schedule moves with a step that is skipped": (
        "trainer.py",
        " and not is_skipped",
        "",
        "trainer",
    ),
    "biases decay": (
        "optim.py",
        '"params": others, "weight_decay": 0.0',
        '"params": others',
        "optim",
    ),
}
for key in ("model_state_dict", "optimizer_state_dict", "scheduler", "scaler", "trainer"):
    broken = f"{RESTORE} and key != {key!r}"
    MUTANTS[f"{key} is not restored"] = "checkpoint.py", RESTORE, broken, "resume -k continued"
for key in ("epoch", "step", "loss_sum", "count", "logged", "lr", "best", "stale"):
    broken = STATE.replace(f'"{key}"', '"step"' if key == "epoch" else '"epoch"')
    tests = "resume -k " + ("every_step_of_its_way" if key == "logged" else "continued")
    MUTANTS[f"{key} is not restored"] = "trainer.py", STATE, broken, tests


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(default_bake: Path, tmp_path: Path, name: str) -> None:
    file, old, new, tests = MUTANTS[name]
    module, *selection = tests.split()
    project = shutil.copytree(default_bake, tmp_path / "project")
    (path,) = project.glob(f"src/*/{file}")
    source = path.read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} is not in {file} once"
    path.write_text(source.replace(old, new), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", f"tests/test_{module}.py", *selection],
        cwd=project,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )
    assert result.returncode == 1, result.stdout  # 1: a test failed, and not its collection
    assert " failed" in result.stdout
