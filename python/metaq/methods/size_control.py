"""Training to a size: a strength that follows the file's size along a path, and a fit of the weights at the end.

With B the bytes of the file, B_0 those when steering begins, and u the share of the training that is over,

    path(u) = B_0 (1.03 B_target / B_0)^((u - u_0) / (u_1 - u_0))        in between, constant afterwards
    e = ln(B / path),     ln λ = ln λ_0 + K_p e + K_i ∫ e du

λ_0 is a fixed share of the strength at which the regulariser's gradient is as large as the loss's, so that nothing
depends on the network's size or on the loss's scale. The aim before the last phase is above the target because files
shrink easily in that phase and hardly grow. There, and at the very end, weights move to cheaper or dearer levels, by
the least rate-aware quantization that brings the file to its target.
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metaq.errors import InputError
from metaq.methods.base import BoundMethod, check_fields, gradient_of
from metaq.methods.schedule import known_length
from metaq.solvers import knapsack

_BEGIN, _ARRIVE = 0.1, 0.7  # u_0 and u_1
_AIM_ABOVE, _HOLD_ABOVE = 1.03, 1.02  # times the target, before the last phase and in it
_FIRST_SHARE, _LARGEST_SHARE = 0.01, 0.5  # of the strength at which both gradients are equally large
_PROPORTIONAL, _INTEGRAL = 5.0, 60.0  # K_p, K_i
_LARGEST_CHANGE = math.log(4.0)  # bound of K_p e, and of the integral's growth from one steering to the next
_LARGEST_ERROR = 0.1  # e above which weights are moved to where the path is
_HOLDING_POWER = 50.0  # of B / B_target, which multiplies λ in the last phase while the file is too small
_STEERINGS = 200  # in a training, at equal distances
_MEASUREMENTS = 25  # of the whole file in a training; between them its size follows the symbols' entropy
_TOLERANCE = 0.004  # of the size, relatively, at the end: between 1 - 2 * 0.004 and 1 times the target
_REPORTED = 0.02  # difference from the size at the end, relatively, that is logged
_LEAST_RATE_WEIGHT, _LARGEST_RATE_WEIGHT = 2.0**-16, 2.0**10  # that a fit tries, in squared steps per bit
_PSEUDO_COUNT = 0.1  # what an empty level counts as: its code is long, not infinite
_SAMPLE = 1 << 15  # weights of a tensor whose symbols are tried
_LARGEST_PRICE = math.log(100.0)
_LARGEST_REWARD = 0.25  # of a bit, likewise; beyond, all weights flock to the rarest level
_BISECTIONS = 12
_MOST_RATIO = 1e6  # that anybody means
_FITS = 6  # measurements of the file in a fit

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SizeTarget:
    """The size to end at: ``size_bytes`` of the whole file, or ``ratio``, float32 bytes over those of the file."""

    size_bytes: int = 0
    ratio: float = 0.0

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("size_bytes", self.size_bytes >= 0, "at least 1, or 0 for no target"),
            ("ratio", not self.ratio or 1 / _MOST_RATIO <= self.ratio <= _MOST_RATIO, "1e-6 to 1e6, or 0 for none"),
            ("ratio", not (self.ratio and self.size_bytes), "0 where there is a size in bytes"),
            where="target",
        )

    def __bool__(self) -> bool:
        return bool(self.size_bytes or self.ratio)

    def bytes_for(self, weights: int) -> int:
        """The size in bytes for a network of so many weights, which have 4 bytes each in float32."""
        return self.size_bytes or max(1, round(4 * weights / self.ratio))


class Sizable(BoundMethod):
    """A bound method that can train to a size."""

    @abstractmethod
    def aim_at(self, target_bytes: int) -> None:
        """End at a file of so many bytes.

        Raises:
            InputError: the training's length is unknown.
        """


class Steered(Sizable):
    """A method whose strength is steered to a size.

    Attributes:
        control: None where the strength is the configuration's.
        training_step: steps of the optimizer so far.
        rate_weight: what a bit is worth in a quantization that is being tried, in squared distances of levels times
            `SizeControl.prices`; 0 for the nearest levels. `quantize_parameter` and `coded_bytes` obey it.
    """

    control: SizeControl | None = None
    training_step: int
    rate_weight: float = 0.0

    @abstractmethod
    def fit_levels(self, bits_per_weight: float) -> None:
        """Before training: place levels so that the present weights' entropy is at least so much, and not much more."""

    @abstractmethod
    def level_distances(self) -> list[float]:
        """For each parameter, the mean distance of neighbouring levels."""

    @abstractmethod
    def add_regularizer(self, strength: float) -> None:
        """Add ``strength`` times the regulariser's gradient to the loss's, and change nothing else."""

    @abstractmethod
    def coded_bytes(self) -> float:
        """The zero-order entropy of the symbols that the file would hold now, all tensors together, in bytes."""

    @abstractmethod
    def begin_moves(self) -> None:
        """Determine the code lengths by which `rate_weight` chooses levels."""

    @abstractmethod
    def move_weights(self, rate_weight: float) -> None:
        """Put the latent weights on the levels that ``rate_weight`` chooses."""

    @abstractmethod
    def settle(self) -> None:
        """Keep the weights' present levels through the optimizer's step that is to come, the last one of training."""

    def aim_at(self, target_bytes: int) -> None:
        """End at a file of so many bytes, by steering the strength; the levels become as fine as that needs."""
        length = known_length(self.training_steps, "a size as the target")
        weights = weights_of(self)
        self.control = SizeControl(target_bytes, length)
        self.measure_every = 1
        self.fit_levels(8 * target_bytes / weights + 1)

    def on_size(self, measure: Callable[[], int]) -> None:
        """Steer, where there is a target."""
        if self.control is not None:
            self.control.on_size(self, measure)

    def on_last_phase(self) -> None:
        """From here on the control holds the size."""
        if self.control is not None:
            self.control.is_last_phase = True

    def state_dict(self) -> dict[str, Any]:
        """The control's state."""
        return super().state_dict() | {"control": self.control and vars(self.control).copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        if self.control is not None:
            vars(self.control).update(state["control"])


class SizeControl:
    """The controller of one training.

    Args:
        target_bytes: of the whole file.
        length: of the training, in steps.

    Attributes:
        strength: λ of the next training steps.
        prices: for each parameter, the factor of a rate weight (`relative_prices`).
        is_last_phase: whether the size is only held.
    """

    def __init__(self, target_bytes: int, length: int) -> None:
        self.target_bytes, self.length = target_bytes, length
        self.strength = self.lasting_strength = self.largest_strength = 0.0
        self.first_bytes = 0.0
        self.per_coded_byte = 0.0  # bytes of the file for one of its symbols' entropy, when it was measured last
        self.last_steering = self.last_measurement = -math.inf  # training steps
        self.prices: list[float] = []
        self.must_balance = self.is_last_phase = False

    def on_size(self, method: Steered, measure: Callable[[], int]) -> None:
        """Measure and steer ``method``, where that is due."""
        step = method.training_step
        if step == self.length - 1:
            self._end(method, measure)
        if step < _BEGIN * self.length or step - self.last_steering < self.length / _STEERINGS:
            return
        elapsed = min(step - self.last_steering, step) / self.length
        self.last_steering = step
        if self.is_last_phase:
            self._hold(method, measure)
        else:
            self._steer(method, measure, elapsed)

    def on_gradients(self, method: Steered) -> None:
        """While the parameters have the loss's gradients: find the strength's bounds, where that is due."""
        if self.must_balance:
            self.must_balance = False
            self.prices = relative_prices(method)
            balanced = balanced_strength(method)
            self.largest_strength = _LARGEST_SHARE * balanced
            self.lasting_strength = self.lasting_strength or _FIRST_SHARE * balanced

    def _steer(self, method: Steered, measure: Callable[[], int], elapsed: float) -> None:
        is_measured = self._is_measurement_due(method)
        self.must_balance |= is_measured
        size_bytes = self._size(method, measure)
        self.first_bytes = self.first_bytes or size_bytes
        path = self._path(method.training_step / self.length)
        error = math.log(size_bytes / path)
        change = math.exp(min(max(_INTEGRAL * error * elapsed, -_LARGEST_CHANGE), _LARGEST_CHANGE))
        self.lasting_strength = min(self.lasting_strength * change, self.largest_strength)
        passing = math.exp(min(max(_PROPORTIONAL * error, -_LARGEST_CHANGE), _LARGEST_CHANGE))
        self.strength = min(self.lasting_strength * passing, self.largest_strength)
        if is_measured and error > _LARGEST_ERROR:
            method.begin_moves()
            method.move_weights(self._rate_weight_for(method, path))

    def _hold(self, method: Steered, measure: Callable[[], int]) -> None:
        """The file may only become smaller: move weights where it is too large, pull less where it is too small."""
        is_measured = self._is_measurement_due(method)
        size_bytes = self._size(method, measure)
        aim = _HOLD_ABOVE * self.target_bytes
        self.strength = self.lasting_strength * min(1.0, size_bytes / aim) ** _HOLDING_POWER
        if is_measured and size_bytes > aim:
            self._fit(method, measure, aim)

    def _end(self, method: Steered, measure: Callable[[], int]) -> None:
        self.last_measurement = -math.inf
        size_bytes = self._size(method, measure)
        if not 1 - 2 * _TOLERANCE <= size_bytes / self.target_bytes <= 1:
            size_bytes = self._fit(method, measure, self.target_bytes)
        if abs(size_bytes / self.target_bytes - 1) > _REPORTED:
            _log.warning("the file has %d bytes, not the %d that it was to have", size_bytes, self.target_bytes)
        method.settle()

    def _path(self, share: float) -> float:
        """The size to have by now, in bytes."""
        way = min(max((share - _BEGIN) / (_ARRIVE - _BEGIN), 0.0), 1.0)
        return float(self.first_bytes ** (1 - way) * (_AIM_ABOVE * self.target_bytes) ** way)

    def _is_measurement_due(self, method: Steered) -> bool:
        return method.training_step - self.last_measurement >= self.length / _MEASUREMENTS

    def _size(self, method: Steered, measure: Callable[[], int]) -> float:
        """The size of the file: measured where that is due, otherwise by the entropy of its symbols."""
        coded = max(method.coded_bytes(), 1.0)
        if self._is_measurement_due(method):
            self.last_measurement = method.training_step
            self.per_coded_byte = measure() / coded
        return self.per_coded_byte * coded

    def _fit(self, method: Steered, measure: Callable[[], int], size_bytes: float) -> int:
        """Move weights by the rate weight, of either sign, at which the file has the given size, and return its own."""
        method.begin_moves()
        aim = (1 - _TOLERANCE) * size_bytes
        rate_weight, found = 0.0, 0
        for _ in range(_FITS):
            rate_weight = self._rate_weight_for(method, aim)
            method.rate_weight = rate_weight
            found, coded = measure(), max(method.coded_bytes(), 1.0)
            method.rate_weight = 0.0
            self.per_coded_byte = found / coded
            if abs(found - aim) <= _TOLERANCE * size_bytes:
                break
        method.move_weights(rate_weight)
        return found

    def _rate_weight_for(self, method: Steered, aim: float) -> float:
        """By bisection of its logarithm, with sizes by the symbols' entropy."""

        def size_at(rate_weight: float) -> float:
            method.rate_weight = rate_weight
            size_bytes = self.per_coded_byte * max(method.coded_bytes(), 1.0)
            method.rate_weight = 0.0
            return size_bytes

        sign = 1.0 if size_at(0.0) > aim else -1.0
        largest = _LARGEST_RATE_WEIGHT if sign > 0 else _LARGEST_REWARD
        low, high = math.log(_LEAST_RATE_WEIGHT), math.log(largest)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            is_short = (size_at(sign * math.exp(middle)) > aim) == (sign > 0)
            low, high = (middle, high) if is_short else (low, middle)
        return sign * math.exp(high)


def aimed(bound: BoundMethod, target: SizeTarget) -> BoundMethod:
    """A bound method, told the size to end at.

    Raises:
        InputError: it cannot be steered, or the training's length is unknown.
    """
    if not isinstance(bound, Sizable):
        raise InputError(f"Sized method: expected METaQ, HEMP or LC, found {type(bound).__name__}")
    bound.aim_at(target.bytes_for(weights_of(bound)))
    return bound


def weights_of(bound: BoundMethod) -> int:
    """How many weights a method's parameters have, on all ranks together."""
    sizes = [parameter.new_tensor(parameter.numel(), dtype=torch.int64) for parameter in bound.parameters.values()]
    return int(bound.ranks.sum(torch.stack(sizes)).sum())


def sampled(weights: Tensor) -> Tensor:
    """Enough of a tensor's weights, flat, to know its histogram."""
    flat = weights.reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLE)]


def relative_prices(method: Steered) -> list[float]:
    """What a bit is worth in each parameter, in squared distances of levels, so that it costs about the same loss.

    An error of one distance d costs F d², with F the mean squared gradient, the tensor's mean of the empirical Fisher
    information. The prices are 1 / (F d²), divided by their geometric mean and within bounds of it. Weights without any
    gradient, such as the embeddings of tokens that this batch does not have, tell nothing of those that have one.
    """
    gradients = [gradient_of(parameter) for parameter in method.parameters.values()]
    squares = torch.stack([_square(gradient) for gradient in gradients])
    counts = torch.stack([gradient.count_nonzero() for gradient in gradients]).to(squares)
    means = method.ranks.sum(squares) / method.ranks.sum(counts).clamp(min=1)
    distances = torch.tensor(method.level_distances(), dtype=torch.float64)
    costs = (means.cpu() * distances.square()).clamp(min=torch.finfo(torch.float32).tiny).log()
    logs = (costs.mean() - costs).clamp(-_LARGEST_PRICE, _LARGEST_PRICE)
    return [float(price) for price in logs.exp()]


def balanced_strength(method: Steered) -> float:
    """The strength at which the regulariser's gradient has the norm of the loss's; 0 where one of them is 0."""
    gradients = [gradient_of(parameter) for parameter in method.parameters.values()]
    before = [gradient.clone() for gradient in gradients]
    loss_norm = _norm(method, before)
    method.add_regularizer(1.0)
    own_norm = _norm(method, [gradient - other for gradient, other in zip(gradients, before, strict=True)])
    for gradient, other in zip(gradients, before, strict=True):
        gradient.copy_(other)
    return loss_norm / own_norm if 0 < own_norm < math.inf and loss_norm < math.inf else 0.0


def _norm(method: Steered, tensors: list[Tensor]) -> float:
    squares = torch.stack([_square(tensor) for tensor in tensors])
    return math.sqrt(float(method.ranks.sum(squares).sum()))


def _square(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float64).square().sum()


def code_lengths(counts: Tensor) -> Tensor:
    """``-log2(c_b / n)`` of every set's histogram (S, C), in bits."""
    weighted = counts + _PSEUDO_COUNT
    return -(weighted / weighted.sum(dim=1, keepdim=True)).log2()


def entropy_bytes(counts: Tensor) -> float:
    """The zero-order entropy of histograms (T, C), one for each tensor, all together in bytes."""
    counts = counts.to(torch.float64)
    lengths = torch.where(counts > 0, -(counts / counts.sum(dim=1, keepdim=True)).log2(), 0.0)
    return float((counts * lengths).sum()) / 8


def cheapest(weights: Tensor, levels: Tensor, lengths: Tensor, rate_weight: float) -> Tensor:
    """Rate-aware positions: ``argmin_b (w - v_b)² + rate_weight · ξ_b``, entropy-constrained quantization.

    Since (w - v_b)² is w² and a line in w, the least of them over b is w² less twice the lower hull's conjugate: with
    the hull of the points (v_b, v_b² + rate_weight · ξ_b), the level for w is where its slope passes 2w. O(C + n).

    Args:
        weights: any shape.
        levels: (C,) v, increasing.
        lengths: (C,) code lengths ξ, in bits.
        rate_weight: squared units of the weights that a bit is worth; below 0 longer codes are preferred.

    Returns:
        int32 positions in the weights' shape.
    """
    places = levels.to(torch.float64)
    edges = knapsack.hull((places.square() + rate_weight * lengths.to(torch.float64))[None], places)
    passed = torch.searchsorted(edges.slope[0], 2 * weights.detach().to(torch.float64))
    return passed.to(torch.int32)
