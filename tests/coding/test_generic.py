"""The general compressors: bounded output, whatever a stream claims."""

import lzma
import tracemalloc
import zlib

import numpy as np
import pytest
import zstandard

from metaq.coding import coders
from metaq.errors import FormatError

BOMB = bytes(1 << 26)


def deflated(plain):
    compressor = zlib.compressobj(9, wbits=-15)
    return compressor.compress(plain) + compressor.flush()


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("gzip", deflated),
        ("zstd", lambda plain: zstandard.ZstdCompressor().compress(plain)),
        ("zstd", lambda plain: zstandard.ZstdCompressor(write_content_size=False).compress(plain)),
        (
            "lzma",
            lambda plain: lzma.compress(
                plain, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
            ),
        ),
    ],
    ids=["gzip", "zstd", "zstd without its size", "lzma"],
)
def test_a_bomb_is_refused_before_it_fills_the_memory(name, compress):
    data = compress(BOMB)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=name):
            coders[name].decode(data, [(10, 10, 1)])
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_stored_refuses_other_widths():
    with pytest.raises(FormatError, match="widths"):
        coders["stored"].decode(b"\x03\x00\x00\x00", [(1, 1, 1)])


def test_stored_refuses_what_is_no_symbol():
    with pytest.raises(FormatError, match="2\\^30"):
        coders["stored"].decode(b"\x04" + np.int32(1 << 30).tobytes(), [(1, 1, 1)])
