"""States of sharded parameters as whole tensors, for trainers that have one process write all that is not the model.

`torch.distributed.checkpoint` needs none of it: it takes a `Compressor` as it is.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from metaq.binding.shards import is_distributed, whole

_WHOLE, _SHARDED = "whole", "sharded_dimensions"


def gathered_state(state: Any) -> Any:
    """A state without DTensors: each is all of a tensor, and along which dimension it was in shards (-1: replicas).

    All processes must call this together.
    """
    if isinstance(state, Tensor) and is_distributed(state):
        placements = state.placements  # type: ignore[attr-defined]
        dimensions = [placement.dim if placement.is_shard() else -1 for placement in placements]
        return {_WHOLE: whole(state).cpu(), _SHARDED: dimensions}
    if isinstance(state, dict):
        return {key: gathered_state(value) for key, value in state.items()}
    return [gathered_state(value) for value in state] if isinstance(state, list) else state


def spread_state(state: Any, model: nn.Module) -> Any:
    """Inverse of `gathered_state`, over the processes that have the shards of a model, whatever their number."""
    if isinstance(state, dict) and state.keys() == {_WHOLE, _SHARDED}:
        return _spread(state[_WHOLE], state[_SHARDED], model)
    if isinstance(state, dict):
        return {key: spread_state(value, model) for key, value in state.items()}
    return [spread_state(value, model) for value in state] if isinstance(state, list) else state


def _spread(tensor: Tensor, dimensions: list[int], model: nn.Module) -> Tensor:
    like = next((parameter for parameter in model.parameters() if is_distributed(parameter)), None)
    if like is None:
        return tensor
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = like.device_mesh  # type: ignore[attr-defined]
    placements = [Replicate() if dimension < 0 else Shard(dimension) for dimension in dimensions]
    return distribute_tensor(tensor.to(mesh.device_type), mesh, placements, src_data_rank=None)
