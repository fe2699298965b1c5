"""One name for all weights of a network: a checksum of what its tensors are, however they are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from metaq.format.reader import Reader


def sha256(tensors: Iterable[tuple[str, str, tuple[int, ...], np.ndarray]]) -> str:
    """SHA-256, in hexadecimal, of every tensor's name, dtype, shape and bytes: equal exactly when all of them are.

    Args:
        tensors: of each its name, its dtype's name, its shape, and its elements' bytes, row-major, as uint8.
    """
    sha = hashlib.sha256()
    for name, dtype, shape, octets in tensors:
        # Escaped, so that no name holds the separator.
        sha.update(name.encode("unicode_escape") + f"\0torch.{dtype}\0{shape}\0".encode())
        sha.update(octets.data)
    return sha.hexdigest()


def weights_sha256(reader: Reader) -> str:
    """`sha256` of a file's tensors, all of which are decoded: the same as `metaq.metrics.digest` of torch's.

    Raises:
        FormatError: a chunk is damaged.
    """
    entries, arrays = reader.header.tensors, reader.load()
    octets = {name: array.reshape(-1).view(np.uint8) for name, array in arrays.items()}
    return sha256((entry.name, entry.dtype.name, entry.shape, octets[entry.name]) for entry in entries)
