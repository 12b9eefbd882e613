"""The device is the one that was asked for, many processes give what one gives, signals stop."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import read_log
from processes import Job, do, together

from {{ cookiecutter.__package_name }} import checkpoint, record
from {{ cookiecutter.__package_name }}.distributed import (
    DeviceError,
    StopSignal,
    set_up,
)

BASE = ("data.features=64", "data.batch_size=8", "trainer.epochs=3", "trainer.log_every=2")
# Of 45 samples the last step has 5; of 41 one, so that a process has none; and 5 of 1 are few.
CASES = {
    "uneven": ("data.limit=45",),
    "empty": ("data.limit=41", "trainer.clip=0.1", "optim.scheduler=plateau", "optim.patience=0"),
    "few": ("data.limit=5", "data.batch_size=1"),
    "one": ("data.limit=1",),
    "micro": ("data.limit=45", "trainer.accumulate=2"),
    "early": ("data.limit=45", "trainer.epochs=30", "trainer.patience=2", "data.num_workers=1"),
}
PART = ("data.limit=45", "trainer.save_every=4")


class Runs:
    """The same commands, typed once in one process and once in each of two."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, Job] = {}
        self.one = {name: do(Job(self.train("one", name))) for name in CASES}
        self.one["part"] = do(Job(self.train("one", "part"), fails_at=10))
        for name in CASES:
            self.jobs[name] = Job(self.train("two", name))
        self.jobs["part"] = Job(self.train("two", "part"), fails_at=10)
        self.jobs["half"] = Job(self.train("two", "half"), is_signalled_at=10)
        self.jobs["more"] = Job(["train", "--resume", str(self.run("one", "part"))])
        for name in ("uneven", "few", "one"):
            words = ["evaluate", str(self.run("one", name)), "--split", "val"]
            self.jobs[f"evaluate {name}"] = Job(words)
            self.one[f"evaluate {name}"] = do(Job(words))
        found = together(folder, list(self.jobs.values()))
        self.two = dict(zip(self.jobs, found, strict=True))
        self.one["more"] = do(Job(["train", "--resume", str(self.run("two", "part"))]))

    def train(self, where: str, name: str) -> list[str]:
        output = f"output_dir={self.folder / where / name}"
        return ["train", *BASE, *CASES.get(name, PART), f"name={name}", output]

    def run(self, where: str, name: str) -> Path:
        (run,) = (self.folder / where / name).iterdir()  # only one process made a folder
        return run

    def weights(self, where: str, name: str, which: str = "last") -> dict[str, torch.Tensor]:
        path = self.run(where, name) / "checkpoints" / f"{which}.pt"
        weights: dict[str, torch.Tensor] = checkpoint.load(path)["model_state_dict"]
        return weights


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def assert_near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert list(one) == list(other) == ["weight", "bias"]  # plain names
    for key in one:
        assert one[key].dtype == torch.float64
        assert torch.allclose(one[key], other[key], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_end_with_the_weights_and_the_log_of_one(runs: Runs, name: str) -> None:
    assert [seen["code"] for seen in runs.two[name]] == [0, 0]
    for which in ("last", "best"):
        assert_near(runs.weights("one", name, which), runs.weights("two", name, which))
    logs = [read_log(runs.run(where, name)) for where in ("one", "two")]
    for one, two in zip(*logs, strict=True):
        assert one.pop("loss") == pytest.approx(two.pop("loss"), rel=1e-6)
        assert one == two
    results = [record.read(runs.run(where, name) / "result.json") for where in ("one", "two")]
    assert results[0]["best"]["step"] == results[1]["best"]["step"]


def test_one_process_with_micro_batches_is_like_two_processes(runs: Runs) -> None:
    assert_near(runs.weights("one", "micro"), runs.weights("two", "uneven"))


@pytest.mark.parametrize("name", ["uneven", "few", "one"])
def test_two_processes_evaluate_as_one(runs: Runs, name: str) -> None:
    one = json.loads(runs.one[f"evaluate {name}"]["out"])
    two = json.loads(runs.two[f"evaluate {name}"][0]["out"])
    assert one.pop("loss") == pytest.approx(two.pop("loss"), rel=1e-6)
    assert one == two
    assert (
        two["samples"]
        == sum(map(sum, two["confusion"]))
        == {"uneven": 45, "few": 5, "one": 1}[name]
    )


def test_each_sample_is_loaded_once_by_one_of_the_processes(runs: Runs) -> None:
    for split, epochs in (("train", 3), ("val", 3), ("test", 1)):
        loaded = [seen["loaded"][split] for seen in runs.two["uneven"]]
        assert sorted([*loaded[0], *loaded[1]]) == sorted([*range(45)] * epochs)
        assert all(20 * epochs < len(part) < 25 * epochs for part in loaded)


def test_the_order_of_samples_is_another_one_in_each_epoch(runs: Runs) -> None:
    orders = [runs.two["uneven"][0]["loaded"]["train"][i : i + 8] for i in (0, 22, 44)]
    assert len(set(map(tuple, orders))) == 3


def test_random_numbers_differ_between_processes_and_weights_do_not(runs: Runs) -> None:
    first, second = runs.two["uneven"]
    assert not set(first["draws"]) & set(second["draws"])
    assert first["digests"] == second["digests"]
    assert len(set(first["digests"])) == 18
    # Shard for shard they are those of one process with micro-batches.
    pairs = zip(first["draws"], second["draws"], strict=True)
    assert [draw for pair in pairs for draw in pair] == runs.one["micro"]["draws"]


def test_a_run_goes_on_with_another_number_of_processes(runs: Runs) -> None:
    assert_near(runs.weights("one", "uneven"), runs.weights("one", "part"))  # on two
    assert_near(runs.weights("one", "uneven"), runs.weights("two", "part"))  # and on one
    rest = runs.one["uneven"]["loaded"]["train"][45 + 2 * 8 :]  # after step 8, of 6 in an epoch
    assert runs.one["more"]["loaded"]["train"] == rest
    loaded = [seen["loaded"]["train"] for seen in runs.two["more"]]
    assert sorted([*loaded[0], *loaded[1]]) == sorted(rest)


def test_a_signal_to_one_process_stops_all_at_the_same_step(runs: Runs) -> None:
    assert [seen["code"] for seen in runs.two["half"]] == [143, 143]
    assert len({len(seen["digests"]) for seen in runs.two["half"]}) == 1
    run = runs.run("two", "half")
    assert record.read(run / "result.json")["status"] == "stopped"
    assert checkpoint.load(run / "checkpoints" / "last.pt")["trainer"]["step"] in (10, 11)


def test_the_manifest_has_the_processes_and_their_threads(runs: Runs) -> None:
    found = record.read(runs.run("two", "uneven") / "manifest.json")
    assert (found["processes"], found["threads"]) == (2, 1)  # as torchrun has it


def test_auto_takes_the_best_device_there_is() -> None:
    expected = "cpu"
    if torch.cuda.is_available():
        expected = "cuda"
    elif torch.backends.mps.is_available():
        expected = "mps"
    assert set_up("auto", deterministic=True).type == expected


@pytest.mark.parametrize("name", ["gpu", "cpu:", "cuda:99", "cuda:x", "cuda:-1", "cpu:1", ""])
def test_a_device_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(DeviceError, match=f"device: expected auto, .*cpu:0, found '{name}'"):
        set_up(name, deterministic=True)


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_algorithms_are_as_asked(deterministic: bool) -> None:
    set_up("cpu", deterministic)
    assert torch.are_deterministic_algorithms_enabled() is deterministic


def test_cuda_is_told_to_be_deterministic_before_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    set_up("cpu", deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_is_kept_and_a_second_one_of_either_kind_would_end_the_process(
    number: signal.Signals,
) -> None:
    before = [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)]
    stop = StopSignal()
    with stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert stop.number == number
        kinds = (signal.SIGTERM, signal.SIGINT)
        assert [signal.getsignal(kind) for kind in kinds] == [signal.SIG_DFL] * 2
    assert [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)] == before
