"""Training of a difference: the network is a base, which the reader of the file has, plus what is learned.

    w = w_base + s q,        q integers, 0 when training begins

The distance s of levels is a share of the standard deviation of the base's tensor. Another method decides q: to it the
differences s q are weights that begin at zero, and its regulariser pulls them back there. The file holds q and s, and
nothing of what stayed at zero, so that a task costs its own information and not the network's
(docs/methods/difference.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metaq.errors import InputError
from metaq.methods.base import BoundMethod, Method, check_fields
from metaq.methods.training import UNKNOWN_TRAINING, Training

_LEAST_SHARE = 0.01  # of the network's deviation, below which a tensor's own says nothing: constants, and nearly


@dataclass(frozen=True)
class Difference(Method):
    """A method that trains the difference from the weights that the model has when it is bound::

        compressor = metaq.Compressor(model, metaq.Difference(metaq.METaQ(strength=1e-4)), optimizer)
        ...
        metaq.save(compressor.compress(), "task.mtq")

    A model that holds the base becomes the trained one by ``metaq.load_into(model, "task.mtq")``. All parameters that
    are trained become differences, norms and biases too; pruning is ``Difference(Pruned(METaQ(), LOBSTER()))``.

    Attributes:
        method: decides the differences: `METaQ` with levels fixed or learned, `HEMP` with fixed levels and a zero among
            them, `LOBSTER`, or `Pruned` or `Sized` of these. Without a strength or a target METaQ takes its usual
            strength, not its usual ratio.
        step: the distance of levels, in standard deviations of the base's tensor. A tensor with less than a hundredth
            of the network's, such as a norm's scales that are all 1, takes the network's: the geometric mean over the
            other tensors, 1 where there is none.

    Raises:
        InputError: in `bind`, a method that cannot begin at zero.
    """

    method: Method
    step: float = 0.15

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("method", isinstance(self.method, Method) and not isinstance(self.method, Difference), "another method"),
            ("step", 0 < self.step < math.inf, "a finite number of more than 0"),
        )

    def level_distances(self, base: Mapping[str, Tensor]) -> dict[str, float]:
        """The distance of levels, s, of each of the base's tensors, by name."""
        deviations = {name: _deviation(tensor) for name, tensor in base.items()}
        own = [deviation for deviation in deviations.values() if deviation > 0]
        usual = _geometric_mean(own)
        usual = _geometric_mean([deviation for deviation in own if deviation >= _LEAST_SHARE * usual])
        return {
            name: self.step * (deviation if deviation >= _LEAST_SHARE * usual else usual)
            for name, deviation in deviations.items()
        }

    def bind(self, parameters: Mapping[str, torch.nn.Parameter], training: Training = UNKNOWN_TRAINING) -> BoundMethod:
        """The method at work on differences.

        Args:
            parameters: the differences, all zero, which a `Compressor` makes of a model's parameters.
        """
        if not training.level_distances:
            raise InputError("Difference: expected a Compressor, which keeps the base, found parameters without one")
        return self.method.bind(parameters, training)


def _deviation(tensor: Tensor) -> float:
    """The standard deviation; exactly 0 of a constant."""
    wide = tensor.detach().to(torch.float64)
    return float(wide.std(correction=0)) if bool((wide != wide.reshape(-1)[0]).any()) else 0.0


def _geometric_mean(numbers: list[float]) -> float:
    return math.exp(sum(map(math.log, numbers)) / len(numbers)) if numbers else 1.0
