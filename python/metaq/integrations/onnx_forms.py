"""Tensors of a `.mtq` file as an ONNX graph holds them: integers and the nodes that make values of them, or values.

A uniform tensor is `DequantizeLinear` of its symbols. Its step, or those of its rows, is the scale, and a `Mul` applies
the scales of columns, in the order of docs/format.md, "Scales". A table is a `Gather` from its levels. Every product is
one of float32 and every rounding one to nearest even, as in a decoder, so that values are the decoded ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from metaq.codebook import TableCodebook, UniformCodebook
from metaq.format.dtypes import BY_NAME, Dtype, numpy_dtype
from metaq.format.header import TensorEntry
from metaq.io.onnx import DATA_TYPES
from metaq.matrix_layout import MatrixLayout, scales

# Data types of integers, smallest first, with the least and the greatest number of each.
_SIGNED = ((TensorProto.INT4, -8, 7), (TensorProto.INT8, -(1 << 7), 127), (TensorProto.INT16, -(1 << 15), 32767))
_UNSIGNED = ((TensorProto.UINT4, 0, 15), (TensorProto.UINT8, 0, 255), (TensorProto.UINT16, 0, 65535))
_FOUR_BITS = (TensorProto.INT4, TensorProto.UINT4)

# What is to be the name of a new tensor, to a name like it that the graph does not have.
Rename = Callable[[str], str]


@dataclass
class Form:
    """What takes the place of one initialiser.

    Attributes:
        kind: what it is called in results: ``plain``, ``alias``, or the integers' type and the node that they go to.
        initializers: of the graph.
        nodes: in order; the last one's output has the name of the initialiser that is replaced. None for plain values.
    """

    kind: str
    initializers: list[TensorProto] = field(default_factory=list)
    nodes: list[NodeProto] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """How many bytes of a model it takes, up to a few."""
        total: int = sum(t.ByteSize() for t in self.initializers) + sum(node.ByteSize() for node in self.nodes)
        return total


def plain(entry: TensorEntry, dtype: Dtype, values: np.ndarray) -> Form:
    """An initialiser of a tensor's values, of its own dtype or a wider one."""
    octets = values.astype(numpy_dtype(dtype), copy=False).tobytes()
    return Form("plain", [_tensor(entry.name, DATA_TYPES[dtype], entry.shape, octets)])


def alias(name: str, first: str) -> Form:
    """A second name of a tensor that nodes make."""
    return Form("alias", nodes=[helper.make_node("Identity", [first], [name])])


def compact(entry: TensorEntry, dtype: Dtype, symbols: np.ndarray, rename: Rename) -> Form | None:
    """The integers of a coded tensor of floating point, and nodes that make its values of them, for opset 21.

    Args:
        dtype: what the values are to be of: the tensor's own dtype, to which they are rounded, or a wider one.
        symbols: int32, in the tensor's shape.
        rename: gives the initialisers and tensors in between their names.

    Returns:
        None if 16 bits do not hold every symbol, or a tensor has none.
    """
    if not symbols.size:
        return None
    chain = _Chain(entry.name, rename)
    if isinstance(entry.codebook, UniformCodebook):
        return _dequantized(chain, entry, dtype, symbols)
    return _looked_up(chain, entry, dtype, symbols)


class _Chain:
    """Nodes of which each takes the output of the one before it."""

    def __init__(self, name: str, rename: Rename) -> None:
        self._name = name
        self._rename = rename
        self._form = Form("")

    def start(self, what: str, integers: np.ndarray, data_type: int) -> None:
        """Begin with integers as an initialiser."""
        self._last = self._add(what, data_type, integers.shape, _pack(integers, data_type))

    def constant(self, what: str, array: np.ndarray) -> str:
        """The name of a new initialiser."""
        return self._add(what, DATA_TYPES[BY_NAME[array.dtype.name]], array.shape, array.tobytes())

    def apply(self, operator: str, *others: str, is_second: bool = False, **attributes: Any) -> None:
        """One more node, of the chain's tensor and others, which come before it if it ``is_second``."""
        inputs = [*others, self._last] if is_second else [self._last, *others]
        self._last = self._rename(f"{self._name}.{operator}")
        self._form.nodes.append(helper.make_node(operator, inputs, [self._last], **attributes))

    def finish(self, kind: str) -> Form:
        """The whole chain; its last tensor takes the name of the one that is replaced."""
        self._form.nodes[-1].output[0] = self._name
        self._form.kind = kind
        return self._form

    def _add(self, what: str, data_type: int, shape: tuple[int, ...], octets: bytes) -> str:
        name = self._rename(f"{self._name}.{what}")
        self._form.initializers.append(_tensor(name, data_type, shape, octets))
        return name


def _dequantized(chain: _Chain, entry: TensorEntry, dtype: Dtype, symbols: np.ndarray) -> Form | None:
    """``(q * s_i) * c_j``, then rounded to the tensor's dtype."""
    assert isinstance(entry.codebook, UniformCodebook)
    data_type = _smallest(symbols, _SIGNED)
    if data_type is None:
        return None
    matrix = entry.matrix or MatrixLayout()
    steps = matrix.row_steps(entry.codebook.step)
    # Scales belong to one axis in ONNX, so that several dimensions that make a row become one.
    is_flat = matrix.row_logs is not None and matrix.leading > 1
    chain.start("symbols", symbols.reshape(matrix.rows(entry.shape), -1) if is_flat else symbols, data_type)
    if matrix.row_logs is None:
        chain.apply("DequantizeLinear", chain.constant("step", steps.reshape(())))
    else:
        chain.apply("DequantizeLinear", chain.constant("steps", steps), axis=0)
    if matrix.column_logs is not None:
        columns = scales(matrix.column_logs)
        columns = columns if is_flat else columns.reshape(entry.shape[matrix.leading :])
        chain.apply("Mul", chain.constant("column_scales", columns))
    if is_flat:
        chain.apply("Reshape", chain.constant("shape", np.array(entry.shape, np.int64)))
    if entry.dtype != BY_NAME["float32"]:
        chain.apply("Cast", to=DATA_TYPES[entry.dtype])
    if dtype != entry.dtype:
        chain.apply("Cast", to=DATA_TYPES[dtype])
    return chain.finish(f"{TensorProto.DataType.Name(data_type).lower()} DequantizeLinear")


def _looked_up(chain: _Chain, entry: TensorEntry, dtype: Dtype, symbols: np.ndarray) -> Form | None:
    """Levels by their places. They are rounded to the tensor's dtype here, so that no node need do it."""
    assert isinstance(entry.codebook, TableCodebook)
    indices = symbols + entry.codebook.origin
    data_type = _smallest(indices, _UNSIGNED)
    if data_type is None:
        return None
    chain.start("indices", indices, data_type)
    with np.errstate(over="ignore"):  # levels beyond the dtype's range are infinite, as in a decoder
        levels = entry.codebook.table.astype(numpy_dtype(entry.dtype)).astype(numpy_dtype(dtype))
    chain.apply("Cast", to=TensorProto.INT32)
    chain.apply("Gather", chain.constant("levels", levels), is_second=True)
    return chain.finish(f"{TensorProto.DataType.Name(data_type).lower()} Gather")


def _smallest(integers: np.ndarray, types: tuple[tuple[int, int, int], ...]) -> int | None:
    """The first of these data types that has all of the integers."""
    least, greatest = int(integers.min()), int(integers.max())
    return next((data_type for data_type, low, high in types if low <= least and greatest <= high), None)


def _pack(integers: np.ndarray, data_type: int) -> bytes:
    """Integers as `raw_data` has them: of four bits, two a byte, the first one in the lower half."""
    if data_type not in _FOUR_BITS:
        return integers.astype(helper.tensor_dtype_to_np_dtype(data_type)).tobytes()
    halves = np.zeros(math.ceil(integers.size / 2) * 2, np.uint8)
    halves[: integers.size] = integers.reshape(-1) & 15
    return (halves[::2] | halves[1::2] << 4).tobytes()


def _tensor(name: str, data_type: int, shape: tuple[int, ...], octets: bytes) -> TensorProto:
    return TensorProto(name=name, data_type=data_type, dims=shape, raw_data=octets)
