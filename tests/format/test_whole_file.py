"""Small files in one go: the same tensors as by the reader, and nothing where the reader must be asked."""

from pathlib import Path

import numpy as np
import pytest
import torch

import metaq
from metaq import _native
from metaq.compressed_model import Alias, CompressedModel
from metaq.errors import FormatError
from metaq.files import map_bytes
from metaq.format import whole_file, writer
from metaq.format.planes import octets_of
from metaq.format.reader import Reader

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.mtq"))
ELSEWHERE = ("network-gzip", "network-lzma", "network-zstd")


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_files_are_what_the_reader_finds(path):
    found, expected = whole_file.load(map_bytes(path)), Reader(map_bytes(path)).load()
    assert (found is None) == (path.stem in ELSEWHERE)
    if found is None:
        return
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert found[name].stride() == torch.empty(tensor.shape).stride()
        assert bytes(octets_of(found[name])) == bytes(octets_of(tensor))


@pytest.mark.parametrize("shift", [0, 1])
def test_values_may_go_anywhere(shift):
    data = map_bytes(Path(__file__).parents[1] / "golden" / "network-adaptive.mtq")
    file = _native.WholeFile(np.frombuffer(data, np.uint8))
    expected = [octets_of(tensor) for tensor in Reader(data).load().values()]
    found = [np.empty(shift + octets.nbytes, np.uint8)[shift:] for octets in expected]
    assert file.decode([octets.ctypes.data for octets in found], 1)
    for at, (*_, target) in enumerate(file.tensors()):
        assert target != at or bytes(found[at]) == bytes(expected[at])


def test_aliases_are_one_tensor():
    model = CompressedModel({"a": torch.arange(5.0), "b": Alias("a"), "c": torch.arange(5.0)})
    tensors = whole_file.load(memoryview(writer.encode(model)))
    assert tensors["a"] is tensors["b"]
    assert tensors["a"].data_ptr() != tensors["c"].data_ptr()


def test_many_chunks_on_threads(monkeypatch):
    monkeypatch.setattr(whole_file, "TASK_BYTES", 1)
    monkeypatch.setattr(whole_file, "MOST_BYTES", 1 << 25)
    generator = torch.Generator().manual_seed(1)
    state = {f"{i}": torch.randn(64, 32, 3, 3, generator=generator) for i in range(30)}
    model = metaq.compress_state_dict(state, metaq.CompressionConfig(bits=4))
    data = memoryview(writer.encode(model, "adaptive"))
    assert sum(chunk.coder == 8 for chunk in Reader(data).header.chunks) == 4
    found, expected = whole_file.load(data), Reader(data).load()
    assert all(torch.equal(found[name], expected[name]) for name in state)


def test_large_files_are_left_to_the_reader(monkeypatch):
    data = memoryview(writer.encode(CompressedModel({"a": torch.arange(5.0)})))
    assert whole_file.load(data) is not None
    monkeypatch.setattr(whole_file, "MOST_BYTES", len(data))
    assert whole_file.load(data) is not None
    monkeypatch.setattr(whole_file, "MOST_BYTES", 19)  # of 20
    assert whole_file.load(data) is None


@pytest.mark.parametrize("coder", ["mixing", "adaptive", "rans"])
def test_damage_is_left_to_the_reader_and_told(tmp_path, coder):
    generator = torch.Generator().manual_seed(2)
    state = {"weight": torch.randn(40, 40, generator=generator), "bias": torch.randn(40, generator=generator)}
    model = metaq.compress_state_dict(state, metaq.CompressionConfig(bits=4))
    data = writer.encode(model, coder)
    path = tmp_path / "model.mtq"
    for at in range(0, len(data), 7):
        damaged = data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]
        assert whole_file.load(memoryview(damaged)) is None
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match="expected"):
            metaq.load_file(path)
