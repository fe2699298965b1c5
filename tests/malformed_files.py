"""Small files that break one rule of docs/format.md each, by the `FileStatus` that the C++ decoder gives them."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from metaq import _native, coding
from metaq.format.dtypes import DTYPES
from metaq.format.header import ALIAS as ALIAS_KIND
from metaq.format.header import varint

FLOAT32, UINT8, INT64, BOOL = b"\0", b"\x10", b"\x14", b"\x15"
CODED, KEPT, ALIAS, SCALED, CHANGED, REMOVED = (bytes([kind]) for kind in range(6))
SCALAR = b"\0"
STEP = b"\0\0" + struct.pack("<f", 0.5)  # a new codebook, uniform
INTEGERS = b"\0\2"


def string(text: bytes) -> bytes:
    return varint(len(text)) + text


def shape(*lengths: int) -> bytes:
    return bytes([len(lengths)]) + b"".join(map(varint, lengths))


def table(*levels: float, count: int | None = None, origin: int = 0) -> bytes:
    sizes = varint(len(levels) if count is None else count) + varint(origin)
    return b"\0\1" + sizes + struct.pack(f"<{len(levels)}f", *levels)


def tensor(name: bytes = b"w", dtype: bytes = FLOAT32, kind: bytes = CODED, rest: bytes = shape(2, 3) + STEP) -> bytes:
    return string(name) + dtype + kind + rest


def listed(*items: bytes) -> bytes:
    return varint(len(items)) + b"".join(items)


def chunk(coder: int, symbols: int, payload: bytes) -> bytes:
    return bytes([coder]) + varint(symbols) + varint(len(payload))


def sealed(header: bytes, payloads: list[bytes], size: int | None = None, coded: bytes | None = None) -> bytes:
    """A file of this header and these payloads, with checksums that match."""
    coded = _native.text_encode(header) if coded is None else coded
    start = b"MTQ\1" + varint(len(header) if size is None else size) + varint(len(coded)) + coded
    return b"".join(part + struct.pack("<I", zlib.crc32(part)) for part in (start, *payloads))


PLAIN = bytes([1, 0, 1, 2, 3, 4, 5])  # a stored block of six symbols


def file(
    tensors: tuple[bytes, ...] = (tensor(),),
    chunks: tuple[tuple[int, int, bytes], ...] = ((0, 0, PLAIN),),
    metadata: bytes = listed(),
    flags: bytes = b"\0",
    behind: bytes = b"",
) -> bytes:
    """A file; without arguments a good one."""
    entries = listed(*(chunk(*entry) for entry in chunks))
    header = flags + metadata + listed(*tensors) + entries + behind
    return sealed(header, [payload for _, _, payload in chunks])


def scaled(layout: bytes, codebook: bytes = STEP, dtype: bytes = FLOAT32, lengths: tuple[int, ...] = (2, 3)) -> bytes:
    """A file of a tensor that is seen as a matrix."""
    return file((tensor(dtype=dtype, kind=SCALED, rest=shape(*lengths) + codebook + layout),))


BASE = bytes(range(32))
GOOD = file()
GOOD_DIFFERENCE = file(flags=b"\1" + BASE)
UNCHANGED = b"\0\0\0" + struct.pack("<I", 1 << 16)  # about a stream of changes


def changed(
    common: int = 6,
    differing: int = 1,
    source: bytes = b"\0",
    lengths: tuple[int, ...] = (2, 3),
    dtype: bytes = FLOAT32,
) -> bytes:
    """The entry of a changed tensor."""
    return tensor(dtype=dtype, kind=CHANGED, rest=shape(*lengths) + varint(common) + varint(differing) + source)


def difference(tensors: tuple[bytes, ...], chunks: tuple[tuple[int, int, bytes], ...]) -> bytes:
    """A file that is a difference."""
    return file(tensors, chunks, flags=b"\1" + BASE)


GONE = tensor(b"gone", kind=REMOVED, rest=b"")
GOOD_CHANGE = difference((changed(), GONE), ((9, 0, UNCHANGED),))
GOOD_SCALED = scaled(bytes([7, 1, 256 - 128, 127, 3, 4, 256 - 5]))


def of_one(dtype: bytes, codebook: bytes, *symbols: int) -> bytes:
    """A file of a coded tensor with these symbols, stored in two bytes each."""
    payload = b"\2" + struct.pack(f"<{len(symbols)}h", *symbols)
    return file((tensor(dtype=dtype, rest=shape(len(symbols)) + codebook),), ((0, 0, payload),))


def files() -> Iterator[tuple[str, bytes]]:
    """Pairs of a status and a file that has it."""
    yield from whole_files()
    yield from headers()
    yield from tensor_lists()
    yield from codebooks()
    yield from matrices()
    yield from changes()
    yield from chunk_lists()
    yield from payloads()


def whole_files() -> Iterator[tuple[str, bytes]]:
    yield "not_mtq", b""
    yield "not_mtq", b"MT"
    yield "not_mtq", b"PK\3\4" + GOOD[4:]
    yield "truncated", b"MTQ"
    yield "wrong_version", b"MTQ\2" + GOOD[4:]
    yield "wrong_version", b"MTQ\0" + GOOD[4:]
    yield "bytes_left_over", GOOD + b"\0"
    for size in (4, 5, 6, 20, len(GOOD) - 1, len(GOOD) - 4, len(GOOD) - 12):
        yield "truncated", GOOD[:size]
    yield "bad_varint", b"MTQ\1" + b"\x81\0" + GOOD[5:]
    yield "bad_varint", b"MTQ\1" + b"\xff" * 40
    yield "header_size", sealed(b"", [])
    yield "header_size", sealed(b"", [], size=2**26 + 1, coded=bytes(200))
    yield "header_size", sealed(b"", [], size=9 * 2**12 + 1, coded=b"\1")
    yield "header_size", sealed(b"", [], size=136 * 2**12 + 1, coded=bytes(128))
    yield "header_checksum", GOOD[:8] + bytes([GOOD[8] ^ 1]) + GOOD[9:]
    header = b"\0\0\0\0"
    coded = _native.text_encode(header)
    yield "header_coding", sealed(header, [], coded=coded + b"\0")
    yield "header_coding", sealed(header, [], size=3, coded=coded + b"\1\1\1\1\1\1")
    yield "header_coding", sealed(header, [], size=40_000, coded=coded)


def headers() -> Iterator[tuple[str, bytes]]:
    yield "header_truncated", sealed(b"\0\0\0", [])
    yield "header_truncated", sealed(b"\0" + listed(string(b"key")) + b"\0\0", [])
    yield "header_truncated", sealed(b"\0\0" + varint(1000) + tensor(), [])
    yield "header_truncated", sealed(b"\0\0" + listed(varint(2**62) + b"w"), [])
    yield "header_left_over", file(behind=b"\0")
    for bit in range(1, 8):
        yield "reserved_flags", file(flags=bytes([1 << bit]))
        yield "reserved_flags", file(flags=bytes([1 << bit | 1]) + BASE)
    yield "header_truncated", sealed(b"\1" + BASE[:31], [])
    yield "header_truncated", sealed(b"\1" + BASE + b"\0\0", [])
    yield "bad_varint", file(metadata=b"\x80\0")
    yield "bad_varint", sealed(b"\0\0\0" + b"\xff" * 9 + b"\1", [])
    for text in (b"\xff", b"a\x80", b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"):
        yield "bad_utf8", file((tensor(name=text),))
        yield "bad_utf8", file(metadata=listed(string(b"key") + string(text)))
    entry = string(b"key") + string(b"value")
    yield "repeated_key", file(metadata=listed(entry, entry))


def tensor_lists() -> Iterator[tuple[str, bytes]]:
    yield "repeated_name", file((tensor(), tensor()))
    yield "too_many_tensors", sealed(b"\0\0" + varint(2**20 + 1) + tensor(), [])
    for dtype in (6, 15, 22, 255):
        yield "unknown_dtype", file((tensor(dtype=bytes([dtype])),))
    yield "unknown_kind", file((tensor(kind=b"\4"),))
    yield "unknown_kind", file((GONE,))
    yield "kept_bool", file((tensor(dtype=BOOL, kind=KEPT, rest=shape(6)),))
    yield "bad_alias", file((tensor(b"a", kind=ALIAS, rest=b"\0"), tensor()))
    yield "bad_alias", file((tensor(), tensor(b"a", kind=ALIAS, rest=b"\2")))
    yield "bad_alias", file((tensor(), tensor(b"a", dtype=UINT8, kind=ALIAS, rest=b"\0")))
    aliases = (tensor(b"a", kind=ALIAS, rest=b"\0"), tensor(b"b", kind=ALIAS, rest=b"\1"))
    yield "bad_alias", file((tensor(), *aliases))
    yield "too_many_dimensions", file((tensor(rest=shape(2, 3, *[1] * 31) + STEP),))
    for lengths in ((2**40,), (2**20, 2**20), (0, 2**40), (2**62, 2**62), (2**32, 2**32, 0)):
        yield "too_many_elements", file((tensor(rest=shape(*lengths) + STEP),))


def codebooks() -> Iterator[tuple[str, bytes]]:
    def coded(codebook: bytes, dtype: bytes = FLOAT32) -> bytes:
        return file((tensor(dtype=dtype, rest=shape(2, 3) + codebook),))

    yield "unknown_codebook", coded(b"\0\3")
    for step in (0.0, -0.0, -1.0, float("inf"), float("nan")):
        yield "bad_step", coded(b"\0\0" + struct.pack("<f", step))
    yield "bad_levels", coded(table())
    yield "bad_levels", coded(table(count=2**20 + 1))
    yield "bad_levels", coded(table(1.0, 2.0, origin=2))
    for levels in ((1.0, 1.0), (2.0, 1.0), (-0.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)):
        yield "bad_levels", coded(table(*levels))
    yield "header_truncated", coded(table(count=2**20))
    yield "bad_codebook_reference", coded(b"\1")
    yield "bad_codebook_reference", file((tensor(), tensor(b"v", rest=shape(0) + b"\2")))
    yield "codebook_dtype", coded(INTEGERS)
    yield "codebook_dtype", coded(STEP, UINT8)
    yield "codebook_dtype", coded(table(1.0), BOOL)
    yield "codebook_dtype", coded(STEP, b"\4")


def matrices() -> Iterator[tuple[str, bytes]]:
    for codebook in (table(1.0, 2.0), b"\0\1" + varint(6) + varint(3) + struct.pack("<6f", *range(6))):
        yield "scaled_codebook", scaled(bytes([4, 1]), codebook)
    yield "scaled_codebook", scaled(bytes([4, 1]), INTEGERS, UINT8)
    yield "codebook_dtype", scaled(bytes([4, 1]), STEP, UINT8)
    yield "bad_codebook_reference", scaled(bytes([4, 1]), b"\1")
    for layout in (0, 8, 12, 132, 255):
        yield "bad_layout", scaled(bytes([layout, 1, 1, 1, 1, 1, 1]))
    for leading, lengths in ((0, (2, 3)), (2, (2, 3)), (3, (2, 3)), (1, (6,)), (0, (6,)), (0, ()), (1, ())):
        yield "bad_leading", scaled(bytes([4, leading]), lengths=lengths)
    yield "bad_leading", scaled(b"\4" + varint(2**62))
    yield "bad_varint", scaled(b"\4\x81\0")
    for lengths in ((0, 3), (3, 0), (2, 0, 3), (0, 2**39)):
        yield "empty_matrix", scaled(bytes([4, 1]), lengths=lengths)
    largest = b"\0\0" + struct.pack("<f", 2.0**127)
    for layout in (1, 3, 5, 7):
        yield "bad_row_scale", scaled(bytes([layout, 1, 0, 8, 0, 0, 0]), largest)
    for layout, most in ((1, 1), (2, 2), (3, 4), (7, 4)):
        for count in range(most + 1):
            header = b"\0\0\1" + tensor(kind=SCALED, rest=shape(2, 3) + STEP + bytes([layout, 1]) + bytes(count))
            yield "header_truncated", sealed(header, [])
    rows = tensor(kind=SCALED, rest=shape(2**30, 2) + STEP + bytes([1, 1]))
    yield "header_truncated", sealed(b"\0\0\1" + rows, [])
    yield (
        "chunk_inside_row",
        file((tensor(kind=SCALED, rest=shape(2, 3) + STEP + bytes([4, 1])),), ((0, 3, PLAIN[:4]), (0, 0, PLAIN[:4]))),
    )


def changes() -> Iterator[tuple[str, bytes]]:
    """Differences."""
    for dtype in (b"\1", b"\2", b"\3"):
        yield "difference_dtype", difference((tensor(dtype=dtype),), ((0, 0, PLAIN),))
        levels = tensor(dtype=dtype, rest=shape(2, 3) + table(*range(9)))
        yield "difference_dtype", difference((levels,), ((0, 0, PLAIN),))
    for kind in (6, 7, 255):
        yield "unknown_kind", difference((tensor(kind=bytes([kind])),), ())
    yield "kept_bool", difference((changed(dtype=BOOL),), ((9, 0, UNCHANGED),))
    for common, lengths in ((0, (2, 3)), (7, (2, 3)), (1, (0, 3)), (2**62, (2, 3))):
        yield "bad_common", difference((changed(common, 0, lengths=lengths),), ())
    yield "too_many_elements", difference((changed(lengths=(2**40,)),), ())
    for differing in (7, 2**62):
        yield "bad_differing", difference((changed(6, differing),), ())
    for source in (b"\2", b"\xff"):
        yield "bad_source", difference((changed(source=source),), ())
    yield "bad_utf8", difference((changed(source=b"\1" + string(b"\xff")),), ())
    yield "bad_alias", difference((GONE, tensor(b"a", kind=ALIAS, rest=b"\0")), ())
    yield "repeated_name", difference((GONE, GONE), ())
    yield "chunk_sum", difference((changed(),), ())
    yield "chunk_of_changes", difference((changed(),), ((0, 0, PLAIN),))
    yield "chunk_of_changes", difference((changed(), tensor(b"v")), ((9, 6, UNCHANGED), (9, 0, UNCHANGED)))
    yield "chunk_of_changes", difference((changed(), tensor(b"v")), ((0, 0, PLAIN + PLAIN[1:]),))
    yield "chunk_of_changes", difference((changed(), changed().replace(b"w", b"v", 1)), ((9, 0, UNCHANGED),))
    yield "chunk_symbols", difference((changed(6, 0),), ((9, 0, UNCHANGED),))
    yield "chunk_symbols", difference((changed(2**20, lengths=(2**20,)),), ((9, 0, b"\0"),))


def chunk_lists() -> Iterator[tuple[str, bytes]]:
    yield "chunk_of_changes", file(chunks=((9, 0, PLAIN),))
    yield "unknown_coder", file(chunks=((10, 0, PLAIN),))
    yield "unknown_coder", file(chunks=((255, 0, PLAIN),))
    yield "chunk_symbols", file(chunks=((0, 7, PLAIN),))
    yield "chunk_symbols", file(chunks=((0, 0, b""),))
    yield "chunk_symbols", file(chunks=((0, 0, PLAIN), (0, 0, PLAIN)))
    yield "chunk_symbols", file((), ((0, 0, PLAIN),))
    yield "chunk_symbols", file((tensor(rest=shape(2**19 + 1) + STEP),), ((1, 0, b"\0"),))
    yield "chunk_symbols", file((tensor(rest=shape(2**26 + 1) + STEP),), ((1, 0, bytes(200)),))
    yield "chunk_sum", file(chunks=())
    yield "chunk_sum", file(chunks=((0, 3, PLAIN[:4]),))
    yield "chunk_inside_row", file(chunks=((0, 2, PLAIN[:3]), (0, 0, PLAIN[:5])))
    yield "chunk_checksum", GOOD[:-1] + bytes([GOOD[-1] ^ 1])
    yield "chunk_checksum", GOOD[:-5] + bytes([GOOD[-5] ^ 1]) + GOOD[-4:]


def payloads() -> Iterator[tuple[str, bytes]]:
    yield "stream_truncated", file(chunks=((0, 0, PLAIN[:-1]),))
    yield "stream_corrupt", file(chunks=((0, 0, PLAIN + b"\0"),))
    yield "stream_corrupt", file(chunks=((0, 0, b"\3" + PLAIN[1:]),))
    for limit in (2**30, -(2**30)):
        payload = b"\4" + struct.pack("<6i", limit, *range(5))
        yield "stream_corrupt", file(chunks=((0, 0, payload),))
    for identifier in (1, 2, 3, 7, 8):
        yield "stream_corrupt", file(chunks=((identifier, 0, b"\xff" * 20),))
    yield "symbol_range", of_one(FLOAT32, table(1.0, 2.0, 3.0, origin=1), 2)
    yield "symbol_range", of_one(FLOAT32, table(1.0, 2.0, 3.0, origin=1), -2)
    for dtype, symbol in ((UINT8, -1), (UINT8, 256), (b"\x11", 128), (b"\x11", -129), (BOOL, 2), (BOOL, -1)):
        yield "symbol_range", of_one(dtype, INTEGERS, 0, symbol)
    kept = (tensor(dtype=UINT8, kind=KEPT, rest=shape(2)),)
    yield "plane_range", file(kept, ((0, 0, b"\2" + struct.pack("<2h", 0, 128)),))
    yield "plane_range", file(kept, ((0, 0, b"\2" + struct.pack("<2h", -129, 0)),))


UNSUPPORTED = [file(chunks=((coding.by_name(name).identifier, 0, PLAIN),)) for name in ("gzip", "zstd", "lzma")]


def first_error(data: bytes) -> "_native.FileError":
    """What opening the file and decoding all of it meets first, by C++."""
    file = _native.File(np.frombuffer(data, np.uint8))
    error = file.error
    for index, (_, dtype, kind, shape, _, _) in enumerate([] if error else file.tensors()):
        if kind == ALIAS_KIND:
            continue
        out = np.empty(DTYPES[dtype].itemsize * int(np.prod(shape, dtype=np.int64)), np.uint8)
        error = error or file.decode([(index, 0, 2**64 - 1, out)], False, False, 1, print)
    return error
