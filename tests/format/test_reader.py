"""Reading by every way from chunks to tensors: all of them give the same, and refuse the same."""

import numpy as np
import pytest
import torch

from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.coding import base as coding_base
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, encode, read_model
from metaq.errors import FormatError
from metaq.format import writer
from metaq.format.dtypes import BY_NAME
from metaq.format.header import Header, TensorEntry
from metaq.format.reader import Reader
from metaq.metrics import digest
from metaq.tensors import load_tensors, new_tensor

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
@pytest.mark.parametrize("cache_bytes", [0, 300, 1 << 26])
@pytest.mark.usefixtures("_chunking")
def test_whole_tensors_symbols_and_rows(coder, cache_bytes):
    original = model()
    expected = original.decompress()
    reader = Reader(encode(original, coder), cache_bytes=cache_bytes)
    assert digest(load_tensors(reader)) == digest(expected)
    assert digest(read_model(reader).decompress()) == digest(expected)
    for name, tensor in expected.items():
        assert digest({name: reader.tensor(name, new=new_tensor)}) == digest({name: tensor})
        assert digest({name: reader.tensor(name, slice(2, 5), new_tensor)}) == digest({name: tensor[2:5]})


def test_symbols_that_stand_for_nothing_are_refused(monkeypatch):
    monkeypatch.setattr("metaq.compressed_model.check_symbols", lambda *_: None)
    for dtype in FLOATS:
        data = encode(CompressedModel({"a": CodedTensor(torch.tensor([0, 4, 3]).int(), TABLE, dtype)}), "rans")
        with pytest.raises(FormatError, match=r"chunk 0: rans stream|tensor 'a': symbols"):
            load_tensors(Reader(data))


def test_a_plane_of_wide_symbols_is_refused():
    wide = CodedTensor(torch.tensor([0, 128]).int(), UniformCodebook(1.0), torch.float32)
    kept = [TensorEntry("a", BY_NAME["uint8"], (2,))]
    for coder in ("rans", "stored", "huffman", "zstd"):
        data = encode(CompressedModel({"a": wide}), coder)
        (chunk,) = Reader(data).header.chunks
        altered = writer.encode_header(Header({}, kept, [chunk])) + data[-chunk.payload_bytes - 4 :]
        with pytest.raises(
            FormatError, match=r"tensor 'a': expected symbols of bytes, -128 to 127|chunk 0: rans stream"
        ):
            Reader(altered).load()


def test_large_tensors_in_many_chunks_and_threads(monkeypatch):
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", 40_000)
    generator = torch.Generator().manual_seed(0)
    kept = torch.randn(500, 301, generator=generator).to(torch.bfloat16)
    coded = CodedTensor(symbols_of(500, 301), TABLE, torch.bfloat16)
    made = CompressedModel({"kept": kept, "coded": coded, "other": kept.float()[:, :7].contiguous()})
    reader = Reader(encode(made, "rans"))
    assert digest(load_tensors(reader)) == digest(made.decompress())
    assert np.array_equal(
        reader.tensor("kept", slice(133, 400), new_tensor).view(torch.int16), kept[133:400].view(torch.int16)
    )
