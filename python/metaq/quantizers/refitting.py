"""Fits what is kept exactly to the weights that have been quantized.

Scales and biases of norms, and all other parameters of one dimension, cost the same in a file whatever their values.
They are fitted by gradient descent, so that the outputs of the quantized model come near those of the model as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from metaq.errors import InputError
from metaq.progress import Progress
from metaq.quantizers.calibration import check_batches
from metaq.quantizers.gradients import Loss, main_output
from metaq.quantizers.observation import batch_bytes, run, sample_count, still
from metaq.quantizers.padding import at_tokens, token_mask
from metaq.quantizers.recalibration import correct_statistics

_HELD_OUT_SHARE = 0.1  # of the batches


@dataclass(frozen=True)
class Refit:
    """What came of `refit`: distances of held-out outputs to those of the reference.

    The distance is the KL divergence of predictions, in nats, if outputs are logits (`Loss`), and otherwise the squared
    error relative to the reference's energy.

    Attributes:
        before: of the model as it was given.
        after: of the model as it is left; at most ``before``.
    """

    before: float
    after: float


def refit(
    model: nn.Module,
    reference: nn.Module,
    batches: Iterable[Any],
    *,
    epochs: int = 4,
    learning_rate: float = 1e-3,
    progress: Progress | None = None,
) -> Refit:
    """Fit all parameters of one dimension, and statistics of batch normalisation, to a reference's outputs, by Adam.

    A tenth of the batches is held out, one at least. The state that does best on them is kept: after one of the epochs,
    before the first, or as the model was given.

    Args:
        model: the quantized one, on the device of the batches.
        reference: gives outputs of the same shape; is not changed.
        batches: as for `metaq.calibrate`; at least two.

    Raises:
        InputError: too few batches, one that a model does not take, or outputs of different shapes.

    Example:
        >>> reference, model = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> found = refit(model, reference, [torch.ones(4, 3)] * 4, epochs=2)
        >>> found.after <= found.before
        True
    """
    check_batches(batches)
    kept = [batch for batch in batches if sample_count(batch)]
    if len(kept) < 2:
        raise InputError(f"refit: expected two batches at least, one of them to be held out, found {len(kept)}")
    count = max(1, int(_HELD_OUT_SHARE * len(kept)))
    fitted, held_out = kept[:-count], kept[-count:]
    progress = progress or Progress()
    progress.begin("refitting", epochs * sum(map(batch_bytes, fitted)))
    with still(model), still(reference), _only_vectors(model) as vectors:
        best = _Best(model, vectors, References(reference, held_out))
        before = best.distance
        correct_statistics(model, reference, fitted)
        best.look()
        descent = _Descent(model, References(reference, fitted), vectors, learning_rate)
        for _ in range(epochs if vectors else 0):
            descent.run(progress)
            best.look()
        best.restore()
    return Refit(before, best.distance)


class _Descent:
    """Adam, on copies in float32 of parameters that may be narrower."""

    def __init__(
        self, model: nn.Module, references: References, vectors: list[nn.Parameter], learning_rate: float
    ) -> None:
        self.model, self.references, self.vectors = model, references, vectors
        self.copies = [parameter.detach().float().clone() for parameter in vectors]
        self.optimizer = torch.optim.Adam(self.copies, lr=learning_rate) if vectors else None
        self.generator = torch.Generator().manual_seed(0)

    def run(self, progress: Progress) -> None:
        """Take a step for each batch, in an order that is drawn."""
        batches = self.references.batches
        for index in torch.randperm(len(batches), generator=self.generator).tolist():
            with torch.enable_grad():
                missed = self.references.distance(self.model, index)
            if missed.requires_grad:
                self._step(torch.autograd.grad(missed, self.vectors, allow_unused=True))
            progress.advance(batch_bytes(batches[index]), 0)

    @torch.no_grad()
    def _step(self, gradients: tuple[Tensor | None, ...]) -> None:
        for copy, gradient in zip(self.copies, gradients, strict=True):
            copy.grad = None if gradient is None else gradient.float()
        if self.optimizer is not None:
            self.optimizer.step()
        for parameter, copy in zip(self.vectors, self.copies, strict=True):
            parameter.copy_(copy)


class _Best:
    """The state with the least distance so far."""

    def __init__(self, model: nn.Module, vectors: list[nn.Parameter], references: References) -> None:
        self.model, self.references = model, references
        self.tensors: list[Tensor] = [*vectors, *model.buffers()]
        self.distance = references.mean_distance(model)
        self._state = self._copy()

    def look(self) -> None:
        """Keep the model's state if it is better."""
        found = self.references.mean_distance(self.model)
        if found < self.distance or self.distance != self.distance:
            self.distance, self._state = found, self._copy()

    def restore(self) -> None:
        """Put the model into the best state."""
        with torch.no_grad():
            for tensor, values in zip(self.tensors, self._state, strict=True):
                tensor.copy_(values)

    def _copy(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self.tensors]


@contextmanager
def _only_vectors(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The parameters of one dimension, which alone ask for gradients."""
    asked = {parameter: parameter.requires_grad for parameter in model.parameters()}
    vectors = [parameter for parameter in asked if parameter.ndim <= 1 and parameter.is_floating_point()]
    for parameter in asked:
        parameter.requires_grad_(False)
    for parameter in vectors:
        parameter.requires_grad_(True)
    try:
        yield vectors
    finally:
        for parameter, has_asked in asked.items():
            parameter.requires_grad_(has_asked)


class References:
    """What a model gives for each of some batches, and how far others are from it.

    It runs once for each batch whose outputs are no larger than the batch itself, and otherwise each time.
    """

    def __init__(self, model: nn.Module, batches: list[Any]) -> None:
        self.model, self.batches = model, batches
        self._known: dict[int, tuple[Tensor, Loss]] = {}

    def distance(self, model: nn.Module, index: int) -> Tensor:
        """How far outputs for a batch are from those of the reference, as in `Refit`.

        Outputs at padding do not count (`metaq.quantizers.padding.token_mask`).
        """
        expected, loss = self._outputs(index)
        batch = self.batches[index]
        found, _ = main_output(run(model, batch, index))
        if found.shape != expected.shape:
            shape = tuple(expected.shape)
            raise InputError(f"refit: expected outputs of the reference's shape {shape}, found {tuple(found.shape)}")
        is_token = token_mask(batch, index)
        expected, found = (at_tokens(outputs.float(), is_token) for outputs in (expected, found))
        if loss is Loss.LIKELIHOOD:
            rows = found.reshape(-1, found.shape[-1]).log_softmax(-1)
            aim = expected.reshape(-1, expected.shape[-1]).log_softmax(-1)
            return functional.kl_div(rows, aim, reduction="batchmean", log_target=True)
        energy = expected.square().sum().clamp_min(torch.finfo(torch.float32).tiny)
        return (found - expected).square().sum() / energy

    @torch.no_grad()
    def mean_distance(self, model: nn.Module) -> float:
        """The mean over all batches."""
        distances = [self.distance(model, index) for index in range(len(self.batches))]
        return float(torch.stack(distances).mean())

    @torch.no_grad()
    def _outputs(self, index: int) -> tuple[Tensor, Loss]:
        if index in self._known:
            return self._known[index]
        batch = self.batches[index]
        outputs, loss = main_output(run(self.model, batch, index))
        if outputs.nbytes <= batch_bytes(batch):
            self._known[index] = outputs.clone(), loss  # of outputs that are part of more, only that part
        return outputs, loss
