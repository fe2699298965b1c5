"""Tensors that are seen as matrices: what is written is read, whole and in parts, whichever way it is scanned."""

import math

import numpy as np
import pytest
import reference_decoder as reference
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import metaq
import metaq.numpy
from metaq import coding
from metaq.checkpoints.decompression import decompress_path
from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.coding import base as coding_base
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, coder_for, encode, read_model
from metaq.errors import InputError
from metaq.format.reader import Reader
from metaq.matrix_layout import MatrixLayout
from metaq.metrics import digest
from metaq.report.contents import inspect
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


@settings(max_examples=40, deadline=None)
@given(scaled_tensors(), st.sampled_from(["rans", "stored"]))
def test_the_reference_decoder_agrees(entry, coder):
    data = encode(CompressedModel({"w": entry, "alias": Alias("w")}), coder)
    assert reference.decode(data)["alias"][2] == octets_of(load_tensors(Reader(data))["w"]).tobytes()


SYMBOLS = torch.arange(-15, 15, dtype=torch.int32).reshape(5, 6)
STEP = UniformCodebook(0.5)
BY_COLUMNS = MatrixLayout(by_columns=True)


@pytest.mark.parametrize(
    ("codebook", "layout", "message"),
    [
        (TableCodebook(tuple(map(float, range(-15, 15))), 15), BY_COLUMNS, "a UniformCodebook, found a TableCodebook"),
        (STEP, MatrixLayout(), "scales or a scan by columns"),
        (STEP, MatrixLayout(1, np.zeros(6, int)), "5 row scales, found 6"),
        (UniformCodebook(3e38), MatrixLayout(1, np.full(5, 8)), "finite steps of rows"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(codebook, layout, message):
    entry = CodedTensor(SYMBOLS, codebook, torch.float32, layout)
    with pytest.raises(InputError, match=f"tensor 'w': matrix layout: expected .*{message}"):
        encode(CompressedModel({"w": entry}))
    with pytest.raises(InputError, match=message):
        entry.decompress()


def test_integers_are_not_scaled():
    entry = CodedTensor(SYMBOLS, IntegerCodebook(), torch.int32, BY_COLUMNS)
    with pytest.raises(InputError, match="found a IntegerCodebook"):
        encode(CompressedModel({"w": entry}))


def test_long_columns_are_rows_of_one_symbol(monkeypatch):
    """More rows than a block may have channels; chunks that begin and end within a column."""
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", 1_000_003)
    rows = (1 << 20) + 5
    symbols = (torch.arange(3 * rows, dtype=torch.int32) * 7 % 11 - 5).reshape(rows, 3)
    generator = np.random.default_rng(0)
    layout = MatrixLayout(1, generator.integers(-9, 9, rows), generator.integers(-9, 9, 3), by_columns=True)
    entry = CodedTensor(symbols, STEP, torch.float16, layout)
    reader = Reader(encode(CompressedModel({"w": entry}), "rans"))
    assert reader.chunk_runs()[0][0].shape == (1_000_003, 1, 1)
    whole = load_tensors(reader)["w"]
    assert octets_of(whole).tobytes() == octets_of(entry.decompress()).tobytes()
    assert torch.equal(reader.tensor("w", slice(999, 1_000_100), new_tensor), whole[999:1_000_100])


def test_long_rows(monkeypatch):
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", 1_000_003)
    columns = (1 << 20) + 5
    symbols = (torch.arange(3 * columns, dtype=torch.int32) * 7 % 11 - 5).reshape(3, columns)
    generator = np.random.default_rng(0)
    layout = MatrixLayout(1, generator.integers(-9, 9, 3), generator.integers(-9, 9, columns))
    entry = CodedTensor(symbols, STEP, torch.float32, layout)
    reader = Reader(encode(CompressedModel({"w": entry}), "rans"))
    assert octets_of(load_tensors(reader)["w"]).tobytes() == octets_of(entry.decompress()).tobytes()


def test_dependent_symbols_are_found_as_they_are_scanned():
    path = np.zeros((60, 40), np.int32)
    indices = np.random.default_rng(0).integers(-3, 4, path.shape)
    for row in range(60):
        state = 0
        for n, index in enumerate(indices[row].tolist()):
            path[row, n] = 2 * index - np.sign(index) * (state % 2)
            state = reference.MACHINES[1][state][index % 2]
    symbols = torch.from_numpy(path.T.copy())
    scanned = CodedTensor(symbols, STEP, torch.float32, BY_COLUMNS)
    by_rows = CodedTensor(symbols, STEP, torch.float32)
    assert coder_for(CompressedModel({"w": by_rows}, coder="mixing"), "rans") == "rans"
    with pytest.raises(InputError, match="for which weights were quantized"):
        coder_for(CompressedModel({"w": scanned}, coder="mixing"), "rans")
    assert len(encode(CompressedModel({"w": scanned}), "mixing")) < len(
        encode(CompressedModel({"w": by_rows}), "mixing")
    )


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of several chunks, and its tensors."""
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", 100)
    generator = np.random.default_rng(0)
    symbols = torch.from_numpy(generator.integers(-4, 5, (20, 5, 9)).astype(np.int32))
    rows, columns = generator.integers(-9, 9, 20), generator.integers(-9, 9, 45)
    tensors = {
        "kept": torch.randn(70, generator=torch.Generator().manual_seed(0)),
        "by columns": CodedTensor(symbols, STEP, torch.float32, MatrixLayout(1, rows, columns, True)),
        "by rows": CodedTensor(symbols, STEP, torch.float16, MatrixLayout(1, rows, columns)),
        "plain": CodedTensor(symbols, STEP, torch.float32),
        "only scanned": CodedTensor(symbols, STEP, torch.float32, MatrixLayout(2, by_columns=True)),
        "tied": Alias("by columns"),
    }
    model = CompressedModel(tensors, {}, "rans")
    path = tmp_path / "model.mtq"
    metaq.save(model, path)
    return path, model.decompress()


def test_every_face_reads_them(file, tmp_path):
    path, expected = file
    arrays = metaq.numpy.load_file(path)
    assert all(arrays[name].tobytes() == octets_of(tensor).tobytes() for name, tensor in expected.items())
    with metaq.numpy.safe_open(path) as opened:
        for name, tensor in expected.items():
            assert opened.get_tensor(name).tobytes() == octets_of(tensor).tobytes()
            assert opened.get_slice(name)[3:7].tobytes() == octets_of(tensor[3:7]).tobytes()
    with metaq.safe_open(path) as opened:
        for name, tensor in reversed(expected.items()):
            assert torch.equal(opened.get_tensor(name), tensor)
            assert torch.equal(opened.get_slice(name)[-3:], tensor[-3:])
    decompress_path(path, tmp_path / "model.safetensors")
    loaded = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert digest({name: loaded[name] for name in expected}) == digest(expected)


def test_columns_that_do_not_fit_the_cache_are_not_kept(file):
    path, expected = file
    reader = Reader(path.read_bytes(), cache_bytes=1 << 20)
    for row in range(20):
        assert torch.equal(
            reader.tensor("by columns", slice(row, row + 1), new_tensor), expected["by columns"][row:][:1]
        )
    of_tensor = sum(any(run.tensor == 1 for run in chunk) for chunk in reader.chunk_runs())
    assert reader.decoded_chunks == of_tensor
    reader = Reader(path.read_bytes(), cache_bytes=100)
    for row in range(3):
        reader.tensor("by columns", slice(row, row + 1), new_tensor)
    assert reader.decoded_chunks == 3 * of_tensor


def test_inspect_says_what_is_scaled(file):
    rows = {row["tensor"]: row for row in inspect(Reader(file[0].read_bytes())).rows}
    assert {name: row["kind"] for name, row in rows.items()} == {
        "kept": "kept",
        "by columns": "scaled by rows and columns, column by column",
        "by rows": "scaled by rows and columns",
        "plain": "coded",
        "only scanned": "scaled column by column",
        "tied": "alias of by columns",
    }
    assert rows["by columns"]["levels"] == 9
