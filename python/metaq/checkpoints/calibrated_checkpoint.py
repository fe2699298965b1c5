"""A checkpoint of which it is known what errors of its weights do to the outputs, and the steps that meet a target."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from metaq import coding
from metaq.checkpoints.config import CompressionConfig
from metaq.checkpoints.search import Quantity, Target, target_of
from metaq.checkpoints.step_search import StepProblem, find_step
from metaq.checkpoints.tensor_plan import sum_of_squares
from metaq.checkpoints.weight_problems import MatrixProblem, WeightProblem, weight_problems
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, encode, keep
from metaq.errors import InputError
from metaq.progress import Progress
from metaq.quantizers.calibration import Calibration
from metaq.quantizers.rounding import FLOAT16_BITS, is_roundable, round_to_bits
from metaq.quantizers.second_order import States
from metaq.quantizers.uniform import is_quantizable
from metaq.tensors import KEPT_EXACTLY, are_float32
from metaq.threads import in_threads

_log = logging.getLogger(__name__)
_REACH = (24.0, 14.0)  # octaves of steps tried below and above the one of about one bit a weight
_GUARD_BITS = 5  # of what is rounded, beyond what the weights' errors leave certain
_FINEST = 16.0  # octaves below it, finer than which no step is taken: weights far from all others would have no symbol


class CalibratedCheckpoint:
    """A state dict of whose weights it is known what their errors cost.

    Raises:
        InputError: a tensor that a file cannot hold, a pattern that matches none, another model's calibration, or a
            target that takes no data.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        calibration: Calibration,
        config: CompressionConfig,
        metadata: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        check_config(config, state)
        self.config, self.metadata, self.progress = config, dict(metadata or {}), progress or Progress()
        self.kept = keep(state)
        size_bytes = sum(tensor.nbytes for tensor in state.values())
        self.coder = config.coder or coding.suitable(size_bytes, config.lossless)
        learns = coding.by_name(self.coder).learns_dependent_symbols
        self.weights = {
            name: tensor
            for name, tensor in self.kept.items()
            if isinstance(tensor, Tensor) and self._is_quantized(name, tensor)
        }
        _check_model(self.weights, calibration)
        states = States.DEPENDENT if learns else States.FREE
        self.problems = weight_problems(self.weights, calibration, states)

    def _is_quantized(self, name: str, tensor: Tensor) -> bool:
        if not is_quantizable(tensor) or self.config.keeps(name):
            return False
        if are_float32(tensor):
            return True
        _log.warning(KEPT_EXACTLY, name)
        return False

    def find_steps(self) -> dict[str, float]:
        """The step of each weight whose squared error costs 1, which meet what the configuration asks for.

        Raises:
            InputError: none does.
        """
        sigmas: dict[str, float] = {}
        for pattern, bits in self.config.tensor_bits.items():
            group = [name for name in self.weights if self.config.bits_pattern(name) == pattern]
            sigmas |= self._find(group, Target(f"bits of {pattern!r}", Quantity.BITS, bits), {})
        rest = [name for name in self.weights if name not in sigmas]
        return sigmas | self._find(rest, target_of(self.config), sigmas)

    def _find(self, names: list[str], target: Target, fixed: Mapping[str, float]) -> dict[str, float]:
        if not names:
            return {}
        guess = _Guess([(self.weights[name], self.problems[name]) for name in names])
        self._choose_scalings(names, guess.sigma(3.0))
        coded = self.quantize(fixed)

        def try_step(sigma: float) -> tuple[float, float]:
            sigma = max(sigma, 2.0 ** (guess.octave - _FINEST))
            found = self.quantize(dict.fromkeys(names, sigma))
            return self.measure(found if target.quantity is not Quantity.SIZE else coded | found, target), sigma

        is_error = target.quantity is Quantity.ERROR
        middle = guess.octave
        value = guess.error if is_error else (guess.size if target.quantity is Quantity.SIZE else guess.bits)
        problem = StepProblem(target.value, (middle - _REACH[0], middle + _REACH[1]), is_error, value)
        try:
            return dict.fromkeys(names, find_step(try_step, problem))
        except InputError as failure:
            raise InputError(f"{target.name}: {failure}") from None

    def _choose_scalings(self, names: Iterable[str], sigma: float) -> None:
        def choose(name: str) -> WeightProblem:
            problem = self.problems[name]
            if isinstance(problem, MatrixProblem):
                return replace(problem, scaling=problem.choose_scaling(self.weights[name], sigma))
            return problem

        chosen = list(names)
        self.problems |= dict(zip(chosen, in_threads(choose, chosen), strict=True))

    def quantize(self, sigmas: Mapping[str, float]) -> dict[str, CodedTensor]:
        """Weights on these steps."""
        self.progress.begin("measuring", sum(self.weights[name].nbytes for name in sigmas))

        def quantize(name: str) -> CodedTensor:
            found = self.problems[name].quantize(self.weights[name], sigmas[name])
            self.progress.advance(self.weights[name].nbytes, 0)
            return found

        return dict(zip(sigmas, in_threads(quantize, list(sigmas)), strict=True))

    def measure(self, coded: Mapping[str, CodedTensor], target: Target) -> float:
        """What the target is about: of these weights, the size of a whole file being that with all other tensors."""
        if target.quantity is Quantity.ERROR:
            return self._relative_error(coded)
        if target.quantity is Quantity.SIZE:
            return float(len(encode(self.model(coded, None), self.coder)))
        count = sum(tensor.symbols.numel() for tensor in coded.values())
        return 8 * len(encode(CompressedModel(dict(coded)), self.coder)) / count

    def model(self, coded: Mapping[str, CodedTensor], state: Mapping[str, Tensor] | None) -> CompressedModel:
        """Everything that a file is to hold.

        Args:
            state: where the other tensors come from; as they were, if not given.
        """
        others, bits = self.kept if state is None else keep(state), self._significant_bits(coded)
        tensors = {name: coded.get(name, self._other(name, tensor, bits)) for name, tensor in others.items()}
        return CompressedModel(tensors, self.metadata, self.coder)

    def _significant_bits(self, coded: Mapping[str, CodedTensor]) -> int:
        """Of norms, biases and all else of one dimension: so many that their errors are nothing beside the weights'."""
        share = self._relative_error(coded)
        return min(FLOAT16_BITS, max(1, _GUARD_BITS + math.ceil(-0.5 * math.log2(share)))) if share else FLOAT16_BITS

    def _relative_error(self, coded: Mapping[str, CodedTensor]) -> float:
        missed = {name: tensor.decompress().double() - self.weights[name] for name, tensor in coded.items()}
        energy = sum(sum_of_squares(self.weights[name]) for name in coded)
        return sum(map(sum_of_squares, missed.values())) / energy if energy else 0.0

    def _other(self, name: str, tensor: CodedTensor | Tensor | Alias, bits: int) -> CodedTensor | Tensor | Alias:
        is_rounded = (
            isinstance(tensor, Tensor) and tensor.ndim < 2 and is_roundable(tensor) and not self.config.keeps(name)
        )
        return round_to_bits(tensor, bits) if is_rounded and isinstance(tensor, Tensor) else tensor


def check_config(config: CompressionConfig, names: Iterable[str]) -> None:
    """Refuse what takes no data, and patterns that match none of the names.

    Raises:
        InputError: one of them.
    """
    if config.lossless or config.step is not None:
        found = "lossless" if config.lossless else "step"
        raise InputError(f"compress: expected bits, size_bytes, max_error or quality with calibration, found {found}")
    config.check_names(names)


def _check_model(weights: Mapping[str, Any], calibration: Calibration) -> None:
    """Raise InputError for a calibration of another model, by which nothing would be quantized."""
    if weights and not any(name in calibration.views or name in calibration.missing for name in weights):
        expected = f"one of this model, which has {next(iter(weights))!r}"
        found = f"one that has {next(iter(calibration.views), None)!r} instead"
        raise InputError(f"calibration: expected {expected}, found {found}")
    for name, tensor in weights.items():
        view = calibration.views.get(name)
        if view is not None and view.shape != tuple(tensor.shape):
            found = f"{view.shape}, another model's"
            raise InputError(f"calibration of {name!r}: expected shape {tuple(tensor.shape)}, found {found}")


class _Guess:
    """About what weights come to on a step: Gaussian ones, each as its row's and column's costs say."""

    def __init__(self, weights: list[tuple[Tensor, WeightProblem]]) -> None:
        self.counts = [tensor.numel() for tensor, _ in weights]
        self.energies = [float(tensor.double().square().sum()) for tensor, _ in weights]
        self.costs = [problem.costs.double().clamp_min(1e-30) for _, problem in weights]
        variances = [max(energy / count, 1e-30) for energy, count in zip(self.energies, self.counts, strict=True)]
        self.priced = [variance * costs for variance, costs in zip(variances, self.costs, strict=True)]
        logs = [count * float(priced.log2().mean()) for count, priced in zip(self.counts, self.priced, strict=True)]
        self.octave = 0.5 * sum(logs) / sum(self.counts)

    def sigma(self, bits: float) -> float:
        return float(2.0 ** (self.octave - bits + 1))

    def bits(self, sigma: float) -> float:
        return self._total(sigma) / sum(self.counts)

    def size(self, sigma: float) -> float:
        return self._total(sigma) / 8

    def error(self, sigma: float) -> float:
        found = [
            energy * float((1 / (1 + 4 * priced / sigma**2)).mean())
            for energy, priced in zip(self.energies, self.priced, strict=True)
        ]
        return sum(found) / max(sum(self.energies), 1e-30)

    def _total(self, sigma: float) -> float:
        found = zip(self.counts, self.priced, strict=True)
        return sum(count * 0.5 * float((1 + 4 * priced / sigma**2).log2().mean()) for count, priced in found)
