"""The compressor in a user's own loop."""

import pytest
import torch
from torch import nn

import metaq
from metaq.errors import InputError
from metaq.experiments.models.lenet import LeNet5
from metaq.methods.metaq.config import LevelPlacement, Objective


def test_ten_lines_make_a_file_that_loads_back(tmp_path):
    torch.manual_seed(0)
    model = LeNet5()
    compressor = metaq.Compressor(model, metaq.METaQ(strength=1e-3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images, labels = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        compressor.regularize()
        optimizer.step()
    size_bytes = metaq.save(compressor.compress(), tmp_path / "model.mtq")
    assert size_bytes == (tmp_path / "model.mtq").stat().st_size < 177_704 / 4
    other = LeNet5()
    metaq.load_into(other, tmp_path / "model.mtq")
    model.eval()
    assert torch.equal(other(images), model(images))


def test_buffers_are_kept_exactly_and_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.second = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.norm(self.first(x)))

    model = Tied()
    compressor = metaq.Compressor(model, metaq.METaQ())
    model(torch.randn(4, 8))
    compressed = compressor.compress()
    assert compressed.tensors["second.weight"] == metaq.Alias("first.weight")
    decompressed = compressed.decompress()
    assert list(decompressed) == list(model.state_dict())
    assert torch.equal(decompressed["norm.running_mean"], model.norm.running_mean)
    assert int(decompressed["norm.num_batches_tracked"]) == 1


def test_detach_leaves_the_quantized_weights_and_no_hook():
    model = nn.Linear(20, 20)
    compressor = metaq.Compressor(model, metaq.METaQ())
    compressed = compressor.compress().decompress()
    compressor.detach()
    assert torch.equal(model.weight, compressed["weight"])
    model.weight.data.fill_(0.123)
    model(torch.ones(1, 20))
    assert float(model.weight.detach()[0, 0]) == pytest.approx(0.123)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"objective": "counts"},
        {"objective": "perspective"},
        {"levels": "learned"},
        {"levels": "around_mean"},
        {"target_bytes": 500},
    ],
)
def test_state_round_trip_in_mid_training(options):
    kinds = {"objective": Objective, "levels": LevelPlacement}
    options = {key: kinds[key](value) if key in kinds else value for key, value in options.items()}
    config = metaq.METaQ(strength=1e-2, refresh_every=3, **options)
    torch.manual_seed(1)
    results = []
    for interrupted in (False, True):
        torch.manual_seed(2)
        model = nn.Linear(30, 30)
        compressor = metaq.Compressor(model, config, training_steps=8)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(8):
            if interrupted and step == 4:
                saved = (compressor.state_dict(), model.state_dict())
                model = nn.Linear(30, 30)
                model.load_state_dict(saved[1])
                compressor = metaq.Compressor(model, config, training_steps=8)
                compressor.load_state_dict(saved[0])
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            optimizer.zero_grad()
            model(torch.ones(2, 30)).square().sum().backward()
            compressor.regularize()
            optimizer.step()
        results.append(metaq.metrics.digest(model.state_dict()))
    assert results[0] == results[1]


def test_refuses_models_it_cannot_compress():
    with pytest.raises(InputError, match="found none"):
        metaq.Compressor(nn.ReLU(), metaq.METaQ())
    model = nn.Linear(2, 2)
    model.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        metaq.Compressor(model, metaq.METaQ())


def test_weights_that_diverge_are_named():
    model = nn.Linear(4, 4)
    compressor = metaq.Compressor(model, metaq.METaQ())
    model.bias.data[1] = float("inf")
    with pytest.raises(InputError, match="'bias'"):
        compressor.compress()
