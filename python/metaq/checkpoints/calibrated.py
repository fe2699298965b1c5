"""Checkpoints of which data is at hand, quantized by what errors do to the model's outputs."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from metaq import coding
from metaq.checkpoints.config import CompressionConfig
from metaq.checkpoints.search import Quantity, Target, target_of
from metaq.checkpoints.step_search import NEAR, StepProblem, find_step
from metaq.checkpoints.tensor_plan import sum_of_squares
from metaq.checkpoints.weight_problems import MatrixProblem, WeightProblem, weight_problems
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, encode, keep
from metaq.errors import InputError
from metaq.progress import Progress
from metaq.quantizers import second_order
from metaq.quantizers.calibration import Calibration, calibrate, check_batches
from metaq.quantizers.layers import MatrixView
from metaq.quantizers.observation import still
from metaq.quantizers.refitting import distance, refit
from metaq.quantizers.rounding import is_roundable, round_as_float16
from metaq.quantizers.second_order import States
from metaq.quantizers.sequential import Moments, SequentialOptions, quantize_sequentially
from metaq.quantizers.uniform import is_quantizable
from metaq.threads import in_threads

_log = logging.getLogger(__name__)
_ROUNDS, _PATIENCE = 8, 3  # of sequential quantization: at most, and until anything below the target will do
_SPARE = 1e-3  # of a target: norms that are fitted afterwards may take a few bytes more
_REACH = (24.0, 14.0)  # octaves of steps tried below and above the one of about one bit a weight
_FINEST = 16.0  # octaves below it, finer than which no step is taken: weights far from all others would have no symbol
_STRIDE = 1.0  # octaves at most between rounds: where the finest steps miss a target from below, others do no better


def compress_calibrated(
    model: nn.Module,
    batches: Iterable[Any],
    config: CompressionConfig | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    refit_epochs: int = 0,
    progress: Progress | None = None,
) -> CompressedModel:
    """Compress a model by what its outputs are on some data, block by block.

    Weights are quantized in the order in which they run, each on the inputs that come out of those quantized before it,
    by `metaq.quantizers.second_order`. Then norms and biases may be fitted to the outputs of the model as it was.

    Args:
        model: any; it is left as it was.
        batches: of inputs, as for `metaq.calibrate`. A few hundred samples do.
        config: to what size or error; by default 4 bits a weight.
        metadata: to be kept with the tensors.
        refit_epochs: how often norms and biases see the data; 0 leaves them as they are.

    Raises:
        InputError: what `metaq.calibrate` and `metaq.compress_state_dict` refuse, or a step or no loss being asked for,
            which takes no data.

    Example:
        >>> import metaq, torch
        >>> model, batches = torch.nn.Linear(64, 32), [torch.randn(16, 64) for _ in range(4)]
        >>> small = metaq.compress_calibrated(model, batches, metaq.CompressionConfig(bits=3))
    """
    check_batches(batches)
    config, progress, kept = config or CompressionConfig(), progress or Progress(), list(batches)
    _check_config(config, model.state_dict())
    calibration = calibrate(model, kept, progress=progress)
    checkpoint = CalibratedCheckpoint(model.state_dict(), calibration, config, metadata, progress)
    quantized, coded = _quantize_to_target(checkpoint, model, kept, checkpoint.find_steps(), progress)
    if refit_epochs and len(kept) > 1:
        refit(quantized, model, kept, epochs=refit_epochs, progress=progress)
    return checkpoint.model(coded, quantized.state_dict())


def compress_by_moments(
    state: Mapping[str, Tensor],
    config: CompressionConfig,
    calibration: Calibration,
    metadata: Mapping[str, str] | None = None,
) -> CompressedModel:
    """Compress a state dict by a calibration of the model that it is of, as that was before quantization."""
    checkpoint = CalibratedCheckpoint(state, calibration, config, metadata)
    return checkpoint.model(checkpoint.quantize(checkpoint.find_steps()), state)


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
        _check_config(config, state)
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
        _check_shapes(self.weights, calibration)
        states = States.DEPENDENT if learns else States.FREE
        self.problems = weight_problems(self.weights, calibration, states)

    def _is_quantized(self, name: str, tensor: Tensor) -> bool:
        if not is_quantizable(tensor) or self.config.keeps(name):
            return False
        if bool(torch.isfinite(tensor).all()):
            return True
        _log.warning("tensor %r: expected finite weights, found NaN or infinity; it is kept exactly", name)
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
            missed = {name: tensor.decompress().double() - self.weights[name] for name, tensor in coded.items()}
            energy = sum(sum_of_squares(self.weights[name]) for name in coded)
            return sum(map(sum_of_squares, missed.values())) / energy if energy else 0.0
        if target.quantity is Quantity.SIZE:
            return float(len(encode(self.model(coded, None), self.coder)))
        count = sum(tensor.symbols.numel() for tensor in coded.values())
        return 8 * len(encode(CompressedModel(dict(coded)), self.coder)) / count

    def model(self, coded: Mapping[str, CodedTensor], state: Mapping[str, Tensor] | None) -> CompressedModel:
        """Everything that a file is to hold.

        Args:
            state: where the other tensors come from; as they were, if not given.
        """
        others = self.kept if state is None else keep(state)
        tensors = {name: coded.get(name, self._other(name, tensor)) for name, tensor in others.items()}
        return CompressedModel(tensors, self.metadata, self.coder)

    def _other(self, name: str, tensor: CodedTensor | Tensor | Alias) -> CodedTensor | Tensor | Alias:
        is_rounded = (
            isinstance(tensor, Tensor) and tensor.ndim < 2 and is_roundable(tensor) and not self.config.keeps(name)
        )
        return round_as_float16(tensor) if is_rounded and isinstance(tensor, Tensor) else tensor


def _check_config(config: CompressionConfig, names: Iterable[str]) -> None:
    if config.lossless or config.step is not None:
        found = "lossless" if config.lossless else "step"
        raise InputError(f"compress: expected bits, size_bytes, max_error or quality with calibration, found {found}")
    config.check_names(names)


def _check_shapes(weights: Mapping[str, Any], calibration: Calibration) -> None:
    for name, tensor in weights.items():
        view = calibration.views.get(name)
        if view is not None and view.shape != tuple(tensor.shape):
            found = f"{view.shape}, another model's"
            raise InputError(f"calibration of {name!r}: expected shape {tuple(tensor.shape)}, found {found}")


def _quantize_to_target(
    checkpoint: CalibratedCheckpoint,
    model: nn.Module,
    batches: list[Any],
    sigmas: dict[str, float],
    progress: Progress,
) -> tuple[nn.Module, dict[str, CodedTensor]]:
    """Block by block, again with other steps while what comes of it misses the target.

    Weights aim at the outputs that they had before if that brings the model's outputs nearer: those of a ResNet-20 do,
    MiniLM at three bits is the better without.
    """
    target, fixed = target_of(checkpoint.config), set(checkpoint.config.tensor_bits)
    count = sum(tensor.numel() for tensor in checkpoint.weights.values())
    free = [name for name in sigmas if checkpoint.config.bits_pattern(name) not in fixed]
    ways = {
        has_cross: _quantize_copy(checkpoint, model, batches, sigmas, has_cross, progress)
        for has_cross in (True, False)
    }
    has_cross = _distance(ways[True][0], model, batches) < _distance(ways[False][0], model, batches)
    quantized, coded = ways[has_cross]
    for tried in range(_ROUNDS):
        chosen = {name: tensor for name, tensor in coded.items() if name in free}
        if not chosen:
            return quantized, coded
        value = checkpoint.measure(coded if target.quantity is Quantity.SIZE else chosen, target)
        ratio = value / target.value
        if ratio <= 1 - _SPARE and (ratio >= 1 - 2 * NEAR or tried >= _PATIENCE or value == 0):
            return quantized, coded
        aim = 1 - NEAR / 2 * (1 + tried / 2)
        if target.quantity is Quantity.ERROR:
            octaves = 0.5 * math.log2(aim / ratio)
        else:
            bits = value * 8 / count if target.quantity is Quantity.SIZE else value
            octaves = bits * (1 - aim / ratio)
        factor = 2 ** min(max(octaves, -_STRIDE), _STRIDE)
        sigmas = sigmas | {name: sigmas[name] * factor for name in free}
        quantized, coded = _quantize_copy(checkpoint, model, batches, sigmas, has_cross, progress)
    found = f"{value:.6g} in {_ROUNDS} rounds"
    raise InputError(f"{target.name}: expected steps that lead to {target.value:.6g}, found {found}; ask for another")


def _distance(quantized: nn.Module, model: nn.Module, batches: list[Any]) -> float:
    with still(quantized), still(model), torch.no_grad():
        return sum(float(distance(quantized, model, batch, at)) for at, batch in enumerate(batches))


def _quantize_copy(
    checkpoint: CalibratedCheckpoint,
    model: nn.Module,
    batches: list[Any],
    sigmas: Mapping[str, float],
    has_cross: bool,
    progress: Progress,
) -> tuple[nn.Module, dict[str, CodedTensor]]:
    """A copy of a model, quantized in the order in which its weights run, and the weights."""
    quantized = copy.deepcopy(model)
    coded: dict[str, CodedTensor] = {}
    names = dict(quantized.named_parameters(remove_duplicate=False))

    def quantize(name: str, view: MatrixView, matrices: Tensor, moments: Moments) -> Tensor | None:
        problem = checkpoint.problems.get(name)
        if problem is None or name not in sigmas:
            return None
        weight = names[name]
        aimed = weight.detach().cpu()
        if isinstance(problem, MatrixProblem) and moments.inputs is not None:
            problem = replace(problem, feedback=second_order.feedback(moments.inputs, moments.positions))
            if moments.cross is not None:
                target = second_order.aim(matrices, moments.inputs, moments.cross, moments.positions)
                aimed = view.weight(target).to(weight.dtype)
        coded[name] = problem.quantize(aimed, sigmas[name])
        return view.matrices(coded[name].decompress()).to(matrices.device)

    options = SequentialOptions(cross=has_cross)
    quantize_sequentially(quantized, batches, quantize, options=options, progress=progress)
    missing = {name: sigma for name, sigma in sigmas.items() if name not in coded}
    return quantized, coded | checkpoint.quantize(missing)


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
