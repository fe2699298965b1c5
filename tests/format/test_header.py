"""Headers, byte by byte: what is written, and that nothing else is read."""

import contextlib
import math
import struct
from pathlib import Path

import malformed_files as malformed
import pytest
import reference_decoder as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.errors import FormatError
from metaq.format.dtypes import BY_NAME, DTYPES
from metaq.format.header import ChunkEntry, Header, TensorEntry, fits_limits, pack, varint
from metaq.format.reader import Reader
from metaq.format.sequence import block_shape, runs

TESTS = Path(__file__).parents[1]


FLOAT32, BOOL = BY_NAME["float32"], BY_NAME["bool"]
HALF = UniformCodebook(0.5)
F32 = 0
CODED, KEPT, ALIAS = 0, 1, 2


def parse(data):
    """What a reader finds in a file of this header, whose chunks are zeros."""
    try:
        chunks = reference.read_header(bytes(data))[2]
    except reference.MalformedError:
        chunks = []
    sizes = [size for _, _, size in chunks]
    file = malformed.sealed(bytes(data), [bytes(size if sum(sizes) < 1 << 20 else 0) for size in sizes])
    return Reader(file, takes_differences=True).header


def string(text):
    return varint(len(text.encode())) + text.encode()


def raw_header(tensors=(), chunks=(), flags=0, metadata=(), base=b""):
    """A header from the bytes of its entries."""
    out = bytes([flags]) + base + varint(len(metadata)) + b"".join(string(k) + string(v) for k, v in metadata)
    out += varint(len(tensors)) + b"".join(tensors)
    return out + varint(len(chunks)) + b"".join(chunks)


def raw_tensor(name="a", dtype=F32, kind=KEPT, shape=(2,), rest=b""):
    return string(name) + bytes([dtype, kind, len(shape)]) + b"".join(map(varint, shape)) + rest


def raw_alias(name, target, dtype=F32):
    return string(name) + bytes([dtype, ALIAS]) + varint(target)


def raw_chunk(symbols=0, payload=8, coder=0):
    return bytes([coder]) + varint(symbols) + varint(payload)


STEP = varint(0) + b"\0" + struct.pack("<f", 0.5)
INTEGER = varint(0) + b"\2"


def table(levels, origin=0, count=None):
    sizes = varint(len(levels) if count is None else count) + varint(origin)
    return varint(0) + b"\1" + sizes + struct.pack(f"<{len(levels)}f", *levels)


def test_bytes_of_a_header_are_the_documents():
    header = Header(
        {"k": "v"},
        [
            TensorEntry("w", FLOAT32, (2, 300), HALF),
            TensorEntry("x", BY_NAME["float16"], (1,), HALF),
            TensorEntry("b", BY_NAME["int8"], (), None),
            TensorEntry("t", FLOAT32, (2, 300), target=0),
        ],
        [ChunkEntry(3, 600, 9), ChunkEntry(0, 2, 5)],
    )
    expected = b"\0" + b"\1\1k\1v" + b"\4"
    expected += b"\1w\0\0\2\x02\xac\x02\0\0" + struct.pack("<f", 0.5)
    expected += b"\1x\1\0\1\1\1" + b"\1b\x11\1\0" + b"\1t\0\2\0"
    expected += b"\2" + b"\3\xd8\x04\x09" + b"\0\0\5"
    assert pack(header) == expected
    assert parse(expected) == header


@pytest.mark.parametrize("value", [2, 127, 128, 300, 2**14 - 1, 2**14, 2**35, 2**62])
def test_varints(value):
    with pytest.raises(
        FormatError, match=f"header byte {2 + len(varint(value))}: expected {value} more bytes, found 1"
    ):
        parse(b"\0\1" + varint(value) + b"\0")
    assert len(varint(value)) == max(1, math.ceil(value.bit_length() / 7))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80", b"\x80\0", b"\x81\x80\0", b"\xff" * 9, varint(2**63), b"\xff" * 9 + b"\1", b"\x80" * 10 + b"\1"],
)
def test_bad_varints(data):
    with pytest.raises(FormatError, match="expected"):
        parse(b"\0" + data)


GOOD = [
    raw_header(),
    raw_header([raw_tensor()], [raw_chunk()]),
    raw_header([raw_tensor(shape=(0, 2**39))]),
    raw_header([raw_tensor(shape=(1,) * 32)], [raw_chunk()]),
    raw_header([raw_tensor(kind=CODED, rest=STEP), raw_tensor("b", 3, CODED, rest=b"\1")], [raw_chunk()]),
    raw_header([raw_tensor(), raw_alias("b", 0), raw_alias("c", 0)], [raw_chunk()]),
    raw_header([raw_tensor(kind=CODED, rest=table([-1.0, 0.0, 1.0], 2))], [raw_chunk(2)]),
    raw_header([raw_tensor(dtype=16, kind=CODED, rest=INTEGER)], [raw_chunk(1, 1), raw_chunk(1, 1)]),
    raw_header(metadata=[("", ""), ("é", "\0")]),
    raw_header([raw_tensor(kind=CODED, rest=STEP), raw_tensor("b", 2)], [raw_chunk()], flags=1, base=bytes(range(32))),
]


@pytest.mark.parametrize("data", GOOD)
def test_good_headers_and_all_their_beginnings(data):
    parse(data)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            parse(data[:length])
    with pytest.raises(FormatError, match="end of the header, found 1 more"):
        parse(data + b"\0")


BAD = {
    "reserved flags": (raw_header(flags=128), "flags 0 or 1, found 128"),
    "half a checksum": (bytes([1]) + bytes(16), "32 more bytes, found 16"),
    "a difference in bfloat16": (
        raw_header([raw_tensor(dtype=2, kind=CODED, rest=STEP)], [raw_chunk()], flags=1, base=bytes(32)),
        "differences to be float32, found bfloat16 for tensor 'a'",
    ),
    "key twice": (raw_header(metadata=[("a", "b"), ("a", "c")]), "distinct metadata keys, found 'a' twice"),
    "name twice": (raw_header([raw_tensor(), raw_tensor()], [raw_chunk()]), "distinct tensor names, found 'a' twice"),
    "dtype": (raw_header([raw_tensor(dtype=6)], [raw_chunk()]), "a known dtype, found 6"),
    "kind": (raw_header([raw_tensor(kind=4)], [raw_chunk()]), "a kind of 0 to 3, found 4"),
    "33 dimensions": (raw_header([raw_tensor(shape=(1,) * 33)], [raw_chunk()]), "at most 32 dimensions, found 33"),
    "2^40 elements": (raw_header([raw_tensor(shape=(2**20, 2**20))], [raw_chunk()]), r"fewer than 2\^40"),
    "one huge dimension": (raw_header([raw_tensor(shape=(2**62,))], [raw_chunk()]), r"fewer than 2\^40"),
    "huge behind zero": (raw_header([raw_tensor(shape=(2**62, 2**62, 0))]), r"fewer than 2\^40"),
    "alias of itself": (raw_header([raw_alias("a", 0)]), "an earlier tensor"),
    "alias of a later": (raw_header([raw_alias("a", 1), raw_tensor("b")], [raw_chunk()]), "an earlier tensor"),
    "alias of an alias": (
        raw_header([raw_tensor(), raw_alias("b", 0), raw_alias("c", 1)], [raw_chunk()]),
        "an earlier tensor",
    ),
    "alias of another dtype": (raw_header([raw_tensor(), raw_alias("b", 0, dtype=1)], [raw_chunk()]), "same dtype"),
    "codebook to come": (raw_header([raw_tensor(kind=CODED, rest=b"\1")], [raw_chunk()]), "a codebook defined before"),
    "codebook kind": (raw_header([raw_tensor(kind=CODED, rest=b"\0\3")], [raw_chunk()]), "codebook kind 0, 1 or 2"),
    "uniform for integers": (
        raw_header([raw_tensor(dtype=17, kind=CODED, rest=STEP)], [raw_chunk()]),
        "codebook for int8, found a Uni",
    ),
    "uniform for float8": (raw_header([raw_tensor(dtype=4, kind=CODED, rest=STEP)], [raw_chunk()]), "float8_e4m3fn"),
    "integer for floats": (
        raw_header([raw_tensor(kind=CODED, rest=INTEGER)], [raw_chunk()]),
        "codebook for float32, found a Int",
    ),
    "no levels": (raw_header([raw_tensor(kind=CODED, rest=table([]))], [raw_chunk()]), r"1 to 2\^20 levels, found 0"),
    "too many levels": (
        raw_header([raw_tensor(kind=CODED, rest=table([0.0], count=2**20 + 1))], [raw_chunk()]),
        r"1 to 2\^20 levels",
    ),
    "more levels than bytes": (
        raw_header([raw_tensor(kind=CODED, rest=table([0.0], count=2**20))], [raw_chunk()]),
        "more bytes",
    ),
    "levels equal": (raw_header([raw_tensor(kind=CODED, rest=table([0.0, 0.0]))], [raw_chunk()]), "increasing"),
    "levels of two zeros": (raw_header([raw_tensor(kind=CODED, rest=table([-0.0, 0.0]))], [raw_chunk()]), "increasing"),
    "levels falling": (raw_header([raw_tensor(kind=CODED, rest=table([1.0, 0.0]))], [raw_chunk()]), "increasing"),
    "level NaN": (raw_header([raw_tensor(kind=CODED, rest=table([0.0, math.nan]))], [raw_chunk()]), "finite"),
    "level infinite": (raw_header([raw_tensor(kind=CODED, rest=table([0.0, math.inf]))], [raw_chunk()]), "finite"),
    "origin": (raw_header([raw_tensor(kind=CODED, rest=table([0.0, 1.0], 2))], [raw_chunk()]), "origin"),
    "not UTF-8": (raw_header([b"\2\xff\xfe\0\1\1\2"], [raw_chunk()]), "expected UTF-8"),
    "surrogate": (raw_header([b"\3\xed\xa0\x80\0\1\1\2"], [raw_chunk()]), "expected UTF-8"),
    "string past the end": (raw_header([varint(2**62) + b"abcd"]), "more bytes"),
    "metadata count": (b"\0" + varint(2**40) + b"\0" * 9, "at most 4 metadata entries"),
    "tensor count": (b"\0\0" + varint(3) + b"\0" * 9, "at most 2 tensors, found 3"),
    "2^20 tensors": (b"\0\0" + varint(2**20 + 1) + b"\0" * 9, r"at most 2\^20 tensors, found 1048577"),
    "chunk count": (b"\0\0\0" + varint(2**62) + b"\0" * 9, "at most 3 chunks"),
    "long varint": (raw_header([b"\x81\x00a\0\1\1\2"], [raw_chunk()]), "varint"),
    "chunks without tensors": (raw_header([], [raw_chunk()]), "expected 1 to 0 symbols"),
    "no chunks": (raw_header([raw_tensor()]), "chunks of 8 symbols in all, found 0"),
    "chunks too short": (raw_header([raw_tensor()], [raw_chunk(7)]), "chunks of 8 symbols in all, found 7"),
    "chunks too long": (raw_header([raw_tensor()], [raw_chunk(9)]), "1 to 8 symbols, found 9"),
    "a chunk behind the rest": (raw_header([raw_tensor()], [raw_chunk(), raw_chunk(1)]), "expected 1 to 0 symbols"),
    "two rests": (raw_header([raw_tensor()], [raw_chunk(), raw_chunk()]), "expected 1 to 0 symbols"),
    "no payload": (raw_header([raw_tensor()], [raw_chunk(payload=0)]), "expected 1 to 0 symbols"),
    "amplification": (
        raw_header([raw_tensor(dtype=17, shape=(2**19 + 1,))], [raw_chunk(payload=1)]),
        "1 to 524288 symbols, found 524289",
    ),
    "chunk above 2^26": (
        raw_header([raw_tensor(dtype=17, shape=(2**26 + 1,))], [raw_chunk(payload=2**26)]),
        "1 to 67108864 symbols, found 67108865",
    ),
}
for number in ("step zero", 0.0), ("step negative", -1.0), ("step NaN", math.nan), ("step infinite", math.inf):
    rest = varint(0) + b"\0" + struct.pack("<f", number[1])
    BAD[number[0]] = (raw_header([raw_tensor(kind=CODED, rest=rest)], [raw_chunk()]), "positive finite")


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD.keys())
def test_bad_headers(data, message):
    with pytest.raises(FormatError, match=message) as caught:
        parse(data)
    assert str(caught.value).startswith("data: header")
    assert "\n" not in str(caught.value)


def test_amplification_right_at_the_limit():
    parse(raw_header([raw_tensor(dtype=17, shape=(2**19,))], [raw_chunk(payload=1)]))
    parse(raw_header([raw_tensor(dtype=17, shape=(2**26,))], [raw_chunk(payload=128)]))


def test_messages_stay_short_for_long_names():
    with pytest.raises(FormatError) as caught:
        parse(raw_header([raw_tensor("n" * 10_000, dtype=99)], [raw_chunk()]))
    assert len(str(caught.value)) < 400


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=60), good=st.sampled_from(GOOD), cut=st.integers(0, 60))
def test_any_bytes_parse_or_raise_a_format_error(data, good, cut):
    for candidate in (data, b"\0\0" + data, good[:cut] + data):
        try:
            header = parse(candidate)
        except FormatError:
            continue
        assert parse(pack(header)) == header


def test_every_flipped_bit_parses_or_raises_a_format_error():
    for data in GOOD:
        for bit in range(8 * len(data)):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            with contextlib.suppress(FormatError):
                parse(flipped)


@st.composite
def headers(draw):
    """Any header, with one chunk for all there is."""
    names = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), unique=True, max_size=6))
    base = draw(st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex))
    entries = []
    for index, name in enumerate(names):
        dtype = draw(st.sampled_from(list(DTYPES.values())))
        shape = tuple(draw(st.lists(st.integers(0, 9), max_size=5)))
        owned = [i for i in range(index) if entries[i].target is None]
        if owned and draw(st.booleans()):
            target = draw(st.sampled_from(owned))
            entries.append(TensorEntry(name, entries[target].dtype, entries[target].shape, target=target))
        else:
            is_kept = base is not None and dtype.is_float and dtype != FLOAT32
            entries.append(TensorEntry(name, dtype, shape, None if is_kept else draw(codebooks(dtype))))
    count = sum(run.shape[0] * run.shape[1] * run.shape[2] for run in runs(entries))
    chunks = [ChunkEntry(draw(st.integers(0, 6)), count, draw(st.integers(1, 2**10)))] if count else []
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
    return Header(draw(st.dictionaries(text, text, max_size=3)), entries, chunks, base)


def codebooks(dtype):
    """None, for a kept tensor, or a codebook for this dtype; bools are never kept."""
    if not dtype.is_float:
        return st.just(IntegerCodebook()) if dtype == BOOL else st.sampled_from([None, IntegerCodebook()])
    if dtype.itemsize == 1:
        return st.none()
    step = st.floats(2.0**-149, 2.0**127, width=32).map(UniformCodebook)
    levels = st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=5, unique=True)
    return st.one_of(st.none(), step, levels.map(lambda values: TableCodebook(tuple(sorted(values)), len(values) - 1)))


@settings(deadline=None, max_examples=200)
@given(header=headers())
def test_round_trip(header):
    data = pack(header)
    assert parse(data) == header
    assert pack(parse(data)) == data
    assert list(parse(data).metadata) == list(header.metadata)


def test_levels_of_either_zero_stay_apart():
    tables = [TableCodebook((zero, 1.0), 0) for zero in (0.0, -0.0)]
    entries = [TensorEntry(str(sign), FLOAT32, (1,), table) for sign, table in enumerate(tables)]
    parsed = parse(pack(Header({}, entries, [ChunkEntry(0, 2, 4)])))
    assert [math.copysign(1, entry.codebook.levels[0]) for entry in parsed.tensors] == [1, -1]


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((), (1, 1, 1)),
        ((7,), (7, 1, 1)),
        ((0,), (0, 1, 1)),
        ((3, 4), (3, 4, 1)),
        ((3, 4, 5, 6), (3, 4, 30)),
        ((3, 0), (3, 0, 1)),
        ((2, 2**20), (2, 2**20, 1)),
        ((2, 2**20 + 1), (2**21 + 2, 1, 1)),
        ((2, 2**10, 2**10), (2, 2**10, 2**10)),
    ],
)
def test_blocks(shape, block):
    assert block_shape(shape) == block


def test_limits_of_shapes():
    assert fits_limits((2**39, 1))
    assert fits_limits((0, 2**39))
    assert not fits_limits((0, 2**40))
    assert not fits_limits((1,) * 33)
