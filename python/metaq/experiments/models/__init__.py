"""The networks of the papers, by name."""

from __future__ import annotations

from torch import nn

from metaq.errors import entry_of_name
from metaq.experiments.models.lenet import LeNet5, LeNet5Caffe, LeNet300
from metaq.experiments.models.mobilenet import MobileNetV2
from metaq.experiments.models.pretrained import load_weights
from metaq.experiments.models.resnet import ResNet8, ResNet20, ResNet32
from metaq.experiments.models.transformer import CharTransformer

models: dict[str, type[nn.Module]] = {
    "lenet5": LeNet5,
    "lenet5-caffe": LeNet5Caffe,
    "lenet300": LeNet300,
    "resnet8": ResNet8,
    "resnet20": ResNet20,
    "resnet32": ResNet32,
    "mobilenet-v2": MobileNetV2,
    "char-transformer": CharTransformer,
}


def by_name(name: str) -> type[nn.Module]:
    """A network's class.

    Raises:
        InputError: no network has that name.
    """
    return entry_of_name(name, models, "network")


__all__ = [
    "CharTransformer",
    "LeNet5",
    "LeNet5Caffe",
    "LeNet300",
    "MobileNetV2",
    "ResNet8",
    "ResNet20",
    "ResNet32",
    "by_name",
    "load_weights",
    "models",
]
