"""The LeNets of the MNIST literature."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional


class LeNet5(nn.Module):
    """LeNet-5 as in the METaQ thesis: 44,426 parameters, ReLU, average pooling.

    Input: float32 images (batch, 1, 28, 28), normalised. Output: float32 logits (batch, 10).
    """

    input_shape: ClassVar = (1, 28, 28)
    neuron_chains: ClassVar = (("conv1", "conv2", "fc1", "fc2", "fc3"),)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(256, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        hidden = functional.avg_pool2d(functional.relu(self.conv1(images)), 2)
        hidden = functional.avg_pool2d(functional.relu(self.conv2(hidden)), 2).flatten(1)
        logits: Tensor = self.fc3(functional.relu(self.fc2(functional.relu(self.fc1(hidden)))))
        return logits


class LeNet5Caffe(nn.Module):
    """LeNet-5 as in Caffe, which most of the pruning literature uses: 431,080 parameters, max pooling.

    Input: float32 images (batch, 1, 28, 28), normalised. Output: float32 logits (batch, 10).
    """

    input_shape: ClassVar = (1, 28, 28)
    neuron_chains: ClassVar = (("conv1", "conv2", "fc1", "fc2"),)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        hidden = functional.max_pool2d(functional.relu(self.conv1(images)), 2)
        hidden = functional.max_pool2d(functional.relu(self.conv2(hidden)), 2).flatten(1)
        logits: Tensor = self.fc2(functional.relu(self.fc1(hidden)))
        return logits


class LeNet300(nn.Module):
    """LeNet-300-100: three fully connected layers, 266,610 parameters.

    Input: float32 images (batch, 1, 28, 28), normalised. Output: float32 logits (batch, 10).
    """

    input_shape: ClassVar = (1, 28, 28)
    neuron_chains: ClassVar = (("fc1", "fc2", "fc3"),)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        hidden = functional.relu(self.fc2(functional.relu(self.fc1(images.flatten(1)))))
        logits: Tensor = self.fc3(hidden)
        return logits
