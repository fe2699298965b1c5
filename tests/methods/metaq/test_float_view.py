"""The float view's slopes and counts by hand."""

import torch
from torch import nn

from metaq.methods.metaq.float_view import FloatView


def test_levels_and_counts_by_hand():
    first, second = nn.Parameter(torch.tensor([-1.0, 0.1, 5.0])), nn.Parameter(torch.tensor([[0.9]]))
    view = FloatView([first, second], 0.0, 1.0, 3)
    assert view.levels().tolist() == [[-1.0, 0.0, 1.0]]
    assert view.counts().tolist() == [[1, 1, 2]]


def test_slopes_are_those_of_the_weights_side_and_none_outside():
    parameter = nn.Parameter(torch.tensor([0.1, -0.1, 0.4, 0.9, 1.1, -5.0]))
    view = FloatView([parameter], 0.0, 1.0, 3)
    slopes = torch.tensor([[[-9.0, -1.0], [-2.0, 2.0], [3.0, 4.0]]])
    view.add_slopes(slopes, 0.5)
    assert parameter.grad.tolist() == [1.0, -1.0, 1.0, 1.5, 0.0, 0.0]
