"""Measures batch normalisation's statistics anew: quantized weights give other activations than training has seen."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_Norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace every running mean and variance by their averages over ``batches`` of inputs; weights stay.

    A model without batch normalisation, or no batches, is left as it is.
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
        for inputs in (first, *batches):
            model(inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)
