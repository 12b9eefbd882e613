"""The root of the project: its Config, and the one place that builds and wires everything."""

import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import checkpoint, record
from .config import dump, load
from .data import DataConfig, DataError, Loader, build_datasets
from .distributed import default_generator, set_up
from .logger import Logger
from .metrics import Accuracy, MacroF1
from .model import Classifier, ModelConfig
from .optim import OptimConfig, build_optimizer, build_scheduler
from .trainer import Metric, Trainer, TrainerConfig


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
def build_model(config: Config, classes: list[str]) -> nn.Module:
    return Classifier(config.data.features, len(classes), config.model)


# EDIT HERE for other metrics: your own, or those of torchmetrics.
def build_metrics(classes: list[str]) -> dict[str, Metric]:
    return {"accuracy": Accuracy(), "f1": MacroF1(len(classes))}


class Run:
    """Every object of a run, built and wired; nothing is written before `execute`."""

    def __init__(self, config: Config, root: Path) -> None:
        self.config = config
        self.device = set_up(config.device, config.deterministic)
        torch.manual_seed(config.seed)
        datasets, self.classes = build_datasets(config.data, root)
        self.loaders = {
            split: Loader(dataset, config.data, config.seed if split == "train" else None)
            for split, dataset in datasets.items()
        }
        torch.manual_seed(config.seed)  # again: the weights do not depend on how data was made
        self.model = build_model(config, self.classes).to(self.device)
        steps = config.trainer.epochs * len(self.loaders["train"])
        self.steps = min(steps, config.trainer.max_steps or steps)
        optimizer = build_optimizer(config.optim, self.model)
        self.logger = Logger()
        self.trainer = Trainer(
            model=self.model,
            optimizer=optimizer,
            config=config.trainer,
            metrics=build_metrics(self.classes),
            steps=Loader.steps,
            log=self.logger.log,
            track=self.logger.track,
            save=self.save,
            generator=default_generator(self.device),
            seed=config.seed,
        )
        scheduler = build_scheduler(config.optim, optimizer, self.steps, self.trainer.mode)
        self.trainer.scheduler = scheduler
        self.parts = {  # what a checkpoint holds
            "model_state_dict": self.model,
            "optimizer_state_dict": optimizer,
            "scheduler": scheduler,
            "trainer": self.trainer,
            "logger": self.logger,
            "classes": self.classes,
            "config": asdict(config),
        }

    def check_classes(self, state: dict[str, Any]) -> None:
        if self.classes != state["classes"]:
            expected = f"the classes of the run, {', '.join(state['classes'])}"
            found = ", ".join(self.classes)
            raise DataError(f"{self.config.data.path}: expected {expected}, found {found}")

    def save(self, name: str) -> None:
        path = self.folder / "checkpoints" / f"{name}.pt"
        checkpoint.save(path, self.parts, keep_previous=name == "last")

    def execute(self, folder: Path, state: dict[str, Any] | None) -> None:
        """Train in `folder`, from the state of a checkpoint or from the beginning."""
        self.folder = folder
        self.logger.open(folder)
        if state:
            self.check_classes(state)
            checkpoint.restore(state, self.parts)
        else:
            self.logger.load_state_dict({"bytes": 0})
        self.logger.say(self.describe())
        status = {"status": "failed"}
        try:
            self.trainer.fit(self.loaders["train"], self.loaders["val"])
            digest = record.digest(self.model.state_dict())
            self.conclude()
            status = {"status": "finished", "digest": digest}
        finally:
            result = {**status, "best": self.trainer.best, "steps": self.trainer.step}
            record.write(folder / "result.json", result)
            self.logger.close()
            self.loaders.clear()  # ends their workers now, not when Python gets to it

    def conclude(self) -> None:
        """Evaluate the best weights on the test split, and say what came out and what is next."""
        best, run = self.trainer.best, os.path.relpath(self.folder)
        command = f"python -m {__package__}"
        if best:
            state = checkpoint.load(self.folder / "checkpoints" / "best.pt")
            checkpoint.restore(state, {"model_state_dict": self.model})
        values = self.trainer.evaluate(self.loaders["test"])
        self.trainer.write("test", values)
        self.logger.table(
            run=run,
            best="{metric} {value:.4f} on val, step {step}".format(**best) if best else "none",
            evaluate=f"{command} evaluate {run}",
            predict=f"{command} predict {run} TEXT",
            look=f"tensorboard --logdir {os.path.dirname(run)}",
        )

    def describe(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        sizes = ", ".join(f"{loader.size:,} {split}" for split, loader in self.loaders.items())
        steps = f"{self.steps:,} steps" + f", {self.trainer.step:,} done" * (self.trainer.step > 0)
        model = f"{type(self.model).__name__}, {parameters:,} parameters"
        device = f"{self.device}, {torch.get_num_threads()} threads"
        return f"{model}; {sizes} samples; {steps}; {device}"


def train(path: Path, overrides: list[str], root: Path, init_from: Path | None = None) -> Path:
    """A new run; with `init_from`, from the best weights of another. Returns its folder."""
    config = load(Config, path, overrides)
    run = Run(config, root)
    if init_from:
        state = checkpoint.load(init_from / "checkpoints" / "best.pt")
        checkpoint.restore(state, {"model_state_dict": run.model})
    folder = record.create_run(root / config.output_dir, config.name)
    facts = {"seed": config.seed, "device": str(run.device), "deterministic": config.deterministic}
    record.start(folder, dump(config), root, root / config.data.path, facts)
    run.execute(folder, None)
    return folder


def resume(folder: Path, root: Path) -> Path:
    """Continue the run in `folder` where its last checkpoint stands. Returns the folder."""
    config = load(Config, folder / "config.yaml")
    if record.read(folder / "result.json").get("status") == "finished":
        print(f"{folder}: this run is finished", file=sys.stderr)
        return folder
    run = Run(config, root)
    state = checkpoint.load_latest(folder / "checkpoints")
    record.add_resume(folder, state["trainer"]["step"] if state else 0)
    run.execute(folder, state)
    return folder
