"""Lossless compression: every bit survives, sizes are what entropy allows, and few values become a codebook."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import metaq
from metaq.codebook import TableCodebook
from metaq.compressed_model import CodedTensor, coder_for, encode
from metaq.errors import InputError
from metaq.format.reader import Reader
from metaq.quantizers.lossless import compress_losslessly
from metaq.tensors import CODED_FLOATS, DTYPES, load_tensors, octets_of

every_float = pytest.mark.parametrize("dtype", CODED_FLOATS, ids=str)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.02


def assert_exact(state, coder="rans"):
    """Bit by bit; returns what share of its size the state takes."""
    data = encode(compress_losslessly(state), coder)
    loaded = load_tensors(Reader(data))
    assert list(loaded) == list(state)
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert np.array_equal(octets_of(loaded[name]), octets_of(tensor))
    return len(data) / max(1, sum(tensor.numel() * tensor.dtype.itemsize for tensor in state.values()))


def kind(tensor):
    return type(compress_losslessly({"a": tensor}).tensors["a"])


@st.composite
def tensors(draw):
    """Any bits of any dtype, of few or many values, of few or many elements."""
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    shape = draw(st.one_of(st.lists(st.integers(0, 6), max_size=4), st.just([40, 50])))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randint(0, 256, (draw(st.sampled_from([1, 3, 40, 5000])) * dtype.itemsize,), generator=generator)
    octets = values.to(torch.uint8)
    pool = (octets.bitwise_and(1) if dtype == torch.bool else octets).view(dtype)
    chosen = torch.randint(0, len(pool), (math.prod(shape),), generator=generator)
    return pool.view(planes_of(dtype))[chosen].view(dtype).reshape(shape)


def planes_of(dtype):
    """An integer dtype of the same width, which can be indexed."""
    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]


@settings(deadline=None, max_examples=60)
@given(state=st.dictionaries(st.text("ab.", max_size=3), tensors(), min_size=1, max_size=4))
def test_every_bit_survives(state):
    assert_exact(state)


@every_float
def test_special_values_survive(dtype):
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, 2.0**-149, -(2.0**-130), 2.0**-1074, 65504.0, 1 / 3]
    values = torch.tensor(special, dtype=torch.float64).to(dtype)
    octets = octets_of(values).copy()
    octets[4 * dtype.itemsize] ^= 3  # a NaN with a payload
    values = torch.from_numpy(octets).view(dtype)
    assert_exact({"few": values, "often": values.repeat(500), "scalar": values[4], "none": values[:0]})


@every_float
def test_few_values_become_a_codebook(dtype):
    levels = torch.tensor([-1.5, -(2.0**-20), 2.0**-24, 0.25, 0.5, 3.0]).to(dtype)
    tensor = levels[torch.randint(0, 6, (100, 100), generator=torch.Generator().manual_seed(0))]
    coded = compress_losslessly({"a": tensor}).tensors["a"]
    assert isinstance(coded, CodedTensor)
    assert isinstance(coded.codebook, TableCodebook)
    assert coded.codebook.levels == tuple(levels.tolist())
    assert coded.codebook.origin == 2
    assert assert_exact({"a": tensor}) < 1.1 * math.log2(6) / (8 * dtype.itemsize) + 0.02


@every_float
def test_one_sign_of_zero_is_a_level_and_both_are_not(dtype):
    ones = torch.tensor([0.0, 1.0, -1.0], dtype=dtype).repeat(1000)
    assert kind(ones) is CodedTensor
    assert kind(-ones) is CodedTensor
    assert kind(torch.cat([ones, -ones])) is torch.Tensor
    for special in (math.inf, math.nan):
        assert kind(torch.cat([ones, torch.tensor([special], dtype=dtype)])) is torch.Tensor
    assert_exact({"a": -ones, "b": torch.cat([ones, -ones])})


def test_values_that_are_no_float32_are_kept():
    assert kind(torch.tensor([1 / 3, 2 / 3], dtype=torch.float64).repeat(1000)) is torch.Tensor
    assert kind(torch.tensor([0.25, 1e-310], dtype=torch.float64).repeat(1000)) is torch.Tensor


def test_a_codebook_must_pay():
    assert kind(normal(30, 40)) is torch.Tensor
    assert kind(normal(1000, 100).to(torch.bfloat16)) is torch.Tensor
    assert kind(torch.arange(5000.0).repeat(4)) is torch.Tensor  # too many
    assert kind(torch.zeros(1)) is torch.Tensor


@pytest.mark.parametrize(
    ("dtype", "share"),
    [(torch.bfloat16, 0.665), (torch.float16, 0.85), (torch.float32, 0.835), (torch.float8_e4m3fn, 0.83)],
    ids=str,
)
def test_sizes_of_weights(dtype, share):
    """Near the entropy of a normal distribution's exponents; the mantissas are noise."""
    weights = normal(1000, 1000)
    weights = weights * 1000 if dtype.itemsize == 1 else weights
    assert assert_exact({"weight": weights.to(dtype)}) < share


@pytest.mark.parametrize(("rows", "coder"), [(1000, "mixing"), (1100, "rans")])
def test_large_models_are_written_by_the_coder_that_decodes_fast(rows, coder):
    assert coder_for(compress_losslessly({"weight": normal(rows, 1000)})) == coder


def test_it_is_public_and_refuses_what_no_file_can_hold(tmp_path):
    model = metaq.compress_losslessly({"a": normal(5, 5)})
    metaq.save(model, tmp_path / "a.mtq", coder="rans")
    assert torch.equal(metaq.load_file(tmp_path / "a.mtq")["a"], normal(5, 5))
    with pytest.raises(InputError, match="tensor 'a'"):
        compress_losslessly({"a": torch.zeros(2, dtype=torch.complex64)})
    with pytest.raises(InputError, match="at least one tensor"):
        compress_losslessly({})
