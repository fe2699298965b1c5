"""The baselines of `post_training.py`, written anew from their papers' main ideas.

nearest-tensor, nearest-groups: rounding to nearest; a float16 scale and a zero point for each tensor, or for each 128
    weights of a row.
gptq: Frantar et al. 2023; columns in their order, errors fed back, a scale and a zero point for each 128 of a row.
scalar: one step a tensor, all at one slope of squared error against ideal entropy.
watersic: 2603.04956; errors fed back, steps by waterfilling, all layers at one rate, rows scaled to their least error,
    ideal entropy, and 16 bits for each row and each column. Weights that are not one matrix with known inputs have one
    step instead.
l1-scales: as EntQuant; a float16 scale for each row, chosen by squared error and the L1 norm of its symbols.

Where a weight's inputs are unknown or it is a table that is looked up in, "gptq" rounds to nearest in groups.
A baseline whose size is an ideal entropy counts no tables, and no file is written.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 128  # weights that have one scale
DAMPING = 0.01  # of the diagonal's mean, added to it
HALF_BITS = 16
SMALLEST = 2.0**-24  # float16 above 0
FRACTION = 8  # steps that are tried in an octave
OCTAVES = (-6, 2)  # of steps that are tried, about the root mean square of the weights
ROUNDS = 40  # of bisection
LAYER_ROUNDS = 8


@dataclass(frozen=True)
class Layer:
    """A weight.

    Attributes:
        matrices: float32, (groups, rows, columns).
        moments: of the inputs, (groups, columns, columns), if they are known.
    """

    matrices: Tensor
    moments: Tensor | None


@dataclass(frozen=True)
class Rounded:
    """A layer's values, and the bits that they take with all their scales."""

    values: Tensor
    bits: float


Baseline = Callable[[Sequence[Layer], float], list[Rounded]]


def half(scales: Tensor) -> Tensor:
    """Scales as float16 holds them, above 0."""
    return scales.half().float().clamp_min(SMALLEST)


def entropy_bits(symbols: Tensor) -> float:
    """Zero-order entropy of all symbols together, in bits."""
    flat = symbols.flatten().long()
    counts = torch.bincount(flat - flat.min()).double()
    counts = counts[counts > 0]
    return float(flat.numel() * math.log2(flat.numel()) - (counts * counts.log2()).sum())


def column_entropy_bits(symbols: Tensor, steps: Tensor) -> float:
    """The least entropy of a matrix whose columns, in the order of their steps, are cut into 1, 2, 4, ... parts.

    Distributions of parts have to be learned, each of k levels and n symbols for ``(k - 1) / 2 log2 n`` bits, as
    Rissanen has it.
    """
    ordered = symbols[:, steps.argsort()]
    found = [entropy_bits(symbols)]
    count = 2
    while count <= symbols.shape[1]:
        parts = ordered.chunk(count, dim=1)
        found.append(sum(entropy_bits(part) + (len(part.unique()) - 1) / 2 * math.log2(part.numel()) for part in parts))
        count *= 2
    return min(found)


class Grid:
    """2^bits equally spaced levels from the least to the largest weight along the last dimension, 0 included."""

    def __init__(self, weights: Tensor, bits: int) -> None:
        low, high = weights.amin(-1).clamp_max(0), weights.amax(-1).clamp_min(0)
        self.last = 2**bits - 1
        self.scale = half((high - low) / self.last)
        self.zero = (-low / self.scale).round().clamp(0, self.last)
        self.bits = self.scale.numel() * (HALF_BITS + bits)

    def nearest(self, weights: Tensor) -> Tensor:
        """The nearest levels of weights that have the shape of the scales."""
        symbols = (weights / self.scale + self.zero).round().clamp(0, self.last)
        return (symbols - self.zero) * self.scale


def nearest_by_tensor(layers: Sequence[Layer], bits: float) -> list[Rounded]:
    found = []
    for layer in layers:
        grid = Grid(layer.matrices.flatten(), int(bits))
        found.append(Rounded(grid.nearest(layer.matrices), int(bits) * layer.matrices.numel() + grid.bits))
    return found


def nearest_by_groups(layers: Sequence[Layer], bits: float) -> list[Rounded]:
    return [_nearest_by_groups(layer, int(bits)) for layer in layers]


def _nearest_by_groups(layer: Layer, bits: int) -> Rounded:
    values, size = [], float(bits * layer.matrices.numel())
    for block in layer.matrices.split(GROUP, dim=2):
        grid = Grid(block, bits)
        values.append(grid.nearest(block.movedim(2, 0)).movedim(0, 2))
        size += grid.bits
    return Rounded(torch.cat(values, dim=2), size)


def feedback_factor(moments: Tensor) -> Tensor:
    """U of H^-1 = Uᵀ U, upper triangular, float32, (groups, columns, columns)."""
    damping = DAMPING * moments.diagonal(dim1=1, dim2=2).mean(1, keepdim=True).clamp_min(1e-30)
    damped = moments.double() + torch.diag_embed(damping.double().expand(-1, moments.shape[1]))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()


def feed_back(
    matrices: Tensor, factor: Tensor, rounder_of: Callable[[slice, Tensor], Callable[[int, Tensor], Tensor]]
) -> Tensor:
    """Round columns one after the other, those behind making up for each error.

    Args:
        rounder_of: from a block of columns, as they are after the errors before them, to what rounds one of its
            columns, told by its place in the block.
    """
    moved, values = matrices.clone(), torch.empty_like(matrices)
    for first in range(0, matrices.shape[2], GROUP):
        at = slice(first, min(first + GROUP, matrices.shape[2]))
        block, shares = moved[:, :, at], factor[:, at, at]
        errors = torch.empty_like(block)
        rounder = rounder_of(at, block)
        for j in range(block.shape[2]):
            values[:, :, first + j] = rounder(j, block[:, :, j])
            errors[:, :, j] = (block[:, :, j] - values[:, :, first + j]) / shares[:, j, j, None]
            block[:, :, j + 1 :] -= errors[:, :, j, None] * shares[:, None, j, j + 1 :]
        moved[:, :, at.stop :] -= errors @ factor[:, at, at.stop :]
    return values


def gptq(layers: Sequence[Layer], bits: float) -> list[Rounded]:
    return [_gptq(layer, int(bits)) for layer in layers]


def _gptq(layer: Layer, bits: int) -> Rounded:
    if layer.moments is None:
        return _nearest_by_groups(layer, bits)
    grids = []

    def rounder_of(_: slice, block: Tensor) -> Callable[[int, Tensor], Tensor]:
        grids.append(Grid(block, bits))
        return lambda _, column: grids[-1].nearest(column)

    values = feed_back(layer.matrices, feedback_factor(layer.moments), rounder_of)
    return Rounded(values, bits * values.numel() + sum(grid.bits for grid in grids))


def scalar(layers: Sequence[Layer], budget_bits: float) -> list[Rounded]:
    curves = [_Curve(layer) for layer in layers]

    def bits(slope: float) -> float:
        return sum(curve.bits[curve.best(slope)] for curve in curves)

    slope = _least_within(bits, budget_bits)
    return [curve.rounded(slope) for curve in curves]


class _Curve:
    """Squared error and ideal entropy of a layer on one step, for many steps."""

    def __init__(self, layer: Layer) -> None:
        self.matrices = layer.matrices
        self.steps = _steps(layer.matrices.square().mean().sqrt())
        self.errors, self.bits = [], []
        for step in self.steps:
            symbols = (layer.matrices / step).round()
            self.errors.append(float((symbols * step - layer.matrices).square().sum()))
            self.bits.append(entropy_bits(symbols) + HALF_BITS)

    def best(self, slope: float) -> int:
        prices = [error + 2**slope * bits for error, bits in zip(self.errors, self.bits, strict=True)]
        return min(range(len(prices)), key=prices.__getitem__)

    def rounded(self, slope: float) -> Rounded:
        at = self.best(slope)
        return Rounded((self.matrices / self.steps[at]).round() * self.steps[at], self.bits[at])


def _steps(size: Tensor) -> list[Tensor]:
    """Steps around the size of the weights that have each; it has any shape."""
    exponents = range(OCTAVES[0] * FRACTION, OCTAVES[1] * FRACTION + 1)
    return [half(size * 2 ** (exponent / FRACTION)) for exponent in exponents]


def _least_within(bits: Callable[[float], float], budget_bits: float) -> float:
    """The least exponent, within bisection, whose bits are at most the budget; bits fall with it."""
    low, high = -60.0, 30.0
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        if bits(middle) > budget_bits:
            low = middle
        else:
            high = middle
    return high


def l1_scales(layers: Sequence[Layer], budget_bits: float) -> list[Rounded]:
    scaled = [_Scaled(layer) for layer in layers]
    chosen = _least_within(lambda exponent: sum(one.rounded(exponent).bits for one in scaled), budget_bits)
    return [one.rounded(chosen) for one in scaled]


class _Scaled:
    """What the scales of rows come to: squared errors in units of the layer's mean square, and L1 norms of symbols."""

    def __init__(self, layer: Layer) -> None:
        self.matrices = layer.matrices
        energy = layer.matrices.square().mean()
        self.steps = torch.stack(_steps(layer.matrices.square().mean(2, keepdim=True).sqrt()))
        errors, norms = [], []
        for steps in self.steps:
            symbols = self._symbols(steps)
            errors.append((symbols * steps - layer.matrices).square().sum(2) / energy)
            norms.append(symbols.abs().sum(2))
        self.errors, self.norms = torch.stack(errors), torch.stack(norms)

    def _symbols(self, steps: Tensor) -> Tensor:
        return (self.matrices / steps).round().clamp(-127, 127)

    def rounded(self, exponent: float) -> Rounded:
        best = (self.errors + 2**exponent * self.norms).argmin(0)
        steps = self.steps.gather(0, best[None, :, :, None])[0]
        symbols = self._symbols(steps)
        return Rounded(symbols * steps, entropy_bits(symbols) + HALF_BITS * steps.numel())


def watersic(layers: Sequence[Layer], budget_bits: float) -> list[Rounded]:
    weights = sum(layer.matrices.numel() for layer in layers)
    rate = (budget_bits - sum(side_bits(layer) for layer in layers)) / weights
    return [watersic_layer(layer, rate) for layer in layers]


def _has_feedback(layer: Layer) -> bool:
    return layer.moments is not None and layer.matrices.shape[0] == 1


def side_bits(layer: Layer) -> int:
    """What the scales of "watersic" take."""
    _, rows, columns = layer.matrices.shape
    return HALF_BITS * (rows + columns if _has_feedback(layer) else 1)


def watersic_layer(layer: Layer, rate: float) -> Rounded:
    """A layer whose symbols take at most so many bits a weight, as nearly as a few rounds of search find it.

    The scale that all its steps have in common moves by an octave for each bit a weight that is missed.
    """
    factor = feedback_factor(layer.moments) if layer.moments is not None and _has_feedback(layer) else None
    octave = 1.8 - rate + float(layer.matrices.square().mean().sqrt().log2())
    if factor is not None:
        octave -= float(factor.diagonal(dim1=1, dim2=2).log2().mean())
    best: Rounded | None = None
    for _ in range(LAYER_ROUNDS):
        found = _fed_back(layer, factor, 2**octave) if factor is not None else _one_step(layer, 2**octave)
        missed = found.bits / layer.matrices.numel() - rate
        if missed <= 0 and (best is None or found.bits > best.bits):
            best = found
        if -0.005 < missed <= 0:
            break
        octave += missed + 0.002
    best = best or found
    return Rounded(best.values, best.bits + side_bits(layer))


def _one_step(layer: Layer, step: float) -> Rounded:
    symbols = (layer.matrices / step).round()
    return Rounded(symbols * step, entropy_bits(symbols))


def _fed_back(layer: Layer, factor: Tensor, scale: float) -> Rounded:
    steps = half(scale * factor.diagonal(dim1=1, dim2=2))[0]

    def rounder_of(at: slice, _: Tensor) -> Callable[[int, Tensor], Tensor]:
        return lambda j, column: (column / steps[at][j]).round() * steps[at][j]

    values = feed_back(layer.matrices, factor, rounder_of)
    symbols = (values[0] / steps).round()
    return Rounded(values * _row_scales(values, layer.matrices, layer.moments), column_entropy_bits(symbols, steps))


def _row_scales(values: Tensor, matrices: Tensor, moments: Tensor) -> Tensor:
    """What each row is multiplied by to be nearest to the exact one in the metric of the moments."""
    of_values = values @ moments
    exact, squares = (of_values * matrices).sum(2), (of_values * values).sum(2)
    return half(torch.where(squares > 0, exact / squares.clamp_min(1e-30), 1.0))[:, :, None]


FIXED: dict[str, Baseline] = {
    "nearest-tensor": nearest_by_tensor,
    "nearest-groups": nearest_by_groups,
    "gptq": gptq,
}
WITHIN_BUDGET: dict[str, Baseline] = {"scalar": scalar, "l1-scales": l1_scales, "watersic": watersic}
