"""Whole files, good and bad: whatever the bytes, a reader takes what the document allows or raises a FormatError."""

import contextlib
import struct
import zlib

import numpy as np
import pytest
import torch

from metaq import _native, coding
from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.coding import base as coding_base
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, encode, read_model
from metaq.errors import FormatError
from metaq.format.dtypes import BY_NAME
from metaq.format.header import ChunkEntry, Header, TensorEntry, pack, varint
from metaq.format.reader import Reader
from metaq.metrics import digest
from metaq.tensors import load_tensors

every_coder = pytest.mark.parametrize("coder", coding.coders)
STEP = UniformCodebook(0.25)
FLOAT32 = BY_NAME["float32"]


def crafted(header, payloads=(), size=None, checksums=()):
    """A file of any header (or its bytes) and payloads, with checksums that match unless given."""
    packed = pack(header) if isinstance(header, Header) else header
    coded = _native.text_encode(packed)
    out = b"MTQ\1" + varint(len(packed) if size is None else size) + varint(len(coded)) + coded
    out += struct.pack("<I", zlib.crc32(out))
    for index, payload in enumerate(payloads):
        out += payload + struct.pack("<I", checksums[index] if index < len(checksums) else zlib.crc32(payload))
    return out


def stored(symbols, width=1):
    return bytes([width]) + np.asarray(symbols, f"<i{width}").tobytes()


def one_tensor(payload, entry=None, count=None, coder=0):
    entry = entry or TensorEntry("a", FLOAT32, (3,), STEP)
    return crafted(Header({}, [entry], [ChunkEntry(coder, count or entry.size, len(payload))]), [payload])


def small_model():
    symbols = (torch.arange(60, dtype=torch.int32) * 7 % 5 - 2).reshape(3, 4, 5)
    tensors = {"w": CodedTensor(symbols, STEP, torch.float32), "b": torch.tensor([0.5, -0.25]), "t": Alias("w")}
    return CompressedModel(tensors, {"k": "v"})


def mixed_model():
    """Tensors of all kinds, large enough for several chunks of a few dozen symbols."""
    generator = torch.Generator().manual_seed(0)
    symbols = torch.randint(-3, 4, (20, 7, 3), generator=generator, dtype=torch.int32)
    table = TableCodebook(tuple(float(level) for level in range(-3, 4)), 3)
    return CompressedModel(
        {
            "conv": CodedTensor(symbols, STEP, torch.float32),
            "kept": torch.randn(9, 11, generator=generator),
            "matrix": CodedTensor(symbols[..., 0].T, table, torch.bfloat16),
            "vector": torch.randn(130, generator=generator).half(),
            "none": torch.empty(0, 3),
            "count": CodedTensor(torch.tensor(5, dtype=torch.int32), IntegerCodebook(), torch.int64),
            "tied": Alias("conv"),
        }
    )


def test_a_crafted_file_is_read():
    loaded = load_tensors(Reader(one_tensor(stored([1, -2, 0]))))
    assert loaded["a"].tolist() == [0.25, -0.5, 0.0]


def assert_bad(data, message="expected"):
    with pytest.raises(FormatError, match=message) as caught:
        load_tensors(Reader(data, "the file"))
    assert str(caught.value).startswith("the file")
    assert "\n" not in str(caught.value)


@every_coder
def test_every_shorter_file_and_every_longer_one(coder):
    data = encode(small_model(), coder)
    for length in range(len(data)):
        assert_bad(data[:length])
    assert_bad(data + b"\0")
    assert_bad(data + data)


@every_coder
def test_every_flipped_bit(coder):
    data = encode(small_model(), coder)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert_bad(flipped)


@every_coder
def test_every_flipped_bit_of_a_payload_under_a_matching_checksum(coder):
    whole = encode(small_model(), coder)
    reader = Reader(whole)
    chunk, offset = reader.header.chunks[0], reader.payload_offsets[0]
    for bit in range(8 * chunk.payload_bytes):
        data = bytearray(whole)
        data[offset + bit // 8] ^= 1 << bit % 8
        end = offset + chunk.payload_bytes
        data[end : end + 4] = struct.pack("<I", zlib.crc32(data[offset:end]))
        with contextlib.suppress(FormatError):
            load_tensors(Reader(data))


def test_every_flipped_bit_of_the_coded_header_under_a_matching_checksum():
    data = encode(small_model())
    end = len(data) - sum(chunk.payload_bytes + 4 for chunk in Reader(data).header.chunks) - 4
    for bit in range(8 * 4, 8 * end):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        flipped[end : end + 4] = struct.pack("<I", zlib.crc32(flipped[:end]))
        with contextlib.suppress(FormatError):
            load_tensors(Reader(flipped))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "starts with b'MTQ', found b''"),
        (b"PK\3\4", "starts with b'MTQ', found b'PK"),
        (b"MTQ", "at least 4 bytes, found 3; the file is truncated"),
        (b"MTQ\2" + bytes(40), "format version 1, found version 2; a newer metaq"),
        (b"MTQ\1\0\0" + bytes(4), "a header of 1 to 67108864 bytes, found 0"),
        (b"MTQ\1" + varint(2**26 + 1) + b"\1" + bytes(5), "1 to 67108864 bytes, found 67108865"),
        (b"MTQ\1" + varint(20) + varint(2**62) + bytes(5), "a text-coded header, found it corrupt"),
        (b"MTQ\1\x81\x00\1" + bytes(30), "varint"),
        (b"MTQ\1" + b"\xff" * 30, r"a shortest varint below 2\^63"),
    ],
)
def test_bad_beginnings(data, message):
    assert_bad(data, message)


def test_a_header_of_another_size_than_said():
    packed = pack(Header({"key": "value" * 5}, [], []))
    for size in (*range(1, len(packed)), len(packed) + 1, 2**19, 2**26):
        assert_bad(crafted(packed, size=size))
    assert_bad(crafted(b"\0" * 3, size=2**26), "header that .* bytes can hold|text-coded header")
    assert_bad(crafted(packed + b"\0"), "end of the header")


F32 = TensorEntry("a", FLOAT32, (3,), STEP)
TABLE = TensorEntry("a", FLOAT32, (3,), TableCodebook((-1.0, 0.0, 2.0), 1))
U8 = TensorEntry("a", BY_NAME["uint8"], (3,), IntegerCodebook())
BOOL = TensorEntry("a", BY_NAME["bool"], (3,), IntegerCodebook())
I16 = TensorEntry("a", BY_NAME["int16"], (3,), IntegerCodebook())
KEPT = TensorEntry("a", BY_NAME["int8"], (3,))
LIMIT = 2**30


@pytest.mark.parametrize(
    ("entry", "payload", "message"),
    [
        (TABLE, stored([0, 2, 0]), "symbols: expected -1 to 1, found 0 to 2"),
        (TABLE, stored([0, -2, 0]), "symbols: expected -1 to 1"),
        (U8, stored([0, -1, 0]), "symbols: expected 0 to 255, found -1 to 0"),
        (U8, stored([0, 256, 0], 2), "expected 0 to 255"),
        (BOOL, stored([0, 2, 0]), "expected 0 to 1"),
        (I16, stored([0, 32768, 0], 4), "expected -32768 to 32767"),
        (F32, stored([0, LIMIT, 0], 4), r"2\^30"),
        (F32, stored([-LIMIT, 0, 0], 4), r"2\^30"),
        (F32, stored([-(2**31)] * 3, 4), r"2\^30"),
        (KEPT, stored([0, 128, 0], 2), "symbols of bytes, -128 to 127"),
        (KEPT, stored([0, -129, 0], 2), "symbols of bytes, -128 to 127"),
        (F32, stored([1, 2]), "chunk 0: stored stream: expected 4 bytes"),
        (F32, stored([1, 2, 3, 4]), "chunk 0: stored stream"),
        (F32, b"\3" + bytes(9), "widths"),
    ],
)
def test_bad_symbols(entry, payload, message):
    data = one_tensor(payload, entry)
    assert_bad(data, message)
    with pytest.raises(FormatError):
        read_model(Reader(data))


def test_an_unknown_coder():
    assert_bad(one_tensor(stored([1, 2, 3]), coder=99), r"coder: expected an identifier among .*, found 99")


@pytest.mark.parametrize("coder", [coder for coder in coding.coders.values() if coder.identifier], ids=lambda c: c.name)
@pytest.mark.parametrize("payload", [b"\0", b"\xff", bytes(16), b"\xff" * 16, bytes(range(64))], ids=range(5))
def test_payloads_of_nonsense_do_not_crash(coder, payload):
    entry = TensorEntry("a", FLOAT32, (500, 600), STEP)
    with contextlib.suppress(FormatError):
        load_tensors(Reader(one_tensor(payload, entry, coder=coder.identifier)))


def test_checksums_of_chunks():
    header = Header({}, [F32], [ChunkEntry(0, 3, 4)])
    assert_bad(crafted(header, [stored([1, 2, 3])], checksums=[0]), "chunk 0 to match its checksum")


def test_swapped_chunks_are_noticed_only_by_their_content():
    """Payloads have no position of their own; the document says so by saying nothing of one."""
    header = Header({}, [TensorEntry("a", FLOAT32, (4,), STEP)], [ChunkEntry(0, 2, 3), ChunkEntry(0, 2, 3)])
    payloads = [stored([1, 2]), stored([3, 4])]
    assert load_tensors(Reader(crafted(header, payloads)))["a"].tolist() == [0.25, 0.5, 0.75, 1.0]


def test_gaps_and_trailing_bytes():
    header = Header({}, [F32], [ChunkEntry(0, 3, 4)])
    assert_bad(crafted(header, [stored([1, 2, 3]), b""]), "found")
    assert_bad(crafted(header, [b"\0" + stored([1, 2, 3])]), "found")
    assert_bad(crafted(header, []), "found")
    assert_bad(crafted(Header({}, [F32], [ChunkEntry(0, 3, 2**62)]), [stored([1, 2, 3])]), "found")


@pytest.mark.parametrize("counts", [(3, 9), (4, 8), (7, 5), (11, 1), (5, 5, 2)])
def test_a_chunk_that_ends_inside_a_row(counts):
    entry = TensorEntry("a", FLOAT32, (2, 3, 2), STEP)
    chunks = [ChunkEntry(0, count, count + 1) for count in counts]
    assert_bad(crafted(Header({}, [entry], chunks), [stored([0] * count) for count in counts]), "end between rows")


def test_chunks_that_end_between_rows():
    entries = [TensorEntry("a", FLOAT32, (2, 3, 2), STEP), TensorEntry("b", BY_NAME["int8"], (2, 3))]
    header = Header({}, entries, [ChunkEntry(0, 6, 7), ChunkEntry(0, 9, 11), ChunkEntry(0, 3, 4)])
    payloads = [stored(range(6)), b"\1\1" + bytes(range(9)), stored([7, 8, 9])]
    loaded = load_tensors(Reader(crafted(header, payloads)))
    assert (loaded["a"] * 4).ravel().tolist() == [*range(6), *range(6)]
    assert loaded["b"].tolist() == [[6 - 128, 7 - 128, 8 - 128], [7 - 128, 8 - 128, 9 - 128]]


@every_coder
@pytest.mark.parametrize("size", [1, 2, 20, 21, 64, 1000, 10**6])
def test_chunks_of_any_size_decode_the_same(coder, size, monkeypatch):
    model = mixed_model()
    expected = digest(load_tensors(Reader(encode(model, coder))))
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", size)
    data = encode(model, coder)
    reader = Reader(data)
    assert len(reader.header.chunks) > {1: 300, 2: 180, 20: 60, 21: 50, 64: 15}.get(size, 4)
    assert digest(load_tensors(reader)) == expected
    assert encode(read_model(reader), coder) == data
    assert encode(mixed_model(), coder) == data


@every_coder
def test_what_is_written_can_be_read_however_well_it_compresses(coder):
    """A coder that needs less than a byte for 2^19 symbols must not make a file that readers refuse."""
    zeros = CodedTensor(torch.zeros(1500, 1000, dtype=torch.int32), STEP, torch.float32)
    loaded = load_tensors(Reader(encode(CompressedModel({"a": zeros}), coder)))
    assert int(loaded["a"].count_nonzero()) == 0


@pytest.mark.parametrize(
    "data", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.int8)], ids=["b", "ba", "mv", "np"]
)
def test_reads_from_anything_of_bytes(data):
    whole = encode(small_model())
    assert digest(load_tensors(Reader(data(whole)))) == digest(small_model().decompress())
