"""Threads that take subnormal floats for zero, as applications set them for speed: files and weights are the same."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import metaq
import metaq.numpy
from metaq.codebook import TableCodebook, UniformCodebook
from metaq.compressed_model import encode
from metaq.floats import default_floats
from metaq.format.reader import Reader
from metaq.matrix_layout import MatrixLayout

SYMBOLS = (torch.arange(64 * 48, dtype=torch.int32) % 13 - 6).reshape(64, 48)
LEVELS = (-1.0, -1e-40, 0.0, 1e-45, 1e-40, 1e-38, 6e-8, 1e-7, 0.5, 1.0)
STEPS = [2.0**-149, 1e-40, 2.0**-127, 3e-39, 1e-7]
SCALED = MatrixLayout(1, np.arange(-64, 0, dtype=np.int8), np.arange(-48, 0, dtype=np.int8))
WEIGHTS = torch.tensor([0.0, 1e-40, -1e-40, 1e-45, 6e-8, 2e-38, 1.0], dtype=torch.float64)


@contextmanager
def flushing():
    if not torch.set_flush_denormal(True):
        pytest.skip("expected a processor that can take subnormal floats for zero, found another")
    try:
        assert torch.tensor(1e-40) * 1 == 0
        yield
    finally:
        torch.set_flush_denormal(False)


def models(dtype):
    for step in STEPS:
        yield metaq.CodedTensor(SYMBOLS, UniformCodebook(step), dtype)
    yield metaq.CodedTensor(SYMBOLS, UniformCodebook(1e-37), dtype, SCALED)  # the products are subnormal
    yield metaq.CodedTensor(SYMBOLS.abs(), TableCodebook(LEVELS, 2), dtype)


def bits(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("coder", ["mixing", "rans"])
def test_coded_tensors(dtype, coder):
    with flushing():
        quantized = [metaq.CompressedModel({"w": tensor}) for tensor in models(dtype)]
        files = [encode(model, coder) for model in quantized]
        values = [bits(model.decompress()["w"]) for model in quantized]
        decoded = [Reader(file).load()["w"].tobytes() for file in files]
        headers = [Reader(file).header for file in files]
    expected = [metaq.CompressedModel({"w": tensor}) for tensor in models(dtype)]
    assert files == [encode(model, coder) for model in expected]
    assert values == decoded == [bits(model.decompress()["w"]) for model in expected]
    assert headers == [Reader(file).header for file in files]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_lossless_files(dtype):
    weights = {"w": WEIGHTS[torch.arange(4000) % 7].to(dtype)}
    expected = encode(metaq.compress_losslessly(weights))
    with flushing():
        found = encode(metaq.compress_losslessly(weights))
        decoded = Reader(found).load()["w"]
    assert found == expected
    assert decoded.tobytes() == bits(weights["w"])


def test_weights_that_are_quantized():
    generator = torch.Generator().manual_seed(0)
    state = {"w": torch.randn(60, 70, generator=generator) * 1e-39}
    expected = encode(metaq.compress_state_dict(state, metaq.CompressionConfig(bits=4)))
    with flushing():
        assert encode(metaq.compress_state_dict(state, metaq.CompressionConfig(bits=4))) == expected


def test_a_thread_has_its_own_settings_again():
    with flushing():
        with default_floats():
            assert torch.tensor(1e-40) * 1 > 0
        assert torch.tensor(1e-40) * 1 == 0
        with pytest.raises(ValueError, match="within"), default_floats():
            raise ValueError("within")
        Reader(metaq.numpy.save({"w": np.ones(3, np.float32)})).load()
        assert torch.tensor(1e-40) * 1 == 0
    assert torch.tensor(1e-40) * 1 > 0
