"""The ResNets for CIFAR-10 (He et al. 2015, section 4.2), with shortcuts that have no parameters (option A).

Names of parameters and buffers are those of the best known published checkpoints of these networks.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut around them; where size halves, the shortcut skips pixels, pads channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.added_channels = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(images)))
        half = self.added_channels // 2
        shortcut = functional.pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return functional.relu(self.bn2(self.conv2(hidden)) + shortcut)


class _ResNet(nn.Module):
    """A convolution, three groups of blocks with 16, 32 and 64 channels, the mean over all pixels, a linear layer.

    Input: float32 images (batch, 3, 32, 32), normalised. Output: float32 logits (batch, 10).
    """

    blocks_per_group: int

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._group(16, 16)
        self.layer2 = self._group(16, 32)
        self.layer3 = self._group(32, 64)
        self.linear = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def _group(self, inputs: int, outputs: int) -> nn.Sequential:
        rest = (_Block(outputs, outputs) for _ in range(self.blocks_per_group - 1))
        return nn.Sequential(_Block(inputs, outputs), *rest)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        hidden = functional.relu(self.bn1(self.conv1(images)))
        hidden = self.layer3(self.layer2(self.layer1(hidden))).mean(dim=(2, 3))
        logits: Tensor = self.linear(hidden)
        return logits


class ResNet20(_ResNet):
    """ResNet-20: 269,722 parameters."""

    blocks_per_group = 3


class ResNet32(_ResNet):
    """ResNet-32: 464,154 parameters."""

    blocks_per_group = 5
