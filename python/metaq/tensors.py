"""torch tensors and what files hold of them: dtypes, words and bytes."""

from __future__ import annotations

import torch

from metaq.format import dtypes
from metaq.format.dtypes import Dtype
from metaq.format.planes import octets_of, words_of

DTYPES: dict[Dtype, torch.dtype] = {dtype: getattr(torch, dtype.name) for dtype in dtypes.DTYPES.values()}
FORMAT_DTYPES = {dtype: of_format for of_format, dtype in DTYPES.items()}
CODED_FLOATS = tuple(DTYPES[dtype] for dtype in dtypes.CODED_FLOATS)

__all__ = ["CODED_FLOATS", "DTYPES", "FORMAT_DTYPES", "octets_of", "words_of"]
