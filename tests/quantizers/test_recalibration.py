"""Recalibration finds the statistics of the batches it is shown, and leaves the rest alone."""

import torch
from torch import nn

from metaq.quantizers.recalibration import recalibrate


def test_statistics_are_those_of_the_inputs():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    batches = [5 + 2 * torch.randn(50, 3, generator=generator) for _ in range(4)]
    weight = model[1].weight.detach().clone()
    for _ in range(2):  # what was there before does not matter
        recalibrate(model, batches)
        torch.testing.assert_close(model[0].running_mean, torch.cat(batches).mean(0))
        expected = torch.stack([batch.var(0) for batch in batches]).mean(0)
        torch.testing.assert_close(model[0].running_var, expected)
    assert torch.equal(model[1].weight, weight)
    assert not model.training
    assert model[0].momentum == 0.1


def test_without_batches_nothing_changes():
    model = nn.BatchNorm1d(3)
    model.running_mean.fill_(7)
    recalibrate(model, [])
    assert model.running_mean.tolist() == [7, 7, 7]


def test_keyword_arguments():
    model = nn.BatchNorm1d(3).eval()
    recalibrate(model, [{"input": torch.full((4, 3), 2.0)}])
    assert model.running_mean.tolist() == [2, 2, 2]
