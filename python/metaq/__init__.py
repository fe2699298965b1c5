"""metaq: neural networks, small on disk."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Where each public name lives. `import metaq` loads none of it: errors and `metaq --help` need not wait for torch.
# Type checkers read __init__.pyi.
_MODULES = {
    "HEMP": "metaq.methods",
    "LC": "metaq.methods",
    "LOBSTER": "metaq.methods",
    "Alias": "metaq.compressed_model",
    "Calibration": "metaq.quantizers",
    "CodedTensor": "metaq.compressed_model",
    "CompressedModel": "metaq.compressed_model",
    "CompressionConfig": "metaq.checkpoints",
    "Compressor": "metaq.compressor",
    "DataError": "metaq.errors",
    "DeepCompression": "metaq.methods",
    "DeltaReader": "metaq.update_log",
    "DeltaWriter": "metaq.update_log",
    "Difference": "metaq.methods",
    "FormatError": "metaq.errors",
    "InputError": "metaq.errors",
    "Limits": "metaq.format.limits",
    "METaQ": "metaq.methods",
    "MetaqError": "metaq.errors",
    "Pruned": "metaq.methods",
    "RecipeError": "metaq.errors",
    "Sized": "metaq.methods",
    "apply": "metaq.differences",
    "apply_difference": "metaq.differences",
    "c_program": "metaq.integrations.device",
    "calibrate": "metaq.quantizers",
    "checksum": "metaq.differences",
    "compress": "metaq.quantizers",
    "compress_losslessly": "metaq.quantizers",
    "compress_calibrated": "metaq.checkpoints",
    "compress_state_dict": "metaq.checkpoints",
    "decode": "metaq.numpy",
    "delta": "metaq.checkpoints",
    "encode": "metaq.numpy",
    "from_pretrained": "metaq.integrations.pretrained",
    "load_file": "metaq.api",
    "load_into": "metaq.api",
    "order_neurons": "metaq.neuron_order",
    "safe_open": "metaq.api",
    "save": "metaq.api",
    "save_pretrained": "metaq.integrations.pretrained",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Public names and submodules on first use."""
    module = _MODULES.get(name, f"metaq.{name}")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise AttributeError(f"module 'metaq' has no attribute {name!r}") from error
        if error.name not in ("torch", "safetensors"):
            raise
        needed = f"metaq.{name} needs {error.name}: pip install 'metaq-nn[torch]'; metaq.numpy reads files without it"
        raise ModuleNotFoundError(needed, name=error.name) from None
    return getattr(found, name) if name in _MODULES else found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
