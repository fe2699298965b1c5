"""Tensors from and to the files people have. Adding a kind is one file and one line in `formats`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from metaq.errors import InputError
from metaq.files import refuse_devices
from metaq.format.header import MAGIC
from metaq.io.format import START_BYTES, Format
from metaq.io.npz import Npz
from metaq.io.onnx import GRAPH, Onnx
from metaq.io.safetensors import Safetensors
from metaq.io.source import StateSource, TensorSource, stored
from metaq.io.torch import Torch
from metaq.io.unsupported import refuse_unsupported

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Format",
    "StateSource",
    "TensorSource",
    "format_for",
    "formats",
    "open_source",
    "read_state",
    "recognised_suffix",
    "write_state",
]

formats: tuple[Format, ...] = (Safetensors(), Npz(), Torch(), Onnx())


def format_for(path: Path) -> Format:
    """The format of the path's suffix: to be asked for before the work, not after it.

    Raises:
        InputError: it is not a known one.
    """
    for format in formats:
        if path.suffix in format.suffixes:
            return format
    known = ", ".join(suffix for format in formats for suffix in format.suffixes)
    raise InputError(f"{path}: expected a path ending in {known}, found {path.suffix or 'no suffix'}")


def open_source(path: Path, key: str | None = None) -> TensorSource:
    """A checkpoint's file, of the format that its suffix says.

    Args:
        key: under which the state dict is, in files that hold more than one.

    Raises:
        InputError: an unknown suffix, a file that is not readable or not what its suffix says, or no such key.
    """
    if path.is_dir():
        raise InputError(f"{path}: expected a checkpoint, found a directory")
    if path.exists():
        refuse_unsupported(path, _start(path))
    format = format_for(path)
    if not path.exists():
        raise InputError(f"{path}: expected a checkpoint, found no such file")
    return format.open(path, key)


def read_state(path: Path, key: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Named tensors of a checkpoint, all in memory, on the CPU, and its metadata; shared ones are the same object.

    Raises:
        InputError: as `open_source`.
    """
    source = open_source(path, key)
    state: dict[str, Tensor] = {}
    try:
        for name, layout in source.layouts.items():
            first = source.aliases.get(name)
            state[name] = state[first] if first else source.read(name, range(layout.size)).reshape(layout.shape)
    finally:
        source.close()
    return state, dict(source.metadata)


def write_state(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors, whole or not at all, in the format of the path's suffix.

    Raises:
        InputError: an unknown suffix, tensors that the format cannot hold, or a place that cannot be written.
    """
    format = format_for(path)
    if not isinstance(format, Onnx):
        state = {name: tensor for name, tensor in state.items() if name != GRAPH}
    format.write(path, stored(state), metadata)


def recognised_suffix(path: Path) -> str:
    """The suffix of a file's format, that of `.mtq` files included, by its content.

    Raises:
        InputError: it is of no known format.
    """
    start = _start(path)
    if start.startswith(MAGIC):
        return ".mtq"
    refuse_unsupported(path, start)
    for format in formats:
        if format.recognises(start, path.stat().st_size):
            return format.suffixes[0]
    names = ", ".join(format.name for format in formats)
    raise InputError(f"{path}: expected a {names} or .mtq file, found {start[:9]!r} at its start")


def _start(path: Path) -> bytes:
    refuse_devices(path)
    try:
        with open(path, "rb") as file:
            return file.read(START_BYTES)
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, found {error.strerror}") from None
