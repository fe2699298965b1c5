"""Trellis-coded quantization: rows are paths, the coder sees it, fewer bits at equal error, importance, bad input."""

import math

import numpy as np
import pytest
import torch

from metaq import coding
from metaq.codebook import UniformCodebook
from metaq.coding import base as coding_base
from metaq.errors import InputError
from metaq.format.sequence import block_shape
from metaq.quantizers import rdoq, trellis

UNIT = UniformCodebook(1.0)
MACHINES = {
    4: [(0, 1), (2, 3), (1, 0), (3, 2)],
    8: [(0, 2), (5, 7), (1, 3), (6, 4), (2, 0), (4, 6), (3, 1), (7, 5)],
}


def laplacian(*shape, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return scale * sign * torch.empty(shape).exponential_(generator=generator)


def is_path(symbols, states):
    for row in symbols.reshape(len(symbols), -1).tolist():
        state = 0
        for symbol in row:
            if symbol and symbol % 2 != state % 2:
                return False
            state = MACHINES[states][state][(abs(symbol) + 1) // 2 % 2]
    return True


def size_bits(symbols):
    blocks = [tensor.numpy().reshape(block_shape(tuple(tensor.shape))) for tensor in symbols.values()]
    data = coding.by_name("mixing").encode(blocks)
    decoded = coding.by_name("mixing").decode(data, [block.shape for block in blocks])
    assert all(np.array_equal(block, found) for block, found in zip(blocks, decoded, strict=True))
    return 8 * len(data)


@pytest.mark.parametrize("states", [4, 8])
@pytest.mark.parametrize("shape", [(50, 20), (12, 5, 3, 3), (300, 1), (7, 0), (64,)])
def test_rows_are_paths(states, shape):
    weights = {"w": laplacian(*shape, scale=3.0), "v": laplacian(9, 9, scale=0.3, seed=1)}
    symbols = trellis.quantize(weights, UNIT, states=states)
    for name, found in symbols.items():
        assert found.shape == weights[name].shape
        rows = found if len(shape) > 1 or name == "v" else found[:, None]
        assert found.dtype == torch.int32
        assert found.numel() == 0 or is_path(rows, states)
        assert found.numel() == 0 or float((found - weights[name]).abs().max()) < 4
    size_bits({name: found for name, found in symbols.items() if found.numel()})


@pytest.mark.parametrize(("step", "least_gain"), [(1.0, 0.12), (2.5, 0.07)])
def test_fewer_bits_than_one_by_one_at_equal_error(step, least_gain):
    """With half a step's square root of 3.2 for one by one, the errors are about the same."""
    weights = {"w": laplacian(256, 400, scale=3.0)}

    def error(symbols, step):
        return float((weights["w"] - step * symbols["w"]).square().mean())

    sizes = {}
    for states in (4, 8):
        symbols = trellis.quantize(weights, UniformCodebook(step), states=states)
        sizes[states] = size_bits(symbols) / 102400 + 0.5 * math.log2(error(symbols, step))
    symbols, bits = rdoq.quantize(weights, UniformCodebook(1.8 * step))
    one_by_one = bits / 102400 + 0.5 * math.log2(error(symbols, 1.8 * step))
    assert sizes[8] < sizes[4] - 0.005
    assert sizes[8] < one_by_one - least_gain


def test_chunks_do_not_matter_much(monkeypatch):
    weights = {f"{i}": laplacian(40, 50, seed=i, scale=1 + i) for i in range(4)}
    whole = trellis.quantize(weights, UNIT)
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", 700)
    parts = trellis.quantize(weights, UNIT)
    assert all(is_path(symbols, 8) for symbols in parts.values())
    assert size_bits(parts) == pytest.approx(size_bits(whole), rel=0.03)


def test_importance():
    weights = laplacian(60, 60)
    importance = torch.full((60, 60), 1e3)
    importance[30:] = 0
    chosen = trellis.quantize({"w": weights}, UNIT, 1.0, {"w": importance})["w"]
    unweighted = trellis.quantize({"w": weights}, UNIT, 1.0)["w"]
    assert int(chosen[30:].abs().sum()) == 0
    errors = [float((weights - found)[:30].square().mean()) for found in (chosen, unweighted)]
    assert errors[0] < 0.26 < errors[1]


def test_symbols_stay_within_a_dtype():
    weights = torch.full((20, 20), 60000.0, dtype=torch.float16)
    for step in (30000.0, 7000.0, 1000.0):
        symbols = trellis.quantize({"w": weights}, UniformCodebook(step))["w"]
        assert bool((symbols * step).half().isfinite().all())
        assert is_path(symbols, 8)


def test_huge_weights():
    weights = laplacian(20, 20, scale=1.0).clamp(-9, 9) * 1e7
    symbols = trellis.quantize({"w": weights}, UNIT)["w"]
    assert float((symbols - weights).abs().max()) <= 16
    assert is_path(symbols, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {"w": torch.tensor([[math.nan]])}}, "'w': weights: expected finite"),
        ({"weights": {"w": torch.tensor([[2.0**31]])}}, "'w': weights: expected less than"),
        ({"rate_weight": -1.0}, "rate weight: expected a finite number of at least 0, found -1"),
        ({"importance": {"w": torch.ones(2)}}, r"importance of 'w': expected shape \(2, 2\), found \(2,\)"),
        ({"states": 16}, "states: expected 4 or 8, found 16"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        trellis.quantize(**{"weights": {"w": torch.ones(2, 2)}, "codebook": UNIT, **arguments})
