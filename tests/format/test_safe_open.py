"""`safe_open`: the same tensors as loading the whole file, from no more chunks than needed."""

import pytest
import torch

import metaq
from metaq.coding import base as coding_base
from metaq.compressed_model import keep
from metaq.errors import FormatError, InputError
from metaq.format import writer


@pytest.fixture(params=[1 << 22, 100])
def file(request, tmp_path, monkeypatch):
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", request.param)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 9, generator=generator)
    state = {"weight": weight, "tied": weight, "count": torch.tensor(7), "none": torch.zeros(0, 3)}
    tensors = {**metaq.compress(state, bits=3).tensors, **keep({"bias": torch.randn(70, generator=generator)})}
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
    data = bytearray(writer.encode(metaq.compress({"weight": weight}, bits=3)))
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
