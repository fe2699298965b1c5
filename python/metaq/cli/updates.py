"""Commands that make updates of checkpoints, and apply them. What they need is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from metaq.cli.bars import byte_bar, resumable
from metaq.cli.options import AsJson, Force, Output, Quiet, Resume, parse_size
from metaq.errors import InputError

_Base = Annotated[
    Path,
    typer.Argument(help="The checkpoint that the receiver has: a file, a .mtq file or a folder.", show_default=False),
]
_BaseKey = Annotated[
    str | None,
    typer.Option(help="The key under which a torch file of the base holds its state dict."),
]
_TARGET = "What to quantize changes to: one of these at most; without any, nothing is lost"


def delta(
    base: _Base,
    new: Annotated[Path, typer.Argument(help="The checkpoint to come, of any of these kinds.", show_default=False)],
    output: Output,
    bits: Annotated[
        float | None,
        typer.Option(help="Coded bits per weight that has changes to stay below.", rich_help_panel=_TARGET),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="Size of the file to stay below: 4MB, 500kB, 20000.", rich_help_panel=_TARGET),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(help="Squared error of the changes, relative to them, to stay below.", rich_help_panel=_TARGET),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="The key under which a torch file of the new checkpoint holds its state dict.")
    ] = None,
    base_key: _BaseKey = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write what makes one checkpoint of another as a .mtq file, without loss, or to an error or a size.

    What is equal takes nothing. "metaq apply" makes the new checkpoint of the base and this file, and of no other base.
    With --bits, --size or --max-error changes of matrices and filters are quantized; all else stays exact.
    """
    from metaq.checkpoints import CompressionConfig, write_difference
    from metaq.report.tables import print_result

    config = CompressionConfig(
        max_error=max_error,
        size_bytes=None if size is None else parse_size(size),
        bits=bits,
        lossless=max_error is None and size is None and bits is None,
    )
    with resumable(output, quiet) as progress:
        shared: Any = {"key": key, "base_key": base_key, "resume": resume, "force": force}
        report = write_difference(base, new, output, config, progress=progress, **shared)
    print_result(report, as_json, quiet)


def apply(
    base: _Base,
    differences: Annotated[
        list[Path], typer.Argument(help="Differences, each of what the ones before it make.", show_default=False)
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The place to write to.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the base, once all is done.")] = False,
    base_key: _BaseKey = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write the checkpoint that a difference, or several one after the other, make of their base.

    The output is a file of the kind that its suffix names, or of a folder another folder. Another base, or differences
    in another order, are refused, and nothing is written.
    """
    from metaq.checkpoints import apply_differences

    if (output is None) != in_place:
        found = "both" if in_place else "neither"
        raise InputError(f"metaq apply: expected either --output or --in-place, found {found}")
    place = base if output is None else output
    with resumable(place, quiet) as progress:
        shared: Any = {"base_key": base_key, "resume": resume, "force": force}
        apply_differences(base, differences, place, progress=progress, **shared)


def fold(
    base: _Base,
    differences: Annotated[
        list[Path], typer.Argument(help="Differences, each of what the ones before it make.", show_default=False)
    ],
    output: Output,
    base_key: _BaseKey = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write one difference in the place of several that follow each other.

    It makes of the base at once what they make of it one after the other.
    """
    from metaq.checkpoints import fold_differences
    from metaq.report.tables import print_result

    with byte_bar(quiet) as progress:
        report = fold_differences(base, differences, output, base_key=base_key, force=force, progress=progress)
    print_result(report, as_json, quiet)
