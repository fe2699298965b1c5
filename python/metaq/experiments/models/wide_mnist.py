"""A network for MNIST that is good rather than small, to teach small ones."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class WideMnist(nn.Module):
    """Three 3x3 convolutions with batch normalisation and max pooling, and two dense layers: 241,898 parameters.

    Input: float32 images (batch, 1, 28, 28), normalised. Output: float32 logits (batch, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 128, 3, 1, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(128)
        self.fc1 = nn.Linear(1152, 128, bias=False)
        self.bn4 = nn.BatchNorm1d(128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        hidden = functional.max_pool2d(functional.relu(self.bn1(self.conv1(images))), 2)
        hidden = functional.max_pool2d(functional.relu(self.bn2(self.conv2(hidden))), 2)
        hidden = functional.max_pool2d(functional.relu(self.bn3(self.conv3(hidden))), 2).flatten(1)
        logits: Tensor = self.fc2(functional.relu(self.bn4(self.fc1(hidden))))
        return logits
