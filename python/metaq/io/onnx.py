"""`.onnx` models: initialisers as tensors, and all else as the bytes of one more tensor, so that a model comes back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaq.coding import text
from metaq.errors import InputError
from metaq.files import write_atomically
from metaq.tensors import octets_of

GRAPH = "metaq.onnx.graph"  # the tensor's name
MOST_BYTES = (1 << 31) - 1  # of a protobuf message

# ONNX's numbers of data types (TensorProto.DataType). All else, say texts and complex numbers, stays in the graph.
_DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
    17: torch.float8_e4m3fn,
    19: torch.float8_e5m2,
}


def read_onnx(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A model's initialisers in their order, then the model without their values as text-coded bytes.

    Values in files beside the model are read too. Initialisers of subgraphs, sparse ones, constants of nodes and
    dtypes that `.mtq` files do not have stay in the model. There is no metadata: what a model has is in it.

    Raises:
        InputError: not a readable model, two initialisers of one name or one of a reserved name, or the package onnx is
            not installed.
    """
    onnx = _package(path)
    try:
        model = onnx.load(str(path))
        tensors = [tensor for tensor in model.graph.initializer if tensor.data_type in _DTYPES]
        state = {tensor.name: _values(onnx, tensor) for tensor in tensors}
    except Exception as error:  # the parser's, the package's own, what missing or damaged values lead to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: expected an .onnx model, found otherwise ({reason})") from None
    if not model.graph.node and not state:
        raise InputError(f"{path}: expected an .onnx model, found nothing in it")
    if len(state) < len(tensors) or GRAPH in state:
        raise InputError(f"{path}: expected initialisers of distinct names other than {GRAPH!r}, found others")
    for tensor in tensors:
        _empty(tensor)
    graph = model.SerializeToString(deterministic=True)
    coded = len(graph).to_bytes(8, "little") + text.encode(graph)
    return {**state, GRAPH: torch.frombuffer(bytearray(coded), dtype=torch.uint8)}, {}


def write_onnx(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the model that `read_onnx` took apart, with these values.

    Raises:
        InputError: the tensors are not those of a model, they are more than 2 GiB, or the place cannot be written.
    """
    onnx = _package(path)
    if GRAPH not in state:
        raise InputError(f"{path}: expected tensors of an .onnx model to write one, found those of another checkpoint")
    model = _graph(onnx, path, state[GRAPH])
    for tensor in model.graph.initializer:
        if tensor.data_type in _DTYPES:
            values = state.get(tensor.name)
            if values is None or values.dtype != _DTYPES[tensor.data_type] or tuple(values.shape) != tuple(tensor.dims):
                found = "none" if values is None else f"{values.dtype} of shape {tuple(values.shape)}"
                raise InputError(f"{path}: expected the values of initialiser {tensor.name!r}, found {found}")
            tensor.raw_data = octets_of(values).tobytes()
    if model.ByteSize() > MOST_BYTES:
        raise InputError(f"{path}: expected a model of at most 2 GiB, found {model.ByteSize()} bytes")
    write_atomically(path, model.SerializeToString(deterministic=True))


def _graph(onnx: ModuleType, path: Path, coded: Tensor) -> Any:
    octets = octets_of(coded).tobytes()
    size = int.from_bytes(octets[:8], "little")
    try:
        if coded.dtype != torch.uint8 or not 0 < size <= MOST_BYTES:
            raise ValueError
        return onnx.load_from_string(text.decode(octets[8:], size))
    except Exception:  # the parser's errors have no common base
        raise InputError(f"{path}: expected an .onnx graph in tensor {GRAPH!r}, found other bytes") from None


def _values(onnx: ModuleType, tensor: Any) -> Tensor:
    """An initialiser's values, whichever of its fields they are in."""
    array = np.ascontiguousarray(onnx.numpy_helper.to_array(tensor))
    dtype = _DTYPES[tensor.data_type]
    octets = torch.from_numpy(np.array(array).reshape(-1).view(np.uint8))
    return octets.view(dtype).reshape(tuple(tensor.dims))


def _empty(tensor: Any) -> None:
    for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
        tensor.ClearField(field)
    tensor.ClearField("data_location")


def _package(path: Path) -> ModuleType:
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError:
        raise InputError(
            f"{path}: expected the package onnx for such a file, found none: pip install metaq[onnx]"
        ) from None
    return onnx
