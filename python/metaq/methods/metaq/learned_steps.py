"""Steps learned with the weights, as in LSQ: the forward pass quantizes, straight through in the weights, and

    ∂L/∂ log s = Σ_i g_i (ŵ_i - w_i)   within the levels,   Σ_i g_i ŵ_i   outside,   g_i = ∂L/∂ŵ_i.

A regulariser that depends on w/s alone, with multipliers β, adds ``-λ Σ_i β_i w_i``. Adam on log s makes both scales
harmless: tensors of any size and steps of any magnitude learn at the same rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metaq.methods.base import gradient_of
from metaq.methods.metaq.quantized_view import QuantizedView

_MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam's state


class LearnedSteps:
    """The steps of a view's parameters, updated once in every training step.

    Args:
        view: the parameters whose steps are learned.
        learning_rate: Adam's, for log s: about the largest relative change in a training step.
    """

    def __init__(self, view: QuantizedView, learning_rate: float) -> None:
        self.view = view
        self.logarithms = torch.tensor(view.steps, dtype=torch.float64).log_()
        self.optimizer = torch.optim.Adam([self.logarithms], lr=learning_rate)
        self._loss_part = torch.zeros_like(self.logarithms)
        self._before = torch.zeros_like(self.logarithms)

    @torch.no_grad()
    def on_loss_gradients(self) -> None:
        """Note the loss's part of the gradient; call between ``backward()`` and `QuantizedView.add_slopes`."""
        columns = zip(self.view.parameters, self.view.latent_weights(), self.view.steps, strict=True)
        self._loss_part = torch.stack(
            [
                _dot(gradient_of(p), p.detach() - latent * (latent.abs() <= step * self.view.reach))
                for p, latent, step in columns
            ]
        )
        self._before = self._pull()

    @torch.no_grad()
    def on_all_gradients(self) -> None:
        """Add the regulariser's part and update the steps; call after `QuantizedView.add_slopes`, which adds λβ."""
        gradient = self._loss_part - (self._pull() - self._before)
        self.logarithms.grad = self.view.ranks.sum(gradient)
        self.optimizer.step()
        self.view.steps = self.logarithms.exp().tolist()

    @torch.no_grad()
    def adopt_steps(self) -> None:
        """Go on from the view's steps, which somebody has changed."""
        self.logarithms.copy_(torch.tensor(self.view.steps, dtype=torch.float64).log_())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on exactly as before."""
        adam = self.optimizer.state[self.logarithms]
        moments = {name: adam[name].tolist() for name in _MOMENTS if adam}
        return {"logarithms": self.logarithms.tolist(), "moments": moments, "steps": int(adam.get("step", 0))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.logarithms.copy_(torch.tensor(state["logarithms"], dtype=torch.float64))
        moments = {name: torch.tensor(entry, dtype=torch.float64) for name, entry in state["moments"].items()}
        self.optimizer.state[self.logarithms] = moments | (
            {"step": torch.tensor(float(state["steps"]))} if moments else {}
        )

    def _pull(self) -> Tensor:
        columns = zip(self.view.parameters, self.view.latent_weights(), strict=True)
        return torch.stack([_dot(gradient_of(parameter), latent) for parameter, latent in columns])


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return torch.dot(left.reshape(-1), right.reshape(-1)).to("cpu", torch.float64)
