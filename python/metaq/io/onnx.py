"""`.onnx` models: initialisers as tensors, and all else as the bytes of one more tensor, so that a model comes back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from metaq.coding import text
from metaq.errors import InputError
from metaq.files import refuse_devices, write_atomically
from metaq.format.dtypes import BY_NAME
from metaq.io.format import Format
from metaq.io.source import StateSource, StoredTensor, TensorSource, tensor_of

GRAPH = "metaq.onnx.graph"  # the tensor's name
MOST_BYTES = (1 << 31) - 1  # of a protobuf message

# ONNX's numbers of data types (TensorProto.DataType). All else, say texts and complex numbers, stays in the graph.
DTYPES = {
    1: BY_NAME["float32"],
    2: BY_NAME["uint8"],
    3: BY_NAME["int8"],
    5: BY_NAME["int16"],
    6: BY_NAME["int32"],
    7: BY_NAME["int64"],
    9: BY_NAME["bool"],
    10: BY_NAME["float16"],
    11: BY_NAME["float64"],
    16: BY_NAME["bfloat16"],
    17: BY_NAME["float8_e4m3fn"],
    19: BY_NAME["float8_e5m2"],
}
DATA_TYPES = {dtype: number for number, dtype in DTYPES.items()}


class Onnx(Format):
    """`.onnx` models. Values in files beside the model are read too, and become part of it.

    Initialisers of subgraphs, sparse ones, constants of nodes and dtypes that `.mtq` files do not have stay in the
    model, whose bytes, without values, are text-coded as the tensor GRAPH. There is no metadata: all is in the model.
    """

    name = "onnx"
    suffixes = (".onnx",)
    package = "onnx"
    extra = "onnx"

    def recognises(self, start: bytes, size_bytes: int) -> bool:
        """Whether it begins with the first field of a ModelProto, its version."""
        return start.startswith(b"\x08")

    def open(self, path: Path, key: str | None = None) -> TensorSource:
        """A model's initialisers in their order, then the model without their values."""
        self.refuse_key(path, key)
        onnx = self._package(path)
        try:
            model, _ = load_model(path)
            tensors = [tensor for tensor in model.graph.initializer if tensor.data_type in DTYPES]
            state = {tensor.name: _values(onnx, tensor) for tensor in tensors}
        except InputError:
            raise
        except Exception as error:  # what damaged values lead to
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{path}: expected an .onnx model, found something else ({reason})") from None
        if not model.graph.node and not state:
            raise InputError(f"{path}: expected an .onnx model, found nothing in it")
        if len(state) < len(tensors) or GRAPH in state:
            raise InputError(f"{path}: expected initialisers of distinct names other than {GRAPH!r}, found others")
        for tensor in tensors:
            _empty(tensor)
        graph = model.SerializeToString(deterministic=True)
        coded = np.frombuffer(len(graph).to_bytes(8, "little") + text.encode(graph), np.uint8)
        state[GRAPH] = StoredTensor(BY_NAME["uint8"], coded.shape, coded)
        return StateSource({name: tensor_of(tensor) for name, tensor in state.items()}, name=str(path))

    def write(self, path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
        """The model that was taken apart, with these values; at most 2 GiB."""
        if GRAPH not in tensors:
            found = "those of another checkpoint"
            raise InputError(f"{path}: expected tensors of an .onnx model to write one, found {found}")
        model = self.together(path, tensors)
        if model.ByteSize() > MOST_BYTES:
            raise InputError(f"{path}: expected a model of at most 2 GiB, found {model.ByteSize()} bytes")
        write_atomically(path, model.SerializeToString(deterministic=True))

    def together(self, path: Path, tensors: Mapping[str, StoredTensor]) -> Any:
        """The model that was taken apart, with these values, as a ModelProto.

        Args:
            path: what errors call it.
            tensors: GRAPH among them.

        Raises:
            InputError: GRAPH is no model, or an initialiser of it has no value, or one of another dtype or shape.
        """
        model = _graph(self._package(path), path, tensors[GRAPH])
        for tensor in model.graph.initializer:
            if tensor.data_type in DTYPES:
                values = tensors.get(tensor.name)
                expected = DTYPES[tensor.data_type], tuple(tensor.dims)
                if values is None or (values.dtype, values.shape) != expected:
                    found = "none" if values is None else f"{values.dtype} of shape {values.shape}"
                    raise InputError(f"{path}: expected the values of initialiser {tensor.name!r}, found {found}")
                tensor.raw_data = values.octets.tobytes()
        return model

    def _package(self, path: Path) -> ModuleType:
        try:
            import onnx
            import onnx.numpy_helper
        except ImportError:
            raise self.missing(path) from None
        return onnx


def load_model(path: Path) -> tuple[Any, int]:
    """A model with all of its values, and the bytes of them that lie in files beside it.

    Raises:
        InputError: it is no model, or a value is missing, or in no file in the model's folder or below.
    """
    import onnx

    refuse_devices(path)
    try:
        model = onnx.load(str(path), load_external_data=False)
        elsewhere = _external_tensors(model)
        for tensor in elsewhere:
            _check_location(path, tensor)
        onnx.load_external_data_for_model(model, str(path.parent))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, found {error.strerror}") from None
    except Exception as error:  # the parser's, the package's own, what missing or damaged values lead to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: expected an .onnx model, found something else ({reason})") from None
    for tensor in _external_tensors(model):
        expected = "values in other files for initialisers and attributes alone"
        raise InputError(f"{path}: expected {expected}, found some for tensor {tensor.name!r}")
    return model, sum(len(tensor.raw_data) for tensor in elsewhere)


def _check_location(path: Path, tensor: Any) -> None:
    """A model may have been made by anybody: it is to read no file but those that came with it."""
    folder = Path(os.path.realpath(path.parent))
    named = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    place = Path(os.path.realpath(folder / named))
    if not place.is_relative_to(folder) or not place.is_file():
        expected = f"the values of tensor {tensor.name!r} in its folder"
        found = f"{named!r} outside of it" if not place.is_relative_to(folder) else f"no file {named!r}"
        raise InputError(f"{path}: expected {expected}, found {found}")


def _external_tensors(message: Any) -> list[Any]:
    """The tensors anywhere in a message whose values are in other files."""
    found = []
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in [value] if hasattr(value, "ListFields") else value:
            if field.message_type.name == "TensorProto":
                found += [part] if part.external_data or part.data_location else []
            else:
                found += _external_tensors(part)
    return found


def _graph(onnx: ModuleType, path: Path, coded: StoredTensor) -> Any:
    octets = coded.octets.tobytes()
    size = int.from_bytes(octets[:8], "little")
    try:
        if coded.dtype != BY_NAME["uint8"] or not 0 < size <= MOST_BYTES:
            raise ValueError
        model = onnx.load_from_string(text.decode(octets[8:], size))
    except Exception:  # the parser's errors have no common base
        raise InputError(f"{path}: expected an .onnx graph in tensor {GRAPH!r}, found other bytes") from None
    for tensor in _external_tensors(model):  # whoever opens the model would be sent to any file
        expected = f"all values of the graph in tensor {GRAPH!r} in the file"
        raise InputError(f"{path}: expected {expected}, found those of {tensor.name!r} in another")
    return model


def _values(onnx: ModuleType, tensor: Any) -> StoredTensor:
    """An initialiser's values, whichever of its fields they are in."""
    array = np.array(onnx.numpy_helper.to_array(tensor), order="C")
    return StoredTensor(DTYPES[tensor.data_type], tuple(tensor.dims), array.reshape(-1).view(np.uint8))


def _empty(tensor: Any) -> None:
    for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
        tensor.ClearField(field)
    tensor.ClearField("data_location")
