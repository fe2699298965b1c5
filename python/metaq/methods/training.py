"""What a method is told of the training that it takes part in: how long it is, and how its parameters are spread."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


class Ranks:
    """The processes that share a model's parameters; this class stands for one that has all of them to itself.

    Where parameters are shards, a method's statistics of them must be those of the whole tensors. Replicas, as
    `DistributedDataParallel` keeps them, are whole on every rank and need nothing.
    """

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


@dataclass(frozen=True)
class Training:
    """The training that a method is bound for.

    Attributes:
        steps: its length in steps of the optimizer, 0 where it is not known.
        ranks: the processes that share the parameters.
    """

    steps: int = 0
    ranks: Ranks = field(default_factory=Ranks)


UNKNOWN_TRAINING = Training()
