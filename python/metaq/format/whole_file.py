"""Small files in one go: the native decoder of whole files, where steps in Python would take longer than decoding."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from metaq import _native
from metaq.format.header import DTYPES

# Of all tensors. With more, rANS straight to values and planes joined by vectors gain more than steps in Python cost
# (`metaq.format.assembly`); at 4 MiB of float32 the two ways are even, of bfloat16 in planes a little earlier.
MOST_BYTES = 1 << 21
TASK_BYTES = 1 << 18  # of tensors: a thread takes longer to start than to decode less


def load(data: memoryview) -> dict[str, Tensor] | None:
    """Every tensor of a small file under its name, in the file's order; aliases are the same tensor object.

    Returns:
        None if the file is not small, is damaged (`metaq.format.reader` tells more of that), or has a chunk of a coder
        that only `metaq.coding` has.
    """
    if len(data) > MOST_BYTES:
        return None
    file = _native.WholeFile(np.frombuffer(data, np.uint8))
    if not file.is_open or file.size_bytes > MOST_BYTES:
        return None
    tensors: list[Tensor] = []
    entries = file.tensors()
    for at, (_, dtype, shape, strides, target) in enumerate(entries):
        # Takes a third less time than torch.empty.
        tensors.append(torch.empty_strided(shape, strides, dtype=DTYPES[dtype]) if target == at else tensors[target])
    threads = min(os.cpu_count() or 1, 1 + file.size_bytes // TASK_BYTES)
    if not file.decode([tensor.data_ptr() for tensor in tensors], threads):
        return None
    return {name: tensor for (name, *_), tensor in zip(entries, tensors, strict=True)}
