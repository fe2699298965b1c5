"""LC's C step under a size: of all weights on a grid whose file has the size, find nearly the nearest.

    min over s and q of  Σ_i (w_i - s q_i)²   s.t.  bytes(q) = B,   q integers, one step s for all parameters

At a given price of a bit the best quantizers of all tensors have the same step, nearly, since all squared errors count
alike; so one number decides everything, and the size falls with it. Each q_i is the level of least
``(w_i - s q)² + κ s² ξ_q``, ξ the code lengths of its tensor's nearest levels. Steps in files are short, so κ takes up
what their rounding leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metaq.codebook import short_step
from metaq.methods.size_control import cheapest, code_lengths, entropy_bytes

_KAPPA = 0.15  # squared steps that a bit is worth
_LEAST_KAPPA, _LARGEST_KAPPA = 0.0, 1.0
_LEAST_STEP = 2.0**-11  # of the largest weight
_TOLERANCE = 0.004  # of the size, relatively
_BISECTIONS = 14
_SAMPLE = 1 << 18  # weights of a parameter among which the step is searched


class SizedGrid:
    """The C step for one size.

    Args:
        target_bytes: of the whole file.

    Attributes:
        per_coded_byte: bytes of the file for one of the symbols' entropy; 1 until it has been measured.
        step: s of the last projection.
    """

    def __init__(self, target_bytes: int) -> None:
        self.target_bytes = target_bytes
        self.per_coded_byte = 1.0
        self.step = 1.0
        self.coded_bytes = 1.0  # of the last projection

    def project(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """The compressed weights, float32, each like its parameter's ``weights``."""
        sample = [_sampled(tensor) for tensor in weights]
        sizes = [tensor.numel() for tensor in weights]
        aim = (1 - _TOLERANCE) * self.target_bytes / self.per_coded_byte
        largest = max(float(tensor.abs().max()) for tensor in weights) or 1.0

        def bytes_at(step: float, kappa: float) -> float:
            return sum(_coded_bytes(_symbols(w, step, kappa), size) for w, size in zip(sample, sizes, strict=True))

        low, high = math.log(_LEAST_STEP * largest), math.log(2 * largest)
        self.step = short_step(math.exp(_bisected(low, high, lambda log: bytes_at(math.exp(log), _KAPPA) > aim)))
        kappa = _bisected(_LEAST_KAPPA, _LARGEST_KAPPA, lambda kappa: bytes_at(self.step, kappa) > aim)
        symbols = [_symbols(tensor, self.step, kappa) for tensor in weights]
        self.coded_bytes = max(1.0, sum(_coded_bytes(row, row.numel()) for row in symbols))
        return [row.to(torch.float32) * self.step for row in symbols]

    def is_met_by(self, size_bytes: int) -> bool:
        """Whether the file has its size with the last projection; the next one takes this one's as the measure."""
        self.per_coded_byte = size_bytes / self.coded_bytes
        return 1 - 2 * _TOLERANCE <= size_bytes / self.target_bytes <= 1


def _bisected(low: float, high: float, is_too_large: Callable[[float], bool]) -> float:
    """The least number, about, at which a file is not too large; sizes fall from ``low`` to ``high``."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_too_large(middle) else (low, middle)
    return high


def _symbols(weights: Tensor, step: float, kappa: float) -> Tensor:
    """int32 symbols in the weights' shape."""
    scaled = weights / step
    nearest = scaled.round().to(torch.int64)
    least, greatest = min(int(nearest.min()), 0), max(int(nearest.max()), 1)
    counts = (nearest - least).reshape(-1).bincount(minlength=greatest - least + 1)
    levels = torch.arange(least, greatest + 1, device=weights.device)
    return cheapest(scaled, levels, code_lengths(counts[None])[0], kappa) + least


def _coded_bytes(symbols: Tensor, size: int) -> float:
    """The entropy of a parameter of ``size`` weights whose symbols, or a sample of them, these are."""
    counts = (symbols - symbols.min()).reshape(-1).bincount()
    return entropy_bytes(counts[None]) * size / symbols.numel()


def _sampled(weights: Tensor) -> Tensor:
    flat = weights.reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLE)]
