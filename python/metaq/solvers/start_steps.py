"""The largest steps at which rounding weights to their multiples costs a given share of the weights' energy.

    max c   s.t.  Σ_t ‖w_t - s_t round(w_t / s_t)‖² <= error · Σ_t ‖w_t‖²,   s_t = c · rms(w_t) · n_t^(1/4),

over the tensors t of a network, of n_t weights each. At a given slope in bits the energies' steps are all the same, and
the tensors' relative errors' stand as norms do, rms · n^(1/2); but a network of many layers does not mind as much as
that what becomes of its small ones. The power is measured: ``benchmarks/start_error.py --powers``.

All that it takes of the weights is a histogram of their magnitudes, with 32 bins to the octave. Its sums are exact, so
that the result does not depend on how the weights lie on machines. Within a bin weights are taken as evenly spread.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FRACTION_BITS = 5  # of a float32's 23, which with its exponent say the bin
BINS = 1 << (8 + _FRACTION_BITS)
_PIECE = 1 << 20  # weights at a time
_FIRST_OCTAVE, _LAST_OCTAVE = 10, -40  # of the factors that are tried
_SIZE_POWER = 0.25


def magnitude_histogram(weights: Tensor) -> Tensor:
    """How many of the weights (float32, any shape, finite) have a magnitude in each bin: int64 (BINS,)."""
    counts = torch.zeros(BINS, dtype=torch.int64, device=weights.device)
    for piece in weights.detach().reshape(-1).split(_PIECE):
        bins = piece.view(torch.int32).bitwise_and(0x7FFFFFFF).bitwise_right_shift_(23 - _FRACTION_BITS)
        counts += torch.bincount(bins, minlength=BINS)
    return counts


def root_mean_squares(histograms: Tensor) -> Tensor:
    """Of every histogram (T, BINS), the root of its weights' mean square: float64 (T,); 0 where there are none."""
    low, high = _edges()
    energies = (histograms * _mean_squares(low, high))[:, 1:].sum(dim=1)
    return (energies / histograms.sum(dim=1).clamp(min=1)).sqrt()


def largest_magnitudes(histograms: Tensor) -> Tensor:
    """Of every histogram (T, BINS), bounds on its weights, at most 1/32 above the largest: float64 (T,), 0 for none."""
    _, high = _edges()
    return torch.where(histograms > 0, high, 0.0)[:, 1:].amax(dim=1)


def common_slope_steps(histograms: Tensor, error: float) -> Tensor:
    """The steps.

    Args:
        histograms: int64 (T, BINS), on the CPU.
        error: the share of the weights' energy, more than 0 and less than 1.

    Returns:
        float64 (T,), positive.
    """
    low, high = _edges()
    used = histograms.any(dim=0)
    used[0] = False  # zeros are on a level, and what else is there is as good as zero
    counts, low, high = histograms[:, used].to(torch.float64), low[used], high[used]
    limit = error * float((counts * _mean_squares(low, high)).sum())
    scales = _scales(histograms)

    def is_within(factor: float) -> bool:
        steps = (factor * scales)[:, None]
        periods = _rounding_integral(high / steps) - _rounding_integral(low / steps)
        return float((counts * steps.pow(3) * periods / (high - low)).sum()) <= limit

    octaves = range(_FIRST_OCTAVE, _LAST_OCTAVE, -1)
    octave = next((octave for octave in octaves if is_within(2.0**octave)), _LAST_OCTAVE)
    sixteenths = range(15, 0, -1)
    factors = (2.0 ** (octave + sixteenth / 16) for sixteenth in sixteenths)
    return next((factor for factor in factors if is_within(factor)), 2.0**octave) * scales


def _scales(histograms: Tensor) -> Tensor:
    """The ratio in which the steps stand, float64 (T,), positive."""
    sizes = histograms.sum(dim=1).clamp(min=1).to(torch.float64)
    roots = root_mean_squares(histograms).clamp(min=torch.finfo(torch.float32).tiny)
    return roots * (sizes / sizes.min()).pow(_SIZE_POWER)


def _edges() -> tuple[Tensor, Tensor]:
    """Least magnitude of every bin, and that of the next: float64 (BINS,)."""
    places = torch.arange(BINS + 1, dtype=torch.int64)
    exponents, fractions = places >> _FRACTION_BITS, (places & (1 << _FRACTION_BITS) - 1) / (1 << _FRACTION_BITS)
    is_normal = exponents > 0
    magnitudes = torch.ldexp(fractions.to(torch.float64) + is_normal, exponents.clamp(min=1) - 127)
    return magnitudes[:-1], magnitudes[1:]


def _rounding_integral(places: Tensor) -> Tensor:
    """∫ (x - round(x))² dx from 0 to ``places``: a twelfth for every whole one, and the cube of the rest."""
    whole = places.round()
    return whole / 12 + (places - whole).pow(3) / 3


def _mean_squares(low: Tensor, high: Tensor) -> Tensor:
    """Of weights that are evenly spread between two magnitudes."""
    return (low.square() + low * high + high.square()) / 3
