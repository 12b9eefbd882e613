"""Where a run computes, in how many processes, and when it is to stop. Works alone."""

#     join()  # does nothing but under torchrun
#     model = wrap(model.to(set_up("auto", deterministic=True)))

import atexit
import gc
import os
import signal
import sys
from typing import Any

import torch
from torch import distributed as dist


class DeviceError(ValueError):
    exit_code = 2  # a device that this machine does not have


def join() -> int:
    """Join the processes that torchrun started, if it did; the rank of this one."""
    if dist.is_torchelastic_launched() and not dist.is_initialized():
        store, rank, world = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        # It outlives a restart, with the addresses of the dead, so each gets a part of its own. But
        # of several machines each counts restarts for itself.
        if os.environ["GROUP_WORLD_SIZE"] == "1":
            store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)  # type: ignore[attr-defined]
        dist.init_process_group(store=store, rank=rank, world_size=world)  # gloo, and NCCL for CUDA
        atexit.register(_leave)  # that is when an error has been printed
        if rank:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # told once
    return dist.get_rank() if dist.is_initialized() else 0


def set_up(name: str, deterministic: bool) -> torch.device:
    """Make a device ready: cpu, mps, cuda or cuda:N; auto takes the best that is there."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow, and not needed
    rank = int(os.environ.get("LOCAL_RANK", 0))  # of the processes on this machine,
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # each of which gets a device of its own
    counts = {"cuda": torch.cuda.device_count(), "mps": torch.mps.device_count(), "cpu": here}
    devices = [f"{kind}:{i}" for kind, n in counts.items() if n >= here for i in range(n)]
    found = devices[rank] if name == "auto" else name if ":" in name else f"{name}:{rank}"
    if found not in devices:
        raise DeviceError(f"device: expected auto, {', '.join(devices)}, found {name!r}")
    if found.startswith("cuda"):
        torch.cuda.set_device(found)
    return torch.device("cpu" if found.startswith("cpu") else found)


def wrap(model: torch.nn.Module) -> torch.nn.Module:
    # So that all processes get the weights of the first one, and then the mean of the gradients.
    return torch.nn.parallel.DistributedDataParallel(model) if dist.is_initialized() else model


class StopSignal:
    """While it is entered, SIGINT or SIGTERM makes it true; one more ends the process at once."""

    number = received = 0  # of the signal: once all processes know of it, and here
    told: Any = None  # to the others, and the work of that

    def __enter__(self) -> None:
        self.handlers = {n: signal.signal(n, self.receive) for n in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def receive(self, number: int, _: Any) -> None:
        self.received = number
        for either in self.handlers:
            signal.signal(either, signal.SIG_DFL)

    def __call__(self) -> bool:
        self.number, told = self.received, self.told
        if dist.is_initialized():  # all heed what was told a call ago, so that none waits now
            flag = torch.tensor(self.received)
            self.told = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, async_op=True)
            flag, work = told or self.told
            work.wait()
            self.number = int(flag)
        return self.number > 0


def _leave() -> None:
    gc.collect()  # of a model that outlives its group, threads of gloo abort at exit
    dist.destroy_process_group()
