"""scikit-learn's handwritten digits: 1,797 images of 8x8, inside the package, so that nothing is downloaded."""

from __future__ import annotations

import torch
from torch.nn import functional

from metaq.errors import DataError
from metaq.experiments.data.base import Dataset, Split, hold_out

_TEST_IMAGES = 360
_SPLIT_SEED = 1797


def load_digits(held_out: int) -> Dataset:
    """The digits, resized to 28x28 and normalised; 360 of them, always the same, are the test set.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise DataError("digits: expected scikit-learn, which holds them; pip install 'metaq-nn[train]'") from None
    images, labels = load(return_X_y=True)
    pixels = torch.from_numpy(images).to(torch.float32).reshape(-1, 1, 8, 8) / 16
    pixels = functional.interpolate(pixels, size=28, mode="bilinear", align_corners=False)
    pixels = (pixels - pixels.mean()) / pixels.std()
    targets = torch.from_numpy(labels).to(torch.int64)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    rest, test = order[:-_TEST_IMAGES], order[-_TEST_IMAGES:]
    return hold_out(Split(pixels[rest], targets[rest]), Split(pixels[test], targets[test]), held_out)
