"""The training loop, for any model, any batch and any loss. Works alone.

    def forward(model, batch):
        inputs, target = batch
        preds = model(inputs)
        losses = torch.nn.functional.cross_entropy(preds, target, reduction="none")
        return Output(losses, preds, target)

    trainer = Trainer(model, optimizer, forward, TrainerConfig(epochs=3))
    trainer.fit(train_loader, val_loader)

A loader is a `Loader` of loader.py, or any DataLoader or list of batches.

Everything that a run needs to continue is in `state_dict()`. There is no random state in it: the
random numbers of a micro-batch depend only on the seed, the step and the place of the micro-batch
in the step.
"""

import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, field, fields, is_dataclass, replace
from itertools import chain, islice
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

Values = dict[str, Any]
"""Numbers by their names: a line of the log, what an evaluation gives, or a state."""
Sums = dict[str, Tensor]
"""Sums of the loss and of the values of a micro-batch, by name."""


@dataclass(frozen=True)
class TrainerConfig:
    """Options of the training loop."""

    epochs: Annotated[int, 1] = 10
    """passes over the training data"""
    max_steps: Annotated[int, 0] = 0
    """end training after this many steps (0: no limit)"""
    max_minutes: Annotated[float, 0] = 0.0
    """end training after this many minutes, as if it had made all steps (0: no limit)"""
    micro_batches: Annotated[int, 0] = 0
    """parts that a batch is cut into, to save memory or for processes (0: one per process)"""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """autocast precision; weights stay fp32"""
    compile: bool = False
    """speed up the model with torch.compile, which takes about a minute at the start"""
    max_grad_norm: Annotated[float, 0] = 0.0
    """maximum gradient norm, which is logged (0: no clipping; .inf: only log it)"""
    log_every: Annotated[int, 1] = 50
    """steps between two lines of the training log"""
    save_every: Annotated[int, 0] = 0
    """steps between two checkpoints (0: at the end of each epoch); each evaluation saves one too"""
    eval_every: Annotated[int, 0] = 0
    """steps between two evaluations (0: at the end of each epoch)"""
    keep: Annotated[int, 1] = 1
    """number of best checkpoints that are kept, beside the last one"""
    monitor: str = "loss"
    """validation metric, or loss, that selects the best checkpoint"""
    patience: Annotated[int, 0] = 0
    """stop after this many evaluations without improvement (0: never)"""


class TrainingError(RuntimeError):
    """The run failed: the loss or a weight is not finite."""

    exit_code = 1


class SetupError(ValueError):
    """What was handed to the trainer does not fit together."""

    exit_code = 2


class Stopped(Exception):
    """Training was asked to stop, and has saved its state."""


@dataclass
class Output:
    """What `forward` makes of a batch."""

    losses: Tensor
    """unreduced loss of each sample (batch,); of any shape (batch, ...) if there are `units`"""
    preds: Any
    """what the metrics compare with the target"""
    target: Any = None
    """what the metrics compare the predictions with"""
    values: Mapping[str, Tensor] = field(default_factory=dict)
    """further values of each sample (batch,), logged beside the loss as means over samples"""


class MicroBatch(NamedTuple):
    """A part of a step's batch that goes through the model at once."""

    batch: Any
    """what the loader made of the samples"""
    size: int
    """number of samples; 0: the batch only stands in for an empty one, and has no weight"""


class Step(NamedTuple):
    """What one optimizer step is made from."""

    micro_batches: Sequence[MicroBatch]
    """those of this process"""
    size: int
    """number of samples in the micro-batches of all processes"""


class Metrics(Protocol):
    """What the trainer needs of metrics. The methods as they are here measure nothing."""

    def reset(self) -> None:
        """Start anew."""
        return

    def update(self, output: Output, batch: Any) -> None:
        """Take a batch, and what `forward` made of it."""
        return

    def compute(self) -> Values:
        """The values by name: numbers, or nested lists of them."""
        return {}


class NoMetrics(Metrics):
    """Measures nothing."""


class Share(Protocol):
    """What the trainer needs to know of the processes among which a step is shared out."""

    count: int
    """micro-batches of a step, over all processes"""
    mine: range
    """the numbers of those of this process"""

    def turn(self, number: int, size: int) -> AbstractContextManager[None]:
        """What is put around forward and backward of a micro-batch, to add up gradients."""

    def gather(self, values: list[float]) -> list[list[float]]:
        """The numbers of each process, equally many."""


class WholeStep(Share):
    """The share of a process that is alone: all micro-batches, whose gradients torch adds up."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.mine = range(count)

    def turn(self, number: int, size: int) -> AbstractContextManager[None]:
        """Nothing needs to be done."""
        return nullcontext()

    def gather(self, values: list[float]) -> list[list[float]]:
        """The numbers of the only process."""
        return [values]


def seed_of(*numbers: int) -> int:
    """A 32-bit seed that is a function of some numbers: a hash, since neighbours must differ."""
    return zlib.crc32(" ".join(map(str, numbers)).encode())


def exact_sum(numbers: Iterable[float]) -> float:
    """The sum, rounded only once: it does not depend on the order of the numbers."""
    try:
        return math.fsum(numbers)
    except (ValueError, OverflowError):  # infinities of both signs, or more than a float holds
        return math.nan


def _ignore(*_: Any) -> None:
    """Do nothing: stands in for a log, a save or a stop that nobody wants."""


@dataclass
class Trainer:
    """Trains and evaluates a model. Each of the fields is described below it, in the source."""

    model: nn.Module
    """any module, on its device already; may be wrapped by DistributedDataParallel"""
    optimizer: torch.optim.Optimizer
    forward: Callable[[nn.Module, Any], Output]
    """gets the model and a batch; draws random numbers from torch alone, which is seeded"""
    config: TrainerConfig
    _: KW_ONLY
    share: Any = None
    """the `Share` of this process in a step, such as that of share.py; None: all of the step"""
    units: Callable[[Any], int] | None = None
    """how many units (tokens, pixels) the loss of a batch counts: the loss is then the mean over
    units; without it, it is the mean over samples"""
    metrics: Metrics = NoMetrics()  # noqa: RUF009  # it has no state
    """what is measured in an evaluation, such as a `MetricGroup` of measure.py"""
    mode: Literal["min", "max"] = "min"
    """whether the monitor is to become small or large"""
    scheduler: LRScheduler | None = None
    """steps after each step of the optimizer; ReduceLROnPlateau after each evaluation"""
    average: AveragedModel | None = None
    """moving average of the weights, which is evaluated in place of the model"""
    log: Callable[[Values], object] = _ignore
    """gets each line of the log, a dict of numbers"""
    track: Callable[..., Iterable[Step]] = lambda steps, *_: steps
    """gets the steps of an epoch, its number, the first step and the number of steps, and returns
    the steps; for a progress bar"""
    save: Callable[[str], object] = _ignore
    """gets "last" when a checkpoint is due, "best" when the model is the best so far, and, if
    `keep` is more than 1, `best-STEP` when it is among the best"""
    stop: Callable[[], bool | None] = _ignore
    """is called after each step, and before each batch of an evaluation, and says whether to stop
    here and save; a resume then continues"""
    is_time_up: Callable[[], bool | None] = _ignore
    """is called after `stop`, and says whether training is to end with this step"""
    seed: int = 0
    """decides, with the number of the step, the random numbers of training"""

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        if self.share is None:
            self.share = WholeStep(self.config.micro_batches or 1)
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.precision)
        self.autocast: Any = torch.autocast(self.device.type, dtype) if dtype else nullcontext()
        # fp16 cannot hold small gradients: the loss is scaled up, and the gradients back down.
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.config.precision == "fp16"
        )
        self.steps_per_epoch = 1  # until `fit` knows
        self.step = 0  # finished steps
        self.last_step = 0  # the step after which time was up; 0: it is not up
        self.logged_step = 0  # the step of the last line of the training log
        self.evaluated_step = 0  # the step of the last evaluation
        # Since the last line of the training log, over all processes:
        self.samples = 0
        self.units_seen = 0  # samples if there are no units
        self.sums: dict[str, float] = {}  # of the loss and the values
        self.pending: list[Sums] = []  # of this process, on the device: to be added to them
        self.lr = 0.0  # learning rate of the last step
        self.grad_norm: Tensor | None = None  # of the last step, before clipping
        self.best: Values = {}  # the best evaluation
        self.ranking: list[Values] = []  # value and step of the evaluations that are kept
        self.evaluations_without_improvement = 0
        self.is_resumed = False

    def fit(self, train: Any, val: Any) -> None:
        """Train to the end, with an evaluation and a checkpoint whenever they are due."""
        self.steps_per_epoch = len(train)
        ends = [self.config.epochs * self.steps_per_epoch, self.config.max_steps, self.last_step]
        self.end = min(end for end in ends if end > 0)  # the step with which training ends
        try:
            if self.is_evaluation_due:  # a signal has interrupted it
                self.evaluate_and_save(val)
            while not self.is_finished:
                self.train_epoch(train, val)
        except Stopped:
            # This is after a whole step. An evaluation that was interrupted is repeated on resume.
            self.checkpoint("last")
            raise

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return self.step // self.steps_per_epoch

    @property
    def is_out_of_patience(self) -> bool:
        """Whether early stopping ends the training."""
        return 0 < self.config.patience <= self.evaluations_without_improvement

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.step >= self.end or self.is_out_of_patience

    @property
    def is_evaluation_due(self) -> bool:
        """Whether the last step asks for an evaluation, which was not made yet."""
        is_due = self.is_due(self.config.eval_every) or self.step >= self.end
        return is_due and self.evaluated_step < self.step

    def is_due(self, every: int) -> bool:
        """Whether something is due that happens so often; 0: at the end of each epoch."""
        return self.step % (every or self.steps_per_epoch) == 0

    def train_epoch(self, train: Any, val: Any) -> None:
        """Make the steps of an epoch that are still to be made."""
        self.start_clock()
        start = self.step % self.steps_per_epoch  # more than 0 if a run continues here
        steps = self.steps_of(train, self.epoch, start)
        for step in self.track(steps, self.epoch + 1, start, self.steps_per_epoch):
            if not self.model.training:  # at first, and after an evaluation
                self.model.train()
            self.train_step(step)
            is_stopped = self.stop()
            if self.is_time_up():
                self.last_step = self.step
                self.end = self.step
            is_evaluation_due = self.is_evaluation_due
            if is_evaluation_due or self.is_due(self.config.log_every):
                self.log_train()
            if is_evaluation_due:
                self.evaluate_and_save(val)
            elif self.is_due(self.config.save_every):
                self.checkpoint("last")
            if is_stopped:
                raise Stopped
            if self.is_finished:
                break

    def evaluate_and_save(self, val: Any) -> None:
        """Evaluate, decide with the values what is best, and save a checkpoint."""
        self.finish_evaluation(self.evaluate(val))
        self.checkpoint("last")
        self.start_clock()

    def train_step(self, step: Step) -> None:
        """Update the weights once, then the learning rate and the counters."""
        total = self.count_units(step)
        scale = self.scaler.get_scale()
        self.lr = self.optimizer.param_groups[0]["lr"]
        self.update(step.micro_batches, total)
        is_skipped = self.scaler.get_scale() < scale  # by the scaler: a gradient was not finite
        is_per_step = not isinstance(self.scheduler, ReduceLROnPlateau)
        if self.scheduler and is_per_step and not is_skipped:
            self.scheduler.step()
        if self.average and not is_skipped:
            self.average.update_parameters(self.model)
        self.step += 1
        self.samples += step.size
        self.units_seen += total

    def update(self, micro_batches: Sequence[MicroBatch], total: int) -> None:
        """Make one optimizer step on the mean loss over `total` units.

        Override this method for any other kind of step, such as one with two optimizers. The
        schedule sets the learning rate of `self.optimizer` alone; another one can take `self.lr`.
        """
        self.optimizer.zero_grad()
        for number, micro_batch in zip(self.share.mine, micro_batches, strict=True):
            # Dropout is a function of seed, step and micro-batch: there is no random state to save.
            self.manual_seed(self.seed, self.step, number)
            with self.share.turn(number, micro_batch.size):
                output = self.forward_batch(micro_batch)
                sums = _sums(output, micro_batch.size)
                # Each unit weighs 1 / total, in whichever micro-batch it is.
                loss = sums["loss"] * (1 / max(1, total))
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            # For the log; without their graph, which would stay alive.
            self.pending.append({name: value.detach() for name, value in sums.items()})
        max_norm = self.config.max_grad_norm
        if max_norm:
            self.scaler.unscale_(self.optimizer)  # first, so that the norm is the true one
            self.grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        self.scaler.step(self.optimizer)  # skips the step if a gradient is not finite
        self.scaler.update()

    def forward_batch(self, micro_batch: MicroBatch, model: nn.Module | None = None) -> Output:
        """Run `forward` on the device and in the precision of the run, and check what it returns.

        `model` is by default the one that is trained.

        Raises SetupError if the losses or values do not have one entry for each sample.
        """
        batch = self.to_device(micro_batch.batch)
        try:
            with self.autocast:
                output = self.forward(self.model if model is None else model, batch)
        except Exception as error:
            shapes = [tuple(tensor.shape) for tensor in tensors_of(batch)]
            error.add_note(f"The shapes of the tensors of the batch: {shapes}")
            raise
        _check_shapes(output, max(1, micro_batch.size), has_units=self.units is not None)
        return output

    def evaluate(self, loader: Any) -> Values:
        """The mean loss, the values and the metrics over all samples and processes."""
        return self.evaluate_steps(self.steps_of(loader, is_training=False))

    @torch.no_grad()
    def evaluate_steps(self, steps: Iterable[Step]) -> Values:
        """Evaluate the micro-batches of these steps, without a step being made."""
        model = self.average.module if self.average else self.model
        model.eval()
        self.metrics.reset()
        rows: list[Sums] = []
        samples = 0
        total = 0
        for place, step in enumerate(steps):
            if self.stop():
                raise Stopped
            micro_batches = self.to_device(step.micro_batches)  # once, for forward and metrics
            for number, micro_batch in zip(self.share.mine, micro_batches, strict=False):
                # What forward draws is the same each time; -1: no step of training has it.
                self.manual_seed(self.seed, -1, place, number)
                output = self.forward_batch(micro_batch, model)
                rows.append(_sums(output, micro_batch.size))
                if micro_batch.size:
                    self.metrics.update(output, micro_batch.batch)
            samples += step.size
            total += self.count_units(step)
        if not rows:
            raise SetupError("there are no batches to evaluate")
        sums = {name: self.add_up(column) for name, column in _columns(rows).items()}
        return {**_means(sums, total, samples), **self.metrics.compute()}

    def finish_evaluation(self, values: Values) -> None:
        """Log the values of an evaluation, and decide with them what is best and the plateau."""
        self.evaluated_step = self.step
        at = self.at("val")
        self.write(at, values)
        value = values[self.config.monitor]
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(value)
        self.evaluations_without_improvement += 1
        if self.is_better(value):
            self.evaluations_without_improvement = 0
            monitor = self.config.monitor
            self.best = {"metric": monitor, "value": value, "step": self.step, "at": at}
            self.checkpoint("best")
        if self.config.keep > 1 and math.isfinite(value):
            self.rank({"value": value, "step": self.step})

    def rank(self, evaluation: Values) -> None:
        """Save a checkpoint of its own if this is one of the best evaluations."""
        ranking = [*self.ranking, evaluation]
        ranking.sort(key=lambda entry: float(entry["value"]), reverse=self.mode == "max")
        self.ranking = ranking[: self.config.keep]
        if evaluation in self.ranking:
            self.checkpoint(f"best-{self.step}")

    def is_better(self, value: float) -> bool:
        """Whether a value of the monitor is finite and better than the best one so far."""
        best = self.best.get("value", math.nan)
        is_ahead = value > best if self.mode == "max" else value < best
        return math.isfinite(value) and (is_ahead or not self.best)

    def log_train(self) -> None:
        """Log the means since the last line, and the samples per second."""
        self.add_pending()
        seconds = time.perf_counter() - self.started
        values = _means(self.sums, self.units_seen, self.samples)
        if self.grad_norm is not None:
            values["grad_norm"] = _number(self.grad_norm)
        values["rate"] = round((self.samples - self.samples_at_start) / seconds, 1)
        self.write(self.at("train"), values)
        self.logged_step = self.step
        self.samples = 0
        self.units_seen = 0
        self.sums = {}
        self.start_clock()

    def start_clock(self) -> None:
        """Start to measure the samples per second."""
        self.started = time.perf_counter()
        self.samples_at_start = self.samples

    def at(self, split: str) -> Values:
        """Where the training stands: the beginning of a line of the log."""
        epoch = math.ceil(self.step / self.steps_per_epoch)
        return {"step": self.step, "epoch": epoch, "split": split, "lr": self.lr}

    def write(self, at: Values, values: Values) -> Values:
        """Log the numbers among the values, and return them; vectors and matrices are left out."""
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        self.log({**at, **numbers})
        return numbers

    def checkpoint(self, name: str) -> None:
        """Save a checkpoint, unless a weight is not finite."""
        self.add_pending()  # here, where all processes are
        if not _all_finite(self.model):
            raise TrainingError(f"a weight is not finite after step {self.step}: nothing is saved")
        self.save(name)

    def add_pending(self) -> None:
        """Add the losses of the last steps to the sums: here training waits for the device."""
        count = len(self.share.mine)
        for name, column in _columns(self.pending).items():
            columns = self.share.gather(column)  # of all processes
            # One step at a time, so that the sums do not depend on how often this is called.
            for first in range(0, len(column), count):
                of_step = chain.from_iterable(part[first : first + count] for part in columns)
                self.sums[name] = self.sums.get(name, 0.0) + exact_sum(of_step)
        self.pending.clear()
        loss = self.sums.get("loss", 0.0)
        if not math.isfinite(loss):
            steps = f"steps {self.logged_step + 1} to {self.step}"
            raise TrainingError(f"the loss became {loss} in {steps}: try a lower optim.lr")

    def count_units(self, step: Step) -> int:
        """The number of units in a step, over all micro-batches and processes."""
        if self.units is None:
            return step.size
        mine = sum(self.units(part.batch) for part in step.micro_batches if part.size)
        return int(self.add_up([mine]))

    def add_up(self, values: list[float]) -> float:
        """The sum of these numbers over all processes."""
        return exact_sum(chain.from_iterable(self.share.gather(values)))

    def to_device(self, batch: Any) -> Any:
        """The batch with its tensors on the device of the model."""
        if self.device.type == "cpu":
            return batch  # loaders make batches there
        return map_tensors(lambda tensor: tensor.to(self.device, non_blocking=True), batch)

    def manual_seed(self, *numbers: int) -> None:
        """Seed the random numbers of the CPU and of the model's device by a function of numbers."""
        seed = seed_of(*numbers)
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device.type).manual_seed(seed)

    def steps_of(
        self, loader: Any, epoch: int = 0, start: int = 0, is_training: bool = True
    ) -> Iterable[Step]:
        """The steps of an epoch from step `start` on, made by the loader or of its batches."""
        if hasattr(loader, "steps_of_epoch"):
            steps: Iterable[Step] = loader.steps_of_epoch(
                epoch, start, self.share.count, self.share.mine
            )
            return steps
        # A plain batch stays whole: one process can evaluate it, and train on it if none is cut.
        if len(self.share.mine) < self.share.count or (is_training and self.share.count > 1):
            raise SetupError(
                "several micro-batches or processes need a `Loader`, which cuts batches into "
                f"micro-batches; found {type(loader).__name__}"
            )
        if self.is_resumed:
            _check_is_seeded(loader)
        return islice(self.plain_steps(loader, epoch), start, None)

    def plain_steps(self, batches: Any, epoch: int) -> Iterator[Step]:
        """Steps made of the batches of any DataLoader or list.

        The size of a batch is the length of its first tensor.

        torch is seeded before the epoch and before each batch. So the order of
        `DataLoader(shuffle=True)`, and what its transforms draw from torch, depend only on the
        seed, the epoch and the number of the batch.
        """
        torch.default_generator.manual_seed(seed_of(self.seed, epoch))
        iterator = iter(batches)
        for number in range(len(batches)):
            torch.default_generator.manual_seed(seed_of(self.seed, epoch, number))
            batch = next(iterator)
            tensors = tensors_of(batch)
            if not tensors or tensors[0].ndim == 0:
                raise SetupError(
                    "a batch of a plain DataLoader or list must begin with a tensor of shape "
                    "(batch, ...); a `Loader` takes any batch"
                )
            size = len(tensors[0])
            yield Step([MicroBatch(batch, size)], size)

    def state_dict(self) -> Values:
        """All that the loop must remember to continue: plain numbers."""
        return {
            "step": self.step,
            "last_step": self.last_step,
            "logged_step": self.logged_step,
            "evaluated_step": self.evaluated_step,
            "samples": self.samples,
            "units_seen": self.units_seen,
            "sums": dict(self.sums),
            "lr": self.lr,
            "best": dict(self.best),
            "ranking": list(self.ranking),
            "evaluations_without_improvement": self.evaluations_without_improvement,
        }

    def load_state_dict(self, state: Values) -> None:
        """Continue from what `state_dict` returned."""
        for name in Trainer.state_dict(self):  # a subclass loads what it adds itself
            setattr(self, name, state[name])
        self.is_resumed = True


def map_tensors(function: Callable[[Tensor], Any], batch: Any) -> Any:
    """A nest of tuples, lists, dicts and dataclasses, with `function` applied to its tensors."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(function, value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        make = getattr(batch, "_make", type(batch))  # a named tuple has `_make`
        return make(map_tensors(function, value) for value in batch)
    if is_dataclass(batch):
        parts = {entry.name: getattr(batch, entry.name) for entry in fields(batch) if entry.init}
        return replace(batch, **map_tensors(function, parts))  # type: ignore[type-var]
    return batch


def tensors_of(batch: Any) -> list[Tensor]:
    """The tensors in a nest of tuples, lists, dicts and dataclasses."""
    tensors: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(collect, batch)
    return tensors


def _check_is_seeded(loader: Any) -> None:
    """Raise SetupError for a DataLoader whose random numbers the trainer cannot seed."""
    if not isinstance(loader, DataLoader):
        return
    batch_sampler = loader.batch_sampler
    sources = [loader, loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None)]
    has_generator = any(getattr(source, "generator", None) for source in sources)
    if has_generator or loader.persistent_workers:
        raise SetupError(
            "a DataLoader with a generator or with persistent workers has random numbers of its "
            "own, so it cannot be resumed exactly; create it without generator= and "
            "persistent_workers=, the trainer seeds it in each epoch"
        )


def _check_shapes(output: Output, size: int, has_units: bool) -> None:
    """Raise SetupError unless the losses and the values have one entry for each sample."""
    for name, column in {"losses": output.losses, **output.values}.items():
        shape = tuple(column.shape)
        is_by_unit = has_units and name == "losses" and shape[:1] == (size,)
        if shape != (size,) and not is_by_unit:
            raise SetupError(
                f"forward: expected {name} of shape ({size},), one for each sample and unreduced, "
                f"found {shape}; a loss for each token or pixel needs `units`"
            )
    if "loss" in output.values:
        raise SetupError("forward: the name 'loss' is taken by the losses; rename this value")


def _sums(output: Output, size: int) -> Sums:
    """The sums of the loss and of the values over the samples that count."""
    columns = {"loss": output.losses, **output.values}
    if size == 0:  # what stands in for an empty micro-batch does not count
        columns = {name: column[:0] for name, column in columns.items()}
    return {name: column.sum() for name, column in columns.items()}


def _columns(rows: list[Sums]) -> dict[str, list[float]]:
    """The sums of several micro-batches by name, as numbers."""
    names = rows[0] if rows else ()
    return {name: torch.stack([row[name] for row in rows]).tolist() for name in names}


def _means(sums: dict[str, float], units: int, samples: int) -> dict[str, float]:
    """The loss as the mean over units, the other values as means over samples."""
    counts = dict.fromkeys(sums, samples) | {"loss": units}
    return {name: value / max(1, counts[name]) for name, value in sums.items()}


def _number(tensor: Any) -> float:
    """The number in a tensor, which FSDP2 may have spread over processes."""
    return float(tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor)


def _all_finite(model: nn.Module) -> bool:
    """Whether all weights are finite."""
    # A sum is finite only if all its terms are, and takes a twentieth of the time of a look at each
    # of them. That is left for weights that are so large that their sum is not finite.
    return all(
        bool(parameter.sum().isfinite() or parameter.isfinite().all())
        for parameter in model.parameters()
    )
