"""Continue a run in place, exactly where its last checkpoint stands, or start it."""

import sys
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from .engine import checkpoint, config, record, trace
from .engine.record import Facts
from .engine.task import relative
from .engine.trainer import Trainer
from .train import TRACE, Config, Run, load_config, train

CAN_CHANGE = ("device", "loader.num_workers")
"""options of which a run that continues can have another value"""
ABOUT_FOLDERS = ("name", "output_dir")
"""options that only say where a new run goes"""
MOST = 1e18
"""more than any number of samples or learning rate, and not too much for the log"""


def start_or_continue(
    name: str, path: Path | None, overrides: list[str], root: Path, **start: Any
) -> Path:
    """Continue the run in the folder `name` of output_dir, or start it if there is none.

    `start` is what `train` takes beside these. Raises RunError if the run has another config, or
    began from other weights.
    """
    record.check_name(name)
    settings = load_config(path, overrides)
    folder = record.resolve_output(root, settings.output_dir) / name
    if not (folder / "config.yaml").exists():
        return train(path, overrides, root, **start, name=name)
    old = load_config(folder / "config.yaml")
    check_same(folder, old, settings)
    check_parent(folder, start.get("init_from"), root)
    now = config.flat(settings)
    changes = [f"{key}={now[key]}" for key in CAN_CHANGE if now[key] != config.flat(old)[key]]
    return resume(folder, changes, root, start.get("verify_data", False))


def check_same(folder: Path, old: Config, settings: Config) -> None:
    """Refuse to continue a run with another config."""
    before = config.flat(old)
    now = config.flat(settings)
    if now["trainer.micro_batches"] == 0:  # the run has recorded what 0 came to
        now["trainer.micro_batches"] = before["trainer.micro_batches"]
    differing = [
        f"{key} was {before[key]!r}, and is {now[key]!r}"
        for key in now
        if before[key] != now[key] and key not in (*CAN_CHANGE, *ABOUT_FOLDERS)
    ]
    if differing:
        raise record.RunError(
            f"{folder}: this run has another config: {'; '.join(differing)}; choose another name "
            f"for a new run, or continue this one as it is with --resume {folder}"
        )


def check_parent(folder: Path, init_from: Path | None, root: Path) -> None:
    """Refuse to continue a run that began from other weights."""
    before = record.read(folder / "manifest.json", "parent")["parent"]
    now = relative(init_from, root) if init_from else ""
    if now != before:
        raise record.RunError(
            f"{folder}: this run began from {before or 'new weights'}, "
            f"and is to begin from {now or 'new weights'}; choose another name for a new run"
        )


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
    learnt = None if state is None else state.get("task")
    run = Run(settings, root, learnt, beside=folder)
    facts = load_for_resume(run, folder, state, verify_data)
    run.check()
    entry = {"step": run.trainer.step, "overrides": overrides, "replaced": config.plain(old)}
    logger_state = {"bytes": 0, "seconds": 0} if state is None else state["logger"]
    if run.is_main:
        reopen(run, folder, {**entry, **facts}, logger_state)
    return run.execute()


def check_overrides(old: Config, settings: Config, overrides: list[str]) -> None:
    """Refuse to change what a run that continues cannot change.

    More epochs are possible if what was done so far did not depend on the total number of steps:
    not the learning rate, and not the evaluation after the last step.
    """
    has_more_epochs = settings.trainer.epochs > old.trainer.epochs
    is_by_epochs = old.trainer.eval_every == 0 and old.trainer.max_minutes == 0
    ignores_total = settings.optim.scheduler in ("constant", "plateau") and is_by_epochs
    can_change = set(CAN_CHANGE)
    if settings.trainer.epochs == old.trainer.epochs or (has_more_epochs and ignores_total):
        can_change.add("trainer.epochs")
    for override in overrides:
        key = override.partition("=")[0]
        if key not in can_change:
            raise record.RunError(
                f"{key}: cannot be changed on --resume (only device, loader.num_workers and, with "
                "a constant or plateau schedule and without eval_every or max_minutes, a larger "
                "trainer.epochs can); "
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
    if state is not None:
        # The model comes first, so that the error for another model names it.
        checkpoint.restore(state, {"model_state_dict": run.model})
        check_state(run, state)
        run.logger.check(state["logger"])
        # The end of the run needs best.pt: does it fit? What is loaded here is replaced below.
        if state["trainer"]["best"]:
            weights = checkpoint.weights_of(checkpoint.load(folder / "checkpoints" / "best.pt"))
            checkpoint.restore({"best.pt": weights}, {"best.pt": run.model})
        checkpoint.restore(state, run.parts)
    elif run.parent["parent"]:
        run.init_from(run.root / run.parent["parent"], partial=True)
        if run.parent["parent_digest"] != manifest["parent_digest"]:
            raise record.RunError(
                f"{folder}: the weights that this run began from have changed, in "
                f"{run.parent['parent']}; use --init-from to start a new run from them"
            )
    if run.settings.logger.trace and (folder / TRACE).exists():
        trace.check_until(folder / TRACE, run.trainer.step)
    return facts


def check_state(run: Run, state: Facts) -> None:
    """Refuse a checkpoint that lacks what a run has, or that no run with this config can have."""
    like: Facts = {}
    for name, part in run.parts.items():
        if name != "model_state_dict":  # torch has checked it
            like[name] = part.state_dict()
    like["trainer"] = Trainer.state_dict(run.trainer)  # without what a trainer of the task adds
    like["logger"] = {"bytes": 0, "seconds": 0.0}
    checkpoint.check_like(state, like)
    # In a run that has not begun these are empty, and so say nothing of the types in them.
    trainer = state["trainer"]
    evaluation = {"value": 0.0, "step": 0}
    filled: Facts = {
        "ranking": [evaluation] * len(trainer["ranking"]),
        "sums": dict.fromkeys(trainer["sums"], 0.0),
    }
    has_loss = type(run.trainer).update is Trainer.update  # another one may note none
    if has_loss and trainer["step"] > trainer["logged_step"]:
        filled["sums"]["loss"] = 0.0  # for the next line of the log
    if trainer["best"]:
        filled["best"] = {**evaluation, "metric": "", "at": run.trainer.at("val")}
    moments = moments_like(run, state["optimizer_state_dict"]["state"])
    checkpoint.check_like(state, {"trainer": filled, "optimizer_state_dict": {"state": moments}})
    check_numbers(run, {name: trainer[name] for name in like["trainer"]})


def check_numbers(run: Run, trainer: Facts) -> None:
    """Refuse numbers of a trainer that are negative, or steps that are later than they can be."""
    limits = dict.fromkeys(("samples", "units_seen", "lr"), MOST)
    limits["step"] = run.total_steps
    last: float = trainer["step"]
    for name, value in trainer.items():
        if isinstance(value, int | float):
            # The other numbers are, or count, earlier steps.
            check_number(name, value, limits.get(name, last))
    for evaluation in trainer["ranking"]:
        check_number("ranking.step", evaluation["step"], last)
    best = trainer["best"]
    if best:
        check_number("best.step", best["step"], last)
        check_number("best.at.step", best["at"]["step"], last)
        check_number("best.at.epoch", best["at"]["epoch"], last)
        check_number("best.at.lr", best["at"]["lr"], MOST)


def check_number(name: str, value: float, limit: float) -> None:
    """Refuse a number of a trainer that is negative, or larger than it can be."""
    if not 0 <= value <= limit:
        found = f"expected 0 to {limit}, found {value}"
        raise checkpoint.CheckpointError(f"{checkpoint.MISFIT}: trainer.{name}: {found}")


def moments_like(run: Run, moments: Any) -> dict[int, Facts]:
    """The state that AdamW must have: of each parameter that has some, or of all if none has.

    A parameter that never got a gradient has none. If fp16 skipped each step, no parameter has.
    """
    like = {}
    is_adam = isinstance(run.optimizer, torch.optim.AdamW)
    parameters = chain.from_iterable(group["params"] for group in run.optimizer.param_groups)
    for index, parameter in enumerate(parameters):
        if index in moments or not moments:
            moment = torch.empty(parameter.shape, device="meta")
            like[index] = {"step": torch.zeros(()), "exp_avg": moment, "exp_avg_sq": moment}
    return like if is_adam and not run.trainer.scaler.is_enabled() else {}


def reopen(run: Run, folder: Path, entry: Facts, logger_state: Facts) -> None:
    """Cut the log back to the checkpoint, and record that the run continues."""
    # The result goes first: the log that it stands for is cut next.
    (folder / "result.json").unlink(missing_ok=True)
    run.logger.load_state_dict(logger_state)
    manifest = record.read(folder / "manifest.json")
    manifest["resumes"] = [*manifest.get("resumes", []), entry]
    record.write(folder / "manifest.json", manifest)
    record.write(folder / "config.yaml", config.dump(run.settings).encode())
