"""Commands in one process and in several, to be compared with each other.

`together` starts several processes once, as torchrun would, and has them do a list of jobs one
after the other.
"""

import contextlib
import functools
import io
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TinyTask, install
from torch import Tensor, nn
from torch._C._distributed_c10d import TCPStore

from {{ cookiecutter.__package_name }}.__main__ import main
from {{ cookiecutter.__package_name }}.engine import record
from {{ cookiecutter.__package_name }}.engine.trainer import (
    MicroBatch,
    Output,
    Step,
    Trainer,
)


@dataclass
class Job:
    """A command of the project, the task that it is about, and what happens to it meanwhile."""

    words: list[str]
    """a word that ends in `/*` stands for the only file or folder there"""
    samples: int = 45
    """in each split"""
    is_double: bool = True
    """whether to compute in float64, where rounding cannot hide an error"""
    has_units: bool = False
    """whether the loss counts positive coordinates, of which samples have different numbers"""
    has_unused_parameter: bool = False
    """whether a parameter of the model gets no gradient"""
    dropout: float = 0.0
    """share of the hidden units that are left out in training"""
    is_balanced: bool = False
    """whether an epoch draws both classes of points equally often"""
    has_batch_norm: bool = False
    """whether batch norm stands before the model"""
    fails_at: int = 0
    """the step after which all processes fail"""
    is_signalled_at: int = 0
    """the step after which the last process, and no other, gets SIGTERM"""


@dataclass
class Counted:
    """A dataset that notes which samples are loaded."""

    dataset: Any
    loaded: list[int]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        self.loaded.append(index)
        return self.dataset[index]


def do(job: Job) -> dict[str, Any]:
    """Type its command: the exit code, what was printed, and what this process did meanwhile."""
    seen: dict[str, Any] = {"draws": [], "digests": [], "loaded": {}}
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        install(patch.setattr, watched_task(job, seen))
        try:
            seen["code"] = main([only(word) for word in job.words])
        except KeyError:
            seen["code"] = "failed"
        except SystemExit as stopped:
            seen["code"] = stopped.code
    out.seek(0)
    return {**seen, "out": out.read(), "err": err.getvalue()}


def only(word: str) -> str:
    """The word, or the path of the only file or folder in `PARENT/*`."""
    if not word.endswith("/*"):
        return word
    (path,) = Path(word).parent.iterdir()
    return str(path)


def watched_task(job: Job, seen: dict[str, Any]) -> type[TinyTask]:
    """The task of a job, which notes in `seen` what happens in this process."""

    class WatchedTrainer(Trainer):
        def update(self, micro_batches: Sequence[MicroBatch], total: int) -> None:
            super().update(micro_batches, total)
            seen["digests"].append(record.digest(self.model.state_dict()))

        def train_step(self, step: Step) -> None:
            super().train_step(step)
            if self.step == job.fails_at:
                raise KeyError
            if self.step == job.is_signalled_at and self.share.rank == self.share.world_size - 1:
                signal.raise_signal(signal.SIGTERM)

    class WatchedTask(TinyTask):
        trainer = WatchedTrainer
        sizes = dict.fromkeys(["train", "val", "test"], job.samples)
        dtype = torch.float64 if job.is_double else torch.float32
        dropout = job.dropout
        is_balanced = job.is_balanced

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            if job.has_units:
                self.units = count_positive

        def datasets(self) -> dict[str, Any]:
            datasets = super().datasets()
            seen["loaded"] = {split: [] for split in datasets}
            return {split: Counted(datasets[split], seen["loaded"][split]) for split in datasets}

        def build_model(self) -> nn.Module:
            model = super().build_model()
            if job.has_batch_norm:  # which takes a single sample, since it has four places
                places = nn.Unflatten(1, (4, 4))
                norm = nn.BatchNorm1d(4, dtype=self.dtype)
                model = nn.Sequential(places, norm, nn.Flatten(), model)
            if job.has_unused_parameter:
                model.register_parameter("unused", nn.Parameter(torch.zeros(3, dtype=self.dtype)))
            return model

        def forward(self, model: nn.Module, batch: Any) -> Output:
            if model.training:
                seen["draws"].append(torch.rand(()).item())  # as dropout does
            output = super().forward(model, batch)
            if not job.has_units:
                return output
            inputs, _ = batch
            losses = output.losses[:, None] * (inputs > 0)  # (batch, coordinates)
            return Output(losses, output.preds, output.target)

    return WatchedTask


def count_positive(batch: tuple[Tensor, Tensor]) -> int:
    """The number of positive coordinates in a batch: its units."""
    inputs, _ = batch
    return int((inputs > 0).sum())


@functools.cache
def context() -> Any:
    """What starts processes, except on Windows by forking one that has imported all of a run."""
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([__name__, "torch._dynamo", "torch.utils.tensorboard"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    return found


def together(folder: Path, jobs: list[Job], processes: int = 2) -> list[list[dict[str, Any]]]:
    """For each job what each of the processes did."""
    # They meet at a store of this process, as the processes of torchrun do at one of torchrun.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = []
    for rank in range(processes):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "GROUP_WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_RUN_ID": "tests",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        process = context().Process(target=do_all, args=(jobs, environment, folder))
        process.start()
        started.append(process)
    try:
        for process in started:
            process.join(timeout=120)
        assert [process.exitcode for process in started] == [0] * processes
    finally:
        for process in started:
            process.kill()
    texts = [(folder / f"{rank}.json").read_text("utf-8") for rank in range(processes)]
    return [list(seen) for seen in zip(*map(json.loads, texts), strict=True)]


def do_all(jobs: list[Job], environment: dict[str, str], folder: Path) -> None:
    """Do jobs as one of several processes, and leave what it did in the folder."""
    os.environ.update(environment)
    torch.set_num_threads(1)  # as torchrun has it
    multiprocessing.set_start_method(None, force=True)  # for workers, as users have it
    found = [do(job) for job in jobs]
    (folder / f"{environment['RANK']}.json").write_text(json.dumps(found), encoding="utf-8")
