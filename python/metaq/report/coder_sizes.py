"""What a compressed model takes under every coder."""

from __future__ import annotations

from metaq import coding
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, encode
from metaq.metrics import entropy_bits
from metaq.report.tables import Row


def coder_rows(model: CompressedModel) -> list[Row]:
    """Sizes of the whole file under every coder, the smallest last, beside the zero-order entropy of its symbols."""
    zero_order = 0.0
    for tensor in model.tensors.values():
        if isinstance(tensor, CodedTensor):
            zero_order += entropy_bits(tensor.symbols) / 8
        elif not isinstance(tensor, Alias):
            zero_order += tensor.numel() * tensor.dtype.itemsize
    rows: list[Row] = [{"coder": name, "bytes": len(encode(model, name))} for name in coding.coders]
    rows.append({"coder": "zero-order entropy, no tables, no header", "bytes": round(zero_order)})
    return sorted(rows, key=lambda row: -int(row["bytes"]))
