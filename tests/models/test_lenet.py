"""The networks have the papers' sizes."""

import pytest
import torch

from metaq import models
from metaq.errors import InputError


def test_lenet5_is_the_thesis_network():
    model = models.by_name("lenet5")()
    assert sum(parameter.numel() for parameter in model.parameters()) == 44_426
    assert 32 * sum(parameter.numel() for parameter in model.parameters()) == 1_421_632
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_unknown_networks_are_named():
    with pytest.raises(InputError, match="did you mean 'lenet5'"):
        models.by_name("lenet-5")
