"""The few functions that most users need, with tensors of torch. `metaq.numpy` has those of NumPy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from metaq.compressed_model import CompressedModel, coder_for, encode
from metaq.differences import StateNetwork
from metaq.errors import InputError
from metaq.files import open_bytes, write_atomically
from metaq.format.applying import apply_to
from metaq.format.limits import Limits
from metaq.format.reader import Reader
from metaq.format.safe_open import OpenFile
from metaq.tensors import device_of, load_tensors, new_tensor


def save(
    model: CompressedModel,
    path: str | os.PathLike[str],
    coder: str | None = None,
    chunk_symbols: int | None = None,
) -> int:
    """Write a compressed model as a `.mtq` file, whole or not at all; returns its size in bytes.

    Args:
        coder: by default the one that the model was made for, otherwise "mixing".
        chunk_symbols: about how many symbols, which are weights or bytes of them, are coded together; by default some
            millions. Of 65,536 and ``coder="rans"`` a GPU decodes many at once, and a file is 0.2 % larger.

    Raises:
        InputError: an unknown coder, or one with which the model's symbols would be larger than those made for it;
            chunks of no symbols or of more than 2^26; a tensor that no file can hold, or a path that cannot be
            written.
    """
    data = encode(model, coder_for(model, coder), chunk_symbols)
    write_atomically(path, data)
    return len(data)


def load_file(
    path: str | os.PathLike[str], limits: Limits | None = None, device: str | torch.device = "cpu"
) -> dict[str, Tensor]:
    """Every tensor of a `.mtq` file, by name, in the file's order and with its dtypes.

    Args:
        path: of the file.
        limits: beyond which it is refused, if it is a stranger's.
        device: where the tensors are to be. A GPU for which Triton is installed decodes what the coder "rans" wrote
            itself; for others tensors are decoded on the CPU and sent a few at a time, so that its memory never holds
            all.

    Raises:
        InputError: the file cannot be read, is beyond the limits, or is a difference, which `load_into` applies; or
            torch has no such device here.
        FormatError: it is not a whole and unchanged `.mtq` file.
    """
    place = device_of(device)
    reader = Reader(open_bytes(path), str(path), limits=limits)
    if place.type == "cuda" and find_spec("triton") is not None:
        from metaq.gpu import load_tensors_on  # Triton takes a second to be imported

        return load_tensors_on(place, reader)
    return load_tensors(reader, place)


def load_into(model: nn.Module, path: str | os.PathLike[str], limits: Limits | None = None) -> None:
    """Load a `.mtq` file into a model, which must have exactly its tensors; otherwise the model stays as it was.

    A difference is applied to what the model holds, which must be its base, every bit of it.

    Raises:
        InputError: the file cannot be read or is beyond the limits, its names or shapes are not the model's, or the
            model holds another base.
        FormatError: it is not a whole and unchanged `.mtq` file.
    """
    reader = Reader(open_bytes(path), str(path), takes_differences=True, limits=limits)
    state = model.state_dict()
    tensors = load_tensors(reader) if reader.base is None else _applied(reader, state)
    for name, tensor in state.items():
        expected = f"shape {tuple(tensor.shape)}"
        found = f"shape {tuple(tensors[name].shape)}" if name in tensors else "no such tensor"
        if found != expected:
            raise InputError(f"{path}, tensor {name!r} of {type(model).__name__}: expected {expected}, found {found}")
    for name in tensors:
        if name not in state:
            raise InputError(f"{path}: expected only the tensors of {type(model).__name__}, found {name!r} too")
    model.load_state_dict(tensors)


def _applied(reader: Reader, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that a file's difference makes of a model's."""
    return apply_to(reader, StateNetwork(state), new_tensor)


class safe_open(OpenFile[Tensor]):  # noqa: N801 - the name that safetensors has made known
    """A `.mtq` file of which tensors are read one at a time, and rows of tensors: see `OpenFile`::

    with metaq.safe_open("model.mtq") as file:
        rows = file.get_slice("embedding.weight")[:100]
    """

    def __init__(self, path: str | os.PathLike[str], limits: Limits | None = None) -> None:
        super().__init__(path, new_tensor, limits)
