"""The loop does what the arithmetic says, in the corners too."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from {{ cookiecutter.__package_name }}.metrics import ConfusionMatrix
from {{ cookiecutter.__package_name }}.trainer import (
    Stopped,
    Trainer,
    TrainerConfig,
    TrainingError,
)

Batch = tuple[Tensor, Tensor]


class Mean(Trainer):
    """Squared errors, so that gradients are known by hand."""

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        inputs, target = batch
        output = self.model(inputs)
        return (output - target).square().flatten(1).sum(1), output


class Given(Trainer):
    """The inputs are the losses; the weight is trained on their mean."""

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        inputs, _ = batch
        return inputs * next(self.model.parameters()).squeeze(), inputs


class Scripted:
    """A metric whose values are known beforehand."""

    def __init__(self, values: list[float]) -> None:
        self.values = iter(values)

    def update(self, preds: Tensor, target: Tensor) -> None: ...
    def reset(self) -> None: ...
    def compute(self) -> Tensor:
        return torch.tensor(next(self.values), dtype=torch.float64)


def one_weight(value: float = 1.0) -> nn.Module:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def batches(losses: list[float], size: int) -> list[Batch]:
    return [(part, torch.zeros(len(part))) for part in torch.split(torch.tensor(losses), size)]


def regression(samples: int, size: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(samples, 2, generator=generator, dtype=torch.float64)
    return list(zip(torch.split(x, size), torch.split(y, size), strict=True))


def fit(
    kind: type[Trainer] = Given,
    train: list[Batch] | None = None,
    model: nn.Module | None = None,
    lr: float = 0.0,
    **options: Any,
) -> tuple[Trainer, list[dict[str, Any]], list[str]]:
    """Train with plain SGD; get the trainer, what it logged and what it saved."""
    fields = set(TrainerConfig.__dataclass_fields__)
    config = {"monitor": "loss", "epochs": 1, **{k: v for k, v in options.items() if k in fields}}
    rest = {key: value for key, value in options.items() if key not in fields}
    model = model or one_weight()
    make: Callable[[torch.optim.Optimizer], Any] = rest.pop("schedule", lambda optimizer: None)
    optimizer = torch.optim.SGD(model.parameters(), lr)
    log: list[dict[str, Any]] = []
    saved: list[str] = []
    trainer = kind(
        model,
        optimizer,
        TrainerConfig(**config),
        scheduler=make(optimizer),
        log=log.append,
        save=saved.append,
        **rest,
    )
    train = train or batches([1.0] * 4, 2)
    trainer.fit(train, train)
    return trainer, log, saved


@pytest.mark.parametrize("log_every", [1, 2, 100])
def test_the_mean_loss_of_an_epoch_counts_every_sample_once(log_every: int) -> None:
    train = batches([float(i) for i in range(10)], 4)
    _, log, _ = fit(train=train, log_every=log_every)
    train_lines = [line for line in log if line["split"] == "train"]
    assert train_lines[-1]["loss"] == 4.5  # the mean of batch means would be 4.83
    assert [line["loss"] for line in log if line["split"] == "val"] == [4.5]
    assert len(train_lines) == {1: 3, 2: 2, 100: 1}[log_every]


def test_a_step_is_the_gradient_of_the_mean_and_forgets_the_step_before() -> None:
    model, lr = nn.Linear(3, 2).double(), 0.1
    weight, bias = (parameter.detach().clone() for parameter in model.parameters())
    train = regression(10, 4)
    fit(Mean, train, model, lr, epochs=2)
    for x, y in train * 2:
        error = x @ weight.T + bias - y  # (batch, 2)
        weight -= lr * 2 * error.T @ x / len(x)
        bias -= lr * 2 * error.sum(0) / len(x)
    assert torch.allclose(model.weight, weight, atol=1e-14)
    assert torch.allclose(model.bias, bias, atol=1e-14)


@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_accumulation_gives_the_large_batchs_update(accumulate: int) -> None:
    weights = []
    for parts in (1, accumulate):
        torch.manual_seed(0)
        model = nn.Linear(3, 2).double()
        fit(Mean, regression(12, 5), model, 0.1, epochs=2, accumulate=parts, clip=0.5)
        weights.append(model.weight.detach())
    assert torch.allclose(weights[0], weights[1], rtol=0, atol=1e-14)


def test_gradients_are_gone_after_each_step() -> None:
    trainer, _, _ = fit(lr=0.1)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


@pytest.mark.parametrize(("clip", "step"), [(0.0, 8.0), (2.0, 2.0), (100.0, 8.0)])
def test_clipping_bounds_the_norm_of_the_step(clip: float, step: float) -> None:
    trainer, _, _ = fit(train=batches([8.0, 8.0], 2), lr=1.0, clip=clip)
    weight = next(trainer.model.parameters()).item()
    assert 1 - weight == pytest.approx(step, rel=1e-6)


def test_the_schedule_moves_once_a_step_and_the_log_has_the_rate_that_was_used() -> None:
    def halve(optimizer: torch.optim.Optimizer) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: 0.5**step)

    train = batches([0.0] * 8, 2)
    _, log, _ = fit(train=train, lr=1.0, schedule=halve, accumulate=2, log_every=1)
    rates = [line["lr"] for line in log if line["split"] == "train"]
    assert rates == [1.0, 0.5, 0.25, 0.125]


def test_plateau_gets_the_value_of_this_evaluation() -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, "max", factor=0.5, patience=0)

    metrics = {"score": Scripted([1, 2, 1, 3, 0, 0])}
    options: dict[str, Any] = {"monitor": "score", "metrics": metrics, "epochs": 6}
    _, log, _ = fit(lr=1.0, schedule=plateau, **options)
    rates = [line["lr"] for line in log if line["split"] == "train"]
    assert rates == [1, 1, 1, 0.5, 0.5, 0.25]


def test_best_follows_the_monitor_and_nan_never_becomes_it() -> None:
    values = [math.nan, 1, math.nan, 3, 2, math.nan]
    options: dict[str, Any] = {"monitor": "score", "epochs": 6}
    trainer, _, saved = fit(metrics={"score": Scripted(values)}, **options)
    assert trainer.best == {"metric": "score", "value": 3, "step": 8}
    assert saved == ["last", "best", "last", "last", "best", "last", "last", "last"]


def test_a_metric_that_should_fall_and_the_loss_are_best_when_lowest() -> None:
    error = Scripted([2, 1, 3])
    error.higher_is_better = False  # type: ignore[attr-defined]
    trainer, _, _ = fit(metrics={"error": error}, monitor="error", epochs=3)
    assert trainer.best["value"] == 1
    trainer, log, _ = fit(lr=0.5, epochs=3)
    assert trainer.best["value"] == min(line["loss"] for line in log if line["split"] == "val")


def test_patience_ends_training_after_that_many_evaluations_without_a_better_one() -> None:
    metrics = {"score": Scripted([1, 2, 2, 1, 9, 9])}
    trainer, _, _ = fit(metrics=metrics, monitor="score", epochs=6, patience=2)
    assert (trainer.epoch, trainer.best["value"]) == (4, 2)


def test_max_steps_ends_training_within_an_epoch() -> None:
    trainer, log, saved = fit(train=batches([1.0] * 8, 2), epochs=9, max_steps=6)
    assert trainer.step == 6
    assert [line["step"] for line in log if line["split"] == "val"] == [4, 6]
    assert saved[-1] == "last"


def test_save_every_saves_within_an_epoch() -> None:
    _, _, saved = fit(train=batches([1.0] * 8, 2), save_every=3)
    assert saved == ["last", "best", "last"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step() -> None:
    train = batches([1.0] * 10 + [math.nan] + [1.0] * 9, 1)
    saved: list[str] = []
    with pytest.raises(TrainingError, match="the loss became nan in steps 9 to 12"):
        trainer = Given(
            one_weight(),
            torch.optim.SGD([torch.zeros(1)], 0.1),
            TrainerConfig(monitor="loss", log_every=4),
            save=saved.append,
        )
        trainer.fit(train, train)
    assert saved == []


def test_weights_that_are_not_finite_are_never_saved() -> None:
    saved: list[str] = []
    model = one_weight()
    trainer = Given(
        model, torch.optim.SGD(model.parameters(), math.inf), TrainerConfig(monitor="loss"),
        save=saved.append,
    )  # fmt: skip
    with pytest.raises(TrainingError, match="a weight is not finite after step 1"):
        trainer.train_epoch(batches([1.0], 1))
        trainer.checkpoint("last")
    assert saved == []


@pytest.mark.parametrize(
    ("value", "dtype"), [(1.0, torch.float16), (-3e38, torch.float32), (1e39, torch.float64)]
)
def test_weights_are_saved_though_their_sum_is_too_large(value: float, dtype: torch.dtype) -> None:
    saved: list[str] = []
    model = nn.Linear(300, 300, bias=False, dtype=dtype)
    nn.init.constant_(model.weight, value)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = Trainer(model, optimizer, TrainerConfig(monitor="loss"), save=saved.append)
    trainer.checkpoint("last")
    assert saved == ["last"]
    for bad in (math.nan, math.inf, -math.inf):
        nn.init.constant_(model.weight[0, :1].detach(), bad)
        with pytest.raises(TrainingError):
            trainer.checkpoint("last")


def test_evaluation_is_in_eval_mode_without_gradients_and_training_goes_on_as_before() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2)).double()
    train = regression(8, 4)
    trainer = Mean(model, torch.optim.SGD(model.parameters(), 0.1), TrainerConfig(monitor="loss"))
    first = trainer.evaluate(train)
    assert first == trainer.evaluate(train)
    assert not model.training
    trainer.train_epoch(train)
    assert model.training


def test_what_observes_does_not_disturb() -> None:
    weights = []
    for options in (
        {"log_every": 1},
        {"log_every": 100, "save_every": 1, "metrics": {"score": Scripted([1.0] * 9)}},
    ):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2).double()
        model = nn.Sequential(nn.Dropout(0.5), layer)
        fit(Mean, regression(10, 3), model, 0.1, epochs=3, **options)
        weights.append(layer.weight.detach())
    assert torch.equal(weights[0], weights[1])


def test_dropout_differs_from_step_to_step_and_by_seed_alone() -> None:
    seen: list[Tensor] = []

    class Watch(Given):
        def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
            if self.model.training:
                seen.append(nn.functional.dropout(torch.ones(50)))
            return super().forward(batch)

    for seed in (1, 1, 2):
        fit(Watch, batches([1.0] * 4, 2), accumulate=2, seed=seed)
    first, again, other = seen[:4], seen[4:8], seen[8:]
    assert len({tuple(mask.tolist()) for mask in first}) == 4
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_running_totals_keep_no_graph() -> None:
    trainer, _, _ = fit()
    train = batches([1.0] * 40, 1)
    trainer.config = TrainerConfig(monitor="loss", log_every=1000)
    for batch in train:
        trainer.train_step([(batch, 1)], 1)
    assert len(trainer.losses) == 40
    assert all(loss.grad_fn is None for loss in trainer.losses)


def test_mistakes_in_wiring_are_told() -> None:
    class Averaged(Given):
        def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
            losses, output = super().forward(batch)
            return losses.mean(), output

    with pytest.raises(AssertionError, match=r"expected losses \(batch,\), found \(\)"):
        fit(Averaged)


def test_inputs_may_be_a_dict_of_tensors() -> None:
    class Named(Trainer):
        def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
            inputs, _ = batch
            return inputs["loss"] * next(self.model.parameters()).squeeze(), inputs["loss"]

    def steps(loader: Any, epoch: int, start: int, own: range) -> Any:
        return [([(batch, 2)], 2) for batch in loader]

    train: Any = [({"loss": torch.ones(2)}, torch.zeros(2))]
    trainer, _, _ = fit(Named, train, steps=steps, lr=1.0)
    assert next(trainer.model.parameters()).item() == 0.0


def test_a_micro_batch_that_counts_nothing_counts_nowhere() -> None:
    seen = []

    class Seen(Scripted):
        def update(self, preds: Tensor, target: Tensor) -> None:
            seen.append(len(target))

    def steps(loader: Any, epoch: int, start: int, own: range) -> Any:
        filler = (torch.tensor([100.0]), torch.zeros(1))
        pairs = [(loader[0], 2), (filler, 0)]
        return [(pairs, 2)] if len(own) == 2 else [([pair], pair[1]) for pair in pairs]

    train = batches([2.0, 4.0], 2)
    options: Any = {"steps": steps, "accumulate": 2, "metrics": {"score": Seen([1.0])}}
    trainer, log, _ = fit(train=train, lr=0.25, **options)
    assert next(trainer.model.parameters()).item() == 0.25  # 1 - 0.25 * the mean of 2 and 4
    assert [line["loss"] for line in log] == [3.0, 0.75]
    assert seen == [2]


def test_the_loss_of_each_epoch_is_its_own() -> None:
    _, log, _ = fit(lr=0.5, epochs=2, train=batches([1.0, 1.0], 1))
    assert [line["loss"] for line in log if line["split"] == "train"] == [0.75, -0.25]


def test_evaluation_computes_no_gradients() -> None:
    class Watch(Given):
        def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
            assert torch.is_grad_enabled() == self.model.training
            return super().forward(batch)

    fit(Watch)


def test_a_checkpoint_of_the_best_says_so_itself() -> None:
    states: list[tuple[str, dict[str, Any]]] = []
    model = one_weight()
    config = TrainerConfig(monitor="loss", epochs=2)
    trainer = Given(model, torch.optim.SGD(model.parameters(), 0.5), config)
    trainer.save = lambda name: states.append((name, trainer.state_dict()))
    train = batches([1.0, 1.0], 2)
    trainer.fit(train, train)
    assert [state["best"]["step"] for name, state in states if name == "best"] == [1, 2]


def test_the_state_counts_losses_that_are_still_on_the_device() -> None:
    trainer, _, _ = fit()
    trainer.train_step([(batch, 2) for batch in batches([1.0, 2.0], 2)], 2)
    states = []
    trainer.save = lambda name: states.append(trainer.state_dict())
    trainer.checkpoint("last")
    assert (states[0]["loss_sum"], states[0]["count"]) == (3.0, 2)


@pytest.mark.parametrize("at", [1, 2, 4, 6, 9])
def test_a_stop_leaves_a_state_that_goes_on_as_if_nothing_had_happened(at: int) -> None:
    class Score(Scripted):
        def update(self, preds: Tensor, target: Tensor) -> None:
            self.values = iter([float(preds.sum())])

    def build() -> tuple[Trainer, list[dict[str, Any]]]:
        log: list[dict[str, Any]] = []
        model = one_weight()
        config = TrainerConfig(monitor="loss", epochs=3, log_every=2)
        optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
        return Given(model, optimizer, config, metrics={"s": Score([])}, log=log.append), log

    train = batches([1.0, 2.0, 3.0], 1)
    whole, expected = build()
    whole.fit(train, train[:1])  # three steps an epoch, asked four times
    part, log = build()
    asked, saved = [0], [dict[str, Any]()]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] == at

    def save(name: str) -> None:
        if name == "last":
            parts: list[Any] = [part.model, part.optimizer, part]
            saved[0] = copy.deepcopy({str(i): p.state_dict() for i, p in enumerate(parts)})

    part.stop, part.save = stop, save
    with pytest.raises(Stopped):
        part.fit(train, train[:1])
    again, rest = build()
    restored: list[Any] = [again.model, again.optimizer, again]
    for i, each in enumerate(restored):
        each.load_state_dict(saved[0][str(i)])
    again.fit(train, train[:1])
    for line in (*expected, *log, *rest):
        line.pop("rate", None)
    assert [*log, *rest] == expected
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_precision_is_that_of_the_arithmetic_and_not_of_weights_and_losses(
    precision: Any, dtype: torch.dtype
) -> None:
    seen: set[tuple[torch.dtype, ...]] = set()

    class Watch(Trainer):
        def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
            losses, output = super().forward(batch)
            seen.add((output.dtype, losses.dtype))
            return losses, output

    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    inputs = torch.randn(64, 3)
    train = [(inputs, (inputs[:, 0] > 0).long())] * 40
    _, log, _ = fit(Watch, train, model, 1.0, precision=precision)
    assert seen == {(dtype, torch.float32)}  # in training and in evaluation
    assert model.weight.dtype == torch.float32
    assert log[-1]["loss"] < 0.2


def test_fp16_scales_the_loss_and_not_the_update() -> None:
    class Tiny(Trainer):
        def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
            losses, output = super().forward(batch)
            return losses * 1e-7, output  # fp16 holds such gradients only when they are scaled

    weights = []
    for precision in ("fp32", "fp16"):
        model = nn.Linear(1, 2, bias=False)
        nn.init.zeros_(model.weight)
        train = [(torch.ones(4, 1), torch.tensor([0, 0, 0, 1]))] * 3
        fit(Tiny, train, model, 1e7, precision=precision, accumulate=2)
        weights.append(model.weight.detach())
    assert weights[0].abs().min() > 0.1
    assert torch.allclose(weights[0], weights[1], rtol=1e-3)


@pytest.mark.parametrize("clip", [0.0, 2.0])
def test_fp16_skips_a_step_that_overflows_with_its_schedule(clip: float) -> None:
    def halve(optimizer: torch.optim.Optimizer) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: 0.5**step)

    train = batches([1e36, 3.0], 1)  # scaled by 65,536 more than float32 holds
    options: Any = {"precision": "fp16", "log_every": 1, "clip": clip}
    trainer, log, _ = fit(train=train, lr=1.0, schedule=halve, **options)
    assert [line["lr"] for line in log if line["split"] == "train"] == [1.0, 1.0]
    assert next(trainer.model.parameters()).item() == pytest.approx(1 - (clip or 3.0), rel=1e-5)
    assert trainer.scaler.get_scale() == 65536 / 2
    assert trainer.optimizer.param_groups[0]["lr"] == 0.5


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations that are dispatched while it is entered, and the types of what they give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not str(func).startswith("profiler"):
            self.names.append(str(func))
        self.types.update(leaf.dtype for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out


def test_nothing_is_float64_before_it_is_on_the_cpu_again() -> None:
    model = nn.Linear(3, 2)
    config = TrainerConfig(monitor="loss", clip=1.0)
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), config)
    batch = (torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    confusion = ConfusionMatrix(2)
    with Watch() as watch:
        trainer.train_step([(batch, 4)], 4)
        confusion.update(*trainer.compute(batch)[1:2], batch[1])
    assert torch.float32 in watch.types
    assert torch.float64 not in watch.types


def fused(config: TrainerConfig, **options: Any) -> Trainer:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    return Trainer(model, torch.optim.AdamW(model.parameters(), fused=True), config, **options)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_step_dispatches_few_operations_more_than_the_bare_one(clip: float) -> None:
    trainer = fused(TrainerConfig(monitor="loss", clip=clip))
    inputs, target = batch = (torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    trainer.train_step([(batch, 4)], 4)  # the optimizer makes its state in the first step
    with Watch() as bare:
        loss = nn.functional.cross_entropy(trainer.model(inputs), target)
        loss.backward()  # type: ignore[no-untyped-call]
        if clip:
            nn.utils.clip_grad_norm_(trainer.model.parameters(), clip)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
    with Watch() as ours:
        trainer.train_step([(batch, 4)], 4)
    assert "aten._fused_adamw_.default" in bare.names
    assert len(ours.names) <= len(bare.names) + 2


def test_no_step_waits_for_the_device_to_get_a_number_from_it() -> None:
    def log(_: dict[str, Any]) -> None:
        watch.names.append("log")

    trainer = fused(TrainerConfig(monitor="loss", log_every=5, epochs=1), log=log)
    train = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))] * 12
    with Watch() as watch:
        trainer.train_epoch(train)
    assert watch.names.count("log") == 3
    assert watch.names.count("aten._fused_adamw_.default") == 12
    assert "aten._local_scalar_dense.default" not in watch.names  # what item() and float() do
    assert watch.names.count("aten.stack.default") == 3  # before the losses are read at once
