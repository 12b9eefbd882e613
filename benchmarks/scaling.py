"""What a second process brings: samples a second in one or more, a thread each."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BATCH, ROWS = 4096, 26_000  # about 20,800 of the rows are for training
# 16.8 million weights: heavy enough that the arithmetic matters.
OPTIONS = [
    "model.hidden=4096",
    f"loader.batch_size={BATCH}",
    "trainer.max_steps=5",
    "optim.lr=1e-4",
]
OPTIONS += ["trainer.epochs=1", "trainer.log_every=1", "device=cpu"]


def rate(project: Path, processes: int) -> float:
    """Samples a second of the steps of an epoch but the first, which loads what others need too."""
    (package,) = project.glob("src/*/__init__.py")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.csv"
        lines = [f"sample {i * 7919},{'ab'[i % 2]}" for i in range(ROWS)]
        data.write_text("\n".join(["text,label", *lines]), encoding="utf-8")
        words = ["train", *OPTIONS, f"data.path={data}", f"output_dir={folder}/runs"]
        launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, "-m", *launch, "-m", package.parent.name, *words]
        environment = {**os.environ, "PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment, capture_output=True)
        (log,) = Path(folder).glob("runs/*/metrics.jsonl")
        found = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    first, *_, last = (line for line in found if line["split"] == "train")
    return float((last["step"] - first["step"]) * BATCH / (last["time"] - first["time"]))
