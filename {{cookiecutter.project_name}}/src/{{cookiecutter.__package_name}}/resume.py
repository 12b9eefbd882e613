"""Continue a run in place, exactly where its last checkpoint stands."""

import sys
from pathlib import Path

import torch

from .engine import checkpoint, config, record
from .engine.record import Facts
from .train import Config, Run, load_config


def resume(folder: Path, overrides: list[str], root: Path, verify_data: bool = False) -> Path:
    """Continue the run in `folder`; a finished run only with more epochs.

    `verify_data`: read all data for its fingerprint, also what has not changed in size and time.
    """
    old = load_config(folder / "config.yaml")
    settings = load_config(folder / "config.yaml", overrides)
    check_overrides(old, settings, overrides)
    has_more_epochs = settings.trainer.epochs > old.trainer.epochs
    is_finished = record.read(folder / "result.json").get("status") == "finished"
    if is_finished and not has_more_epochs:
        print(f"{folder}: this run is finished", file=sys.stderr)
        return folder
    # The data is prepared with what the run has learnt from it, and not with what it would today.
    state = checkpoint.load_latest(folder / "checkpoints")
    run = Run(settings, root, learnt=state.get("task") if state else None)
    facts = load_for_resume(run, folder, state, verify_data)
    run.check()
    entry = {"step": run.trainer.step, "overrides": overrides, "replaced": config.plain(old)}
    logger_state = state["logger"] if state else {"bytes": 0, "seconds": 0}
    if run.is_main:
        reopen(run, folder, {**entry, **facts}, logger_state)
    return run.execute()


def check_overrides(old: Config, settings: Config, overrides: list[str]) -> None:
    """Refuse to change what a run that continues cannot change.

    More epochs are possible if the learning rate does not depend on the total number of steps.
    """
    has_more_epochs = settings.trainer.epochs > old.trainer.epochs
    has_any_total = settings.optim.scheduler in ("constant", "plateau")
    can_change = {"device", "loader.num_workers"}
    if settings.trainer.epochs == old.trainer.epochs or (has_more_epochs and has_any_total):
        can_change.add("trainer.epochs")
    for override in overrides:
        key = override.partition("=")[0]
        if key not in can_change:
            raise record.RunError(
                f"{key}: cannot be changed on --resume (only device, loader.num_workers and, with "
                "a constant or plateau schedule, a larger trainer.epochs can); "
                "use --init-from to start a new run"
            )


def load_for_resume(run: Run, folder: Path, state: Facts | None, verify_data: bool) -> Facts:
    """Load the state of the last checkpoint, if there is one; returns what runs here and now.

    The order matters: the number of threads before anything is computed, the lock before anything
    is changed, and the data before the state that was made of it.
    """
    keys = ("threads", "data", *run.parent)
    manifest = record.read(folder / "manifest.json", *keys)
    torch.set_num_threads(manifest["threads"])
    run.open_folder(folder)  # refuses if another process is writing to this run
    run.parent = {name: manifest[name] for name in run.parent}
    facts = run.manifest(verify_data)
    if facts["data"] != manifest["data"]:
        raise record.RunError(
            f"{run.data_changed(folder)}; use --init-from to start a new run from its weights"
        )
    if state:
        checkpoint.restore(state, run.parts)
    elif run.parent["parent"]:
        run.init_from(run.root / run.parent["parent"])
    return facts


def reopen(run: Run, folder: Path, entry: Facts, logger_state: Facts) -> None:
    """Cut the log back to the checkpoint, and record that the run continues."""
    # The result goes first: the log that it stands for is cut next.
    (folder / "result.json").unlink(missing_ok=True)
    run.logger.load_state_dict(logger_state)
    manifest = record.read(folder / "manifest.json")
    manifest["resumes"] = [*manifest.get("resumes", []), entry]
    record.write(folder / "manifest.json", manifest)
    record.write(folder / "config.yaml", config.dump(run.settings).encode())
