"""The module below the coders: what it checks by itself."""

import threading

import numpy as np
import pytest

from metaq import _native


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2, 2), np.int64), np.zeros((2, 2), np.int32), np.zeros((2, 2, 4), np.int32)[..., ::2]]
)
def test_takes_only_contiguous_int32_of_three_dimensions(array):
    with pytest.raises(TypeError):
        _native.range_encode([array])


def test_fills_only_contiguous_writable_int32_of_three_dimensions():
    data = _native.range_encode([np.zeros((2, 2, 2), np.int32)])
    read_only = np.zeros((2, 2, 2), np.int32)
    read_only.flags.writeable = False
    for array in (np.zeros((2, 2, 2), np.int64), np.zeros((4, 2), np.int32), read_only):
        with pytest.raises(TypeError):
            _native.range_decode(data, [array])


def test_says_how_a_stream_is_bad():
    filled = np.arange(100, dtype=np.int32).reshape(10, 10, 1)
    data = _native.huffman_encode([filled])
    with pytest.raises(ValueError, match=r"^truncated$"):
        _native.huffman_decode(data[:-1], [filled])
    with pytest.raises(ValueError, match=r"^corrupt$"):
        _native.huffman_decode(data + b"\0", [filled])


def test_text_round_trip():
    for text in (b"", b"\0", b"features.0.weight" * 20, bytes(range(256))):
        assert _native.text_decode(_native.text_encode(text), len(text)) == text


@pytest.mark.parametrize("byte", [0, 255, ord("a")])
def test_no_text_is_longer_than_headers_may_be(byte):
    for size in (1, 10, 100, 1000, 10_000, 100_000, 1_000_000):
        text = bytes([0]) + bytes([byte]) * size
        assert len(text) < 2841 * (len(_native.text_encode(text)) + 8)


def test_decodes_from_anything_of_bytes():
    block = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    data = _native.range_encode([block])
    for form in (data, bytearray(data), memoryview(data), memoryview(b"xx" + data)[2:], np.frombuffer(data, np.uint8)):
        filled = np.empty_like(block)
        _native.range_decode(form, [filled])
        np.testing.assert_array_equal(filled, block)


def test_works_from_several_threads():
    blocks = [np.random.default_rng(seed).integers(-4, 5, (200, 100, 1), dtype=np.int32) for seed in range(8)]
    results = {}

    def work(index):
        data = _native.range_encode([blocks[index]])
        results[index] = np.empty_like(blocks[index])
        _native.range_decode(data, [results[index]])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(blocks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, block in enumerate(blocks):
        np.testing.assert_array_equal(results[index], block)
