"""The path of the data: weights -> codebook -> indices, as a CompressedModel that the container writes, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metaq import _native, coding
from metaq.assign import check_matrix, check_symbols, reconstruct
from metaq.codebook import Codebook, IntegerCodebook, UniformCodebook
from metaq.coding import DEFAULT_CODER, SYMBOL_LIMIT
from metaq.errors import InputError
from metaq.format.base_checksum import shortened
from metaq.format.header import TensorEntry, fits_dtype, fits_limits
from metaq.format.reader import Reader
from metaq.format.sequence import RowRun, block_shape, scanned
from metaq.format.writer import Source, check_texts
from metaq.format.writer import encode as encode_sources
from metaq.matrix_layout import MatrixLayout
from metaq.tensors import DTYPES, FORMAT_DTYPES, new_tensor, words_of

_CHECKSUM = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class CodedTensor:
    """A quantized tensor: int32 ``symbols`` in its shape, the codebook that gives them values, its dtype.

    With a ``matrix``, rows and columns have scales of their own, or symbols are coded column by column.
    """

    symbols: Tensor
    codebook: Codebook
    dtype: torch.dtype
    matrix: MatrixLayout | None = None

    def decompress(self) -> Tensor:
        """The quantized weights: exactly what a decoded file holds."""
        return reconstruct(self.symbols, self.codebook, self.dtype, self.matrix)


@dataclass(frozen=True)
class Alias:
    """A second name of the tensor called ``name``: tied weights."""

    name: str


@dataclass(frozen=True)
class CompressedModel:
    """Named tensors in order, each coded, kept as it is (a plain Tensor), or an alias; and free metadata.

    With a ``base`` it is a difference: its coded tensors of floating point are what is added to the base's.

    Attributes:
        coder: name of the coder that the symbols were chosen for, or that suits them, which `metaq.save` takes; None
            for its default.
        is_elsewhere: True, without any tensors, where a model in shards was put together in another process. It cannot
            be saved.
        base: of a difference, its base's checksum (`metaq.checksum`).
    """

    tensors: dict[str, CodedTensor | Tensor | Alias]
    metadata: dict[str, str] = field(default_factory=dict)
    coder: str | None = None
    is_elsewhere: bool = False
    base: str | None = None

    def decompress(self) -> dict[str, Tensor]:
        """Every tensor under its name, in order; an alias is the same object as its target.

        Raises:
            InputError: this is a difference, which has no weights of its own.
        """
        if self.base is not None:
            remedy = "metaq.apply_difference(difference, base) gives its tensors"
            raise InputError(f"model: expected a whole one, found a difference from {shortened(self.base)}; {remedy}")
        out: dict[str, Tensor] = {}
        for name, entry in self.tensors.items():
            if isinstance(entry, Alias):
                out[name] = out[entry.name]
            else:
                out[name] = entry.decompress() if isinstance(entry, CodedTensor) else entry
        return out


def coder_for(model: CompressedModel, coder: str | None = None) -> str:
    """Name of the coder to write a model with: the one asked for, else the one that it was made for, else the default.

    Raises:
        InputError: an unknown coder, or one that takes more for dependent symbols, of which the model has some, than
            for those that would have been chosen for it.
    """
    chosen = coding.by_name(coder or model.coder or coding.DEFAULT_CODER)
    is_made_for = model.coder is not None and coding.by_name(model.coder).learns_dependent_symbols
    if is_made_for and not chosen.learns_dependent_symbols and _has_dependent_symbols(model):
        learning = " or ".join(name for name, known in coding.coders.items() if known.learns_dependent_symbols)
        remedy = f"compress again with CompressionConfig(coder={chosen.name!r})"
        raise InputError(f"coder: expected {learning}, for which weights were quantized, found {chosen.name}; {remedy}")
    return chosen.name


def _has_dependent_symbols(model: CompressedModel) -> bool:
    """Whether weights were quantized in a trellis (`metaq.quantizers.trellis`)."""
    return any(
        _native.are_dependent(_as_scanned(entry))
        for entry in model.tensors.values()
        if isinstance(entry, CodedTensor) and isinstance(entry.codebook, UniformCodebook)
    )


def _as_scanned(entry: CodedTensor) -> np.ndarray:
    """All symbols as the block that coders see."""
    whole = RowRun(0, None, 0, block_shape(tuple(entry.symbols.shape), entry.matrix))
    return scanned(np.require(entry.symbols.cpu().numpy(), requirements=["C", "A"]), whole, entry.matrix)


def check_state(state: Mapping[str, Tensor]) -> None:
    """Raise an InputError, naming the tensor, for whatever a file cannot hold."""
    if not isinstance(state, Mapping):
        raise InputError(f"state dict: expected a mapping from names to tensors, found {type(state).__name__}")
    if not state:
        raise InputError("state dict: expected at least one tensor, found none")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise InputError(f"tensor {name!r}: expected a torch.Tensor, found {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            kind = "a nested one" if tensor.is_nested else "a quantized one" if tensor.is_quantized else tensor.layout
            found = f"{kind}; call .to_dense(), .dequantize() or .to_padded_tensor()"
            raise InputError(f"tensor {name!r}: expected a dense tensor, found {found}")
        if tensor.is_meta:
            raise InputError(f"tensor {name!r}: expected a tensor with data, found one on the meta device")
        if tensor.dtype not in FORMAT_DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in FORMAT_DTYPES)
            raise InputError(f"tensor {name!r}: expected one of {known}, found {tensor.dtype}")
        if not fits_limits(tuple(tensor.shape)):
            found = f"shape {tuple(tensor.shape)}"
            raise InputError(f"tensor {name!r}: expected at most 32 dimensions and 2^40 elements, found {found}")


def check_model(model: CompressedModel) -> None:
    """Raise an InputError, naming the tensor or the text, for whatever a file cannot hold."""
    if model.is_elsewhere:
        raise InputError("model: expected the one of the first rank, which has all tensors, found that of another rank")
    check_texts([*model.metadata.keys(), *model.metadata.values(), *model.tensors])
    if model.base is not None and not _CHECKSUM.fullmatch(model.base):
        raise InputError(f"model base: expected a checksum of 64 hexadecimal digits, found {model.base!r}")
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
            if model.base is not None and entry.dtype.is_floating_point and entry.dtype != torch.float32:
                raise InputError(f"tensor {name!r} of a difference: expected float32, found {entry.dtype}")


def _check_coded(name: str, entry: CodedTensor) -> None:
    if entry.dtype not in FORMAT_DTYPES or not fits_dtype(entry.codebook, FORMAT_DTYPES[entry.dtype]):
        kind = type(entry.codebook).__name__
        raise InputError(f"tensor {name!r}: expected a dtype that a {kind} is for, found {entry.dtype}")
    if entry.symbols.dtype.is_floating_point or entry.symbols.dtype == torch.bool:
        raise InputError(f"tensor {name!r}: expected symbols of an integer dtype, found {entry.symbols.dtype}")
    try:
        check_symbols(entry.symbols, entry.codebook, entry.dtype)
        if entry.matrix is not None:
            check_matrix(tuple(entry.symbols.shape), entry.codebook, entry.matrix)
    except InputError as error:
        raise InputError(f"tensor {name!r}: {error}") from None


def keep(state: Mapping[str, Tensor]) -> dict[str, CodedTensor | Tensor | Alias]:
    """Every tensor as it is, on the CPU: small integers coded as such, shared storage as aliases, the rest kept."""
    check_state(state)
    aliases = shared_names(state)
    return {
        name: Alias(aliases[name]) if name in aliases else code_integers(tensor.cpu()) for name, tensor in state.items()
    }


def shared_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Second names of tensors that are the same memory, each with the first name."""
    aliases: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    state = dict(state)  # a mapping that makes tensors when it is asked could give two the same address
    for name, tensor in state.items():
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.is_neg())
        first = seen.setdefault(identity, name) if tensor.numel() else name
        if first != name:
            aliases[name] = first
    return aliases


def code_integers(tensor: Tensor) -> CodedTensor | Tensor:
    """An integer tensor as coded symbols if they fit, any other tensor unchanged."""
    if tensor.dtype.is_floating_point:
        return tensor
    if tensor.numel() and max(abs(int(tensor.min())), abs(int(tensor.max()))) >= SYMBOL_LIMIT:
        return tensor
    return CodedTensor(tensor.detach().cpu().to(torch.int32), IntegerCodebook(), tensor.dtype)


def encode(model: CompressedModel, coder: str = DEFAULT_CODER, chunk_symbols: int | None = None) -> bytes:
    """A whole `.mtq` file.

    Args:
        coder, chunk_symbols: as of `metaq.format.writer.encode`.

    Raises:
        InputError: an unknown coder, or a tensor, a name or metadata that no file can hold.
    """
    check_model(model)
    positions = {name: index for index, name in enumerate(model.tensors)}
    sources: list[Source] = []
    for name, tensor in model.tensors.items():
        if isinstance(tensor, Alias):
            target = sources[positions[tensor.name]].entry
            alias = target._replace(name=name, codebook=None, target=positions[tensor.name], matrix=None)
            sources.append(Source(alias, None))
        elif isinstance(tensor, CodedTensor):
            dtype, shape = FORMAT_DTYPES[tensor.dtype], tuple(tensor.symbols.shape)
            entry = TensorEntry(name, dtype, shape, tensor.codebook, matrix=tensor.matrix)
            sources.append(Source(entry, tensor.symbols.cpu().contiguous().numpy()))
        else:
            sources.append(
                Source(TensorEntry(name, FORMAT_DTYPES[tensor.dtype], tuple(tensor.shape)), words_of(tensor))
            )
    return encode_sources(sources, model.metadata, coder, model.base, chunk_symbols)


def read_model(reader: Reader) -> CompressedModel:
    """A file's content still quantized: symbols and codebooks.

    Raises:
        InputError: a difference without loss, which is made of its base alone.
        FormatError: a chunk is damaged.
    """
    if any(entry.change is not None or entry.is_removed for entry in reader.header.tensors):
        expected, other = "a model or a trained difference", "one without loss"
        raise InputError(f"{reader.name}: expected {expected}, found {other}; metaq.apply takes it and its base")
    found = reader.symbols(new_tensor)
    entries = reader.header.tensors
    tensors: dict[str, CodedTensor | Tensor | Alias] = {}
    for entry in entries:
        if entry.target is not None:
            tensors[entry.name] = Alias(entries[entry.target].name)
        elif entry.codebook is not None:
            symbols = found[entry.name]
            tensors[entry.name] = CodedTensor(symbols, entry.codebook, DTYPES[entry.dtype], entry.matrix)
        else:
            tensors[entry.name] = found[entry.name]
    return CompressedModel(tensors, reader.header.metadata, _coder_of(reader), base=reader.base)


def _coder_of(reader: Reader) -> str | None:
    """Name of the coder of a file's first chunk that is not stored: that of coded tensors, if there are any."""
    names = [coding.name_of(chunk.coder) for chunk in reader.header.chunks]
    return next((name for name in names if name != "stored"), None)
