"""What a second process brings: samples a second in one or more, a thread each."""

#     python benchmarks/scaling.py work PROJECT DETERMINISTIC   # what torchrun starts, in a folder

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import sides

BATCH, STEPS = 4096, 6
# 16.8 million weights: heavy enough that the arithmetic matters.
heavy = partial(sides.task, STEPS * BATCH // sides.BATCH, 4096, 4096)


def rate(project: Path, processes: int, deterministic: bool = True) -> float:
    """Samples a second of the steps but the first, which loads what others need too.

    Two processes add gradients in an order that does not depend on their number, or, if not
    deterministic, by all-reduce.
    """
    launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    work = [__file__, "work", str(project), str(deterministic)]
    command = [sys.executable, "-m", *launch, *work]
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(command, check=True, env=environment, capture_output=True, cwd=folder)
        (log,) = Path(folder).glob("runs/*/metrics.jsonl")
        found = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    first, *_, last = (line for line in found if line["split"] == "train")
    return float((last["step"] - first["step"]) * BATCH / (last["time"] - first["time"]))


def work(deterministic: bool) -> None:
    """The steps, in each of the processes."""
    train = sides.project("train")
    train.Task = sides.task_of(heavy)
    config = train.Config(device="cpu", deterministic=deterministic, output_dir="runs")
    options = {"epochs": 1, "max_steps": STEPS, "log_every": 1, "monitor": "loss"}
    run = train.Run(
        replace(
            config,
            loader=replace(config.loader, batch_size=BATCH),
            trainer=replace(config.trainer, **options),
        ),
        Path.cwd(),
    )
    run.start(run.manifest())
    run.trainer.fit(run.loaders["train"], run.loaders["val"])


if __name__ == "__main__":
    work(deterministic=sys.argv[3] == "True")
