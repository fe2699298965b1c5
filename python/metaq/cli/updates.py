"""Commands that make updates of checkpoints, and apply them. What they need is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metaq.cli.bars import byte_bar
from metaq.cli.options import AsJson, Force, Output, Quiet
from metaq.errors import InputError

_Base = Annotated[
    Path,
    typer.Argument(help="The checkpoint that the receiver has: a file, a .mtq file or a folder.", show_default=False),
]


def delta(
    base: _Base,
    new: Annotated[Path, typer.Argument(help="The checkpoint to come, of any of these kinds.", show_default=False)],
    output: Output,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write what makes one checkpoint of another as a .mtq file, without loss, bit for bit.

    What is equal takes nothing. "metaq apply" makes the new checkpoint of the base and this file, and of no other base.
    """
    from metaq.checkpoints import write_difference
    from metaq.report.tables import print_result

    with byte_bar(quiet) as progress:
        report = write_difference(base, new, output, force=force, progress=progress)
    print_result(report, as_json, quiet)


def apply(
    base: _Base,
    differences: Annotated[
        list[Path], typer.Argument(help="Differences, each of what the ones before it make.", show_default=False)
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The place to write to.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the base, once all is done.")] = False,
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
    with byte_bar(quiet) as progress:
        apply_differences(base, differences, base if output is None else output, force=force, progress=progress)


def fold(
    base: _Base,
    differences: Annotated[
        list[Path], typer.Argument(help="Differences, each of what the ones before it make.", show_default=False)
    ],
    output: Output,
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
        report = fold_differences(base, differences, output, force=force, progress=progress)
    print_result(report, as_json, quiet)
