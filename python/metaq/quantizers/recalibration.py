"""Measures batch normalisation's statistics anew: quantized weights give other activations than training has seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from metaq.quantizers.observation import apply

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
