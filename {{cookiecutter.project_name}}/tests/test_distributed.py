"""The device is the one that was asked for, or an error."""

import os
import signal
import sys

import pytest
import torch

from {{ cookiecutter.__package_name }}.distributed import (
    DeviceError,
    StopSignal,
    default_generator,
    set_up,
)


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


def test_seeding_the_default_generator_decides_dropout() -> None:
    generator = default_generator(torch.device("cpu"))
    dropout, ones = torch.nn.Dropout(), torch.ones(100)
    masks = []
    for seed in (1, 2, 1):
        generator.manual_seed(seed)
        masks.append(dropout(ones))
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[1])


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
        assert stop.number == 0
        os.kill(os.getpid(), number)
        assert (stop.number, stop.name) == (number, number.name)
        kinds = (signal.SIGTERM, signal.SIGINT)
        assert [signal.getsignal(kind) for kind in kinds] == [signal.SIG_DFL] * 2
    assert [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)] == before
