"""Byte planes: where every bit goes, and back."""

import numpy as np
import pytest
import torch

from metaq.format import planes
from metaq.format.header import DTYPES

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)


def joined(split, dtype, shape, cuts=None):
    """What a reader does: each plane in parts of its own, elements in pieces."""
    count = split.shape[1]
    parts = []
    for plane in split:
        starts = [0, *sorted(np.random.default_rng(len(parts)).integers(1, count, cuts))] if cuts and count > 1 else [0]
        starts = sorted(set(map(int, starts)))
        parts.append([(start, plane[start:end]) for start, end in zip(starts, [*starts[1:], count], strict=True)])
    flat = torch.full((count * dtype.itemsize,), 99, dtype=torch.uint8).view(dtype)
    for first in range(0, count, 7 if cuts else max(1, count)):
        last = min(first + 7, count) if cuts else count
        planes.join(parts, range(first, last), flat[first:last])
    return flat.reshape(shape)


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def any_bits(dtype, count):
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8, generator=generator).view(dtype)


@every_dtype
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7, 5), (2, 3, 4, 5)], ids=str)
def test_round_trip_of_any_bits(dtype, shape):
    tensor = any_bits(dtype, int(np.prod(shape, dtype=int))).reshape(shape)
    if dtype == torch.bool:
        tensor = tensor.view(torch.uint8).bitwise_and(1).bool()
    split = planes.split(tensor)
    assert split.dtype == np.int8
    assert split.shape == (dtype.itemsize, tensor.numel())
    back = joined(split, dtype, shape, cuts=3)
    assert back.dtype == dtype
    assert back.shape == tensor.shape
    assert torch.equal(bits(back), bits(tensor))


@every_dtype
def test_any_size(dtype):
    """Around the widths of vector registers."""
    for count in range(1, 140):
        octets = any_bits(torch.uint8, count * dtype.itemsize)
        tensor = octets.bitwise_and(1).view(dtype) if dtype == torch.bool else octets.view(dtype)
        assert torch.equal(bits(joined(planes.split(tensor), dtype, tensor.shape)), bits(tensor))


def test_the_sign_goes_below_the_mantissa():
    # 0xC0490FDB, rotated left by one bit, is 0x80921FB7.
    expected = [[0x80], [0x92], [0x1F], [0xB7]]
    split = planes.split(torch.tensor([-3.14159274101257324]))
    assert (split.astype(int) + 128).tolist() == expected


def test_integers_are_not_rotated():
    split = planes.split(torch.tensor([-(2**63) + 258], dtype=torch.int64))
    assert (split.astype(int) + 128).ravel().tolist() == [0x80, 0, 0, 0, 0, 0, 1, 2]


@pytest.mark.parametrize(
    "view",
    [lambda t: t.T, lambda t: t[::2, 1::3], lambda t: t[0].expand(4, -1), lambda t: t.requires_grad_(), lambda t: -t],
    ids=["transposed", "strided", "expanded", "with a gradient", "negative"],
)
def test_views(view):
    tensor = view(torch.arange(24, dtype=torch.float64).reshape(4, 6) + 0.1)
    assert torch.equal(joined(planes.split(tensor), torch.float64, tensor.shape), tensor)


def test_lazily_negated_views():
    lazy = torch.complex(torch.ones(5), torch.arange(5.0)).conj().imag
    assert lazy.is_neg()
    assert torch.equal(joined(planes.split(lazy), torch.float32, (5,)), -torch.arange(5.0))


@pytest.mark.parametrize("view", [torch.ones(3)[::3], torch.ones(3)[:0:2], torch.ones(4, 4)[::4, ::4]], ids=str)
def test_views_of_one_element_or_none_whatever_their_stride(view):
    assert planes.octets_of(view).tobytes() == view.numpy().tobytes()
    assert torch.equal(joined(planes.split(view), torch.float32, view.shape), view)
