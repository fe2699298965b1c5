"""Random changes to training images."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from metaq.errors import InputError
from metaq.experiments.recipe import StageSection

_ELASTIC_PIXELS_APART = 7  # the points whose displacements are drawn; those between them follow smoothly


def augmented(inputs: Tensor, section: StageSection, generator: torch.Generator) -> Tensor:
    """A batch of images (n, channels, height, width), or of any other samples, changed as a stage of training asks.

    Raises:
        InputError: it asks for changes to images, and these are none.
    """
    is_distorted = section.rotation_degrees or section.scale_share or section.elastic_pixels
    if not (is_distorted or section.shift_pixels or section.flip):
        return inputs
    if inputs.ndim != 4:
        raise InputError(
            f"augmentation: expected images (n, channels, height, width), found samples of shape {tuple(inputs.shape)};"
            " leave out rotation_degrees, scale_share, elastic_pixels, shift_pixels and flip"
        )
    if is_distorted:
        amounts = section.rotation_degrees, section.scale_share, section.elastic_pixels
        inputs = distorted(inputs, *amounts, generator)
    if section.shift_pixels:
        inputs = shifted(inputs, section.shift_pixels, generator)
    return flipped(inputs, generator) if section.flip else inputs


def distorted(
    images: Tensor, rotation_degrees: float, scale_share: float, elastic_pixels: float, generator: torch.Generator
) -> Tensor:
    """Each image rotated, scaled and bent at random, by bilinear interpolation, its edges repeated around it.

    Args:
        images: float (n, channels, height, width).
        rotation_degrees: each image turns about its centre by up to so much, either way.
        scale_share: it becomes larger or smaller by up to this share.
        elastic_pixels: the standard deviation of displacements each way of points 7 pixels apart, between which the
            image is bent smoothly (Simard et al. 2003).
    """
    count, _, height, width = images.shape
    turns, scales = 2 * torch.rand(2, count, 1, 1, generator=generator) - 1
    angles, factors = math.radians(rotation_degrees) * turns, 1 + scale_share * scales
    rows, columns = (torch.arange(size) - (size - 1) / 2 for size in (height, width))
    across, down = columns[None, None, :] / factors, rows[None, :, None] / factors
    places = torch.stack([angles.cos() * across - angles.sin() * down, angles.sin() * across + angles.cos() * down])
    if elastic_pixels:
        places += elastic_pixels * _smooth_noise(count, height, width, generator)
    sides = torch.tensor([width - 1, height - 1]).reshape(2, 1, 1, 1) / 2
    grid = (places / sides).permute(1, 2, 3, 0).to(images.device, images.dtype)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=True)


def _smooth_noise(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(2, count, height, width): normal at points some pixels apart, by cubic interpolation in between."""
    points = [math.ceil((size - 1) / _ELASTIC_PIXELS_APART) + 1 for size in (height, width)]
    noise = torch.randn(2, count, *points, generator=generator)
    by_row, by_column = _cubic_weights(points[0], height), _cubic_weights(points[1], width)
    return by_row @ noise @ by_column.T


def _cubic_weights(points: int, size: int) -> Tensor:
    """(size, points): what each pixel takes of each point."""
    each = torch.eye(points)[None, None]
    return functional.interpolate(each, (size, points), mode="bicubic", align_corners=True)[0, 0]


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
