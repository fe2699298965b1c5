"""Byte planes: where every bit goes, and back."""

import numpy as np
import pytest
import torch

from metaq.compressed_model import CompressedModel, encode
from metaq.format import planes
from metaq.format.reader import Reader
from metaq.tensors import DTYPES, load_tensors, new_tensor, octets_of, words_of

# Integers that fit are coded as symbols, and bools are always.
every_dtype = pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES.values() if dtype != torch.bool], ids=str)


def split_of(tensor):
    return planes.split(words_of(tensor), tensor.dtype.is_floating_point)


def file_of(tensor):
    return Reader(encode(CompressedModel({"a": tensor}), "stored"))


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def any_bits(dtype, count):
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8, generator=generator).view(dtype)


@every_dtype
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7, 5), (2, 3, 4, 5)], ids=str)
def test_round_trip_of_any_bits(dtype, shape):
    tensor = any_bits(dtype, int(np.prod(shape, dtype=int))).reshape(shape)
    split = split_of(tensor)
    assert split.dtype == np.int8
    assert split.shape == (dtype.itemsize, tensor.numel())
    back = load_tensors(file_of(tensor))["a"]
    assert back.dtype == dtype
    assert back.shape == tensor.shape
    assert torch.equal(bits(back), bits(tensor))


@every_dtype
def test_any_size(dtype):
    """Around the widths of vector registers."""
    tensor = any_bits(dtype, 300)
    file = file_of(tensor)
    for count in range(1, 140):
        part = file.tensor("a", slice(7, 7 + count), new_tensor)
        assert torch.equal(bits(part), bits(tensor[7 : 7 + count]))


def test_the_sign_goes_below_the_mantissa():
    # 0xC0490FDB, rotated left by one bit, is 0x80921FB7.
    expected = [[0x80], [0x92], [0x1F], [0xB7]]
    split = split_of(torch.tensor([-3.14159274101257324]))
    assert (split.astype(int) + 128).tolist() == expected


def test_integers_are_not_rotated():
    split = split_of(torch.tensor([-(2**63) + 258], dtype=torch.int64))
    assert (split.astype(int) + 128).ravel().tolist() == [0x80, 0, 0, 0, 0, 0, 1, 2]


@pytest.mark.parametrize(
    "view",
    [lambda t: t.T, lambda t: t[::2, 1::3], lambda t: t[0].expand(4, -1), lambda t: t.requires_grad_(), lambda t: -t],
    ids=["transposed", "strided", "expanded", "with a gradient", "negative"],
)
def test_views(view):
    tensor = view(torch.arange(24, dtype=torch.float64).reshape(4, 6) + 0.1)
    assert torch.equal(load_tensors(file_of(tensor))["a"], tensor)


def test_lazily_negated_views():
    lazy = torch.complex(torch.ones(5), torch.arange(5.0)).conj().imag
    assert lazy.is_neg()
    assert torch.equal(load_tensors(file_of(lazy))["a"], -torch.arange(5.0))


@pytest.mark.parametrize("view", [torch.ones(3)[::3], torch.ones(3)[:0:2], torch.ones(4, 4)[::4, ::4]], ids=str)
def test_views_of_one_element_or_none_whatever_their_stride(view):
    assert octets_of(view).tobytes() == view.numpy().tobytes()
    assert torch.equal(load_tensors(file_of(view))["a"], view)
