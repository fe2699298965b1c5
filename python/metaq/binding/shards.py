"""Parameters in shards, each process with one of its own: DTensors, as FSDP2's `fully_shard` makes them.

Methods see the local shards. What they must know of whole tensors, counts and ranges, is summed over the ranks that
have the other shards; what a file holds of a tensor is put together when it is written, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metaq.errors import InputError
from metaq.methods.training import Ranks


def is_distributed(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, in shards or replicas."""
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def is_sharded(tensor: Tensor) -> bool:
    """Whether processes have different parts of a tensor."""
    return bool(_shard_groups(tensor)) if is_distributed(tensor) else False


def check_placements(name: str, parameter: Tensor) -> None:
    """Raise an InputError unless a method can work on the local part of a parameter, a DTensor."""
    placements = parameter.placements  # type: ignore[attr-defined]
    if any(placement.is_partial() for placement in placements):
        raise InputError(f"parameter {name!r}: expected shards or replicas, found {placements}")
    if is_sharded(parameter) and parameter.dtype != torch.float32:
        raise InputError(
            f"parameter {name!r}: expected float32 in shards, which MixedPrecisionPolicy computes with in less, found"
            f" {parameter.dtype}"
        )


def local_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has, in the same memory."""
    with torch.no_grad():
        return tensor.to_local().detach() if is_distributed(tensor) else tensor.detach()  # type: ignore[attr-defined]


def spread(local: Tensor, like: Tensor) -> Tensor:
    """A local part as one of a whole that is spread as another tensor, in the same memory.

    Args:
        local: this process's part, of any dtype, in the shape of that of ``like``.
    """
    if not is_distributed(like):
        return local
    from torch.distributed.tensor import DTensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every rank that has a part of it, which all must call this together."""
    return gathered(local_part(tensor), tensor) if is_distributed(tensor) else tensor


def gathered(local: Tensor, like: Tensor) -> Tensor:
    """All of a tensor that is spread as another one; all who have a part must call this together.

    Args:
        local: this process's part, of any dtype, in the shape of that of ``like``.
    """
    if not is_distributed(like):
        return local
    on_device = spread(local.to(like.device_mesh.device_type), like)  # type: ignore[attr-defined]
    return on_device.full_tensor().detach()  # type: ignore[attr-defined,no-any-return]


def reshard(model: nn.Module) -> None:
    """Let no module of FSDP2 hold a whole parameter, so that what is written into shards is what it will see."""
    for module in model.modules():
        if hasattr(module, "set_reshard_after_backward"):
            module.reshard()  # type: ignore[operator]


def check_no_flat_parameters(model: nn.Module) -> None:
    """Raise an InputError if a part of a model is wrapped in FSDP1, whose shards are of many parameters in one."""
    for name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            found = "the whole of it" if not name else repr(name)
            raise InputError(
                f"model: expected no FullyShardedDataParallel, which flattens parameters, found {found}; use"
                " torch.distributed.fsdp.fully_shard instead"
            )


class ShardRanks(Ranks):
    """The processes that have the shards of a method's parameters.

    Args:
        parameters: in the method's order; some may be whole on every process.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self._rows: dict[Any, list[int]] = {}  # by the groups that are to be reduced over
        for index, parameter in enumerate(self.parameters):
            if is_sharded(parameter):
                mesh = parameter.device_mesh  # type: ignore[attr-defined]
                self._rows.setdefault((mesh, tuple(_shard_groups(parameter))), []).append(index)

    @property
    def are_several(self) -> bool:
        """Whether a parameter is in shards, or may be."""
        return any(map(is_distributed, self.parameters))

    def one(self, index: int) -> ShardRanks:
        """The processes that have the shards of one parameter."""
        return ShardRanks([self.parameters[index]])

    def sum(self, rows: Tensor) -> Tensor:
        """Sums over shards, of (T, ...), as of the base class."""
        from torch.distributed import ReduceOp

        return self._reduced(rows, ReduceOp.SUM)

    def max(self, rows: Tensor) -> Tensor:
        """The largest over shards, of (T, ...), as of the base class."""
        from torch.distributed import ReduceOp

        return self._reduced(rows, ReduceOp.MAX)

    def whole(self, index: int, local: Tensor) -> Tensor:
        """A parameter's values from all shards, on each of these ranks."""
        return gathered(local, self.parameters[index]).to(local.device)

    def spread(self, local: Iterable[Tensor]) -> list[Tensor]:
        """Local values as DTensors, in the parameters' order."""
        return [spread(tensor, like) for tensor, like in zip(local, self.parameters, strict=True)]

    def local(self, spread: Iterable[Tensor]) -> list[Tensor]:
        """The calling process's parts of such DTensors."""
        return [local_part(tensor) for tensor in spread]

    def _reduced(self, rows: Tensor, operation: Any) -> Tensor:
        from torch.distributed import all_reduce

        result = rows.clone()
        for (mesh, dimensions), indices in self._rows.items():
            part = result[indices].to(mesh.device_type)
            for dimension in dimensions:
                all_reduce(part, operation, group=mesh.get_group(dimension))
            result[indices] = part.to(result.device)
        return result


def _shard_groups(tensor: Tensor) -> list[int]:
    """Dimensions of the mesh along which a DTensor is in shards."""
    return [index for index, placement in enumerate(tensor.placements) if placement.is_shard()]  # type: ignore[attr-defined]
