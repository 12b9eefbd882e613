"""The number of processes changes no bit of a run; sums do not depend on who has which part."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_same_run
from processes import Job, do, only, together
from torch import Tensor, nn
from torch.nn import SyncBatchNorm

from {{ cookiecutter.__package_name }}.engine import record
from {{ cookiecutter.__package_name }}.engine.share import Share, ShareError

BASE = (
    "device=cpu",
    "trainer.epochs=3",
    "trainer.log_every=2",
    "trainer.micro_batches=4",
    "loader.batch_size=8",
)
# Of 45 samples the last step has 5, and of 41 one, which leaves nothing to three micro-batches.
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "dropout": (
        ("optim.scheduler=cosine", "optim.warmup=3", "logger.trace=true"),
        {"dropout": 0.5},
    ),
    "plateau": (
        ("optim.scheduler=plateau", "optim.patience=0", "trainer.max_grad_norm=0.1"),
        {"samples": 41},
    ),
    "bf16": (("trainer.precision=bf16", "trainer.patience=1"), {"dropout": 0.5}),
    "fp16": (("trainer.precision=fp16", "trainer.max_grad_norm=0.5"), {}),
    "workers": (("loader.num_workers=2", "loader.batch_size=3"), {"samples": 7}),
    "balanced": (("loader.limit=43",), {"dropout": 0.5, "is_balanced": True}),
    "norm": (("optim.scheduler=linear",), {"has_batch_norm": True, "samples": 41}),
    "eight": (("trainer.micro_batches=8", "loader.batch_size=16"), {"dropout": 0.5}),
    "average": (
        ("optim.ema=0.9", "trainer.eval_every=4", "trainer.keep=2", "trainer.max_grad_norm=.inf"),
        {"dropout": 0.5},
    ),
}


class Runs:
    """The same runs, of four micro-batches a step, in one, two and four processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "empty.yaml").touch()
        for processes in (1, 2, 4):
            jobs = [self.job(name, processes) for name in CASES]
            place = folder / f"of {processes}"
            place.mkdir()
            if processes == 1:
                seen = [[do(job)] for job in jobs]
            else:
                seen = together(place, jobs, processes)
            for job in seen:
                assert [process["code"] for process in job] == [0] * processes, job[0]["err"]

    def job(self, name: str, processes: int) -> Job:
        options, facts = CASES[name]
        output = f"output_dir={self.folder / name / str(processes)}"
        words = ["train", str(self.folder / "empty.yaml"), *BASE, *options, output]
        return Job(words, is_double=False, **facts)

    def run(self, name: str, processes: int) -> Path:
        return Path(only(f"{self.folder}/{name}/{processes}/*"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("shared"))


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_the_number_of_processes_changes_no_bit(runs: Runs, name: str, processes: int) -> None:
    assert_same_run(runs.run(name, 1), runs.run(name, processes))
    logs = [(runs.run(name, number) / "metrics.jsonl").read_bytes() for number in (1, processes)]
    assert without_clock(logs[0]) == without_clock(logs[1])


def test_a_run_of_four_processes_is_reproduced_in_one(runs: Runs) -> None:
    seen = do(Job(["reproduce", str(runs.run("plateau", 4))], is_double=False, samples=41))
    assert seen["code"] == 0, seen["err"]
    assert json.loads(seen["out"])["identical"] is True


def without_clock(log: bytes) -> list[bytes]:
    """The bytes of each line but those of `time` and `rate`."""
    lines = []
    for line in log.splitlines():
        kept = [part for part in line[1:-1].split(b", ") if part[:6] not in (b'"time"', b'"rate"')]
        lines.append(b", ".join(kept))
    return lines


def test_the_config_and_the_manifest_say_what_the_number_came_to(runs: Runs) -> None:
    run = runs.run("dropout", 4)
    assert "  micro_batches: 4\n" in (run / "config.yaml").read_text(encoding="utf-8")
    manifest = record.read(run / "manifest.json")
    assert (manifest["micro_batches"], manifest["same_bits"]) == (4, True)


def test_running_statistics_are_those_of_batch_norm_that_sees_one_after_the_other() -> None:
    batches = torch.randn(4, 5, 3)
    model = nn.BatchNorm1d(3, momentum=0.3)
    alone = nn.BatchNorm1d(3, momentum=0.3)
    step(model, list(batches))
    for batch in batches:
        alone(batch)
    assert torch.allclose(model.running_mean, alone.running_mean, rtol=1e-5)  # type: ignore
    assert torch.allclose(model.running_var, alone.running_var, rtol=1e-5)  # type: ignore
    assert model.num_batches_tracked == alone.num_batches_tracked == 4
    assert model.momentum == 0.3


def step(model: nn.Module, batches: list[Tensor]) -> None:
    """What a step does with its micro-batches; one that is empty has a stand-in."""
    share = Share(model, len(batches))
    for number in share.mine:
        batch = batches[number]
        with share.turn(number, len(batch)):
            output = share.model(batch if len(batch) else torch.full((5, 3), 9.0))
            output[: len(batch)].sum().backward()


def test_what_stands_in_for_an_empty_micro_batch_reaches_no_statistics() -> None:
    batches = torch.randn(2, 5, 3)
    nothing = torch.zeros(0, 3)
    model = nn.BatchNorm1d(3)
    other = nn.BatchNorm1d(3)
    step(model, [batches[0], nothing, batches[1], nothing])
    step(other, list(batches))
    assert torch.equal(model.running_mean, other.running_mean)  # type: ignore
    assert model.num_batches_tracked == 2
    model = nn.BatchNorm1d(3)
    other = nn.BatchNorm1d(3)
    step(model, [batches[0], nothing])
    step(other, [batches[0]])
    assert torch.equal(model.running_mean, other.running_mean)  # type: ignore
    assert model.num_batches_tracked == 1


def test_batch_norm_that_is_frozen_stays_as_it_is() -> None:
    model = nn.BatchNorm1d(3).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step(model, list(torch.randn(4, 5, 3)))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("layer", [SyncBatchNorm(3), nn.BatchNorm1d(3, momentum=None)])
def test_batch_norm_that_would_depend_on_the_processes_is_refused(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(2, 3), layer)
    with pytest.raises(ShareError, match="depend on the number of processes; use"):
        Share(model, micro_batches=2)
    Share(model, micro_batches=2, in_order=False)
    Share(model, micro_batches=1)


class Given(nn.Module):
    """A model of one number, whose gradient is what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, gradient: float) -> Tensor:
        return self.weight * gradient


def gradient_of(gradients: list[float], **options: Any) -> float:
    share = Share(Given(), len(gradients), **options)
    for number, gradient in enumerate(gradients):
        with share.turn(number, size=1):
            share.model(gradient).backward()
    assert not share.branches
    (weight,) = share.model.parameters()
    assert weight.grad is not None
    return float(weight.grad)


# With 24 bits, 1 is lost beside 2 ** 25.
LARGE = 2.0**25


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([1.0], 1.0),
        ([LARGE, -LARGE], 0.0),
        ([LARGE, 1.0, -LARGE, 3.0], 4.0),  # the second pair is -LARGE + 4
        ([LARGE, 1.0, 3.0, -LARGE, 1.0, 1.0, 1.0, 1.0], 8.0),
        ([1.0, 1.0, LARGE, 1.0, 1.0, 1.0, -LARGE, 1.0], 2.0),
    ],
)
def test_gradients_are_added_in_a_binary_tree(gradients: list[float], expected: float) -> None:
    level = [torch.tensor(gradient) for gradient in gradients]
    while len(level) > 1:
        level = [one + other for one, other in zip(level[::2], level[1::2], strict=True)]
    assert gradient_of(gradients) == level[0].item() == expected


class Switch(nn.Module):
    """Uses one layer or another, as the input says, so that the other one gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(1, 1, bias=False)
        self.other = nn.Linear(1, 1, bias=False)

    def forward(self, value: Tensor) -> Tensor:
        layer = self.one if value > 0 else self.other
        result: Tensor = layer(value)
        return result


def test_a_layer_that_some_micro_batches_do_not_use_gets_the_gradients_of_the_others() -> None:
    model = Switch()
    share = Share(model, micro_batches=8)
    for number, value in enumerate([1.0, 8.0, -2.0, -4.0, 1.0, 1.0, -1.0, -1.0]):
        with share.turn(number, size=1):
            share.model(torch.full((1, 1), value)).sum().backward()
    assert model.one.weight.grad is not None
    assert model.other.weight.grad is not None
    assert model.one.weight.grad.item() == 11.0
    assert model.other.weight.grad.item() == -8.0


def test_a_step_that_was_interrupted_leaves_nothing_to_the_next_one() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    share = Share(model, micro_batches=4)
    with share.turn(0, size=2):
        share.model(torch.randn(2, 3)).sum().backward()
    with share.turn(1, size=2):
        share.model(torch.randn(2, 3)).sum().backward()
    with pytest.raises(KeyboardInterrupt), share.turn(2, size=2):
        raise KeyboardInterrupt
    model.zero_grad()
    for number in share.mine:
        with share.turn(number, size=2):
            share.model(torch.ones(2, 3)).sum().backward()
    (norm, linear) = model
    assert linear.bias.grad == torch.tensor([8.0])
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked == 2 + 4


def test_without_the_order_gradients_are_added_as_torch_does_it() -> None:
    gradients = [LARGE, 1.0, -LARGE, 3.0]
    assert gradient_of(gradients, in_order=False) == 3.0


def test_a_parameter_may_have_a_gradient_in_some_micro_batches_only() -> None:
    model = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in range(2)])
    share = Share(model, micro_batches=4)
    for number in share.mine:
        with share.turn(number, size=1):
            model[number // 2](torch.tensor([number + 1.0])).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert gradients == [torch.tensor([[1.0 + 2.0]]), torch.tensor([[3.0 + 4.0]])]


@pytest.mark.parametrize(
    ("micro_batches", "options", "is_exact"),
    [
        (1, {}, True),
        (4, {}, True),
        (6, {}, False),  # not a power of two
        (4, {"in_order": False}, False),
        (4, {"is_sharded": True}, False),  # FSDP2 has sums of its own
    ],
)
def test_the_same_bits_are_promised_where_they_can_be(
    micro_batches: int, options: dict[str, bool], is_exact: bool
) -> None:
    assert Share(Given(), micro_batches, **options).is_exact is is_exact


def in_processes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make believe that this is the last one of so many processes."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: count)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: count - 1)


def test_each_process_has_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    in_processes(4, monkeypatch)
    assert list(Share(Given(), 8, is_sharded=True).mine) == [6, 7]


def test_processes_that_cannot_share_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    in_processes(3, monkeypatch)
    with pytest.raises(ShareError) as error:
        Share(Given(), 4)
    assert str(error.value) == (
        "trainer.micro_batches: 4 micro-batches cannot be shared out equally among 3 processes; "
        "they can among 1, 2, 4"
    )


def test_a_step_that_cannot_be_shared_in_the_same_bits_says_so(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(runs.folder / "empty.yaml"), *BASE, "trainer.max_steps=1"]
    for number, promise in ((4, "the same bits"), (6, "the same up to rounding")):
        options = [f"trainer.micro_batches={number}", f"output_dir={runs.folder / 'said'}"]
        seen = do(Job([*words, *options]))
        assert f"{number} micro-batches a step, {promise} in any number of proc" in seen["err"]
