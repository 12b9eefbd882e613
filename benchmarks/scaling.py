"""What a second process brings: samples a second of two over those of one, a thread each."""

#     python benchmarks/scaling.py PROJECT

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPEATS = 5
# 16.8 million weights and steps of 1,024 samples: heavy enough that the arithmetic matters.
OPTIONS = ["model.hidden=4096", "data.batch_size=1024", "trainer.max_steps=5", "optim.lr=1e-4"]
OPTIONS += ["trainer.log_every=1", "data.limit=5120", "device=cpu"]


def rate(project: Path, processes: int) -> float:
    """Samples a second of a run, without its first step, which loads what the others need."""
    (package,) = project.glob("src/*/__init__.py")
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", package.parent.name, "train", *OPTIONS, f"output_dir={folder}"]
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        environment = {**os.environ, "PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launch, *words]
        subprocess.run(command, check=True, env=environment, capture_output=True)
        (log,) = Path(folder).glob("*/metrics.jsonl")
        lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    first, *_, last = (line for line in lines if line["split"] == "train")
    return float((last["step"] - first["step"]) * 1024 / (last["time"] - first["time"]))


def main() -> None:
    project = Path(sys.argv[1]).resolve()
    pairs = [(rate(project, 1), rate(project, 2)) for _ in range(REPEATS)]
    ratios = sorted(two / one for one, two in pairs)
    for name, rates in zip(("one process", "two"), zip(*pairs, strict=True), strict=True):
        print(f"{name}: {statistics.median(rates):.0f} samples a second")
    print(f"{statistics.median(ratios):.2f} times (from {ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
