"""Where a run computes, in how many processes, and when it is to stop. Works alone.

    init_process_group()  # does nothing unless torchrun started this process
    device = select_device("auto", deterministic=True)
    model.to(device)
    with StopSignal() as stop:
        while not stop():
            ...

Started by torchrun, each process does the same with a device of its own.
"""

import atexit
import gc
import math
import os
import signal
import threading
import time
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # that stop a run


class DeviceError(ValueError):
    """A device that this machine does not have."""

    exit_code = 2


def init_process_group() -> int:
    """Join the processes that torchrun started, if it did, and return the rank of this one."""
    if dist.is_initialized():
        return dist.get_rank()
    if not dist.is_torchelastic_launched():
        return 0
    store, rank, world_size = next(rendezvous("env://"))
    # torchrun keeps this store across restarts, with the addresses of dead workers in it, so each
    # restart uses its own prefix. On several machines the counters may differ, so there no prefix
    # is used.
    if os.environ["GROUP_WORLD_SIZE"] == "1":
        prefix = os.environ["TORCHELASTIC_RESTART_COUNT"]
        store = PrefixStore(prefix, store)
    # Without a backend: gloo for tensors on the CPU, NCCL for those on CUDA.
    dist.init_process_group(store=store, rank=rank, world_size=world_size)
    # At exit, what is registered last runs first: the models are collected, and then the process
    # group is destroyed. If a model outlives it, threads of gloo abort the process.
    atexit.register(dist.destroy_process_group)
    atexit.register(gc.collect)
    return int(rank)


def select_device(name: str, deterministic: bool) -> torch.device:
    """Make a device ready: cpu, mps, cuda or cuda:N; auto takes the best available.

    Each process of this machine gets a device of its own. `deterministic` allows only algorithms
    that give the same bits each time. Raises DeviceError for a device that is not there.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # is read when CUDA starts
    # As use_deterministic_algorithms does, which imports the compiler: a second of each command.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    # It is slow, and nothing here reads memory that was not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    local_rank = dist.get_node_local_rank(fallback_rank=0)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    counts = {
        "cuda": torch.cuda.device_count(),
        "mps": torch.mps.device_count(),
        "cpu": processes,
    }
    # Only kinds of which there is a device for each process, the best kind first.
    available = []
    for kind, count in counts.items():
        if count >= processes:
            available += [f"{kind}:{number}" for number in range(count)]
    found = name if ":" in name else f"{name}:{local_rank}"
    if name == "auto":
        found = available[local_rank]
    if found not in available:
        raise DeviceError(f"device: expected auto, {', '.join(available)}, found {name!r}")
    if "cuda" in found:
        torch.cuda.set_device(found)
    return torch.device("cpu" if "cpu" in found else found)


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


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
    """Says whether a signal has asked the run to stop, or whether its time is up.

    The signals are SIGINT, SIGTERM, SIGHUP and SIGUSR1, but none that was ignored before, and none
    in a thread that is not the main one, where Python allows no handlers. After the first signal, a
    SIGINT or SIGTERM ends the process at once.

    All processes call it equally often, and get the same answer.
    """

    def __init__(self) -> None:
        self.number = 0
        """the signal that all processes have agreed on; 0: none"""
        self.received = 0
        """the signal that this process has received; 0: none"""
        self.deadline = math.inf
        """when time is up for this process, as `time.monotonic` has it"""
        self.is_time_up = False
        """whether time is up for any process, as of the last call"""
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        is_main_thread = threading.current_thread() is threading.main_thread()
        for name in SIGNALS if is_main_thread else ():
            number = getattr(signal, name, None)  # Windows does not have them all
            if number and signal.getsignal(number) != signal.SIG_IGN:
                self.handlers[number] = signal.signal(number, self.receive) or signal.SIG_DFL
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def receive(self, number: int, _: Any) -> None:
        """Note a signal, and let the next SIGINT or SIGTERM end the process.

        The others are often sent twice, as when a terminal is closed, and are ignored from then on.
        """
        self.received = number
        for handled in self.handlers:
            is_final = handled in (signal.SIGINT, signal.SIGTERM)
            signal.signal(handled, signal.SIG_DFL if is_final else signal.SIG_IGN)

    def __call__(self) -> bool:
        """Whether the run is to stop."""
        self.number = self.received
        self.is_time_up = time.monotonic() >= self.deadline
        if dist.is_initialized():
            flags = torch.tensor([self.number, int(self.is_time_up)])
            dist.all_reduce(flags, dist.ReduceOp.MAX)
            self.number = int(flags[0])
            self.is_time_up = bool(flags[1])
        return self.number > 0
