"""FSDP2, for models that do not fit on one device. Works alone.

    shard_model(model)                # before the optimizer is made
    optimizer = torch.optim.AdamW(model.parameters())
    shard_optimizer(optimizer)

Each process then holds a part of the parameters, the gradients and the state of the optimizer, and
gathers each layer when it is needed. `state_dict()` still returns whole tensors, on the CPU, and
`load_state_dict()` takes them, so that a checkpoint is the same as without sharding. All processes
must call the two. Without other processes these functions do nothing. It was run on torch 2.13.
"""

from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

State = dict[str, Any]
"""What `state_dict()` of a model or an optimizer returns."""


def shard_model(model: nn.Module) -> None:
    """Shard the parameters of each child of the model, and then the rest, in place."""
    if not dist.is_initialized():
        return
    device_type = next(model.parameters()).device.type
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    for part in (*model.children(), model):
        if next(part.parameters(), None) is not None:
            sharded = fully_shard(part, mesh=mesh)
            # The sum of the gradients of all processes, where FSDP2 would take their mean.
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)
    parameters = dict(model.named_parameters())

    def gather(_: Any, state: State, *__: Any) -> None:
        state.update(_whole(state))

    def scatter(_: Any, state: State, *__: Any) -> None:
        for name, value in state.items():
            state[name] = _sharded(value, parameters.get(name))

    hooks: Any = model  # torch does not annotate these two methods
    hooks.register_state_dict_post_hook(gather)
    hooks.register_load_state_dict_pre_hook(scatter)


def shard_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Let the state of an optimizer be saved and loaded as whole tensors."""
    parameters: list[nn.Parameter] = []
    for group in optimizer.param_groups:
        parameters.extend(group["params"])

    def gather(_: Any, state: State) -> Any:
        return _whole(state)

    def scatter(_: Any, state: State) -> State:
        values = {}  # a new dict, because the caller keeps the one in `state`
        for number, entry in state["state"].items():
            like = parameters[number]
            values[number] = {key: _sharded(value, like) for key, value in entry.items()}
        return {**state, "state": values}

    optimizer.register_state_dict_post_hook(gather)
    optimizer.register_load_state_dict_pre_hook(scatter)


def _whole(value: Any) -> Any:
    """Return whole tensors, on the CPU, in place of shards, also inside of dicts.

    Anything else is returned as it is.
    """
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    return value


def _sharded(value: Any, like: Any) -> Any:
    """Return the shard of this process, of the tensor that the first process has.

    A tensor is sharded as `like` is, if that is a shard and they have the same shape. Anything
    else is returned as it is.
    """
    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value
