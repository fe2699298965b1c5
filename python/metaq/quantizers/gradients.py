"""Squared gradients of what a model's weights give, of predictions or of any outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from metaq.errors import InputError
from metaq.quantizers.layers import Factor, MatrixView
from metaq.quantizers.moments import SharedSums
from metaq.quantizers.operations import Operation


class Loss(Enum):
    """What gradients are of.

    LIKELIHOOD: the logarithm of the probability of labels that are drawn from the model's own logits, of shape
        (samples, classes) or (samples, positions, classes).
    OUTPUT: half the squared error of any outputs, by their sum with random signs.
    """

    LIKELIHOOD = "likelihood"
    OUTPUT = "output"


def main_output(output: Any) -> tuple[Tensor, Loss]:
    """The tensor that matters in what a model gives, and the loss that suits it.

    These are ``logits``; a tensor of two or three dimensions is taken for such. Any others, as ``last_hidden_state``,
    are judged by their squared error.

    Raises:
        InputError: there is no tensor of two dimensions or more.
    """
    for name, loss in (("logits", Loss.LIKELIHOOD), ("last_hidden_state", Loss.OUTPUT)):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor) and found.ndim >= 2:
            return found, loss
    first = output[0] if isinstance(output, list | tuple) and output else output
    if isinstance(first, Tensor) and first.ndim >= 2:
        return first, Loss.LIKELIHOOD if first.ndim <= 3 else Loss.OUTPUT
    found = f"shape {tuple(first.shape)}" if isinstance(first, Tensor) else type(output).__name__
    raise InputError(f"output of the model: expected a tensor of two dimensions or more, found {found}")


class Gradients:
    """Sums of squared gradients, a backward pass for each batch.

    Args:
        loss: what they are of; if not given, it follows from each output.
        seed: of what is drawn.
    """

    def __init__(self, loss: Loss | None, seed: int) -> None:
        self._loss, self._generator = loss, torch.Generator().manual_seed(seed)
        self._products: dict[str, Tensor] = {}
        self._lookups: dict[str, Tensor] = {}
        self._roots: dict[torch.device, Tensor] = {}

    @contextmanager
    def of_operations(self, model: nn.Module) -> Iterator[None]:
        """A context in which no parameter asks for a gradient, so that none is computed that is not used."""
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in learned:
            parameter.requires_grad_(False)
        try:
            with torch.enable_grad():
                yield
        finally:
            for parameter in learned:
                parameter.requires_grad_(True)

    def follow(self, factor: Factor, operation: Operation, output: Tensor) -> Tensor:
        """The output of an operation, whose gradient is going to be added."""
        if not output.requires_grad:
            device = output.device
            root = self._roots.setdefault(device, torch.zeros((), device=device, requires_grad=True))
            output = output + root
        output.register_hook(partial(self._add, factor, operation))
        return output

    def take(self, output: Any) -> None:
        """Add the gradients of a batch, and let go of its graph.

        Raises:
            InputError: there is no finite tensor of the shape that the loss asks for.
        """
        values, suited = main_output(output)
        loss = self._loss or suited
        fits = values.ndim in (2, 3) if loss is Loss.LIKELIHOOD else True
        if not fits or not bool(torch.isfinite(values).all()):
            expected = "logits of two or three dimensions" if loss is Loss.LIKELIHOOD else "outputs"
            raise InputError(f"calibrate: expected finite {expected}, found shape {tuple(values.shape)} or others")
        total = self._likelihood(values) if loss is Loss.LIKELIHOOD else self._signed(values)
        if total.requires_grad:
            torch.autograd.grad(total, list(self._roots.values()), allow_unused=True)

    def rows(self, view: MatrixView, sums: SharedSums) -> Tensor:
        """G of a weight, float32, of shape (groups * rows,)."""
        if sums.of(view.name):
            positions = sums.positions(view.name)[:, None]
            return self._mean(self._products.get(view.name), positions, view)
        return self._mean(self._lookups.get(view.name), sums.counts[view.name][None], view)

    def _mean(self, squares: Tensor | None, positions: Tensor, view: MatrixView) -> Tensor:
        if squares is None:
            return torch.zeros(view.groups * view.rows)
        return (squares.cpu() / positions.clamp_min(1)).flatten().float()

    def _add(self, factor: Factor, operation: Operation, gradient: Tensor) -> None:
        view = factor.view
        kept = self._lookups if operation.is_lookup else self._products
        if view.name not in kept:
            kept[view.name] = torch.zeros(view.groups, view.rows, dtype=torch.float64, device=gradient.device)
        kept[view.name][factor.first : factor.first + factor.count] += operation.squares(factor, gradient)

    def _likelihood(self, logits: Tensor) -> Tensor:
        rows = logits.reshape(-1, logits.shape[-1])
        drawn = torch.multinomial(rows.detach().float().softmax(-1).cpu(), 1, generator=self._generator)
        return functional.cross_entropy(rows, drawn.squeeze(1).to(rows.device), reduction="sum")

    def _signed(self, outputs: Tensor) -> Tensor:
        signs = torch.randint(0, 2, outputs.shape, generator=self._generator).to(outputs.device)
        return (outputs * (2 * signs - 1)).sum()
