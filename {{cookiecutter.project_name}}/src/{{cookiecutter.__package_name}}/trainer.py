"""The training loop. Works alone. For another task than classification edit `Trainer.forward`."""

#     trainer = Trainer(model, optimizer, TrainerConfig(epochs=3, monitor="loss"))
#     trainer.fit(train_loader, val_loader)

import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils._pytree import tree_map_only

# Pairs of a micro-batch and the count of its samples, and the samples in those of all processes.
Step = tuple[list[tuple[Any, int]], int]


@dataclass(frozen=True)
class TrainerConfig:
    epochs: Annotated[int, 1] = 10  # passes over the training data
    max_steps: Annotated[int, 0] = 0  # steps after which training ends; 0: no limit
    accumulate: Annotated[int, 1] = 1  # micro-batches that a step is cut into, to save memory
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of most of the model's arithmetic
    compile: bool = False  # let torch.compile make the model faster, which takes a minute
    clip: Annotated[float, 0] = 0.0  # norm that larger gradients are scaled down to; 0: off
    log_every: Annotated[int, 1] = 50  # steps between two lines of the log
    save_every: Annotated[int, 0] = 0  # steps between checkpoints; 0: at each epoch only
    monitor: str = "accuracy"  # what decides which checkpoint is best: loss or a metric, of val
    patience: Annotated[int, 0] = 0  # evaluations without a better value that end it; 0: off


class TrainingError(RuntimeError):
    exit_code = 1  # the run failed: the loss or a weight is not finite


class Stopped(Exception): ...  # training was asked to stop, and has saved its state


class Metric(Protocol):  # ours, or one of torchmetrics
    def update(self, preds: Tensor, target: Tensor) -> None: ...
    def compute(self) -> Tensor: ...
    def reset(self) -> None: ...


def plain_steps(loader: Any, epoch: int, start: int, own: range) -> Iterator[Step]:
    # Of any iterable of (inputs, target) batches: each is cut into `own.stop` shards.
    for inputs, target in islice(loader, start, None):
        pairs = zip(inputs.tensor_split(own.stop), target.tensor_split(own.stop), strict=True)
        yield [(pair, len(pair[1])) for i, pair in enumerate(pairs) if i in own], len(target)


@dataclass
class Trainer:
    """Trains a model; all that it must remember to go on later is in its `state_dict`."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    config: TrainerConfig
    scheduler: LRScheduler | None = None  # stepped after each step; ReduceLROnPlateau each epoch
    metrics: dict[str, Metric] = field(default_factory=dict)
    log: Callable[[dict[str, Any]], object] = lambda record: None  # gets each line of the log
    steps: Callable[[Any, int, int, range], Iterable[Step]] = plain_steps  # of a loader
    track: Callable[..., Iterable[Step]] = lambda steps, *where: steps  # shows them in a bar
    save: Callable[[str], None] = lambda name: None  # gets "last" each epoch, "best" when it is
    stop: Callable[[], bool] = lambda: False  # asked after each batch: is training to end early?
    seed: int = 0  # the random numbers of a step depend on this and on its number alone

    def __post_init__(self) -> None:
        higher = {n: getattr(m, "higher_is_better", True) for n, m in self.metrics.items()}
        higher, monitor = {"loss": False, **higher}, self.config.monitor  # as torchmetrics says it
        self.mode: Literal["min", "max"] = "max" if higher[monitor] else "min"
        self.device = next(self.model.parameters()).device
        kind, accumulate = self.device.type, self.config.accumulate
        self.generator = torch.default_generator if kind == "cpu" else torch.get_device_module(kind)
        self.rank, self.world = (g.rank(), g.size()) if (g := dist.group.WORLD) else (0, 1)
        self.own = range(self.rank, accumulate * self.world, self.world)
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.precision)
        self.cast: Any = torch.autocast(kind, dtype) if dtype else lambda function: function
        # fp16 cannot hold small gradients: the loss is scaled up, and the gradients back.
        self.scaler = torch.amp.GradScaler(kind, enabled=dtype is torch.float16)
        self.epoch = self.step = self.logged = 0  # those that are finished, the last one logged
        self.loss_sum, self.count = 0.0, 0  # over the samples of the running epoch
        self.losses: list[Tensor] = []  # what is to be added to loss_sum, still on the device
        self.best: dict[str, Any] = {}  # the best evaluation: metric, value, step
        self.stale, self.lr = 0, 0.0  # evaluations since then; of the last step

    # EDIT HERE for another task: the loss of each sample (batch,), unreduced, and the output.
    # In training draw random numbers from torch alone: it is seeded for each micro-batch.
    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        inputs, target = batch
        output = self.model(inputs)  # (batch, classes)
        return nn.functional.cross_entropy(output, target, reduction="none"), output

    def compute(self, batch: Any) -> tuple[Tensor, Tensor, Any]:
        # Losses and output of a batch, and the batch, on the device and in the precision asked for.
        # A batch is on the CPU already: to look at each of its tensors takes 3% of a small step.
        if self.device.type != "cpu":
            batch = tree_map_only(Tensor, lambda t: t.to(self.device, non_blocking=True), batch)
        losses, output = self.cast(self.forward)(batch)
        assert losses.ndim == 1, f"forward: expected losses (batch,), found {tuple(losses.shape)}"
        return losses, output, batch

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
        ended = self.epoch >= self.config.epochs or 0 < self.config.max_steps <= self.step
        return ended or 0 < self.config.patience <= self.stale

    def train_epoch(self, train: Any) -> None:
        self.model.train()
        self.clock, self.timed = time.perf_counter(), self.count
        start = self.step - self.epoch * len(train)  # more than 0 where a run goes on
        allowed = self.config.max_steps - self.step if self.config.max_steps else None
        steps = islice(self.steps(train, self.epoch, start, self.own), allowed)
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
        for shard, (batch, count) in zip(self.own, micro_batches, strict=True):
            # Dropout's numbers are a function of the step: no random state to save or disturb.
            self.generator.manual_seed(zlib.crc32(b"%d %d %d" % (self.seed, self.step, shard)))
            # DistributedDataParallel exchanges gradients once a step: with the last of these.
            vars(self.model)["require_backward_grad_sync"] = shard == self.own[-1]
            losses, _, _ = self.compute(batch)
            # Each sample weighs 1 / total, times `world` since the processes take their mean.
            weights = torch.full_like(losses, self.world / total if count else 0)
            self.scaler.scale(losses).backward(weights)  # type: ignore[no-untyped-call]
            # Detached, or each graph would live on.
            self.losses.append(losses.detach().sum() if count else losses.new_zeros(()))
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)  # first: the norm is that of the true gradients
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)  # skipped where a gradient is not finite,
        self.scaler.update()  # and then the scale falls
        # As zero_grad does, which takes 4% of a small step to do it.
        for parameter in (p for group in self.optimizer.param_groups for p in group["params"]):
            parameter.grad = None
        self.lr = self.optimizer.param_groups[0]["lr"]
        is_skipped = self.scaler.get_scale() < scale
        if self.scheduler and not isinstance(self.scheduler, ReduceLROnPlateau) and not is_skipped:
            self.scheduler.step()
        self.step += 1
        self.count += total

    @torch.no_grad()
    def evaluate(self, loader: Any) -> dict[str, Any]:
        self.model.eval()
        for metric in self.metrics.values():
            metric.reset()
        sums, samples = [], 0
        own = range(self.rank, self.world, self.world)  # one shard of each batch
        for ((batch, count),), _ in self.steps(loader, 0, 0, own):
            if self.stop():
                raise Stopped
            losses, output, batch = self.compute(batch)
            sums.append((losses if count else losses[:0]).sum())
            samples += count
            if count:
                for metric in self.metrics.values():
                    metric.update(output, batch[1])
        values = {name: metric.compute().tolist() for name, metric in self.metrics.items()}
        loss, total = self.add_up([math.fsum(torch.stack(sums).tolist()), samples])
        return {"loss": loss / total, **values}

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
        for value in self.add_up(torch.stack(self.losses).tolist()) if self.losses else []:
            self.loss_sum += value
        self.losses.clear()
        if not math.isfinite(self.loss_sum):
            steps = f"steps {self.logged + 1} to {self.step}"
            raise TrainingError(f"the loss became {self.loss_sum} in {steps}: try a lower optim.lr")

    def add_up(self, values: list[float]) -> list[float]:
        sums = torch.tensor(values, dtype=torch.float64)
        if self.world > 1:
            dist.all_reduce(sums)
        return sums.tolist()

    def checkpoint(self, name: str) -> None:
        self.sync_loss()  # here, where all processes are
        # A sum is quick to get, and finite only if all weights are. That of large ones may not be.
        if not all(p.sum().isfinite() or p.isfinite().all() for p in self.model.parameters()):
            raise TrainingError(f"a weight is not finite after step {self.step}: nothing is saved")
        self.save(name)

    def state_dict(self) -> dict[str, Any]:
        names = ("epoch", "step", "loss_sum", "count", "logged", "lr", "best", "stale")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
