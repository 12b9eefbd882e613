"""The root of the project: its Config, and the one place that builds and wires everything."""

import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import Signals
from typing import Any

import torch

from . import checkpoint, distributed, metrics, record
from .config import dump, load
from .data import DataConfig, Loader, build_datasets
from .logger import Logger
from .model import Classifier, ModelConfig
from .optim import OptimConfig, build_optimizer, build_scheduler
from .trainer import Metric, Stopped, Trainer, TrainerConfig

CHANGEABLE = ("device", "data.num_workers", "trainer.epochs")  # when a run goes on


@dataclass(frozen=True)
class Config:
    name: str = "baseline"  # how the run folder's name starts
    seed: int = 0  # of the initial weights, the order of the samples and dropout
    device: str = "auto"  # auto, cpu, cuda, cuda:1 or mps; auto takes the best there is
    deterministic: bool = True  # use only algorithms that give the same bits each time
    output_dir: str = "runs"  # where run folders are made
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


# EDIT HERE for another model.
def build_model(config: Config, classes: list[str]) -> torch.nn.Module:
    return Classifier(config.data.features, len(classes), config.model)


# EDIT HERE for other metrics: your own, or those of torchmetrics.
def build_metrics(classes: list[str]) -> dict[str, Metric]:
    return {"accuracy": metrics.Accuracy(len(classes)), "f1": metrics.MacroF1(len(classes))}


class Run:
    """Every object of a run, built and wired; nothing is written before `start`."""

    def __init__(self, config: Config, root: Path) -> None:
        self.config, self.root = config, root
        self.parent = {"parent": "", "parent_digest": ""}  # the run that the weights come from
        self.logger, self.stop = Logger(), distributed.StopSignal()
        self.device = distributed.set_up(config.device, config.deterministic)
        torch.manual_seed(config.seed)
        # The first process may download: it builds before it joins the others, which wait for it.
        follows = torch.distributed.is_torchelastic_launched() and os.environ["RANK"] != "0"
        built = None if follows else build_datasets(config.data, root)
        self.rank = distributed.join()
        datasets, self.classes = built or build_datasets(config.data, root)
        seeds = {"train": config.seed}  # the only split that is shuffled
        self.loaders = {s: Loader(d, config.data, seeds.get(s)) for s, d in datasets.items()}
        torch.manual_seed(config.seed)  # again: the weights do not depend on how data was made
        self.model = build_model(config, self.classes).to(self.device)
        if config.trainer.compile:
            self.model.compile()
        steps = config.trainer.epochs * len(self.loaders["train"])
        self.steps = min(steps, config.trainer.max_steps or steps)
        optimizer = build_optimizer(config.optim, self.model)
        found = build_metrics(self.classes)
        if (monitor := config.trainer.monitor) not in (known := ["loss", *found]):
            raise record.RunError(f"trainer.monitor: expected one of {known}, found {monitor!r}")
        self.trainer = trainer = Trainer(
            model=distributed.wrap(self.model),
            optimizer=optimizer,
            config=config.trainer,
            metrics=found,
            steps=Loader.steps,
            stop=self.stop,
            seed=config.seed,
        )
        self.say = self.logger.say if not self.rank else lambda text: None
        if not self.rank:  # the others write nothing
            trainer.log, trainer.track, trainer.save = self.logger.log, self.logger.track, self.save
        trainer.scheduler = build_scheduler(config.optim, optimizer, self.steps, trainer.mode)
        trained = {"model_state_dict": self.model, "optimizer_state_dict": optimizer}
        ours = {"scheduler": trainer.scheduler, "scaler": trainer.scaler, "trainer": trainer}
        self.parts: dict[str, Any] = {"classes": self.classes, **trained, **ours}  # to be saved

    def init_from(self, folder: Path) -> None:
        state = checkpoint.load(folder / "checkpoints" / "best.pt")
        checkpoint.restore(state, {"model_state_dict": self.model})
        digest = record.digest(state["model_state_dict"])
        self.parent = {"parent": os.path.relpath(folder, self.root), "parent_digest": digest}

    def manifest(self) -> dict[str, Any]:
        facts = record.describe(self.root, self.root / self.config.data.path, self.device)
        return {**facts, "seed": self.config.seed, **self.parent}

    def start(self, manifest: dict[str, Any]) -> None:
        if not self.rank:
            folder = record.create_run(self.root / self.config.output_dir, self.config.name)
            record.start(folder, dump(self.config), manifest, self.root)
            self.logger.open(folder)

    def save(self, name: str) -> None:
        parts = {**self.parts, "logger": self.logger, "config": asdict(self.config)}
        checkpoint.save(self.logger.folder / "checkpoints" / f"{name}.pt", parts, name == "last")

    # Train to the end, or to a signal; leaves result.json, and returns the folder.
    def execute(self) -> Path:
        folder, status = self.logger.folder, {"status": "failed"}
        size = sum(parameter.numel() for parameter in self.model.parameters())
        splits = ", ".join(f"{loader.size:,} {split}" for split, loader in self.loaders.items())
        what = f"{size:,} parameters; {splits}; {self.trainer.step} of {self.steps} steps"
        self.say(f"{what}; {self.trainer.world} x {self.device}, {torch.get_num_threads()} threads")
        try:
            with self.stop:
                self.trainer.fit(self.loaders["train"], self.loaders["val"])
                digest = record.digest(self.model.state_dict())
                self.conclude()
            status = {"status": "finished", "digest": digest}
        except Stopped:
            status = {"status": "stopped"}
            resume = f"python -m {__package__} train --resume {os.path.relpath(folder)}"
            done = f"by {Signals(self.stop.number).name} after step {self.trainer.step}"
            self.say(f"stopped   {done}\nresume    {resume}")
        finally:
            result = {**status, "best": self.trainer.best, "steps": self.trainer.step}
            if not self.rank:
                record.write(folder / "result.json", result)
                self.logger.close()
            self.loaders.clear()  # ends their workers now, not when Python gets to it
        self.trainer.add_up([0.0])  # a barrier: none leaves before the others are done
        if self.rank or self.stop.number:  # only the first one has more to do and to tell
            sys.exit(self.stop.number and 128 + self.stop.number)
        return folder

    def conclude(self) -> None:
        run, best = os.path.relpath(self.logger.folder), "none"
        if self.trainer.best:
            best = "{metric} {value:.4f} on val, step {step}".format(**self.trainer.best)
            if not self.rank:
                state = checkpoint.load(self.logger.folder / "checkpoints" / "best.pt")
                checkpoint.restore(state, {"model_state_dict": self.model})
            self.trainer.model = distributed.wrap(self.model)  # the others get these weights
        self.trainer.write("test", self.trainer.evaluate(self.loaders["test"]))
        cli, look = f"python -m {__package__}", f"tensorboard --logdir {os.path.dirname(run)}"
        self.say(f"run       {run}\nbest      {best}\nlook      {look}")
        self.say(f"evaluate  {cli} evaluate {run}\npredict   {cli} predict {run} TEXT")


def train(path: Path, overrides: list[str], root: Path, init_from: Path | None = None) -> Path:
    run = Run(load(Config, path, overrides), root)
    if init_from:
        run.init_from(init_from)
    run.start(run.manifest())
    return run.execute()


def resume(folder: Path, overrides: list[str], root: Path) -> Path:
    path = folder / "config.yaml"
    old, config = load(Config, path), load(Config, path, overrides)
    more = config.trainer.epochs - old.trainer.epochs
    check_changes(config, more, [text.partition("=")[0] for text in overrides])
    if not more and record.read(folder / "result.json").get("status") == "finished":
        print(f"{folder}: this run is finished", file=sys.stderr)
        return folder
    run = Run(config, root)
    manifest = record.read(folder / "manifest.json", "threads", "processes", "data", *run.parent)
    if run.trainer.world == manifest["processes"]:
        torch.set_num_threads(manifest["threads"])  # bits depend on both
    if not run.rank:
        run.logger.open(folder)  # and nobody else can
    run.parent = {key: manifest[key] for key in run.parent}
    facts, state = run.manifest(), checkpoint.load_latest(folder / "checkpoints")
    if facts["data"] != manifest["data"]:
        raise record.RunError(f"{config.data.path}: changed since the run began: use --init-from")
    if state:
        checkpoint.restore(state, run.parts)
    elif manifest["parent"]:
        run.init_from(root / manifest["parent"])
    entry = {"step": run.trainer.step, "overrides": overrides, "replaced": asdict(old)}
    manifest["resumes"] = [*manifest.get("resumes", []), {**entry, **facts}]
    if not run.rank:
        (folder / "result.json").unlink(missing_ok=True)  # the log that it stands for is cut next
        run.logger.load_state_dict(state["logger"] if state else {"bytes": 0, "seconds": 0})
        record.write(folder / "manifest.json", manifest)
        record.write(path, dump(config))
    return run.execute()


def check_changes(config: Config, more: int, keys: list[str]) -> None:
    is_fixed = config.optim.scheduler not in ("constant", "plateau")  # which count on no end
    for key in keys:
        if key not in CHANGEABLE or (key == "trainer.epochs" and (more < 0 or (more and is_fixed))):
            only = f"{', '.join(CHANGEABLE)} (more, under constant or plateau)"
            raise record.RunError(f"{key}: expected only {only} to change: else use --init-from")
