"""The rANS coder: a decoder written from docs/format.md alone, the paths of decoding, and values."""

import numpy as np
import pytest
import torch

from metaq import _native
from metaq.coding import coders

rans = coders["rans"]


class Bits:
    def __init__(self, data):
        self.data, self.position = data, 0

    def get(self, width):
        value = 0
        for _ in range(width):
            value = value << 1 | self.data[self.position // 8] >> (7 - self.position % 8) & 1
            self.position += 1
        return value

    def golomb(self, k):
        t = k
        while self.get(1):
            t += 1
        return 2**t + self.get(t) - 2**k

    def signed(self, k):
        value = self.golomb(k)
        return value // 2 if value % 2 == 0 else -((value + 1) // 2)

    def end(self):
        """The first byte behind those that were read; the bits left in the last one are zeros."""
        assert self.get(-self.position % 8) == 0
        return self.position // 8


def read_table(bits, entries, precision):
    table, left, length = [0] * entries, 2**precision, 0
    for entry in range(entries - 1):
        if left == 0:
            break
        length += bits.signed(0)
        table[entry] = 2 ** (length - 1) + bits.get(length - 1) if length else 0
        left -= table[entry]
    table[-1] += left
    return table


def reference_decode(data, shapes):
    """The symbols of all blocks, as one list."""
    size = sum(np.prod(shape) for shape in shapes)
    bits = Bits(data)
    count, escape = bits.golomb(4), bits.get(1)
    listed = [bits.signed(3)] if count else []
    k = bits.get(4) if count > 1 else 0
    for _ in range(count - 1):
        listed.append(listed[-1] + 1 + bits.golomb(k))
    base, width = (bits.signed(3), bits.get(5) + 1) if escape else (0, 0)
    escapes = bits.golomb(8) if escape else 0
    precision = bits.get(5)
    contexts = 4 if bits.get(1) else 1
    center, thresholds = 0, []
    if contexts == 4:
        center = bits.golomb(4)
        for _ in range(3):
            thresholds.append((thresholds or [0])[-1] + 1 + bits.golomb(0))
    classes = 1 + bits.golomb(0)
    tables = [[read_table(bits, count + escape, precision) for _ in range(contexts)] for _ in range(classes)]
    lanes = 2 ** bits.get(3)
    class_of = [0] * size
    if classes > 1:
        unit, k, recent = 2 ** (4 + bits.get(4)), bits.get(1), list(range(classes))
        class_of = []
        for rows, channels, kernel in shapes:
            row = channels * kernel
            for first in range(0, rows, step := (unit + row - 1) // row):
                recent.insert(0, recent.pop(bits.golomb(k)))
                class_of += [recent[0]] * (min(step, rows - first) * row)
    start = bits.end()
    raw = Bits(data[start : start + (escapes * width + 7) // 8])
    start += len(raw.data)
    state = [2**16] * lanes
    if any(max(table) < 2**precision for group in tables for table in group):
        state = [int.from_bytes(data[start + 4 * lane : start + 4 * lane + 4], "little") for lane in range(lanes)]
        start += 4 * lanes

    symbols, context = [None] * size, [0] * lanes
    share, longer = divmod(size, lanes)
    for step in range(share + (longer > 0)):
        for lane in range(lanes if step < share else longer):
            place = lane * share + min(lane, longer) + step
            table = tables[class_of[place]][context[lane]]
            offset, entry = state[lane] % 2**precision, 0
            while offset >= table[entry]:
                offset -= table[entry]
                entry += 1
            state[lane] = table[entry] * (state[lane] >> precision) + offset
            if state[lane] < 2**16:
                state[lane] = 2**16 * state[lane] + int.from_bytes(data[start : start + 2], "little")
                start += 2
            symbols[place] = listed[entry] if entry < count else base + raw.get(width)
            distance = sum(abs(entry - center) >= threshold for threshold in thresholds)
            context[lane] = 0 if contexts == 1 else 3 if entry == count else distance
    assert state == [2**16] * lanes
    assert raw.end() == len(raw.data)
    assert not any(data[start:])
    assert start == len(data) or len(data) == -(-size // 2**19)
    return symbols


def laplace(shape, scale, seed=0):
    return np.round(np.random.default_rng(seed).laplace(scale=scale, size=shape)).astype(np.int32)


def bursts(shape, seed=0):
    """Neighbours of like magnitude."""
    generator = np.random.default_rng(seed)
    scale = np.repeat(generator.choice([0.3, 4.0], shape[0] * shape[1] // 10), 10).reshape(shape)
    return np.round(generator.laplace(scale=scale)).astype(np.int32)


SAMPLES = {
    "rows of different scales": [laplace((200, 100, 1), np.linspace(0.2, 9, 200)[:, None, None])],
    "contexts": [bursts((100, 800, 1))],
    "several blocks": [laplace((30, 10, 9), 1), laplace((5, 1, 1), 3), laplace((17, 40, 1), 40), laplace((7, 7, 1), 0)],
    "outliers": [np.where(np.arange(9000) % 100 == 3, np.arange(9000) * 7919, 1).astype(np.int32).reshape(90, 100, 1)],
    "distinct": [np.random.default_rng(1).permutation(5000).astype(np.int32).reshape(50, 100, 1) * 100003],
    "constant": [np.full((1000, 1100, 1), 3, np.int32)],
    "constant rows": [np.arange(64, dtype=np.int32).reshape(64, 1, 1).repeat(64, 1) % 3],
    "bytes": [np.random.default_rng(2).integers(-128, 128, (300, 100, 1), dtype=np.int32)],
    "wide": [laplace((100, 400, 1), 500)],
    "one": [np.full((1, 1, 1), -5, np.int32)],
}
every_sample = pytest.mark.parametrize("blocks", SAMPLES.values(), ids=SAMPLES.keys())


@every_sample
def test_the_document_says_how_to_decode(blocks):
    expected = np.concatenate([block.reshape(-1) for block in blocks])
    decoded = reference_decode(rans.encode(blocks), [block.shape for block in blocks])
    np.testing.assert_array_equal(decoded, expected)


@every_sample
@pytest.mark.parametrize("portable", [True, False])
def test_the_portable_path_gives_the_same(blocks, portable):
    outputs = [np.full(block.size, 123456789, np.int32) for block in blocks]
    shapes = [block.shape for block in blocks]
    _native.rans_decode_values(rans.encode(blocks), shapes, outputs, [(1.0, None, 0)] * len(blocks), portable=portable)
    for output, block in zip(outputs, blocks, strict=True):
        np.testing.assert_array_equal(output, block.reshape(-1))


def test_values_are_those_of_the_codebooks():
    blocks = [laplace((90, 100, 1), 2, seed) for seed in range(4)]
    levels = np.sort(np.random.default_rng(3).normal(size=101)).astype(np.float32)
    outputs = [np.empty(block.size, dtype) for block, dtype in zip(blocks, ("f4", "f4", "u2", "i1"), strict=True)]
    step = float(np.float32(0.037))
    codebooks = [(step, None, 0), (1.0, levels, 50), (step, None, 0), (1.0, None, 0)]
    _native.rans_decode_values(rans.encode(blocks), [block.shape for block in blocks], outputs, codebooks)
    flat = [block.reshape(-1) for block in blocks]
    np.testing.assert_array_equal(outputs[0], np.float32(step) * flat[0].astype(np.float32))
    np.testing.assert_array_equal(outputs[1], levels[flat[1] + 50])
    rounded = torch.from_numpy(np.float32(step) * flat[2].astype(np.float32)).to(torch.bfloat16)
    np.testing.assert_array_equal(outputs[2].view(np.int16), rounded.view(torch.int16).numpy())
    np.testing.assert_array_equal(outputs[3], flat[3])


def test_fills_a_part_of_an_array():
    block = laplace((10, 10, 1), 2)
    whole = np.full(300, -1, np.int32)
    _native.rans_decode_values(rans.encode([block]), [block.shape], [whole[100:200]], [(1.0, None, 0)])
    np.testing.assert_array_equal(whole[100:200], block.reshape(-1))
    assert (whole[:100] == -1).all()
    assert (whole[200:] == -1).all()


@pytest.mark.parametrize(
    ("output", "codebook", "message"),
    [
        (np.empty(99, np.int32), (1.0, None, 0), "elements"),
        (np.empty(100, np.float64), (1.0, None, 0), "output"),
        (np.empty(100, np.float32), (1.0, np.empty(0, np.float32), 0), "levels"),
        (np.empty(100, np.float32), (1.0, np.ones(3, np.float32), 1), "corrupt"),
    ],
    ids=["size", "dtype", "no levels", "too few levels"],
)
def test_refuses_outputs_that_do_not_fit(output, codebook, message):
    block = laplace((10, 10, 1), 3)
    with pytest.raises(ValueError, match=message):
        _native.rans_decode_values(rans.encode([block]), [block.shape], [output], [codebook])


def test_refuses_to_fill_copies():
    block = laplace((10, 10, 1), 2)
    for output in (np.empty(200, np.int32)[::2], np.frombuffer(bytes(400), np.int32)):
        with pytest.raises(TypeError):
            _native.rans_decode_values(rans.encode([block]), [block.shape], [output], [(1.0, None, 0)])


def test_scale_classes_beat_the_zero_order_entropy():
    block = SAMPLES["rows of different scales"][0]
    counts = np.unique(block, return_counts=True)[1]
    entropy_bytes = -(counts * np.log2(counts / block.size)).sum() / 8
    assert len(rans.encode([block])) < 0.97 * entropy_bytes


def test_a_small_block_costs_a_small_table_and_one_state():
    block = np.array([0, 0, 1, -1, 0, 0, 0, 1, 0, 0, -1, 0, 0, 0, 0, 0], np.int32).reshape(4, 4, 1)
    assert len(rans.encode([block])) <= 14
    assert len(rans.encode([np.zeros((4, 4, 1), np.int32)])) <= 3
