"""Run a finished run again in a new folder, compare bit for bit, and say what differs and why."""

from itertools import zip_longest
from pathlib import Path

import torch

from .engine import checkpoint, record
from .engine.logger import read_log
from .engine.record import Facts
from .train import Run, load_config

ABOUT_THE_CALL = {"command", "git_commit", "git_dirty"}
"""what a manifest holds that no bit of a run depends on"""
ABOUT_TIME = {"resumes", "step", "overrides", "replaced", "time", "rate"}
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


def reproduce(folder: Path, root: Path, force: bool = False) -> Facts:
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
    # Damage shows now, and not after the run.
    read_log(folder / "metrics.jsonl")
    last_weights(folder)
    run.start(manifest)
    again = run.execute()
    return verdict(folder, again, differing) if run.is_main else {}


def surroundings(before: Facts, now: Facts) -> dict[str, str]:
    """What differs from where the run began, or from where it was continued."""
    differing: dict[str, str] = {}
    for facts in [before, *before.get("resumes", [])]:
        differing |= differences(facts, now)
    return differing


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
        raise record.RunError(
            f"{folder}: {' and '.join(changed)} changed since this run; "
            "undo that, or use --force to run it all the same"
        )


def verdict(folder: Path, again: Path, differing: dict[str, str]) -> Facts:
    """Whether two runs are identical, and if not, where they begin to differ, and why."""
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
    state = checkpoint.load(folder / "checkpoints" / "last.pt")
    return dict(state["model_state_dict"])


def distance(weights: Facts, others: Facts) -> float | None:
    """The largest difference between corresponding weights of two runs."""
    distances = [
        (weight.double() - others[name].double()).abs().max().item()
        for name, weight in weights.items()
        if name in others and others[name].shape == weight.shape and weight.numel() > 0
    ]
    return max(distances, default=None)
