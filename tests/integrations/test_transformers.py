"""Models to a folder and back."""

import pytest
import torch
from torch import nn

import metaq
from metaq.errors import InputError


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.Linear(30, 4))


def test_a_model_comes_back_as_it_was_compressed(tmp_path):
    model, other = network(0), network(1)
    size = metaq.save_pretrained(model, tmp_path / "a" / "b", metaq.CompressionConfig(bits=5))
    assert size == (tmp_path / "a" / "b" / "model.mtq").stat().st_size
    assert metaq.from_pretrained(tmp_path / "a" / "b", other) is other
    expected = metaq.compress_state_dict(model.state_dict(), metaq.CompressionConfig(bits=5)).decompress()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in other.state_dict().items())


def test_a_configuration_of_its_own_is_written_beside_it(tmp_path):
    class Configuration:
        def save_pretrained(self, folder):
            (folder / "config.json").write_text("{}")

    model = network(0)
    model.config = Configuration()
    metaq.save_pretrained(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.mtq"]


def test_what_is_missing_or_in_the_way(tmp_path):
    with pytest.raises(InputError, match=r"or else one '\*\.mtq', found none"):
        metaq.from_pretrained(tmp_path, network(0))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder to write"):
        metaq.save_pretrained(network(0), tmp_path / "file")
