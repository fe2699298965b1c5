"""The data sets of the papers: small loaders that never need torchvision."""

from __future__ import annotations

from collections.abc import Callable

from metaq.errors import entry_of_name
from metaq.experiments.data.base import Dataset, Split
from metaq.experiments.data.cifar10 import load_cifar10
from metaq.experiments.data.cifar10_jpeg import load_cifar10_jpeg
from metaq.experiments.data.digits import load_digits
from metaq.experiments.data.mnist import load_mnist
from metaq.experiments.data.tinyshakespeare import load_tinyshakespeare

datasets: dict[str, Callable[[int], Dataset]] = {
    "mnist": load_mnist,
    "digits": load_digits,
    "cifar10": load_cifar10,
    "cifar10-jpeg": load_cifar10_jpeg,
    "tinyshakespeare": load_tinyshakespeare,
}
TEXTS = frozenset({"tinyshakespeare"})
"""Those whose networks tell the next character; all others are images with a class each."""


def by_name(name: str) -> Callable[[int], Dataset]:
    """A data set's loader, which takes how many training images, or characters of text, to hold out.

    Raises:
        InputError: no data set has that name.
    """
    return entry_of_name(name, datasets, "data set")


__all__ = ["TEXTS", "Dataset", "Split", "by_name", "datasets"]
