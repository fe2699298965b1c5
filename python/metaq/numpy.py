"""Files as NumPy arrays, without torch: names and arguments are those of `safetensors.numpy`.

NumPy has no bfloat16 and no float8. Their elements are of `ml_dtypes` where that is installed; without it they are
unsigned integers of the same bits, and arrays of such integers are written as integers, or refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from metaq.coding import DEFAULT_CODER
from metaq.errors import InputError
from metaq.files import open_bytes, write_atomically
from metaq.format import writer
from metaq.format.applying import apply_to, open_difference
from metaq.format.changes import encode_difference
from metaq.format.dtypes import BY_NAME, new_array
from metaq.format.limits import Limits
from metaq.format.network import array_network, layout_of, octets_of, whole_source
from metaq.format.reader import Reader
from metaq.format.safe_open import OpenFile
from metaq.format.update_log import LogPlace, LogReader, LogWriter
from metaq.format.writer import Source

__all__ = [
    "DeltaReader",
    "DeltaWriter",
    "Limits",
    "apply",
    "decode",
    "delta",
    "encode",
    "load",
    "load_file",
    "safe_open",
    "save",
    "save_file",
]


def load(data: bytes | memoryview, limits: Limits | None = None) -> dict[str, np.ndarray]:
    """Every tensor of a `.mtq` file in memory, by name, in the file's order; aliases are the same array.

    Args:
        data: the file.
        limits: beyond which it is refused, if it is a stranger's.

    Raises:
        InputError: it is beyond the limits.
        FormatError: the bytes are not a whole and unchanged `.mtq` file.
    """
    return Reader(data, limits=limits).load()


def load_file(filename: str | os.PathLike[str], limits: Limits | None = None) -> dict[str, np.ndarray]:
    """Every tensor of a `.mtq` file, as `load` gives them.

    Raises:
        InputError: the file cannot be read, or is beyond the limits.
        FormatError: it is not a whole and unchanged `.mtq` file.
    """
    return Reader(open_bytes(filename), str(filename), limits=limits).load()


def save(
    tensor_dict: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None, coder: str = DEFAULT_CODER
) -> bytes:
    """Arrays as the bytes of a `.mtq` file, without loss::

        data = metaq.numpy.save({"weight": np.zeros((3, 4), np.float32)})
        assert not metaq.numpy.load(data)["weight"].any()

    Args:
        tensor_dict: of dtype float16 to float64, bool, uint8, int8 to int64, or bfloat16 and float8 of `ml_dtypes`.
        metadata: any texts.
        coder: name of the coder.

    Raises:
        InputError: an unknown coder, or an array or text that no file can hold.
    """
    sources = [_source(name, array) for name, array in tensor_dict.items()]
    return writer.encode(sources, metadata or {}, coder)


def save_file(
    tensor_dict: Mapping[str, np.ndarray],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    coder: str = DEFAULT_CODER,
) -> None:
    """Write arrays to a `.mtq` file, as `save` makes it, whole or not at all.

    Raises:
        InputError: as `save`, or a path that cannot be written.
    """
    write_atomically(filename, save(tensor_dict, metadata, coder))


def delta(
    base: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> bytes:
    """What makes one network of another, without loss, as the bytes of a `.mtq` file; as `metaq.delta`::

        base = {"weight": np.zeros((300, 400), np.float32)}
        new = {"weight": np.eye(300, 400, dtype=np.float32)}
        update = metaq.numpy.delta(base, new)
        assert (metaq.numpy.apply(base, update)["weight"] == new["weight"]).all()

    Args:
        base: all arrays of the network that the receiver has, of dtypes as `save` has them.
        new: all arrays of the network to come.
        metadata: any texts, which the file holds.

    Raises:
        InputError: an array or text that no file can hold.
    """
    return encode_difference(array_network(base), array_network(new, metadata))


def apply(
    base: Mapping[str, np.ndarray], difference: bytes | memoryview | str | os.PathLike[str]
) -> dict[str, np.ndarray]:
    """The network that a difference makes of its base, every array new; as `metaq.apply`.

    Args:
        base: all arrays of the base, by name.
        difference: the bytes of a `.mtq` file that is a difference, made by `delta` or trained; or its path.

    Returns:
        every array by name, in the base's order, and then those that are new; shared ones are the same object.

    Raises:
        InputError: a whole model, or another base than the difference's; the message names both.
        FormatError: the bytes are not a whole and unchanged `.mtq` file.
    """
    return apply_to(open_difference(difference), array_network(base), new_array)


def encode(arrays: Mapping[str, np.ndarray], coder: str = DEFAULT_CODER) -> bytes:
    """Integer arrays as the bytes of a `.mtq` file: names, shapes, dtypes, checksums and all.

    Args:
        arrays: of dtype bool, uint8, int8, int16, int32 or int64, of any shape, by name; may be empty. Values beyond
            ±(2^30 - 1) are stored in byte planes.

    Raises:
        InputError: an unknown coder or dtype, or more than 32 dimensions.
    """
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biu":
            found = getattr(array, "dtype", type(array).__name__)
            raise InputError(f"array {name!r}: expected a NumPy array of integers, found {found}")
        if array.dtype.name not in BY_NAME:
            raise InputError(f"array {name!r}: expected bool, uint8 or int8 to int64, found {array.dtype}")
    return save(arrays, coder=coder)


def decode(data: bytes | memoryview) -> dict[str, np.ndarray]:
    """Inverse of `encode`: NumPy arrays by name, of the dtypes that went in.

    Raises:
        FormatError: the bytes are not a whole and unchanged `.mtq` file.
        InputError: they hold tensors of floating point; `load_file` reads those.
    """
    reader = Reader(data)
    for entry in reader.header.tensors:
        if entry.dtype.is_float:
            raise InputError(f"tensor {entry.name!r}: expected integers, found {entry.dtype}; use load_file")
    return reader.load()


class safe_open(OpenFile[np.ndarray]):  # noqa: N801 - the name that safetensors has made known
    """A `.mtq` file of which tensors are read one at a time, and rows of tensors: see `OpenFile`::

    with metaq.numpy.safe_open("model.mtq") as file:
        rows = file.get_slice("embedding.weight")[:100]
    """

    def __init__(self, filename: str | os.PathLike[str], limits: Limits | None = None) -> None:
        super().__init__(filename, new_array, limits)


class DeltaWriter(LogWriter):
    """Appends the steps of a network to an update log, as `metaq.DeltaWriter`::

    with metaq.numpy.DeltaWriter("run.mtql") as log:
        log.append({"weight": np.zeros((3, 4), np.float32)})
    """

    def append(
        self, arrays: Mapping[str, np.ndarray], step: int | None = None, metadata: Mapping[str, str] | None = None
    ) -> int:
        """Write arrays, of dtypes as `save` has them, as the next step; returns the bytes that it takes.

        Args:
            step: its number, above all that are there; by default one more than the last.
            metadata: any texts.

        Raises:
            InputError: another number, an array that no file can hold, or no room; the log is as it was.
        """
        return self.append_network(array_network(arrays, metadata), step)


class DeltaReader(LogReader[np.ndarray]):
    """The steps of an update log, as `metaq.DeltaReader`::

    with metaq.numpy.DeltaReader("run.mtql") as log:
        arrays = log.read(log.steps[0])
    """

    def __init__(self, file: LogPlace) -> None:
        super().__init__(file, new_array)


def _source(name: str, array: np.ndarray) -> Source:
    """An array as it is written, without loss."""
    return whole_source(name, layout_of(name, array), octets_of(array))
