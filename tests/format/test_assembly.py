"""Reading by every way from chunks to tensors: all of them give the same, and refuse the same."""

import numpy as np
import pytest
import torch

from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.coding import base as coding_base
from metaq.compressed_model import Alias, CodedTensor, CompressedModel
from metaq.errors import FormatError
from metaq.format import assembly, writer
from metaq.format.reader import Reader
from metaq.format.writer import encode
from metaq.metrics import digest

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
TABLE = TableCodebook((-3.4e38, -65520.0, -1.0, -1e-8, -0.0, 2.0**-25, 1.00048828125, 65519.0), 4)
CODEBOOKS = {
    "table": TABLE,
    "halves that round": UniformCodebook(1.00048828125),
    "denormals": UniformCodebook(2.0**-149),
    "infinities": UniformCodebook(3e38),
}


def symbols_of(*shape, low=-4, high=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, shape, generator=generator, dtype=torch.int32)


def model():
    """Coded and kept tensors of every dtype between each other, and a tied one."""
    tensors = {}
    for seed, dtype in enumerate(FLOATS):
        for name, codebook in CODEBOOKS.items():
            tensors[f"{name} {dtype}"] = CodedTensor(symbols_of(9, 5, seed=seed), codebook, dtype)
        tensors[f"kept {dtype}"] = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)
    for dtype in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        tensors[f"coded {dtype}"] = CodedTensor(symbols_of(30, low=0, high=1), IntegerCodebook(), dtype)
    for dtype in (torch.int8, torch.int32, torch.float8_e5m2):
        octets = symbols_of(6, 4 * dtype.itemsize, low=0, high=255).to(torch.uint8)
        tensors[f"kept {dtype}"] = octets.view(dtype)
    tensors["tied"] = Alias(f"table {torch.bfloat16}")
    return CompressedModel(tensors)


@pytest.fixture(params=["planes apart", "all in one chunk", "small chunks"])
def _chunking(request, monkeypatch):
    if request.param == "all in one chunk":  # as another writer may do it
        monkeypatch.setattr(writer, "cut_for", lambda coder, sequence: [list(sequence)])
    if request.param == "small chunks":
        monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", 70)


@pytest.mark.parametrize("coder", ["rans", "stored", "huffman", "zstd"])
@pytest.mark.parametrize("piece", [5, 1 << 20])
@pytest.mark.usefixtures("_chunking")
def test_whole_tensors_symbols_and_rows(coder, piece, monkeypatch):
    monkeypatch.setattr(assembly, "PIECE_ELEMENTS", piece)
    original = model()
    expected = original.decompress()
    reader = Reader(encode(original, coder))
    assert digest(reader.load()) == digest(expected)
    assert digest(reader.model().decompress()) == digest(expected)
    for name, tensor in expected.items():
        assert digest({name: reader.tensor(name)}) == digest({name: tensor})
        assert digest({name: reader.tensor(name, slice(2, 5))}) == digest({name: tensor[2:5]})


def test_rans_makes_no_symbols_of_what_it_can_fill(monkeypatch):
    def refuse(*_):
        raise AssertionError("symbols were made")

    fillable = {name: tensor for name, tensor in model().tensors.items() if "float64" not in name}
    fillable = {name: tensor for name, tensor in fillable.items() if not name.startswith(("coded", "tied"))}
    data = encode(CompressedModel(fillable), "rans")
    monkeypatch.setattr(assembly, "_put_symbols", refuse)
    assert digest(Reader(data).load()) == digest(CompressedModel(fillable).decompress())


def test_symbols_that_stand_for_nothing_are_refused(monkeypatch):
    monkeypatch.setattr("metaq.compressed_model.check_symbols", lambda *_: None)
    for dtype in FLOATS:
        data = encode(CompressedModel({"a": CodedTensor(torch.tensor([0, 4, 3]).int(), TABLE, dtype)}), "rans")
        with pytest.raises(FormatError, match=r"chunk 0: rans stream|tensor 'a': symbols"):
            Reader(data).load()


def test_a_plane_of_wide_symbols_is_refused():
    wide = CodedTensor(torch.tensor([0, 128]).int(), UniformCodebook(1.0), torch.float32)
    kept = torch.zeros(2, dtype=torch.uint8)
    header = Reader(encode(CompressedModel({"a": kept}), "stored")).header
    for coder in ("rans", "stored", "huffman"):
        reader = Reader(encode(CompressedModel({"a": wide}), coder))
        reader.header.tensors[:] = header.tensors
        with pytest.raises(FormatError, match=r"bytes, -128 to 127|corrupt"):
            reader.load()


def test_large_tensors_in_many_chunks_and_threads(monkeypatch):
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", 40_000)
    generator = torch.Generator().manual_seed(0)
    kept = torch.randn(500, 301, generator=generator).to(torch.bfloat16)
    coded = CodedTensor(symbols_of(500, 301), TABLE, torch.bfloat16)
    made = CompressedModel({"kept": kept, "coded": coded, "other": kept.float()[:, :7].contiguous()})
    reader = Reader(encode(made, "rans"))
    assert digest(reader.load()) == digest(made.decompress())
    assert np.array_equal(reader.tensor("kept", slice(133, 400)).view(torch.int16), kept[133:400].view(torch.int16))
