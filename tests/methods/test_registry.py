"""What every method promises, whichever it is."""

import pytest
import torch
from torch import nn

import metaq
from metaq.methods import methods
from metaq.methods.metaq.config import LevelPlacement

CONFIGURATIONS = {
    "metaq": metaq.METaQ(strength=1e-3),
    "metaq around the mean": metaq.METaQ(strength=1e-3, levels=LevelPlacement.AROUND_MEAN),
    "hemp": metaq.HEMP(levels=5),
    "lobster": metaq.LOBSTER(strength=1e-2),
    "lc": metaq.LC(),
    "deep-compression": metaq.DeepCompression(),
    "pruned": metaq.Pruned(metaq.HEMP(levels=5, zero_level=True), metaq.LOBSTER(strength=1e-2)),
}


def test_every_method_is_tried():
    assert set(methods) <= set(CONFIGURATIONS)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_evaluation_shows_the_file_and_gives_the_weights_back(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4))
    compressor = metaq.Compressor(model, CONFIGURATIONS[name])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    compressor.bound.on_forward(is_training=False)
    shown = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    compressor.bound.restore_weights()
    assert all(map(torch.equal, before, model.parameters()))
    decoded = compressor.compress().decompress()
    assert all(torch.equal(decoded[key], value) for key, value in shown.items())
