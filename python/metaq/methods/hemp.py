"""HEMP: High-order Entropy Minimization for neural network comPression (Tartaglione et al. 2021).

    min_w  L(w) + R(w),    R = λ_H H_n + λ_E E                                                     (24), (26)

H_n is the entropy of the tuples of n weights that quantization to each layer's levels would give, made differentiable:
`metaq.solvers.tuple_entropy` has the formulas; `metaq.methods.hemp_terms` has E, the insensitivity and the sum. The
network trains in floating point: its weights gather at the levels, which are fitted to them again and again.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metaq.assign import nearest, reconstruct
from metaq.codebook import Codebook, TableCodebook, UniformCodebook, short_step
from metaq.compressed_model import CompressedModel
from metaq.errors import InputError
from metaq.methods.base import Method, check_fields, gradient_of
from metaq.methods.hemp_levels import multiples, multiples_of, shortened, symbol_range, trimmed
from metaq.methods.hemp_shards import LayersInShards
from metaq.methods.hemp_terms import Layers, Weighting, nearest_level
from metaq.methods.schedule import Schedule, factor_at, in_steps, is_schedule, known_length
from metaq.methods.size_control import Steered, cheapest, code_lengths, entropy_bytes, sampled, weights_of
from metaq.methods.training import UNKNOWN_TRAINING, Training
from metaq.metrics import coded_weights
from metaq.solvers.lloyd_max import best_levels, lloyd_max, spread
from metaq.solvers.tuple_entropy import Gradient, tuples, value

_HIGHEST_ORDER = 62  # of which the tuples of as few as two levels can be numbered
_LEAST_LEVELS = 3  # that a size may ask for: with fewer, no level is left between those of the large weights
_LEAST_FITS = 40  # of levels, in a training to a size


class Quantizer(Enum):
    """Where a layer's levels lie.

    LLOYD_MAX: at the means of the weights nearest to them; each fit starts from the levels of the last.
    KMEANS: at the best such means; with a zero level, where Lloyd-Max leads from the best means on each side of it.
    UNIFORM: equally spaced over the weights' range; with a zero level, multiples of a step that cover it.
    FIXED: as UNIFORM when training begins, and never again.
    """

    LLOYD_MAX = "lloyd-max"
    KMEANS = "k-means"
    UNIFORM = "uniform"
    FIXED = "fixed"


class Entropy(NamedTuple):
    """H_n / n, a float64 scalar, and its gradient with respect to the weights."""

    bits_per_weight: Tensor
    gradient: Any


def entropy(
    weights: Tensor | Sequence[Tensor],
    levels: Tensor | Sequence[Tensor],
    order: int,
    rule: Gradient = Gradient.EXACT,
) -> Entropy:
    """The proxy H_n of (8), divided by n, and its gradient.

    Args:
        weights: floating point, any shape; or those of several layers, which then share one histogram.
        levels: increasing, (C,); or those of each layer. Weights beyond the outermost level count as on it.
        order: n; tuples are runs of n entries of a flattened tensor; entries at its end that fill none are left out.
        rule: the exact gradient, or (17) as printed.

    Returns:
        bits per weight, and the gradient like ``weights``.

    Raises:
        InputError: an order below 1, or so high that N^n cells cannot be numbered.
    """
    is_single = isinstance(weights, Tensor)
    tensors: Sequence[Tensor] = [weights] if isinstance(weights, Tensor) else weights
    layers = Layers(tensors, [levels] if isinstance(levels, Tensor) else levels, order)
    gradients = [torch.zeros_like(tensor, requires_grad=False).contiguous() for tensor in tensors]
    bits, _ = layers.add_gradient(gradients, Weighting(1 / order, 0.0, rule, insensitivity=False))
    return Entropy(torch.tensor(bits / order, dtype=torch.float64), gradients[0] if is_single else gradients)


def proxy_entropy(model: CompressedModel, weights: Mapping[str, Tensor], order: int) -> float:
    """H_n / n, in bits per weight, of the float weights that became ``model``, whatever method made it.

    A weight between two levels counts as both, by its distance from each, (7) and (8), so that where all weights lie on
    levels it equals `metaq.metrics.entropy_of_order`.

    Args:
        weights: for every coded tensor of floating point, by its name, what it was before quantization.

    Raises:
        InputError: an order below 1, or so high that the cells of the histogram cannot be numbered.
    """
    coded = coded_weights(model)
    if not coded:
        return 0.0
    ranges = {name: list(map(int, entry.symbols.aminmax())) for name, entry in coded.items()}
    least = min(first for first, _ in ranges.values())
    levels, offsets = [], []
    for name, entry in coded.items():
        first, last = ranges[name]
        levels.append(reconstruct(torch.arange(first, last + 1), entry.codebook, torch.float32))
        offsets.append(first - least)
    found = tuples([weights[name] for name in coded], levels, order, offsets)
    return float(value(found)) / order


@dataclass(frozen=True)
class HEMP(Method):
    """Configuration of HEMP; the defaults are the paper's.

    Attributes:
        order: n, of the entropy that is minimised.
        levels: N, the number of every layer's levels; their largest number, where training is to a size.
        strength: λ_H.
        schedule: (share of the training, factor of λ_H) in order; linear in between, constant before and after.
        error_strength: λ_E.
        last_error_strength: λ_E in the last phase, in which weights are to settle at their levels; the paper has no
            such phase.
        quantizer: where the levels lie.
        reach: how far levels go that are multiples of a step, as a multiple of the weights' largest magnitude. Where
            they are fixed, the weights that are left after pruning may need larger values than all had before.
        zero_level: whether one level is 0 in every layer, as pruning needs.
        refresh_every: training steps between two fits of the levels.
        gradient: the exact gradient of H_n, or the printed one.
        insensitivity: whether the gradient of R is re-weighted by (27).
        straight_through: whether training sees the quantized weights too, and the float ones take their gradients; the
            paper trains on the float ones.
    """

    order: int = 2
    levels: int = 16
    strength: float = 1.0
    schedule: Schedule = ()
    error_strength: float = 0.1
    last_error_strength: float = 0.1
    quantizer: Quantizer = Quantizer.LLOYD_MAX
    reach: float = 1.0
    zero_level: bool = False
    refresh_every: int = 100
    gradient: Gradient = Gradient.EXACT
    insensitivity: bool = True
    straight_through: bool = False

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("order", 1 <= self.order <= _HIGHEST_ORDER, f"1 to {_HIGHEST_ORDER}"),
            ("levels", 2 <= self.levels <= 1 << 16, "2 to 65,536"),
            ("strength", self.strength >= 0 and math.isfinite(self.strength), "a finite number of at least 0"),
            ("schedule", is_schedule(self.schedule), "rising shares of the training, 0 to 1, with finite factors"),
            ("error_strength", 0 <= self.error_strength < math.inf, "a finite number of at least 0"),
            ("last_error_strength", 0 <= self.last_error_strength < math.inf, "a finite number of at least 0"),
            ("reach", 0 < self.reach < math.inf, "a finite number of more than 0"),
            ("refresh_every", self.refresh_every >= 1, "at least 1"),
        )

    def bind(self, parameters: Mapping[str, torch.nn.Parameter], training: Training = UNKNOWN_TRAINING) -> BoundHEMP:
        """HEMP at work on these parameters, its first levels fitted to their present values."""
        return BoundHEMP(self, parameters, training)


class BoundHEMP(Steered):
    """HEMP's state for one model: the levels of its parameters."""

    works_on_shards = True
    works_on_differences = True

    def __init__(self, config: HEMP, parameters: Mapping[str, torch.nn.Parameter], training: Training) -> None:
        super().__init__(parameters, training)
        if config.order > 1:
            self.ranks.refuse_shards("HEMP order", "1, or whole parameters")
        self.config = config
        self.is_straight_through = config.straight_through
        self.training_step = 0
        self.error_strength = config.error_strength
        self.schedule = in_steps(config.schedule, self.training_steps, "HEMP schedule")
        self.has_step = config.zero_level and config.quantizer in (Quantizer.UNIFORM, Quantizer.FIXED)
        self.given_steps = [training.level_distances[name] for name in parameters] if training.level_distances else []
        if self.given_steps and not (config.zero_level and config.quantizer is Quantizer.FIXED):
            found = f"{config.quantizer} and zero_level={config.zero_level}"
            raise InputError(f"HEMP of a difference: expected Quantizer.FIXED and zero_level=True, found {found}")
        self._fit_anew(config.levels)
        self.settled: list[Tensor] | None = None  # latent weights that the last step of training is not to change
        self.lengths = torch.empty(0)  # code lengths in bits by which a rate-aware quantization chooses, (T, levels)

    def present_strength(self) -> float:
        """λ_H in this training step."""
        if self.control is not None:
            return self.control.strength
        return self.config.strength * factor_at(self.schedule, self.training_step)

    def file_weights(self) -> dict[str, Tensor]:
        """The nearest levels, without symbols: straight-through training needs them in every step."""
        columns = zip(self.parameters, self.levels, strict=True)
        return {name: nearest_level(self.latent_weights(name), self._written(levels)) for name, levels in columns}

    def adjust_gradients(self) -> None:
        """Add the gradient of R, re-weighted by the loss's; fit the levels anew where it is due."""
        if self.training_step and self.training_step % self.config.refresh_every == 0:
            self._refresh()
        if self.control is not None:
            self.control.on_gradients(self)
        gradients = [gradient_of(tensor) for tensor in self.parameters.values()]
        config = self.config
        weighting = Weighting(self.present_strength(), self.error_strength, config.gradient, config.insensitivity)
        self.layers.add_gradient(gradients, weighting)
        self.training_step += 1

    def on_last_phase(self) -> None:
        """Weights settle: λ_E is that of the last phase."""
        super().on_last_phase()
        self.error_strength = self.config.last_error_strength

    def quantize_parameter(self, name: str, weights: Tensor) -> tuple[Codebook, Tensor]:
        """The nearest of the parameter's levels; symbols are positions, counted alike in all parameters."""
        index = list(self.parameters).index(name)
        levels = self.levels[index]
        quantized = self._written(levels)[self._positions(index, weights, self.rate_weight)].cpu()
        origin = min(self.config.levels // 2, len(levels) - 1)
        if self.has_step:
            step = UniformCodebook(-float(levels[origin - 1]))
            return step, nearest(quantized, step).clamp_(-origin, len(levels) - 1 - origin)
        table = TableCodebook(tuple(self._written(levels).tolist()), origin)
        symbols = nearest(quantized, table)
        return trimmed(table, *symbol_range(symbols, self.ranks.one(index))), symbols

    def measures(self) -> dict[str, float]:
        """H_n / n, in bits per weight, and E."""
        self.restore_weights()
        silent = Weighting(0.0, 0.0, Gradient.EXACT, insensitivity=False)
        scratch = [torch.zeros_like(tensor, requires_grad=False) for tensor in self.parameters.values()]
        bits, error = self.layers.add_gradient(scratch, silent)
        return {"proxy_entropy": bits / self.config.order, "reconstruction_error": error}

    def state_dict(self) -> dict[str, Any]:
        """What cannot be had from parameters and optimizer."""
        levels = [table.tolist() for table in self.levels]
        steps = {"training_step": self.training_step, "error_strength": self.error_strength}
        return (
            super().state_dict()
            | steps
            | {"levels": levels, "settled": self.settled and self.ranks.spread(self.settled)}
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self.training_step, self.error_strength = state["training_step"], state["error_strength"]
        self._set_count(max(map(len, state["levels"]), default=self.config.levels))
        self.levels = self.on_device([torch.tensor(levels, dtype=torch.float32) for levels in state["levels"]])
        self.settled = state["settled"] and self.on_device(self.ranks.local(state["settled"]))
        self.layers = self._layers()

    # What a control of the size needs.

    def aim_at(self, target_bytes: int) -> None:
        """End at a file of so many bytes.

        Training sees the quantized weights, since they are moved between levels; and however short training is, levels
        follow weights soon after these were moved.
        """
        super().aim_at(target_bytes)
        self.is_straight_through = True
        most = max(1, known_length(self.training_steps, "a size as the target") // _LEAST_FITS)
        self.config = replace(self.config, refresh_every=min(self.config.refresh_every, most))

    def fit_levels(self, bits_per_weight: float) -> None:
        """Of numbers of levels up to the configuration's, take the least that has the entropy, or the largest."""
        weights = weights_of(self)

        def entropy_of(count: int) -> float:
            self._fit_anew(count)
            return 8 * entropy_bytes(self._counts(0.0)) / weights

        most = self.config.levels
        counts = range(min(_LEAST_LEVELS, most), most)
        self._fit_anew((*counts, most)[bisect_left(counts, bits_per_weight, key=entropy_of)])

    def level_distances(self) -> list[float]:
        """The mean distances of levels."""
        return [float(levels[-1] - levels[0]) / (len(levels) - 1) for levels in self.levels]

    def add_regularizer(self, strength: float) -> None:
        """Add the gradient of strength · H_n, re-weighted by the loss's."""
        gradients = [gradient_of(tensor) for tensor in self.parameters.values()]
        self.layers.add_gradient(gradients, Weighting(strength, 0.0, self.config.gradient, self.config.insensitivity))

    def coded_bytes(self) -> float:
        """The entropy of the symbols as the nearest levels, or as `rate_weight` chooses them."""
        return entropy_bytes(self._counts(self.rate_weight))

    def begin_moves(self) -> None:
        """Count the symbols, which give the code lengths."""
        self.lengths = code_lengths(self._counts(0.0))

    @torch.no_grad()
    def move_weights(self, rate_weight: float) -> None:
        """Put latent weights on the levels that ``rate_weight`` chooses, where these are not their nearest."""
        self.restore_weights()
        for index, (latent, levels) in enumerate(zip(self.parameters.values(), self.levels, strict=True)):
            chosen = self._positions(index, latent, rate_weight)
            is_moved = chosen != self._positions(index, latent, 0.0)
            latent.copy_(torch.where(is_moved, self._written(levels)[chosen], latent))

    def settle(self) -> None:
        """The weights that training ends with, which the last step of the optimizer is not to change."""
        self.settled = [self.latent_weights(name).clone() for name in self.parameters]

    @torch.no_grad()
    def update_weights(self) -> None:
        """After the last step of training, undo it."""
        if self.settled is not None and self.training_step == self.training_steps:
            torch._foreach_copy_([parameter.detach() for parameter in self.parameters.values()], self.settled)
            self.settled = None

    def _positions(self, index: int, weights: Tensor, rate_weight: float) -> Tensor:
        """Each weight's level: the nearest, or what a rate weight, in squared mean distances of levels, chooses."""
        levels = self._written(self.levels[index])
        if not rate_weight:
            return torch.searchsorted(levels, nearest_level(weights.detach(), levels))
        price = self.control.prices[index] if self.control and self.control.prices else 1.0
        distance = self.level_distances()[index]
        lengths = self.lengths[index, : len(levels)]
        return cheapest(weights, levels, lengths, price * rate_weight * distance**2)

    def _counts(self, rate_weight: float) -> Tensor:
        """Every parameter's symbols, counted, or as many as a sample lets expect: (T, levels)."""
        rows = []
        for index, name in enumerate(self.parameters):
            weights = self.latent_weights(name)
            sample = sampled(weights)
            counts = self._positions(index, sample, rate_weight).bincount(minlength=self.config.levels)
            rows.append(counts * (weights.numel() / max(1, sample.numel())))
        return self.ranks.sum(torch.stack(rows))

    def _set_count(self, count: int) -> None:
        self.config = replace(self.config, levels=count)
        self.zero = count // 2 if self.config.zero_level else None

    def _fit_anew(self, count: int) -> None:
        """Fit so many levels, as if there had been none."""
        self._set_count(count)
        if self.given_steps:
            columns = zip(self.parameters.values(), self.given_steps, strict=True)
            self.levels = [multiples_of(short_step(step), count, tensor.device) for tensor, step in columns]
        else:
            self.levels = [self._fitted(tensor) for tensor in self._whole()]
        self.layers = self._layers()

    def _refresh(self) -> None:
        """Fit the levels anew, unless they are fixed, or a size is held that other levels would change."""
        is_holding = self.control is not None and self.control.is_last_phase
        if self.config.quantizer is not Quantizer.FIXED and not is_holding:
            columns = zip(self._whole(), self.levels, strict=True)
            self.levels = [self._fitted(tensor, levels) for tensor, levels in columns]
            self.layers = self._layers()

    def _written(self, levels: Tensor) -> Tensor:
        """The levels as the file has them: fitted ones are shortened, equally spaced ones stay so."""
        is_fitted = self.config.quantizer in (Quantizer.LLOYD_MAX, Quantizer.KMEANS)
        return shortened(levels) if is_fitted else levels

    def _whole(self) -> Iterator[Tensor]:
        """The parameters' weights, from all shards; one tensor is there at a time."""
        for index, tensor in enumerate(self.parameters.values()):
            yield self.ranks.whole(index, tensor.detach())

    def _layers(self) -> Layers | LayersInShards:
        if self.ranks.are_several:
            return LayersInShards(list(self.parameters.values()), self.levels, self.ranks)
        return Layers(list(self.parameters.values()), self.levels, self.config.order)

    def _fitted(self, tensor: Tensor, last: Tensor | None = None) -> Tensor:
        """A parameter's levels, given those it has had so far."""
        quantizer, count = self.config.quantizer, self.config.levels
        if self.has_step:
            return multiples(tensor, count, self.config.reach)
        if quantizer is Quantizer.KMEANS:
            return best_levels(tensor, count, self.zero).to(torch.float32)
        start = spread(tensor, count, self.zero)
        if quantizer is Quantizer.LLOYD_MAX:
            start = lloyd_max(tensor, start if last is None else last.to(start), self.zero)
        return start.to(torch.float32)
