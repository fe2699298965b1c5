"""Recalibration finds the statistics of the batches it is shown; a correction moves them by what has moved."""

import copy

import pytest
import torch
from torch import nn

from metaq.quantizers.recalibration import correct_statistics, recalibrate


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


def channels(shift, scale):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        for _ in range(50):
            model(torch.randn(16, 2, 8, 8))
        moved = copy.deepcopy(model).eval()
        for index in (0, 3):
            moved[index].weight.mul_(scale)
            moved[index].bias.add_(shift)
    return moved, model.eval()


def test_corrected_norms_give_what_those_of_the_reference_give():
    model, reference = channels(shift=0.3, scale=0.5)
    # Inputs unlike those of training: statistics measured anew would be wrong.
    batches = [3 + 2 * torch.randn(16, 2, 8, 8) for _ in range(4)]
    assert not torch.allclose(model(batches[0]), reference(batches[0]), atol=0.1)
    correct_statistics(model, reference, batches)
    torch.testing.assert_close(model(batches[0]), reference(batches[0]), rtol=1e-3, atol=1e-3)
    unseen = torch.randn(16, 2, 8, 8)
    torch.testing.assert_close(model(unseen), reference(unseen), rtol=1e-3, atol=1e-3)


def test_of_a_model_that_is_as_the_reference_nothing_changes():
    _, reference = channels(0, 1)
    model = copy.deepcopy(reference)
    correct_statistics(model, reference, torch.randn(32, 2, 8, 8).split(8))
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)


def test_an_empty_channel_is_not_amplified_without_end():
    model, reference = channels(0, 1)
    with torch.no_grad():
        model[0].weight[1].zero_()
    correct_statistics(model, reference, torch.randn(32, 2, 8, 8).split(8))
    share = model[1].running_var[1] / reference[1].running_var[1]
    assert share == pytest.approx(0.25, rel=1e-3)


def test_without_norms_no_batch_is_run():
    model = nn.Linear(3, 2)
    correct_statistics(model, copy.deepcopy(model), [None])
