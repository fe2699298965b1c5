"""Checkpoints, without training, to a chosen error or size.

All tensors that are quantized share one step and one price of a bit, unless told otherwise. So they have equal slope:
no bit would lower the error more in another tensor. What is left to find is the step. Weights are quantized in the
trellis (`metaq.quantizers.trellis`) for the coders that know of it, and one by one (`metaq.quantizers.rdoq`) for the
others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from metaq import coding
from metaq.checkpoints.step_guesses import Guess, guessed_bits, guessed_error
from metaq.checkpoints.step_search import StepProblem, find_step
from metaq.codebook import UniformCodebook
from metaq.compressed_model import CodedTensor, CompressedModel, encode, keep
from metaq.errors import InputError
from metaq.format.sequence import Run, block_shape, cut_for
from metaq.quantizers import rdoq, trellis
from metaq.quantizers.calibration import Calibration
from metaq.quantizers.rounding import is_roundable, round_as_float16
from metaq.quantizers.second_order import Sensitivity, relative_steps, sensitivity
from metaq.quantizers.uniform import is_quantizable
from metaq.threads import in_threads

QUALITIES = {"low": 3e-2, "medium": 3e-3, "high": 3e-4}
DEFAULT_BITS = 4.0
SAMPLE_WEIGHTS = 1 << 20  # of more than twice as many, about these are tried first
_TARGETS = ("max_error", "size_bytes", "bits", "quality")


@dataclass(frozen=True)
class CompressionConfig:
    """What to compress a state dict to. One of the first four may be given; without any, it is 4 bits.

    Attributes:
        max_error: ``Σ‖w - ŵ‖² / Σ‖w‖²`` over all quantized tensors.
        size_bytes: of the whole file.
        bits: average bits that a quantized weight takes, headers and checksums not counted.
        quality: "low", "medium" or "high": a ``max_error`` of 3e-2, 3e-3 or 3e-4.
        keep: patterns (as in `fnmatch`, case-sensitive) of names whose tensors stay as they are, bit for bit.
        tensor_bits: bits per weight of the tensors that a pattern matches, all together, instead of an equal slope with
            the others. The first pattern that matches counts.
        coder: that the file will be written with, and by which sizes are measured.
    """

    max_error: float | None = None
    size_bytes: int | None = None
    bits: float | None = None
    quality: str | None = None
    keep: tuple[str, ...] = ()
    tensor_bits: Mapping[str, float] = field(default_factory=dict)
    coder: str = "mixing"

    def __post_init__(self) -> None:
        given = [name for name in _TARGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"compress: expected at most one of {', '.join(_TARGETS)}, found {', '.join(given)}")
        if self.max_error is not None and not 0 < self.max_error < 1:
            raise InputError(f"max_error: expected more than 0 and less than 1, found {self.max_error:g}")
        if self.size_bytes is not None and self.size_bytes < 1:
            raise InputError(f"size_bytes: expected at least 1, found {self.size_bytes}")
        for bits in (*self.tensor_bits.values(), *([] if self.bits is None else [self.bits])):
            if not 0 < bits <= 24:
                raise InputError(f"bits: expected more than 0 and at most 24 bits per weight, found {bits:g}")
        if self.quality is not None and self.quality not in QUALITIES:
            raise InputError(f"quality: expected one of {', '.join(QUALITIES)}, found {self.quality!r}")
        coding.by_name(self.coder)


def compress_state_dict(
    state: Mapping[str, Tensor],
    config: CompressionConfig | None = None,
    metadata: Mapping[str, str] | None = None,
    calibration: Calibration | None = None,
) -> CompressedModel:
    """A state dict quantized to a chosen error or size, which is met from below, within 1 % where the steps allow it.

    Tensors of floating point (float32, float16, bfloat16, float64) of two dimensions and more are quantized. Those of
    fewer dimensions, biases and norms, are rounded to eleven significant bits if they are float32 or float64: no less
    exact than float16, in the range of their own dtype (`metaq.quantizers.rounding`). All else stays as it is, tensors
    with NaN or infinities included, and all keep their dtypes.

    Args:
        state: named dense tensors.
        config: to what error or size; by default 4 bits a weight.
        metadata: to be kept with the tensors.
        calibration: of the model that the state is of (`metaq.calibrate`). A layer's steps then follow from what its
            errors do to the predictions, and its weights make up for each other's errors: at the same size the error
            is larger, and the predictions are better.

    Raises:
        InputError: an empty state, a tensor that a file cannot hold, a pattern that matches no tensor, or an error or
            size that no step leads to.
    """
    config = config or CompressionConfig()
    tensors = keep(state)
    for pattern in (*config.keep, *config.tensor_bits):
        if not any(fnmatchcase(name, pattern) for name in state):
            raise InputError(f"pattern {pattern!r}: expected one that matches a tensor's name, found no such tensor")
    weights: dict[str, Tensor] = {}
    for name, entry in tensors.items():
        if not isinstance(entry, Tensor) or _match(name, config.keep) is not None:
            continue
        if is_quantizable(entry):
            if bool(torch.isfinite(entry).all()):
                weights[name] = entry.detach().cpu()
        elif entry.ndim < 2 and is_roundable(entry):
            tensors[name] = round_as_float16(entry)
    model = CompressedModel(tensors, dict(metadata or {}))
    return _Checkpoint(model, weights, config, _sensitivities(weights, calibration)).compress()


def _sensitivities(weights: Mapping[str, Tensor], calibration: Calibration | None) -> dict[str, Sensitivity]:
    """Of the tensors that were calibrated."""
    if calibration is None:
        return {}
    found = {name: sensitivity(calibration, name) for name in weights if name in calibration.inputs}
    for name, entry in found.items():
        if entry.rows != len(weights[name]) or entry.rows * len(entry.costs) != weights[name].numel():
            shape = tuple(weights[name].shape)
            raise InputError(f"calibration of {name!r}: expected one of shape {shape}, found another model's")
    return found


def _match(name: str, patterns: tuple[str, ...]) -> str | None:
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


@dataclass(frozen=True)
class _Quantized:
    """Tensors on some step: their entries in a model, and how far off they are."""

    tensors: dict[str, CodedTensor]
    error: float


class _Checkpoint:
    """A model all ready but for ``weights``, which are to be quantized, and what is to become of it."""

    def __init__(
        self,
        model: CompressedModel,
        weights: dict[str, Tensor],
        config: CompressionConfig,
        sensitivities: dict[str, Sensitivity],
    ) -> None:
        self.model, self.weights, self.config, self.sensitivities = model, weights, config, sensitivities
        self.fixed: dict[str, UniformCodebook] = {}
        self.scales = relative_steps(sensitivities)

    def compress(self) -> CompressedModel:
        config, patterns = self.config, tuple(self.config.tensor_bits)
        for pattern, bits in config.tensor_bits.items():
            group = {name: tensor for name, tensor in self.weights.items() if _match(name, patterns) == pattern}
            if group:
                found = self._to_bits(group, bits, f"bits of {pattern!r}")
                self.fixed |= {name: _uniform(entry.codebook) for name, entry in found.tensors.items()}
        if config.size_bytes is not None:
            return self._model(self._to_size(config.size_bytes))
        if config.max_error is not None:
            return self._model(self._to_error(config.max_error, "max_error"))
        if config.quality is not None:
            return self._model(self._to_error(QUALITIES[config.quality], "quality"))
        return self._model(self._to_bits(self.weights, DEFAULT_BITS if config.bits is None else config.bits, "bits"))

    def _to_error(self, target: float, name: str) -> _Quantized:
        return self._search(self.weights, lambda found: found.error, target, guessed_error, name)

    def _to_bits(self, weights: dict[str, Tensor], target: float, name: str) -> _Quantized:
        return self._search(weights, self._bits_per_weight, target, guessed_bits, name)

    def _to_size(self, target: int) -> _Quantized:
        kept = sum(entry.nbytes for entry in self.model.tensors.values() if isinstance(entry, Tensor))
        kept -= sum(tensor.nbytes for tensor in self.weights.values())

        def guess(weights: dict[str, Tensor]) -> Guess:
            bits = guessed_bits(weights)
            return lambda step: kept + bits(step) * _count(weights) / 8

        def measure(found: _Quantized) -> float:
            return len(encode(self._model(found), self.config.coder))

        return self._search(self.weights, measure, target, guess, "size_bytes")

    def _search(
        self,
        weights: dict[str, Tensor],
        measure: Callable[[_Quantized], float],
        target: float,
        guess: Callable[[dict[str, Tensor]], Guess],
        name: str,
    ) -> _Quantized:
        """Weights on the step at which what is measured meets the target, tried on a sample first if they are many."""
        rises = guess is guessed_error
        scaled = {
            name: tensor / self.scales[name] if name in self.scales else tensor for name, tensor in weights.items()
        }
        problem = StepProblem(target, octaves(scaled), rises, guess(scaled))
        stride = _count(weights) // SAMPLE_WEIGHTS
        if stride > 1:
            sample = {name: tensor[::stride] for name, tensor in weights.items()}
            step = 2.0 ** problem.place()
            found = self._quantize(sample, step)
            measured = found.error if rises else self._bits_per_weight(found)
            of_sample = {name: tensor[::stride] for name, tensor in scaled.items()}
            guessed = (guessed_error if rises else guessed_bits)(of_sample)(step)
            if measured and guessed:
                problem = replace(problem, factor=measured / guessed)

        def try_step(step: float) -> tuple[float, _Quantized]:
            found = self._quantize(weights, step)
            return measure(found), found

        try:
            return find_step(try_step, problem)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None

    def _quantize(self, weights: dict[str, Tensor], step: float) -> _Quantized:
        """``step`` is rdoq's; the trellis takes the finer one that leads to about the same error.

        With a calibration it is rdoq, which knows how weights make up for each other.
        """
        in_trellis = self.config.coder in trellis.CODERS and not self.sensitivities
        finest = step / trellis.FINER if in_trellis else step
        books = {name: self.fixed.get(name) or UniformCodebook(finest * self.scales.get(name, 1.0)) for name in weights}
        if in_trellis:
            symbols = trellis.quantize(weights, books)
        else:
            known = {name: self.sensitivities[name] for name in weights if name in self.sensitivities}
            importance = {name: entry.importance(weights[name].shape) for name, entry in known.items()}
            shares = {name: entry.shares for name, entry in known.items()}
            symbols, _ = rdoq.quantize(weights, books, importance=importance, feedback=shares)
        coded = {name: CodedTensor(symbols[name], books[name], tensor.dtype) for name, tensor in weights.items()}
        return _Quantized(coded, _error(weights, coded))

    def _model(self, found: _Quantized) -> CompressedModel:
        return CompressedModel({**self.model.tensors, **found.tensors}, self.model.metadata)

    def _bits_per_weight(self, found: _Quantized) -> float:
        coder = coding.by_name(self.config.coder)
        tensors = [entry.symbols for entry in found.tensors.values() if entry.symbols.numel()]

        def size_bytes(chunk: list[Run]) -> int:
            blocks = [tensors[run.tensor].numpy().reshape(-1)[run.elements.start : run.elements.stop] for run in chunk]
            shaped = [block.reshape(run.shape) for block, run in zip(blocks, chunk, strict=True)]
            return len(coder.encode(shaped))

        sequence = [Run(index, None, 0, block_shape(tuple(tensor.shape))) for index, tensor in enumerate(tensors)]
        sizes = in_threads(size_bytes, list(cut_for(self.config.coder, sequence)))
        return 8 * sum(sizes) / max(1, sum(tensor.numel() for tensor in tensors))


def _count(weights: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in weights.values())


def _error(weights: Mapping[str, Tensor], coded: Mapping[str, CodedTensor]) -> float:
    error = energy = 0.0
    for name, entry in coded.items():
        exact = weights[name].to(torch.promote_types(entry.dtype, torch.float32))
        error += _energy(exact - entry.decompress().to(exact.dtype))
        energy += _energy(exact)
    return error / energy if energy else 0.0


def _energy(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2


def _uniform(codebook: object) -> UniformCodebook:
    assert isinstance(codebook, UniformCodebook)
    return codebook


def octaves(weights: dict[str, Tensor]) -> tuple[float, float]:
    """log2 of steps so fine that nothing is lost but float32's last bits, and so coarse that nothing is left."""
    highest = max((float(tensor.abs().max()) for tensor in weights.values()), default=0.0) or 1.0
    middle = math.log2(highest)
    return max(middle - 24, -148.0), min(middle + 2, 127.0)
