"""Small files that cost much to read: the worst that is known of the header and of every coder, of any size."""

from collections.abc import Iterator

import malformed_files as malformed
import numpy as np

from metaq import coding
from metaq.format.header import varint

KEPT_DOUBLE = b"\3\1"


def headers(size_bytes: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Headers of about so many bytes, of what takes most time or memory for each, and the payload of the only chunk."""
    yield "chunks that are not there", b"\0\0\0" + varint(size_bytes // 3) + bytes(size_bytes // 3 * 3), b""
    yield "one key many times", b"\0" + varint(size_bytes // 2) + bytes(size_bytes // 2 * 2) + b"\0\0", b""
    keys = [malformed.string(b"%06x" % number) + b"\0" for number in range(size_bytes // 8)]
    yield "short keys", b"\0" + malformed.listed(*keys) + b"\0\0", b""
    keys = [malformed.string(b"a" * 4000 + b"%06x" % number) + b"\0" for number in range(size_bytes // 4009)]
    yield "keys that begin alike", b"\0" + malformed.listed(*keys) + b"\0\0", b""
    keys = [malformed.string(b"a" * number) + b"\0" for number in range(round((2 * size_bytes) ** 0.5))]
    yield "keys that begin others", b"\0" + malformed.listed(*keys) + b"\0\0", b""
    count = min(size_bytes // 4, 1 << 20)
    yield "one name many times", b"\0\0" + varint(count) + count * b"\0\0\1\0" + b"\0", b""
    count = min(size_bytes // 11, 1 << 20)
    tensors = [malformed.string(b"%06x" % number) + KEPT_DOUBLE + malformed.shape(1) for number in range(count)]
    payload = bytes(1 + count // (1 << 16))
    chunk = malformed.chunk(1, 0, payload)
    yield "tensors of eight planes", b"\0\0" + malformed.listed(*tensors) + malformed.listed(chunk), payload
    levels = np.arange(min(size_bytes // 4, 1 << 20), dtype="<f4")
    table = b"\0\1" + varint(levels.size) + b"\0" + levels.tobytes()
    yield "levels", b"\0\0" + malformed.listed(malformed.tensor(rest=malformed.shape(0) + table)) + b"\0", b""
    rows = malformed.shape(size_bytes, 2) + malformed.STEP + bytes([1, 1]) + bytes(size_bytes)
    scaled = malformed.tensor(kind=malformed.SCALED, rest=rows)
    payload = bytes(1 + size_bytes // (1 << 18))
    chunk = malformed.chunk(1, 0, payload)
    yield "scales", b"\0\0" + malformed.listed(scaled) + malformed.listed(chunk), payload


def symbols(count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Contents on which coders take longest for a byte of the file, or for a symbol."""
    generator = np.random.default_rng(0)
    few = np.zeros(count, np.int32)
    few[0] = 1
    yield "one 1, all else 0", few
    yield "of 30 bits", generator.integers(1 - 2**30, 2**30, count).astype(np.int32)
    yield "two by turns", np.where(np.arange(count) % 2, 2**30 - 1, 1 - 2**30).astype(np.int32)
    rare = np.zeros(count, np.int32)
    rare[generator.integers(0, count, count // 1000)] = 2**29
    yield "few of 30 bits, all else 0", rare
    yield "small", np.rint(generator.normal(0, 3, count)).astype(np.int32)


def shapes(count: int) -> list[tuple[int, int, int]]:
    """Blocks of so many symbols, a power of four: of one channel, of as many as rows, of long kernels, of few rows."""
    side = round(count**0.5)
    return [(count, 1, 1), (side, side, 1), (side // 4, side // 4, 16), (2, side, side // 2), (count // 2, 2, 1)]


def file_of(coder: str, values: np.ndarray, shape: tuple[int, int, int]) -> bytes:
    """A file of one float32 tensor of these symbols in this block."""
    known = coding.by_name(coder)
    payload = known.encode([values.reshape(shape)])
    lengths = shape[:1] if shape[1:] == (1, 1) else shape
    tensor = malformed.tensor(rest=malformed.shape(*lengths) + malformed.STEP)
    return malformed.file((tensor,), ((known.identifier, 0, payload),))
