"""Tiny Shakespeare: 1,115,394 characters of 65 kinds, in windows of 64 whose next characters are to be told."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metaq.errors import InputError
from metaq.experiments.data.base import Dataset, Split
from metaq.experiments.data.files import PublishedFile, fetch

CONTEXT = 64  # characters in a window
_FILE = PublishedFile(
    "input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    1_115_394,
    ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",),
)
_TRAINING_SHARE = 0.9  # the first so much of the text


def load_tinyshakespeare(held_out: int) -> Dataset:
    """The first nine tenths of the text for training; of the last, the first ``held_out`` characters and the test set.

    Training windows begin at every character, and an epoch takes as many as would cover the text once. Held-out and
    test windows lie one after another, so that every character but the first is told once; it has up to 63 before it.

    Raises:
        InputError: the last tenth does not have that many characters, or no window would be left.
        DataError: the file cannot be found or downloaded, or is not the published one.
    """
    text = torch.from_numpy(np.frombuffer(fetch("tinyshakespeare", _FILE), np.uint8).copy())
    characters = torch.unique(text, return_inverse=True)[1]
    length = int(_TRAINING_SHARE * len(characters))
    train, rest = characters[:length], characters[length:]
    largest = len(rest) - CONTEXT - 1
    if not CONTEXT < held_out <= largest:
        raise InputError(f"held-out characters: expected {CONTEXT + 1} to {largest}, found {held_out}")
    windows = _windows(train, 1)
    windows = Split(windows.inputs, windows.labels, samples_per_epoch=len(train) // CONTEXT)
    return Dataset(windows, _windows(rest[:held_out], CONTEXT), _windows(rest[held_out:], CONTEXT))


def _windows(characters: Tensor, distance: int) -> Split:
    """Windows that begin ``distance`` characters apart: views of the text, however much they overlap."""
    inputs, labels = (part.unfold(0, CONTEXT, distance) for part in (characters[:-1], characters[1:]))
    return Split(inputs, labels)
