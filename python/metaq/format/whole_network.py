"""Networks in memory to whole `.mtq` files without loss, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from metaq import coding
from metaq.format.dtypes import Dtype
from metaq.format.header import TensorEntry
from metaq.format.network import Layout, Network, OctetNetwork, whole_source
from metaq.format.reader import Reader
from metaq.format.writer import Source, encode


def encode_network(network: Network, metadata: Mapping[str, str] | None = None, coder: str | None = None) -> bytes:
    """A network without loss as a whole `.mtq` file.

    Args:
        metadata: in the place of the network's own.
        coder: by default the one that suits the size.

    Raises:
        InputError: names or metadata that no file can hold, or a network that cannot be read.
    """
    places = {name: place for place, name in enumerate(network.layouts)}
    sources = []
    for name, layout in network.layouts.items():
        if name in network.aliases:
            entry = TensorEntry(name, layout.dtype, layout.shape, target=places[network.aliases[name]])
            sources.append(Source(entry, None))
        else:
            sources.append(whole_source(name, layout, network.octets(name, range(layout.size))))
    size_bytes = sum(layout.size_bytes for layout in network.layouts.values())
    texts = network.metadata if metadata is None else metadata
    return encode(sources, texts, coder or coding.suitable(size_bytes, lossless=True))


def read_network(reader: Reader) -> OctetNetwork:
    """All tensors of a whole `.mtq` file, in memory.

    Raises:
        FormatError: a chunk is damaged.
    """

    def new(dtype: Dtype, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        octets = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
        return octets, octets

    entries = reader.header.tensors
    layouts = {entry.name: Layout(entry.dtype, entry.shape) for entry in entries}
    aliases = {entry.name: entries[entry.target].name for entry in entries if entry.target is not None}
    return OctetNetwork(layouts, aliases, reader.load(new), reader.header.metadata, reader.name)
