"""Networks for CIFAR-10 with weights from a file: names match exactly, and nothing else is taken."""

import pytest
import torch

from metaq.errors import InputError
from metaq.experiments import models
from metaq.io.safetensors import write_safetensors


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("METAQ_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def published(model):
    """As published: without the counters of batches."""
    return {name: t for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("folder", ["data/models", "models", "cache/metaq/models"])
def test_weights_are_found_by_name(tmp_path, folder):
    source = models.ResNet20()
    (tmp_path / folder).mkdir(parents=True)
    write_safetensors(tmp_path / folder / "some.safetensors", published(source), {})
    model = models.ResNet20()
    models.load_weights(model, "some")
    for name, tensor in published(model).items():
        assert torch.equal(tensor, published(source)[name])
    models.load_weights(model, str(tmp_path / folder / "some.safetensors"))


def test_names_are_those_of_published_checkpoints():
    names = list(published(models.ResNet32()))
    assert len(names) == 157
    assert {"conv1.weight", "bn1.running_var", "layer3.4.conv2.weight", "layer2.0.bn1.bias", "linear.bias"} <= {*names}
    assert not [name for name in names if "shortcut" in name]


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_other_networks_are_refused(tmp_path, change):
    tensors = published(models.ResNet20())
    if change == "missing":
        del tensors["bn1.running_mean"]
    else:
        tensors["other.weight" if change == "surplus" else "conv1.weight"] = torch.zeros(2)
    path = tmp_path / "other.safetensors"
    write_safetensors(path, tensors, {})
    with pytest.raises(InputError, match=r"other\.safetensors: expected the tensors of ResNet20"):
        models.load_weights(models.ResNet20(), str(path))


def test_missing_files_are_named():
    with pytest.raises(InputError, match=r"'resnet20-x'.*data/models/resnet20-x\.safetensors"):
        models.load_weights(models.ResNet20(), "resnet20-x")
