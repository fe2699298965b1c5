"""LOBSTER (LOss-Based SensiTivity rEgulaRization, Tartaglione et al. 2020) shrinks weights that the loss does not miss.

After every step of the optimizer, with ∂L/∂w the gradient of the loss alone, at the weights before that step,

    w <- w - λ w relu(1 - |∂L/∂w|).

When the validation loss stops improving, all weights below a threshold T are set to 0 for good: the largest T with

    loss(all |w| < T set to 0) <= (1 + TWT) loss.

Bisection finds it, on the assumption that the loss rises steadily with T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metaq.assign import nearest
from metaq.codebook import UniformCodebook
from metaq.methods.base import BoundMethod, Method, check_fields, gradient_of
from metaq.methods.training import UNKNOWN_TRAINING, Training

_NUMBERS = ("best_loss", "epochs_since_best", "is_last_phase")  # of the state


@dataclass(frozen=True)
class LOBSTER(Method):
    """Configuration of LOBSTER; the defaults are the paper's for LeNet-5 on MNIST.

    Attributes:
        strength: λ.
        tolerated_worsening: TWT, of the validation loss by one pruning, as a fraction of it.
        plateau_epochs: PWE: weights are pruned after so many epochs in a row without a better validation loss.
        radius: levels on either side of zero, at which the file holds the weights that are left. Training does not
            depend on it, nor does a file whose levels another method decides.
    """

    strength: float = 1e-4
    tolerated_worsening: float = 0.05
    plateau_epochs: int = 20
    radius: int = 127

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("strength", 0 <= self.strength <= 1, "0 to 1"),
            ("tolerated_worsening", 0 <= self.tolerated_worsening < math.inf, "a finite number of at least 0"),
            ("plateau_epochs", self.plateau_epochs >= 1, "at least 1"),
            ("radius", 1 <= self.radius <= 1 << 20, "1 to 2^20"),
        )

    def bind(self, parameters: Mapping[str, torch.nn.Parameter], training: Training = UNKNOWN_TRAINING) -> BoundLOBSTER:
        """LOBSTER at work on these parameters."""
        return BoundLOBSTER(self, parameters, training)


class BoundLOBSTER(BoundMethod):
    """LOBSTER's state for one model: which weights are pruned, how much each is to shrink, how old the best loss is."""

    works_on_shards = True
    works_on_differences = True

    def __init__(self, config: LOBSTER, parameters: Mapping[str, torch.nn.Parameter], training: Training) -> None:
        super().__init__(parameters, training)
        self.config = config
        self.kept: list[Tensor] | None = None  # False where a weight is pruned
        self.factors: list[Tensor] | None = None  # what the weights are to be multiplied by, once, after a step
        self.needs_validation_loss = True
        self.best_loss = math.inf
        self.epochs_since_best = 0
        self.is_last_phase = False

    @torch.no_grad()
    def update_weights(self) -> None:
        """Shrink the weights, once after every step of the optimizer."""
        if self.factors is None:
            return
        tensors = [tensor.detach() for tensor in self.parameters.values()]
        torch._foreach_mul_(tensors, self.factors)
        if self.kept is not None:
            torch._foreach_mul_(tensors, self.kept)
        self.factors = None

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        """Note how much each weight is to shrink after the step; gradients must still be those of the loss alone."""
        self.update_weights()
        strength = 0.0 if self.is_last_phase else self.config.strength
        # 1 - λ relu(1 - |g|) = 1 - λ + λ min(1, |g|)
        self.factors = [gradient_of(tensor).abs() for tensor in self.parameters.values()]
        torch._foreach_clamp_max_(self.factors, 1.0)
        torch._foreach_mul_(self.factors, strength)
        torch._foreach_add_(self.factors, 1.0 - strength)

    def on_epoch(self, validation_loss: Callable[[], float]) -> None:
        """Prune if the validation loss has not improved for long enough; in the last phase never."""
        self.on_forward(True)
        if self.is_last_phase:
            return
        loss = validation_loss()
        self.epochs_since_best = 0 if loss < self.best_loss else self.epochs_since_best + 1
        self.best_loss = min(loss, self.best_loss)
        if self.epochs_since_best >= self.config.plateau_epochs:
            self.best_loss = self.prune(validation_loss, (1 + self.config.tolerated_worsening) * loss)
            self.epochs_since_best = 0

    def on_last_phase(self) -> None:
        """Zeros stay from here on; nothing more is pruned and nothing shrinks, so that the rest can recover."""
        self.on_forward(True)
        self.is_last_phase = True
        self.kept = [tensor.detach() != 0 for tensor in self.parameters.values()]

    @torch.no_grad()
    def prune(self, validation_loss: Callable[[], float], limit: float) -> float:
        """Set to zero for good all weights below the largest threshold that keeps the loss within ``limit``.

        Returns:
            the loss then.
        """
        self.restore_weights()
        tensors = [tensor.detach() for tensor in self.parameters.values()]
        unpruned = [tensor.clone() for tensor in tensors]

        def loss_below(threshold: float) -> float:
            self.restore_weights()
            for tensor, weights in zip(tensors, unpruned, strict=True):
                torch.mul(weights, weights.abs() >= threshold, out=tensor)
            return validation_loss()

        whole = (self.ranks.whole(index, weights.abs()) for index, weights in enumerate(unpruned))
        magnitudes = torch.cat([weights.unique() for weights in whole]).unique()
        try:
            threshold = largest_threshold(magnitudes, loss_below, limit)
            loss = loss_below(threshold)
        except BaseException:
            self.restore_weights()
            torch._foreach_copy_(tensors, unpruned)
            raise
        self.restore_weights()
        self.kept = [tensor != 0 for tensor in tensors]
        return loss

    def quantize_parameter(self, name: str, weights: Tensor) -> tuple[UniformCodebook, Tensor]:
        """Nearest multiple of a step that puts the parameter's largest magnitude at the radius."""
        own = weights.abs().max() if weights.numel() else weights.new_zeros(())
        greatest = float(self.ranks.one(list(self.parameters).index(name)).max(own[None])[0])
        codebook = UniformCodebook(max(greatest / self.config.radius, torch.finfo(torch.float32).tiny))
        return codebook, nearest(weights.cpu(), codebook).clamp_(-self.config.radius, self.config.radius)

    def measures(self) -> dict[str, float]:
        """The share of weights that are zero."""
        self.restore_weights()
        tensors = [tensor.detach() for tensor in self.parameters.values()]
        own = torch.tensor([[int((tensor == 0).sum()), tensor.numel()] for tensor in tensors])
        zeros, count = self.ranks.sum(own).sum(dim=0).tolist()
        return {"zero_share": zeros / count}

    def state_dict(self) -> dict[str, Any]:
        """What cannot be had from parameters and optimizer."""
        everything = [torch.ones_like(tensor, dtype=torch.bool) for tensor in self.parameters.values()]
        tensors = {"is_pruned": self.kept is not None, "kept": self.ranks.spread(self.kept or everything)}
        if self.factors is not None:  # only between a step of the optimizer and what follows it
            tensors["factors"] = self.ranks.spread(self.factors)
        return super().state_dict() | tensors | {name: getattr(self, name) for name in _NUMBERS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self.kept = self.on_device(self.ranks.local(state["kept"])) if state["is_pruned"] else None
        self.factors = self.on_device(self.ranks.local(state["factors"])) if "factors" in state else None
        for name in _NUMBERS:
            setattr(self, name, state[name])


def largest_threshold(magnitudes: Tensor, loss_below: Callable[[float], float], limit: float) -> float:
    """The largest T for which ``loss_below(T)`` is at most ``limit``, if that loss never falls with T.

        max T  s.t.  loss(all |w| < T set to 0) <= limit

    Only the magnitudes that occur need be tried: between two of them nothing changes. O(log n) losses.

    Args:
        magnitudes: increasing, (n,).
        loss_below: the loss with all weights of less than this magnitude set to 0.
        limit: of the loss.

    Returns:
        a magnitude that occurs, or 0 if even the smallest is missed.
    """
    least, beyond = -1, len(magnitudes)  # the position known to serve, none to begin with, and one known not to
    while beyond - least > 1:
        middle = (least + beyond) // 2
        if loss_below(float(magnitudes[middle])) <= limit:
            least = middle
        else:
            beyond = middle
    return float(magnitudes[least]) if least >= 0 else 0.0
