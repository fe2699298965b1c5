"""CIFAR-10 as JPEG images in two zip files, ``train.zip`` and ``test.zip``, with a folder for each class.

A small local stand-in for the published form. Compression as JPEG costs accuracy, so compare only within this set.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import torch

from metaq.errors import DataError
from metaq.experiments.data.base import Dataset, Split, hold_out
from metaq.experiments.data.cifar10 import normalised
from metaq.experiments.data.files import cache_folder

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_cifar10_jpeg(held_out: int) -> Dataset:
    """The JPEG copy, normalised, with ``held_out`` training images split off.

    Raises:
        DataError: Pillow is not installed, a file is missing, or it holds anything but images of 32x32 by class.
    """
    return hold_out(_split("train.zip"), _split("test.zip"), held_out)


def _split(name: str) -> Split:
    path = _path(name)
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(member for member in archive.namelist() if member.endswith(".jpg"))
            labels = [_label(path, member) for member in members]
            pixels = np.stack([_pixels(f"{path}, {member}", archive.read(member)) for member in members])
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: expected a zip file of JPEG images, found something else ({error})") from None
    return Split(normalised(torch.from_numpy(pixels).permute(0, 3, 1, 2)).contiguous(), torch.tensor(labels))


def _path(name: str) -> Path:
    local = os.environ.get("METAQ_DATA")
    folders = ([Path(local)] if local else []) + [cache_folder()]
    paths = [folder / "cifar10-jpeg" / name for folder in folders]
    for path in paths:
        if path.is_file():
            return path
    raise DataError(f"cifar10-jpeg: expected {name} at {' or '.join(map(str, paths))}, found none; put the file there")


def _label(path: Path, member: str) -> int:
    folder = member.rpartition("/")[0].rpartition("/")[2]
    if folder not in _CLASSES:
        raise DataError(f"{path}, {member}: expected a folder of {', '.join(_CLASSES)}, found {folder!r}")
    return _CLASSES.index(folder)


def _pixels(where: str, data: bytes) -> np.ndarray:
    """uint8 (32, 32, 3)."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise DataError("cifar10-jpeg: expected Pillow, which decodes JPEG; pip install 'metaq-nn[train]'") from None
    try:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except UnidentifiedImageError:
        raise DataError(f"{where}: expected a JPEG image, found another file") from None
    if pixels.shape != (32, 32, 3):
        raise DataError(f"{where}: expected an image of 32x32, found {pixels.shape[1]}x{pixels.shape[0]}")
    return pixels
