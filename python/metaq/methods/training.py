"""What a method is told of the training that it takes part in: how long it is, and how its parameters are spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from metaq.errors import InputError


class Ranks:
    """The processes that share a model's parameters; this class stands for one that has all of them to itself.

    Where parameters are shards, a method's statistics of them must be those of the whole tensors. Replicas, as
    `DistributedDataParallel` keeps them, are whole on every rank and need nothing.
    """

    @property
    def are_several(self) -> bool:
        """Whether one of the method's parameters is in shards."""
        return False

    def refuse_shards(self, where: str, expected: str = "whole parameters") -> None:
        """Raise an InputError, for a method or an option that needs whole parameters, if some are in shards."""
        if self.are_several:
            raise InputError(f"{where}: expected {expected}, found parameters in shards, as fully_shard makes them")

    def one(self, index: int) -> Ranks:
        """The processes that share one of the method's parameters, the only one of their rows."""
        return self

    def sum(self, rows: Tensor) -> Tensor:
        """Sums over the shards of each parameter.

        Args:
            rows: (T, ...): a row for each of the method's parameters, in their order.

        Returns:
            the same shape and dtype, equal on all ranks, exactly where it is one of integers.
        """
        return rows

    def max(self, rows: Tensor) -> Tensor:
        """The largest over the shards of each parameter; ``rows`` and the result as for `sum`."""
        return rows

    def whole(self, index: int, local: Tensor) -> Tensor:
        """The whole of a parameter's values, on all ranks.

        Args:
            local: those of this process's shard, in its shape.
        """
        return local

    def spread(self, local: Iterable[Tensor]) -> list[Tensor]:
        """Values of the shards as what checkpoints take: DTensors, in the same memory.

        Args:
            local: for each of the method's parameters those of its shard, in its shape.
        """
        return list(local)

    def local(self, spread: Iterable[Tensor]) -> list[Tensor]:
        """Inverse of `spread`."""
        return list(spread)


@dataclass(frozen=True)
class Training:
    """The training that a method is bound for.

    Attributes:
        steps: its length in steps of the optimizer, 0 where it is not known.
        ranks: the processes that share the parameters.
        level_distances: of parameters that are differences from a base, and so begin at zero: by name, the distance
            that levels are to have. Empty where parameters are weights.
    """

    steps: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    level_distances: Mapping[str, float] = field(default_factory=dict)


UNKNOWN_TRAINING = Training()
