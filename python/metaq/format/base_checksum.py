"""The checksum by which a difference names its base (docs/format.md, "Differences")."""

from __future__ import annotations

import hashlib

from metaq.format.header import pack_shape, string
from metaq.format.network import Network, pieces

_SHOWN_DIGITS = 12


def base_checksum(network: Network) -> str:
    """SHA-256, in hexadecimal, of all tensors in the order of their names: of each its name, dtype, shape and bytes."""
    sha = hashlib.sha256()
    for name in sorted(network.layouts, key=lambda name: name.encode("utf-8")):
        layout = network.layouts[name]
        sha.update(string(name) + bytes([layout.dtype.code]) + pack_shape(layout.shape))
        for piece in pieces(layout.size):
            sha.update(network.octets(name, piece).data)
    return sha.hexdigest()


def shortened(checksum: str) -> str:
    """A checksum's first digits, for messages."""
    return f"{checksum[:_SHOWN_DIGITS]}..."
