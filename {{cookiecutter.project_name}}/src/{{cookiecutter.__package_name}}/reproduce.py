"""Run a finished run again in a new folder, compare bit for bit, and say what differs and why."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .engine import checkpoint, record
from .train import Run, load_config

ABOUT_THE_CALL = {"command", "folder", "git_commit", "git_dirty"}
"""what a manifest holds that no bit of a run depends on"""
ABOUT_TIME = {"resumes", "step", "overrides", "replaced", "time", "rate"}
"""what depends on when a run was stopped and continued, and on the clock"""
INPUTS = ("data", "source", "parent_digest")
"""what a run is not repeated without"""
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


class Comparison:
    """Compares each line of the log, as it is written, with that of the run before."""

    def __init__(self, run: Run, lines: list[dict[str, Any]]) -> None:
        self.run = run
        self.lines: Iterator[dict[str, Any]] = iter(lines)
        self.first_step: int | None = None
        self.last_differences: dict[str, str] = {}

    def log(self, line: dict[str, Any]) -> None:
        """Log a line, and note whether it differs."""
        written = self.run.logger.log(line)
        before = next(self.lines, {})
        self.last_differences = differences(before, written)
        if self.last_differences and self.first_step is None:
            self.first_step = line["step"]
            self.run.logger.info(f"step {line['step']} differs: {self.last_differences}")

    def is_equal(self) -> bool:
        """Whether all lines were equal, and none is missing."""
        return self.first_step is None and next(self.lines, None) is None


def reproduce(folder: Path, root: Path, force: bool = False) -> dict[str, Any]:
    """Run a finished run again, and return the verdict; `force`: even with other data or source."""
    result = record.read(folder / "result.json")
    if result.get("status") != "finished":
        raise record.RunError(f"{folder}: this run is not finished; finish it with train --resume")
    before = record.read(folder / "manifest.json", "threads", "processes", "parent", *INPUTS)
    torch.set_num_threads(before["threads"])  # the bits depend on it
    run = Run(load_config(folder / "config.yaml"), root)
    if before["parent"]:
        run.init_from(root / before["parent"])
    manifest = run.manifest()
    differing = surroundings(before, manifest)
    for key, text in (differing or {"surroundings": "as before"}).items():
        run.logger.info(f"{key:12}  {text}")
    check_surroundings(folder, before, differing, force)
    comparison = Comparison(run, read_log(folder / "metrics.jsonl"))
    checkpoint.load(folder / "checkpoints" / "last.pt")  # damage shows now, not after the run
    if run.is_main:
        run.trainer.log = comparison.log
    run.start(manifest)
    again = run.execute()
    if not run.is_main:
        return {}
    return verdict(folder, again, comparison, differing)


def surroundings(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """What differs from where the run began, or from where it was continued."""
    differing: dict[str, str] = {}
    for facts in [before, *before.get("resumes", [])]:
        differing |= differences(facts, now)
    return differing


def check_surroundings(
    folder: Path, before: dict[str, Any], differing: dict[str, str], force: bool
) -> None:
    """Refuse to repeat a run where it cannot come out the same."""
    numbers = {facts.get("processes") for facts in [before, *before.get("resumes", [])]}
    if len(numbers) > 1:
        raise record.RunError(
            f"{folder}: this run was continued in another number of processes than it began with; "
            "such a run cannot be reproduced bit for bit"
        )
    if "processes" in differing:
        raise record.RunError(
            f"{folder}: this run used {before['processes']} processes; reproduce it with: torchrun "
            f"--nproc-per-node {before['processes']} -m {__package__} reproduce {folder}"
        )
    changed = [key for key in INPUTS if key in differing]
    if changed and not force:
        raise record.RunError(
            f"{folder}: {' and '.join(changed)} changed since this run; "
            "undo that, or use --force to run it all the same"
        )


def verdict(
    folder: Path, again: Path, comparison: Comparison, differing: dict[str, str]
) -> dict[str, Any]:
    """Whether the two runs are identical, and if not, how they differ."""
    result = record.read(again / "result.json")
    has_same_result = result == record.read(folder / "result.json")
    is_identical = comparison.is_equal() and has_same_result
    found = {"identical": is_identical, "run": str(again), "digest": result["digest"]}
    if is_identical:
        return found
    return {
        **found,
        "first_step": comparison.first_step,
        "metrics": comparison.last_differences,
        "weights": distance(folder, again),
        "likely_cause": next((key for key in CAUSES if key in differing), "none of these"),
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, str]:
    """What differs in two manifests, or in two lines of a log."""
    one = {**one, **one.get("packages", {}), "packages": None}
    other = {**other, **other.get("packages", {}), "packages": None}
    found = {}
    for key in {**one, **other}:
        is_compared = key not in ABOUT_THE_CALL and key not in ABOUT_TIME
        if is_compared and one.get(key) != other.get(key):
            found[key] = f"{one.get(key)} -> {other.get(key)}"
    return found


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError) as error:
        raise record.RunError(f"{path}: expected a log, found: {error}") from None


def distance(one: Path, other: Path) -> float | None:
    """The largest difference between corresponding weights of two runs."""
    weights = checkpoint.load(one / "checkpoints" / "last.pt")["model_state_dict"]
    others = checkpoint.load(other / "checkpoints" / "last.pt")["model_state_dict"]
    largest = None
    for name, weight in weights.items():
        if name in others and others[name].shape == weight.shape and weight.numel():
            difference = weight.double() - others[name].double()
            largest = max(difference.abs().max().item(), largest or 0.0)
    return largest
