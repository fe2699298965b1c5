"""CIFAR-10 as published: 50,000 training and 10,000 test images of 32x32 in colour, from the binary form's archive."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import torch
from torch import Tensor

from metaq.experiments.data.base import Dataset, Split, hold_out
from metaq.experiments.data.files import PublishedFile, fetch

# The archive itself is checked, not its content. CIFAR-10 is published in two forms; this one needs no unpickling.
_ARCHIVE = PublishedFile(
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    170_052_171,
    ("https://www.cs.toronto.edu/~kriz/",),
)
_TRAIN = [f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)]
_TEST = ["cifar-10-batches-bin/test_batch.bin"]
_RECORD_BYTES = 1 + 3 * 32 * 32  # a label, then the red, green and blue plane

# The colours' means and deviations are ImageNet's: the usual checkpoints for CIFAR-10 were trained with them.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_cifar10(held_out: int) -> Dataset:
    """CIFAR-10, normalised, with ``held_out`` training images split off.

    Raises:
        DataError: the archive cannot be found or downloaded, or is not the published one.
    """
    with tarfile.open(fileobj=io.BytesIO(fetch("cifar10", _ARCHIVE)), mode="r:gz") as archive:
        train, test = (split_of(b"".join(_member(archive, name) for name in names)) for names in (_TRAIN, _TEST))
    return hold_out(train, test, held_out)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None  # the archive is the published one
    return file.read()


def split_of(records: bytes) -> Split:
    """Images and labels from records of the binary form, one after another."""
    table = torch.from_numpy(np.frombuffer(records, np.uint8).reshape(-1, _RECORD_BYTES).copy())
    return Split(normalised(table[:, 1:].reshape(-1, 3, 32, 32)), table[:, 0].to(torch.int64))


def normalised(pixels: Tensor) -> Tensor:
    """Float32 images from uint8 pixels (n, 3, 32, 32)."""
    mean, deviation = (torch.tensor(values).reshape(3, 1, 1) for values in (_MEAN, _DEVIATION))
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(deviation)
