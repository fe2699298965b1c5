"""The ResNets for CIFAR-10 (He et al. 2015, section 4.2), with shortcuts that have no parameters (option A), and
MLPerf Tiny's ResNet-8 (Banbury et al. 2021), whose shortcuts are convolutions where size halves.

Names of parameters and buffers are those of the best known published checkpoints of the former.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut around them; where size halves, the shortcut skips pixels, pads channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.shortcut = self._shortcut(inputs, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(images))

    def _shortcut(self, inputs: int, outputs: int) -> nn.Module:
        return _Padding((outputs - inputs) // 2, self.stride)


class _ProjectedBlock(_Block):
    """The same, but where size halves, the shortcut is a 1x1 convolution."""

    def _shortcut(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Identity() if self.stride == 1 else nn.Conv2d(inputs, outputs, 1, self.stride, bias=False)


class _Padding(nn.Module):
    """Every ``stride``-th pixel each way, with ``channels`` of zeros before the channels and as many behind."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, images: Tensor) -> Tensor:
        pixels = images[:, :, :: self.stride, :: self.stride]
        return functional.pad(pixels, (0, 0, 0, 0, self.channels, self.channels))


class _ResNet(nn.Module):
    """A convolution, three groups of blocks with 16, 32 and 64 channels, the mean over all pixels, a linear layer.

    Input: float32 images (batch, 3, 32, 32), normalised. Output: float32 logits (batch, 10).
    """

    blocks_per_group: int
    block: type[_Block] = _Block

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
        rest = (self.block(outputs, outputs) for _ in range(self.blocks_per_group - 1))
        return nn.Sequential(self.block(inputs, outputs), *rest)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        hidden = functional.relu(self.bn1(self.conv1(images)))
        hidden = self.layer3(self.layer2(self.layer1(hidden))).mean(dim=(2, 3))
        logits: Tensor = self.linear(hidden)
        return logits


class ResNet8(_ResNet):
    """ResNet-8 of MLPerf Tiny: 77,850 parameters, which are the published 78,186 without biases that shift the input of
    batch normalisation, or are shifted by it.
    """

    blocks_per_group = 1
    block = _ProjectedBlock


class ResNet20(_ResNet):
    """ResNet-20: 269,722 parameters."""

    blocks_per_group = 3


class ResNet32(_ResNet):
    """ResNet-32: 464,154 parameters."""

    blocks_per_group = 5
