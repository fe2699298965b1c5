"""`safe_open`: the same tensors as loading the whole file, from no more chunks than needed."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import metaq
from metaq import compressed_model
from metaq.coding import base as coding_base
from metaq.compressed_model import keep
from metaq.errors import FormatError, InputError


@pytest.fixture(params=[1 << 22, 100])
def file(request, tmp_path, monkeypatch):
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", request.param)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 9, generator=generator)
    state = {"weight": weight, "tied": weight, "count": torch.tensor(7), "none": torch.zeros(0, 3)}
    tensors = {**metaq.compress(state, step=0.4).tensors, **keep({"bias": torch.randn(70, generator=generator)})}
    path = tmp_path / "x.mtq"
    metaq.save(metaq.CompressedModel(tensors, {"by": "test"}), path)
    return path


def test_gives_what_loading_gives(file):
    whole = metaq.load_file(file)
    with metaq.safe_open(file) as opened:
        assert opened.keys() == list(whole)
        assert opened.metadata() == {"by": "test"}
        for name, tensor in whole.items():
            assert torch.equal(opened.get_tensor(name), tensor)
            assert opened.get_tensor(name).dtype == tensor.dtype


@pytest.mark.parametrize("index", [slice(3, 17), slice(-5, None), slice(17, 3), slice(0, 40, 7), 4, (slice(2, 30), 3)])
@pytest.mark.parametrize("name", ["weight", "tied"])
def test_slices(file, name, index):
    with metaq.safe_open(file) as opened:
        part = opened.get_slice(name)
        assert part.get_shape() == [40, 9]
        assert torch.equal(part[index], metaq.load_file(file)[name][index])
        assert torch.equal(opened.get_slice("bias")[5:50], metaq.load_file(file)["bias"][5:50])
        assert opened.get_slice("none")[:].shape == (0, 3)


def test_damage_elsewhere_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", 50)
    weight = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    data = bytearray(compressed_model.encode(metaq.compress({"weight": weight}, step=0.4)))
    data[-1] ^= 1
    path = tmp_path / "x.mtq"
    path.write_bytes(data)
    with metaq.safe_open(path) as opened:
        assert opened.get_slice("weight")[:5].shape == (5, 10)
        with pytest.raises(FormatError, match="chunk 3 to match its checksum"):
            opened.get_tensor("weight")


def test_says_what_is_wrong(file, tmp_path):
    with pytest.raises(InputError, match="readable"):
        metaq.safe_open(tmp_path / "missing.mtq")
    (tmp_path / "empty.mtq").write_bytes(b"")
    with pytest.raises(FormatError, match="starts with"):
        metaq.safe_open(tmp_path / "empty.mtq")
    with metaq.safe_open(file) as opened:
        with pytest.raises(InputError, match="did you mean 'weight'"):
            opened.get_tensor("weigth")
        with pytest.raises(InputError, match="scalar"):
            opened.get_slice("count")[0:1]


@pytest.fixture(params=["mixing", "adaptive", "rans", "zstd"])
def many(request, tmp_path, monkeypatch):
    """The path of a file of many tensors in a few chunks, coded ones between kept ones, one in three chunks."""
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", 4000)
    generator = torch.Generator().manual_seed(3)
    state = {}
    for i in range(12):
        state[f"{i}.weight"] = torch.randn(130 if i == 7 else 20, 60, generator=generator)
        state[f"{i}.bias"] = torch.randn(60, generator=generator)
    metaq.save(metaq.compress(state, step=0.25), tmp_path / "many.mtq", request.param)
    return tmp_path / "many.mtq"


def chunks_of(file, *names):
    """The chunks that the tensors lie in."""
    reader = file._reader
    wanted = {reader.index(name) for name in names}
    return [chunk for chunk, runs in enumerate(reader.chunk_runs()) if any(run.tensor in wanted for run in runs)]


@pytest.mark.parametrize("order", ["file", "reversed", "shuffled", "every other"])
def test_every_chunk_is_decoded_once(many, order):
    whole = metaq.load_file(many)
    with metaq.safe_open(many) as file:
        names = file.keys()
        names = {
            "file": names,
            "reversed": names[::-1],
            "shuffled": [names[7 * i % len(names)] for i in range(len(names))],
            "every other": names[::2],
        }[order]
        for name in names:
            assert torch.equal(file.get_tensor(name), whole[name])
        assert file._reader.decoded_chunks <= len(file._reader.header.chunks)


def test_a_row_costs_its_chunk_and_no_other(many):
    whole = metaq.load_file(many)["7.weight"]
    with metaq.safe_open(many) as file:
        rows = file.get_slice("7.weight")
        assert torch.equal(rows[100:101], whole[100:101])
        assert file._reader.decoded_chunks == 1
        assert torch.equal(rows[99:102], whole[99:102])
        assert torch.equal(file.get_tensor("8.weight"), metaq.load_file(many)["8.weight"])
        assert file._reader.decoded_chunks < len(chunks_of(file, "7.weight"))


def test_a_tensor_out_of_order_costs_its_chunks_and_no_other(many):
    with metaq.safe_open(many) as file:
        file.get_tensor("7.weight")
        assert file._reader.decoded_chunks == len(chunks_of(file, "7.weight"))
        file.get_tensor("3.bias")
        assert file._reader.decoded_chunks == len(chunks_of(file, "7.weight", "3.bias"))


def test_tensors_taken_are_ones_own(many):
    with metaq.safe_open(many) as file:
        first = file.get_tensor("0.weight")
        first.zero_()
        assert file.get_tensor("0.weight").any()
        file.get_slice("5.weight")[:3].zero_()
        assert file.get_slice("5.weight")[:3].any()


def test_threads_may_ask_at_once(many):
    whole = metaq.load_file(many)
    with metaq.safe_open(many) as file, ThreadPoolExecutor(8) as pool:
        names = file.keys() * 5
        for name, tensor in zip(names, pool.map(file.get_tensor, names), strict=True):
            assert torch.equal(tensor, whole[name])


def test_closing_lets_go_of_the_file(many):
    file = metaq.safe_open(many)
    row = file.get_slice("1.weight")[0:1]
    file.close()
    assert row.shape == (1, 60)
    with pytest.raises((AttributeError, ValueError)):
        file.get_tensor("1.weight")
