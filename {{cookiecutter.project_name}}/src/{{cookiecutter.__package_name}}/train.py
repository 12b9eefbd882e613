"""The root of the project: its Config, and the one place that builds and wires everything.

It reads from top to bottom: build everything, load state into everything, run. The command line
runs it in one process by `python -m PACKAGE train`, and in two by `torchrun --nproc-per-node 2 -m
PACKAGE train`.
"""

import json
import os
import shlex
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import Signals
from typing import Any

import torch

from .data import DataConfig
from .engine import checkpoint, config, distributed, record
from .engine.loader import Loader, LoaderConfig
from .engine.logger import Logger, LoggerConfig, SilentLogger, null_if_not_finite
from .engine.measure import MetricGroup
from .engine.optim import (
    OptimConfig,
    build_average,
    build_optimizer,
    build_scheduler,
    describe_groups,
)
from .engine.record import Facts
from .engine.share import Share
from .engine.task import relative
from .engine.trace import tracing
from .engine.trainer import (
    Output,
    SetupError,
    Stopped,
    Trainer,
    TrainerConfig,
    TrainingError,
)
from .model import ModelConfig
from .task import Task

PACKAGE = Path(__file__).parent
TRACE = "trace.jsonl"  # in the run folder, if the config wants it
PAGE_SAMPLES = 1000  # that the task's page in TensorBoard is made of


@dataclass(frozen=True)
class Config:
    """Every option of a run."""

    name: str = "baseline"
    """first part of the run folder's name"""
    seed: int = 0
    """seed for initial weights, sample order and dropout"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps; auto takes the best available"""
    deterministic: bool = True
    """use only algorithms that give the same bits each time"""
    output_dir: str = "runs"
    """folder in which run folders are made"""
    find_unused_parameters: bool = False
    """with several processes: allow parameters that get no gradient in a step"""
    sharding: bool = False
    """with several processes: shard a model that does not fit on one device (FSDP2)"""
    data: DataConfig = field(default_factory=DataConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


def load_config(path: Path | None, overrides: Iterable[str] = ()) -> Config:
    """The defaults of the machine, then those of the task, then a file, then the command line."""
    defaults = config.load(Config(), None, Task.defaults, source="Task.defaults")
    return config.load(defaults, path, overrides)


class Run:
    """Every object of a run, built and wired. Building one writes nothing.

    Args:
        settings: the resolved config.
        root: the folder that relative paths in the config start from.
        learnt: what the task of an earlier run has learnt; None: learn from the training split.
        beside: the earlier run that the config is from. If its `output_dir` is outside the project,
            as on another machine, a new run is written beside that run.
    """

    def __init__(
        self,
        settings: Config,
        root: Path,
        learnt: Facts | None = None,
        beside: Path | None = None,
    ) -> None:
        self.settings = settings
        self.root = root
        self.learnt = learnt
        self.output_dir = record.resolve_output(root, settings.output_dir)
        if beside and not self.output_dir.resolve().is_relative_to(root.resolve()):
            self.output_dir = beside.absolute().parent
        self.folder = Path()  # until a run folder is opened: a new one by the first process
        self.hashes = ""  # until the data is hashed
        self.parent = {"parent": "", "parent_digest": ""}  # the run it started from
        self.stop = distributed.StopSignal()
        self.device = distributed.select_device(settings.device, settings.deterministic)
        self.task = Task(settings.data, settings.model, root)
        self.loaders = self.build_loaders()
        self.settings = self.settle_micro_batches()
        self.logger: Any = Logger(settings.logger) if self.is_main else SilentLogger()
        self.build_model()
        self.build_trainer()
        self.parts: Facts = {
            "model_state_dict": self.model,
            "optimizer_state_dict": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.trainer.scaler,
            "trainer": self.trainer,
            "task": self.task,
        }
        if self.average:
            self.parts["average"] = self.average

    def build_loaders(self) -> dict[str, Loader]:
        """Read the data, join the other processes, and make a loader for each split."""
        torch.manual_seed(self.settings.seed)
        # The first process may download or prepare files: it reads before the others do.
        is_first = os.environ.get("RANK", "0") == "0"
        if is_first:
            datasets = self.read_datasets()
        self.is_main = distributed.init_process_group() == 0  # the other processes wait here
        if not is_first:
            datasets = self.read_datasets()
        loaders = {}
        for split, dataset in datasets.items():
            is_train = split == "train"
            loader = Loader(
                dataset,
                self.settings.loader,
                seed=self.settings.seed,
                shuffle=is_train,
                collate=self.task.collate,
                groups=self.task.groups(dataset) if is_train else None,
            )
            if len(loader) > 0:
                loaders[split] = loader
        for split in ("train", "val"):
            if split not in loaders:
                raise record.RunError(
                    f"the {split} split has no batch: it is missing or empty, "
                    "or has less than a batch and loader.drop_last is true"
                )
        return loaders

    def read_datasets(self) -> Facts:
        """The splits, after the task has learnt what it needs to make them."""
        if self.learnt is None:
            self.task.learn()
        else:
            checkpoint.restore({"task": self.learnt}, {"task": self.task})
        return self.task.datasets()

    def settle_micro_batches(self) -> Config:
        """The settings, with the number of processes in place of `trainer.micro_batches=0`.

        A run keeps this number, however many processes continue or repeat it.
        """
        options = self.settings.trainer
        count = options.micro_batches or distributed.world_size()
        return replace(self.settings, trainer=replace(options, micro_batches=count))

    def build_model(self) -> None:
        """Build the model with weights that do not depend on how the data was made."""
        torch.manual_seed(self.settings.seed)
        self.model = self.task.build_model().to(self.device)
        if self.settings.sharding:
            self.build_sharded_optimizer()
        else:
            self.optimizer = build_optimizer(self.settings.optim, self.model)
        self.average = build_average(self.settings.optim, self.model)

    def build_sharded_optimizer(self) -> None:
        """Shard the model, and build an optimizer for its shards."""
        from .engine import sharding  # here, since FSDP2 takes more than a second to import

        if self.settings.optim.ema:
            raise SetupError("optim.ema: there is no moving average of a sharded model")
        if self.settings.logger.trace:
            raise SetupError("logger.trace: no process has the sums of a sharded model")
        sharding.shard_model(self.model)
        self.optimizer = build_optimizer(self.settings.optim, self.model)
        sharding.shard_optimizer(self.optimizer)

    def build_trainer(self) -> None:
        """Build what trains the model, and the schedule of its learning rate."""
        options = self.settings.trainer
        self.total_steps = options.epochs * len(self.loaders["train"])
        if options.max_steps:
            self.total_steps = min(self.total_steps, options.max_steps)
        metrics = MetricGroup(self.task.metrics(), self.device)
        mode = metrics.mode(options.monitor)
        self.scheduler = build_scheduler(
            self.settings.optim, self.optimizer, self.total_steps, mode
        )
        trainer_class: Any = self.task.trainer
        if trainer_class is None:
            trainer_class = Trainer
        self.share = Share(
            self.model,
            options.micro_batches,
            in_order=self.settings.deterministic,
            is_sharded=self.settings.sharding,
            find_unused_parameters=self.settings.find_unused_parameters,
        )
        self.trainer: Trainer = trainer_class(
            self.share.model,
            self.optimizer,
            self.task.forward,
            options,
            share=self.share,
            units=self.task.units,
            metrics=metrics,
            mode=mode,
            scheduler=self.scheduler,
            average=self.average,
            log=self.logger.log,
            track=self.logger.track,
            save=self.save,
            stop=self.stop,
            is_time_up=lambda: self.stop.is_time_up,
            seed=self.settings.seed,
        )

    def check(self) -> None:
        """Try all that a run will do except its steps, so that what does not fit shows in seconds.

        A micro-batch of train and one of val go through forward, loss and metrics, the example of
        the task goes through `predict`, and all that a checkpoint will hold is written and read
        back in memory. This changes no bit of the run.
        """
        monitor = self.settings.trainer.monitor
        for split in ("train", "val"):
            values = self.trainer.evaluate_steps([self.loaders[split].first(self.share.count)])
            if not isinstance(values.get(monitor), int | float):
                raise SetupError(f"trainer.monitor: {monitor!r} is not a single number")
        self.check_predict()
        checkpoint.check({**self.parts, "config": config.plain(self.settings)})

    @torch.no_grad()
    def check_predict(self) -> None:
        """Try to predict for the example of the task, and to print the answer."""
        self.trainer.model.eval()  # of a model with a moving average, only that was evaluated
        samples = list(self.task.samples(self.task.example()))
        answers = list(self.task.predict(self.model, samples))
        if len(answers) != len(samples):
            raise record.RunError(
                f"Task.predict: expected an answer for each of {len(samples)} samples, "
                f"found {answers}"
            )
        json.dumps(answers)  # which `predict` prints

    def init_from(self, path: Path, partial: bool = False) -> None:
        """Start from the best weights of another run, or from those in a file.

        `partial`: load those that fit, even if not all do.
        """
        file = path / "checkpoints" / "best.pt" if path.is_dir() else path
        weights = checkpoint.load_weights(file)
        try:
            self.logger.info(checkpoint.fit_weights(self.model, weights, partial=partial))
        except checkpoint.CheckpointError as error:
            hint = "" if partial else "; --partial loads what fits"
            raise record.RunError(f"{path}: {error}{hint}") from None
        digest = record.digest(weights)
        self.parent = {"parent": relative(path, self.root), "parent_digest": digest}

    def manifest(self, verify_data: bool = False) -> Facts:
        """What runs here: see `record.collect_environment`."""
        self.hash_data(verify_data)
        facts = record.collect_environment(self.root, PACKAGE, self.hashes, self.device)
        share = {"micro_batches": self.share.count, "same_bits": self.share.is_exact}
        about = {"began": time.time(), "config": config.flat(self.settings)}
        return {**facts, **about, "seed": self.settings.seed, **share, **self.parent}

    def hash_data(self, verify: bool = False) -> None:
        """Hash the files that the run reads: see `record.hash_files`."""
        cache = self.output_dir / ".fingerprints.json"
        self.hashes = record.hash_files(*self.task.data_files(), cache=cache, verify=verify)

    def data_changed(self, folder: Path) -> str:
        """The message for data that has changed since the run in `folder` began."""
        files = ", ".join(str(path) for path in self.task.data_files())
        changes = record.changes(folder, self.hashes)
        return f"{files}: the data has changed since the run began: {changes}"

    def start(self, manifest: Facts, folder: Path | None = None) -> None:
        """Make the run folder, by default one with a name that has the time in it."""
        if self.is_main:
            folder = folder or record.create_run(self.output_dir, self.settings.name)
            self.open_folder(folder)  # refuses if another process is starting the same run
            if (folder / "config.yaml").exists():
                raise record.RunError(f"{folder}: another process has begun this run meanwhile")
            text = config.dump(self.settings)
            record.start(folder, text, manifest, PACKAGE, self.hashes)

    def open_folder(self, folder: Path) -> None:
        """Log to a run folder, which no other process may be writing to."""
        self.folder = folder
        record.refuse_links(folder)
        self.logger.open(folder)
        options = config.flat(self.settings)
        self.logger.describe(config.dump(self.settings), options)
        if self.is_main and self.task.tracker is not None:
            self.logger.send_to(self.task.tracker(folder, options))

    def save(self, name: str) -> None:
        """Save a checkpoint, "last", "best" or "best-STEP".

        All processes call this, the first one writes.
        """
        # A sharded state is gathered from all processes here.
        states = {key: part.state_dict() for key, part in self.parts.items()}
        if self.is_main:
            states["logger"] = self.logger.state_dict()
            states["config"] = config.plain(self.settings)
            folder = self.folder / "checkpoints"
            checkpoint.save(folder / f"{name}.pt", states, keep_previous=name == "last")
            # "last" has the ranking: if the process is killed here, the next one cleans up by it.
            if name == "last":
                self.remove_what_is_left(folder)

    def remove_what_is_left(self, folder: Path) -> None:
        """Remove checkpoints that are not among the best now, and what a kill left unfinished."""
        kept = {f"best-{entry['step']}.pt" for entry in self.trainer.ranking}
        for path in (*folder.glob("best-*.pt"), *folder.glob("*.tmp")):
            if path.name not in kept:
                with suppress(OSError):  # a folder, say, that something else has put there
                    path.unlink()

    def execute(self) -> Path:
        """Train to the end, test the best weights, and leave result.json in the run folder.

        Raises SystemExit if a signal stopped the run, as if the signal had ended the program.
        """
        self.announce()
        if self.settings.trainer.compile:
            torch.use_deterministic_algorithms(self.settings.deterministic)  # for compile
            self.model.compile()
        minutes = self.settings.trainer.max_minutes
        if minutes and self.is_main:
            self.stop.deadline = time.monotonic() - self.logger.seconds + 60 * minutes
        result: Facts = {"status": "failed"}
        try:
            with self.stop, self.trace():
                self.train_and_test(result)
        except Stopped:
            result["status"] = "stopped"
            self.tell_how_to_resume()
        finally:
            if self.is_main:
                best = self.trainer.best
                result["best"] = {key: best[key] for key in ("metric", "value", "step") if best}
                result["steps"] = self.trainer.step
                record.write(self.folder / "result.json", result)
            self.logger.close()
            self.loaders.clear()  # ends their workers now, not when Python collects them
        distributed.barrier()  # no process leaves before the others are done
        if self.stop.number:
            raise SystemExit(128 + self.stop.number)
        return self.folder

    def trace(self) -> AbstractContextManager[None]:
        """Notes each step in the run folder, if the config says so."""
        if not self.settings.logger.trace or not self.is_main:
            return nullcontext()
        return tracing(self.folder / TRACE, self.model, self.optimizer, self.trainer)

    def train_and_test(self, result: Facts) -> None:
        """Train, and fill in status and digest of the result."""
        try:
            self.trainer.fit(self.loaders["train"], self.loaders["val"])
        except RuntimeError as error:
            if "find_unused_parameters" not in str(error):
                raise
            raise TrainingError(
                "some parameters got no gradient; with several processes this needs "
                "find_unused_parameters=true"
            ) from error
        result["digest"] = record.digest(self.model.state_dict())
        result["test"] = self.test_best()
        result["status"] = "finished"

    def test_best(self) -> Facts:
        """Evaluate the best weights on the test split if there is one, and report the run."""
        at = self.trainer.at("val")
        if self.trainer.best:
            self.load_best()
            at = self.trainer.best["at"]
        numbers: Facts = {}
        if "test" in self.loaders:
            values = self.trainer.evaluate(self.loaders["test"])
            numbers = self.trainer.write({**at, "split": "test"}, values)
        if self.is_main and self.settings.logger.tensorboard:
            self.show_page(at["step"])
            self.logger.finish(self.trainer.step)
        self.report()
        return dict(null_if_not_finite(numbers))

    def show_page(self, step: int) -> None:
        """Show in TensorBoard what the task says of the weights of this step, if it does."""
        if self.task.page is None or self.settings.sharding:  # whose weights no process has whole
            return
        split = "test" if "test" in self.loaders else "val"
        limit = min(self.settings.loader.limit or PAGE_SAMPLES, PAGE_SAMPLES)
        options = replace(self.settings.loader, limit=limit, num_workers=0)
        dataset = self.loaders[split].dataset
        loader = Loader(dataset, options, collate=self.task.collate)
        try:
            output = self.output_of(loader)
            page = self.task.page(split, loader.indices.tolist(), output)
            self.logger.show(step, {f"{split}/{name}": part for name, part in page.items()})
        except Exception as error:  # the run has all its results
            self.logger.info(f"warning: no page in TensorBoard: {type(error).__name__}: {error}")

    @torch.no_grad()
    def output_of(self, loader: Any) -> Output:
        """What `forward` makes of all samples of a loader, as one batch on the CPU."""
        self.model.eval()
        count = self.share.count
        outputs = []
        for step in loader.steps_of_epoch(shards=count, mine=range(count)):
            for micro_batch in step.micro_batches:
                if micro_batch.size:  # 0: it only stands in for an empty one
                    output = self.trainer.forward_batch(micro_batch, self.model)
                    parts = (output.losses, output.preds, output.target)
                    outputs.append([part.cpu() for part in parts])
        losses, preds, target = map(torch.cat, zip(*outputs, strict=True))
        return Output(losses, preds, target)

    def load_best(self) -> None:
        """Load the best weights in all processes."""
        weights = self.model.state_dict()
        if self.is_main:
            path = self.folder / "checkpoints" / "best.pt"
            weights = checkpoint.weights_of(checkpoint.load(path))
        self.trainer.average = None  # it is in the best weights
        self.model.load_state_dict(weights)  # sharded: those of the first process for all
        if not self.settings.sharding:
            distributed.broadcast_weights(self.model)

    def announce(self) -> None:
        """Show what is about to run."""
        size = sum(parameter.numel() for parameter in self.model.parameters())
        splits = ", ".join(f"{loader.size:,} {split}" for split, loader in self.loaders.items())
        turns = self.loaders["train"].turns
        if turns:
            splits += f"; {turns.count} groups drawn equally often in training"
        steps = f"{self.trainer.step} of {self.total_steps} steps"
        where = f"{self.share.world_size} x {self.device}, {torch.get_num_threads()} threads"
        for line in (*self.task.summary(), *describe_groups(self.settings.optim, self.model)):
            self.logger.info(line)
        self.logger.info(f"{size:,} parameters; {splits}; {steps}; {where}")
        if self.share.count > 1:
            self.logger.info(f"{self.share.count} micro-batches a step, {self.share.promise}")

    def report(self) -> None:
        """Show where the run is, how good it is, and what can be done with it."""
        options = self.settings.trainer
        if self.trainer.last_step:
            self.logger.info(f"time is up after step {self.trainer.last_step}")
        if self.trainer.is_out_of_patience:
            self.logger.info(
                f"early stop: {options.monitor} has not improved in {options.patience} "
                f"evaluation{'s' if options.patience > 1 else ''}"
            )
        best = "none"
        if self.trainer.best:
            best = "{metric} {value:.4f} on val, step {step}".format(**self.trainer.best)
        run = relative(self.folder)
        command = f"python -m {__package__}"
        example = shlex.quote(self.task.example())
        self.logger.info(f"run       {run}")
        self.logger.info(f"best      {best}")
        self.logger.info(f"look      tensorboard --logdir {os.path.dirname(run)}")
        self.logger.info(f"evaluate  {command} evaluate {run}")
        self.logger.info(f"predict   {command} predict {run} {example}")

    def tell_how_to_resume(self) -> None:
        """Show why the run stopped, and how to continue it."""
        name = Signals(self.stop.number).name
        run = relative(self.folder)
        self.logger.info(f"stopped   by {name} after step {self.trainer.step}")
        self.logger.info(f"resume    python -m {__package__} train --resume {run}")


def train(
    path: Path | None,
    overrides: list[str],
    root: Path,
    init_from: Path | None = None,
    partial: bool = False,
    verify_data: bool = False,
    name: str = "",
) -> Path:
    """Train a new run.

    Args:
        path: the config file, if any.
        overrides: options that are not as in the file, as `section.key=value`.
        root: the folder that relative paths in the config start from.
        init_from: a run whose best weights to start from, or a file of weights.
        partial: start from those weights that fit, even if not all do.
        verify_data: read all data for its fingerprint, also what has not changed in size and time.
        name: the name of the run folder; by default, `name` in the config with the time.
    """
    run = Run(load_config(path, overrides), root)
    if init_from:
        run.init_from(init_from, partial)
    run.check()
    folder = record.open_run(run.output_dir, name) if name and run.is_main else None
    run.start(run.manifest(verify_data), folder)
    return run.execute()
