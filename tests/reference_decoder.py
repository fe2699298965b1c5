"""A decoder of `.mtq` files in plain Python, written from docs/format.md alone: slow, and an oracle for the others.

    python tests/reference_decoder.py FILE.mtq        prints each tensor's name, dtype, shape and CRC

Names follow the document. Every rule of it is checked; breaking one is a `MalformedError`.
"""

import bisect
import copy
import hashlib
import itertools
import lzma
import math
import struct
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PRIMING = bytes.fromhex((Path(__file__).parents[1] / "docs" / "format_priming.hex").read_text())
LIMIT = 1 << 30  # symbols lie strictly between -LIMIT and LIMIT
SYMBOLS_PER_BYTE = 1 << 19

# By code: name, bytes, and for integers the least and the greatest value.
DTYPES: dict[int, tuple[str, int, tuple[int, int] | None]] = {
    0: ("float32", 4, None),
    1: ("float16", 2, None),
    2: ("bfloat16", 2, None),
    3: ("float64", 8, None),
    4: ("float8_e4m3fn", 1, None),
    5: ("float8_e5m2", 1, None),
    16: ("uint8", 1, (0, 255)),
    17: ("int8", 1, (-128, 127)),
    18: ("int16", 2, (-(1 << 15), (1 << 15) - 1)),
    19: ("int32", 4, (-(1 << 31), (1 << 31) - 1)),
    20: ("int64", 8, (-(1 << 63), (1 << 63) - 1)),
    21: ("bool", 1, (0, 1)),
}
CODED_FLOATS = ("float32", "float16", "bfloat16", "float64")
UNIFORM, TABLE, INTEGER = 0, 1, 2


class MalformedError(Exception):
    """A file that breaks a rule of docs/format.md."""


class UnsupportedError(Exception):
    """A file that needs a library which is not here."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise MalformedError(what)


def clamp(a: int, low: int, high: int) -> int:
    return low if a < low else high if a > high else a


def toward_zero(a: int, b: int) -> int:
    return a // b if a >= 0 else -(-a // b)


def is_symbol(value: int) -> bool:
    return -LIMIT < value < LIMIT


# ---- File and header ----


@dataclass
class Codebook:
    kind: int
    step: float = 0.0
    levels: tuple[float, ...] = ()
    origin: int = 0


# The bits of 2^(0/8), 2^(1/8), ... 2^(7/8).
MANTISSAS = (0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7)


@dataclass
class Matrix:
    rows: int
    columns: int
    row_scales: list[float] | None
    column_scales: list[float] | None
    by_columns: bool


@dataclass
class Change:
    shape: tuple[int, ...]  # of the result
    common: int
    differing: int
    source: str


@dataclass
class Entry:
    name: str
    dtype: int
    shape: tuple[int, ...] = ()
    codebook: Codebook | None = None
    target: int | None = None
    matrix: Matrix | None = None
    change: Change | None = None
    is_removed: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_sum(self) -> bool:
        """In a difference: whether it is added to the base's tensor."""
        return self.codebook is not None and self.codebook.kind != INTEGER

    @property
    def block(self) -> tuple[int, int, int]:
        if self.matrix is not None and self.matrix.by_columns:
            rows, columns = self.matrix.rows, self.matrix.columns
            return (columns, rows, 1) if rows <= 1 << 20 else (self.size, 1, 1)
        if len(self.shape) >= 2 and math.prod(self.shape[1:]) <= 1 << 20:
            return self.shape[0], self.shape[1], math.prod(self.shape[2:])
        return self.size, 1, 1

    @property
    def bytes_each(self) -> int:
        return DTYPES[self.dtype][1]


@dataclass
class Bytes:
    data: bytes
    at: int = 0

    def take(self, size: int) -> bytes:
        require(self.at + size <= len(self.data), "truncated")
        self.at += size
        return self.data[self.at - size : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        value = 0
        for i in range(10):
            byte = self.byte()
            value |= (byte & 127) << 7 * i
            if byte < 128:
                require(value < 1 << 63 and (byte > 0 or i == 0), "varint")
                return value
        raise MalformedError("varint")

    def string(self) -> str:
        try:
            return self.take(self.varint()).decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedError("UTF-8") from None


def read_header(data: bytes) -> tuple[list[tuple[str, str]], list[Entry], list[list[int]], bytes | None]:
    source = Bytes(data)
    flags = source.byte()
    require(flags <= 1, f"flags {flags}, of a newer version")
    base = source.take(32) if flags == 1 else None
    metadata = [(source.string(), source.string()) for _ in range(source.varint())]
    require(len({key for key, _ in metadata}) == len(metadata), "metadata keys")
    entries: list[Entry] = []
    codebooks: list[Codebook] = []
    for _ in range(source.varint()):
        entries.append(read_entry(source, entries, codebooks, 3 if base is None else 5))
    require(len({entry.name for entry in entries}) == len(entries), "tensor names")
    if base is not None:
        require(all(entry.dtype == 0 for entry in entries if entry.is_sum), "dtype of a difference")
    chunks = [[source.byte(), source.varint(), source.varint()] for _ in range(source.varint())]
    require(source.at == len(data), "bytes behind the header")
    return metadata, entries, chunks, base


def read_entry(source: Bytes, before: list[Entry], codebooks: list[Codebook], last_kind: int) -> Entry:
    entry = Entry(source.string(), source.byte())
    require(entry.dtype in DTYPES, f"dtype {entry.dtype}, of a newer version")
    kind = source.byte()
    require(kind <= last_kind, f"tensor kind {kind}, of a newer version or of a difference")
    require(kind not in (1, 4) or DTYPES[entry.dtype][0] != "bool", "kept bool")
    if kind == 2:
        target = source.varint()
        require(target < len(before), "alias")
        require(before[target].target is None and before[target].dtype == entry.dtype, "alias")
        require(not before[target].is_removed, "alias")
        entry.target, entry.shape = target, before[target].shape
        return entry
    if kind == 5:
        entry.is_removed, entry.shape = True, (0,)
        return entry
    dimensions = source.byte()
    require(dimensions <= 32, "dimensions")
    entry.shape = tuple(source.varint() for _ in range(dimensions))
    require(math.prod(max(1, d) for d in entry.shape) < 1 << 40, "elements")
    if kind == 4:
        common, differing, is_renamed = source.varint(), source.varint(), source.byte()
        require(1 <= common <= entry.size and differing <= common and is_renamed <= 1, "change")
        entry.change = Change(entry.shape, common, differing, source.string() if is_renamed else entry.name)
        entry.shape = (entry.size - common,)
    if kind in (0, 3):
        reference = source.varint()
        if reference == 0:
            codebooks.append(read_codebook(source))
            reference = len(codebooks)
        require(reference <= len(codebooks), "codebook reference")
        entry.codebook = codebooks[reference - 1]
        is_integer = DTYPES[entry.dtype][2] is not None
        fits = is_integer if entry.codebook.kind == INTEGER else DTYPES[entry.dtype][0] in CODED_FLOATS
        require(fits, "codebook and dtype")
        if kind == 3:
            require(entry.codebook.kind == UNIFORM, "codebook of a scaled tensor")
            entry.matrix = read_matrix(source, entry.shape, entry.codebook.step)
    return entry


def read_matrix(source: Bytes, shape: tuple[int, ...], step: float) -> Matrix:
    layout = source.byte()
    require(1 <= layout <= 7, f"layout {layout}, of a newer version")
    leading = source.varint()
    require(1 <= leading < len(shape), "leading dimensions")
    require(0 not in shape, "elements of a matrix")
    rows, columns = math.prod(shape[:leading]), math.prod(shape[leading:])
    row_scales = read_scales(source, rows) if layout & 1 else None
    require(all(math.isfinite(rounded(step * scale, "f")) for scale in row_scales or []), "row scales")
    column_scales = read_scales(source, columns) if layout & 2 else None
    return Matrix(rows, columns, row_scales, column_scales, bool(layout & 4))


def read_scales(source: Bytes, count: int) -> list[float]:
    scales = []
    for e in struct.unpack(f"<{count}b", source.take(count)):
        (mantissa,) = struct.unpack("<f", struct.pack("<I", MANTISSAS[e % 8]))
        scales.append(math.ldexp(mantissa, e // 8))
    return scales


def read_codebook(source: Bytes) -> Codebook:
    kind = source.byte()
    require(kind <= 2, f"codebook kind {kind}, of a newer version")
    if kind == INTEGER:
        return Codebook(kind)
    if kind == UNIFORM:
        (step,) = struct.unpack("<f", source.take(4))
        require(math.isfinite(step) and step > 0, "step")
        return Codebook(kind, step)
    count, origin = source.varint(), source.varint()
    require(1 <= count <= 1 << 20 and origin < count, "levels")
    levels = struct.unpack(f"<{count}f", source.take(4 * count))
    require(all(map(math.isfinite, levels)), "levels")
    require(all(a < b for a, b in itertools.pairwise(levels)), "levels")
    return Codebook(kind, levels=levels, origin=origin)


Tensor = tuple[str, tuple[int, ...], bytes]  # its dtype's name, its shape and its elements, row-major, little-endian


def decode(data: bytes) -> dict[str, Tensor]:
    """Every tensor of a whole network's file."""
    base, _, tensors, _ = decode_any(data)
    require(base is None, "a difference")
    return tensors


CHANGES = 8  # the elements in common of a changed tensor, in the place of a plane
Changes = dict[int, list[tuple[bytes, int]]]  # by entry: payloads, each with its number of elements


def decode_any(data: bytes) -> tuple[bytes | None, list[Entry], dict[str, Tensor], Changes]:
    """A difference's checksum of its base, every tensor of a file, of a difference its values, and what changes."""
    source = Bytes(data)
    require(source.take(3) == b"MTQ", "magic")
    version = source.byte()
    require(version == 1, f"version {version}, of a newer format")
    size, coded_size = source.varint(), source.varint()
    require(1 <= size <= 1 << 26 and size <= (coded_size + 8) << 12, "header size")
    coded = source.take(coded_size)
    check_crc(source, data[: source.at])
    _, entries, chunks, base = read_header(decode_text(coded, size))

    runs = [(i, None, e.block) for i, e in enumerate(entries) if e.codebook and e.size]
    kept = [(i, e) for i, e in enumerate(entries) if e.codebook is None and e.target is None and e.size]
    runs += [(i, p, e.block) for p in range(8) for i, e in kept if p < e.bytes_each]
    changed = [(i, e.change) for i, e in enumerate(entries) if e.change and e.change.differing]
    runs += [(i, CHANGES, (change.common, 1, 1)) for i, change in changed]
    symbols: dict[tuple[int, int | None], list[int]] = {(i, p): [] for i, p, _ in runs}
    changes: dict[int, list[tuple[bytes, int]]] = {i: [] for i, _ in changed}
    left = sum(math.prod(shape) for _, _, shape in runs)
    number, first = 0, 0  # the run and the row that come next
    for coder, count, payload_size in chunks:
        count = count or left
        require(1 <= count <= min(left, 1 << 26, SYMBOLS_PER_BYTE * payload_size), "symbols of a chunk")
        left -= count
        payload = source.take(payload_size)
        check_crc(source, payload)
        blocks, places = [], []
        while count > 0:
            tensor, plane, (rows, channels, kernel) = runs[number]
            taken = min(rows - first, count // (channels * kernel))
            require(taken > 0, "chunk ends inside a row")
            blocks.append((taken, channels, kernel))
            places.append((tensor, plane))
            count -= taken * channels * kernel
            first += taken
            if first == rows:
                number, first = number + 1, 0
        if coder == 9 or any(plane == CHANGES for _, plane in places):
            require(coder == 9 and [plane for _, plane in places] == [CHANGES], "chunk of changes")
            changes[places[0][0]].append((payload, blocks[0][0]))
            continue
        require(coder in CODERS, f"coder {coder}, of a newer version")
        for place, decoded in zip(places, CODERS[coder](payload, blocks), strict=True):
            require(all(map(is_symbol, decoded)), "symbol")
            symbols[place] += decoded
    require(left == 0, "symbols in all")
    require(source.at == len(data), "bytes behind the file")
    return base, entries, assemble(entries, symbols), changes


def check_crc(source: Bytes, covered: bytes) -> None:
    require(struct.unpack("<I", source.take(4))[0] == zlib.crc32(covered), "CRC")


# ---- Differences ----


def checksum(tensors: dict[str, Tensor]) -> bytes:
    sha = hashlib.sha256()
    codes = {name: code for code, (name, _, _) in DTYPES.items()}
    for name in sorted(tensors, key=str.encode):
        dtype, shape, raw = tensors[name]
        sha.update(varint(len(name.encode())) + name.encode())
        sha.update(bytes([codes[dtype], len(shape)]) + b"".join(map(varint, shape)) + raw)
    return sha.digest()


def apply(data: bytes, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a difference makes of its base."""
    named, entries, tensors, changes = decode_any(data)
    require(named is not None, "no difference")
    require(checksum(base) == named, "another base")
    result = dict(base)
    for i, entry in enumerate(entries):
        dtype = DTYPES[entry.dtype][0]
        if entry.is_removed:
            require(entry.name in base and base[entry.name][0] == dtype, "removed tensor")
            del result[entry.name]
        elif entry.change is not None:
            change = entry.change
            require(change.source in base and base[change.source][0] == dtype, "source of a change")
            raw = base[change.source][2][: change.common * entry.bytes_each]
            require(len(raw) == change.common * entry.bytes_each, "source of a change")
            parts, at = [], 0
            for payload, count in changes.get(i, []):
                parts.append(changed(payload, entry.dtype, raw[at : at + count * entry.bytes_each]))
                at += count * entry.bytes_each
            result[entry.name] = dtype, change.shape, (b"".join(parts) or raw) + tensors[entry.name][2]
        elif entry.target is not None:
            result[entry.name] = result[entries[entry.target].name]
        elif not entry.is_sum:
            result[entry.name] = tensors[entry.name]
        else:
            require(entry.name in base and base[entry.name][1] == entry.shape, "shape of a difference")
            result[entry.name] = added(base[entry.name], tensors[entry.name][2])
    return result


def added(base: Tensor, values: bytes) -> Tensor:
    dtype, shape, raw = base
    require(dtype in CODED_FLOATS, "dtype of a base")
    width = len(raw) // max(1, len(values) // 4)
    out = bytearray()
    for i, (d,) in enumerate(struct.iter_unpack("<f", values)):
        element = raw[i * width : (i + 1) * width]
        w = float_of(element, dtype)
        require(math.isfinite(d), "infinite difference")
        if d == 0 or math.isnan(w):
            out += element
        elif dtype == "float64":
            out += struct.pack("<d", w + d)
        else:
            # The sum of two float32 is rounded to float64 and then to float32 as it would be to float32 at once.
            out += float_bytes(rounded(w + d, "f"), dtype)
    return dtype, shape, bytes(out)


def float_of(element: bytes, dtype: str) -> float:
    if dtype == "bfloat16":
        return float(struct.unpack("<f", b"\0\0" + element)[0])
    return float(struct.unpack("<" + {"float32": "f", "float16": "e", "float64": "d"}[dtype], element)[0])


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


# ---- Values ----


def assemble(entries: list[Entry], symbols: dict[tuple[int, int | None], list[int]]) -> dict[str, Any]:
    content: list[bytes] = []
    for i, entry in enumerate(entries):
        if entry.target is not None:
            content.append(content[entry.target])
        elif entry.matrix is not None:
            content.append(scaled(entry, symbols[i, None]))
        elif entry.codebook is not None:
            content.append(b"".join(value(q, entry.codebook, entry.dtype) for q in symbols.get((i, None), [])))
        else:
            content.append(join([symbols.get((i, p), []) for p in range(entry.bytes_each)], entry.dtype))
    return {e.name: (DTYPES[e.dtype][0], e.shape, raw) for e, raw in zip(entries, content, strict=True)}


def scaled(entry: Entry, symbols: list[int]) -> bytes:
    matrix, codebook = entry.matrix, entry.codebook
    assert matrix is not None
    assert codebook is not None
    out = bytearray()
    for i in range(matrix.rows):
        step = codebook.step
        if matrix.row_scales is not None:
            step = rounded(step * matrix.row_scales[i], "f")
        for j in range(matrix.columns):
            q = symbols[j * matrix.rows + i if matrix.by_columns else i * matrix.columns + j]
            # All factors have 24 bits: their products in float64 are exact, or round to 0 or infinity in float32 too.
            level = rounded(rounded(float(q), "f") * step, "f")
            if matrix.column_scales is not None:
                level = rounded(level * matrix.column_scales[j], "f")
            out += float_bytes(level, DTYPES[entry.dtype][0])
    return bytes(out)


def value(q: int, codebook: Codebook, dtype: int) -> bytes:
    name, bytes_each, bounds = DTYPES[dtype]
    if bounds is not None:
        require(bounds[0] <= q <= bounds[1], "value")
        return q.to_bytes(bytes_each, "little", signed=bounds[0] < 0)
    if codebook.kind == TABLE:
        require(0 <= q + codebook.origin < len(codebook.levels), "level")
        level = codebook.levels[q + codebook.origin]
    else:
        # Both factors have 24 bits: their product in float64 is exact.
        level = rounded(codebook.step * rounded(float(q), "f"), "f")
    return float_bytes(level, name)


def float_bytes(level: float, name: str) -> bytes:
    if name == "bfloat16":
        (bits,) = struct.unpack("<I", struct.pack("<f", level))
        return struct.pack("<H", (bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
    letter = {"float32": "f", "float16": "e", "float64": "d"}[name]
    return struct.pack("<" + letter, rounded(level, letter))


def rounded(a: float, letter: str) -> float:
    """To the nearest of a struct format's floats, ties to even; to infinity beyond them."""
    try:
        return float(struct.unpack("<" + letter, struct.pack("<" + letter, a))[0])
    except OverflowError:
        return math.copysign(math.inf, a)


def join(planes: list[list[int]], dtype: int) -> bytes:
    _, bytes_each, bounds = DTYPES[dtype]
    bits = 8 * bytes_each
    out = bytearray()
    for octets in zip(*planes, strict=True):
        require(all(-128 <= q <= 127 for q in octets), "plane symbol")
        word = int.from_bytes(bytes(q + 128 for q in octets), "big")
        if bounds is None:
            word = word >> 1 | (word & 1) << bits - 1
        out += word.to_bytes(bytes_each, "little")
    return bytes(out)


# ---- Coders 0 and 4 to 6 ----

Shape = tuple[int, int, int]


def decode_stored(payload: bytes, blocks: list[Shape]) -> list[list[int]]:
    source = Bytes(payload)
    widths = source.take(len(blocks))
    decoded = []
    for width, block in zip(widths, blocks, strict=True):
        require(width in (1, 2, 4), "width")
        size = math.prod(block)
        decoded.append(list(struct.unpack(f"<{size}{ {1: 'b', 2: 'h', 4: 'i'}[width] }", source.take(width * size))))
    require(source.at == len(payload), "bytes behind the symbols")
    return decoded


def plain_limit(blocks: list[Shape]) -> int:
    return len(blocks) + 4 * sum(map(math.prod, blocks))


def whole(decompressor: Any, payload: bytes, blocks: list[Shape]) -> list[list[int]]:
    try:
        plain = decompressor.decompress(payload, plain_limit(blocks) + 1)
    except (zlib.error, lzma.LZMAError):
        raise MalformedError("compressed stream") from None
    require(len(plain) <= plain_limit(blocks) and decompressor.eof, "compressed stream")
    require(decompressor.unused_data == b"", "bytes behind the compressed stream")
    return decode_stored(plain, blocks)


def decode_gzip(payload: bytes, blocks: list[Shape]) -> list[list[int]]:
    return whole(zlib.decompressobj(wbits=-15), payload, blocks)


def decode_lzma(payload: bytes, blocks: list[Shape]) -> list[list[int]]:
    dictionary = min(max(4096, plain_limit(blocks)), 1 << 26)
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": dictionary, "lc": 3, "lp": 0, "pb": 2}]
    return whole(lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters), payload, blocks)


def decode_zstd(payload: bytes, blocks: list[Shape]) -> list[list[int]]:
    try:
        import zstandard
    except ImportError:
        raise UnsupportedError("zstandard is not installed") from None
    try:
        # A content size that is not given reads as 2^64 - 1.
        require(zstandard.get_frame_parameters(payload).content_size <= plain_limit(blocks), "content size")
        plain = zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
    except zstandard.ZstdError:
        raise MalformedError("zstd frame") from None
    return decode_stored(plain, blocks)


# ---- Numbers and alphabets of the static coders ----


class BitSource:
    def get(self, width: int) -> int:
        raise NotImplementedError

    def golomb(self, order: int) -> int:
        tail = order
        while self.get(1) == 1:
            tail += 1
            require(tail <= 32, "golomb")
        v = (1 << tail) + self.get(tail) - (1 << order)
        require(v < 1 << 32, "golomb")
        return v

    def signed(self, order: int) -> int:
        v = self.golomb(order)
        return v // 2 if v % 2 == 0 else -((v + 1) // 2)


class Alphabet:
    def __init__(self, source: BitSource) -> None:
        self.source = source
        self.listed: list[int] = []
        count = source.golomb(4)
        require(count <= 4096, "listed symbols")
        self.has_escape = source.get(1) == 1
        require(count > 0 or self.has_escape, "no entries")
        order = 0
        for i in range(count):
            if i == 1:
                order = source.get(4)
            self.listed.append(source.signed(3) if i == 0 else self.listed[-1] + 1 + source.golomb(order))
            require(is_symbol(self.listed[-1]), "listed symbol")
        if self.has_escape:
            self.base, self.width = source.signed(3), source.get(5) + 1

    @property
    def entries(self) -> int:
        return len(self.listed) + self.has_escape

    @property
    def is_single(self) -> bool:
        return len(self.listed) == 1 and not self.has_escape

    def filled(self, size: int) -> list[int]:
        for _ in range((size - 1) >> 19):
            require(self.source.get(8) == 0, "filler")
        return self.listed * size

    def symbol(self, entry: int) -> int:
        if entry < len(self.listed):
            return self.listed[entry]
        symbol = self.base + self.source.get(self.width)
        require(is_symbol(symbol), "escaped symbol")
        return symbol


# ---- Coder 1 ----


class Bits(BitSource):
    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.position = 0

    def get(self, width: int) -> int:
        v = 0
        for _ in range(width):
            require(self.position < 8 * len(self.payload), "truncated")
            v = v << 1 | self.payload[self.position >> 3] >> (7 - self.position % 8) & 1
            self.position += 1
        return v

    def finish(self) -> None:
        require(self.get(-self.position % 8) == 0, "padding")
        require(self.position == 8 * len(self.payload), "bytes left over")


def decode_huffman(payload: bytes, blocks: list[Shape]) -> list[list[int]]:
    source = Bits(payload)
    decoded = [huffman_block(source, math.prod(block)) for block in blocks]
    source.finish()
    return decoded


def huffman_block(source: Bits, size: int) -> list[int]:
    alphabet = Alphabet(source)
    if alphabet.is_single:
        return alphabet.filled(size)
    if alphabet.entries == 1:
        return [alphabet.symbol(0) for _ in range(size)]
    length, covered = alphabet.entries.bit_length(), 0
    of_length: dict[int, list[int]] = defaultdict(list)
    for entry in range(alphabet.entries):
        length += source.signed(0)
        require(1 <= length <= 24, "length")
        of_length[length].append(entry)
        covered += 1 << (24 - length)
    require(covered == 1 << 24, "lengths")

    def entry_() -> int:
        word = first = length = 0
        while True:
            length += 1
            word, first = 2 * word + source.get(1), 2 * first
            same_length = of_length.get(length, [])
            if word - first < len(same_length):
                return same_length[word - first]
            first += len(same_length)

    return [alphabet.symbol(entry_()) for _ in range(size)]


# ---- Coder 2 ----


class RangeDecoder(BitSource):
    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.range = 1 << 56
        self.code = int.from_bytes(payload[:7].ljust(7, b"\0"), "big")
        self.position = 7

    def locate(self, precision: int) -> int:
        self.range >>= precision
        v = self.code // self.range
        require(v < 1 << precision, "outside the interval")
        return v

    def take(self, start: int, frequency: int) -> None:
        self.code -= start * self.range
        self.range *= frequency
        while self.range < 1 << 48:
            byte = self.payload[self.position] if self.position < len(self.payload) else 0
            self.code = self.code << 8 | byte
            self.position += 1
            self.range <<= 8
        require(self.position - 6 <= len(self.payload), "truncated")

    def get(self, width: int) -> int:
        if width > 16:
            high = self.get(16)
            return high << (width - 16) | self.get(width - 16)
        v = self.locate(width)
        self.take(v, 1)
        return v


def decode_range(payload: bytes, blocks: list[Shape]) -> list[list[int]]:
    source = RangeDecoder(payload)
    decoded = [range_block(source, math.prod(block)) for block in blocks]
    require(source.position - 6 == len(payload), "bytes left over")
    return decoded


def range_block(source: RangeDecoder, size: int) -> list[int]:
    alphabet = Alphabet(source)
    if alphabet.is_single:
        return alphabet.filled(size)
    precision = source.get(5)
    require(precision <= 16, "precision")
    left, length = 1 << precision, precision
    frequencies = []
    for _ in range(alphabet.entries - 1):
        length += source.signed(0)
        require(1 <= length <= 16, "frequency")
        frequencies.append((1 << (length - 1)) + source.get(length - 1))
        require(frequencies[-1] < left, "frequency")
        left -= frequencies[-1]
    frequencies.append(left)
    starts = [sum(frequencies[:i]) for i in range(len(frequencies))]
    entry_at = [entry for entry, frequency in enumerate(frequencies) for _ in range(frequency)]
    decoded = []
    for _ in range(size):
        entry = entry_at[source.locate(precision)]
        source.take(starts[entry], frequencies[entry])
        decoded.append(alphabet.symbol(entry))
    return decoded


# ---- Adaptive binary decisions ----


class Decisions:
    """The arithmetic decoder."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.code = self.window = self.position = 0
        self.range = (1 << 32) - 1
        for _ in range(4):
            self.shift()

    def shift(self) -> None:
        byte = self.payload[self.position] if self.position < len(self.payload) else 0
        self.position += 1
        require(self.position <= len(self.payload) + 8, "truncated")
        self.code = (self.code << 8 | byte) & 0xFFFFFFFF
        self.window = (self.window << 8 | byte) & 0xFFFFFFFF

    def __call__(self, p: int) -> int:
        bound = self.range * p >> 16
        bit = int(self.code < bound)
        if bit:
            self.range = bound
        else:
            self.code -= bound
            self.range -= bound
        while self.range < 1 << 24:
            self.shift()
            self.range <<= 8
        return bit

    def finish(self, least: int) -> None:
        size = len(self.payload)
        require(size >= least, "truncated")
        padded = size == least
        rest = self.payload[self.position :]
        require(not rest or (padded and not any(rest)), "bytes left over")
        low = (self.window - self.code) % (1 << 32)
        value = 0
        for n in range(5):
            unit = 1 << 32 - 8 * n
            value = -(-low // unit) * unit
            if value - low < self.range:
                break
        require(self.code < self.range and value % (1 << 32) == self.window, "last bytes")
        trimmed = size == 0 or self.payload[-1] != 0 or self.position == size + 8
        require(padded or trimmed, "zeros at the end")


def make_squash() -> dict[int, int]:
    table = {}
    power = 1 << 39
    for x in range(2881):
        low = max(1, (power << 16) // ((1 << 39) + power))
        table[-x] = low
        table[x] = (1 << 16) - low
        power = power * 16711808 >> 24
    return table


def make_stretch() -> list[int]:
    table, x = [], -2880
    for i in range(4096):
        while SQUASH[x] < 16 * i + 8:
            x += 1
        table.append(x)
    return table


def make_log2() -> list[int]:
    table = []
    for i in range(256):
        x, digits = (256 + i) << 22, 0
        for _ in range(8):
            x = x * x >> 30
            b = x >> 31
            digits = 2 * digits + b
            x >>= b
        table.append(digits)
    return table


SQUASH = make_squash()
STRETCH = make_stretch()
RECIPROCAL = [131072 // (2 * i + 3) for i in range(1024)]
LOG2 = make_log2()


def squash(x: int) -> int:
    return SQUASH[clamp(x, -2880, 2880)]


def log2(v: int) -> int:
    t = v.bit_length() - 1
    return 256 * t + LOG2[(v << 8 >> t) % 256]


class Counter:
    __slots__ = ("count", "fast", "slow")

    def __init__(self, p: int, count: int) -> None:
        self.slow = self.fast = 64 * p
        self.count = count

    def copied(self) -> "Counter":
        counter = Counter(0, self.count)
        counter.slow, counter.fast = self.slow, self.fast
        return counter

    def update(self, bit: int, limits: tuple[int, int]) -> None:
        target = (1 << 22) - 1 if bit else 0
        self.slow += (target - self.slow) * RECIPROCAL[self.count] >> 16
        self.fast += (target - self.fast) * RECIPROCAL[min(self.count, limits[1])] >> 16
        self.count = min(self.count + 1, limits[0])


def inputs(counters: list[Counter]) -> list[int]:
    return [STRETCH[state >> 10] for counter in counters for state in (counter.slow, counter.fast)]


def mix(weights: list[int], x: list[int]) -> int:
    return clamp(sum(a * (w >> 8) for a, w in zip(x, weights, strict=True)) >> 12, -2880, 2880)


def train(weights: list[int], x: list[int], logit: int, bit: int, rate: int) -> None:
    factor = (((bit << 16) - squash(logit)) >> 1) * rate >> 16
    bound = (1 << 23) - 1
    weights[:] = [clamp(w + (a * factor + 256 >> 9), -bound, bound) for a, w in zip(x, weights, strict=True)]


def refined(knots: list[int], logit: int) -> int:
    i, r = divmod(clamp(logit, -2880, 2879) + 2880, 180)
    return (knots[i] * (180 - r) + knots[i + 1] * r) // 180


def refine(knots: list[int], logit: int, bit: int) -> None:
    j = (clamp(logit, -2880, 2879) + 2880 + 90) // 180
    knots[j] += ((65535 if bit else 0) - knots[j]) >> 6


# ---- Coder 3 ----


def add(mean: list[int], value: int, limit: int) -> None:
    mean[0] += ((value << 20) - mean[0]) * RECIPROCAL[mean[1]] >> 16
    mean[1] = min(mean[1] + 1, limit)


def level(mean: int) -> int:
    return log2(mean + 64)


def bin_of(level: int, steps: int, bins: int) -> int:
    return clamp((level - 2304) * steps >> 8, 0, bins - 1)


def size_class(x: int) -> int:
    x = abs(x)
    return x if x < 3 else 3 if x <= 4 else 4 if x <= 8 else 5


def sign(x: int) -> int:
    return (x > 0) - (x < 0)


def pair(x: int, y: int) -> int:
    return 15 * (clamp(x, -7, 7) + 7) + clamp(y, -7, 7) + 7


MACHINES = [
    [(0, 1), (2, 3), (1, 0), (3, 2)],
    [(0, 2), (5, 7), (1, 3), (6, 4), (2, 0), (4, 6), (3, 1), (7, 5)],
]


class MixingModel:
    LIMITS, PLAIN_LIMITS, RATES = (1000, 22), (255, 30), (10000, 20000, 30000, 5000)

    def __init__(self, decision: Decisions) -> None:
        self.decision = decision
        self.rate: int | None = None  # until the first block
        self.counters: dict[tuple[int, int, int], Counter] = defaultdict(lambda: Counter(1 << 15, 0))
        for b in range(80):
            m = (65536, 77936, 92682, 110218)[b % 4] << b // 4
            p = clamp((m << 16) // ((1 << 27) + m), 32, 65000)
            for d in range(23):
                self.counters[0, b, d] = Counter(p, 3)
                self.counters[0, 1000 + b, d] = Counter(p, 3)
        self.mixers: dict[tuple[int, int], list[int]] = defaultdict(lambda: [70216] * 12)  # scale -1: of all
        knots = [squash(180 * i - 2880) for i in range(33)]
        self.refinements: dict[tuple[int, int], list[int]] = defaultdict(lambda: list(knots))
        self.plain_counters: dict[int, Counter] = defaultdict(lambda: Counter(1 << 15, 0))

    def decide(self, d: int, v: list[int], scale: int, lean: int) -> int:
        used = [self.counters[i, v[i], d] for i in range(6)]
        base = used[0].slow
        for counter in used:
            if counter.count == 0:
                counter.slow = counter.fast = base
        x = inputs(used)
        mixer_a, mixer_b = self.mixers[d, -1], self.mixers[d, scale]
        a, b = mix(mixer_a, x), mix(mixer_b, x)
        mean = a + b >> 1
        knots = self.refinements[d, lean]
        bit = self.decision(clamp(3 * squash(mean) + refined(knots, mean) >> 2, 1, 65535))
        for counter in used:
            counter.update(bit, self.LIMITS)
        train(mixer_a, x, a, bit, self.rate)
        train(mixer_b, x, b, bit, self.rate)
        refine(knots, mean, bit)
        return bit

    def plain(self, k: int) -> int:
        counter = self.plain_counters[k]
        bit = self.decision(clamp(counter.slow >> 6, 32, 65504))
        counter.update(bit, self.PLAIN_LIMITS)
        return bit

    def number(self, kind: int) -> int:
        n = 0
        while n < 31 and self.plain(64 * kind + n):
            n += 1
        v = 1
        for i in range(n - 1, -1, -1):
            v = 2 * v + self.plain(64 * kind + 32 + (n if i == n - 1 else 0))
        return v - 1


def decode_mixing(payload: bytes, blocks: list[Shape]) -> list[list[int]]:
    decision = Decisions(payload)
    history = MixingHistory(MixingModel(decision))
    decoded = [history.block(*block) for block in blocks]
    decision.finish(-(-sum(map(math.prod, blocks)) // SYMBOLS_PER_BYTE))
    return decoded


def class_width(lower: int) -> int:
    return max(1, (lower + 2) // 4)


class MixingHistory:
    """Blocks one after the other; what is at hand (y, j, p, n, ...) are attributes named as in the document."""

    def __init__(self, model: MixingModel) -> None:
        self.model = model
        self.all = [1 << 20, 2]
        self.filled = [3 << 20, 0]
        self.before: list[int] = []
        self.before_mean = 0
        self.columns: dict[int, tuple[list[int], list[int]]] = {}
        self.channels: dict[int, list[int]] = {}
        self.positions: dict[int, list[int]] = {}
        self.kernel_weights = [[0] * 8 for _ in range(64)]

    def block(self, h: int, c: int, k: int) -> list[int]:
        r = self.model.number(0)
        f = self.model.number(1)
        centre = f // 2 if f % 2 == 0 else -((f + 1) // 2)
        require(is_symbol(centre), "centre")
        machine, r = r // 8, r % 8
        require(machine <= 2 and (machine == 0 or (r % 2 == 0 and centre == 0)), "machine")
        require(r <= 1 or self.model.rate is None, "mixers' rate")
        if self.model.rate is None:
            self.model.rate = self.model.RATES[r // 2]
        if r % 2 == 1:
            return [centre] * (h * c * k)
        self.all[1] = min(self.all[1], 4)
        self.filled[1] = 0
        root = math.isqrt(k)
        self.w = root if root * root == k and root <= 64 else k
        self.h, self.c, self.k = h, c, k
        self.rowwise = k == 1 and 1 < c <= 1 << 16 and 2 * h > c
        fits = c > 1 and len(self.before) > 0 and c % len(self.before) == 0
        self.group = c // len(self.before) if fits else 0
        if self.rowwise:
            self.taps = min(c, 384, (1 << 20) // c)
            self.row_weights = [[0] * self.taps for _ in range(c)]
            self.line = [0] * c
        means = []
        self.values: list[int] = []  # less the centre
        for self.y in range(h):
            self.row, state = [self.all[0], 2], 0
            if self.rowwise:
                self.row_shift = max(0, (self.all[0] >> 20).bit_length() - 5)
                self.row_rate = 3000 + 48000000 // (2000 + 8 * min(self.y, 1 << 20))
            for self.j in range(c):
                for self.p in range(k):
                    self.n = self.j * k + self.p
                    self.expect()
                    self.q = state % 2 if machine else 0
                    v = self.index()
                    if machine:
                        state = MACHINES[machine - 1][state][v % 2]
                        v = 2 * v - self.q * sign(v)
                    require(is_symbol(v + centre), "symbol")
                    self.learn(v)
                    self.values.append(v)
            means.append(self.row[0])
        if c * k > 1:
            self.before = means if h <= 1 << 16 else []
            self.before_mean = sum(means) // h if h <= 1 << 16 else 0
        return [v + centre for v in self.values]

    def expect(self) -> None:
        k, p, n, y = self.k, self.p, self.n, self.y
        values = self.values
        n_, j_, p_ = n % (1 << 16), self.j % (1 << 16), p % (1 << 12)
        self.source = self.before[self.j // self.group] if self.group > 0 else 0
        if y == 0:
            guess = self.row[0]
            if self.group > 0:
                guess = guess * min(((self.source + 64) << 16) // (self.before_mean + 64), 64 << 16) >> 16
            self.columns[n_] = ([guess, 8], [0, 8])
            if p == 0:
                self.channels[j_] = [guess, 0]
            if self.j == 0:
                self.positions[p_] = [guess, 8]
        self.magnitude_mean, self.value_mean = self.columns[n_]
        self.channel, self.position = self.channels[j_], self.positions[p_]
        self.A, self.R = level(self.all[0]), level(self.row[0])
        self.C, self.H = level(self.magnitude_mean[0]), level(self.channel[0])
        total = 160 * (self.R - self.A) + 128 * (self.C - self.A)
        if k > 1:
            total += 50 * (level(self.position[0]) - self.A) + 90 * (self.H - self.A)
        self.E = clamp(self.A + (total >> 8), 0, 11520)
        self.V = self.predict_kernel() if k > 1 else self.predict_row() if self.rowwise else 0
        s = clamp(log2(4096 * abs(self.V) + 1) - self.E + 768 >> 7, -1, 9) + 1
        self.lean = 10 - s if self.V < 0 else 10 + s
        self.scale = bin_of(self.E, 2, 32)
        is_first = (p % self.w if k > 1 else n) == 0
        self.left = 0 if is_first else values[-1]
        self.up = values[-self.w] if k > 1 and p >= self.w else 0
        self.above = values[-self.c * k] if y > 0 else 0

    def index(self) -> int:
        k, scale, lean, decide = self.k, self.scale, self.lean, self.model.decide
        v = [0] * 6
        v[0] = bin_of(self.E, 4, 80)
        v[1] = (6 * size_class(self.left) + size_class(self.up)) * 32 + scale
        v[2] = 2 * scale + (64 * (1 + abs(lean - 10)) if k > 1 or self.rowwise else 0)
        g = 0
        if self.group > 0:
            g = 1 + clamp((level(self.source) - level(self.before_mean) >> 8) + 6, 0, 12)
        v[3] = 32 * g + bin_of(self.R, 2, 32)
        v[4] = pair(self.left, self.above)
        v[5] = 20 * bin_of(self.R, 3, 64) + clamp(((self.H if k > 1 else self.C) - self.A >> 6) + 10, 0, 19)
        v = [one + 1500 * self.q for one in v]
        if not decide(0, v, scale, lean):
            return 0
        t, u = 8 * abs(self.value_mean[0]), self.magnitude_mean[0]
        o = (t > u) + (t > 2 * u) + (t > 4 * u) + (t > 6 * u)
        o = -o if self.value_mean[0] < 0 else o
        z = [
            9 * (3 * (sign(self.left) + 1) + sign(self.up) + 1) + sign(self.above) + 1,
            64 * lean + min(self.p, 31),
            32 * lean + scale,
            32 * (4 + o) + scale,
            pair(self.left, self.above),
            pair(self.left, self.up),
        ]
        negative = decide(23, z, scale, lean)
        filled = level(self.filled[0])
        v[0] = 1000 + bin_of(max(self.E, filled - 410), 4, 80) + 1500 * self.q
        v[2] += lean != 10 and negative == (lean < 10)
        v[5] = 3000 + 2 * bin_of(filled, 3, 64) + negative + 256 * self.q
        lower = number = 1
        while lower < 1 << 31 and decide(min(number, 22), v, scale, lean):
            lower += class_width(lower)
            number += 1
        node, span = 1, class_width(lower)
        while span > 1:
            half = span // 2
            if node < 8 and number < 64:
                upper = self.model.plain(128 + 8 * number + node)
            else:
                upper = self.model.decision((span - half << 16) // span)
            node = 2 * node + upper
            lower += half if upper else 0
            span = span - half if upper else half
        return -lower if negative else lower

    def learn(self, v: int) -> None:
        v = clamp(v, -(1 << 20), 1 << 20)
        m = abs(v)
        if self.k > 1:
            self.learn_kernel(v)
        if self.rowwise:
            self.learn_row(v)
        if m > 0:
            add(self.filled, m, 394)
        add(self.all, m, 1000)
        add(self.row, m, 1000)
        add(self.channel, m, 195)
        add(self.position, m, 1000)
        add(self.magnitude_mean, m, 653)
        add(self.value_mean, v, 653)

    def predict_kernel(self) -> int:
        taps = min(self.p, 8)
        self.x = [clamp(self.values[-1 - i], -32767, 32767) for i in range(taps)]
        weights = self.kernel_weights[min(self.p, 63)]
        return sum(a * w for a, w in zip(self.x, weights, strict=False)) >> 8

    def learn_kernel(self, v: int) -> None:
        shift = (1 + sum(a * a for a in self.x)).bit_length() + 6
        weights = self.kernel_weights[min(self.p, 63)]
        for i, a in enumerate(self.x):
            weights[i] = clamp(weights[i] + ((256 * v - self.V) * a * 256 >> shift), -200000, 200000)

    def predict_row(self) -> int:
        self.x = self.line[max(0, self.n - self.taps) : self.n]
        weights = self.row_weights[self.n]
        return (sum(a * (w >> 8) for a, w in zip(self.x, weights, strict=False)) >> 8) << self.row_shift

    def learn_row(self, v: int) -> None:
        miss = clamp(256 * v - self.V >> self.row_shift, -4096, 4096)
        energy = sum(a * a for a in self.x)
        factor = clamp(toward_zero(miss * self.row_rate * 16, energy + 64), -32767, 32767)
        weights, bound = self.row_weights[self.n], (1 << 23) - 1
        for i, a in enumerate(self.x):
            weights[i] = clamp(weights[i] + (a * factor + 32 >> 6), -bound, bound)
        self.line[self.n] = clamp(v >> self.row_shift, -127, 127)


# ---- Coder 7 ----


@dataclass
class RansContexts:
    count: int = 1
    center: int = 0
    thresholds: list[int] = field(default_factory=list)

    def after(self, entry: int, alphabet: Alphabet) -> int:
        if self.count == 1:
            return 0
        if entry == len(alphabet.listed):
            return 3
        return sum(abs(entry - self.center) >= threshold for threshold in self.thresholds)


def rans_contexts(source: Bits) -> RansContexts:
    if source.get(1) == 0:
        return RansContexts()
    contexts = RansContexts(4, source.golomb(4))
    require(contexts.center <= 4096, "center")
    t = 0
    for _ in range(3):
        gap = source.golomb(0)
        require(gap <= 4096, "threshold")
        t += 1 + gap
        contexts.thresholds.append(t)
    return contexts


def rans_table(source: Bits, entries: int, precision: int) -> list[int]:
    frequencies = [0] * entries
    left, length = 1 << precision, 0
    for entry in range(entries - 1):
        if left == 0:
            break
        length += source.signed(0)
        require(0 <= length <= precision + 1, "frequency")
        frequencies[entry] = (1 << (length - 1)) + source.get(length - 1) if length > 0 else 0
        require(frequencies[entry] <= left, "frequency")
        left -= frequencies[entry]
    frequencies[-1] += left
    return frequencies


def rans_classes(source: Bits, blocks: list[Shape], classes: int) -> list[int]:
    """The class of every symbol of the sequence."""
    sizes = [math.prod(block) for block in blocks]
    if classes == 1:
        return [0] * sum(sizes)
    unit = 1 << (4 + source.get(4))
    order = source.get(1)
    recent = list(range(classes))
    of_symbols: list[int] = []
    for rows, channels, kernel in blocks:
        row = channels * kernel
        rows_each = (unit + row - 1) // row
        for first in range(0, rows, rows_each):
            place = source.golomb(order)
            require(place < classes, "class")
            recent.insert(0, recent.pop(place))
            of_symbols += recent[:1] * (min(rows_each, rows - first) * row)
    return of_symbols


def check_filler(payload: bytes, at: int, count: int) -> None:
    """Behind the words, which end there, of so many symbols."""
    least = -(-count // SYMBOLS_PER_BYTE)
    require(len(payload) >= least, "truncated")
    filler = payload[at:]
    require(not filler or (len(payload) == least and not any(filler)), "bytes left over")


def decode_rans(payload: bytes, blocks: list[Shape]) -> list[list[int]]:
    count = sum(map(math.prod, blocks))
    source = Bits(payload)
    alphabet = Alphabet(source)
    escapes = source.golomb(8) if alphabet.has_escape else 0
    precision = source.get(5)
    require(precision <= 16, "precision")
    contexts = rans_contexts(source)
    classes = 1 + source.golomb(0)
    require(classes <= 64 and classes * contexts.count << precision <= 1 << 20, "tables")
    tables = [rans_table(source, alphabet.entries, precision) for _ in range(classes * contexts.count)]
    entry_at = [[entry for entry, f in enumerate(table) for _ in range(f)] for table in tables]
    starts = [[sum(table[:entry]) for entry in range(len(table))] for table in tables]
    lane_width = source.get(3)
    require(lane_width <= 5, "lanes")
    lanes = 1 << lane_width
    class_of = rans_classes(source, blocks, classes)
    require(source.get(-source.position % 8) == 0, "padding")

    rest = Bytes(payload, source.position // 8)
    escaped = Bits(rest.take((escapes * alphabet.width + 7) // 8) if alphabet.has_escape else b"")
    alphabet.source = escaped
    is_constant = all(max(table) == 1 << precision for table in tables)
    states = [1 << 16] * lanes if is_constant else list(struct.unpack(f"<{lanes}I", rest.take(4 * lanes)))
    require(all(state >= 1 << 16 for state in states), "state")

    begins = [lane * (count // lanes) + min(lane, count % lanes) for lane in range(lanes + 1)]
    context_of = [0] * lanes
    symbols = [0] * count
    escapes_seen = 0
    for step in range(-(-count // lanes)):
        for lane in range(lanes):
            at = begins[lane] + step
            if at >= begins[lane + 1]:
                continue
            number = class_of[at] * contexts.count + context_of[lane]
            x = states[lane]
            v = x % (1 << precision)
            entry = entry_at[number][v]
            x = tables[number][entry] * (x >> precision) + v - starts[number][entry]
            if x < 1 << 16:
                x = x << 16 | int.from_bytes(rest.take(2), "little")
            states[lane] = x
            escapes_seen += entry == len(alphabet.listed)
            require(escapes_seen <= escapes, "escapes")
            symbols[at] = alphabet.symbol(entry)
            context_of[lane] = contexts.after(entry, alphabet)
    require(all(state == 1 << 16 for state in states), "last states")
    require(escapes_seen == escapes, "escapes")
    escaped.finish()
    check_filler(payload, rest.at, count)
    ends = [sum(map(math.prod, blocks[: i + 1])) for i in range(len(blocks))]
    return [symbols[end - math.prod(block) : end] for block, end in zip(blocks, ends, strict=True)]


# ---- Coder 9 ----

MANTISSA_BITS = {0: 23, 1: 10, 2: 7, 3: 52, 4: 3, 5: 2}


def make_magnitudes() -> list[tuple[int, int]]:
    classes = [(least, 0) for least in range(1, 8)]
    for length in range(4, 65):
        t = 2 if length <= 16 else 1 if length <= 32 else 0
        classes += [((1 << t) + i << length - 1 - t, length - 1 - t) for i in range(1 << t)]
    return classes


MAGNITUDES = make_magnitudes()


def difference_share(source: Bits) -> int:
    is_most, length = source.get(1), source.get(5)
    require(length <= 16, "share")
    v = 0 if length == 0 else (1 << length - 1) + (source.get(min(length - 1, 5)) << max(length - 6, 0))
    require(v <= 1 << 15, "share")
    return (1 << 16) - v if is_most else v


def difference_units(source: Bits, units: int) -> list[int]:
    if source.get(1) == 0:
        return list(range(units))
    order, u, is_listed = source.get(4), 0, False
    listed: list[int] = []
    while u < units:
        run = source.golomb(order) + (u > 0 or is_listed)
        require(run <= units - u, "units")
        listed += range(u, u + run) if is_listed else ()
        u, is_listed = u + run, not is_listed
    return listed


def changed(payload: bytes, dtype: int, base: bytes) -> bytes:
    """The elements that a chunk makes of the base's."""
    is_float, b = dtype in MANTISSA_BITS, DTYPES[dtype][1]
    count, sign = len(base) // b, 1 << (8 * b - 1)
    words = [int.from_bytes(base[i * b : (i + 1) * b], "little") for i in range(count)]

    def ordered(w: int) -> int:
        return w ^ (sign - 1) if is_float and w >= sign else w

    def moved(w: int, d: int) -> int:
        return ordered((ordered(w) + (-d if is_float and w >= sign else d)) % (2 * sign))

    source = Bits(payload)
    listed = difference_units(source, -(-count // 256))
    lanes, word_count = 1 << source.get(2), source.golomb(12)
    classes = 1 + source.golomb(2)
    require(classes <= 16, "classes")
    first = [0]
    for _ in range(classes - 1):
        first.append(first[-1] + 1 + source.golomb(1))
        require(first[-1] <= 2047, "first exponent")
    entries = source.golomb(3)
    require(entries <= 246, "symbols")
    same, tables = [], []
    for _ in range(classes):
        same.append([difference_share(source) for _ in range(4)])
        has_changes = min(same[-1]) < 1 << 16
        require(entries > 0 or not has_changes, "symbols")
        tables.append(rans_table(source, entries, 12) if has_changes else [])
    require(source.get(-source.position % 8) == 0, "padding")
    rest = Bytes(payload, source.position // 8)
    states = list(struct.unpack(f"<{lanes}I", rest.take(4 * lanes)))
    require(all(state >= 1 << 16 for state in states), "state")
    renewal = Bytes(rest.take(2 * word_count))
    low = Bits(payload[rest.at :])
    entry_at = [[entry for entry, f in enumerate(table) for _ in range(f)] for table in tables]
    starts = [[sum(table[:entry]) for entry in range(len(table))] for table in tables]

    def renormalised(x: int) -> int:
        return x << 16 | int.from_bytes(renewal.take(2), "little") if x < 1 << 16 else x

    for at in range(0, len(listed), lanes):
        units = listed[at : at + lanes]
        h = [0] * lanes
        for step in range(256):
            for j, unit in enumerate(units):
                i = 256 * unit + step
                if i >= count:
                    continue
                w = words[i]
                c = bisect.bisect_right(first, (w % sign) >> MANTISSA_BITS[dtype] if is_float else 0) - 1
                x, s = states[j], same[c][h[j]]
                v = x % (1 << 16)
                changes = v >= s
                x = renormalised(((1 << 16) - s) * (x >> 16) + v - s if changes else s * (x >> 16) + v)
                if changes:
                    v = x % (1 << 12)
                    e = entry_at[c][v]
                    x = tables[c][e] * (x >> 12) + v - starts[c][e]
                    least, bits = MAGNITUDES[e >> 1]
                    d = least + low.get(bits)
                    words[i] = moved(w, -d if e % 2 else d)
                    x = renormalised(x)
                h[j], states[j] = 2 * h[j] % 4 + changes, x
    require(all(state == 1 << 16 for state in states), "last states")
    require(renewal.at == len(renewal.data), "words left over")
    low.finish()
    return b"".join(word.to_bytes(b, "little") for word in words)


# ---- Coder 8 ----


class LearningTable:
    def __init__(self, counts: list[int]) -> None:
        self.count = counts
        self.gap = 4
        self.learn()

    def learn(self) -> None:
        total = sum(self.count)
        factor = (32752 << 16) // total
        before = itertools.accumulate(self.count, initial=0)
        self.start = [e + (earlier * factor >> 16) for e, earlier in zip(range(16), before, strict=False)] + [1 << 15]
        self.left = self.gap
        self.gap = min(self.gap + self.gap // 4, 32)
        if total + 32 * self.gap > 48000:
            self.count = [count - count // 2 for count in self.count]


class Steps:
    """The states of a band's rows."""

    def __init__(self, words: Bytes) -> None:
        self.words = words
        self.states = list(struct.unpack("<4Q", words.take(32)))
        self.at = 0  # which one's turn it is
        require(all(1 << 31 <= state < 1 << 63 for state in self.states), "state")

    def take(self, v: int, share: int) -> None:
        x = share * (self.states[self.at] >> 15) + v
        if x < 1 << 31:
            x = x << 32 | int.from_bytes(self.words.take(4), "little")
        self.states[self.at] = x

    def plain(self, w: int) -> int:
        if w == 0:
            return 0
        if w > 15:
            high = self.plain(15)
            return high << (w - 15) | self.plain(w - 15)
        v, share = self.states[self.at] % (1 << 15), 1 << (15 - w)
        self.take(v % share, share)
        return v // share

    def entry(self, t: LearningTable) -> int:
        v = self.states[self.at] % (1 << 15)
        e = bisect.bisect_right(t.start, v) - 1
        self.take(v - t.start[e], t.start[e + 1] - t.start[e])
        t.count[e] += 32
        t.left -= 1
        if t.left == 0:
            t.learn()
        return e

    def finish(self) -> None:
        require(self.states == [1 << 31] * 4, "last states")


def cell_shift(set_: int, bin_: int) -> int:
    return 0 if set_ == 3 else max(0, bin_ - (9 if set_ == 2 else 11)) // 2


def cell_counts(set_: int, bin_: int) -> list[int]:
    mean = (77936, 110218)[bin_ % 2] << bin_ // 2 >> 4 + (set_ < 2) + cell_shift(set_, bin_)
    ratio = (mean << 16) // (mean + (1 << 16))
    weight, weights = 1 << 24, [0] * 16
    for d in range(8):
        weights[7 - d] = weights[7 + d] = weight
        weight = weight * ratio >> 16
    weights[15] = 2 * weight
    if set_ == 1 and cell_shift(set_, bin_) == 0:
        weights[7] >>= 3
    return [max(1, 200 * each // sum(weights)) for each in weights]


def make_scale() -> list[int]:
    table, power = [], 1 << 31
    for _ in range(320):
        table.append((power << 31) // ((1 << 31) + 4 * power))
        power = power * 4112874773 >> 32
    return table


SCALE = make_scale()
CELL_COUNTS = [[cell_counts(set_, bin_) for bin_ in range(40)] for set_ in range(4)]


def wrap(a: int) -> int:
    return (a + (1 << 31)) % (1 << 32) - (1 << 31)


def rate(factor: int, first: int, limit: int, count: int) -> int:
    return factor * RECIPROCAL[min(first + count, limit)] >> 8


def moved(level: int, total: int, rate: int) -> int:
    return clamp(level + (total * rate >> 8), -(1 << 21), 1 << 21)


@dataclass
class AdaptiveTables:
    cells: dict[tuple[int, int, int], LearningTable] = field(default_factory=dict)
    far: list[LearningTable] = field(default_factory=lambda: [LearningTable([64] * 16) for _ in range(4)])

    def cells_of(self, set_: int, bin_: int, lean: int) -> LearningTable:
        if (set_, bin_, lean) not in self.cells:
            self.cells[set_, bin_, lean] = LearningTable(list(CELL_COUNTS[set_][bin_]))
        return self.cells[set_, bin_, lean]


class AdaptiveHistory:
    """Blocks one after the other; names as in the document."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.tables = AdaptiveTables()
        self.all = 1 << 16
        self.before: list[int] = []
        self.weights = [[0] * 8 for _ in range(64)]

    def block(self, shape: Shape, kind: int, sparse: int, centre: int) -> list[int]:
        h, self.c, self.k = shape
        self.kind, self.free_set = kind, 2 + sparse
        c, k = self.c, self.k
        r = c // len(self.before) if self.before and c % len(self.before) == 0 else 0
        self.column = [self.before[n // k // r] if r > 0 else 0 for n in range(c * k)]
        self.channel, self.position, self.mean = [0] * c, [0] * k, [0] * (c * k)
        if k == 1:
            self.weights[0] = [0] * 8
        rows, symbols = [], []
        for self.y in range(0, h, 4):
            self.m = min(4, h - self.y)
            self.row, states = [0] * self.m, [0] * self.m
            self.recent, self.newest = [0] * self.m, [0] * self.m
            self.known: list[list[int]] = [[] for _ in self.row]  # of these kernels, or of the rows
            band: list[list[int]] = [[] for _ in range(self.m)]
            for group in self.groups():
                self.start(group[0])
                for n in group:
                    self.expect(n)
                    values = []
                    for lane in range(self.m):
                        self.steps.at = lane
                        q = states[lane] % 2
                        v = self.index(q)
                        if kind > 0:
                            states[lane] = MACHINES[kind - 1][states[lane]][v % 2]
                            v = 2 * v - q * sign(v)
                        require(is_symbol(v + centre), "symbol")
                        band[lane].append(v + centre)
                        values.append(v)
                    self.note(values)
                self.end(group)
            rows += self.row
            symbols += itertools.chain.from_iterable(band)
        if c * k > 1:
            mean = toward_zero(sum(rows), h)
            self.before = [row - mean for row in rows] if h <= 1 << 16 else []
        return symbols

    def groups(self) -> Iterator[range]:
        """Each group's columns."""
        unit, most = (self.k, 64) if self.k > 1 else (self.c, 16)
        for first in range(0, self.c * self.k, unit):
            for n in range(first, first + unit, most):
                yield range(n, min(n + most, first + unit))

    def start(self, n: int) -> None:
        j, p = divmod(n, self.k)
        common = self.all + (self.channel[j] if self.k > 1 else 0)
        self.base = [common + row for row in self.row]
        if p == 0:
            self.unit = clamp((common >> 16) - 5, 0, 8)
            if self.k > 1:
                self.known = [[] for _ in self.row]
        self.group: list[
            tuple[list[list[int]], list[int], list[int]]
        ] = []  # x, miss and excess of each place's symbols

    def expect(self, n: int) -> None:
        p = n % self.k
        self.n = n
        here = (1 << 18) + self.column[n] + (self.position[p] if self.k > 1 else 0)
        levels = [base + recent + here for base, recent in zip(self.base, self.recent, strict=True)]
        self.E = [clamp(wrap(level) >> 12, 0, 319) for level in levels]
        self.x = [(known[:-9:-1] + [0] * 8)[:8] for known in self.known]
        if self.k == 1:
            for x in self.x:
                x[7] = clamp(self.mean[n] >> 14 + self.unit, -4095, 4095)
        weights = [clamp(wrap(w) >> 3, -(1 << 15), (1 << 15) - 1) for w in self.weights[min(p, 63)]]
        self.V = [sum(a * w for a, w in zip(x, weights, strict=True)) >> 5 for x in self.x]

    def times(self, u: int, E: int) -> int:  # noqa: N803 - as in the document
        return u * SCALE[E] >> 27 - self.unit

    def index(self, q: int) -> int:
        steps, tables = self.steps, self.tables
        set_ = q if self.kind > 0 else self.free_set
        E, V = self.E[steps.at], self.V[steps.at]  # noqa: N806 - as in the document
        bin_ = E >> 3
        s = cell_shift(set_, bin_)
        lean = guess = 0
        if s == 0:
            relative = self.times(abs(V), E)
            lean = sum(bound <= relative for bound in (13, 38, 77, 128, 205, 307))
        else:
            t = 8 + s + (set_ < 2)
            guess = (abs(V) << self.unit) + (1 << (t - 1)) >> t
        e = steps.entry(tables.cells_of(set_, bin_, lean))
        cell = self.distant(set_) if e == 15 else e - 7
        i = (guess + cell << s) + steps.plain(s)
        return -i if V < 0 else i

    def distant(self, set_: int) -> int:
        e = self.steps.entry(self.tables.far[set_])
        b = e // 2
        if b == 7:
            b += self.steps.plain(5)
        d = 7 + (1 << b) + self.steps.plain(b)
        return -d if e % 2 == 1 else d

    def note(self, values: list[int]) -> None:
        now = [clamp(v >> self.unit, -4095, 4095) for v in values]
        misses = [clamp(256 * known - V, -32767, 32767) for known, V in zip(now, self.V, strict=True)]
        times = [self.times(min(abs(miss) + 64, 32767), E) for miss, E in zip(misses, self.E, strict=True)]
        excess = [min(each - 256, 700) for each in times]
        factor, fall = (32, 3) if self.k > 1 else (12, 4)
        self.recent = self.newest
        self.newest = [old + factor * new - (old >> fall) for old, new in zip(self.newest, excess, strict=True)]
        if self.k == 1:
            change = ((sum(now) << 16 + self.unit) - self.m * self.mean[self.n]) * rate(256, 8, 650, self.y)
            self.mean[self.n] += change >> 16
        for known, value in zip(self.known, now, strict=True):
            known.append(value)
        self.group.append((self.x, misses, excess))

    def end(self, group: range) -> None:
        c, k, y = self.c, self.k, self.y
        j, column_rate, position_rate = group[0] // k, rate(112, 16, 200, y), rate(104, 48, 1000, y * c)
        for n, (x, misses, excess) in zip(group, self.group, strict=True):
            self.column[n] += sum(excess) * column_rate >> 8
            p = n % k
            if k > 1:
                self.position[p] += sum(excess) * position_rate >> 8
            t = (15 + sum(a * a for each in x for a in each)).bit_length() - (4 if k > 1 else 2)
            for i in range(8):
                step = sum(each[i] * miss for each, miss in zip(x, misses, strict=True))
                self.weights[min(p, 63)][i] += step >> t
        of_rows = [sum(excess[lane] for _, _, excess in self.group) for lane in range(self.m)]
        if k > 1:
            self.channel[j] = moved(self.channel[j], sum(of_rows), rate(80, 8, 96, y * k))
        seen = group[-1] + 1
        self.row = [moved(row, total, rate(440, 3, 1000, seen)) for row, total in zip(self.row, of_rows, strict=True)]
        self.all = moved(self.all, sum(of_rows), rate(16, 4, 1000, y * c * k + self.m * seen))


def decode_adaptive(payload: bytes, blocks: list[Shape]) -> list[list[int]]:
    source = Bits(payload)
    headers = []
    for _ in blocks:
        kind = source.get(2)
        sparse = source.get(1) if kind == 0 else 0
        centre = 0 if kind in (1, 2) else source.signed(3)
        require(is_symbol(centre), "centre")
        headers.append((kind, sparse, centre))
    require(source.get(-source.position % 8) == 0, "padding")
    rest = Bytes(payload, source.position // 8)
    steps = history = None
    if any(kind != 3 for kind, _, _ in headers):
        steps = Steps(rest)
        history = AdaptiveHistory(steps)
    decoded = []
    for block, (kind, sparse, centre) in zip(blocks, headers, strict=True):
        decoded.append([centre] * math.prod(block) if kind == 3 else history.block(block, kind, sparse, centre))
    if steps:
        steps.finish()
    check_filler(payload, rest.at, sum(map(math.prod, blocks)))
    return decoded


# ---- Text coder ----


def hashed(a: int, b: int) -> int:
    a = (a + b * 0x9E3779B1) * 0x85EBCA6B & 0xFFFFFFFF
    return (a ^ a >> 15) * 0xC2B2AE35 & 0xFFFFFFFF


def fresh_counter() -> Counter:
    return Counter(1 << 15, 0)


@dataclass
class TextModel:
    counters: dict[tuple[int, int], Counter] = field(default_factory=lambda: defaultdict(fresh_counter))
    match_counters: list[Counter] = field(default_factory=lambda: [fresh_counter() for _ in range(90)])
    mixers: list[list[int]] = field(default_factory=lambda: [[117376] * 16 for _ in range(12)])
    recent: list[int] = field(default_factory=lambda: [0] * (1 << 14))
    history: bytearray = field(default_factory=bytearray)
    at: int = 0
    length: int = 0
    misses: int = 0
    last: int = 0
    word: int = 0
    context: list[int] = field(default_factory=lambda: [0] * 6)

    def copied(self) -> "TextModel":
        model = copy.copy(self)
        model.counters = defaultdict(fresh_counter, {key: c.copied() for key, c in self.counters.items()})
        model.match_counters = [counter.copied() for counter in self.match_counters]
        model.mixers = [list(weights) for weights in self.mixers]
        model.recent, model.history, model.context = list(self.recent), bytearray(self.history), list(self.context)
        return model

    def byte(self, decision: Any) -> int:
        t = v = 0
        if self.at > 0:
            e = self.history[self.at]
            length = self.length
            rank = length if length < 8 else 8 if length < 16 else 9 if length < 32 else 10
            worth = 2 + 8 * rank + min(self.misses.bit_count(), 7)
            if self.decide(256 + e, worth, worth, 1 + rank, decision):
                self.append(e)
                return e
            t, v = 1, 512 + e
        path = 1
        while path < 256:
            path = 2 * path + self.decide(path, t, v, 0, decision)
        self.append(path - 256)
        return path - 256

    def decide(self, node: int, t: int, v: int, w: int, decision: Any) -> int:
        used = [self.counters[i, hashed(self.context[i], node) >> 18] for i in range(6)]
        used += [self.match_counters[t], self.counters[0, hashed(v + 77777, node) >> 18]]
        x = inputs(used)
        weights = self.mixers[w]
        a = mix(weights, x)
        b: int = decision(clamp(squash(a), 128, 65408))
        for counter in used:
            counter.update(b, (250, 2))
        train(weights, x, a, b, 30000)
        return b

    def append(self, b: int) -> None:
        history = self.history
        history.append(b)
        size = len(history)
        if self.at > 0:
            hit = history[self.at] == b
            self.length = self.length + 1 if hit else 0
            self.misses = (2 * self.misses + (not hit)) % 256
            self.at += 1
        if size >= 4:
            slot = hashed(int.from_bytes(history[-4:], "big"), 0) >> 18
            r = self.recent[slot]
            if self.length < 16 and r > 0:
                m = 0
                while m < min(32, r) and history[r - 1 - m] == history[size - 1 - m]:
                    m += 1
                if m >= 4 and m > self.length:
                    self.misses = self.misses if r == self.at else 0
                    self.at, self.length = r, m
            self.recent[slot] = size
        self.last = (self.last << 8 | b) % (1 << 32)
        self.word = hashed(self.word, b + 1) if bytes([b]).isalpha() else 0
        last = self.last
        self.context = [0, last % (1 << 8), last % (1 << 16), last % (1 << 24), last]
        self.context.append((self.word + last % (1 << 8)) % (1 << 32))


_primed: list[TextModel] = []


def primed_model() -> TextModel:
    if not _primed:
        model = TextModel()
        for byte in PRIMING:
            answers = [byte >> i & 1 for i in range(7, -1, -1)]
            if model.at > 0:
                hit = int(model.history[model.at] == byte)
                answers = [hit] if hit else [hit, *answers]
            given = iter(answers)
            model.byte(lambda _, given=given: next(given))
        _primed.append(model)
    return _primed[0].copied()


def decode_text(payload: bytes, size: int) -> bytes:
    decision = Decisions(payload)
    model = primed_model()
    decoded = bytes(model.byte(decision) for _ in range(size))
    decision.finish(0)
    return decoded


CODERS = {
    0: decode_stored,
    1: decode_huffman,
    2: decode_range,
    3: decode_mixing,
    4: decode_gzip,
    5: decode_zstd,
    6: decode_lzma,
    7: decode_rans,
    8: decode_adaptive,
}


if __name__ == "__main__":
    for name, (dtype, shape, raw) in decode(Path(sys.argv[1]).read_bytes()).items():
        print(f"{name!r} {dtype} {list(shape)} {zlib.crc32(raw):08x}")
