"""Parameters that are the sum of a base and a difference, of which methods and optimizers see the difference alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metaq.binding.contents import check_finite
from metaq.binding.working_parameters import WorkingParameter
from metaq.differences import add


class DifferenceParameter(WorkingParameter):
    """A model's parameter, and its difference from a base, in float32.

    The optimizer trains the difference: for the time of its step it is in the model's parameter, so that a weight decay
    draws it to zero, the weights to the base.

    Args:
        base: what the parameter holds now, in memory of its own.
    """

    def __init__(self, name: str, path: str, parameter: nn.Parameter, base: Tensor) -> None:
        check_finite(name, parameter)
        super().__init__(name, path, parameter, torch.zeros_like(parameter, dtype=torch.float32))
        self.base = base

    def _weights(self) -> Tensor:
        return add(self.base, self.working.detach())

    def _latent(self, weights: Tensor) -> Tensor:
        return weights.float() - self.base.float()

    def reveal(self) -> None:
        """Put the sum of the base and the latent difference into the model's parameter, for people to look at."""
        self.show()
