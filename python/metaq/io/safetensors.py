"""`.safetensors` files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from metaq.errors import InputError
from metaq.files import write_atomically


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors in the file's order, and its metadata.

    Raises:
        InputError: not a readable `.safetensors` file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.offset_keys()}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: expected a .safetensors file, found otherwise ({reason})") from None


def write_safetensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors; shared ones are written once for each name, since the format knows no sharing.

    Raises:
        InputError: a place that cannot be written, or a tensor under the one name that the format keeps for itself.
    """
    if "__metadata__" in state:
        raise InputError(f"{path}: expected no tensor called '__metadata__' in a .safetensors file, found one")
    separate = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    write_atomically(path, safetensors.torch.save(separate, dict(metadata) or None))
