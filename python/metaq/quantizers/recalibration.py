"""Batch normalisation's statistics after quantization, since quantized weights give other activations.

`recalibrate` measures them anew, which takes data like that of training. `correct_statistics` moves them by as much as
activations have moved, which a hundred samples tell, even where they are unlike those of training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metaq.quantizers.observation import apply, run, still

_Norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Any]) -> None:
    """Replace every running mean and variance by their averages over ``batches``, as `metaq.calibrate` takes them.

    Weights stay. A model without batch normalisation, or no batches, is left as it is.
    """
    norms = [module for module in model.modules() if isinstance(module, _Norms) and module.track_running_stats]
    batches = iter(batches)
    first = next(batches, None)
    if not norms or first is None:
        return
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    model.eval()  # so that weights are those of the file, whatever a method trains
    try:
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # which torch takes for the plain average over all batches
        for batch in (first, *batches):
            apply(model, batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)


_MOST_RATIO = 4.0  # of variances: a channel that quantization has all but emptied is not amplified without end


@torch.no_grad()
def correct_statistics(model: nn.Module, reference: nn.Module, batches: Iterable[Any]) -> None:
    """Let each channel of batch normalisation give what it gives in a reference, in mean and in deviation.

    With m and v the mean and variance of a channel's inputs in the model, n and w those in the reference, and M and V
    its running ones there, the model's become ``V v / w`` and ``m + (M - n) √(v / w)``.

    All that comes before a norm has been corrected when its inputs are measured.

    Args:
        model: quantized; of the reference's modules.
        batches: as for `metaq.calibrate`.
    """
    theirs = {name: norm for name, norm in reference.named_modules() if _has_statistics(norm)}
    if not theirs:
        return
    ours = dict(model.named_modules())
    corrections = [_Correction(ours[name], norm) for name, norm in theirs.items()]
    hooks = [hook for correction in corrections for hook in correction.hooks()]
    try:
        with still(model), still(reference):
            for index, batch in enumerate(batches):
                run(reference, batch, index)
                run(model, batch, index)
    finally:
        for hook in hooks:
            hook.remove()


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _Norms) and bool(module.track_running_stats)


@dataclass
class _Sums:
    """Sums over batches of means and of mean squares, of shape (channels,)."""

    count: int = 0
    means: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, inputs: Tensor) -> None:
        # Sums of what lies together in memory take a twentieth of the time of a sum over samples and positions.
        values = inputs.detach().float().reshape(*inputs.shape[:2], -1)
        self.count += 1
        self.means = self.means + values.mean(2).double().mean(0)
        norms = torch.linalg.vector_norm(values, dim=2).double()
        self.squares = self.squares + norms.square().mean(0) / values.shape[2]

    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean and the variance."""
        mean = torch.as_tensor(self.means) / self.count
        return mean, (torch.as_tensor(self.squares) / self.count - mean.square()).clamp_min(0)


class _Correction:
    """Of one norm, while batches run."""

    def __init__(self, ours: nn.Module, theirs: nn.Module) -> None:
        self.ours, self.theirs = ours, theirs
        self.ours_sums, self.their_sums = _Sums(), _Sums()

    def hooks(self) -> list[Any]:
        """Those that see the inputs of both."""
        return [
            self.theirs.register_forward_pre_hook(lambda _, inputs: self.their_sums.add(inputs[0])),
            self.ours.register_forward_pre_hook(lambda _, inputs: self._correct(inputs[0])),
        ]

    def _correct(self, inputs: Tensor) -> None:
        self.ours_sums.add(inputs)
        mean, variance = self.ours_sums.moments()
        their_mean, their_variance = self.their_sums.moments()
        running_mean, running_variance = self.theirs.get_buffer("running_mean"), self.theirs.get_buffer("running_var")
        epsilon = float(self.theirs.eps)  # type: ignore[arg-type]
        tiny = epsilon * 1e-3
        ratio = ((variance + tiny) / (their_variance + tiny)).clamp(1 / _MOST_RATIO, _MOST_RATIO)
        self.ours.get_buffer("running_var").copy_((running_variance + epsilon) * ratio - epsilon)
        self.ours.get_buffer("running_mean").copy_(mean + (running_mean - their_mean) * ratio.sqrt())
