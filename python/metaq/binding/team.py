"""The processes that train one model together: each with a replica of it, as DDP has them, or with shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from metaq.binding.shards import is_sharded
from metaq.errors import InputError


@dataclass(frozen=True)
class Team:
    """Processes with a model together; by default the calling one alone.

    Attributes:
        groups: process groups; what is reduced over one after the other is reduced over all processes.
        device: on which they communicate.
        has_shards: whether each has only a part of some parameters.
    """

    groups: tuple[Any, ...] = ()
    device: str = "cpu"
    has_shards: bool = False

    @property
    def is_first(self) -> bool:
        """Whether the calling process is the one that gets what only one is to have."""
        return all(group.rank() == 0 for group in self.groups)

    def first(self, values: Sequence[float]) -> list[float]:
        """The numbers that the first process has given; all must call this together, with as many."""
        from torch import distributed

        found = torch.tensor(values, dtype=torch.float64, device=self.device)
        for group in self.groups:
            distributed.broadcast(found, group=group, src=distributed.get_global_rank(group, 0))
        result: list[float] = found.tolist()
        return result

    def mean(self, value: float) -> float:
        """The mean of the processes' numbers, the same on all; all must call this together."""
        from torch import distributed

        found = torch.tensor(value, dtype=torch.float64, device=self.device)
        for group in self.groups:
            distributed.all_reduce(found, group=group)
            found /= group.size()
        return float(found)

    def check_equal(self, tensors: Iterable[Tensor]) -> None:
        """Raise an InputError, on all processes, unless they have equal tensors; all must call this together."""
        from torch import distributed

        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        own = torch.frombuffer(bytearray(digest.digest()[:8]), dtype=torch.int64).to(self.device)
        for group in self.groups:
            least, greatest = own.clone(), own.clone()
            distributed.all_reduce(least, distributed.ReduceOp.MIN, group=group)
            distributed.all_reduce(greatest, distributed.ReduceOp.MAX, group=group)
            if not torch.equal(least, greatest):
                raise InputError(
                    "model: expected the same weights on all ranks when the Compressor was made, found others; make the"
                    " Compressor after DistributedDataParallel"
                )


def team_of(model: nn.Module, parameters: Iterable[nn.Parameter]) -> Team:
    """Who has a model, wrapped as it is, with these parameters."""
    for parameter in parameters:
        if is_sharded(parameter):
            mesh = parameter.device_mesh  # type: ignore[attr-defined]
            groups = tuple(mesh.get_group(dimension) for dimension in range(mesh.ndim))
            return Team(groups, mesh.device_type, has_shards=True)
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    return _team_of_replicas(model) if isinstance(model, DistributedDataParallel) else Team()


def active_team() -> Team:
    """Who has the model whose forward pass is under way, as far as it goes through DDP."""
    active = getattr(DistributedDataParallel, "_active_ddp_module", None)
    return Team() if active is None else _team_of_replicas(active)


def _team_of_replicas(model: DistributedDataParallel) -> Team:
    return Team((model.process_group,), next(model.parameters()).device.type)
