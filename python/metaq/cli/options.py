"""Options that several commands share, and the values of options that are more than a number or a word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from metaq.errors import InputError


def complete_recipe(incomplete: str) -> list[str]:
    """The names of recipes that begin so, for shells."""
    from metaq.report.recipes import recipe_rows

    return [row["recipe"] for row in recipe_rows() if row["recipe"].startswith(incomplete)]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace an output that exists; the source never is.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no table; errors are still shown.")]
RecipeName = Annotated[
    str,
    typer.Argument(
        help="The name of a recipe (see `metaq recipes`), or the path of a .toml file.",
        show_default=False,
        autocompletion=complete_recipe,
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what a stopped run left.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The place to write to.", show_default=False)]
MtqFile = Annotated[Path, typer.Argument(help="A .mtq file.", show_default=False)]
Device = Annotated[str, typer.Option(help="The device to train on: cpu, cuda, or another that torch has.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override an entry of the recipe; may be repeated. "
        "Overrides are applied in the order given: of two of the same entry, the later wins.",
    ),
]
MtqPath = Annotated[Path, typer.Argument(help="A .mtq file, or a folder that metaq compress made.", show_default=False)]

_UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


_SIZES = 1 << 63


class Quality(StrEnum):
    """The qualities of `metaq.checkpoints.CompressionConfig`, for the help and for completion."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class SortColumn(StrEnum):
    """The columns that `metaq compare` sorts by."""

    SHARE = "squared_error_share"
    ERROR = "relative_squared_error"
    DIFFERENCE = "largest_difference"
    FIRST = "first_bytes"
    SECOND = "second_bytes"
    TENSOR = "tensor"


def parse_size(text: str) -> int:
    """Bytes: "4MB", "0.5 MiB", "20000". Units of 1000 are kB, MB and GB, those of 1024 KiB, MiB and GiB.

    Raises:
        InputError: the text is no size.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([A-Za-z]*)", text.strip())
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    if found is None or found[2].lower() not in units:
        raise InputError(f"size: expected a number and a unit such as kB, MB, MiB or none, found {text!r}")
    size_bytes = float(found[1]) * units[found[2].lower()]
    if size_bytes >= _SIZES:
        raise InputError(f"size: expected fewer than 2^63 bytes, found {text!r}")
    return int(size_bytes)


def parse_bits(texts: Sequence[str]) -> dict[str, float]:
    """Bits by pattern, in the order of the texts PATTERN:bits=N; N counts from the last colon.

    Raises:
        InputError: a text has another form, or a pattern occurs twice.
    """
    bits: dict[str, float] = {}
    for text in texts:
        pattern, _, entry = text.rpartition(":")
        key, _, value = entry.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = None
        if not pattern or key != "bits" or number is None:
            raise InputError(f"--set: expected PATTERN:bits=NUMBER, found {text!r}")
        if pattern in bits:
            raise InputError(f"--set: expected each pattern once, found {pattern!r} twice")
        bits[pattern] = number
    return bits


def check_outputs(*outputs: Path, force: bool, source: Path | None = None) -> None:
    """Refuse to write over files that exist, unless the user says so; and over the source, always.

    Raises:
        InputError: an output exists and ``force`` is off, or an output is the source.
    """
    for output in outputs:
        if source is not None and output.exists() and source.exists() and output.samefile(source):
            raise InputError(f"{output}: expected another place than the source, found the source itself")
        if output.is_file() and not force:
            raise InputError(f"{output}: expected no such file yet, found one; --force replaces it")
