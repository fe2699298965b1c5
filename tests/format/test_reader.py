"""Reading by every way from chunks to tensors: all of them give the same, and refuse the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

import metaq
from metaq import coding
from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.coding import base as coding_base
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, encode, read_model
from metaq.errors import FormatError
from metaq.format import writer
from metaq.format.checked_file import ALL_ELEMENTS
from metaq.format.dtypes import BY_NAME
from metaq.format.header import Header, TensorEntry
from metaq.format.reader import Reader
from metaq.metrics import digest
from metaq.tensors import load_tensors, new_tensor, octets_of

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.mtq"))
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
        monkeypatch.setattr(writer, "cut_for", lambda coder, sequence, most_symbols: [list(sequence)])
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


@pytest.mark.usefixtures("_chunking")
def test_symbols_a_group_at_a_time():
    reader = Reader(encode(model(), "rans"))
    whole = {name: octets_of(array) for name, array in reader.symbols(new_tensor).items()}
    before = reader.decoded_chunks
    found = [entry for group in reader.symbol_groups(new_tensor) for entry in group.items()]
    assert [index for index, _ in found] == list(range(len(whole)))
    for (_, array), octets in zip(found, whole.values(), strict=True):
        assert np.array_equal(octets_of(array), octets)
    assert reader.decoded_chunks - before <= 4 * before  # a chunk is decoded again where a group ends in it


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


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_tensors_are_dense(path):
    for tensor in metaq.load_file(path).values():
        assert tensor.stride() == torch.empty(tensor.shape).stride()


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("name", ["network-adaptive", "network-rans", "every-dtype"])
def test_values_may_go_anywhere(name, shift):
    reader = Reader((Path(__file__).parents[1] / "golden" / f"{name}.mtq").read_bytes())
    expected = [octets_of(tensor) for tensor in load_tensors(reader).values()]
    found = [np.empty(shift + octets.nbytes, np.uint8)[shift:] for octets in expected]
    reader.fill([(at, 0, ALL_ELEMENTS, memory) for at, memory in enumerate(found)])
    assert list(map(bytes, found)) == list(map(bytes, expected))


def test_memory_of_another_size_is_refused():
    reader = Reader(encode(CompressedModel({"a": torch.zeros(7)})))
    for size in (0, 27, 29):
        with pytest.raises(FormatError, match="room for exactly the tensor's bytes"):
            reader.fill([(0, 0, ALL_ELEMENTS, np.empty(size, np.uint8))])
    with pytest.raises(FormatError, match="elements of the tensor"):
        reader.fill([(0, 5, 3, np.empty(3, np.float32))])
    with pytest.raises(FormatError, match="index of a tensor"):
        reader.fill([(1, 0, 3, np.empty(3, np.float32))])


def test_aliases_are_one_tensor():
    tensors = load_tensors(
        Reader(encode(CompressedModel({"a": torch.arange(5.0), "b": Alias("a"), "c": torch.ones(5)})))
    )
    assert tensors["a"] is tensors["b"]
    assert tensors["a"].data_ptr() != tensors["c"].data_ptr()


@pytest.mark.parametrize("coder", ["mixing", "adaptive", "rans", "gzip"])
def test_damage_anywhere_is_told(tmp_path, coder):
    generator = torch.Generator().manual_seed(2)
    state = {"weight": torch.randn(40, 40, generator=generator), "bias": torch.randn(40, generator=generator)}
    data = encode(metaq.compress_state_dict(state, metaq.CompressionConfig(bits=4)), coder)
    path = tmp_path / "model.mtq"
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with pytest.raises(FormatError, match=r"model\.mtq.*: expected .*, found"):
            metaq.load_file(path)


def test_errors_of_other_coders_come_through(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    data = encode(CompressedModel({"a": CodedTensor(symbols_of(90), UniformCodebook(1.0), torch.float32)}), "gzip")
    monkeypatch.setattr(coding.by_name("gzip"), "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Reader(data).load()


def test_as_symbols_each_chunk_is_decoded_once(monkeypatch):
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", 70)
    reader = Reader(encode(model(), "rans"))
    read_model(reader)
    assert reader.decoded_chunks == len(reader.header.chunks)
