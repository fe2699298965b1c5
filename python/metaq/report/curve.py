"""Rate-error curves of a checkpoint: every quantizer at several rates, every coder on what it gives."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from metaq import assign, coding
from metaq.codebook import TableCodebook, UniformCodebook
from metaq.compressed_model import CodedTensor, CompressedModel, encode, keep
from metaq.errors import InputError
from metaq.files import write_atomically
from metaq.metrics import entropy_bits, relative_squared_error
from metaq.quantizers import rdoq, trellis
from metaq.quantizers.rounding import is_roundable, round_as_float16
from metaq.quantizers.uniform import compress, is_quantizable
from metaq.solvers.kmeans1d import kmeans
from metaq.tensors import are_float32

Row = dict[str, Any]
State = Mapping[str, Tensor]

BITS = (2.0, 3.0, 4.0, 5.0, 6.0)
_INCHES = (7.5, 5.0)
_DRAWN = {"mixing": "-", "adaptive": "-.", "rans": "--", "zstd": ":"}


def by_nearest(state: State, bits: float) -> CompressedModel:
    """Every weight on the nearest multiple of one step, of an entropy of ``bits``."""
    return compress(state, step=step_of_entropy([tensor for tensor in state.values() if is_quantizable(tensor)], bits))


def step_of_entropy(weights: Sequence[Tensor], bits: float) -> float:
    """The smallest step, within 0.1 %, on whose nearest multiples the weights' zero-order entropy is at most ``bits``.

    That aim, in bits per weight, names the same step for every coder, so that a curve can compare them.

    Raises:
        InputError: ``bits`` is not within 0 ... 24, or a weight is not finite.
    """
    if not 0 < bits <= 24:
        raise InputError(f"bits: expected more than 0 and at most 24 bits per weight, found {bits:g}")
    if not all(map(are_float32, weights)):
        raise InputError("curve: expected weights that float32 holds, found NaN, infinity or larger ones")
    highest = max((float(tensor.abs().max()) for tensor in weights), default=0.0)
    if highest == 0:
        return 1.0
    count = sum(tensor.numel() for tensor in weights)
    fine, coarse = np.clip([np.log2(highest) - 26, np.log2(highest) + 2], -149, 127)  # the float32 powers of two
    while coarse - fine > 1e-3:
        middle = (fine + coarse) / 2
        codebook = UniformCodebook(2.0**middle)
        size_bits = sum(entropy_bits(assign.nearest(tensor.cpu(), codebook)) for tensor in weights)
        fine, coarse = (middle, coarse) if size_bits > bits * count else (fine, middle)
    return float(np.float32(2.0**coarse))


def by_rate(state: State, bits: float) -> CompressedModel:
    """The same step, weights chosen for their error and their code length (`metaq.quantizers.rdoq`)."""
    return _on_step(state, bits, 1.0, lambda weights, step: rdoq.quantize(weights, step)[0])


def by_trellis(state: State, bits: float) -> CompressedModel:
    """Dependent quantization (`metaq.quantizers.trellis`), on the finer step that leads to about the same error."""
    return _on_step(state, bits, trellis.FINER, trellis.quantize)


def _on_step(
    state: State, bits: float, finer: float, quantize: Callable[[State, UniformCodebook], dict[str, Tensor]]
) -> CompressedModel:
    weights = {name: tensor for name, tensor in state.items() if is_quantizable(tensor)}
    step = UniformCodebook(step_of_entropy(list(weights.values()), bits) / finer)
    symbols = quantize(weights, step)
    coded = {name: CodedTensor(symbols[name], step, tensor.dtype) for name, tensor in weights.items()}
    return CompressedModel({**keep(state), **coded})


def by_kmeans(state: State, bits: float) -> CompressedModel:
    """Every tensor on its own 2^bits levels of least squared error, by exact k-means."""
    tensors = keep(state)
    for name, tensor in state.items():
        if is_quantizable(tensor):
            found = kmeans(tensor, min(round(2**bits), int(tensor.unique().numel())))
            book = TableCodebook.around_zero(found.levels)
            tensors[name] = CodedTensor(found.indices.to(torch.int32) - book.origin, book, tensor.dtype)
    return CompressedModel(tensors)


QUANTIZERS: dict[str, Callable[[State, float], CompressedModel]] = {
    "nearest": by_nearest,
    "rate": by_rate,
    "trellis": by_trellis,
    "kmeans": by_kmeans,
}


def curve(
    state: State, bits: Sequence[float] = BITS, advance: Callable[[int, int], None] = lambda done, total: None
) -> list[Row]:
    """A row for each quantizer, rate and coder.

    Vectors are rounded as `metaq.compress_state_dict` rounds them, for all quantizers alike.

    Args:
        state: named dense tensors, with at least one matrix or filter.
        bits: entropies to aim at for a step; for k-means log2 of the number of levels.
        advance: told after each of the ``len(QUANTIZERS) * len(bits)`` models how many are done and how many there are.

    Returns:
        Of each row quantizer, aim, coder, file_bytes, bits_per_weight (of the file, by all weights) and
        relative_squared_error over the quantized tensors.

    Raises:
        InputError: nothing to quantize, NaN or infinite weights, or a tensor that a file cannot hold.
    """
    state = {
        name: round_as_float16(tensor.cpu()) if tensor.ndim < 2 and is_roundable(tensor) else tensor.detach().cpu()
        for name, tensor in state.items()
    }
    weights = [name for name, tensor in state.items() if is_quantizable(tensor)]
    if not weights:
        raise InputError("curve: expected a matrix or filter of floating point, found none")
    count = sum(tensor.numel() for tensor in state.values())
    rows: list[Row] = []
    for quantizer, quantize in QUANTIZERS.items():
        for aim in bits:
            model = quantize(state, aim)
            error = relative_squared_error(_flat(state, weights), _flat(model.decompress(), weights))
            for coder in coding.coders:
                size = len(encode(model, coder))
                row = {"quantizer": quantizer, "aim": aim, "coder": coder, "file_bytes": size}
                rows.append(row | {"bits_per_weight": 8 * size / count, "relative_squared_error": error})
            advance(len(rows) // len(coding.coders), len(QUANTIZERS) * len(bits))
    return rows


def size_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows by quantizer and aim, with a column of bytes for each coder."""
    found: dict[tuple[str, float], Row] = {}
    for row in rows:
        start = {"quantizer": row["quantizer"], "bits": row["aim"], "error": row["relative_squared_error"]}
        found.setdefault((row["quantizer"], row["aim"]), start)[row["coder"]] = row["file_bytes"]
    return list(found.values())


def _flat(state: State, names: Iterable[str]) -> Tensor:
    return torch.cat([state[name].reshape(-1).double() for name in names])


def write_plot(rows: Sequence[Row], path: Path) -> None:
    """The curves of a few coders as an SVG file: bits a weight against error, the same bytes for the same rows.

    Raises:
        InputError: a place that cannot be written.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the reader's own matplotlibrc says
        matplotlib.rcParams["svg.hashsalt"] = "metaq"
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.add_subplot()
        for color, quantizer in enumerate(QUANTIZERS):
            for coder, style in _DRAWN.items():
                line = [row for row in rows if (row["quantizer"], row["coder"]) == (quantizer, coder)]
                sizes, errors = ([row[key] for row in line] for key in ("bits_per_weight", "relative_squared_error"))
                axes.plot(
                    sizes, errors, style, marker="o", markersize=3, color=f"C{color}", label=f"{quantizer}, {coder}"
                )
        axes.set_yscale("log")
        axes.set_xlabel("bits per weight, whole file")
        axes.set_ylabel("relative squared error")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    write_atomically(path, buffer.getvalue().encode())
