"""What metaq has for the `transformers` library. Importing this module makes metaq's quantizer known to that library::

    import metaq.integrations.transformers
    from transformers import AutoModel

    model = AutoModel.from_pretrained("FOLDER")  # that `metaq compress MODEL -o FOLDER --as safetensors` made

`metaq.integrations.quantizer` says how. `save_pretrained` and `from_pretrained` are those of `metaq`, which need no
`transformers`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from metaq.integrations.pretrained import from_pretrained, save_pretrained

if TYPE_CHECKING:
    from metaq.integrations.quantizer import MetaqConfig as MetaqConfig
    from metaq.integrations.quantizer import MetaqQuantizer as MetaqQuantizer
    from metaq.integrations.trainer_callback import MetaqCallback as MetaqCallback

__all__ = ["MetaqCallback", "MetaqConfig", "MetaqQuantizer", "from_pretrained", "save_pretrained"]

_MODULES = {
    "MetaqCallback": "metaq.integrations.trainer_callback",
    "MetaqConfig": "metaq.integrations.quantizer",
    "MetaqQuantizer": "metaq.integrations.quantizer",
}


def __getattr__(name: str) -> Any:
    """What needs `transformers`, on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in ("transformers", "accelerate"):
            raise
        needed = f"{name} needs {error.name}: pip install 'metaq-nn[transformers]'"
        raise ModuleNotFoundError(needed, name=error.name) from None


try:
    importlib.import_module("metaq.integrations.quantizer")
except ImportError as error:  # no transformers, or a release that no quantizer can be added to
    if not str(error.name).startswith("transformers"):
        raise
