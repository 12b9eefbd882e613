"""Commands in one process and in the processes of torchrun, to be compared with each other.

`together` starts torchrun once, and has its processes do a list of jobs one after the other.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from {{ cookiecutter.__package_name }} import data, record
from {{ cookiecutter.__package_name }} import train as train_module
from {{ cookiecutter.__package_name }}.__main__ import main
from {{ cookiecutter.__package_name }}.trainer import Trainer


@dataclass
class Job:
    """A command of the project, and what happens to it at the end of which step."""

    words: list[str]
    fails_at: int = 0
    is_signalled_at: int = 0  # the last of the processes, not the others


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


class Linear(nn.Linear):
    """In float64, where rounding cannot hide an error, and without dropout."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.double())


def do(job: Job) -> dict[str, Any]:
    """Type its command: the exit code, what was printed, and what this process did meanwhile."""
    seen: dict[str, Any] = {"draws": [], "digests": [], "loaded": {}}
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with watched(job, seen), contextlib.redirect_stdout(out):
        try:
            seen["code"] = main(job.words)
        except SystemExit as exit_:
            seen["code"] = exit_.code
        except KeyError:
            seen["code"] = "failed"
    out.seek(0)
    return {**seen, "out": out.read()}


@contextlib.contextmanager
def watched(job: Job, seen: dict[str, Any]) -> Iterator[None]:
    def build_datasets(*arguments: Any) -> Any:
        datasets, classes = data.build_datasets(*arguments)
        loaded = seen["loaded"] = {name: [] for name in datasets}
        return {name: Counted(datasets[name], loaded[name]) for name in datasets}, classes

    def build_model(config: Any, classes: list[str]) -> nn.Module:
        return Linear(config.data.features, len(classes)).double()

    class Watched(Trainer):
        def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
            if self.model.training:
                seen["draws"].append(torch.rand(()).item())  # as dropout does
            return super().forward(batch)

        def train_step(self, *arguments: Any) -> None:
            super().train_step(*arguments)
            seen["digests"].append(record.digest(self.model.state_dict()))
            if self.step == job.fails_at:
                raise KeyError
            if self.step == job.is_signalled_at and self.rank == self.world - 1:
                signal.raise_signal(signal.SIGTERM)

    with (
        patch.object(train_module, "build_datasets", build_datasets),
        patch.object(train_module, "build_model", build_model),
        patch.object(train_module, "Trainer", Watched),
    ):
        yield


def together(folder: Path, jobs: list[Job], processes: int = 2) -> list[list[dict[str, Any]]]:
    """For each job what each of the processes did."""
    given = folder / "jobs.json"
    given.write_text(json.dumps([asdict(job) for job in jobs]), encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launch, __file__, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(record.__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, errors = process.communicate(timeout=120)
        finally:
            process.terminate()  # and it ends the others
    assert process.returncode == 0, errors
    texts = [(folder / f"{rank}.json").read_text("utf-8") for rank in range(processes)]
    return [list(seen) for seen in zip(*map(json.loads, texts), strict=True)]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = [do(Job(**job)) for job in json.loads((folder / "jobs.json").read_text("utf-8"))]
    rank = torch.distributed.get_rank()
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
