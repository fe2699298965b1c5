"""The coder of changes: any bits come back; what is no stream of it is refused, by both decoders alike."""

import numpy as np
import pytest
import reference_decoder as reference
from malformed_files import BASE, changed, file

from metaq import _native
from metaq.errors import FormatError
from metaq.format.dtypes import DTYPES
from metaq.format.reader import Reader

SIZES = (1, 2, 255, 256, 257, 3000, 40_000)
DTYPE_CODES = [code for code, dtype in DTYPES.items() if dtype.name != "bool"]


def words_of(code):
    return np.dtype(f"u{DTYPES[code].itemsize}")


def weights(code, size, generator):
    """Bits as networks have them: of a normal distribution; random ones of float8 and of integers."""
    name, words = DTYPES[code].name, words_of(code)
    values = generator.normal(0, 0.02, size)
    if name == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(words)
    if name in ("float16", "float32", "float64"):
        return values.astype(name).view(words)
    return noise(code, size, generator)


def noise(code, size, generator):
    return np.frombuffer(generator.bytes(size * words_of(code).itemsize), words_of(code)).copy()


def moved(base, share, generator):
    """Some elements of which the lowest bits have changed."""
    bits = generator.integers(1, 4, base.size).astype(base.dtype)
    return np.where(generator.random(base.size) < share, base ^ bits, base)


def pairs(code, size, generator):
    base = weights(code, size, generator)
    rows = base.copy()
    rows[size // 3 : size // 2] += 1
    yield "nothing", base, base
    yield "little", base, moved(base, 0.001, generator)
    yield "some", base, moved(base, 0.1, generator)
    yield "everything", base, base + 1
    yield "rows", base, rows
    yield "anything", noise(code, size, generator), noise(code, size, generator)
    yield "signs", base, base ^ (1 << (8 * base.itemsize - 1))


def octets(words):
    return words.view(np.uint8)


def as_file(payload, base, code):
    """A difference of one tensor with these changes."""
    entry = changed(base.size, 1, lengths=(base.size,), dtype=bytes([code]))
    return file((entry,), ((9, 0, payload),), flags=b"\1" + BASE)


def decoded(payload, base, code):
    reader = Reader(as_file(payload, base, code), takes_differences=True)
    return reader.apply_chunk(0, octets(base)).view(base.dtype)


@pytest.mark.parametrize("code", DTYPE_CODES, ids=lambda code: DTYPES[code].name)
def test_round_trips(code):
    generator = np.random.default_rng(code)
    for size in SIZES:
        for name, base, new in pairs(code, size, generator):
            payload, count = _native.difference_encode(octets(base), octets(new), code)
            assert count == np.count_nonzero(base != new), name
            assert np.array_equal(decoded(payload, base, code), new), (name, size)
            if size <= 257:
                assert reference.changed(payload, code, base.tobytes()) == new.tobytes(), (name, size)


def test_the_reference_decoder_on_many_lanes_and_skipped_units():
    generator = np.random.default_rng(1)
    base = weights(2, 20_000, generator)
    some = base.copy()
    some[[700, 701, 12_345]] += 3
    for new in (moved(base, 0.05, generator), some):
        payload, _ = _native.difference_encode(octets(base), octets(new), 2)
        assert reference.changed(payload, 2, base.tobytes()) == new.tobytes()


def test_unchanged_units_take_next_to_nothing():
    base = weights(2, 1 << 20, np.random.default_rng(2))
    new = base.copy()
    assert len(_native.difference_encode(octets(base), octets(new), 2)[0]) < 20
    new[5000:5010] += 1
    assert len(_native.difference_encode(octets(base), octets(new), 2)[0]) < 60


def test_a_step_of_training_takes_less_than_its_flags_would():
    """Weights of large exponents do not change, which contexts tell; without them a flag takes its entropy."""
    generator = np.random.default_rng(3)
    base = weights(2, 1 << 18, generator)
    floats = (base.astype(np.uint32) << 16).view(np.float32) + generator.normal(0, 3e-6, base.size).astype(np.float32)
    bits = floats.view(np.uint32)
    new = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    share = np.mean(base != new)
    assert 0.03 < share < 0.04
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share) + share  # of the flag, and of the sign
    payload, _ = _native.difference_encode(octets(base), octets(new), 2)
    assert len(payload) < 0.68 * entropy * base.size / 8


def test_altered_streams_are_refused_or_decoded_alike():
    generator = np.random.default_rng(4)
    base = weights(2, 1500, generator)
    refused = 0
    for new in (moved(base, 0.02, generator), moved(base, 0.5, generator), noise(2, 1500, generator)):
        good, _ = _native.difference_encode(octets(base), octets(new), 2)
        for _ in range(60):
            payload = bytearray(good)
            for _ in range(generator.integers(1, 3)):
                payload[generator.integers(0, min(len(payload), 60))] ^= 1 << generator.integers(0, 8)
            payload = bytes(payload[: len(payload) - generator.integers(0, 3)])
            try:
                expected = reference.changed(payload, 2, base.tobytes())
            except reference.MalformedError:
                refused += 1
                with pytest.raises(FormatError, match="chunk 0: difference stream: expected"):
                    decoded(payload, base, 2)
            else:
                assert decoded(payload, base, 2).tobytes() == expected
    assert refused > 100


def test_every_prefix_is_refused():
    generator = np.random.default_rng(5)
    base = weights(0, 600, generator)
    payload, _ = _native.difference_encode(octets(base), octets(moved(base, 0.2, generator)), 0)
    for size in range(1, len(payload)):
        with pytest.raises(FormatError, match="difference stream"):
            decoded(payload[:size], base, 0)


@pytest.mark.parametrize(
    ("base", "other", "code", "message"),
    [
        (bytes(4), bytes(6), 2, "bytes of the other network: expected 4, found 6"),
        (bytes(3), bytes(3), 2, "not whole elements"),
        (bytes(4), bytes(4), 21, "a dtype that no changed tensor has"),
        (bytes(4), bytes(4), 7, "a dtype that no changed tensor has"),
        (bytes(1 << 22), bytes(1 << 22), 16, "or more than a chunk has"),
    ],
)
def test_what_cannot_be_encoded(base, other, code, message):
    with pytest.raises(ValueError, match=message):
        _native.difference_encode(np.frombuffer(base, np.uint8), np.frombuffer(other, np.uint8), code)


def test_a_chunk_is_applied_to_its_elements_alone():
    base = weights(2, 10, np.random.default_rng(6))
    payload, _ = _native.difference_encode(octets(base), octets(base + 1), 2)
    reader = Reader(as_file(payload, base, 2), takes_differences=True)
    for wrong in (base[:9], np.concatenate([base, base])):
        with pytest.raises(FormatError, match="expected the elements of the base that a chunk changes, found another"):
            reader.apply_chunk(0, octets(wrong))
