"""Squared gradients of what a model's weights give, of predictions or of any outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metaq.errors import InputError
from metaq.quantizers.layers import Factor, MatrixView, Weights
from metaq.quantizers.moments import SharedSums
from metaq.quantizers.observation import Listener
from metaq.quantizers.operations import Operation
from metaq.quantizers.padding import at_tokens

_SHARED = 0.1  # of the probability of labels that are drawn, among all classes alike


class Loss(Enum):
    """What gradients are of.

    LIKELIHOOD: the logarithm of the probability of labels that are drawn from the model's own logits, of shape
        (samples, classes) or (samples, positions, classes). With one for each sample, a few hundred samples show some
        of the classes alone; a tenth of the probability is then shared out among all, so that the others count.
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
    """Sums of squared gradients of weights, a backward pass for each batch.

    What is drawn for one sample does not depend on another, and gradients are 0 in the mean. So the square of a batch's
    gradient is, in the mean, the sum over its samples of the squares of theirs, with all that positions of a sample
    have in common.

    Of a table that is multiplied by, too, as the head of a language model that shares it with the embedding, the
    gradients are those of the product alone; what is looked up has its own.

    Args:
        loss: what they are of; if not given, it follows from each output.
        seed: of what is drawn.
    """

    def __init__(self, weights: Weights, loss: Loss | None, seed: int) -> None:
        self._weights, self._loss = weights, loss
        self._generator = torch.Generator().manual_seed(seed)
        self._squares: dict[str, Tensor] = {}  # sums over columns, by name
        self._lookups: dict[str, Tensor] = {}  # sums of g gᵀ over all that was looked up, by name
        self._expected: Tensor | None = None  # sums of the probabilities of each class
        self._looked_up: list[tuple[str, Tensor, Tensor]] = []  # of this batch: names, indices and gradients
        self._multiplied: set[str] = set()

    @contextmanager
    def of_weights(self, model: nn.Module) -> Iterator[None]:
        """A context in which the weights ask for gradients, and no other parameter does."""
        asked = {parameter: parameter.requires_grad for parameter in model.parameters()}
        wanted = {id(parameter) for parameter in self._weights.parameters.values()}
        for parameter in asked:
            parameter.requires_grad_(id(parameter) in wanted and parameter.is_floating_point())
        try:
            with torch.enable_grad():
                yield
        finally:
            for parameter, has_asked in asked.items():
                parameter.requires_grad_(has_asked)

    def listener(self, inner: Listener) -> Listener:
        """As another, and keeps the gradients of what is looked up until `take` sums them up."""

        def listen(factor: Factor, operation: Operation, output: Tensor) -> Tensor:
            output = inner(factor, operation, output)
            if not operation.is_lookup:
                self._multiplied.add(factor.view.name)
            elif output.requires_grad:
                output.register_hook(partial(self._keep, factor.view.name, operation.inputs))
            return output

        return listen

    def _keep(self, name: str, indices: Tensor, gradient: Tensor) -> None:
        gradients = gradient.detach().float().reshape(-1, gradient.shape[-1])
        self._looked_up.append((name, indices.flatten(), gradients))

    def take(self, output: Any, is_token: Tensor | None = None) -> None:
        """Add the gradients of a batch, and let go of its graph.

        Args:
            is_token: where outputs count, as in `metaq.quantizers.padding.token_mask`.

        Raises:
            InputError: there is no finite tensor of the shape that the loss asks for.
        """
        values, suited = main_output(output)
        loss = self._loss or suited
        fits = values.ndim in (2, 3) if loss is Loss.LIKELIHOOD else True
        if not fits or not bool(torch.isfinite(values).all()):
            expected = "logits of two or three dimensions" if loss is Loss.LIKELIHOOD else "outputs"
            raise InputError(f"calibrate: expected finite {expected}, found shape {tuple(values.shape)} or others")
        shared = _SHARED if values.ndim == 2 else 0.0
        values = at_tokens(values, is_token)
        total = self._likelihood(values, shared) if loss is Loss.LIKELIHOOD else self._signed(values)
        known = {name: self._weights.parameters[name] for name in self._weights.views}
        if not total.requires_grad or not known:
            return
        found = torch.autograd.grad(total, list(known.values()), allow_unused=True)
        gradients = {name: values for name, values in zip(known, found, strict=True) if values is not None}
        for name, indices, looked_up in self._looked_up:
            self._lookups[name] = self._lookups.get(name, torch.zeros(())) + (looked_up.T @ looked_up).double().cpu()
            if name in self._multiplied and name in gradients:
                gradients[name].index_add_(0, indices, -looked_up.to(gradients[name].dtype))
        self._looked_up.clear()
        for name, gradient in gradients.items():
            squares = self._weights.views[name].matrices(gradient).square().sum(2, dtype=torch.float64).cpu()
            self._squares[name] = self._squares.get(name, torch.zeros(())) + squares

    def rows(self, view: MatrixView, sums: SharedSums) -> Tensor:
        """G of a weight, float32, of shape (groups * rows,)."""
        squares = self._squares.get(view.name, torch.zeros(view.groups, view.rows, dtype=torch.float64))
        found = sums.of(view.name)
        if found is None:
            energy = view.columns * sums.counts[view.name][None].double()
        else:
            energy = found.products.diagonal(dim1=1, dim2=2).sum(1, keepdim=True).double().cpu()
        return torch.where(energy > 0, squares / energy, 0).flatten().float()

    def lookups(self, view: MatrixView) -> Tensor:
        """Σ g gᵀ over all that was looked up in a table, g its gradients, float64, (columns, columns)."""
        return self._lookups.get(view.name, torch.zeros(view.columns, view.columns, dtype=torch.float64))

    def expected(self, view: MatrixView) -> Tensor | None:
        """How often each row of a table is expected to come next, float64, where outputs say so.

        They do where logits are products with the table itself: its rows are then what is predicted.
        """
        is_head = view.name in self._multiplied and view.name in self._lookups
        expected = self._expected if is_head else None
        return expected if expected is not None and len(expected) == view.rows else None

    def _likelihood(self, logits: Tensor, shared: float) -> Tensor:
        rows = logits.reshape(-1, logits.shape[-1])
        probabilities = rows.detach().float().softmax(-1).cpu()
        total = probabilities.sum(0).double()  # in float32: many times faster, and near enough
        if self._expected is None or len(self._expected) == len(total):
            self._expected = total if self._expected is None else self._expected + total
        if shared:
            probabilities = probabilities.lerp(torch.full((), 1 / rows.shape[1]), shared)
        drawn = torch.multinomial(probabilities, 1, generator=self._generator)
        # The gradient of the cross entropy, of logits that have these probabilities: its mean is 0, shared out or not.
        slopes = probabilities.scatter_add_(1, drawn, -torch.ones(drawn.shape))
        return (rows * slopes.to(rows.device)).sum()

    def _signed(self, outputs: Tensor) -> Tensor:
        signs = torch.randint(0, 2, outputs.shape, generator=self._generator).to(outputs.device)
        return (outputs * (2 * signs - 1)).sum()
