"""Where a run computes, whether its bits are the same each time, and when to stop. Works alone."""

import os
import signal
from typing import Any

import torch


class DeviceError(ValueError):
    exit_code = 2  # a device that this machine does not have


def set_up(name: str, deterministic: bool) -> torch.device:
    """Make a device ready: cpu, mps, cuda or cuda:N; auto takes the best that is there."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow, and not needed
    counts = {"cuda": torch.cuda.device_count(), "mps": torch.mps.device_count(), "cpu": 1}
    devices = [f"{kind}:{i}" for kind, count in counts.items() for i in range(count)]
    found = devices[0] if name == "auto" else name if ":" in name else f"{name}:0"
    if found not in devices:
        raise DeviceError(f"device: expected auto, {', '.join(devices)}, found {name!r}")
    return torch.device(found.removesuffix(":0"))


class StopSignal:
    """While it is entered, SIGINT or SIGTERM makes it true; one more ends the process at once."""

    number, name = 0, ""

    def __enter__(self) -> None:
        self.handlers = {n: signal.signal(n, self.receive) for n in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def receive(self, number: int, _: Any) -> None:
        self.number, self.name = number, signal.Signals(number).name
        for either in self.handlers:
            signal.signal(either, signal.SIG_DFL)


def default_generator(device: torch.device) -> torch.Generator:
    # The one that dropout and its like draw from on this device.
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        return torch.cuda.default_generators[device.index or 0]
    is_mps = device.type == "mps"
    return torch.mps._get_default_mps_generator() if is_mps else torch.default_generator
