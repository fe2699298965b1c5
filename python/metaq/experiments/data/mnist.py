"""MNIST: 60,000 training and 10,000 test images of 28x28, from the four files as published."""

from __future__ import annotations

import numpy as np
import torch

from metaq.experiments.data.base import Dataset, Split, hold_out
from metaq.experiments.data.files import PublishedFile, fetch

_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_IMAGE_HEADER_BYTES, _LABEL_HEADER_BYTES = 16, 8


def _published(name: str, sha256: str, size_bytes: int) -> PublishedFile:
    return PublishedFile(f"{name}-ubyte.gz", sha256, size_bytes, _MIRRORS, is_gzip=True)


_FILES = {
    "train-images": _published(
        "train-images-idx3", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 47_040_016
    ),
    "train-labels": _published(
        "train-labels-idx1", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 60_008
    ),
    "test-images": _published(
        "t10k-images-idx3", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 7_840_016
    ),
    "test-labels": _published(
        "t10k-labels-idx1", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 10_008
    ),
}
_MEAN, _DEVIATION = 0.1307, 0.3081  # of the training pixels


def load_mnist(held_out: int) -> Dataset:
    """MNIST, normalised, with ``held_out`` training images split off.

    Raises:
        DataError: a file cannot be found or downloaded, or is not the published one.
    """
    train = Split(_images("train-images"), _labels("train-labels"))
    return hold_out(train, Split(_images("test-images"), _labels("test-labels")), held_out)


def _content(key: str, header_bytes: int) -> np.ndarray:
    return np.frombuffer(fetch("mnist", _FILES[key]), np.uint8, offset=header_bytes)


def _images(key: str) -> torch.Tensor:
    pixels = torch.from_numpy(_content(key, _IMAGE_HEADER_BYTES).reshape(-1, 1, 28, 28).astype(np.float32))
    return (pixels / 255 - _MEAN) / _DEVIATION


def _labels(key: str) -> torch.Tensor:
    return torch.from_numpy(_content(key, _LABEL_HEADER_BYTES).astype(np.int64))
