"""metaq: neural networks, small on disk."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaq.api import decode, encode, load_file, load_into, save
    from metaq.calibration import Calibration, calibrate
    from metaq.checkpoints import CompressionConfig, compress_state_dict
    from metaq.compressor import Compressor
    from metaq.errors import DataError, FormatError, InputError, MetaqError, RecipeError
    from metaq.lazy import safe_open
    from metaq.lossless import compress_losslessly
    from metaq.methods import HEMP, LC, LOBSTER, DeepCompression, METaQ, Pruned
    from metaq.pipeline import Alias, CodedTensor, CompressedModel, compress
    from metaq.pretrained import from_pretrained, save_pretrained

__version__ = "0.1.0"

__all__ = [
    "HEMP",
    "LC",
    "LOBSTER",
    "Alias",
    "Calibration",
    "CodedTensor",
    "CompressedModel",
    "CompressionConfig",
    "Compressor",
    "DataError",
    "DeepCompression",
    "FormatError",
    "InputError",
    "METaQ",
    "MetaqError",
    "Pruned",
    "RecipeError",
    "calibrate",
    "compress",
    "compress_losslessly",
    "compress_state_dict",
    "decode",
    "encode",
    "from_pretrained",
    "load_file",
    "load_into",
    "safe_open",
    "save",
    "save_pretrained",
]

_MODULES = (
    "api",
    "calibration",
    "checkpoints",
    "compressor",
    "errors",
    "lazy",
    "lossless",
    "methods",
    "pipeline",
    "pretrained",
)


def __getattr__(name: str) -> Any:
    """Public names and submodules on first use: `metaq --help` need not wait for torch."""
    if name in __all__:
        for module in map(importlib.import_module, (f"metaq.{module}" for module in _MODULES)):
            if hasattr(module, name):
                return getattr(module, name)
    try:
        return importlib.import_module(f"metaq.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"module 'metaq' has no attribute {name!r}") from error
