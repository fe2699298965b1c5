"""Differences: what makes one network of another, its base, which is named by a checksum (docs/format.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from metaq.compressed_model import Alias, CodedTensor, CompressedModel, check_model, check_state, shared_names
from metaq.errors import InputError
from metaq.format.applying import apply_to, open_difference
from metaq.format.base_checksum import base_checksum, shortened
from metaq.format.network import Layout
from metaq.tensors import CODED_FLOATS, FORMAT_DTYPES, new_tensor, octets_of


class StateNetwork:
    """A state dict, on any device, as a `metaq.format.network.Network`; a tensor is fetched when it is asked for.

    Raises:
        InputError: a tensor that no file can hold.
    """

    def __init__(self, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, name: str = "") -> None:
        check_state(state)
        self.name, self.metadata, self.aliases = name, dict(metadata or {}), shared_names(state)
        self.layouts = {key: Layout(FORMAT_DTYPES[tensor.dtype], tuple(tensor.shape)) for key, tensor in state.items()}
        self._flat = {key: tensor.detach().reshape(-1) for key, tensor in state.items()}

    def octets(self, name: str, elements: range) -> np.ndarray:
        """The elements' bytes; a view where they are in memory."""
        return octets_of(self._flat[name][elements.start : elements.stop])


def apply(base: Mapping[str, Tensor], difference: bytes | memoryview | str | os.PathLike[str]) -> dict[str, Tensor]:
    """The network that a difference makes of its base, every tensor new and on the CPU.

    Args:
        base: all tensors of the base, by name, on any device.
        difference: the bytes of a `.mtq` file that is a difference, made by `delta` or trained; or its path.

    Returns:
        every tensor by name, in the base's order, and then those that are new; shared ones are the same object.

    Raises:
        InputError: a whole model, or another base than the difference's; the message names both.
        FormatError: the bytes are not a whole and unchanged `.mtq` file.
    """
    return apply_to(open_difference(difference), StateNetwork(base), new_tensor)


def checksum(state: Mapping[str, Tensor]) -> str:
    """The name of a base: SHA-256, in hexadecimal, of its tensors' names, dtypes, shapes and bytes, in any order.

    Raises:
        InputError: a tensor that no file can hold.

    Example:
        >>> metaq.checksum({"w": torch.zeros(2), "b": torch.ones(1)})[:12]
        '0ccf89afb1e2'
    """
    return base_checksum(StateNetwork(state))


def add(base: Tensor, difference: Tensor) -> Tensor:
    """The base's tensor with its difference: the same bits on every machine.

    Args:
        base: float32, float16, bfloat16 or float64.
        difference: float32, finite, in the same shape. Elements where it is 0 stay as they are, and so do NaN.

    Returns:
        in the base's dtype, rounded once more than the sum in float32; that of float64 is a sum in float64.
    """
    wide = torch.float64 if base.dtype == torch.float64 else torch.float32
    total = (base.to(wide) + difference.to(wide)).to(base.dtype)
    return torch.where((difference == 0) | base.isnan(), base, total)


def apply_difference(difference: CompressedModel, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network that a difference makes of its base.

    Args:
        base: all tensors of the base, by name, on any device.

    Returns:
        every tensor by name, in the base's order, and then those that are new; those that the difference leaves alone
        are the base's own.

    Raises:
        InputError: a whole model, or another base than the difference's.

    Example:
        >>> base = {"w": torch.tensor([1.0, 2.0]), "b": torch.zeros(3)}
        >>> entry = metaq.CodedTensor(torch.tensor([0, -3]), UniformCodebook(0.25), torch.float32)
        >>> difference = metaq.CompressedModel({"w": entry}, base=metaq.checksum(base))
        >>> metaq.apply_difference(difference, base)["w"].tolist()
        [1.0, 1.25]
    """
    if difference.base is None:
        raise InputError("difference: expected one, found a whole model; decompress() gives its tensors")
    check_model(difference)
    sums = {name: entry for name, entry in difference.tensors.items() if _is_sum(entry)}
    for name, entry in sums.items():
        _check_tensor(name, entry, base.get(name))
    found = checksum(base)
    if found != difference.base:
        expected = shortened(difference.base)
        raise InputError(
            f"difference: expected the base {expected}, found {shortened(found)}: other weights, or the same with a"
            " difference applied to them; load the base's weights first"
        )
    result = dict(base)
    for name, entry in difference.tensors.items():
        if isinstance(entry, Alias):
            result[name] = result[entry.name]
        elif isinstance(entry, Tensor):
            result[name] = entry
        else:
            values = entry.decompress()
            result[name] = _sum(name, base[name], values) if name in sums else values
    return result


def _is_sum(entry: CodedTensor | Tensor | Alias) -> bool:
    """Whether an entry is added to the base's tensor, rather than taking its place."""
    return isinstance(entry, CodedTensor) and entry.dtype.is_floating_point


def _check_tensor(name: str, entry: CodedTensor | Tensor | Alias, base: Tensor | None) -> None:
    assert isinstance(entry, CodedTensor)
    shape = tuple(entry.symbols.shape)
    found = "no such tensor" if base is None else f"shape {tuple(base.shape)}"
    if base is None or tuple(base.shape) != shape:
        raise InputError(f"base, tensor {name!r}: expected shape {shape}, as in the difference, found {found}")
    if base.dtype not in CODED_FLOATS:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in CODED_FLOATS)
        raise InputError(f"base, tensor {name!r}: expected one of {known}, found {base.dtype}")


def _sum(name: str, base: Tensor, values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise InputError(f"difference, tensor {name!r}: expected finite values, found infinity")
    return add(base, values.to(base.device))
