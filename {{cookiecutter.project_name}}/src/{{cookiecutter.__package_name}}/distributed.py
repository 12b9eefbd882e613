"""Where a run computes: the device, and whether its algorithms are deterministic. Works alone."""

import os

import torch


class DeviceError(ValueError):
    exit_code = 2  # a device that this machine does not have


def set_up(name: str, deterministic: bool) -> torch.device:
    """The device called auto, cpu, cuda, cuda:1 or mps, made ready; auto takes the best there is."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, is_there in found.items() if is_there), "cpu")
    if not found.get(name.partition(":")[0], True):
        raise DeviceError(f"device: expected one that is there, found {name}: try device=cpu")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow, and not needed
    return torch.device(name)


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that dropout and its like draw from on this device."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        return torch.cuda.default_generators[device.index or 0]
    return (
        torch.mps._get_default_mps_generator() if device.type == "mps" else torch.default_generator
    )
