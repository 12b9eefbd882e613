"""Evaluate a run, predict with it, or load its model into a notebook."""

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .engine import checkpoint, distributed, record
from .engine.logger import null_if_not_finite
from .engine.record import Facts
from .engine.task import DataError, one_line
from .task import Task
from .train import PACKAGE, Run, load_config


def load(run: Path | str, name: str = "best") -> tuple[nn.Module, Task]:
    """The model of a run in eval mode, on the CPU, and the task with what it has learnt.

    `name` is the checkpoint: "best", "last", or another one that the run has kept.
    """
    folder = Path(run)
    settings = load_config(folder / "config.yaml")
    state = checkpoint.load(folder / "checkpoints" / f"{name}.pt")
    task = Task(settings.data, settings.model, Path.cwd())
    restore(state, {"task": task})
    model = task.build_model()
    restore({"weights": checkpoint.weights_of(state)}, {"weights": model})
    return model.eval(), task


def evaluate(folder: Path, split: str, name: str, root: Path) -> Facts:
    """The metrics of a checkpoint on a split of today's data, on whatever device there is."""
    warn_of_other_source(folder)
    state = checkpoint.load(folder / "checkpoints" / f"{name}.pt")
    checkpoint.check_like(state, {"task": {}, "trainer": {"step": 0}})
    # What only training needs must not stop an evaluation on other data or another machine.
    changes = ["device=auto", "sharding=false", "loader.drop_last=false"]
    changes += ["optim.warmup=0", "optim.groups={}", "optim.ema=0"]
    settings = load_config(folder / "config.yaml", changes)
    run = Run(settings, root, learnt=state["task"], beside=folder)
    restore({"weights": checkpoint.weights_of(state)}, {"weights": run.model})
    if split not in run.loaders:
        raise record.RunError(f"the data has no {split} split; there are: {', '.join(run.loaders)}")
    if run.is_main:
        warn_of_other_data(run, folder)
    values = run.trainer.evaluate(run.loaders[split])
    step = state["trainer"]["step"]
    where = {"split": split, "checkpoint": name, "step": step, "samples": run.loaders[split].size}
    return {**where, **run.task.report(), **null_if_not_finite(values)}


def restore(state: Facts, parts: Facts) -> None:
    """Load the state of parts; an error says how to load what today's code cannot."""
    try:
        checkpoint.restore(state, parts)
    except checkpoint.CheckpointError as error:
        raise checkpoint.CheckpointError(f"{error}; --source run uses the run's own code") from None


def warn_of_other_data(run: Run, folder: Path) -> None:
    """Say so if the data is not what it was when the run began."""
    manifest = record.read(folder / "manifest.json")
    run.hash_data()
    if manifest.get("data") != record.fingerprint_of(run.hashes):
        print(f"warning: {one_line(run.data_changed(folder))}", file=sys.stderr)


def warn_of_other_source(folder: Path) -> None:
    """Say so, once, if the code that runs is not what ran when the run began."""
    today = record.fingerprint(PACKAGE, pattern="*.py")
    source = record.read(folder / "manifest.json").get("source", today)
    if source != today and os.environ.get("RANK", "0") == "0":
        print(
            "warning: the source code has changed since the run began; "
            "--source run uses the run's own code",
            file=sys.stderr,
        )


@torch.no_grad()
def predict(folder: Path, inputs: Iterable[str]) -> Iterator[Facts]:
    """An answer for each input, in order, in batches.

    There is none for an input that the task cannot take: that is reported on stderr, and raises
    DataError in the end.
    """
    warn_of_other_source(folder)
    model, task = load(folder)
    model.to(distributed.select_device("auto", deterministic=True))
    batch_size = load_config(folder / "config.yaml").loader.batch_size
    errors: list[Exception] = []
    samples = parsed(task, inputs, errors)
    while batch := list(islice(samples, batch_size)):
        yield from task.predict(model, batch)
    if errors:
        raise DataError(f"there is no answer for {len(errors)} of the inputs")


def parsed(task: Task, inputs: Iterable[str], errors: list[Exception]) -> Iterator[Any]:
    """The inputs that the task can take, as samples; reports and collects errors about others."""
    for number, text in enumerate(inputs, start=1):
        try:
            yield from task.samples(text)
        except (ValueError, LookupError, OSError) as error:
            errors.append(error)
            print(f"error: input {number}: {one_line(str(error))}", file=sys.stderr)
