"""MobileNet-v2 (Sandler et al. 2018) in its usual form for images of 32x32."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

_GROUPS = (  # expansion, output channels, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 1),  # not 2 as for large images, and so is that of the first convolution
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class _Block(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, 1x1 projection; a shortcut where the size stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride == 1 and inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(images)))
        hidden = functional.relu(self.bn2(self.conv2(hidden)))
        projected: Tensor = self.bn3(self.conv3(hidden))
        return projected + self.shortcut(images) if self.stride == 1 else projected


class MobileNetV2(nn.Module):
    """MobileNet-v2 for CIFAR-10: 2,296,922 parameters.

    Input: float32 images (batch, 3, 32, 32), normalised. Output: float32 logits (batch, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        blocks: list[_Block] = []
        inputs = 32
        for expansion, outputs, count, stride in _GROUPS:
            for index in range(count):
                blocks.append(_Block(inputs, outputs, expansion, stride if index == 0 else 1))
                inputs = outputs
        self.layers = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(320, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        hidden = self.layers(functional.relu(self.bn1(self.conv1(images))))
        hidden = functional.relu(self.bn2(self.conv2(hidden))).mean(dim=(2, 3))
        logits: Tensor = self.linear(hidden)
        return logits
