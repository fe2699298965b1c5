"""Who shares moments, and when that is an error."""

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
