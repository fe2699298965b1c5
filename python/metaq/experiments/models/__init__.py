"""The networks of the papers, by name."""

from __future__ import annotations

import torch
from torch import nn

from metaq.errors import entry_of_name
from metaq.experiments.models.lenet import LeNet5, LeNet5Caffe, LeNet300
from metaq.experiments.models.mobilenet import MobileNetV2
from metaq.experiments.models.pretrained import load_weights
from metaq.experiments.models.resnet import ResNet8, ResNet20, ResNet32
from metaq.experiments.models.transformer import CharTransformer
from metaq.experiments.models.wide_mnist import WideMnist
from metaq.neuron_order import Chain

models: dict[str, type[nn.Module]] = {
    "lenet5": LeNet5,
    "lenet5-caffe": LeNet5Caffe,
    "lenet300": LeNet300,
    "resnet8": ResNet8,
    "resnet20": ResNet20,
    "resnet32": ResNet32,
    "mobilenet-v2": MobileNetV2,
    "char-transformer": CharTransformer,
    "wide-mnist": WideMnist,
}


def by_name(name: str) -> type[nn.Module]:
    """A network's class.

    Raises:
        InputError: no network has that name.
    """
    return entry_of_name(name, models, "network")


def neuron_chains(name: str) -> tuple[Chain, ...]:
    """A network's chains of layers, as `metaq.order_neurons` takes them; none where they are not known.

    Raises:
        InputError: no network has that name.
    """
    return getattr(by_name(name), "neuron_chains", ())


def initial(name: str, seed: int) -> nn.Module:
    """A network with the initial weights of a seed; the global generator stays as it was.

    Raises:
        InputError: no network has that name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return by_name(name)()


__all__ = [
    "CharTransformer",
    "LeNet5",
    "LeNet5Caffe",
    "LeNet300",
    "MobileNetV2",
    "ResNet8",
    "ResNet20",
    "ResNet32",
    "WideMnist",
    "by_name",
    "initial",
    "load_weights",
    "models",
    "neuron_chains",
]
