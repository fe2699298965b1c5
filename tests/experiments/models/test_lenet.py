"""The networks have the papers' sizes."""

import pytest
import torch

from metaq.errors import InputError
from metaq.experiments import models

FOR_MNIST = {"lenet5": 44_426, "lenet5-caffe": 431_080, "lenet300": 266_610, "wide-mnist": 241_898}
FOR_CIFAR10 = {"resnet8": 77_850, "resnet20": 269_722, "resnet32": 464_154, "mobilenet-v2": 2_296_922}


@pytest.mark.parametrize(("name", "size"), (FOR_MNIST | FOR_CIFAR10).items())
def test_sizes_are_the_papers(name, size):
    model = models.by_name(name)()
    assert sum(parameter.numel() for parameter in model.parameters()) == size
    images = torch.zeros(2, 1, 28, 28) if name in FOR_MNIST else torch.zeros(2, 3, 32, 32)
    assert model(images).shape == (2, 10)


def test_unknown_networks_are_named():
    with pytest.raises(InputError, match="did you mean 'lenet5'"):
        models.by_name("lenet-5x")
