"""Measures what README.md says of speed, and writes RESULTS.md beside this file: `make bench`."""

#     python benchmarks/bench.py PROJECT [WORD]   # with a WORD those of that title anew, on the
#                                                 # same machine; the others stay as they are
#
# The sides of a comparison take turns, round by round, on one thread each. The result is
# the median of the ratios of the rounds, with the lowest and the highest of them.

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import peers
import scaling

HERE = Path(__file__).resolve().parent
# Rounds, and one before them that does not count: more where a disk or many processes take part,
# fewer where a round is long.
ROUNDS = {"A checkpoint": 31, "The command": 21, "A larger": 5, "A sample": 5, "": 11}
TABLE = "| | ours | other | ours / other | at most |\n|---|---|---|---|---|\n"
PACKAGES = ("torch", "numpy", "tensorboard", "lightning", "accelerate", "pytorch-ignite", "pillow")
Round = Callable[[], float]  # does a round, and gives its seconds


@dataclass(frozen=True)
class Row:
    what: str
    ours: str
    other: str
    target: float | None = None
    steps: int = 0  # in a round, where the time of one is told
    is_difference: bool = False  # of seconds, and not a ratio


MEMORY = "memory of 10,000 steps more, from step 1,000 to 51,000"
STEP, LARGE_STEP = "perceptron 64-128-10, batches of 64", "512-1024-1024-10, batches of 64"
WORDS = "5,735 words and a pass over 748 more"
COMPARISONS = {
    f"A training step: {STEP}": [
        Row("step over the tutorial loop", "ours", "tutorial", 0.70, 1000),
        Row("step with clipping, over the tutorial", "ours, clip", "tutorial, clip", 0.78, 1000),
        Row("step over the floor", "ours", "floor", 1.30, 1000),
        Row("step with clipping, over the floor", "ours, clip", "floor, clip", None, 1000),
    ],
    "The same step in libraries": [
        Row("step over Lightning", "ours", "lightning", 0.35, 1000),
        Row("step over Accelerate", "ours", "accelerate", 0.60, 1000),
        Row("step over ignite", "ours", "ignite", 0.70, 1000),
    ],
    "The same step with what ours has: fused AdamW, and whole batches at once": [
        Row("step over the tutorial loop, tuned", "ours", "tutorial, tuned", None, 1000),
        Row("step over Lightning, tuned", "ours", "lightning, tuned", None, 1000),
        Row("step over Accelerate, tuned", "ours", "accelerate, tuned", None, 1000),
        Row("step over ignite, tuned", "ours", "ignite, tuned", None, 1000),
    ],
    f"A larger model's: perceptron {LARGE_STEP}": [
        Row("large step over the tutorial loop", "ours, long", "tutorial, long", None, 1000),
        Row("large step over the tutorial loop, tuned", "ours, long", "tutorial, long, tuned",
            1.05, 1000),
    ],
    "The same in epochs of 60 steps, and so with a checkpoint of 19 MB each 60 steps": [
        Row("large step with checkpoints over the tutorial loop, tuned, which has none",
            "ours, large", "tutorial, large, tuned", None, 60),
        Row("large step over Lightning, tuned", "ours, large", "lightning, large, tuned", None, 60),
        Row("large step over Accelerate, tuned", "ours, large", "accelerate, large, tuned",
            None, 60),
        Row("large step over ignite, tuned", "ours, large", "ignite, large, tuned", None, 60),
    ],
    f"An epoch of the default project: {WORDS}": [
        Row("epoch over a tutorial that encodes", "ours, words", "words in collate", 0.65),
        Row("epoch over one on encoded tensors", "ours, words", "words in tensors", 0.75),
        Row("epoch over itself without `deterministic`", "ours, words", "ours, words, free"),
    ],
    "Evaluation of a batch of 64": [
        Row("evaluation over the tutorial's pass", "ours, pass", "tutorial, pass", 0.70, 1000),
        Row("large evaluation over a bare pass", "ours, pass, large", "bare pass, large", 1.15, 60),
    ],
    "A checkpoint of 98 MB, the weights alone": [
        Row("saving 98 MB over torch.save and fsync", "ours, save", "save", 1.10),
    ],
    "A checkpoint of 295 MB, with the state of AdamW": [
        Row("saving a run of 295 MB over the same", "ours, save a run", "save with optimizer"),
    ],
    "Growth": [
        Row("step at 100 times the data, the shuffle apart", "ours, of 10,100 steps",
            "ours, of 101 steps", 1.10, 100),
        Row("step after 100,000 over the first ones", "ours, late", "ours, early", 1.10, 200),
        Row("first step of a resume, late over early in a million samples",
            "ours, at 15,000", "ours, at 10", 1.10, 1),
    ],
    "A pass over 128 pictures: JPEG files of 158 KB, read and made smaller, in batches of 32": [
        *(Row(f"pictures, num_workers={n}, over a DataLoader", f"ours, images, {n}", f"images, {n}")
          for n in range(3)),
        *(Row(f"pictures, num_workers={n}, over 0", f"ours, images, {n}", "ours, images, 0")
          for n in (1, 2)),
    ],
    "The command line, as a whole process": [
        *(Row(f"`{what}`, beyond `python -c pass`", what, "pass", 0.15, is_difference=True)
          for what in ("--help", "train --help", "evaluate NOTHING", "train NOTHING")),
        Row("`train` to its first step, over a script that makes one", "train", "script", 1.3),
        Row("generating a project, over `import cookiecutter.main`", "generate", "import", 2.0),
        Row("generating without hooks, over the same", "generate, no hooks", "import"),
        Row("`cookiecutter --version`, over the same", "version", "import"),
    ],
    "A sample in two processes: 16.8 million weights, batches of 4,096": [
        Row("sample over that of one process", "two processes", "one process", 0.60),
        Row("exact order over all-reduce", "two processes", "two, all-reduce"),
    ],
}  # fmt: skip
# How many processes, and whether they add gradients in the order of micro-batches.
PROCESSES = {
    "one process": (1, True),
    "two processes": (2, True),
    "two, all-reduce": (2, False),
}
CONDITIONS = """\
All of them run on one thread. All that train do so in float32, on the same data and model, by AdamW
with two groups of parameters (biases do not decay), of the same rate, and with a cosine schedule
that moves after each step.

- **ours**: a run of the generated project as `train` does it, with the default config:
  metrics.jsonl and TensorBoard each 50 steps, lines on stderr (there is no terminal, so no bar),
  the check for signals, dropout's seeding, a pass over val (one sample, but in the rows of the
  words) and a checkpoint each epoch, deterministic algorithms, fused AdamW.
- **tutorial**: a `DataLoader` over a `TensorDataset`, `AdamW` as it comes, `optimizer.zero_grad()`;
  nothing is logged, measured or saved. Its pass over data is that of PyTorch's quickstart: loss and
  accuracy, by `item()`.
- **floor**: fused AdamW, and slices of one tensor that is shuffled once an epoch; nothing else.
- **Lightning**, **Accelerate**, **ignite**: the loss to TensorBoard each 50 steps and a checkpoint
  each epoch; no bar. Data and AdamW are those of the tutorial.
- **tuned**: what ours has and others can have too: fused AdamW, and a dataset that gives a whole
  batch at once (`__getitems__`). On a small model this is all that the tutorial loses, and a part
  of what the libraries do. On a large one nearly nothing is lost.
- **encodes in collate**: the project's own encoder, called for each sample in `collate_fn`;
  **encoded tensors**: the same, once and beforehand. Both make a pass over val.
- An epoch has 1,000 steps, so that what is done once an epoch is a small part of a step, as it is
  where epochs are long. In those of the larger model denormal numbers are taken as zero, on all
  sides. Libraries on the larger model have epochs of 60 steps, as has ours beside them.
- **a bare pass**: the model alone, on slices of a tensor. Ours adds loss, accuracy and macro F1.
- **saving**: the weights, to one file, synced. Ours keeps the file before it, too. A run is saved
  with the state of AdamW, after a check that all weights are finite, and the log is synced.
- **100 times the data**: 646,400 samples over 6,464, a hundred steps in the middle of an epoch.
  **100,000 steps**: whole epochs of 200. **a resume**: from when all is loaded to a step's end.
- **script**: imports torch, builds AdamW, steps once. `train` reads the data and encodes it too.
- **pictures**: `engine.loader.Loader` and `DataLoader` over the same dataset; nothing is trained.
- **two processes** and one: all under torchrun, a thread each. **all-reduce**: with
  `deterministic=false`, so that gradients are not added in the order of micro-batches.
"""
# The first step of `train` ends the process, as that of the script does.
FIRST = """
import os, sys
from {0}.engine.trainer import Trainer
step = Trainer.train_step
Trainer.train_step = lambda *arguments: (step(*arguments), os._exit(0))
from {0}.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
SCRIPT = """
import os, torch
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters())
loss = torch.nn.functional.cross_entropy(model(torch.randn(64, 64)), torch.randint(10, (64,)))
loss.backward()
optimizer.step()
os._exit(0)
"""


class Bench:
    """What starts the sides and lets them take turns."""

    def __init__(self, project: Path, folder: Path) -> None:
        (package,) = project.glob("src/*/__init__.py")
        self.project, self.folder, name = project, folder, package.parent.name
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.environment |= {"PYTHONPATH": str(project / "src"), "HOME": str(folder)}
        cookiecutter = str(Path(sys.executable).with_name("cookiecutter"))
        generate = [cookiecutter, str(HERE.parent), "--no-input"]
        python, runs = sys.executable, f"output_dir={folder / 'runs'}"
        self.commands = {  # and the exit code of each
            "pass": ([python, "-c", "pass"], 0),
            "--help": ([python, "-m", name, "--help"], 0),
            "train --help": ([python, "-m", name, "train", "--help"], 0),
            "evaluate NOTHING": ([python, "-m", name, "evaluate", "nowhere"], 2),
            "train NOTHING": ([python, "-m", name, "train", "nowhere.yaml"], 2),
            "train": ([python, "-c", FIRST.format(name), "train", "device=cpu", runs], 0),
            "script": ([python, "-c", SCRIPT], 0),
            "generate": ([*generate, "--output-dir"], 0),
            "generate, no hooks": ([*generate, "--accept-hooks", "no", "--output-dir"], 0),
            "version": ([cookiecutter, "--version"], 0),
            "import": ([python, "-c", "import cookiecutter.main"], 0),
        }

    def round_of(self, name: str, stack: ExitStack) -> Round:
        if name in self.commands:
            command, code = self.commands[name]
            if name.startswith("generate"):  # into a new folder
                return lambda: self.time([*command, tempfile.mkdtemp(dir=self.folder)], code)
            return lambda: self.time(command, code)
        if name in PROCESSES:
            return lambda: 1 / scaling.rate(self.project, *PROCESSES[name])
        return self.start(name, stack)

    def time(self, command: list[str], code: int) -> float:
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        seconds = time.perf_counter() - start
        assert done.returncode == code, f"{command}: {done.stderr}"
        return seconds

    def start(self, name: str, stack: ExitStack) -> Round:
        file = "peers.py" if name in peers.SIDES else "sides.py"
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        errors = stack.enter_context((folder / "stderr").open("w"))
        process: Any = subprocess.Popen(
            [sys.executable, HERE / file, name, self.project],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env=self.environment,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)

        def answer() -> float:
            line = process.stdout.readline()
            assert line, f"{name}: {(folder / 'stderr').read_text()}"
            self.memory = int(line.split()[1])
            return float(line.split()[0])

        def go() -> float:
            process.stdin.write("\n")
            process.stdin.flush()
            return answer()

        answer()  # it is ready
        return go

    def compare(self, rows: list[Row], count: int) -> list[str]:
        names = list(dict.fromkeys(name for row in rows for name in (row.ours, row.other)))
        with ExitStack() as stack:
            rounds = {name: self.round_of(name, stack) for name in names}
            times: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(count + 1):
                for name, go in rounds.items():
                    times[name].append(go())
        return [line_of(row, times[row.ours][1:], times[row.other][1:]) for row in rows]

    def memory_growth(self) -> str:
        """Of a run, for each 10,000 steps after the first 1,000."""
        with ExitStack() as stack:
            go = self.start("ours, memory", stack)
            sizes = [self.memory]
            for _ in range(5):
                go()
                sizes.append(self.memory)
        growth = (sizes[-1] - sizes[0]) / 5e6
        missed = ", missed" if growth > 1 else ""
        return f"| {MEMORY} | | | **{growth:.2f}** MB | 1 MB{missed} |"


def line_of(row: Row, ours: list[float], other: list[float]) -> str:
    pairs = zip(ours, other, strict=True)
    values = sorted(a - b if row.is_difference else a / b for a, b in pairs)
    unit = " s" if row.is_difference else ""
    told = f"**{median(values):.2f}**{unit} ({values[0]:.2f} to {values[-1]:.2f})"
    times = " | ".join(duration(median(side) / (row.steps or 1)) for side in (ours, other))
    if row.target is None:
        target = ""
    else:
        missed = ", missed" if median(values) > row.target else ""
        target = f"{row.target:.2f}{unit}{missed}"
    return f"| {row.what} | {times} | {told} | {target} |"


def duration(seconds: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.0f} us"


def machine() -> str:
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    what = f"{cpus[0].partition(':')[2].strip()}, {os.cpu_count()} cores, {memory:.0f} GiB"
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{what}; {platform.system()}, Python {platform.python_version()}, {packages}."


def main() -> None:
    project, *words = sys.argv[1:]
    results = HERE / "RESULTS.md"
    _, *parts = (results.read_text("utf-8") if words else "").split("\n## ")
    sections = {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(project).resolve(), Path(folder))
        for title, rows in COMPARISONS.items():
            if words and not any(word in title for word in words):
                continue
            count = next(rounds for start, rounds in ROUNDS.items() if title.startswith(start))
            lines = bench.compare(rows, count)
            if title.startswith("Growth"):
                lines.append(bench.memory_growth())
            table = "\n".join(lines)
            sections[title] = f"\nMedians of {count} rounds.\n\n{TABLE}{table}\n"
            print(f"\n## {title}\n{sections[title]}", flush=True)
    text = "# Results of `make bench`\n\n"
    text += f"{machine()} Not run on a GPU.\n\nThe sides take turns: the ratio is the median of "
    text += "those of the rounds, with the lowest and the highest. What each side has on is said "
    text += "at the end.\n"
    text += "".join(f"\n## {title}\n{sections[title]}" for title in COMPARISONS)
    results.write_text(f"{text}\n## What each side has on\n\n{CONDITIONS}", encoding="utf-8")


if __name__ == "__main__":
    main()
