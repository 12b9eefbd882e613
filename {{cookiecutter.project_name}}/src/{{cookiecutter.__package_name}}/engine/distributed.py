"""Where a run computes, in how many processes, and when it is to stop. Works alone.

    init_process_group()  # does nothing unless torchrun started this process
    device = select_device("auto", deterministic=True)
    model = wrap_ddp(model.to(device))
    with StopSignal() as stop:
        while not stop():
            ...

Started by torchrun, each process does the same with a device of its own.
"""

import atexit
import gc
import os
import signal
from types import FrameType
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class DeviceError(ValueError):
    """A device that this machine does not have."""

    exit_code = 2


def init_process_group() -> int:
    """Join the processes that torchrun started, if it did; returns the rank of this process."""
    if dist.is_torchelastic_launched() and not dist.is_initialized():
        store, rank, world_size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        # torchrun keeps this store across restarts, with the addresses of dead workers in it, so
        # each restart uses its own prefix. On several machines the counters may differ, so there
        # no prefix is used.
        if os.environ["GROUP_WORLD_SIZE"] == "1":
            prefix = os.environ["TORCHELASTIC_RESTART_COUNT"]
            store = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
        # Without a backend: gloo for tensors on the CPU, NCCL for those on CUDA.
        dist.init_process_group(store=store, rank=rank, world_size=world_size)
        atexit.register(_destroy_process_group)
    return dist.get_rank() if dist.is_initialized() else 0


def select_device(name: str, deterministic: bool) -> torch.device:
    """Make a device ready: cpu, mps, cuda or cuda:N; auto takes the best available.

    Each process of this machine gets a device of its own. `deterministic` allows only algorithms
    that give the same bits each time. Raises DeviceError for a device that is not there.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # is read when CUDA starts
    torch.use_deterministic_algorithms(deterministic)
    # It is slow, and nothing here reads memory that was not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    available = _devices(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    if name == "auto":
        found = available[local_rank]
    elif ":" in name:
        found = name
    else:
        found = f"{name}:{local_rank}"
    if found not in available:
        raise DeviceError(f"device: expected auto, {', '.join(available)}, found {name!r}")
    if found.startswith("cuda"):
        torch.cuda.set_device(found)
    return torch.device("cpu" if found.startswith("cpu") else found)


def _devices(processes: int) -> list[str]:
    """The devices of the kinds of which there is one for each process, the best kind first."""
    counts = {
        "cuda": torch.cuda.device_count(),
        "mps": torch.mps.device_count(),
        "cpu": processes,
    }
    devices = []
    for kind, count in counts.items():
        if count >= processes:
            devices += [f"{kind}:{number}" for number in range(count)]
    return devices


def wrap_ddp(model: nn.Module, find_unused_parameters: bool = False) -> nn.Module:
    """Give all processes the weights of the first one, and then the mean of the gradients.

    Without other processes this is the model itself.
    """
    if not dist.is_initialized():
        return model
    return DistributedDataParallel(model, find_unused_parameters=find_unused_parameters)


def broadcast_weights(model: nn.Module) -> None:
    """Give all processes the parameters and buffers of the first one."""
    if dist.is_initialized():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


def barrier() -> None:
    """Wait until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


class StopSignal:
    """Says whether SIGINT or SIGTERM has asked the run to stop; a second one ends it at once.

    All processes call it equally often, and get the same answer. So that none of them has to wait,
    each call starts to exchange the signals that were received, and answers with what the call
    before it has exchanged: with several processes the answer comes one call late.
    """

    def __init__(self) -> None:
        self.number = 0
        """the signal that all processes have agreed on; 0: none"""
        self.received = 0
        """the signal that this process has received; 0: none"""
        self.pending: tuple[torch.Tensor, Any] | None = None
        self.handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self.receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def receive(self, number: int, _: FrameType | None) -> None:
        """Note a signal, and let the next one of either kind end the process."""
        self.received = number
        for either in self.handlers:
            signal.signal(either, signal.SIG_DFL)

    def __call__(self) -> bool:
        """Whether the run is to stop."""
        if not dist.is_initialized():
            self.number = self.received
            return self.number > 0
        flag = torch.tensor(self.received)
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, async_op=True)
        before = self.pending or (flag, work)
        self.pending = (flag, work)
        flag, work = before
        work.wait()
        self.number = int(flag)
        return self.number > 0


def _destroy_process_group() -> None:
    """Leave the other processes, when the program ends and errors have been printed."""
    gc.collect()  # if a model outlives its process group, threads of gloo abort at exit
    dist.destroy_process_group()
