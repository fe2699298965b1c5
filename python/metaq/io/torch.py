"""Files of torch.save: state dicts, read without running anything in them."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaq.errors import InputError
from metaq.files import write_atomically
from metaq.io.format import Format
from metaq.io.source import StateSource, StoredTensor, TensorSource, tensor_of

if TYPE_CHECKING:
    from torch import Tensor

KEYS = ("state_dict", "model_state_dict", "model", "module")  # where training scripts put a state dict
_SAVE = "expected a state dict as torch.save writes it"


class Torch(Format):
    """Files of torch.save. Shared tensors stay shared; metadata has no place in them."""

    name = "torch"
    suffixes = (".pt", ".pth", ".bin", ".ckpt")
    package = "torch"
    extra = "torch"

    def recognises(self, start: bytes, size_bytes: int) -> bool:
        """Whether it is a zip archive, or a pickle as torch.save wrote them once."""
        return start.startswith((b"PK\3\4", b"\x80"))

    def open(self, path: Path, key: str | None = None) -> TensorSource:
        """The state dict at the top, under ``key``, or under the only one of KEYS that has one."""
        content = _load(self, path)
        source = StateSource(_state_dict(path, content, key), name=str(path))
        source.is_part = set(content) != set(source.layouts)
        return source

    def write(self, path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
        """A state dict at the top."""
        torch = _package(self, path)
        shared: dict[int, Tensor] = {}
        state = {name: shared.setdefault(id(tensor.octets), tensor_of(tensor)) for name, tensor in tensors.items()}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(path, buffer.getvalue())


def _package(format: Torch, path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise format.missing(path) from None
    return torch


def _load(format: Torch, path: Path) -> Any:
    torch = _package(format, path)
    if _is_torchscript(path):
        remedy = "save its state dict instead: torch.save(torch.jit.load(PATH).state_dict(), 'model.pt')"
        raise InputError(f"{path}: {_SAVE}, found a TorchScript archive; {remedy}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its message is how to run what is in the file
        remedy = "save its tensors alone: torch.save(model.state_dict(), 'model.pt')"
        raise InputError(f"{path}: {_SAVE}, found other content in it, which is not run; {remedy}") from None
    except Exception as error:  # on a damaged file, anything from IndexError to AssertionError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: {_SAVE}, found something else ({reason})") from None


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _state_dict(path: Path, content: Any, key: str | None) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a state dict, found {type(content).__name__}")
    if key is not None:
        if key not in content:
            found = ", ".join(map(repr, list(content)[:20])) or "none"
            raise InputError(f"{path}: expected the key {key!r}, found {found}")
        return _checked(path, content[key], [])
    known = [name for name in KEYS if isinstance(content.get(name), dict)]
    if len(known) > 1:
        found = ", ".join(known)
        raise InputError(f"{path}: expected one state dict, found several, under {found}; say which with --key NAME")
    if known:
        return _checked(path, content[known[0]], [])
    return _checked(path, content, [name for name, value in content.items() if _is_state_dict(value)])


def _is_state_dict(value: Any) -> bool:
    from torch import Tensor

    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())


def _checked(path: Path, state: Any, others: list[Any]) -> dict[str, Tensor]:
    """A state dict; a message about another names the keys under which there are some."""
    from torch import Tensor

    if not isinstance(state, dict):
        raise InputError(f"{path}: expected a state dict, found {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            remedy = (
                f"; there are tensors under {', '.join(map(str, others))}: say which with --key NAME" if others else ""
            )
            raise InputError(f"{path}: expected named tensors, found {type(value).__name__} under {name!r}{remedy}")
    return dict(state)
