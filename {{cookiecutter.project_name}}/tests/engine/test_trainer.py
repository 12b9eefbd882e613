"""The loop does what the arithmetic says, in the corners too."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from {{ cookiecutter.__package_name }}.engine import trainer as trainer_module
from {{ cookiecutter.__package_name }}.engine.loader import (
    Loader,
    LoaderConfig,
    Seeded,
)
from {{ cookiecutter.__package_name }}.engine.measure import MetricGroup
from {{ cookiecutter.__package_name }}.engine.trainer import (
    MicroBatch,
    Output,
    SetupError,
    Step,
    Stopped,
    Trainer,
    TrainerConfig,
    TrainingError,
    exact_sum,
    map_tensors,
    tensors_of,
)

Batch = tuple[Tensor, Tensor]
Forward = Callable[[nn.Module, Any], Output]
Lines = list[dict[str, Any]]


def weight_of(model: nn.Module) -> Tensor:
    return next(model.parameters()).squeeze()


def given(model: nn.Module, batch: Any) -> Output:
    """The inputs are the losses; the weight is trained on their mean."""
    inputs, target = batch
    return Output(inputs * weight_of(model), inputs, target)


def squared(model: nn.Module, batch: Any) -> Output:
    """Squared errors, so that gradients are known by hand."""
    inputs, target = batch
    preds = model(inputs)
    return Output((preds - target).square().flatten(1).sum(1), preds, target)


def classify(model: nn.Module, batch: Any) -> Output:
    inputs, target = batch
    preds = model(inputs)
    losses = nn.functional.cross_entropy(preds, target, reduction="none")
    return Output(losses, preds, target)


class Scripted:
    """A metric whose values are known beforehand."""

    higher_is_better: bool | None = True

    def __init__(self, values: Sequence[float]) -> None:
        self.values = iter(values)

    def update(self, preds: Tensor, target: Tensor) -> None: ...
    def reset(self) -> None: ...
    def compute(self) -> Any:
        return torch.tensor(next(self.values), dtype=torch.float64)


class Fixed(Scripted):
    """A metric that always has the same result, of any kind."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def compute(self) -> Any:
        return self.result


class Total(Scripted):
    """The sum of the predictions since the last reset."""

    def __init__(self) -> None:
        self.sum = 0.0

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.sum += float(preds.sum())

    def reset(self) -> None:
        self.sum = 0.0

    def compute(self) -> float:
        return self.sum


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


def one_step(*parts: Batch) -> Step:
    """A step whose micro-batches are these."""
    micro_batches = [MicroBatch(part, len(part[0])) for part in parts]
    return Step(micro_batches, sum(part.size for part in micro_batches))


def build(
    forward: Forward = given,
    model: nn.Module | None = None,
    lr: float = 0.0,
    **options: Any,
) -> Trainer:
    """A trainer with plain SGD; the options are fields of TrainerConfig or of the trainer."""
    fields = set(TrainerConfig.__dataclass_fields__)
    config = {"epochs": 1, **{key: options[key] for key in fields & set(options)}}
    rest = {key: value for key, value in options.items() if key not in fields}
    model = model or one_weight()
    momentum = rest.pop("momentum", 0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=momentum)
    if "schedule" in rest:
        rest["scheduler"] = rest.pop("schedule")(optimizer)
    if "metrics" in rest:
        rest["metrics"] = MetricGroup(rest["metrics"], torch.device("cpu"))
        rest["mode"] = rest["metrics"].mode(config.get("monitor", "loss"))
    kind: type[Trainer] = rest.pop("kind", Trainer)
    return kind(model, optimizer, forward, TrainerConfig(**config), **rest)


@dataclass
class Cut:
    """Cuts whole batches into micro-batches, as `Loader` does before it collates samples."""

    batches: list[Any]

    def __len__(self) -> int:
        return len(self.batches)

    def steps_of_epoch(
        self, epoch: int, start: int, shards: int, mine: Sequence[int]
    ) -> Iterator[Step]:
        for batch in self.batches[start:]:
            size = len(tensors_of(batch)[0])
            parts = []
            for shard in mine:
                first = size * shard // shards
                end = size * (shard + 1) // shards
                rows = slice(first, end) if first < end else slice(1)
                parts.append(MicroBatch(map_tensors(itemgetter(rows), batch), end - first))
            yield Step(parts, size)


def fit(
    forward: Forward = given,
    train: Any = None,
    model: nn.Module | None = None,
    lr: float = 0.0,
    **options: Any,
) -> tuple[Trainer, Lines, list[str]]:
    """Train on a loader and evaluate on it; get the trainer, what it logged and what it saved."""
    log: Lines = []
    saved: list[str] = []
    trainer = build(forward, model, lr, log=log.append, save=saved.append, **options)
    train = train or batches([1.0] * 4, 2)
    if isinstance(train, list) and "micro_batches" in options:
        train = Cut(train)
    trainer.fit(train, train)
    return trainer, log, saved


def lines_of(log: Lines, split: str, name: str) -> list[Any]:
    """What the lines of a split say of a name."""
    return [line[name] for line in log if line["split"] == split]


def without_rate(*logs: Lines) -> Lines:
    """The lines of logs without the one value that a clock decides."""
    lines = [line for log in logs for line in log]
    return [{key: line[key] for key in line if key != "rate"} for line in lines]


def state_of(trainer: Trainer) -> list[Any]:
    """A copy of all that a run needs to continue."""
    parts: list[Any] = [trainer.model, trainer.optimizer, trainer]
    return [copy.deepcopy(part.state_dict()) for part in parts]


def load(trainer: Trainer, state: list[Any]) -> None:
    parts: list[Any] = [trainer.model, trainer.optimizer, trainer]
    for part, saved in zip(parts, state, strict=True):
        part.load_state_dict(saved)


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def halve(optimizer: torch.optim.Optimizer) -> LambdaLR:
    """A schedule that halves the learning rate in each step."""
    return LambdaLR(optimizer, lambda step: 0.5**step)


@pytest.mark.parametrize(
    ("log_every", "means"), [(1, [1.5, 5.5, 8.5]), (2, [3.5, 8.5]), (100, [4.5])]
)
def test_a_line_has_the_mean_loss_of_the_samples_since_the_last_one(
    log_every: int, means: list[float]
) -> None:
    train = batches([float(i) for i in range(10)], 4)
    _, log, _ = fit(train=train, log_every=log_every)
    assert lines_of(log, "train", "loss") == means  # the mean of batch means would be 5.17
    assert lines_of(log, "val", "loss") == [4.5]


def test_a_step_is_the_gradient_of_the_mean_and_forgets_the_step_before() -> None:
    model, lr = nn.Linear(3, 2).double(), 0.1
    weight, bias = (parameter.detach().clone() for parameter in model.parameters())
    train = regression(10, 4)
    fit(squared, train, model, lr, epochs=2)
    for x, y in train * 2:
        error = x @ weight.T + bias - y  # (batch, 2)
        weight -= lr * 2 * error.T @ x / len(x)
        bias -= lr * 2 * error.sum(0) / len(x)
    assert torch.allclose(model.weight, weight, atol=1e-14)
    assert torch.allclose(model.bias, bias, atol=1e-14)


@pytest.mark.parametrize("micro_batches", [2, 3, 4])
def test_accumulation_gives_the_large_batchs_update(micro_batches: int) -> None:
    weights = []
    for parts in (1, micro_batches):
        torch.manual_seed(0)
        model = nn.Linear(3, 2).double()
        train = regression(12, 5)  # the last batch has two samples: some shards are empty
        fit(squared, train, model, 0.1, epochs=2, micro_batches=parts, max_grad_norm=0.5)
        weights.append(model.weight.detach())
    assert torch.allclose(weights[0], weights[1], rtol=0, atol=1e-14)


def test_a_step_goes_through_the_model_in_that_many_micro_batches() -> None:
    sizes = []

    def watch(model: nn.Module, batch: Any) -> Output:
        if model.training:
            sizes.append(len(batch[0]))
        return given(model, batch)

    trainer, _, _ = fit(watch, batches([1.0] * 9, 6), micro_batches=3)
    # An empty micro-batch has a sample that does not count, so that the model has an input.
    assert sizes == [2, 2, 2, 1, 1, 1]
    assert trainer.step == 2


def test_gradients_are_gone_in_the_next_step() -> None:
    trainer, _, _ = fit(lr=0.25, train=batches([1.0] * 4, 2))
    assert weight_of(trainer.model).item() == 0.5  # 1 - 2 * 0.25; 0.25 if gradients were added up


@pytest.mark.parametrize(("bound", "step"), [(0.0, 8.0), (2.0, 2.0), (100.0, 8.0)])
def test_clipping_bounds_the_norm_of_the_step(bound: float, step: float) -> None:
    trainer, _, _ = fit(train=batches([8.0, 8.0], 2), lr=1.0, max_grad_norm=bound)
    assert 1 - weight_of(trainer.model).item() == pytest.approx(step, rel=1e-6)


def test_the_schedule_moves_once_a_step_and_the_log_has_the_rate_that_was_used() -> None:
    train = batches([0.0] * 8, 2)
    _, log, _ = fit(train=train, lr=1.0, schedule=halve, micro_batches=2, log_every=1)
    assert lines_of(log, "train", "lr") == [1.0, 0.5, 0.25, 0.125]


def test_plateau_gets_the_value_of_this_evaluation() -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, "max", factor=0.5, patience=0)

    metrics = {"score": Scripted([1, 2, 1, 3, 0, 0])}
    options: dict[str, Any] = {"monitor": "score", "metrics": metrics, "epochs": 6}
    _, log, _ = fit(lr=1.0, schedule=plateau, **options)
    assert lines_of(log, "train", "lr") == [1, 1, 1, 0.5, 0.5, 0.25]


def test_best_follows_the_monitor_and_nan_never_becomes_it() -> None:
    values = [math.nan, 1, math.nan, 3, 2, math.nan]
    options: dict[str, Any] = {"monitor": "score", "epochs": 6}
    trainer, _, saved = fit(metrics={"score": Scripted(values)}, lr=0.5, **options)
    at = {"step": 8, "epoch": 4, "split": "val", "lr": 0.5}
    assert trainer.best == {"metric": "score", "value": 3, "step": 8, "at": at}
    assert saved == ["last", "best", "last", "last", "best", "last", "last", "last"]


def test_a_metric_that_should_fall_and_the_loss_are_best_when_lowest() -> None:
    error = Scripted([2, 1, 3])
    error.higher_is_better = False
    trainer, _, _ = fit(metrics={"error": error}, monitor="error", epochs=3)
    assert trainer.best["value"] == 1
    trainer, log, _ = fit(lr=0.5, epochs=3)
    losses = lines_of(log, "val", "loss")
    assert trainer.best["value"] == min(losses) < max(losses)


@pytest.mark.parametrize("is_high", [True, False])
def test_of_two_evaluations_that_are_equally_good_the_first_stays_the_best(is_high: bool) -> None:
    score = Scripted([2, 2, 2])
    score.higher_is_better = is_high
    trainer, _, _ = fit(metrics={"score": score}, monitor="score", epochs=3)
    assert trainer.best["step"] == 2
    assert trainer.evaluations_without_improvement == 2


def test_patience_ends_training_after_that_many_evaluations_without_a_better_one() -> None:
    metrics = {"score": Scripted([1, 2, 2, 1, 9, 9])}
    trainer, _, _ = fit(metrics=metrics, monitor="score", epochs=6, patience=2)
    assert (trainer.epoch, trainer.best["value"]) == (4, 2)


def test_max_steps_ends_training_within_an_epoch() -> None:
    trainer, log, saved = fit(train=batches([1.0] * 8, 2), epochs=9, max_steps=6)
    assert trainer.step == 6
    assert lines_of(log, "val", "step") == [4, 6]
    assert saved[-1] == "last"


@pytest.mark.parametrize(
    ("eval_every", "steps"), [(0, [4, 8]), (1, [*range(1, 9)]), (3, [3, 6, 8]), (100, [8])]
)
def test_eval_every_evaluates_by_steps_and_after_the_last_one(
    eval_every: int, steps: list[int]
) -> None:
    train = batches([1.0] * 8, 2)
    _, log, saved = fit(train=train, epochs=2, eval_every=eval_every, log_every=100)
    assert lines_of(log, "val", "step") == steps
    assert lines_of(log, "val", "epoch") == [math.ceil(step / 4) for step in steps]
    assert lines_of(log, "train", "step") == steps  # a line before each evaluation
    assert saved.count("last") == len({*steps, 4, 8})


def test_patience_and_plateau_count_evaluations_and_not_epochs() -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, "max", 0.5, patience=0)

    options: dict[str, Any] = {"monitor": "score", "eval_every": 1, "epochs": 5, "log_every": 1}
    metrics = {"score": Scripted([1, 1, 1, 1, 1, 1])}
    train = batches([1.0] * 6, 2)
    trainer, log, _ = fit(
        train=train, metrics=metrics, lr=1.0, schedule=plateau, patience=4, **options
    )
    assert trainer.step == 5  # the first one is the best, and four are not better
    assert lines_of(log, "train", "lr") == [1, 1, 0.5, 0.25, 0.125]


def test_time_that_is_up_ends_training_as_the_last_step_does() -> None:
    answers = iter([False, False, True, True, True])
    train = batches([1.0] * 8, 2)
    trainer, log, saved = fit(train=train, epochs=9, is_time_up=lambda: next(answers))
    assert (trainer.step, trainer.last_step) == (3, 3)
    assert lines_of(log, "val", "step") == [3]
    assert saved == ["best", "last"]


@pytest.mark.parametrize("is_high", [True, False])
def test_keep_saves_each_evaluation_that_is_one_of_the_best(is_high: bool) -> None:
    values = [3, 1, math.nan, 2, 3, 5]
    metric = Scripted(values if is_high else [-value for value in values])
    metric.higher_is_better = is_high
    options: dict[str, Any] = {"metrics": {"score": metric}, "monitor": "score", "epochs": 6}
    trainer, _, saved = fit(train=batches([1.0], 1), keep=2, **options)
    assert [name for name in saved if name.startswith("best-")] == [
        "best-1",
        "best-2",
        "best-4",  # 2 is better than 1
        "best-5",  # as good as the first: both stay
        "best-6",
    ]
    assert [entry["step"] for entry in trainer.ranking] == [6, 1]


@pytest.mark.parametrize("is_high", [True, False])
def test_an_evaluation_whose_value_is_not_finite_is_not_kept(is_high: bool) -> None:
    metric = Scripted([math.nan, 1, math.inf, -math.inf, 2])
    metric.higher_is_better = is_high
    options: dict[str, Any] = {"metrics": {"score": metric}, "monitor": "score", "epochs": 5}
    trainer, _, saved = fit(train=batches([1.0], 1), keep=3, **options)
    assert [name for name in saved if name.startswith("best-")] == ["best-2", "best-5"]
    assert sorted(entry["step"] for entry in trainer.ranking) == [2, 5]
    assert trainer.best["step"] == (5 if is_high else 2)


def test_the_average_is_evaluated_and_the_model_is_trained() -> None:
    decay = 0.75
    model = one_weight(1.0)
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(model, multi_avg_fn=update)
    trainer, log, _ = fit(
        train=batches([1.0] * 3, 1), model=model, lr=0.1, average=average, eval_every=1, log_every=1
    )
    weights = torch.tensor([0.9, 0.8, 0.7])
    expected = [weights[0]]
    for weight in weights[1:]:
        expected.append(decay * expected[-1] + (1 - decay) * weight)
    assert lines_of(log, "val", "loss") == pytest.approx([float(value) for value in expected])
    assert lines_of(log, "train", "loss") == pytest.approx([1.0, 0.9, 0.8])
    assert float(weight_of(trainer.model).detach()) == pytest.approx(0.7)


@pytest.mark.parametrize("bound", [0.5, math.inf])
def test_the_norm_of_the_gradient_before_clipping_is_logged(bound: float) -> None:
    model = one_weight()
    _, log, _ = fit(train=batches([3.0], 1), model=model, lr=0.1, max_grad_norm=bound)
    assert lines_of(log, "train", "grad_norm") == [3.0]
    assert float(weight_of(model).detach()) == pytest.approx(1 - 0.1 * min(3, bound))
    _, log, _ = fit(train=batches([3.0], 1))
    assert "grad_norm" not in log[0]
    _, log, _ = fit(train=batches([0.0], 1), max_grad_norm=bound)
    assert lines_of(log, "train", "grad_norm") == [0.0]


def test_the_rate_counts_the_time_of_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    perf_counter = SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr(trainer_module, "time", perf_counter)

    def forward(model: nn.Module, batch: Any) -> Output:
        clock.now += 1 if model.training else 100
        return given(model, batch)

    train = batches([1.0] * 8, 2)
    _, log, _ = fit(forward, train, eval_every=3, log_every=2)
    assert lines_of(log, "train", "step") == [2, 3, 4]
    assert lines_of(log, "train", "rate") == [2, 2, 2]


def test_the_rate_has_one_decimal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 3.0, 3.0])
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    _, log, _ = fit(train=batches([1.0], 1))
    assert lines_of(log, "train", "rate") == [0.3]  # a sample in three seconds


def test_save_every_saves_within_an_epoch() -> None:
    _, _, saved = fit(train=batches([1.0] * 8, 2), save_every=3)
    assert saved == ["last", "best", "last"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step() -> None:
    train = batches([1.0] * 10 + [math.nan] + [1.0] * 9, 1)
    saved: list[str] = []
    trainer = build(log_every=4, save=saved.append)
    with pytest.raises(TrainingError, match="the loss became nan in steps 9 to 12"):
        trainer.fit(train, train)
    assert saved == []


def test_a_resumed_run_names_the_steps_since_the_last_line_if_its_loss_is_not_finite() -> None:
    train = batches([1.0] * 3 + [math.nan] * 3, 1)
    saved = stop_at(build(log_every=2), 3, train, train)
    again = build(log_every=2)
    load(again, saved)
    with pytest.raises(TrainingError, match="the loss became nan in steps 3 to 4"):
        again.fit(train, train)


def test_weights_that_are_not_finite_are_never_saved() -> None:
    saved: list[str] = []
    trainer = build(lr=math.inf, save=saved.append)
    with pytest.raises(TrainingError, match="a weight is not finite after step 1"):
        trainer.fit(batches([1.0], 1), batches([1.0], 1))
    assert saved == []


@pytest.mark.parametrize(
    ("value", "dtype"), [(1.0, torch.float16), (-3e38, torch.float32), (1e39, torch.float64)]
)
def test_weights_are_saved_though_their_sum_is_too_large(value: float, dtype: torch.dtype) -> None:
    saved: list[str] = []
    model = nn.Linear(300, 300, bias=False, dtype=dtype)
    nn.init.constant_(model.weight, value)
    trainer = build(model=model, save=saved.append)
    trainer.checkpoint("last")
    assert saved == ["last"]
    for bad in (math.nan, math.inf, -math.inf):
        nn.init.constant_(model.weight[0, :1].detach(), bad)
        with pytest.raises(TrainingError):
            trainer.checkpoint("last")
    assert saved == ["last"]


def test_nothing_is_saved_if_only_the_last_parameter_is_not_finite() -> None:
    saved: list[str] = []
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    *_, last = model.parameters()
    nn.init.constant_(last, math.nan)
    with pytest.raises(TrainingError, match="a weight is not finite"):
        build(model=model, save=saved.append).checkpoint("last")
    assert saved == []


def test_evaluation_is_in_eval_mode_without_gradients_and_training_goes_on_as_before() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2)).double()
    train = regression(8, 4)
    trainer = build(squared, model, 0.1)
    first = trainer.evaluate(train)
    assert first == trainer.evaluate(train)
    assert not model.training
    was_training: list[bool] = []

    def forward(model: nn.Module, batch: Any) -> Output:
        was_training.append(model.training)
        return squared(model, batch)

    fit(forward, train, model, 0.1, epochs=2, eval_every=1)
    assert was_training == [True, False, False] * 4


def test_what_observes_does_not_disturb() -> None:
    weights = []
    for options in (
        {"log_every": 1},
        {"log_every": 100, "save_every": 1, "metrics": {"score": Scripted([1.0] * 9)}},
    ):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2).double()
        model = nn.Sequential(nn.Dropout(0.5), layer)
        fit(squared, regression(10, 3), model, 0.1, epochs=3, **options)
        weights.append(layer.weight.detach())
    assert torch.equal(weights[0], weights[1])


def test_dropout_differs_from_step_to_step_and_by_seed_alone() -> None:
    seen: list[Tensor] = []

    def watch(model: nn.Module, batch: Any) -> Output:
        if model.training:
            seen.append(nn.functional.dropout(torch.ones(50)))
        return given(model, batch)

    for seed in (1, 1, 2):
        fit(watch, batches([1.0] * 4, 2), micro_batches=2, seed=seed)
    first, again, other = seen[:4], seen[4:8], seen[8:]
    assert len({tuple(mask.tolist()) for mask in first}) == 4
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_running_totals_keep_no_graph() -> None:
    def forward(model: nn.Module, batch: Any) -> Output:
        output = given(model, batch)
        return Output(output.losses, None, None, {"twice": 2 * output.losses})

    trainer = build(forward, log_every=1000)
    for batch in batches([1.0] * 40, 1):
        trainer.train_step(one_step(batch))
    sums = [value for row in trainer.pending for value in row.values()]
    assert len(sums) == 80
    assert all(value.grad_fn is None for value in sums)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda losses: losses.mean(), r"\(\)"),
        (lambda losses: losses[:1], r"\(1,\)"),
        (lambda losses: losses[:, None], r"\(2, 1\)"),
    ],
)
def test_losses_of_a_wrong_shape_are_refused(
    change: Callable[[Tensor], Tensor], found: str
) -> None:
    def forward(model: nn.Module, batch: Any) -> Output:
        return Output(change(given(model, batch).losses), None)

    expected = r"forward: expected losses of shape \(2,\), one for each sample and unreduced"
    with pytest.raises(SetupError, match=f"{expected}, found {found}; .* needs `units`"):
        fit(forward)


def test_with_units_the_losses_may_have_more_dimensions_but_an_entry_for_each_sample() -> None:
    def forward(model: nn.Module, batch: Any) -> Output:
        return Output(given(model, batch).losses[:, None].expand(-1, 3), None)

    def reduced(model: nn.Module, batch: Any) -> Output:
        return Output(given(model, batch).losses.mean(), None)

    def units(batch: Any) -> int:
        return 3 * len(batch[0])

    _, log, _ = fit(forward, batches([1.0, 3.0], 2), units=units)
    assert lines_of(log, "train", "loss") == [2.0]
    with pytest.raises(SetupError, match=r"found \(\)"):
        fit(reduced, units=units)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"kl": torch.tensor(1.0)}, r"expected kl of shape \(2,\), .*, found \(\)"),
        ({"kl": torch.ones(2, 3)}, r"expected kl of shape \(2,\), .*, found \(2, 3\)"),
        ({"loss": torch.ones(2)}, "the name 'loss' is taken by the losses"),
    ],
)
def test_values_of_a_wrong_shape_or_name_are_refused_before_the_first_step(
    values: dict[str, Tensor], error: str
) -> None:
    def forward(model: nn.Module, batch: Any) -> Output:
        return Output(given(model, batch).losses, None, None, values)

    [batch] = batches([1.0, 3.0], 2)
    trainer = build(forward)
    with pytest.raises(SetupError, match=f"forward: .*{error}"):
        trainer.forward_batch(MicroBatch(batch, 2))
    with pytest.raises(SetupError, match=f"forward: .*{error}"):
        trainer.fit([batch], [batch])


class Pair(NamedTuple):
    inputs: Tensor
    note: str


@dataclass(frozen=True)
class Sample:
    inputs: Tensor
    extra: dict[str, list[Tensor]]
    note: str = "kept"


def as_dict(inputs: Tensor) -> Any:
    return {"inputs": inputs, "note": "kept"}


def as_named_tuple(inputs: Tensor) -> Any:
    return Pair(inputs, "kept")


def as_dataclass(inputs: Tensor) -> Any:
    return Sample(inputs, {"nested": [inputs]})


@pytest.mark.parametrize("make", [as_dict, as_named_tuple, as_dataclass])
def test_a_batch_may_be_a_dict_a_named_tuple_or_a_dataclass(make: Callable[[Tensor], Any]) -> None:
    seen: list[Any] = []

    def forward(model: nn.Module, batch: Any) -> Output:
        fields = batch if isinstance(batch, dict) else vars_of(batch)
        seen.append(type(batch))
        assert fields["note"] == "kept"
        if "extra" in fields:
            assert torch.equal(fields["extra"]["nested"][0], fields["inputs"])
        return Output(fields["inputs"] * weight_of(model), None)

    def vars_of(batch: Any) -> dict[str, Any]:
        return dict(batch._asdict()) if isinstance(batch, Pair) else vars(batch)

    train = [map_tensors(torch.clone, make(torch.tensor([1.0, 2.0, 6.0])))]  # as to a device
    trainer, log, _ = fit(forward, train, micro_batches=2, lr=0.5)
    assert seen == [type(train[0])] * 4  # two micro-batches in training, two in evaluation
    assert lines_of(log, "train", "loss") == [3.0]
    assert weight_of(trainer.model).item() == -0.5  # 1 - 0.5 * the mean of 1, 2 and 6


@dataclass(slots=True)
class Slotted:
    inputs: Tensor
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.inputs)


def test_a_batch_may_be_a_dataclass_with_slots_and_computed_fields() -> None:
    sizes = []

    def forward(model: nn.Module, batch: Slotted) -> Output:
        sizes.append((len(batch.inputs), batch.size))
        return Output(batch.inputs * weight_of(model), None)

    train = [map_tensors(torch.clone, Slotted(torch.tensor([1.0, 2.0, 6.0])))]
    _, log, _ = fit(forward, train, micro_batches=2)
    assert sizes == [(1, 1), (2, 2)] * 2
    assert lines_of(log, "train", "loss") == [3.0]


def test_a_plain_batch_may_have_tensors_of_unequal_length() -> None:
    """Bags of tokens, as torch.nn.EmbeddingBag takes them: two samples, seven tokens."""
    seen: list[list[int]] = []

    def forward(model: nn.Module, batch: Any) -> Output:
        target, _, _ = batch
        seen.append([len(tensor) for tensor in batch])
        return Output(target * weight_of(model), None)

    bags = (torch.tensor([1.0, 2.0]), torch.arange(7), torch.tensor([0, 3]))
    fit(forward, [bags])
    assert seen == [[2, 7, 2]] * 2


def test_plain_batches_are_not_cut_into_micro_batches() -> None:
    error = "need a `Loader`, which cuts batches into micro-batches; found list"
    with pytest.raises(SetupError, match=error):
        build(micro_batches=2).fit(batches([1.0], 1), batches([1.0], 1))


@pytest.mark.parametrize("batch", [["a", "b"], (torch.tensor(2.0), torch.ones(2))])
def test_a_plain_batch_that_does_not_begin_with_samples_is_refused(batch: Any) -> None:
    with pytest.raises(SetupError, match=r"must begin with a tensor of shape \(batch, ...\)"):
        fit(given, [batch])


def test_an_evaluation_without_batches_is_refused() -> None:
    small: Any = DataLoader([1.0, 2.0], 4, drop_last=True)  # type: ignore[arg-type]
    with pytest.raises(SetupError, match="there are no batches to evaluate"):
        build().evaluate(small)


class Filled:
    """A loader whose only step has two micro-batches, the second of which only fills a place."""

    def __init__(self, real: Batch) -> None:
        self.real = real

    def __len__(self) -> int:
        return 1

    def steps_of_epoch(
        self, epoch: int, start: int, shards: int, mine: Sequence[int]
    ) -> Iterator[Step]:
        filler = (torch.tensor([100.0]), torch.zeros(1))
        parts = [MicroBatch(self.real, 2), MicroBatch(filler, 0)]
        yield Step(parts[: len(mine)], 2)


def test_a_micro_batch_that_counts_nothing_counts_nowhere() -> None:
    def forward(model: nn.Module, batch: Any) -> Output:
        output = given(model, batch)
        return Output(output.losses, batch[0], batch[1], {"input": batch[0]})

    [real] = batches([2.0, 4.0], 2)
    options: Any = {"micro_batches": 2, "metrics": {"total": Total()}}
    trainer, log, _ = fit(forward, Filled(real), lr=0.25, **options)
    assert weight_of(trainer.model).item() == 0.25  # 1 - 0.25 * the mean of 2 and 4
    assert [line["loss"] for line in log] == [3.0, 0.75]
    assert [line["input"] for line in log] == [3.0, 3.0]
    assert lines_of(log, "val", "total") == [6.0]


def test_an_empty_shard_of_an_evaluation_reaches_no_metric() -> None:
    trainer = build(metrics={"total": Total()})
    trainer.share.count = 2  # of two micro-batches the first one, which has no sample
    values = trainer.evaluate(Cut(batches([5.0], 1)))
    assert values == {"loss": 0.0, "total": 0.0}


def test_the_sum_of_losses_is_rounded_once() -> None:
    values = build().evaluate(batches([2.0**60, 1.0, -(2.0**60)], 1))
    assert values["loss"] == 1 / 3
    assert math.isnan(build().evaluate(batches([math.inf, -math.inf], 1))["loss"])
    assert math.isnan(exact_sum([1e308, 1e308]))  # more than a float holds


def test_the_loss_of_each_epoch_is_its_own() -> None:
    _, log, _ = fit(lr=0.5, epochs=2, train=batches([1.0, 1.0], 1))
    assert lines_of(log, "train", "loss") == [0.75, -0.25]


def test_evaluation_computes_no_gradients() -> None:
    modes = []

    def watch(model: nn.Module, batch: Any) -> Output:
        modes.append((torch.is_grad_enabled(), model.training))
        return given(model, batch)

    fit(watch)
    assert set(modes) == {(True, True), (False, False)}


def ragged(*samples: list[float]) -> dict[str, Tensor]:
    """A batch of sequences of unequal length: the losses of their tokens, and which are real."""
    length = max(len(sample) for sample in samples)
    rows = [sample + [1e6] * (length - len(sample)) for sample in samples]
    mask = [[1.0] * len(sample) + [0.0] * (length - len(sample)) for sample in samples]
    return {"losses": torch.tensor(rows), "mask": torch.tensor(mask)}


def by_token(model: nn.Module, batch: Any) -> Output:
    losses = batch["losses"] * batch["mask"] * weight_of(model)  # (batch, length)
    length = batch["mask"].sum(1)
    return Output(losses, None, None, {"length": length})


def count_tokens(batch: Any) -> int:
    return int(batch["mask"].sum())


def test_with_units_a_step_is_the_mean_over_the_tokens_of_its_micro_batches() -> None:
    train = [ragged([1.0, 2.0, 3.0], [8.0])]  # cut into micro-batches of three tokens and of one
    for micro_batches in (1, 2):
        options: dict[str, Any] = {"units": count_tokens, "micro_batches": micro_batches}
        trainer, _, _ = fit(by_token, train, lr=1.0, **options)
        # The mean over samples would be 7, that of the means of the micro-batches 5.
        assert weight_of(trainer.model).item() == 1 - 3.5


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_with_units_the_loss_of_an_epoch_is_the_mean_over_tokens(micro_batches: int) -> None:
    train = [ragged([1.0, 2.0, 3.0], [8.0]), ragged([10.0, 10.0])]
    _, log, _ = fit(by_token, train, units=count_tokens, micro_batches=micro_batches)
    assert [line["loss"] for line in log] == pytest.approx([34 / 6] * 2)


def test_a_step_without_a_single_unit_leaves_the_weights() -> None:
    empty = {"losses": torch.ones(2, 3), "mask": torch.zeros(2, 3)}
    trainer, log, _ = fit(by_token, [empty], lr=1.0, units=count_tokens)
    assert weight_of(trainer.model).item() == 1.0
    assert [line["loss"] for line in log] == [0.0, 0.0]


@pytest.mark.parametrize("log_every", [1, 100])
def test_values_are_logged_as_means_over_samples(log_every: int) -> None:
    train = [ragged([1.0, 2.0, 3.0], [8.0]), ragged([10.0, 10.0])]
    options: dict[str, Any] = {"units": count_tokens, "micro_batches": 2, "log_every": log_every}
    _, log, _ = fit(by_token, train, epochs=2, **options)
    # Six tokens in three samples; the mean over tokens would be 1, that of batch means 2 as well
    # but for the first epoch's first line, which has the first batch only.
    assert lines_of(log, "train", "length") == {1: [2.0, 2.0] * 2, 100: [2.0] * 2}[log_every]
    assert lines_of(log, "val", "length") == [2.0, 2.0]


class OfOutput(Total):
    def update(self, output: Output) -> None:  # type: ignore[override]
        self.sum += float(output.values["input"].sum())


class OfOutputAndBatch(Total):
    def update(self, output: Output, batch: Any) -> None:  # type: ignore[override]
        self.sum += float((output.losses * batch[1]).sum())


class OfBatch(Total):
    def update(self, batch: Any) -> None:  # type: ignore[override]
        self.sum += float(batch[1].sum())


def test_a_metric_gets_what_the_parameters_of_its_update_ask_for() -> None:
    def forward(model: nn.Module, batch: Any) -> Output:
        inputs, target = batch
        losses = inputs * weight_of(model)
        return Output(losses, 10 * inputs, target, {"input": inputs})

    val = [(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))] * 2
    metrics = {
        "preds": Total(),
        "output": OfOutput(),
        "batch": OfBatch(),
        "both": OfOutputAndBatch(),
    }
    expected = {"preds": 60.0, "output": 6.0, "batch": 14.0, "both": 22.0}
    trainer = build(forward, metrics=metrics)
    for _ in range(2):  # the second evaluation starts anew
        assert trainer.evaluate(val) == {"loss": 1.5, "input": 1.5, **expected}


def test_the_entries_of_a_dict_are_logged_by_the_name_of_the_metric_and_their_own() -> None:
    result = {"f1": torch.tensor(0.5), "recall": 0.25, "classes": torch.tensor([0.0, 1.0])}
    trainer, log, _ = fit(metrics={"macro": Fixed(result)})
    values = trainer.evaluate(batches([1.0], 1))
    expected = {"loss": 1.0, "macro_f1": 0.5, "macro_recall": 0.25, "macro_classes": [0.0, 1.0]}
    assert values == expected
    assert log[-1].keys() == {"step", "epoch", "split", "lr", "loss", "macro_f1", "macro_recall"}


def test_vectors_and_matrices_are_what_evaluate_gives_but_are_not_logged() -> None:
    metrics = {"vector": Fixed(torch.ones(2)), "matrix": Fixed(torch.eye(2)), "list": Fixed([1])}
    trainer, log, _ = fit(metrics=metrics)
    values = trainer.evaluate(batches([1.0], 1))
    assert values["vector"] == [1.0, 1.0]
    assert values["matrix"] == [[1.0, 0.0], [0.0, 1.0]]
    assert values["list"] == [1]
    assert all(isinstance(value, int | float | str) for line in log for value in line.values())
    assert not any(name in line for line in log for name in metrics)


def test_a_metric_that_is_an_integer_is_logged_and_can_be_the_monitor() -> None:
    metrics = {"count": Fixed(3)}
    trainer, log, _ = fit(metrics=metrics, monitor="count")
    assert lines_of(log, "val", "count") == [3]
    assert trainer.best["value"] == 3


def noisy(model: nn.Module, batch: Any) -> Output:
    """Draw from torch in evaluation too, as a variational autoencoder does."""
    inputs, target = batch
    return squared(model, (inputs + torch.randn_like(inputs), target))


def fragile() -> nn.Module:
    """A model that any pass in training mode would change."""
    torch.manual_seed(0)
    layers = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)
    return nn.Sequential(*layers).double()


def test_a_checkpoint_of_the_best_says_so_itself() -> None:
    states: list[tuple[str, dict[str, Any]]] = []
    trainer = build(lr=0.5, epochs=2)
    trainer.save = lambda name: states.append((name, trainer.state_dict()))
    train = batches([1.0, 1.0], 2)
    trainer.fit(train, train)
    assert [state["best"]["step"] for name, state in states if name == "best"] == [1, 2]


def test_the_state_counts_losses_that_are_still_on_the_device() -> None:
    trainer = build(micro_batches=2)
    trainer.train_step(one_step(*batches([1.0, 2.0], 1)))
    states = []
    trainer.save = lambda name: states.append(trainer.state_dict())
    trainer.checkpoint("last")
    assert (states[0]["sums"], states[0]["samples"]) == ({"loss": 3.0}, 2)


def stop_at(trainer: Trainer, at: int, train: Any, val: Any) -> list[Any]:
    """Stop when the trainer asks for the `at`-th time; get the state that it saves then."""
    asked: list[None] = []
    saved: list[Any] = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) == at

    def save(name: str) -> None:
        if name == "last":
            saved[:] = state_of(trainer)

    trainer.stop = stop
    trainer.save = save
    with pytest.raises(Stopped):
        trainer.fit(train, val)
    return saved


@pytest.mark.parametrize("at", [1, 2, 4, 6, 9])
def test_a_stop_leaves_a_state_that_goes_on_as_if_nothing_had_happened(at: int) -> None:
    def make() -> tuple[Trainer, Lines]:
        log: Lines = []
        options: dict[str, Any] = {"epochs": 3, "log_every": 2, "momentum": 0.9}
        return build(lr=0.5, metrics={"total": Total()}, log=log.append, **options), log

    train = batches([1.0, 2.0, 3.0], 1)
    whole, expected = make()
    whole.fit(train, train[:1])  # three steps an epoch, asked four times
    part, log = make()
    saved = stop_at(part, at, train, train[:1])
    again, rest = make()
    load(again, saved)
    again.fit(train, train[:1])
    assert without_rate(log, rest) == without_rate(expected)
    assert_same_weights(whole.model, again.model)


def test_the_rate_of_a_resumed_run_counts_its_own_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    train = batches([1.0] * 8, 2)
    saved = stop_at(build(), 3, train, train)  # six of eight samples are done
    log: Lines = []
    clock = SimpleNamespace(now=10.0)

    def forward(model: nn.Module, batch: Any) -> Output:
        clock.now += 2
        return given(model, batch)

    again = build(forward, log=log.append)
    load(again, saved)
    perf_counter = SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr(trainer_module, "time", perf_counter)
    again.fit(train, train)
    assert lines_of(log, "train", "rate") == [1.0]


class Jittered(Dataset[Batch]):
    """Samples with a transform that draws from torch."""

    def __init__(self, samples: list[Batch]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Batch:
        inputs, target = self.samples[index]
        return inputs[0] + torch.randn(3), target[0]


def plain_loader(num_workers: int) -> Any:
    return DataLoader(Jittered(regression(16, 1)), 4, shuffle=True, num_workers=num_workers)


def evaluation_list() -> Any:
    return regression(6, 3)


def evaluation_loader() -> Any:
    return Loader([(x[0], y[0]) for x, y in regression(6, 1)], LoaderConfig(batch_size=3))


def own_loader(num_workers: int) -> Any:
    config = LoaderConfig(batch_size=4, num_workers=num_workers)
    return Loader(Seeded(Jittered(regression(16, 1))), config, shuffle=True)


@pytest.mark.parametrize("at", [1, 3, 5, 7, 11])
@pytest.mark.parametrize("make_loader", [plain_loader, own_loader])
@pytest.mark.parametrize("forward", [squared, noisy])
def test_a_shuffled_loader_with_random_transforms_resumes_exactly(
    at: int, make_loader: Callable[[int], Any], forward: Forward
) -> None:
    check_resume(at, lambda: make_loader(0), evaluation_list, forward)


@pytest.mark.parametrize("at", [4, 5, 6])  # after the last step, and before either batch
def test_an_evaluation_whose_forward_draws_from_torch_is_repeated_exactly(at: int) -> None:
    check_resume(at, lambda: own_loader(0), evaluation_loader, noisy)


@pytest.mark.parametrize("make_val", [evaluation_list, evaluation_loader])
def test_what_forward_draws_in_evaluation_is_decided_by_the_seed(
    make_val: Callable[[], Any],
) -> None:
    values = []
    for seed in (1, 1, 2):
        trainer = build(noisy, fragile(), seed=seed)
        values.append(trainer.evaluate(make_val()))
        assert trainer.evaluate(make_val()) == values[-1]
    assert values[0] == values[1] != values[2]


def test_what_forward_draws_in_evaluation_is_new_in_each_batch_and_micro_batch() -> None:
    seen: list[float] = []

    def watch(model: nn.Module, batch: Any) -> Output:
        seen.append(torch.rand(()).item())
        return given(model, batch)

    trainer = build(watch, micro_batches=2)
    trainer.evaluate(Cut(batches([1.0] * 12, 4)))
    assert len(set(seen)) == len(seen) == 6


@pytest.mark.parametrize("at", [2, 8])  # within the first epoch, and within the second
@pytest.mark.parametrize("make_loader", [plain_loader, own_loader])
def test_it_resumes_exactly_with_two_workers(make_loader: Callable[[int], Any], at: int) -> None:
    check_resume(at, lambda: make_loader(2), evaluation_list, squared)


def check_resume(
    at: int, make_train: Callable[[], Any], make_val: Callable[[], Any], forward: Forward
) -> None:
    """Stop within an epoch of four steps and one evaluation of two batches, and go on."""

    def make() -> tuple[Trainer, Lines]:
        log: Lines = []
        micro_batches = 2 if isinstance(make_train(), Loader) else 1
        options: dict[str, Any] = {"epochs": 2, "log_every": 1, "momentum": 0.9}
        options["micro_batches"] = micro_batches
        return build(forward, fragile(), 0.1, log=log.append, **options), log

    whole, expected = make()
    whole.fit(make_train(), make_val())
    part, log = make()
    saved = stop_at(part, at, make_train(), make_val())
    again, rest = make()
    load(again, saved)
    torch.manual_seed(987 + at)  # another process has other random numbers
    again.fit(make_train(), make_val())
    assert without_rate(log, rest) == without_rate(expected)
    assert_same_weights(whole.model, again.model)


def test_the_order_of_a_shuffled_data_loader_is_another_in_each_epoch_and_for_each_seed() -> None:
    orders: list[list[float]] = []

    def watch(model: nn.Module, batch: Any) -> Output:
        if model.training:
            orders.append(batch.tolist())
        return Output(batch * weight_of(model), None)

    for seed in (1, 1, 2):
        train = DataLoader([float(i) for i in range(20)], 20, shuffle=True)  # type: ignore[arg-type, var-annotated]
        fit(watch, train, epochs=2, seed=seed)
    assert all(sorted(order) == list(range(20)) for order in orders)
    first, second, first_again, second_again, *others = orders
    assert (first, second) == (first_again, second_again)
    assert len({tuple(order) for order in (first, second, *others)}) == 4


class Draws(Dataset[Tensor]):
    """Each sample is a random number."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        return torch.rand(())


@pytest.mark.parametrize("workers", [0, 2])
def test_random_transforms_of_a_plain_loader_repeat_neither_within_nor_between_epochs(
    workers: int,
) -> None:
    seen: list[float] = []

    def watch(model: nn.Module, batch: Any) -> Output:
        if model.training:
            seen.extend(batch.tolist())
        return Output(batch * weight_of(model), None)

    for seed in (1, 1, 2):
        trainer = build(watch, epochs=2, seed=seed)
        trainer.fit(DataLoader(Draws(), 2, num_workers=workers), [torch.ones(2)])
    first, again, other = seen[:12], seen[12:24], seen[24:]
    assert first == again
    assert len({*first, *other}) == 24


def samples_of_six() -> Any:
    return [(x[0], y[0]) for x, y in regression(6, 1)]


def loader_that_shuffles(generator: torch.Generator) -> Any:
    return DataLoader(samples_of_six(), 2, shuffle=True, generator=generator)


def loader_that_seeds_workers(generator: torch.Generator) -> Any:
    return DataLoader(samples_of_six(), 2, generator=generator)


def loader_of_a_batch_sampler(generator: torch.Generator) -> Any:
    sampler = RandomSampler(samples_of_six(), generator=generator)
    return DataLoader(samples_of_six(), batch_sampler=BatchSampler(sampler, 2, drop_last=False))


def loader_that_keeps_workers(generator: torch.Generator) -> Any:
    return DataLoader(samples_of_six(), 2, num_workers=1, persistent_workers=True)


@pytest.mark.parametrize(
    "make_loader",
    [
        loader_that_shuffles,
        loader_that_seeds_workers,
        loader_of_a_batch_sampler,
        loader_that_keeps_workers,
    ],
)
def test_a_data_loader_with_random_numbers_of_its_own_is_refused_on_resume_alone(
    make_loader: Callable[[torch.Generator], Any],
) -> None:
    train = make_loader(torch.Generator().manual_seed(0))
    trainer, _, _ = fit(squared, train, nn.Linear(3, 2).double())
    again = build(squared, nn.Linear(3, 2).double(), epochs=2)
    load(again, state_of(trainer))
    with pytest.raises(SetupError, match="cannot be resumed exactly; create it without"):
        again.fit(train, train)
    assert again.step == 3


@dataclass
class Adversaries(Trainer):
    """Two optimizers: the first makes the loss small, then the second makes it large."""

    second: Any = field(default=None, kw_only=True)

    def update(self, micro_batches: Sequence[MicroBatch], total: int) -> None:
        for sign, optimizer in ((1, self.optimizer), (-1, self.second)):
            optimizer.zero_grad()
            for micro_batch in micro_batches:
                losses = self.forward_batch(micro_batch).losses
                loss = sign * losses.sum() / total
                loss.backward()  # type: ignore[no-untyped-call]
                if sign < 0:
                    self.pending.append({"loss": losses.detach().sum()})
            optimizer.step()


def test_update_may_be_overridden_for_two_optimizers() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.tensor(2.0))
            self.b = nn.Parameter(torch.tensor(1.0))

    def forward(model: Any, batch: Any) -> Output:
        return Output(model.a * model.b * batch, None)

    model = Product()
    log: Lines = []
    trainer = Adversaries(
        model,
        torch.optim.SGD([model.a], 0.25),
        forward,
        TrainerConfig(epochs=2, micro_batches=2, log_every=1),
        second=torch.optim.SGD([model.b], 0.5),
        log=log.append,
    )
    train = Cut([torch.tensor([1.0, 3.0])])
    trainer.fit(train, train)
    a, b, losses = 2.0, 1.0, []
    for _ in range(2):
        a -= 0.25 * b * 2  # 2 is the mean of the batch
        losses.append(a * b * 2)
        b += 0.5 * a * 2
    assert (model.a.item(), model.b.item()) == (a, b)
    assert lines_of(log, "train", "loss") == losses
    assert trainer.step == 2


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_precision_is_that_of_the_arithmetic_and_not_of_weights_and_losses(
    precision: str, dtype: torch.dtype
) -> None:
    seen: set[tuple[torch.dtype, ...]] = set()

    def watch(model: nn.Module, batch: Any) -> Output:
        output = classify(model, batch)
        seen.add((output.preds.dtype, output.losses.dtype))
        return output

    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    inputs = torch.randn(64, 3)
    train = [(inputs, (inputs[:, 0] > 0).long())] * 40
    _, log, _ = fit(watch, train, model, 1.0, precision=precision)
    assert seen == {(dtype, torch.float32)}  # in training and in evaluation
    assert model.weight.dtype == torch.float32
    assert log[-1]["loss"] < 0.2


def test_fp16_scales_the_loss_and_not_the_update() -> None:
    def tiny(model: nn.Module, batch: Any) -> Output:
        output = classify(model, batch)
        # fp16 holds such gradients only when they are scaled.
        return Output(output.losses * 1e-7, output.preds, output.target)

    weights = []
    for precision in ("fp32", "fp16"):
        model = nn.Linear(1, 2, bias=False)
        nn.init.zeros_(model.weight)
        train = [(torch.ones(4, 1), torch.tensor([0, 0, 0, 1]))] * 3
        fit(tiny, train, model, 1e7, precision=precision, micro_batches=2)
        weights.append(model.weight.detach())
    assert weights[0].abs().min() > 0.1
    assert torch.allclose(weights[0], weights[1], rtol=1e-3)


@pytest.mark.parametrize("bound", [0.0, 2.0])
def test_fp16_skips_a_step_that_overflows_with_its_schedule(bound: float) -> None:
    train = batches([1e36, 3.0], 1)  # scaled by 65,536 more than float32 holds
    options: Any = {"precision": "fp16", "log_every": 1, "max_grad_norm": bound}
    model = one_weight()
    average = AveragedModel(model)
    trainer, log, _ = fit(
        train=train, model=model, lr=1.0, schedule=halve, average=average, **options
    )
    assert int(average.n_averaged) == 1
    assert lines_of(log, "train", "lr") == [1.0, 1.0]
    assert weight_of(trainer.model).item() == pytest.approx(1 - (bound or 3.0), rel=1e-5)
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


def four_samples() -> Batch:
    return torch.randn(4, 3), torch.tensor([0, 1, 0, 1])


def test_nothing_is_float64_before_it_is_on_the_cpu_again() -> None:
    trainer = build(classify, nn.Linear(3, 2), 0.1, max_grad_norm=1.0)
    batch = four_samples()
    with Watch() as watch:
        trainer.train_step(one_step(batch))
        trainer.evaluate([batch])
    assert torch.float32 in watch.types
    assert torch.float64 not in watch.types


def fused(config: TrainerConfig, **options: Any) -> Trainer:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    return Trainer(model, optimizer, classify, config, **options)


@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_a_step_dispatches_few_operations_more_than_the_bare_one(bound: float) -> None:
    trainer = fused(TrainerConfig(max_grad_norm=bound))
    batch = four_samples()
    inputs, target = batch
    trainer.train_step(one_step(batch))  # the optimizer makes its state in the first step
    with Watch() as bare:
        trainer.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(trainer.model(inputs), target)
        loss.backward()  # type: ignore[no-untyped-call]
        if bound:
            nn.utils.clip_grad_norm_(trainer.model.parameters(), bound)
        trainer.optimizer.step()
    with Watch() as ours:
        trainer.train_step(one_step(batch))
    assert "aten._fused_adamw_.default" in bare.names
    # The loss is a sum times a factor, of the samples that count: 5 operations, 4 in backward.
    assert len(ours.names) <= len(bare.names) + 9


def test_no_step_waits_for_the_device_to_get_a_number_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def log(_: dict[str, Any]) -> None:
        watch.names.append("log")

    trainer = fused(TrainerConfig(log_every=5, epochs=1), log=log)
    monkeypatch.setattr(trainer, "evaluate", lambda _: {"loss": 0.0})
    monkeypatch.setattr(trainer, "checkpoint", lambda _: None)
    train = [four_samples()] * 12
    with Watch() as watch:
        trainer.fit(train, train)
    assert watch.names.count("log") == 4  # one of them is of the evaluation
    assert watch.names.count("aten._fused_adamw_.default") == 12
    assert "aten._local_scalar_dense.default" not in watch.names  # what item() and float() do
    assert watch.names.count("aten.stack.default") == 3  # before the losses are read at once


def test_on_another_device_the_random_numbers_of_both_are_seeded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds: list[int] = []
    module = SimpleNamespace(manual_seed=seeds.append)
    monkeypatch.setattr(torch, "get_device_module", {"cuda": module}.get)
    trainer = build()
    trainer.manual_seed(1, 2, 3)
    drawn = torch.rand(4)
    assert seeds == []
    trainer.device = torch.device("cuda")
    trainer.manual_seed(1, 2, 3)
    assert torch.equal(torch.rand(4), drawn)
    assert seeds == [trainer_module.seed_of(1, 2, 3)]
