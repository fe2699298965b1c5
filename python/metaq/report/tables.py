"""Rows and results, which are plain dictionaries for `--json`, as tables for a person's eyes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metaq.report.printable import printable

Row = dict[str, Any]

_HEADINGS = {
    "zero_order_bits_per_weight": "entropy,\nbits per\nweight",
    "bits_per_weight": "coded,\nbits per\nweight",
    "squared_error_share": "share of\nerror",
    "relative_squared_error": "relative\nsquared\nerror",
    "largest_difference": "largest\ndifference",
    "first_bytes": "first,\nbytes",
    "second_bytes": "second,\nbytes",
    "header_and_checksum_bytes": "header,\nbytes",
    "file_bytes": "file,\nbytes",
    "file_bits_per_weight": "file,\nbits per\nweight",
}
# What a narrow terminal goes without, the first of these first.
_LESS_NEEDED = (
    *("weights_sha256", "difference_from", "largest_difference", "dtype", "zeros", "levels"),
    *("zero_order_bits_per_weight", "machine", "result", "seconds"),
    *("shape", "kind", "first_bytes", "header_and_checksum_bytes", "tensors", "network", "data", "method"),
)
_FOLDED = {
    "tensor",
    "file",
    "kind",
    "remark",
    "recipe",
    "recipe or source",
    "description",
}  # texts that may go on in a next line
_LEAST_FOLDED = 24  # characters that such a text gets in each line
_GAP = 2  # characters between columns
_LOOK: Any = {"header_style": "bold", "box": box.SIMPLE_HEAD, "show_edge": False, "padding": (0, 1, 0, 0)}
_UNLIMITED = 1 << 16  # characters in a line where no terminal limits them


def show(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print rows as a table, with the keys of all of them as its columns; nothing where a row lacks a key.

    A terminal that is too narrow for all columns is shown the more important ones, and told which it is not shown.
    """
    console = _console()
    columns = dict.fromkeys(column for row in rows for column in row)
    cells = {column: [text(row.get(column, "")) for row in rows] for column in columns}
    fitting = _fitting(cells, console.width)
    table = Table(**_LOOK)
    for column in fitting:
        is_number = any(isinstance(row.get(column), int | float) for row in rows)
        table.add_column(
            heading(column),
            justify="right" if is_number else "left",
            overflow="fold" if column in _FOLDED else "ellipsis",
            no_wrap=column not in _FOLDED,
        )
    for index in range(len(rows)):
        table.add_row(*(Text(cells[column][index]) for column in fitting))
    if title:
        console.print(Text(printable(title), style="bold"))
    console.print(table)
    if len(fitting) < len(cells):
        missing = ", ".join(heading(column).replace("\n", " ") for column in cells if column not in fitting)
        console.print(Text(f"This terminal has no room for these columns: {missing}.", style="dim"))
    console.print()


def _fitting(cells: Mapping[str, Sequence[str]], width: int) -> list[str]:
    """The columns that fit a width."""
    widths = {}
    for column, texts in cells.items():
        widest = max(cell_len(line) for entry in (heading(column), *texts) for line in entry.split("\n"))
        widths[column] = _GAP + (min(widest, _LEAST_FOLDED) if column in _FOLDED else widest)
    for column in _LESS_NEEDED:
        if sum(widths.values()) > width:
            widths.pop(column, None)
    return list(widths)


def heading(column: str) -> str:
    """What stands above a column, in one line or more."""
    return _HEADINGS.get(column, column.replace("_", " "))


def show_entries(entries: Mapping[str, Any]) -> None:
    """Print one result, a line for each of its entries."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", overflow="fold")
    table.add_column(overflow="fold")
    for key, value in entries.items():
        table.add_row(Text(printable(key.replace("_", " "))), Text(text(value)))
    _console().print(table)


def print_result(result: Mapping[str, Any], as_json: bool, quiet: bool = False) -> None:
    """Print one result: as JSON, or else as a line for each of its entries, or else, for ``quiet``, not at all."""
    if as_json:
        print(json.dumps(result, indent=2))
    elif not quiet:
        show_entries(result)


def _console() -> Console:
    """As wide as the terminal; where there is none, as wide as any table, so that each row is one line."""
    return Console() if sys.stdout.isatty() else Console(width=_UNLIMITED)


def text(value: object) -> str:
    """A value as people read it: thousands apart, four significant digits."""
    if value is None:
        return "none"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return printable("x".join(map(str, value)) or "scalar" if isinstance(value, list) else str(value))
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
