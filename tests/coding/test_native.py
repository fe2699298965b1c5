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


@pytest.mark.parametrize("shape", [(-1, 2, 3), (2**40, 2**40, 1), (0, 2**62, 2**62), (2**62, 1, 1)])
def test_refuses_shapes_without_a_size(shape):
    with pytest.raises(ValueError, match="shape"):
        _native.huffman_decode(b"", [shape])


def test_says_how_a_stream_is_bad():
    data = _native.huffman_encode([np.arange(100, dtype=np.int32).reshape(10, 10, 1)])
    with pytest.raises(ValueError, match=r"^truncated$"):
        _native.huffman_decode(data[:-1], [(10, 10, 1)])
    with pytest.raises(ValueError, match=r"^corrupt$"):
        _native.huffman_decode(data + b"\0", [(10, 10, 1)])


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
        np.testing.assert_array_equal(_native.range_decode(form, [block.shape])[0], block)


def test_an_array_outlives_its_list():
    block = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    array = _native.range_decode(_native.range_encode([block]), [block.shape] * 1)[0]
    np.testing.assert_array_equal(array, block)


def test_works_from_several_threads():
    blocks = [np.random.default_rng(seed).integers(-4, 5, (200, 100, 1), dtype=np.int32) for seed in range(8)]
    results = {}

    def work(index):
        data = _native.range_encode([blocks[index]])
        results[index] = _native.range_decode(data, [blocks[index].shape])[0]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(blocks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, block in enumerate(blocks):
        np.testing.assert_array_equal(results[index], block)
