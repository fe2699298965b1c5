"""What data says of a model's weights: how much each matters, and how those of a layer make up for each other.

The Fisher information of a weight w is the mean of ``(∂ log p(y | x) / ∂w)²``, y drawn from the model's own
prediction, so that no labels are needed. Moving the weights by δ changes the prediction by about ``½ Σ F δ²`` nats of
KL divergence. For a layer that multiplies inputs x by W, whose outputs have the gradients g, it is taken as a product
(Kronecker-factored, Martens and Grosse 2015; for convolutions Grosse and Martens 2016):

    F[i, j] = G[i] A[j, j],    A = mean over samples of Σ x xᵀ over positions,    G[i] = mean of g_i² over both,

and G[i] A is the Hessian of row i (`metaq.quantizers.second_order`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from metaq.errors import InputError


@dataclass(frozen=True)
class Calibration:
    """What is known of each calibrated weight, by name: second moments of its layer's inputs and its rows' gradients.

    Attributes:
        inputs: A, float32, of shape (d, d), d the inputs of a row: columns, or channels times kernel positions.
        rows: G, float32, of shape (rows,); at least 0.
    """

    inputs: dict[str, Tensor]
    rows: dict[str, Tensor]

    def importance(self, name: str) -> Tensor:
        """F of a weight, float32, of shape (rows, d)."""
        return self.rows[name][:, None] * self.inputs[name].diagonal()


def calibrate(model: nn.Module, loader: Iterable[Any], batches: int | None = None, seed: int = 0) -> Calibration:
    """Run a model on some data, to have its weights quantized by what matters to its predictions.

    Matrices of `torch.nn.Linear` and filters of ungrouped `torch.nn.Conv2d` are calibrated, with zeros as padding. The
    model runs in evaluation mode, and is left as it was, gradients included.

    Args:
        model: gives logits of shape (samples, classes) or (samples, positions, classes), or an object with such
            ``logits``.
        loader: batches of inputs, on the model's device: a tensor, a tuple that begins with one, or a dictionary of
            keyword arguments. A few hundred samples do.
        batches: how many to take; all, if not given.
        seed: of the predictions drawn.

    Raises:
        InputError: no batch, no layer that can be calibrated, frozen parameters only, or logits of another shape or not
            finite.
    """
    layers = {
        f"{name}.weight" if name else "weight": _Layer(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and _is_plain(module))
    }
    if not layers:
        raise InputError("calibrate: expected a model with Linear or ungrouped Conv2d layers, found none")
    generator = torch.Generator().manual_seed(seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("calibrate: expected parameters that require gradients, found none that does")
    was_training, samples = model.training, 0
    model.eval()
    try:
        for batch in islice(loader, batches):
            samples += _run(model, batch, parameters, generator)
    finally:
        model.train(was_training)
        for layer in layers.values():
            layer.remove()
    if samples == 0:
        raise InputError("calibrate: expected at least one batch of samples, found none")
    used = {name: layer for name, layer in layers.items() if layer.positions}
    return Calibration(
        {name: layer.inputs / samples for name, layer in used.items()},
        {name: (layer.gradients / layer.positions).float() for name, layer in used.items()},
    )


def _is_plain(module: nn.Conv2d) -> bool:
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _run(model: nn.Module, batch: Any, parameters: list[nn.Parameter], generator: torch.Generator) -> int:
    """Forward and backward on one batch; returns how many samples it had."""
    with torch.enable_grad():
        if isinstance(batch, Mapping):
            output = model(**batch)
        else:
            output = model(batch[0] if isinstance(batch, list | tuple) else batch)
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.ndim not in (2, 3) or not bool(torch.isfinite(logits).all()):
            found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"calibrate: expected finite logits of two or three dimensions, found {found}")
        rows = logits.reshape(-1, logits.shape[-1])
        drawn = torch.multinomial(rows.detach().softmax(-1).cpu(), 1, generator=generator).to(rows.device)
        loss = functional.cross_entropy(rows, drawn.squeeze(1), reduction="sum")
        torch.autograd.grad(loss, parameters, allow_unused=True)
    return len(logits)


class _Layer:
    """Sums over what goes through a layer, taken by hooks."""

    def __init__(self, module: nn.Linear | nn.Conv2d) -> None:
        self.module = module
        width = module.weight[0].numel()
        self.inputs = torch.zeros(width, width)
        self.gradients = torch.zeros(len(module.weight), dtype=torch.float64)
        self.positions = 0
        self._hook = module.register_forward_hook(self._on_forward)

    def remove(self) -> None:
        self._hook.remove()

    def _on_forward(self, _: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        inputs = arguments[0].detach().float()
        if isinstance(self.module, nn.Conv2d):
            module = self.module
            assert not isinstance(module.padding, str)
            patches = functional.unfold(inputs, module.kernel_size, module.dilation, module.padding, module.stride)
            flat = patches.transpose(1, 2).reshape(-1, patches.shape[1])
        else:
            flat = inputs.reshape(-1, inputs.shape[-1])
        self.inputs += (flat.T @ flat).cpu()
        self.positions += len(flat)
        if output.requires_grad:
            output.register_hook(self._on_gradient)

    def _on_gradient(self, gradient: Tensor) -> None:
        rows = gradient.detach().double()
        axis = 1 if isinstance(self.module, nn.Conv2d) else rows.ndim - 1
        self.gradients += rows.square().sum([i for i in range(rows.ndim) if i != axis]).cpu()
