"""torch tensors and what files hold of them: dtypes, words and bytes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metaq.errors import InputError
from metaq.format import dtypes
from metaq.format.dtypes import Dtype
from metaq.format.reader import Reader

DTYPES: dict[Dtype, torch.dtype] = {dtype: getattr(torch, dtype.name) for dtype in dtypes.DTYPES.values()}
FORMAT_DTYPES = {dtype: of_format for of_format, dtype in DTYPES.items()}
CODED_FLOATS = tuple(DTYPES[dtype] for dtype in dtypes.CODED_FLOATS)

# NumPy's dtype of the same elements or, where it has none, integers as wide.
_MEMORY = {dtype: np.dtype(dtype.name if hasattr(np, dtype.name) else f"i{dtype.itemsize}") for dtype in DTYPES}
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def octets_of(tensor: Tensor) -> np.ndarray:
    """The bytes of a tensor's elements, row-major: uint8, in one dimension. Shares memory where it can."""
    dense = tensor.detach().cpu().resolve_neg().contiguous()
    # A tensor of one element counts as contiguous with any stride, but only a stride of one can be viewed as bytes.
    octets: np.ndarray = dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy()
    return octets


def words_of(tensor: Tensor) -> np.ndarray:
    """The bits of a tensor's elements as unsigned integers, row-major, in one dimension. Shares memory where it can."""
    words: np.ndarray = octets_of(tensor).view(_WORDS[tensor.dtype.itemsize])
    return words


def is_plain(tensor: Tensor) -> bool:
    """Whether native code that changes weights takes a tensor's memory as it is: float32, dense, and aligned."""
    dense = tensor.dtype == torch.float32 and tensor.is_cpu and tensor.is_contiguous()
    return dense and tensor.data_ptr() % tensor.itemsize == 0


def new_tensor(dtype: Dtype, shape: tuple[int, ...]) -> tuple[Tensor, np.ndarray]:
    """A tensor to be filled, and its memory as an array."""
    if 0 in shape:  # of which torch would take odd strides from NumPy
        return torch.empty(shape, dtype=DTYPES[dtype]), np.empty(0, np.uint8)
    # NumPy asks for huge pages, without which the first touch of memory takes longer than decoding.
    array = np.empty(shape, _MEMORY[dtype])
    tensor = torch.from_numpy(array)
    return tensor if tensor.dtype is DTYPES[dtype] else tensor.view(DTYPES[dtype]), array


def device_of(name: str | torch.device) -> torch.device:
    """The device of that name.

    Raises:
        InputError: there is none that torch can use here.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ImportError) as error:  # what torch raises depends on the device
        found = str(error).splitlines()[0]
        raise InputError(f"device: expected one that torch can use here, found {str(name)!r} ({found})") from None


def load_tensors(reader: Reader, device: torch.device | None = None) -> dict[str, Tensor]:
    """Every tensor of a file under its name, in the file's order; aliases are the same tensor object.

    Args:
        device: where they are to be; by default the CPU.
    """
    if device is None or device.type == "cpu":
        return reader.load(new_tensor)
    tensors: dict[str, Tensor] = {}
    for group in reader.groups():
        decoded = reader.group(group.start, new_tensor)
        for name, *_, target in (reader.rows[index] for index in group):
            same = reader.rows[target][0]
            tensors[name] = tensors[same] if same in tensors else decoded[name].to(device)
    return tensors


KEPT_EXACTLY = "tensor %r: expected weights that float32 holds, found NaN, infinity or larger ones; it is kept exactly"
"""What is logged of a tensor without `are_float32`, which no step of levels goes with."""


def are_float32(weights: Tensor) -> bool:
    """Whether all weights are finite, also as float32: levels are multiples of steps of that dtype."""
    return bool(torch.isfinite(weights.float()).all())
