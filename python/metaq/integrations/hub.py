"""A mixin for modules of one's own, which go to the hub and come back as `.mtq` files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from metaq.api import load_file, load_into, save
from metaq.checkpoints import CompressionConfig, compress_state_dict
from metaq.errors import InputError
from metaq.integrations import FILE
from metaq.integrations.repository import folder_of
from metaq.tensors import octets_of

try:
    from huggingface_hub import ModelHubMixin
except ModuleNotFoundError as error:
    needed = "metaq.integrations.hub needs huggingface_hub: pip install 'metaq-nn[hub]'"
    raise ModuleNotFoundError(needed, name=error.name) from None


class MetaqModelMixin(ModelHubMixin, library_name="metaq", tags=["metaq"]):
    """Gives a module ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``, with its weights in ``model.mtq``::

        class Network(nn.Module, MetaqModelMixin):
            compression = metaq.CompressionConfig(bits=3)

            def __init__(self, width: int = 64) -> None:
                super().__init__()
                self.layer = nn.Linear(width, 10)

        Network(width=32).push_to_hub("me/network")
        network = Network.from_pretrained("me/network")

    Arguments of ``__init__`` that JSON can hold are in `config.json`. A module that is as it was loaded is saved as the
    same file, byte for byte, and any other is compressed.

    Attributes:
        compression: to what error or size; None for 4 bits a weight.

    Raises:
        InputError: by ``save_pretrained``, what `metaq.compress_state_dict` refuses; by ``from_pretrained``, no such
            folder or repository, or a file with other tensors than the module's.
        FormatError: by ``from_pretrained``, a file that is not a whole and unchanged `.mtq` file.
    """

    compression: ClassVar[CompressionConfig | None] = None
    _loaded_from: Path | None = None

    def _save_pretrained(self, save_directory: Path) -> None:
        module = _as_module(self)
        target = save_directory / FILE
        if self._loaded_from is not None and self._loaded_from.is_file():
            stored = load_file(self._loaded_from)
            if _is_same(stored, module.state_dict()):
                if not (target.exists() and target.samefile(self._loaded_from)):
                    shutil.copyfile(self._loaded_from, target)
                return
        save(compress_state_dict(module.state_dict(), self.compression), target)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> Self:
        options = {
            "revision": revision,
            "cache_dir": cache_dir,
            "force_download": force_download,
            "local_files_only": local_files_only,
            "token": token,
        }
        path = folder_of(model_id, options) / FILE
        model = cls(**model_kwargs)
        load_into(_as_module(model), path)
        _as_module(model).eval()
        model._loaded_from = path
        return model


def _as_module(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        found = f"{type(model).__name__}, which is none"
        raise InputError(f"MetaqModelMixin: expected a class that is a torch.nn.Module too, found {found}")
    return model


def _is_same(stored: dict[str, Tensor], state: dict[str, Tensor]) -> bool:
    """Whether tensors of a file are, bit for bit, those of a state."""
    return stored.keys() == state.keys() and all(
        tensor.dtype == state[name].dtype
        and tensor.shape == state[name].shape
        and torch.equal(torch.from_numpy(octets_of(tensor)), torch.from_numpy(octets_of(state[name])))
        for name, tensor in stored.items()
    )
