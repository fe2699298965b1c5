"""Random changes to training images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def shifted(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Each image (n, channels, height, width) moved by up to ``pixels`` either way, its edges repeated behind it."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (pixels, pixels, pixels, pixels), mode="replicate")
    offsets = torch.randint(0, 2 * pixels + 1, (2, count, 1), generator=generator)
    rows, columns = offsets[0] + torch.arange(height), offsets[1] + torch.arange(width)
    each = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (n, channels, height, width) mirrored left to right, or not, with equal chances."""
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(chosen.to(images.device), images.flip(3), images)
