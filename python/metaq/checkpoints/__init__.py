"""A checkpoint, without training, to a size or an error, and back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaq.checkpoints.calibrated import compress_calibrated
    from metaq.checkpoints.compression import compress_path
    from metaq.checkpoints.config import CompressionConfig, CompressionReport
    from metaq.checkpoints.decompression import decompress_path
    from metaq.checkpoints.folder_kind import FolderKind
    from metaq.checkpoints.resumable import work_folder
    from metaq.checkpoints.state_delta import delta
    from metaq.checkpoints.state_dict import compress_state_dict
    from metaq.checkpoints.updates import apply_differences, fold_differences, write_difference

__all__ = [
    "CompressionConfig",
    "CompressionReport",
    "FolderKind",
    "apply_differences",
    "compress_calibrated",
    "compress_path",
    "compress_state_dict",
    "decompress_path",
    "delta",
    "fold_differences",
    "work_folder",
    "write_difference",
]

# Where each name lives. Nothing is loaded before it is used: decompression does without torch.
_MODULES = {
    "CompressionConfig": "config",
    "CompressionReport": "config",
    "FolderKind": "folder_kind",
    "apply_differences": "updates",
    "compress_path": "compression",
    "fold_differences": "updates",
    "compress_calibrated": "calibrated",
    "compress_state_dict": "state_dict",
    "decompress_path": "decompression",
    "delta": "state_delta",
    "work_folder": "resumable",
    "write_difference": "updates",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
