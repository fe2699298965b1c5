"""Who shares moments, when that is an error, and what they leave unseen."""

import pytest
import torch
from torch import nn

from metaq.errors import InputError
from metaq.quantizers.calibration import calibrate


class TwoHeads(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.first, self.second, self.change = nn.Linear(4, 2), nn.Linear(4, 2), change

    def forward(self, inputs):
        first = self.first(inputs)
        return first + self.second(self.change(inputs))


@pytest.mark.parametrize(
    ("change", "is_shared"),
    [(lambda x: x, True), (lambda x: x + 0, False), (lambda x: x.mul_(2), False)],
)
def test_the_same_tensor_is_shared_unless_it_has_changed(change, is_shared):
    inputs = torch.randn(3, 4)
    expected = (inputs.T @ inputs / 3)[None], (change(inputs.clone()).T @ change(inputs.clone()) / 3)[None]
    found = calibrate(TwoHeads(change), [inputs.clone()], gradients=False).inputs
    assert (found["first.weight"] is found["second.weight"]) is is_shared
    torch.testing.assert_close((found["first.weight"], found["second.weight"]), expected)


def test_batches_of_two_kinds():
    model = TwoHeads(lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(InputError, match=r"batch 1: second.weight: expected the inputs of first.weight, as before"):
        calibrate(model, [torch.ones(1, 4), -torch.ones(1, 4)])


def test_wide_layers_are_summed_in_float32():
    inputs = torch.randn(8, 1100)
    found = calibrate(nn.Linear(1100, 2), inputs.split(4), gradients=False)
    torch.testing.assert_close(found.inputs["weight"][0], inputs.T @ inputs / 8)


def test_inputs_that_every_sample_has_leave_nothing_unseen():
    inputs = torch.randn(4000, 20) * torch.logspace(-2, 2, 20)
    assert calibrate(nn.Linear(20, 2), inputs.split(500), gradients=False).unseen["weight"] == 0


def test_inputs_that_few_samples_have_leave_much_unseen():
    classes = torch.randint(0, 400, (80,))  # of which most have no sample
    inputs = nn.functional.one_hot(classes, 400).float() + 0.01 * torch.randn(80, 400)
    found = calibrate(nn.Linear(400, 2), inputs.split(20), gradients=False)
    assert found.unseen["weight"] >= 0.1


def test_errors_cost_more_on_inputs_that_few_samples_have():
    mixed = torch.randn(40, 40)
    many, few = (torch.randn(samples, 40) @ mixed for samples in (40_000, 40))
    ratios = [calibrate(nn.Linear(40, 2), [inputs], gradients=False).optimism["weight"] for inputs in (many, few)]
    assert 1 <= ratios[0] < 1.02
    assert ratios[1] > 1.2


def test_what_is_unseen_is_told_from_different_halves_of_each_batch():
    seen_twice = torch.randn(10, 8).relu().repeat(2, 1)
    assert calibrate(nn.Linear(8, 2), [seen_twice], gradients=False).unseen["weight"] == 0
    one_half = [torch.randn(1, 8)]
    assert calibrate(nn.Linear(8, 2), one_half, gradients=False).unseen["weight"] == 0
