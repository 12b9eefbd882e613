"""Where a run computes: the device, and whether its algorithms are deterministic. Works alone."""

import os
import re

import torch


class DeviceError(ValueError):
    exit_code = 2  # a device that this machine does not have


def set_up(name: str, deterministic: bool) -> torch.device:
    """Make a device ready: cpu, mps, cuda or cuda:N; auto takes the best that is there."""
    mps = int(torch.backends.mps.is_available())
    counts = {"cuda": torch.cuda.device_count(), "mps": mps, "cpu": 1}
    if name == "auto":
        name = next(kind for kind, count in counts.items() if count)
    kind, _, index = name.partition(":")
    is_device = re.fullmatch(r"(cuda|mps|cpu)(:[0-9]+)?", name)
    if not is_device or int(index or 0) >= counts[kind]:
        expected = "auto, cpu, mps, cuda or cuda:N that is there"
        raise DeviceError(f"device: expected {expected}, found {name!r}: try device=cpu")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow, and not needed
    return torch.device(name)


def default_generator(device: torch.device) -> torch.Generator:
    # The one that dropout and its like draw from on this device.
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        return torch.cuda.default_generators[device.index or 0]
    return (
        torch.mps._get_default_mps_generator() if device.type == "mps" else torch.default_generator
    )
