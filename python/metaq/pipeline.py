"""The path of the data: weights -> codebook -> indices, as a CompressedModel that the container writes, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metaq import metrics
from metaq.assign import check_symbols, nearest, reconstruct
from metaq.codebook import Codebook, IntegerCodebook, UniformCodebook
from metaq.coding import SYMBOL_LIMIT
from metaq.errors import InputError
from metaq.header import CODED_FLOATS, DTYPE_CODES, fits_dtype, fits_limits


@dataclass(frozen=True)
class CodedTensor:
    """A quantized tensor: int32 ``symbols`` in its shape, the codebook that gives them values, its dtype."""

    symbols: Tensor
    codebook: Codebook
    dtype: torch.dtype

    def decompress(self) -> Tensor:
        """The quantized weights: exactly what a decoded file holds."""
        return reconstruct(self.symbols, self.codebook, self.dtype)


@dataclass(frozen=True)
class Alias:
    """A second name of the tensor called ``name``: tied weights."""

    name: str


@dataclass(frozen=True)
class CompressedModel:
    """Named tensors in order, each coded, kept as it is (a plain Tensor), or an alias; and free metadata."""

    tensors: dict[str, CodedTensor | Tensor | Alias]
    metadata: dict[str, str] = field(default_factory=dict)

    def decompress(self) -> dict[str, Tensor]:
        """Every tensor under its name, in order; an alias is the same object as its target."""
        out: dict[str, Tensor] = {}
        for name, entry in self.tensors.items():
            if isinstance(entry, Alias):
                out[name] = out[entry.name]
            else:
                out[name] = entry.decompress() if isinstance(entry, CodedTensor) else entry
        return out


def check_state(state: Mapping[str, Tensor]) -> None:
    """Raise an InputError, naming the tensor, for whatever a file cannot hold."""
    if not state:
        raise InputError("state dict: expected at least one tensor, found none")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise InputError(f"tensor {name!r}: expected a torch.Tensor, found {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.is_quantized:
            found = f"{tensor.layout}; call .to_dense() or .dequantize()"
            raise InputError(f"tensor {name!r}: expected a dense tensor, found {found}")
        if tensor.is_meta:
            raise InputError(f"tensor {name!r}: expected a tensor with data, found one on the meta device")
        if tensor.dtype not in DTYPE_CODES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPE_CODES)
            raise InputError(f"tensor {name!r}: expected one of {known}, found {tensor.dtype}")
        if not fits_limits(tuple(tensor.shape)):
            found = f"shape {tuple(tensor.shape)}"
            raise InputError(f"tensor {name!r}: expected at most 32 dimensions and 2^40 elements, found {found}")


def check_model(model: CompressedModel) -> None:
    """Raise an InputError, naming the tensor or the text, for whatever a file cannot hold."""
    for text in (*model.metadata.keys(), *model.metadata.values(), *model.tensors):
        try:
            text.encode("utf-8")
        except (AttributeError, UnicodeEncodeError):
            raise InputError(f"names and metadata: expected Unicode text, found {text!r}") from None
    earlier: set[str] = set()
    for name, entry in model.tensors.items():
        if isinstance(entry, Alias):
            if entry.name not in earlier:
                raise InputError(f"tensor {name!r}: expected an alias of one before it, found one of {entry.name!r}")
            continue
        earlier.add(name)
        check_state({name: entry.symbols if isinstance(entry, CodedTensor) else entry})
        if isinstance(entry, CodedTensor):
            _check_coded(name, entry)


def _check_coded(name: str, entry: CodedTensor) -> None:
    if entry.dtype not in DTYPE_CODES or not fits_dtype(entry.codebook, entry.dtype):
        kind = type(entry.codebook).__name__
        raise InputError(f"tensor {name!r}: expected a dtype that a {kind} is for, found {entry.dtype}")
    if entry.symbols.dtype.is_floating_point or entry.symbols.dtype == torch.bool:
        raise InputError(f"tensor {name!r}: expected symbols of an integer dtype, found {entry.symbols.dtype}")
    try:
        check_symbols(entry.symbols, entry.codebook, entry.dtype)
    except InputError as error:
        raise InputError(f"tensor {name!r}: {error}") from None


def keep(state: Mapping[str, Tensor]) -> dict[str, CodedTensor | Tensor | Alias]:
    """Every tensor as it is, on the CPU: small integers coded as such, shared storage as aliases, the rest kept."""
    check_state(state)
    tensors: dict[str, CodedTensor | Tensor | Alias] = {}
    seen: dict[tuple[object, ...], str] = {}
    for name, tensor in state.items():
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.is_neg())
        first = seen.setdefault(identity, name) if tensor.numel() else name
        tensors[name] = Alias(first) if first != name else code_integers(tensor.cpu())
    return tensors


def code_integers(tensor: Tensor) -> CodedTensor | Tensor:
    """An integer tensor as coded symbols if they fit, any other tensor unchanged."""
    if tensor.dtype.is_floating_point:
        return tensor
    if tensor.numel() and max(abs(int(tensor.min())), abs(int(tensor.max()))) >= SYMBOL_LIMIT:
        return tensor
    return CodedTensor(tensor.detach().cpu().to(torch.int32), IntegerCodebook(), tensor.dtype)


def compress(state: Mapping[str, Tensor], step: float | None = None, bits: float | None = None) -> CompressedModel:
    """Quantize a state dict uniformly: every matrix and filter on multiples of one step, everything else kept exactly.

    One step for all tensors gives each the same error per weight, which at a given total error is near the least size.

    Args:
        state: named dense tensors. Those of floating point with at least two dimensions are quantized.
        step: the distance between levels, in units of the weights.
        bits: instead of ``step``, the zero-order entropy to meet, in bits per quantized weight; the step follows.

    Raises:
        InputError: neither or both of ``step`` and ``bits``, one out of its range, an empty state, NaN or infinite
            weights, a tensor that a file cannot hold.
    """
    if (step is None) == (bits is None):
        raise InputError("compress: expected one of step and bits, found " + ("none" if step is None else "both"))
    tensors = keep(state)
    chosen = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor) and is_quantizable(tensor)}
    for name, tensor in chosen.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"tensor {name!r}: expected finite weights, found NaN or infinity")
    if bits is not None:
        step = step_for_bits(list(chosen.values()), bits)
    codebook = UniformCodebook(float(step or 0))
    for name, tensor in chosen.items():
        try:
            tensors[name] = quantize(tensor, codebook)
        except InputError as error:
            raise InputError(f"tensor {name!r}: {error}") from None
    return CompressedModel(tensors)


def quantize(weights: Tensor, codebook: UniformCodebook) -> CodedTensor:
    """Weights on the nearest multiples of a step.

    Raises:
        InputError: the step is so small that there are too many, or so large that one leaves the weights' dtype.
    """
    coded = CodedTensor(nearest(weights.cpu(), codebook), codebook, weights.dtype)
    extremes = reconstruct(torch.stack(coded.symbols.aminmax()), codebook, weights.dtype)
    if not bool(torch.isfinite(extremes).all()):
        found = f"{codebook.step:g}, which takes the largest of them to infinity"
        raise InputError(f"step: expected one that keeps weights within {weights.dtype}, found {found}")
    return coded


def is_quantizable(tensor: Tensor) -> bool:
    """Whether `compress` quantizes a tensor: a matrix or filter of floating point with at least one weight."""
    return tensor.dtype in CODED_FLOATS and tensor.ndim >= 2 and tensor.numel() > 0


def step_for_bits(weights: list[Tensor], bits: float) -> float:
    """The smallest step, within 0.1 %, at which the weights' zero-order entropy is at most ``bits`` per weight.

    Raises:
        InputError: ``bits`` is not within 0 ... 24.
    """
    if not 0 < bits <= 24:
        raise InputError(f"bits: expected more than 0 and at most 24 bits per weight, found {bits:g}")
    highest = max((float(tensor.abs().max()) for tensor in weights), default=0.0)
    if highest == 0:
        return 1.0
    count = sum(tensor.numel() for tensor in weights)
    fine, coarse = np.clip([np.log2(highest) - 26, np.log2(highest) + 2], -149, 127)  # the float32 powers of two
    while coarse - fine > 1e-3:
        middle = (fine + coarse) / 2
        codebook = UniformCodebook(2.0**middle)
        size_bits = sum(metrics.entropy_bits(nearest(tensor.cpu(), codebook)) for tensor in weights)
        fine, coarse = (middle, coarse) if size_bits > bits * count else (fine, middle)
    return float(np.float32(2.0**coarse))
