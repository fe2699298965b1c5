"""What holds for every coder in the registry, and for the one that docs/adding_a_coder.md shows."""

import re
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.coding import SYMBOL_LIMIT, SYMBOLS_PER_BYTE, coders
from metaq.errors import FormatError, InputError

DOCUMENT = Path(__file__).parents[2] / "docs" / "adding_a_coder.md"


def documented_coder():
    """The document's example, run as it stands there."""
    (source,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names = {}
    exec(compile(source, str(DOCUMENT), "exec"), names)
    return names["Packed"]()


EVERY_CODER = {**coders, "documented": documented_coder()}
every_coder = pytest.mark.parametrize("coder", EVERY_CODER.values(), ids=EVERY_CODER.keys())
EXTREME = SYMBOL_LIMIT - 1


@st.composite
def blocks(draw, max_side=12):
    """One block: any shape with sides down to zero, and symbols of one of the kinds that coders treat differently."""
    shape = draw(st.tuples(*[st.integers(0, max_side)] * 3))
    seed = draw(st.integers(0, 2**32 - 1))
    kind = draw(st.sampled_from(["constant", "skewed", "distinct", "extreme", "wide", "outliers"]))
    return symbols(kind, shape, np.random.default_rng(seed))


def symbols(kind, shape, generator):
    """An int32 array of that shape, of that kind."""
    size = prod(shape)
    skewed = generator.geometric(0.4, size) * generator.choice([-1, 1], size)
    flat = {
        "constant": lambda: np.full(size, generator.integers(-300, 300)),
        "skewed": lambda: skewed,
        "distinct": lambda: generator.permutation(size) * 1009 - 1000,
        "extreme": lambda: generator.choice([-EXTREME, 0, EXTREME], size),
        "wide": lambda: generator.integers(-EXTREME, EXTREME, size, endpoint=True),
        "outliers": lambda: np.where(
            generator.random(size) < 0.02, generator.integers(-EXTREME, EXTREME, size), skewed
        ),
    }[kind]()
    return flat.astype(np.int32).reshape(shape)


def lists_of_blocks():
    return st.lists(blocks(), max_size=4)


def shapes_of(arrays):
    return [array.shape for array in arrays]


def assert_round_trip(coder, blocks):
    data = coder.encode(blocks)
    decoded = coder.decode(data, shapes_of(blocks))
    assert len(decoded) == len(blocks)
    for result, block in zip(decoded, blocks, strict=True):
        assert result.dtype == np.int32
        assert result.flags.writeable
        np.testing.assert_array_equal(result, block, strict=True)
    return data


@every_coder
@given(blocks=lists_of_blocks())
@settings(deadline=None, max_examples=40)
def test_round_trip(coder, blocks):
    data = assert_round_trip(coder, blocks)
    assert coder.encode(blocks) == data
    assert sum(block.size for block in blocks) <= SYMBOLS_PER_BYTE * len(data)


@every_coder
@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [np.zeros((0, 0, 0), np.int32)],
        [np.zeros((3, 0, 2), np.int32), np.zeros((1, 1, 1), np.int32)],
        [np.full((1, 1, 1), EXTREME, np.int32)],
        [np.full((1, 1, 1), -EXTREME, np.int32)],
        [np.full((30, 20, 9), -4, np.int32)],
        [np.arange(-5000, 5000, dtype=np.int32).reshape(100, 100, 1)],
    ],
    ids=["none", "empty", "empty then one", "largest", "least", "one symbol", "all distinct"],
)
def test_edges(coder, blocks):
    assert_round_trip(coder, blocks)


@every_coder
def test_long_constant_blocks_are_small_but_within_the_limit(coder):
    blocks = [np.full((1000, 1500, 1), 5, np.int32), np.zeros((700, 800, 1), np.int32)]
    data = assert_round_trip(coder, blocks)
    assert sum(block.size for block in blocks) <= SYMBOLS_PER_BYTE * len(data)
    assert len(data) < 2100 or coder.name in ("stored", "gzip", "packed")


@every_coder
def test_takes_views_and_memoryviews(coder):
    block = symbols("skewed", (8, 6, 4), np.random.default_rng(1))
    view = block[::2, ::-1]
    data = coder.encode([view])
    np.testing.assert_array_equal(coder.decode(memoryview(data), [view.shape])[0], view)


@every_coder
@pytest.mark.parametrize(
    "block",
    [
        np.zeros((2, 2, 2), np.int64),
        np.zeros((2, 2), np.int32),
        np.full((1, 1, 1), SYMBOL_LIMIT, np.int32),
        np.full((1, 1, 1), -SYMBOL_LIMIT, np.int32),
    ],
    ids=["dtype", "dimension", "too large", "too small"],
)
def test_refuses_what_is_no_block(coder, block):
    with pytest.raises(InputError, match="block 0: expected"):
        coder.encode([block])


@every_coder
@given(blocks=lists_of_blocks(), data=st.data())
@settings(deadline=None, max_examples=40)
def test_damaged_streams_never_crash(coder, blocks, data):
    stream = bytearray(coder.encode(blocks))
    if data.draw(st.booleans(), label="cut"):
        del stream[data.draw(st.integers(0, len(stream)), label="length") :]
    for _ in range(data.draw(st.integers(0, 3), label="flips") if stream else 0):
        stream[data.draw(st.integers(0, len(stream) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert_raises_or_returns(coder, bytes(stream), shapes_of(blocks))


@every_coder
@given(stream=st.binary(max_size=60), shapes=st.lists(st.tuples(*[st.integers(0, 20)] * 3), max_size=3))
@settings(deadline=None, max_examples=60)
def test_random_streams_never_crash(coder, stream, shapes):
    assert_raises_or_returns(coder, stream, shapes)


def assert_raises_or_returns(coder, stream, shapes):
    try:
        decoded = coder.decode(stream, shapes)
    except FormatError:
        return
    assert shapes_of(decoded) == shapes
    assert all(np.abs(block).max(initial=0) < SYMBOL_LIMIT for block in decoded)


@every_coder
@given(blocks=lists_of_blocks(), extra=st.binary(min_size=1, max_size=3))
@settings(deadline=None, max_examples=20)
def test_refuses_bytes_left_over(coder, blocks, extra):
    with pytest.raises(FormatError):
        coder.decode(coder.encode(blocks) + bytes(len(extra)), shapes_of(blocks))
    try:
        decoded = coder.decode(coder.encode(blocks) + extra, shapes_of(blocks))
    except FormatError:
        return
    # Arithmetic codes that are longer by bytes other than zero may be those of other symbols.
    assert coder.name in ("mixing", "range")
    assert not all(map(np.array_equal, decoded, blocks))


@every_coder
def test_refuses_shapes_that_the_bytes_cannot_hold(coder):
    with pytest.raises(FormatError, match="expected"):
        coder.decode(coder.encode([np.zeros((1, 1, 1), np.int32)]), [(1 << 40, 1 << 40, 1)])


@every_coder
def test_refuses_another_number_of_symbols(coder):
    block = symbols("skewed", (50, 20, 1), np.random.default_rng(2))
    data = coder.encode([block])
    with pytest.raises(FormatError):
        coder.decode(data, [(49, 20, 1)])
    with pytest.raises(FormatError):
        coder.decode(data, [(51, 20, 1)])
