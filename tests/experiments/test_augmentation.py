"""Augmentation moves whole images, all ways, and changes nothing else."""

import torch

from metaq.experiments.augmentation import flipped, shifted


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
