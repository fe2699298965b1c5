"""State dicts from and to the files people have, by suffix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from metaq.errors import InputError
from metaq.io.onnx import GRAPH, read_onnx, write_onnx
from metaq.io.safetensors import read_safetensors, write_safetensors
from metaq.io.torch import read_torch, write_torch

_READERS = {".safetensors": read_safetensors, ".pt": read_torch, ".pth": read_torch, ".onnx": read_onnx}
_WRITERS = {".safetensors": write_safetensors, ".pt": write_torch, ".pth": write_torch, ".onnx": write_onnx}


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Named tensors of a checkpoint, on the CPU, and its metadata.

    Raises:
        InputError: an unknown suffix, an unreadable file, or one that is not what its suffix says.
    """
    check_suffix(path)
    if not path.exists():
        raise InputError(f"{path}: expected a checkpoint, found no such file")
    if path.is_dir():
        raise InputError(f"{path}: expected a checkpoint, found a directory")
    return _READERS[path.suffix](path)


def write_state(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors, whole or not at all, in the format of the path's suffix.

    Raises:
        InputError: an unknown suffix, or a place that cannot be written.
    """
    check_suffix(path)
    if path.suffix != ".onnx":
        state = {name: tensor for name, tensor in state.items() if name != GRAPH}
    _WRITERS[path.suffix](path, state, metadata)


def check_suffix(path: Path) -> None:
    """Raise an InputError unless the path's suffix is a known one: before the work, not after it."""
    if path.suffix not in _READERS:
        raise InputError(f"{path}: expected a path ending in {', '.join(_READERS)}, found {path.suffix or 'no suffix'}")
