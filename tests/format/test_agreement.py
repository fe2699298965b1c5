"""Decoders agree on files that are nearly good: they refuse them all, or decode them to the same.

They are C++ from memory, C++ as the file is read, the reference decoder, and the decoder of small devices.
"""

import malformed_files as malformed
import numpy as np
import pytest
import reference_decoder as reference

import metaq.numpy
from metaq import coding
from metaq.errors import MetaqError
from metaq.format.checked_file import CheckedFile
from metaq.format.dtypes import DTYPES
from metaq.format.reader import Reader

NATIVE = [name for name, coder in coding.coders.items() if coder.is_native]
GENERATOR = np.random.default_rng(3)
ARRAYS = {
    "int8": np.rint(GENERATOR.normal(0, 2, (6, 5, 3))).astype(np.int8),
    "float16": GENERATOR.normal(size=(7, 3)).astype(np.float16),
    "bool": GENERATOR.random(9) < 0.3,
    "int64": GENERATOR.integers(-3, 4, (4, 6)),
}


def outcome(decode, data, refusal):
    """Tensors' bytes by name, or None where the file is refused."""
    try:
        return decode(data)
    except refusal:
        return None


def by_python(data):
    reader = Reader(data)
    arrays = reader.load()
    return {name: (DTYPES[row[0]].name, row[2], arrays[name].tobytes()) for name, *row in reader.rows}


def as_it_is_read(data):
    return by_python(memoryview(bytearray(data)))


def by_reference(data):
    return {
        name: (dtype, tuple(shape), bytes(octets)) for name, (dtype, shape, octets) in reference.decode(data).items()
    }


def mutants(data, count, generator):
    """Copies of which a byte of the header before text coding, or of a payload, is another; sealed again."""
    sizes = reference.Bytes(data, 4)
    size, coded_size = sizes.varint(), sizes.varint()
    header = bytearray(reference.decode_text(sizes.take(coded_size), size))
    file = CheckedFile(data)
    places = zip(file.payload_offsets, file.header.chunks, strict=True)
    payloads = [bytearray(data[offset : offset + chunk.payload_bytes]) for offset, chunk in places]
    for _ in range(count):
        parts = [bytearray(part) for part in (header, *payloads)]
        part = parts[generator.integers(0, len(parts))]
        if part:
            part[generator.integers(0, len(part))] ^= 1 << generator.integers(0, 8)
        yield malformed.sealed(bytes(parts[0]), [bytes(payload) for payload in parts[1:]])


def assert_agreement(data):
    expected = outcome(by_python, data, MetaqError)
    assert outcome(as_it_is_read, data, MetaqError) == expected
    assert outcome(by_reference, data, reference.MalformedError) == expected
    packed = outcome(lambda data: CheckedFile(data).device_image(), data, MetaqError)
    assert (packed is None) == (expected is None)


@pytest.mark.parametrize("count", [1, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.parametrize("coder", NATIVE)
def test_sealed_mutants(coder, count):
    data = metaq.numpy.save(ARRAYS, {"key": "value"}, coder)
    assert_agreement(data)
    for mutant in mutants(data, count, np.random.default_rng(count)):
        assert_agreement(mutant)


def test_malformed_files():
    for status, data in malformed.files():
        assert outcome(by_python, data, MetaqError) is None, status
        assert outcome(as_it_is_read, data, MetaqError) is None, status
        assert outcome(lambda data: CheckedFile(data).device_image(), data, MetaqError) is None, status
