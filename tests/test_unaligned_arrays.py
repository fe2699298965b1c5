"""Arrays and tensors whose elements do not lie at multiples of their width, as NumPy and torch make them of buffers.

Native code refuses them (`native/test_strange_calls.py`); whoever calls metaq gets what a copy would give.
"""

import numpy as np
import pytest
import torch

import metaq
import metaq.numpy
from metaq import coding
from metaq.codebook import UniformCodebook
from metaq.compressed_model import coder_for, encode
from metaq.solvers import knapsack


def unaligned(tensor):
    moved = torch.frombuffer(bytearray(tensor.nbytes + 1), dtype=tensor.dtype, offset=1).reshape(tensor.shape)
    assert moved.data_ptr() % tensor.itemsize
    return moved.copy_(tensor.detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int32], ids=str)
def test_arrays_are_written(dtype):
    tensor = torch.arange(600).reshape(20, 30).remainder(7).to(dtype)
    saved = metaq.numpy.save({"w": unaligned(tensor).numpy()})
    assert saved == metaq.numpy.save({"w": tensor.numpy()})
    base = {"w": np.zeros_like(tensor.numpy())}
    assert metaq.numpy.delta(base, {"w": unaligned(tensor).numpy()}) == metaq.numpy.delta(base, {"w": tensor.numpy()})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_tensors_are_compressed_losslessly(dtype):
    tensor = torch.arange(2400).reshape(40, 60).remainder(7).to(dtype)
    found = encode(metaq.compress_losslessly({"w": unaligned(tensor)}))
    assert found == encode(metaq.compress_losslessly({"w": tensor}))


@pytest.mark.parametrize("coder", ["mixing", "rans"])
def test_symbols_are_encoded(coder):
    symbols = torch.arange(600, dtype=torch.int32).reshape(20, 30).remainder(7)
    block = unaligned(symbols).numpy().reshape(20, 30, 1)
    assert coding.by_name(coder).encode([block]) == coding.by_name(coder).encode([block.copy()])
    models = [
        metaq.CompressedModel({"w": metaq.CodedTensor(one, UniformCodebook(0.5), torch.float32)}, coder="mixing")
        for one in (unaligned(symbols), symbols)
    ]
    assert encode(models[0], coder_for(models[0], coder)) == encode(models[1], coder)


def test_knapsacks_are_solved():
    levels = torch.linspace(-2, 2, 9, dtype=torch.float64)
    weights = torch.linspace(-3, 3, 50)
    found = knapsack.solve(unaligned(levels**2), unaligned(levels), unaligned(weights))
    expected = knapsack.solve(levels**2, levels, weights)
    assert torch.equal(found.value, expected.value)
    assert torch.equal(found.left, expected.left)


@pytest.mark.parametrize("method", [metaq.METaQ, metaq.HEMP], ids=["METaQ", "HEMP"])
def test_parameters_are_trained(method):
    torch.manual_seed(0)
    model = torch.nn.Linear(16, 8)
    for parameter in model.parameters():
        parameter.data = unaligned(parameter.data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    compressor = metaq.Compressor(model, method(), optimizer, training_steps=4)
    for inputs in torch.randn(4, 32, 16):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        compressor.regularize()
        optimizer.step()
    assert set(compressor.compress().tensors) == {"weight", "bias"}
