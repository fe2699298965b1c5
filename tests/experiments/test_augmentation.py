"""Augmentation moves whole images, all ways, and changes nothing else."""

import pytest
import torch

from metaq.errors import InputError
from metaq.experiments.augmentation import augmented, distorted, flipped, shifted
from metaq.experiments.recipe import StageSection


def test_shifts_move_whole_images_and_all_ways():
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(200, 2, 5, 7)
    images[:, :, 2, 3] = torch.tensor([1.0, 2.0])
    moved = shifted(images, 1, generator)
    assert moved.shape == images.shape
    places = set()
    for image in moved:
        (row,), (column,) = torch.nonzero(image[0], as_tuple=True)
        assert float(image[1, row, column]) == 2.0
        assert float(image.sum()) == 3.0
        places.add((int(row), int(column)))
    assert places == {(row, column) for row in (1, 2, 3) for column in (2, 3, 4)}


def test_flips_mirror_about_half_of_the_images():
    images = torch.arange(1000.0).reshape(500, 1, 1, 2)
    mirrored = flipped(images, torch.Generator().manual_seed(0))
    is_mirrored = mirrored[:, 0, 0, 0] > mirrored[:, 0, 0, 1]
    assert 200 < int(is_mirrored.sum()) < 300
    assert torch.equal(torch.where(is_mirrored[:, None, None, None], mirrored.flip(3), mirrored), images)


def ramp(count, height=28, width=28):
    """Images whose first channel is each pixel's column, and whose second is its row, from the centre on."""
    rows, columns = (torch.arange(float(size)) - (size - 1) / 2 for size in (height, width))
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy")).expand(count, 2, height, width).contiguous()


def test_no_distortion_changes_nothing():
    images = torch.randn(5, 2, 9, 13)
    torch.testing.assert_close(distorted(images, 0.0, 0.0, 0.0, torch.Generator()), images)


def test_rotation_keeps_distances_from_the_centre_and_scale_multiplies_them():
    images = ramp(300)
    inside = (slice(None), slice(None), slice(9, 19), slice(9, 19))  # which nothing from outside reaches
    lengths = images[inside].norm(dim=1)
    turned = distorted(images, 30.0, 0.0, 0.0, torch.Generator().manual_seed(0))[inside]
    torch.testing.assert_close(turned.norm(dim=1), lengths, atol=1e-4, rtol=0)
    angles = torch.atan2(turned[:, 1], turned[:, 0]) - torch.atan2(images[inside][:, 1], images[inside][:, 0])
    degrees = (angles[:, 0, 0].rad2deg() + 180) % 360 - 180
    assert 25 < float(degrees.abs().max()) <= 30.01
    assert float(degrees.min()) < -25
    scaled = distorted(images, 0.0, 0.25, 0.0, torch.Generator().manual_seed(0))[inside]
    factors = (lengths / scaled.norm(dim=1)).flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors), atol=1e-4, rtol=0)
    assert 0.75 <= float(factors.min()) < 0.78
    assert 1.22 < float(factors.max()) <= 1.2501


def test_elastic_displacements_are_smooth_and_of_the_size_that_was_asked_for():
    images = ramp(400)
    moves = (distorted(images, 0.0, 0.0, 1.0, torch.Generator().manual_seed(0)) - images)[:, :, 7:-7, 7:-7]
    assert 0.6 < float(moves.std()) < 1.1
    assert float(moves.diff(dim=3).std()) < 0.3
    assert abs(float((moves[:, 0] * moves[:, 1]).mean())) < 0.05


def test_a_stage_asks_for_all_of_it_by_name():
    images = torch.randn(6, 1, 28, 28)
    section = StageSection(1, 1, 1.0, rotation_degrees=5.0, scale_share=0.1, elastic_pixels=0.5, shift_pixels=1)
    found = augmented(images, section, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(found, shifted(distorted(images, 5.0, 0.1, 0.5, generator), 1, generator))
    assert augmented(images, StageSection(1, 1, 1.0), torch.Generator()) is images
    text = torch.zeros(6, 64, dtype=torch.int64)
    with pytest.raises(InputError, match=r"expected images .* found samples of shape \(6, 64\)"):
        augmented(text, section, torch.Generator())
