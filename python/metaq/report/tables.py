"""Tables: their rows as plain dictionaries, for `--json`, and the same rows for a person's eyes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from metaq import coding
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, encode
from metaq.format import planes
from metaq.format.reader import Reader
from metaq.format.sequence import Run
from metaq.metrics import entropy_bits, entropy_of_order
from metaq.tensors import words_of

Row = dict[str, Any]

_ORDERS = (1, 2, 4)

_HEADINGS = {"zero_order_bits_per_weight": "entropy,\nbits/weight", "bits_per_weight": "coded,\nbits/weight"}


def tensor_rows(reader: Reader, model: CompressedModel) -> list[Row]:
    """A row for each tensor of a file, whose content ``model`` is: what it is, and what it costs.

    The tensors of a chunk are one stream of bytes; its size is shared out by their zero-order entropies.
    """
    sizes = shared_sizes(reader, model)
    rows: list[Row] = []
    for index, (entry, tensor) in enumerate(zip(reader.header.tensors, model.tensors.values(), strict=True)):
        row: Row = {"tensor": entry.name, "dtype": entry.dtype.name, "shape": list(entry.shape)}
        row["kind"] = "kept"
        if isinstance(tensor, Alias):
            row["kind"] = f"alias of {tensor.name}"
        elif isinstance(tensor, CodedTensor):
            row["kind"] = "coded"
            row["levels"] = int(tensor.symbols.unique().numel())
            row["zeros"] = int((tensor.symbols == 0).sum())
            row["zero_order_bits_per_weight"] = entropy_bits(tensor.symbols) / max(1, entry.size)
        row["bits_per_weight"] = 8 * sizes[index] / max(1, entry.size)
        row["bytes"] = round(sizes[index], 1)
        rows.append(row)
    return rows


def entropy_entries(model: CompressedModel) -> dict[str, float]:
    """Entropies of several orders, in bits per weight, of all coded weights of a model together."""
    return {f"entropy_order_{order}_bits_per_weight": entropy_of_order(model, order) for order in _ORDERS}


def shared_sizes(reader: Reader, model: CompressedModel) -> list[float]:
    """Bytes of each tensor of a file, whose content ``model`` is; a chunk's are shared out by zero-order entropy."""
    of_model = _Symbols(list(model.tensors.values()))
    sizes = [0.0] * len(reader.header.tensors)
    for chunk, runs in zip(reader.header.chunks, reader.chunk_runs(), strict=True):
        # Half a bit for each tensor, so that constant ones do not divide by zero.
        bits = [entropy_bits(of_model.symbols(run)) + 0.5 for run in runs]
        for run, share in zip(runs, bits, strict=True):
            sizes[run.tensor] += chunk.payload_bytes * share / sum(bits)
    return sizes


class _Symbols:
    """The symbols of a model's runs: of coded tensors their own, of kept ones bytes of their planes."""

    def __init__(self, tensors: Sequence[CodedTensor | Tensor | Alias]) -> None:
        self.tensors = tensors
        self.split: dict[int, np.ndarray] = {}

    def symbols(self, run: Run) -> Tensor:
        """Those of one run, in one dimension."""
        tensor = self.tensors[run.tensor]
        assert not isinstance(tensor, Alias)
        if isinstance(tensor, CodedTensor):
            return tensor.symbols.reshape(-1)[run.elements.start : run.elements.stop]
        assert run.plane is not None
        if run.tensor not in self.split:
            self.split[run.tensor] = planes.split(words_of(tensor), tensor.dtype.is_floating_point)
        return torch.from_numpy(self.split[run.tensor][run.plane, run.elements.start : run.elements.stop])


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


def show(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print rows as a table, with the keys of all of them as its columns; nothing where a row lacks a key."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=Text(title) if title else None, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        is_number = any(isinstance(row.get(column), int | float) for row in rows)
        table.add_column(_HEADINGS.get(column, column), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(text(row.get(column, ""))) for column in columns))
    _console().print(table)


def show_entries(entries: Mapping[str, Any]) -> None:
    """Print one result, a line for each of its entries."""
    table = Table(box=None, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in entries.items():
        table.add_row(Text(key.replace("_", " ")), Text(text(value)))
    _console().print(table)


def _console() -> Console:
    """As wide as the terminal; where there is none, wide enough for every table."""
    return Console() if sys.stdout.isatty() else Console(width=140)


def text(value: object) -> str:
    """A value as people read it: thousands apart, four significant digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "x".join(map(str, value)) or "scalar" if isinstance(value, list) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def result_entries(result: Mapping[str, Any]) -> dict[str, str]:
    """What people ask of a run first."""
    return {
        "float32": f"{result['float32_bytes']:,} bytes",
        "file": f"{result['file_bytes']:,} bytes",
        "ratio": f"{result['ratio']:,.1f}",
        "top-1 before, test": f"{result['test_before']['accuracy']:.2%}",
        "top-1 after, test": f"{result['test_after']['accuracy']:.2%}",
        "training": f"{result['seconds']:.0f} s",
    }
