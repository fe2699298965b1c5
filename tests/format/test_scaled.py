"""Tensors that are seen as matrices: what is written is read, whole and in parts, whichever way it is scanned."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq import coding
from metaq.codebook import UniformCodebook
from metaq.coding import base as coding_base
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, encode, read_model
from metaq.format.reader import Reader
from metaq.matrix_layout import MatrixLayout
from metaq.metrics import digest
from metaq.tensors import CODED_FLOATS, load_tensors, new_tensor, octets_of

STEPS = (2.0**-149, 2.0**-26, 1 / 3, 1.0, 60000.0, 2.0**111)


@st.composite
def layouts(draw, shape):
    leading = draw(st.integers(1, len(shape) - 1))
    by_columns = draw(st.booleans())
    rows, columns = math.prod(shape[:leading]), math.prod(shape[leading:])
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    spread = draw(st.sampled_from([0, 10, 128]))
    logs = [
        generator.integers(-spread, spread, count, endpoint=spread < 128) if spread else np.zeros(count, int)
        for count in (rows, columns)
    ]
    has_rows, has_columns = draw(
        st.sampled_from([(0, 0), (0, 1), (1, 0), (1, 1)] if by_columns else [(0, 1), (1, 0), (1, 1)])
    )
    return MatrixLayout(leading, logs[0] if has_rows else None, logs[1] if has_columns else None, by_columns)


@st.composite
def scaled_tensors(draw):
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=5)))
    spread = draw(st.sampled_from([0.5, 3.0, 1e3, 1e8]))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    symbols = np.rint(generator.laplace(0, spread, shape)).clip(1 - 2**30, 2**30 - 1).astype(np.int32)
    step, dtype = UniformCodebook(draw(st.sampled_from(STEPS))), draw(st.sampled_from(CODED_FLOATS))
    return CodedTensor(torch.from_numpy(symbols), step, dtype, draw(layouts(shape)))


def expected_values(entry):
    """By NumPy, as docs/format.md has it."""
    symbols, matrix = entry.symbols.numpy(), entry.matrix
    values = symbols.reshape(matrix.rows(symbols.shape), -1).astype(np.float32)
    tables = [
        None if logs is None else np.float32(2) ** (logs.astype(np.float64) / 8)
        for logs in (matrix.row_logs, matrix.column_logs)
    ]
    rows, columns = (None if table is None else table.astype(np.float32) for table in tables)
    with np.errstate(over="ignore", under="ignore"):
        steps = np.float32(entry.codebook.step) * (np.ones(1, np.float32) if rows is None else rows)
        values = values * steps[:, None]
        values = values if columns is None else values * columns
    return torch.from_numpy(values.reshape(symbols.shape)).to(entry.dtype)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(scaled_tensors(), min_size=1, max_size=3),
    st.sampled_from(list(coding.coders)),
    st.sampled_from([30, 1 << 22]),
)
def test_round_trips(entries, coder, chunk_symbols):
    tensors = {}
    for index, entry in enumerate(entries):
        tensors[f"scaled {index}"] = entry
        tensors[f"plain {index}"] = CodedTensor(entry.symbols, entry.codebook, entry.dtype)
        tensors[f"alias {index}"] = Alias(f"scaled {index}")
        tensors[f"kept {index}"] = torch.arange(7.0)
    model = CompressedModel(tensors, {"note": "x"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coding_base, "CHUNK_SYMBOLS", chunk_symbols)
        data = encode(model, coder)
    reader = Reader(data)
    decoded = load_tensors(reader)
    assert digest(decoded) == digest(model.decompress())
    for index, entry in enumerate(entries):
        assert octets_of(decoded[f"scaled {index}"]).tobytes() == octets_of(expected_values(entry)).tobytes()
        assert decoded[f"alias {index}"] is decoded[f"scaled {index}"]
    again = read_model(reader)
    for name, tensor in tensors.items():
        if isinstance(tensor, CodedTensor):
            assert torch.equal(again.tensors[name].symbols, tensor.symbols)
            assert (again.tensors[name].codebook, again.tensors[name].matrix) == (tensor.codebook, tensor.matrix)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coding_base, "CHUNK_SYMBOLS", chunk_symbols)
        assert encode(again, coder) == data


@settings(max_examples=100, deadline=None)
@given(scaled_tensors(), st.data())
def test_parts_are_parts_of_the_whole(entry, data):
    model = CompressedModel({"before": torch.arange(5.0), "w": entry, "alias": Alias("w")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coding_base, "CHUNK_SYMBOLS", 40)
        reader = Reader(encode(model, data.draw(st.sampled_from(["rans", "adaptive", "stored"]))), cache_bytes=300)
    whole = load_tensors(reader)["w"]
    for _ in range(4):
        first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
        part = reader.tensor(data.draw(st.sampled_from(["w", "alias"])), slice(first, last), new_tensor)
        assert octets_of(part).tobytes() == octets_of(whole[first:last]).tobytes()
        first, last = sorted(data.draw(st.tuples(*[st.integers(0, whole.numel())] * 2)))
        part = reader.elements({1: range(first, last)}, new_tensor)[1]
        assert octets_of(part).tobytes() == octets_of(whole.reshape(-1)[first:last]).tobytes()
