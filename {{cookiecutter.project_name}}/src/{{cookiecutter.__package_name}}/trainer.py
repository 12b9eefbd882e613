"""The training loop. Works alone. For another task than classification edit `Trainer.forward`."""

#     trainer = Trainer(model, optimizer, TrainerConfig(epochs=3, monitor="loss"))
#     trainer.fit(train_loader, val_loader)

import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Annotated, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

Step = tuple[list[tuple[Any, int]], int]  # (micro-batch, count of its samples) pairs, their sum


@dataclass(frozen=True)
class TrainerConfig:
    epochs: Annotated[int, 1] = 10  # passes over the training data
    max_steps: Annotated[int, 0] = 0  # steps after which training ends; 0: no limit
    accumulate: Annotated[int, 1] = 1  # micro-batches that a step is cut into, to save memory
    clip: Annotated[float, 0] = 0.0  # norm that larger gradients are scaled down to; 0: off
    log_every: Annotated[int, 1] = 50  # steps between two lines of the log
    save_every: Annotated[int, 0] = 0  # steps between checkpoints; 0: at each epoch only
    monitor: str = "accuracy"  # what decides which checkpoint is best: loss or a metric, of val
    patience: Annotated[int, 0] = 0  # evaluations without a better value that end it; 0: off


class TrainingError(RuntimeError):
    exit_code = 1  # the run failed: the loss or a weight is not finite


class Stopped(Exception): ...  # training was asked to stop, and has saved its state


class OptionError(ValueError):
    exit_code = 2  # an option that does not fit the rest


class Metric(Protocol):  # ours, or one of torchmetrics
    def update(self, preds: Tensor, target: Tensor) -> None: ...
    def compute(self) -> Tensor: ...
    def reset(self) -> None: ...


def plain_steps(batches: Any, epoch: int, start: int, accumulate: int) -> Iterator[Step]:
    # Any iterable of (inputs, target) batches as steps, cut into `accumulate` micro-batches.
    for inputs, target in islice(batches, start, None):
        parts = zip(inputs.chunk(accumulate), target.chunk(accumulate), strict=True)
        yield [(part, len(part[1])) for part in parts], len(target)


@dataclass
class Trainer:
    """Trains a model; all that it must remember to go on later is in its `state_dict`."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    config: TrainerConfig
    scheduler: LRScheduler | None = None  # stepped after each step; ReduceLROnPlateau each epoch
    metrics: dict[str, Metric] = field(default_factory=dict)
    log: Callable[[dict[str, Any]], object] = lambda record: None  # gets each line of the log
    steps: Callable[[Any, int, int, int], Iterable[Step]] = plain_steps  # of a loader
    track: Callable[..., Iterable[Step]] = lambda steps, *where: steps  # shows them in a bar
    save: Callable[[str], None] = lambda name: None  # gets "last" each epoch, "best" when it is
    stop: Callable[[], bool] = lambda: False  # asked after each batch: is training to end early?
    generator: torch.Generator = torch.default_generator  # the one that dropout draws from
    seed: int = 0  # the random numbers of a step depend on this and on its number alone

    def __post_init__(self) -> None:
        higher = {n: getattr(m, "higher_is_better", True) for n, m in self.metrics.items()}
        higher, monitor = {"loss": False, **higher}, self.config.monitor  # as torchmetrics says it
        if monitor not in higher:
            raise OptionError(f"trainer.monitor: expected one of {[*higher]}, found {monitor!r}")
        self.mode: Literal["min", "max"] = "max" if higher[monitor] else "min"
        self.device = next(self.model.parameters()).device
        self.epoch = self.step = self.logged = 0  # those that are finished, the last one logged
        self.loss_sum, self.count = 0.0, 0  # over the samples of the running epoch
        self.losses: list[Tensor] = []  # what is to be added to loss_sum, still on the device
        self.lr = 0.0  # of the last step
        self.best: dict[str, Any] = {}  # the best evaluation: metric, value, step
        self.stale = 0  # evaluations since then

    # EDIT HERE for another task: the loss of each sample (batch,), unreduced, and the output.
    # In training draw random numbers from torch alone: it is seeded for each micro-batch.
    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        inputs, target = batch
        output = self.model(inputs)  # (batch, classes)
        return F.cross_entropy(output, target, reduction="none"), output

    def fit(self, train: Any, val: Any) -> None:
        try:
            while self.count or not self.finished:  # the last epoch may be still to be evaluated
                self.train_epoch(train)
                self.conclude_epoch(self.evaluate(val))
                self.checkpoint("last")
        except Stopped:  # after a whole step: an evaluation is repeated when the run goes on
            self.checkpoint("last")
            raise

    @property
    def finished(self) -> bool:
        out_of_steps = 0 < self.config.max_steps <= self.step
        out_of_patience = 0 < self.config.patience <= self.stale
        return self.epoch >= self.config.epochs or out_of_steps or out_of_patience

    def train_epoch(self, train: Any) -> None:
        self.model.train()
        self.clock, self.timed = time.perf_counter(), self.count
        start = self.step - self.epoch * len(train)  # more than 0 where a run goes on
        allowed = self.config.max_steps - self.step if self.config.max_steps else None
        steps = islice(self.steps(train, self.epoch, start, self.config.accumulate), allowed)
        for micro_batches, total in self.track(steps, self.epoch + 1, start, len(train)):
            self.train_step(micro_batches, total)
            if self.step % self.config.log_every == 0:
                self.log_train()
            if self.config.save_every and self.step % self.config.save_every == 0:
                self.checkpoint("last")
            if self.stop():
                raise Stopped
        if self.logged < self.step:
            self.log_train()

    def train_step(self, micro_batches: list[tuple[Any, int]], total: int) -> None:
        # One optimizer step on the mean loss of `total` samples, in one or more micro-batches.
        for i, (batch, count) in enumerate(micro_batches):
            # Dropout's numbers are a function of the step: no random state to save or disturb.
            self.generator.manual_seed(zlib.crc32(b"%d %d %d" % (self.seed, self.step, i)))
            losses, _ = self.forward(_to_device(batch, self.device))
            if losses.ndim != 1:
                raise TypeError(f"forward: expected losses (batch,), found {tuple(losses.shape)}")
            loss = (losses if count else losses[:0]).sum()
            (loss / total).backward()  # type: ignore[no-untyped-call]
            self.losses.append(loss.detach())  # detached, or each graph would live on
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr = self.optimizer.param_groups[0]["lr"]
        if self.scheduler and not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()
        self.step += 1
        self.count += total

    @torch.no_grad()
    def evaluate(self, loader: Any) -> dict[str, Any]:
        self.model.eval()
        for metric in self.metrics.values():
            metric.reset()
        sums, samples = [], 0
        for batch, count in chain.from_iterable(pairs for pairs, _ in self.steps(loader, 0, 0, 1)):
            if self.stop():
                raise Stopped
            batch = _to_device(batch, self.device)
            losses, output = self.forward(batch)
            if count:
                sums.append(losses.sum())
                samples += count
                for metric in self.metrics.values():
                    metric.update(output, batch[1])
        values = {name: metric.compute().tolist() for name, metric in self.metrics.items()}
        return {"loss": math.fsum(torch.stack(sums).tolist()) / samples, **values}

    def conclude_epoch(self, values: dict[str, Any]) -> None:
        self.epoch += 1
        self.loss_sum, self.count = 0.0, 0
        self.write("val", values)
        value = values[self.config.monitor]
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(value)
        sign = 1 if self.mode == "max" else -1
        self.stale += 1
        if (not self.best or sign * value > sign * self.best["value"]) and math.isfinite(value):
            self.stale = 0
            self.best = {"metric": self.config.monitor, "value": value, "step": self.step}
            self.checkpoint("best")

    def log_train(self) -> None:
        self.sync_loss()  # the line has the mean over the epoch so far
        self.logged = self.step
        rate = (self.count - self.timed) / (time.perf_counter() - self.clock)
        self.write("train", {"loss": self.loss_sum / self.count, "rate": round(rate, 1)})

    def write(self, split: str, values: dict[str, Any]) -> None:
        numbers = {key: value for key, value in values.items() if isinstance(value, float | int)}
        epoch = self.epoch + (split == "train")  # the running one, or the one just finished
        self.log({"step": self.step, "epoch": epoch, "split": split, "lr": self.lr, **numbers})

    def sync_loss(self) -> None:
        # Add the losses on the device to the running sum: where training waits for the device.
        for value in torch.stack(self.losses).tolist() if self.losses else []:
            self.loss_sum += value
        self.losses.clear()
        if not math.isfinite(self.loss_sum):
            steps = f"steps {self.logged + 1} to {self.step}"
            raise TrainingError(f"the loss became {self.loss_sum} in {steps}: try a lower optim.lr")

    def checkpoint(self, name: str) -> None:
        finite = [parameter.isfinite().all() for parameter in self.model.parameters()]
        if not torch.stack(finite).all():
            raise TrainingError(f"a weight is not finite after step {self.step}: nothing is saved")
        self.save(name)

    def state_dict(self) -> dict[str, Any]:
        self.sync_loss()
        names = ("epoch", "step", "loss_sum", "count", "logged", "lr", "best", "stale")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def _to_device(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, dict):
        return {key: _to_device(part, device) for key, part in batch.items()}
    if isinstance(batch, list | tuple):
        return [_to_device(part, device) for part in batch]
    return batch.to(device, non_blocking=True)
