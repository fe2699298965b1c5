"""The networks have the papers' sizes."""

import pytest
import torch

from metaq import models
from metaq.errors import InputError


@pytest.mark.parametrize(("name", "size"), [("lenet5", 44_426), ("lenet5-caffe", 431_080), ("lenet300", 266_610)])
def test_sizes_are_the_papers(name, size):
    model = models.by_name(name)()
    assert sum(parameter.numel() for parameter in model.parameters()) == size
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_unknown_networks_are_named():
    with pytest.raises(InputError, match="did you mean 'lenet5'"):
        models.by_name("lenet-5x")
