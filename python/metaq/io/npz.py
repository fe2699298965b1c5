"""`.npz` files: arrays as numpy.savez writes them. Nothing in them is run, and torch is not needed to write them."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from metaq.errors import InputError
from metaq.files import atomic_file
from metaq.format.dtypes import BY_NAME, Dtype
from metaq.io.format import Format
from metaq.io.source import StateSource, StoredTensor, TensorSource

_MEMBER = ".npy"  # behind each array's name in the archive
# By how a member is compressed, the most bytes that one of its bytes stands for: with deflate, 258 for two bits.
_GREATEST_RATIOS = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}


class Npz(Format):
    """Archives of NumPy's arrays. Metadata has no place in them, and shared arrays are written once for each name."""

    name = "NumPy"
    suffixes = (".npz",)
    package = "torch"
    extra = "torch"

    def recognises(self, start: bytes, size_bytes: int) -> bool:
        """Whether it is a zip archive whose first member is an array."""
        name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
        return start.startswith(b"PK\3\4") and name.endswith(_MEMBER.encode())

    def open(self, path: Path, key: str | None = None) -> TensorSource:
        """All arrays of numbers, in the archive's order."""
        self.refuse_key(path, key)
        try:
            import torch
        except ImportError:
            raise self.missing(path) from None
        arrays = _read(path)
        return StateSource({name: torch.from_numpy(array) for name, array in arrays.items()}, name=str(path))

    def write(self, path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
        """Uncompressed, the same bytes for the same tensors."""
        dtypes = {name: _numpy_dtype(path, name, tensor.dtype) for name, tensor in tensors.items()}
        for name in tensors:
            if "\0" in name:
                raise InputError(f"{path}: expected names without NUL for an .npz file, found {name!r}")
        size = sum(tensor.octets.size for tensor in tensors.values())
        with atomic_file(path, size) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
            for name, tensor in tensors.items():
                with archive.open(zipfile.ZipInfo(name + _MEMBER), "w", force_zip64=True) as member:
                    array = tensor.octets.view(dtypes[name]).reshape(tensor.shape)
                    np.lib.format.write_array(member, array, allow_pickle=False)


def _numpy_dtype(path: Path, name: str, dtype: Dtype) -> np.dtype:
    if not hasattr(np, dtype.name):
        found = f"{dtype}, which NumPy does not have; write a .safetensors file"
        raise InputError(f"{path}, tensor {name!r}: expected a dtype of NumPy's for an .npz file, found {found}")
    return np.dtype(dtype.name)


def _check_members(members: list[zipfile.ZipInfo], file_bytes: int) -> None:
    """Raise ValueError for members that cannot all be in a file of so many bytes, or are not as NumPy writes them."""
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two arrays of one name")
    if any(member.compress_type not in _GREATEST_RATIOS for member in members):
        raise ValueError("an array that is compressed otherwise than by deflate")
    if sum(member.compress_size for member in members) > file_bytes:
        raise ValueError("an archive that says it has more bytes than the file")


def _check_size(stream: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Raise ValueError for an array of more bytes than its member can have: NumPy makes room before it reads."""
    size_bytes = min(member.file_size, member.compress_size * _GREATEST_RATIOS[member.compress_type])
    header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(np.lib.format.read_magic(stream))
    if header is None:  # 3.0 is for names of fields, which no array of numbers has
        raise ValueError("an array of another version")
    shape, _, dtype = header(stream)
    if math.prod(shape) * dtype.itemsize > size_bytes:
        raise ValueError("an array that is larger than its place in the archive")
    stream.seek(0)


def _read(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    try:
        # Opened here, so that it is closed also where NumPy refuses it.
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arrays that Python 2 wrote, which are read all the same
            _check_members(archive.infolist(), os.fstat(file.fileno()).st_size)
            for member in archive.infolist():
                with archive.open(member) as stream:
                    _check_size(stream, member)
                    name = member.filename.removesuffix(_MEMBER)
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # zipfile's, zlib's and NumPy's own have no common base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: expected an .npz file of arrays of numbers, found something else ({reason})"
        ) from None
    for name, array in arrays.items():
        if array.dtype.newbyteorder("=").name not in BY_NAME:
            known = ", ".join(BY_NAME)
            raise InputError(f"{path}, array {name!r}: expected one of {known}, found {array.dtype}")
    return {
        name: np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
        for name, array in arrays.items()
    }
