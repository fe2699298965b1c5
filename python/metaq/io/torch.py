"""`.pt` and `.pth` files: state dicts as torch.save writes them, read without running anything in them."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from metaq.errors import InputError
from metaq.files import write_atomically


def read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a state dict, or of the one under the key "state_dict"; there is no metadata.

    Raises:
        InputError: not a readable file of torch.save, or one that holds anything but named tensors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its message is how to run what is in the file
        raise InputError(f"{path}: expected a state dict as torch.save writes it, found other content in it") from None
    except Exception as error:  # on a damaged file, anything from IndexError to AssertionError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: expected a state dict as torch.save writes it, found otherwise ({reason})") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a state dict, found {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(f"{path}: expected named tensors, found {type(value).__name__} under {name!r}")
    return dict(content), {}


def write_torch(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a state dict; shared tensors stay shared. Metadata has no place in it.

    Raises:
        InputError: a place that cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomically(path, buffer.getvalue())
