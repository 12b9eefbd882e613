"""The device is the one asked for, many processes do what one does, and signals stop a run."""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import read_log
from processes import Job, do, only, together
from torch import nn

from {{ cookiecutter.__package_name }}.engine import (
    checkpoint,
    distributed,
    record,
    sharding,
)
from {{ cookiecutter.__package_name }}.engine.distributed import (
    DeviceError,
    StopSignal,
)
from {{ cookiecutter.__package_name }}.engine.share import Share

BASE = (
    "device=cpu",
    "loader.batch_size=8",
    "trainer.epochs=3",
    "trainer.log_every=2",
    "trainer.micro_batches=4",
)
TRIED = 2  # samples before the first step: a micro-batch, of four in a batch of 8
# Of 45 samples the last step has 5; of 41 one, so that a process has none; and 5 of 1 are few.
SAMPLES = {"uneven": 45, "empty": 41, "few": 5, "one": 1, "early": 45, "units": 41}
OPTIONS = {
    "empty": ("trainer.max_grad_norm=0.1", "optim.scheduler=plateau", "optim.patience=0"),
    "few": ("loader.batch_size=1",),
    "early": ("trainer.epochs=30", "trainer.patience=2", "loader.num_workers=1"),
}
EVALUATED = ("uneven", "few", "one", "units")
CLIPPED = ("trainer.max_grad_norm=0.5", "optim.scheduler=constant")


class Runs:
    """The same commands, typed once in one process and once in each of two."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.one = {name: do(job) for name, job in self.jobs("one").items()}
        jobs = self.jobs("two") | {
            "more": self.resume("one/part"),
            "half": self.train("two", "half", is_signalled_at=10),
            "sharded more": self.resume("one/sharded", "trainer.epochs=4", is_double=False),
            "evaluate sharded": self.evaluate("two", "sharded", is_double=False),
        }
        found = together(folder, list(jobs.values()))
        self.two = dict(zip(jobs, found, strict=True))
        self.one |= {
            "more": do(self.resume("two/part")),
            "evaluate sharded": do(self.evaluate("two", "sharded", is_double=False)),
            "sharded more": do(self.resume("two/sharded", "trainer.epochs=4", is_double=False)),
        }

    def jobs(self, where: str) -> dict[str, Job]:
        """What is done both in one process and in two."""
        single = {"is_double": False}
        jobs = {}
        for name, samples in SAMPLES.items():
            options = OPTIONS.get(name, ())
            units = name == "units"
            jobs[name] = self.train(where, name, *options, samples=samples, has_units=units)
        for name in EVALUATED:
            jobs[f"evaluate {name}"] = self.evaluate("one", name, samples=SAMPLES[name])
        jobs["part"] = self.train(where, "part", "trainer.save_every=4", fails_at=10)
        for name, option in (("unused", "false"), ("allowed", "true")):
            option = f"find_unused_parameters={option}"
            jobs[name] = self.train(where, name, option, has_unused_parameter=True)
        short = ("sharding=true", "trainer.epochs=2")  # one process can continue it, and two
        jobs["sharded"] = self.train(where, "sharded", *CLIPPED, *short, **single)
        options = (*CLIPPED, f"sharding={str(where == 'two').lower()}")
        jobs["whole"] = self.train(where, "whole", *options, "trainer.epochs=4", **single)
        jobs["bf16"] = self.train(where, "bf16", *options, "trainer.precision=bf16", **single)
        return jobs

    def train(self, where: str, name: str, *options: str, **facts: Any) -> Job:
        (self.folder / "empty.yaml").touch()
        output = f"output_dir={self.folder / where / name}"
        words = ["train", str(self.folder / "empty.yaml"), *BASE, *options, f"name={name}", output]
        return Job(words, **facts)

    def resume(self, run: str, *options: str, **facts: Any) -> Job:
        return Job(["train", "--resume", f"{self.folder}/{run}/*", *options], **facts)

    def evaluate(self, where: str, name: str, **facts: Any) -> Job:
        facts["has_units"] = name == "units"
        return Job(["evaluate", f"{self.folder}/{where}/{name}/*", "--split", "val"], **facts)

    def run(self, where: str, name: str) -> Path:
        return Path(only(f"{self.folder}/{where}/{name}/*"))  # only one process made a folder

    def weights(self, where: str, name: str, which: str = "last") -> dict[str, torch.Tensor]:
        path = self.run(where, name) / "checkpoints" / f"{which}.pt"
        weights: dict[str, torch.Tensor] = checkpoint.load(path)["model_state_dict"]
        return weights


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


Weights = dict[str, torch.Tensor]


def assert_equal(one: Weights, other: Weights) -> None:
    assert {"0.weight", "3.bias"} <= set(one)  # plain names
    assert list(one) == list(other)
    for key in one:
        assert torch.equal(one[key], other[key]), key


def assert_near(one: Weights, other: Weights) -> None:
    """As it is with a sharded model, whose gradients FSDP2 adds in an order of its own."""
    assert list(one) == list(other)
    for key in one:
        assert torch.allclose(one[key], other[key], rtol=0, atol=1e-5), key


@pytest.mark.parametrize("name", SAMPLES)
def test_two_processes_end_with_the_weights_and_the_log_of_one(runs: Runs, name: str) -> None:
    assert [seen["code"] for seen in runs.two[name]] == [0, 0]
    for which in ("last", "best"):
        assert_equal(runs.weights("one", name, which), runs.weights("two", name, which))
    one, two = (read_log(runs.run(where, name)) for where in ("one", "two"))
    assert one == two
    results = [record.read(runs.run(where, name) / "result.json") for where in ("one", "two")]
    assert results[0] == results[1]


@pytest.mark.parametrize("name", EVALUATED)
def test_two_processes_evaluate_as_one(runs: Runs, name: str) -> None:
    one = json.loads(runs.one[f"evaluate {name}"]["out"])
    two = json.loads(runs.two[f"evaluate {name}"][0]["out"])
    assert runs.two[f"evaluate {name}"][1]["out"] == ""
    assert one == two
    assert two["samples"] == SAMPLES[name]


def test_each_sample_is_loaded_once_by_one_of_the_processes(runs: Runs) -> None:
    for split, epochs in (("train", 3), ("val", 3), ("test", 1)):
        loaded = [seen["loaded"][split] for seen in runs.two["uneven"]]
        if split in ("train", "val"):  # both processes first try a micro-batch
            assert len(set(map(tuple, (part[:TRIED] for part in loaded)))) == 1
            loaded = [part[TRIED:] for part in loaded]
        assert sorted([*loaded[0], *loaded[1]]) == sorted([*range(45)] * epochs)
        assert all(20 * epochs < len(part) < 25 * epochs for part in loaded)


def test_the_order_of_samples_is_another_one_in_each_epoch(runs: Runs) -> None:
    loaded = runs.two["uneven"][0]["loaded"]["train"][TRIED:]
    orders = [loaded[first : first + 8] for first in (0, 22, 44)]
    assert len(set(map(tuple, orders))) == 3


def test_random_numbers_differ_between_processes_and_weights_do_not(runs: Runs) -> None:
    first, second = runs.two["uneven"]
    assert not set(first["draws"]) & set(second["draws"])
    assert first["digests"] == second["digests"]
    assert len(set(first["digests"])) == 18
    # Each has the numbers of a block of two of the four micro-batches of a step.
    draws = []
    for step in range(0, len(first["draws"]), 2):
        draws += first["draws"][step : step + 2] + second["draws"][step : step + 2]
    assert draws == runs.one["uneven"]["draws"]


def test_a_run_continues_with_another_number_of_processes(runs: Runs) -> None:
    assert_equal(runs.weights("one", "uneven"), runs.weights("one", "part"))  # on two
    assert_equal(runs.weights("one", "uneven"), runs.weights("two", "part"))  # and on one
    # After step 8, of 6 in an epoch.
    rest = runs.one["uneven"]["loaded"]["train"][TRIED + 45 + 2 * 8 :]
    assert runs.one["more"]["loaded"]["train"][TRIED:] == rest
    loaded = [seen["loaded"]["train"][TRIED:] for seen in runs.two["more"]]
    assert sorted([*loaded[0], *loaded[1]]) == sorted(rest)


def test_a_signal_to_one_process_stops_all_at_the_same_step(runs: Runs) -> None:
    assert [seen["code"] for seen in runs.two["half"]] == [143, 143]
    assert len({len(seen["digests"]) for seen in runs.two["half"]}) == 1
    run = runs.run("two", "half")
    assert record.read(run / "result.json")["status"] == "stopped"
    assert checkpoint.load(run / "checkpoints" / "last.pt")["trainer"]["step"] == 10


def test_the_manifest_has_the_processes_and_their_threads(runs: Runs) -> None:
    found = record.read(runs.run("two", "uneven") / "manifest.json")
    assert (found["processes"], found["threads"]) == (2, 1)  # as torchrun has it


def test_a_parameter_without_a_gradient_is_an_error_that_names_the_option(
    runs: Runs,
) -> None:
    first, second = runs.two["unused"]
    assert first["code"] == second["code"] == 1
    line = first["err"].splitlines()[-1]
    assert line == (
        "error: some parameters got no gradient; "
        "with several processes this needs find_unused_parameters=true"
    )
    assert runs.one["unused"]["code"] == 0  # one process needs no such option


def test_a_parameter_without_a_gradient_changes_nothing_where_it_is_allowed(runs: Runs) -> None:
    assert [seen["code"] for seen in runs.two["allowed"]] == [0, 0]
    assert_equal(runs.weights("one", "allowed"), runs.weights("two", "allowed"))


def test_a_sharded_model_ends_as_one_that_is_whole(runs: Runs) -> None:
    for name in ("whole", "sharded"):
        assert [seen["code"] for seen in runs.two[name]] == [0, 0], runs.two[name][0]["err"]
    assert_near(runs.weights("one", "whole"), runs.weights("two", "whole"))
    (one,) = read_log(runs.run("one", "whole"), "test")
    (two,) = read_log(runs.run("two", "whole"), "test")
    assert one["step"] == two["step"] < 24  # the best weights are not the last
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-5)


def test_a_sharded_run_continues_with_another_number_of_processes(runs: Runs) -> None:
    assert [seen["code"] for seen in runs.two["sharded more"]] == [0, 0]
    assert runs.one["sharded more"]["code"] == 0
    for where in ("one", "two"):
        assert record.read(runs.run(where, "sharded") / "result.json")["steps"] == 24
        assert_near(runs.weights("one", "whole"), runs.weights(where, "sharded"))


def test_one_process_evaluates_a_sharded_run_as_two_do(runs: Runs) -> None:
    one = json.loads(runs.one["evaluate sharded"]["out"])
    two = json.loads(runs.two["evaluate sharded"][0]["out"])
    assert one.pop("loss") == pytest.approx(two.pop("loss"), abs=1e-5)
    assert one == two


def test_a_sharded_model_can_compute_in_bf16(runs: Runs) -> None:
    assert [seen["code"] for seen in runs.two["bf16"]] == [0, 0]
    values = [read_log(runs.run(where, "bf16"), "test")[0]["loss"] for where in ("one", "two")]
    assert values[0] == pytest.approx(values[1], rel=0.02)
    assert all(value.dtype == torch.float32 for value in runs.weights("two", "bf16").values())


def test_without_torchrun_nothing_is_exchanged_wrapped_or_sharded() -> None:
    model = nn.Linear(2, 1)
    before = record.digest(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters())
    assert distributed.init_process_group() == 0
    assert not torch.distributed.is_initialized()
    distributed.barrier()
    distributed.broadcast_weights(model)
    sharding.shard_model(model)
    sharding.shard_optimizer(optimizer)
    assert Share(model, micro_batches=2).model is model
    assert record.digest(model.state_dict()) == before


def test_auto_takes_the_best_device_there_is() -> None:
    expected = "cpu"
    if torch.cuda.is_available():
        expected = "cuda"
    elif torch.backends.mps.is_available():
        expected = "mps"
    assert distributed.select_device("auto", deterministic=True).type == expected


@pytest.mark.parametrize("name", ["gpu", "cpu:", "cuda:99", "cuda:x", "cuda:-1", "cpu:1", ""])
def test_a_device_that_is_not_there_is_an_error_that_lists_those_that_are(name: str) -> None:
    with pytest.raises(DeviceError, match=f"device: .*cpu:0.*{name!r}"):
        distributed.select_device(name, deterministic=True)


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_algorithms_are_as_asked(deterministic: bool) -> None:
    distributed.select_device("cpu", deterministic)
    assert torch.are_deterministic_algorithms_enabled() is deterministic


def test_cuda_is_made_deterministic_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    distributed.select_device("cpu", deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
@pytest.mark.usefixtures("default_signals")
def test_a_first_signal_is_kept_and_then_only_sigint_and_sigterm_would_end_the_process(
    name: str,
) -> None:
    number = getattr(signal, name)
    kinds = [getattr(signal, kind) for kind in distributed.SIGNALS]
    before = [signal.getsignal(kind) for kind in kinds]
    stop = StopSignal()
    with stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert stop.number == number
        handlers = [signal.getsignal(kind) for kind in kinds]
        assert handlers == [signal.SIG_DFL, signal.SIG_DFL, signal.SIG_IGN, signal.SIG_IGN]
    assert [signal.getsignal(kind) for kind in kinds] == before


def test_a_signal_that_was_ignored_before_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stop = StopSignal()
        with stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_that_is_not_the_main_one_has_no_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)
    answers: list[Any] = []

    def run() -> None:
        with StopSignal() as stop:
            answers.append(stop())
            answers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert answers == [False, before]


def test_time_is_up_from_the_deadline_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = StopSignal()
    assert (stop(), stop.is_time_up) == (False, False)  # there is none by default
    stop.deadline = 100.0
    for now, is_up in ((99.9, False), (100.0, True)):
        clock = SimpleNamespace(monotonic=lambda now=now: now)
        monkeypatch.setattr(distributed, "time", clock)
        assert (stop(), stop.is_time_up) == (False, is_up)
