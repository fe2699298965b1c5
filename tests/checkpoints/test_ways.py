"""The ways in which a model is quantized by its data."""

import copy

import pytest
import torch
from torch import nn

import metaq
from metaq.checkpoints.calibrated_checkpoint import CalibratedCheckpoint
from metaq.checkpoints.search import target_of
from metaq.checkpoints.ways import Way, Ways
from metaq.progress import Progress
from metaq.quantizers.refitting import References


@pytest.fixture(scope="module")
def ways():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10))
    batches = list(torch.randn(64, 3, 8, 8).split(16))
    with torch.no_grad():
        for batch in batches * 20:
            model(batch)
    model.eval()
    config = metaq.CompressionConfig(bits=2)
    checkpoint = CalibratedCheckpoint(model.state_dict(), metaq.calibrate(model, batches), config)
    return Ways(checkpoint, model, batches, Progress())


def missed(ways, model):
    return References(ways.model, ways.batches).mean_distance(model.eval())


def test_each_way_gives_a_copy_with_the_weights_of_the_file(ways):
    before = copy.deepcopy(ways.model.state_dict())
    sigmas = ways.checkpoint.find_steps()
    codes = {}
    for way in Way:
        model, coded = ways.quantize(sigmas, way)
        codes[way] = coded
        state = model.state_dict()
        assert set(coded) == {"0.weight", "3.weight", "7.weight"}
        assert all(torch.equal(state[name], tensor.decompress()) for name, tensor in coded.items())
        assert not torch.equal(state["1.running_mean"], before["1.running_mean"])
    at_once = ways.checkpoint.quantize(sigmas)
    assert all(torch.equal(codes[Way.AT_ONCE][name].symbols, tensor.symbols) for name, tensor in at_once.items())
    assert not torch.equal(codes[Way.IN_ORDER]["7.weight"].symbols, codes[Way.AIMED]["7.weight"].symbols)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ways.model.state_dict().items())


def test_the_nearest_way_is_taken(ways, monkeypatch):
    sigmas = ways.checkpoint.find_steps()
    distances = {way: missed(ways, ways.quantize(sigmas, way)[0]) for way in Way}
    taken = []
    quantize = Ways.quantize

    def remember(self, steps, way):
        taken.append(way)
        return quantize(self, steps, way)

    monkeypatch.setattr(Ways, "quantize", remember)
    model, coded = ways.quantize_to_target(sigmas)
    best = min(distances, key=distances.get)
    assert taken[:3] == list(Way)
    assert set(taken[3:]) <= {best}
    assert missed(ways, model) < 1.2 * distances[best]
    assert ways.checkpoint.measure(coded, target_of(ways.checkpoint.config)) <= 2
