"""FSDP2, for models that do not fit on one device. Works alone.

    shard_model(model)                # before the optimizer is made
    optimizer = torch.optim.AdamW(model.parameters())
    shard_optimizer(optimizer)

Each process then holds a part of the parameters, the gradients and the state of the optimizer, and
gathers each layer when it is needed. `state_dict()` still returns whole tensors, on the CPU, and
`load_state_dict()` takes them, so that a checkpoint is the same as without sharding. All processes
must call the two. Without other processes these functions do nothing.
"""

from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard_model(model: nn.Module) -> None:
    """Shard the parameters of each child of the model, and then the rest, in place."""
    if not dist.is_initialized():
        return
    device_type = next(model.parameters()).device.type
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    for part in (*model.children(), model):
        if next(part.parameters(), None) is not None:
            fully_shard(part, mesh=mesh)
    shards = dict(model.named_parameters())

    def gather(_: nn.Module, state: dict[str, Any], *__: Any) -> None:
        state.update(_gathered(state))

    def scatter(_: nn.Module, state: dict[str, Any], *__: Any) -> None:
        state.update(_sharded(state, shards))

    hooks: Any = model  # whose types torch does not tell
    hooks.register_state_dict_post_hook(gather)
    hooks.register_load_state_dict_pre_hook(scatter)


def shard_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Let the state of an optimizer be saved and loaded as whole tensors."""
    if not dist.is_initialized():
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def gather(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        values = {number: _gathered(entry) for number, entry in state["state"].items()}
        return {**state, "state": values}

    def scatter(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        values = {}
        for number, entry in state["state"].items():
            values[number] = _sharded(entry, dict.fromkeys(entry, parameters[number]))
        return {**state, "state": values}

    optimizer.register_state_dict_post_hook(gather)
    optimizer.register_load_state_dict_pre_hook(scatter)


def _gathered(state: dict[str, Any]) -> dict[str, Any]:
    """The entries with whole tensors in place of shards."""
    whole = {}
    for key, value in state.items():
        whole[key] = value.full_tensor().cpu() if isinstance(value, DTensor) else value
    return whole


def _sharded(state: dict[str, Any], shards: dict[str, Any]) -> dict[str, Any]:
    """The entries with the shards of this process, of the tensors that the first process has.

    A tensor is sharded as the one of its name in `shards` is, if they have the same shape.
    """
    parts = {}
    for key, value in state.items():
        shard = shards.get(key)
        if isinstance(shard, DTensor) and value.shape == shard.shape:
            value = distribute_tensor(value, shard.device_mesh, shard.placements)
        parts[key] = value
    return parts
