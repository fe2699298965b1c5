"""CIFAR-10 as JPEG images in two zip files, ``train.zip`` and ``test.zip``, with a folder for each class.

A small local stand-in for the published form. Compression as JPEG costs accuracy, so compare only within this set.
"""

from __future__ import annotations

import io
import zipfile

import numpy as np
import torch

from metaq.errors import DataError
from metaq.experiments.data.base import Dataset, Split, hold_out
from metaq.experiments.data.cifar10 import normalised
from metaq.experiments.data.files import PublishedFile, fetch

# Nobody serves them; they have to be put in their place.
_TRAIN = PublishedFile("train.zip", "4fdb7b099bad86121914b8d0040f0d70e2407b7e46ae88731cadbac80be5074e", 51_241_273)
_TEST = PublishedFile("test.zip", "39f3c34adc0071797ccfe5767dd6a94a4e93b8db6e0079b71a542df2311adabb", 10_249_684)
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_cifar10_jpeg(held_out: int) -> Dataset:
    """The JPEG copy, normalised, with ``held_out`` training images split off.

    Raises:
        DataError: Pillow is not installed, or a file is missing or another one.
    """
    return hold_out(_split(_TRAIN), _split(_TEST), held_out)


def _split(file: PublishedFile) -> Split:
    with zipfile.ZipFile(io.BytesIO(fetch("cifar10-jpeg", file))) as archive:
        members = sorted(member for member in archive.namelist() if member.endswith(".jpg"))
        labels = [_CLASSES.index(member.split("/")[-2]) for member in members]
        pixels = np.stack([_pixels(archive.read(member)) for member in members])
    return Split(normalised(torch.from_numpy(pixels).permute(0, 3, 1, 2)).contiguous(), torch.tensor(labels))


def _pixels(data: bytes) -> np.ndarray:
    """uint8 (32, 32, 3)."""
    try:
        from PIL import Image
    except ImportError:
        raise DataError("cifar10-jpeg: expected Pillow, which decodes JPEG; pip install 'metaq-nn[train]'") from None
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
