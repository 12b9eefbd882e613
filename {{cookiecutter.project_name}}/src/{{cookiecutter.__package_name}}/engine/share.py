"""What a process does of a step, and how what all processes give is added up. Works alone.

    share = Share(model, micro_batches=4)
    for number in share.mine:
        inputs, target = batches[number]
        with share.turn(number, len(inputs)):
            loss_function(share.model(inputs), target).backward()

The sum of floating-point numbers depends on their order. Here gradients are added in a binary tree
over the micro-batches of a step: first those of each pair, then those of pairs of pairs, and so on.
Each process has a block of micro-batches, which is a branch of that tree. So the bits of a result
depend on the number of micro-batches, but not on the number of processes.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import SyncBatchNorm, _NormBase
from torch.nn.parallel import DistributedDataParallel

Gradients = dict[nn.Parameter, Tensor]
"""The gradients of a micro-batch, or their sums over several."""


class ShareError(ValueError):
    """The micro-batches cannot be shared out among these processes, or not with this model."""

    exit_code = 2


class Share:
    """The share of this process in the micro-batches of a step: a contiguous block of them.

    Args:
        model: on its device; all processes get the weights of the first one.
        micro_batches: their number in a step, over all processes.
        in_order: add gradients in the order of the tree, if the number of micro-batches is a power
            of two. If not, they are added as torch does it, and the results of different numbers
            of processes agree up to rounding.
        is_sharded: the model exchanges its gradients by itself, as FSDP2 does.
        find_unused_parameters: with several processes: allow parameters that get no gradient.

    Raises ShareError if the processes cannot have equally many micro-batches.
    """

    def __init__(
        self,
        model: nn.Module,
        micro_batches: int,
        *,
        in_order: bool = True,
        is_sharded: bool = False,
        find_unused_parameters: bool = False,
    ) -> None:
        self.count = micro_batches
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        if self.count % self.world_size:
            fitting = [str(n) for n in range(1, self.count + 1) if self.count % n == 0]
            raise ShareError(
                f"trainer.micro_batches: {self.count} micro-batches cannot be shared out equally "
                f"among {self.world_size} processes; they can among {', '.join(fitting)}"
            )
        size = self.count // self.world_size
        self.mine = range(self.rank * size, (self.rank + 1) * size)
        # A power of two has a single bit.
        self.is_exact = in_order and not is_sharded and self.count.bit_count() == 1
        self.branches: list[Gradients] = []  # of the tree: sums that wait for the rest of the step
        self.statistics = RunningStatistics(model)
        if self.is_exact and self.count > 1:
            self.statistics.check()
        self.model = model
        if self.world_size > 1 and not is_sharded:
            self.model = DistributedDataParallel(
                model, find_unused_parameters=find_unused_parameters
            )
            self.model.register_comm_hook(self, _exchange)

    @property
    def promise(self) -> str:
        """What the results of different numbers of processes have in common."""
        if self.is_exact:
            return "the same bits in any number of processes"
        return "the same up to rounding in any number of processes"

    def turn(self, number: int, size: int) -> AbstractContextManager[None]:
        """Put this around forward and backward of micro-batch `number`, which has `size` samples.

        After the last one of a step, the gradients are sums over those of all processes.
        """
        return self.take_turn(number, size) if self.count > 1 else nullcontext()

    @contextmanager
    def take_turn(self, number: int, size: int) -> Iterator[None]:
        """Do before and after a micro-batch what `turn` says."""
        is_last = number == self.mine[-1]
        if isinstance(self.model, DistributedDataParallel):
            # What its no_sync() does: gradients are exchanged in the last backward of a step.
            self.model.require_backward_grad_sync = is_last
        if not self.is_exact:
            yield
            return
        place = number - self.mine[0]
        if place == 0:  # what is still here is from an interrupted step
            self.branches.clear()
            self.statistics.rows.clear()
        elif place % 2 == 0:
            self.set_aside(place)  # so that the next two gradients, which torch adds up, are a pair
        with self.statistics.note(size):
            yield
        if is_last:
            self.statistics.update(self)
            if self.world_size == 1:  # if not, `_exchange` has added them
                _add_to_gradients(self.branches)
            self.branches.clear()

    def set_aside(self, place: int) -> None:
        """Set aside the gradients of the pair before this place, with all that it completes."""
        gradients = {}
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                gradients[parameter] = parameter.grad
        self.model.zero_grad()
        while place % 4 == 0:  # two branches of the same size make one
            gradients = _sum(self.branches.pop(), gradients)
            place //= 2
        self.branches.append(gradients)

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in the order of the tree if there is one."""
        if not self.is_exact and self.world_size > 1:
            dist.all_reduce(tensor)
            return tensor
        distance = 1
        while distance < self.world_size:
            partner = self.rank ^ distance  # both add the same two numbers
            theirs = torch.empty_like(tensor)
            send = dist.P2POp(dist.isend, tensor, partner)
            receive = dist.P2POp(dist.irecv, theirs, partner)
            for work in dist.batch_isend_irecv([send, receive]):
                work.wait()
            tensor = theirs.add_(tensor)
            distance *= 2
        return tensor

    def gather(self, values: list[float]) -> list[list[float]]:
        """The numbers of each process, equally many, in the order of the processes."""
        tensor = torch.tensor(values, dtype=torch.float64)
        return [part.tolist() for part in self.gather_tensor(tensor)]

    def gather_tensor(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, of one shape, in the order of the processes."""
        if self.world_size == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor)
        return parts


class RunningStatistics:
    """The running statistics of batch norm, updated in the order of micro-batches.

    In the turn of a micro-batch its layers have momentum 1, and so hold the statistics of that
    micro-batch alone. After a step, each process updates what they held before by those of all
    micro-batches, one after the other.
    """

    def __init__(self, model: nn.Module) -> None:
        layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, _NormBase)]
        self.layers = [layer for layer in layers if layer.track_running_stats]
        self.buffers: list[Tensor] = []
        for layer in self.layers:
            self.buffers += [layer.running_mean, layer.running_var]
        self.momenta = [layer.momentum for layer in self.layers]
        self.rows: list[Tensor] = []  # of each micro-batch: whether it counts, and what they held

    def check(self) -> None:
        """Raise ShareError for layers whose results depend on the number of processes."""
        for layer in self.layers:
            if isinstance(layer, SyncBatchNorm) or layer.momentum is None:
                raise ShareError(
                    f"{type(layer).__name__} with momentum {layer.momentum} makes results depend "
                    "on the number of processes; use BatchNorm with a number as its momentum, or "
                    "deterministic=false"
                )

    @contextmanager
    def note(self, size: int) -> Iterator[None]:
        """Note the statistics of a micro-batch of `size` samples."""
        if not self.layers:
            yield
            return
        if not self.rows:
            self.before = self.held()
        for layer in self.layers:
            layer.momentum = 1.0
        try:
            yield
        finally:
            for layer, momentum in zip(self.layers, self.momenta, strict=True):
                layer.momentum = momentum
        is_counted = torch.full_like(self.before[:1], size > 0)
        self.rows.append(torch.cat([is_counted, self.held()]))

    def held(self) -> Tensor:
        """What the layers hold now, in one row."""
        return torch.cat([buffer.flatten() for buffer in self.buffers])

    def update(self, share: Share) -> None:
        """Update what the layers held before the step, in all processes alike."""
        if not self.layers:
            return
        mine = torch.stack(self.rows)
        self.rows.clear()
        rows = torch.cat(share.gather_tensor(mine))
        rows = rows[rows[:, 0] > 0, 1:]  # without the stand-ins for empty micro-batches
        held = self.before
        for row in rows:
            held = held + (row - held) * self.momentum
        sizes = [buffer.numel() for buffer in self.buffers]
        for buffer, part in zip(self.buffers, torch.split(held, sizes), strict=True):
            buffer.copy_(part)
        for layer in self.layers:
            if layer.training:  # it has counted those of this process
                layer.num_batches_tracked += len(rows) - len(mine)

    @property
    def momentum(self) -> Tensor:
        """The momentum of each entry of the row."""
        parts = []
        for layer, momentum in zip(self.layers, self.momenta, strict=True):
            parts += 2 * [torch.full_like(layer.running_mean, momentum)]
        return torch.cat(parts)


def _exchange(
    share: Share,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Replace gradients by their sums over all processes: a hook of DistributedDataParallel."""
    gradient = bucket.buffer()
    if not share.is_exact:
        future = dist.all_reduce(gradient, async_op=True).get_future()
        return future.then(lambda done: done.value()[0])  # type: ignore[no-any-return]
    for branch in reversed(share.branches):
        for parameter, part in zip(bucket.parameters(), bucket.gradients(), strict=True):
            if parameter in branch:
                part += branch[parameter]
    result: torch.futures.Future[Tensor] = torch.futures.Future()
    result.set_result(share.add_up(gradient))
    return result


def _sum(one: Gradients, other: Gradients) -> Gradients:
    """The sums of the gradients of two branches; a parameter may have one in one of them only."""
    sums = {**one, **other}
    for parameter in one.keys() & other.keys():
        sums[parameter] = one[parameter] + other[parameter]
    return sums


def _add_to_gradients(branches: list[Gradients]) -> None:
    """Add the branches to the gradients that the parameters have, the smallest first."""
    for branch in reversed(branches):
        for parameter, gradient in branch.items():
            if parameter.grad is not None:
                gradient = gradient + parameter.grad
            parameter.grad = gradient
