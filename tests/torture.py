"""Kill training runs of a generated project at random moments, and let them go on to their end."""

#     python tests/torture.py PROJECT --kills 30 --seed 0
#
# A run that was killed by SIGKILL and continued must end bit for bit like one that was not.

import argparse
import importlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch

sys.dont_write_bytecode = True  # the project stays as it is
for name in ("torch._dynamo", "torch.utils.tensorboard"):  # once here, not in each run
    importlib.import_module(name)

LANES = 2  # scenarios side by side: a run that goes on waits up to 1 s for a new event file
CHOICES: dict[str, tuple[Any, ...]] = {
    "seed": tuple(range(100)),
    "data.limit": (145, 150),  # 145: the last batch is one sample, too few for micro-batches
    "data.batch_size": (8,),
    "data.num_workers": (0, 2),
    "model.hidden": (256,),  # a save takes long enough to be caught
    "optim.scheduler": ("constant", "cosine", "linear", "plateau"),
    "optim.warmup": (0, 9),
    "optim.patience": (0,),
    "trainer.epochs": (3,),
    "trainer.accumulate": (1, 3),
    "trainer.clip": (0, 0.1),
    "trainer.log_every": (1, 2),
    "trainer.save_every": (0, 3, 7),
    "trainer.monitor": ("accuracy", "loss"),
    "trainer.patience": (0, 0, 0, 1),
}


class Difference(Exception):
    """What a run that was killed has otherwise than it should."""


def expect(condition: object, text: str) -> None:
    if not condition:
        raise Difference(text)


@dataclass
class Noisy:
    """A dataset whose samples are another's with random numbers of three kinds added."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, target = self.dataset[index]
        return inputs + torch.rand(1) + random.random() + float(numpy.random.random()), target


class Scenario:
    """Options of a run, and when to kill it; both follow from the seed and the number alone."""

    def __init__(self, package: str, seed: int, number: int, folder: Path) -> None:
        self.package, self.folder = package, folder
        self.random = random.Random(f"{seed} {number}")
        self.options = {key: self.random.choice(values) for key, values in CHOICES.items()}
        self.options["optim.warmup"] *= self.options["optim.scheduler"] != "plateau"
        self.noisy, self.threads = self.random.choice((False, True)), self.random.choice((1, 2))
        self.kills: Counter[str] = Counter()

    def __str__(self) -> str:
        options = {k.rpartition(".")[2]: self.options[k] for k, v in CHOICES.items() if len(v) > 1}
        options |= {"noisy": int(self.noisy), "threads": self.threads}
        return " ".join(f"{key}={value}" for key, value in options.items())

    def execute(self) -> None:
        options = [f"{key}={value}" for key, value in self.options.items()]
        words = ["train", f"output_dir={self.folder}/whole", *options]
        self.run(words, self.threads)
        (whole,) = (self.folder / "whole").iterdir()
        words[1] = f"output_dir={self.folder}/part"
        threads, kept, left = self.threads, b"", self.random.randint(1, 4)
        while True:
            is_dead = self.run(words, threads, self.trigger(whole, left) if left else None)
            (part,) = (self.folder / "part").iterdir()
            log = read(part / "metrics.jsonl")
            expect(log.startswith(kept), "the log lost what was in it at the checkpoint")
            if not is_dead:
                break
            self.kills["saving" if self.saving() else "later" if log else "early"] += 1
            kept, left = log[: self.logged(part)], left - 1
            words = ["train", "--resume", str(part)]
            threads = 3 - self.threads  # not those of the run, which must set them itself
        self.compare(whole, part)

    def trigger(self, whole: Path, left: int) -> Callable[[], bool]:
        """Whether the run that is about to start has come to the moment at which it is to die."""
        log = max((len(read(path)) for path in self.folder.glob("part/*/metrics.jsonl")), default=0)
        end = 0.9 * len(read(whole / "metrics.jsonl"))
        size = (whole / "checkpoints" / "last.pt").stat().st_size
        kind = self.random.choice(("any", "line", "save"))
        target = log + self.random.random() * max(0, end - log) / left
        part, delay = self.random.random(), self.random.random()
        self.stale = {path: path.stat().st_mtime_ns for path in self.temporary()}

        def is_due() -> bool:
            runs = [*self.folder.glob("part/*/manifest.json")]  # without it there is no run yet
            if kind == "any":
                time.sleep(delay * 0.1 if runs else 0)
                return bool(runs)
            if not runs or length(runs[0].with_name("metrics.jsonl")) <= target:
                return False
            if kind == "line":
                time.sleep(delay * 0.01)
                return True
            return any(length(path) >= part * size for path in self.saving())

        return is_due

    def temporary(self) -> list[Path]:
        return [*self.folder.glob("part/*/checkpoints/*.tmp")]

    def saving(self) -> list[Path]:
        """The checkpoints that are being written, or were when the run died."""
        return [p for p in self.temporary() if p.stat().st_mtime_ns != self.stale.get(p)]
