"""Run a finished run again in a new folder, compare bit for bit, and say what differs and why."""

import gc
import shlex
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .engine import checkpoint, distributed, record, trace
from .engine.logger import read_log
from .engine.record import Facts
from .engine.trainer import Stopped
from .train import PACKAGE, TRACE, Run, load_config

ABOUT_THE_CALL = {"began", "command", "config", "git_commit", "git_dirty"}
"""what a manifest holds that no bit of a run depends on"""
ABOUT_TIME = {"resumes", "step", "overrides", "replaced", "time", "rate", "memory"}
"""what depends on when a run was stopped and continued, and on the clock"""
INPUTS = ("data", "source", "parent_digest")
"""what must be unchanged, unless `force` is given"""
CAUSES = (
    *INPUTS,
    "device",
    "gpu",
    "torch",
    "threads",
    "cpu",
    "variables",
    "numpy",
    "platform",
    "python",
)
"""what may explain a difference, the likeliest first"""
MOST_REPEATED = 1000  # steps that are made twice after a difference


def reproduce(folder: Path, root: Path, force: bool = False, verify_data: bool = False) -> Facts:
    """Run a finished run again, and return the verdict.

    `force`: even with other data or source. `verify_data`: read all data for its fingerprint, also
    what has not changed in size and time.
    """
    result = record.read(folder / "result.json")
    if result.get("status") != "finished":
        raise record.RunError(f"{folder}: this run is not finished; finish it with train --resume")
    keys = ("python", "packages", "threads", "processes", "parent", *INPUTS)
    before = record.read(folder / "manifest.json", *keys)
    # Damage shows now, and not after the run.
    read_log(folder / "metrics.jsonl")
    if (folder / TRACE).exists():
        trace.check(folder / TRACE)
    last_step = last_step_of(folder)
    # The config of a run may have options that other code does not know, so this comes first.
    source = {"source": record.fingerprint(PACKAGE, pattern="*.py")}
    check_surroundings(folder, before, differences({"source": before["source"]}, source), force)
    torch.set_num_threads(before["threads"])  # the bits depend on it
    run = Run(load_config(folder / "config.yaml"), root, beside=folder)
    if before["parent"]:
        run.init_from(root / before["parent"], partial=True)
    manifest = run.manifest(verify_data)
    differing = surroundings(before, manifest)
    if "data" in differing:
        differing["data"] += f": {record.changes(folder, run.hashes)}"
    for key, text in (differing or {"surroundings": "as before"}).items():
        run.logger.info(f"{key:12}  {text}")
    if differing.keys() & {"python", *before["packages"], *manifest["packages"]}:
        run.logger.info(environment_commands(folder, before["python"], before["packages"]))
    check_surroundings(folder, before, differing, force)
    again = execute(run, manifest, last_step)
    if not run.is_main:
        return {}
    found = verdict(folder, again, differing)
    del run  # and the memory that its model takes
    if not found["identical"] and distributed.world_size() == 1:
        found |= repeat(folder, root, found)
    return found


def execute(run: Run, manifest: Facts, last_step: int) -> Path:
    """Run a run whose time is up after the same step, however fast this machine is."""
    run.trainer.is_time_up = lambda: run.trainer.step == last_step
    run.start(manifest)
    return run.execute()


def last_step_of(folder: Path) -> Any:
    """The step with which the time of a run was up; 0 if it was not."""
    state = checkpoint.load(folder / "checkpoints" / "last.pt")
    checkpoint.check_like(state, {"model_state_dict": {}, "trainer": {"last_step": 0}})
    return state["trainer"]["last_step"]


def surroundings(before: Facts, now: Facts) -> dict[str, str]:
    """What differs from where the run began, or from where it was continued."""
    differing: dict[str, str] = {}
    for facts in [before, *before.get("resumes", [])]:
        differing |= differences(facts, now)
    if before.get("same_bits"):  # in any number of processes
        differing.pop("processes", None)
    return differing


def environment_commands(folder: Path, python: str, packages: dict[str, str]) -> str:
    """The commands that make the recorded environment, for pip and for uv."""
    what = f"-r {shlex.quote(str(folder / 'requirements.txt'))}"
    lines = (
        "the versions of the run are installed by\n"
        f"    python{python.rpartition('.')[0]} -m venv venv && venv/bin/pip install {what}\n"
        f"or  uv venv --python {python} venv && uv pip install --python venv {what}"
    )
    build = str(packages.get("torch", "")).partition("+")[2]
    if build:  # such as cpu or cu130
        lines += f"\nand for torch's {build} build see https://pytorch.org/get-started/locally"
    return lines


def check_surroundings(folder: Path, before: Facts, differing: dict[str, str], force: bool) -> None:
    """Refuse to repeat a run where it cannot come out the same."""
    if "processes" in differing:
        raise record.RunError(
            f"{folder}: the number of processes differs: {differing['processes']}; a run that had "
            "the same number from its start to its end is reproduced with: torchrun "
            f"--nproc-per-node {before['processes']} -m {__package__} reproduce {folder}"
        )
    changed = [key for key in INPUTS if key in differing]
    if changed and not force:
        way = "use --source run to run its own code, " if "source" in changed else ""
        raise record.RunError(
            f"{folder}: {' and '.join(changed)} changed since this run; "
            f"{way}undo that, or use --force to run it all the same"
        )


def verdict(folder: Path, again: Path, differing: dict[str, str]) -> Facts:
    """Whether two runs are identical, and if not, where they begin to differ, and why.

    `first_step` is the step of the first line of the log that differs, `metrics` what differs in
    the last line, and `weights` the largest difference between weights at the end. For the rest
    see `compare_checkpoints`, and `compare_traces`, which knows the step better.
    """
    result = record.read(again / "result.json")
    logs = [read_log(run / "metrics.jsonl") for run in (folder, again)]
    lines = list(zip_longest(*logs, fillvalue={}))
    different_lines = [pair for pair in lines if differences(*pair)]
    has_same_result = result == record.read(folder / "result.json")
    is_identical = has_same_result and not different_lines
    found = {"identical": is_identical, "run": str(again), "digest": result["digest"]}
    if is_identical:
        return found
    steps = [after.get("step", before.get("step")) for before, after in different_lines]
    return {
        **found,
        "first_step": next(iter(steps), None),
        "metrics": differences(*lines[-1]),
        "weights": distance(last_weights(folder), last_weights(again)),
        **compare_checkpoints(folder, again),
        **compare_traces(folder, again),
        "likely_cause": next((key for key in CAUSES if key in differing), "none of these"),
    }


def differences(one: Facts, other: Facts) -> dict[str, str]:
    """What differs in two manifests, or in two lines of a log."""
    one = {**one, **one.get("packages", {}), "packages": None}
    other = {**other, **other.get("packages", {}), "packages": None}
    found = {}
    for key in {**one, **other}:
        is_compared = key not in ABOUT_THE_CALL and key not in ABOUT_TIME
        if is_compared and one.get(key) != other.get(key):
            found[key] = f"{one.get(key)} -> {other.get(key)}"
    return found


def last_weights(folder: Path) -> Facts:
    """The weights at the end of a run."""
    return weights_of(folder / "checkpoints" / "last.pt")


def weights_of(path: Path) -> Facts:
    """The weights in a checkpoint, in the order of the model."""
    return dict(checkpoint.load(path)["model_state_dict"])


def distance(weights: Facts, others: Facts) -> float | None:
    """The largest difference between corresponding weights of two runs."""
    distances = [
        (weight.double() - others[name].double()).abs().max().item()
        for name, weight in weights.items()
        if name in others and others[name].shape == weight.shape and weight.numel() > 0
    ]
    return max(distances, default=None)


def compare_checkpoints(folder: Path, again: Path) -> Facts:
    """Where the weights of two runs part, as far as their checkpoints can tell.

    Only steps of which both runs have a checkpoint can be compared. `equal_until` is the last of
    them up to which all weights are equal, bit for bit; 0 if there is none. `first_parameter` is
    the first parameter, in the order of the model, that differs at the next one, with that step and
    the first two numbers that differ. The weights of other steps are not recorded, so the runs part
    in some step after `equal_until`, up to that of `first_parameter`.
    """
    found: Facts = {"equal_until": 0, "first_parameter": None}
    before = checkpoints(folder)
    after = checkpoints(again)
    for step in sorted(before.keys() & after.keys()):
        parameter = first_difference(weights_of(before[step]), weights_of(after[step]))
        if parameter:
            found["first_parameter"] = {"step": step, **parameter}
            break
        found["equal_until"] = step
    return found


def compare_traces(folder: Path, again: Path) -> Facts:
    """The very step in which two runs part, and the first parameter, if both runs have a trace."""
    paths = [run / TRACE for run in (folder, again)]
    if not all(path.exists() for path in paths):
        return {}
    found = trace.compare(*paths)
    return {"first_step": found["step"], "first_parameter": found} if found else {}


def repeat(folder: Path, root: Path, found: Facts) -> Facts:
    """Whether the same code gives the same bits twice, here and now.

    The steps from the last checkpoint that both runs have, up to the first difference that is
    known, are made twice. `repeats` is true if they come out the same: then something has changed
    since the run. If not, `first_step` is the first step that came out differently, and
    `first_parameter` says where.
    """
    start = found["equal_until"]
    known = [found["first_step"]]
    if found["first_parameter"]:
        known.append(found["first_parameter"]["step"])
    later = [step for step in known if step is not None and step > start]
    end = int(min([*later, start + MOST_REPEATED]))
    gc.collect()  # the run that was made again
    part = RunPart(folder, root, start)
    part.run.logger.info(f"making steps {start + 1} to {end} twice, to see whether they differ")
    digests: dict[int, str] = {}

    def note(step: int) -> bool:
        digests[step] = part.digest
        return step == end

    def is_different(step: int) -> bool:
        return step == end or part.digest != digests.get(step)

    part.train(note)
    if not digests:  # the runs differ in what comes after the last step
        return {}
    step = part.train(is_different)
    if part.digest == digests.get(step):
        return {"repeats": True}
    weights = deepcopy(part.run.model.state_dict())
    part.train(lambda number: number == step)
    parameter = first_difference(part.run.model.state_dict(), weights)
    where = {"step": step, **parameter} if parameter else None
    return {"repeats": False, "first_step": step, "first_parameter": where}


class RunPart:
    """Trains from the state at some step of a run, as often as it is asked to. Writes nothing.

    Args:
        folder: the run.
        root: the folder that relative paths in its config start from.
        start: the step of one of its checkpoints; 0: its beginning.
    """

    def __init__(self, folder: Path, root: Path, start: int) -> None:
        settings = load_config(folder / "config.yaml")
        parent = record.read(folder / "manifest.json", "parent")["parent"]
        state = checkpoint.load(checkpoints(folder)[start]) if start else {}
        self.run = Run(settings, root, state.get("task"), beside=folder)
        if parent and not start:
            self.run.init_from(root / parent, partial=True)
        parts = {name: part.state_dict() for name, part in self.run.parts.items()}
        self.state: Facts = state or deepcopy(parts)

    @property
    def digest(self) -> str:
        """The digest of the weights."""
        return record.digest(self.run.model.state_dict())

    def train(self, is_last: Callable[[int], bool]) -> int:
        """Train up to the step of which `is_last` says so, and return its number."""
        trainer: Any = self.run.trainer
        checkpoint.restore(deepcopy(self.state), self.run.parts)
        answers: dict[int, bool] = {trainer.step: False}

        def stop() -> bool:  # is asked in evaluations, too
            if trainer.step not in answers:
                answers[trainer.step] = is_last(trainer.step)
            return answers[trainer.step]

        trainer.stop = stop
        trainer.log = trainer.save = lambda *_: None
        with suppress(Stopped):
            trainer.fit(self.run.loaders["train"], self.run.loaders["val"])
        return int(trainer.step)


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints of a run by their steps, without those that cannot be read."""
    found = {}
    for path in (folder / "checkpoints").glob("*.pt"):
        with suppress(checkpoint.CheckpointError, LookupError, TypeError):
            found[checkpoint.load(path)["trainer"]["step"]] = path
    return found


def first_difference(weights: Facts, others: Facts) -> Facts | None:
    """The first parameter that two models do not both have, or whose shapes or bits differ."""
    for name in {**weights, **others}:
        one = weights.get(name)
        other = others.get(name)
        if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
            return {"name": name, "value": f"{describe(one)} -> {describe(other)}"}
        elements = (bits(one) != bits(other)).any(dim=1).nonzero()
        if len(elements) > 0:
            index = int(elements[0])
            values = [tensor.flatten()[index].item() for tensor in (one, other)]
            return {"name": name, "value": "{} -> {}".format(*values)}
    return None


def bits(tensor: Tensor) -> Tensor:
    """The bytes of each element, in a row of its own."""
    return tensor.contiguous().reshape(-1, 1).view(torch.uint8)  # (elements, bytes)


def describe(tensor: Tensor | None) -> str:
    """The type and the shape of a tensor, or "none"."""
    return "none" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
