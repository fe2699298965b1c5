"""Named tensors of several kinds in one safetensors file, tensors that are the same stored once.

"inputs:<name>", "rows:<name>", ...       the tensors
metadata "metaq.calibration"              JSON: {"same": {"inputs:<name>": "inputs:<other name>"}, and the fields}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from metaq.errors import FormatError, first_line
from metaq.files import FileBytes, atomic_file, refuse_devices
from metaq.io.safetensors import read_safetensors

KINDS = ("inputs", "rows", "counts", "lookups", "expected", "positions", "unseen", "optimism")
_KEY = "metaq.calibration"


def write(path: str | os.PathLike[str], tensors: Mapping[str, Mapping[str, Tensor]], fields: Mapping[str, Any]) -> None:
    """Write tensors, by kind and name, and fields of JSON.

    Raises:
        InputError: the place cannot be written.
    """
    stored: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    same: dict[str, str] = {}
    for kind, named in tensors.items():
        for name, tensor in named.items():
            key = f"{kind}:{name}"
            if id(tensor) in first:
                same[key] = first[id(tensor)]
            else:
                first[id(tensor)], stored[key] = key, tensor.detach().cpu().contiguous().clone()
    octets = safetensors.torch.save(stored, {_KEY: json.dumps({"same": same, **fields})})
    with atomic_file(path, len(octets)) as file:
        file.write(octets)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors and fields that `write` was given.

    Raises:
        InputError: the file cannot be read.
        FormatError: it is damaged, or another kind of file.
    """
    refuse_devices(path)
    FileBytes(path).close()
    try:
        stored, metadata = read_safetensors(Path(path))
        if _KEY not in metadata:
            raise FormatError(f"{path}: expected a calibration, found another safetensors file")
        fields = json.loads(metadata[_KEY])
        stored |= {key: stored[other] for key, other in fields.pop("same").items()}
    except FormatError:
        raise
    except Exception as error:  # of any kind, since any JSON and any tensors may be in such a file
        found = f"a damaged or foreign file: {first_line(error)}"
        raise FormatError(f"{path}: expected a calibration, found {found}") from None
    kinds: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    for key, tensor in stored.items():
        kind, _, name = key.partition(":")
        if kind not in kinds:
            raise FormatError(f"{path}: expected a calibration, found a tensor named {key!r}")
        kinds[kind][name] = tensor
    return kinds, fields
