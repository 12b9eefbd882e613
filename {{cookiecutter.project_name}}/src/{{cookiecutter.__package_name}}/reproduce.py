"""Run a finished run again in a new folder, compare bit for bit, and say what differs and why."""

import json
from pathlib import Path
from typing import Any

import torch

from . import checkpoint, config, record
from .train import Config, Run

ASIDE = {"command", "folder", "git_commit", "git_dirty"}  # no bit depends on these,
ASIDE |= {"resumes", "step", "overrides", "replaced", "time", "rate"}  # nor on when it went on
INPUTS = ("data", "source", "parent_digest")  # what a run is not repeated without
CAUSES = (*INPUTS, "device", "gpu", "torch", "threads", "cpu", "numpy", "platform", "python")


# Run it again, and get the verdict; `anyway`: even with other data or source.
def reproduce(folder: Path, root: Path, anyway: bool = False) -> dict[str, Any]:
    result = record.read(folder / "result.json")
    if result.get("status") != "finished":
        raise record.RunError(f"{folder}: expected a finished run: end it with train --resume")
    before = record.read(folder / "manifest.json", "threads", "processes", *INPUTS, "parent")
    torch.set_num_threads(before["threads"])  # bits depend on it
    run = Run(config.load(Config, folder / "config.yaml"), root)
    if before["parent"]:
        run.init_from(root / before["parent"])
    now = run.manifest()
    ran = (before, *before.get("resumes", []))
    differing = {key: text for facts in ran for key, text in _compare(facts, now).items()}
    for key, text in (differing or {"surroundings": "as before"}).items():
        run.say(f"{key:12}  {text}")
    if "processes" in differing:
        line = f"torchrun --nproc-per-node {before['processes']} -m {__package__} reproduce"
        raise record.RunError(f"{folder}: ran in other processes: use {line} {folder}")
    if not anyway and (changed := [key for key in INPUTS if key in differing]):
        raise record.RunError(f"{folder}: {', '.join(changed)} changed: use --anyway, or undo that")
    log = iter(_read_log(folder / "metrics.jsonl"))
    checkpoint.load(folder / "checkpoints" / "last.pt")  # damage is told before the run
    seen: dict[str, Any] = {"first_step": None}

    def watch(line: dict[str, Any]) -> None:
        seen["metrics"] = _compare(next(log, {}), run.logger.log(line))  # in the end, of the last
        if seen["metrics"] and seen["first_step"] is None:
            seen["first_step"] = line["step"]
            run.logger.say(f"step {line['step']} differs: {seen['metrics']}")

    if not run.rank:
        run.trainer.log = watch
    run.start(now)
    again = run.execute()
    new = record.read(again / "result.json")
    same = new == result and seen["first_step"] is None and next(log, None) is None
    verdict = {"identical": same, "run": str(again), "digest": new["digest"]}
    if same:
        return verdict
    cause = next((key for key in CAUSES if key in differing), "none of these")
    return {**verdict, **seen, "weights": _distance(folder, again), "likely_cause": cause}


def _compare(*records: dict[str, Any]) -> dict[str, str]:
    # What differs in two manifests, or in two lines of a log.
    one, other = ({**record, **record.get("packages", {}), "packages": 0} for record in records)
    keys = [key for key in {**one, **other} if key not in ASIDE and one.get(key) != other.get(key)]
    return {key: f"{one.get(key)} -> {other.get(key)}" for key in keys}


def _read_log(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError) as error:
        raise record.RunError(f"{path}: expected a log, found: {error}") from None


def _distance(*runs: Path) -> float | None:
    # The largest difference between two weights that correspond.
    one, other = (checkpoint.load(r / "checkpoints/last.pt")["model_state_dict"] for r in runs)
    keys = [key for key in one if key in other and one[key].shape == other[key].shape]
    distances = [(one[key].double() - other[key].double()).abs().max().item() for key in keys]
    return max(distances, default=None)
