"""The few functions that most users need: save, load, and the coders on bare integer arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from metaq.coding import DEFAULT_CODER
from metaq.compressed_model import CompressedModel, keep
from metaq.errors import InputError
from metaq.files import map_bytes, write_atomically
from metaq.format import whole_file
from metaq.format.reader import Reader
from metaq.format.writer import encode as encode_model


def save(model: CompressedModel, path: str | os.PathLike[str], coder: str = DEFAULT_CODER) -> int:
    """Write a compressed model as a `.mtq` file, whole or not at all; returns its size in bytes.

    Raises:
        InputError: an unknown coder, a tensor that no file can hold, or a path that cannot be written.
    """
    data = encode_model(model, coder)
    write_atomically(path, data)
    return len(data)


def load_file(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Every tensor of a `.mtq` file, by name, in the file's order and with its dtypes, on the CPU.

    Raises:
        InputError: the file cannot be read.
        FormatError: it is not a whole and unchanged `.mtq` file.
    """
    data = map_bytes(path)
    tensors = whole_file.load(data)
    return Reader(data, str(path)).load() if tensors is None else tensors


def load_into(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a `.mtq` file into a model, which must have exactly its tensors; otherwise the model stays as it was.

    Raises:
        InputError: the file cannot be read, or its names or shapes are not the model's.
        FormatError: it is not a whole and unchanged `.mtq` file.
    """
    tensors, state = load_file(path), model.state_dict()
    for name, tensor in state.items():
        expected = f"shape {tuple(tensor.shape)}"
        found = f"shape {tuple(tensors[name].shape)}" if name in tensors else "no such tensor"
        if found != expected:
            raise InputError(f"{path}, tensor {name!r} of {type(model).__name__}: expected {expected}, found {found}")
    for name in tensors:
        if name not in state:
            raise InputError(f"{path}: expected only the tensors of {type(model).__name__}, found {name!r} too")
    model.load_state_dict(tensors)


def encode(arrays: Mapping[str, np.ndarray], coder: str = DEFAULT_CODER) -> bytes:
    """Integer arrays as the bytes of a `.mtq` file: names, shapes, dtypes, checksums and all.

    Args:
        arrays: of dtype bool, uint8, int8, int16, int32 or int64, of any shape, by name; may be empty. Values beyond
            ±(2^30 - 1) are stored in byte planes.

    Raises:
        InputError: an unknown coder or dtype, or more than 32 dimensions.
    """
    tensors = {}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biu":
            found = getattr(array, "dtype", type(array).__name__)
            raise InputError(f"array {name!r}: expected a NumPy array of integers, found {found}")
        try:
            tensors[name] = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
        except TypeError:
            raise InputError(f"array {name!r}: expected bool, uint8 or int8 to int64, found {array.dtype}") from None
    return encode_model(CompressedModel(keep(tensors) if tensors else {}), coder)


def decode(data: bytes | memoryview) -> dict[str, np.ndarray]:
    """Inverse of `encode`: NumPy arrays by name, of the dtypes that went in.

    Raises:
        FormatError: the bytes are not a whole and unchanged `.mtq` file.
        InputError: they hold tensors of floating point; `load_file` reads those.
    """
    arrays = {}
    for name, tensor in Reader(data).load().items():
        if tensor.dtype.is_floating_point:
            raise InputError(f"tensor {name!r}: expected integers, found {tensor.dtype}; use load_file")
        arrays[name] = tensor.numpy()
    return arrays
