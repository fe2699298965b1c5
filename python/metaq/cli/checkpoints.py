"""Commands on checkpoints and `.mtq` files. What they need is imported when they run, so that help need not wait."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from metaq.cli.bars import byte_bar, resumable, spinner, step_bars
from metaq.cli.options import (
    AsJson,
    Force,
    MtqPath,
    Output,
    Quality,
    Quiet,
    Resume,
    SortColumn,
    check_outputs,
    parse_bits,
    parse_size,
)

_TARGET = "What to compress to: one of these at most; without any, 4 bits"
_CHOICES = "What to keep and how to code"


def _complete_coder(incomplete: str) -> list[str]:
    from metaq import coding

    return [name for name in coding.coders if name.startswith(incomplete)]


def compress(
    source: Annotated[
        Path,
        typer.Argument(help="A checkpoint, a Hugging Face folder, or - for standard input.", show_default=False),
    ],
    output: Output,
    bits: Annotated[
        float | None, typer.Option(help="Coded bits per quantized weight to stay below.", rich_help_panel=_TARGET)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="Size of the file to stay below: 4MB, 500kB, 20000.", rich_help_panel=_TARGET),
    ] = None,
    max_error: Annotated[
        float | None, typer.Option(help="Relative squared error to stay below.", rich_help_panel=_TARGET)
    ] = None,
    quality: Annotated[
        Quality | None,
        typer.Option(help="Relative squared errors of 3e-2, 3e-3 and 3e-4.", rich_help_panel=_TARGET),
    ] = None,
    step: Annotated[
        float | None,
        typer.Option(help="Put every weight on the nearest multiple of this.", rich_help_panel=_TARGET),
    ] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Keep every bit.", rich_help_panel=_TARGET)] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Keep tensors of matching names exactly; may be repeated.", rich_help_panel=_CHOICES
        ),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATTERN:bits=N",
            help="Give matching tensors N bits per weight; may be repeated. "
            "The first pattern that matches a tensor's name counts.",
            rich_help_panel=_CHOICES,
        ),
    ] = None,
    coder: Annotated[
        str | None,
        typer.Option(
            help="mixing (smallest), adaptive (nearly as small, faster), rans (fastest), range, huffman, zstd, lzma, "
            "gzip or stored. Unless given, it is mixing; from 4 MiB on adaptive, and rans with --lossless.",
            show_default=False,
            autocompletion=_complete_coder,
            rich_help_panel=_CHOICES,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="The key under which a torch file holds its state dict.", show_default=False, rich_help_panel=_CHOICES
        ),
    ] = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compress a checkpoint without training, to a size or to an error, as a .mtq file.

    Matrices and filters are quantized. Biases and norms stay as exact as float16, or exact with --step and --keep.
    With --lossless everything stays as it is, bit for bit: bfloat16 weights take about two thirds of their size.
    A folder of shards becomes a folder of .mtq shards. The place - is standard input or output.
    """
    from metaq.checkpoints import CompressionConfig, compress_path
    from metaq.report.tables import print_result

    config = CompressionConfig(
        max_error=max_error,
        size_bytes=None if size is None else parse_size(size),
        bits=bits,
        quality=quality,
        keep=tuple(keep or ()),
        tensor_bits=parse_bits(override or []),
        step=step,
        lossless=lossless,
        coder=coder,
    )
    with resumable(output, quiet) as progress:
        report = compress_path(source, output, config, resume=resume, force=force, key=key, progress=progress)
    if str(output) != "-":
        print_result(report.as_dict(), as_json, quiet)


def decompress(
    source: Annotated[Path, typer.Argument(help="A .mtq file, a folder of such files, or -.", show_default=False)],
    output: Output,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write the tensors of a .mtq file to a checkpoint, of the kind that the output's suffix names.

    A folder of .mtq shards becomes the folder that it was made of. The place - is standard input or output.
    """
    from metaq.checkpoints import decompress_path

    with resumable(output, quiet) as progress:
        decompress_path(source, output, resume=resume, force=force, progress=progress)


def inspect(source: MtqPath, as_json: AsJson = False) -> None:
    """Show what a .mtq file holds, tensor by tensor, and what each costs; of a folder, file by file."""
    from metaq.report.contents import inspect_file, inspect_folder
    from metaq.report.tables import show, show_entries

    with byte_bar() as progress:
        found = (inspect_folder if source.is_dir() else inspect_file)(source, progress)
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
        return
    show(found.rows, title=str(source))
    show_entries(found.summary | {f"metadata {key}": value for key, value in found.metadata.items()})


def verify(source: MtqPath, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Check every byte of a .mtq file or of a folder's: checksums, limits, and that all of it decodes."""
    from metaq.report.contents import verify_file, verify_folder
    from metaq.report.tables import print_result, show

    with byte_bar(quiet) as progress:
        if source.is_dir():
            rows, result = verify_folder(source, progress)
        else:
            rows, result = [], verify_file(source, progress)
    if rows and as_json:
        result |= {"files": rows}
    elif rows and not quiet:
        show(rows, title=str(source))
    print_result(result, as_json, quiet)


def compare(
    first: Annotated[
        Path, typer.Argument(help="A checkpoint, a .mtq file, or a folder of either.", show_default=False)
    ],
    second: Annotated[Path, typer.Argument(help="Another one of the same network.", show_default=False)],
    reference: Annotated[
        Path | None,
        typer.Option(
            help="The checkpoint that both were made of, to compare their rates and errors.", show_default=False
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="The recipe whose network and test set measure both.", show_default=False),
    ] = None,
    sort: Annotated[
        SortColumn,
        typer.Option(help="The column to sort by: numbers from the largest down, names from a to z."),
    ] = SortColumn.SHARE,
    top: Annotated[int | None, typer.Option(min=1, help="Show so many rows and no more.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two checkpoints: errors and sizes tensor by tensor and over all, and accuracies, given a recipe.

    Tensors that cannot be compared, because only one checkpoint has them or their shapes differ, come first.
    """
    from metaq.report import compare as comparison
    from metaq.report.tables import show, show_entries

    with spinner(f"comparing {first.name} and {second.name}"):
        a, b = comparison.read_checkpoint(first), comparison.read_checkpoint(second)
        rows, summary = comparison.compare(a, b)
        if reference is not None:
            summary |= comparison.rate_distortion(a, b, comparison.read_checkpoint(reference))
        if recipe is not None:
            summary |= comparison.accuracies(a, b, recipe)
    rows = comparison.sorted_rows(rows, sort)[:top]
    if as_json:
        print(json.dumps({**summary, "tensors": rows}, indent=2))
        return
    show(rows)
    show_entries(summary)


def curve(
    source: Annotated[Path, typer.Argument(help="A checkpoint file.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The place to write the figures to, as JSON.")] = Path(
        "curve.json"
    ),
    plot: Annotated[Path, typer.Option(help="The place to draw them, as SVG.")] = Path("curve.svg"),
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure size against error of a checkpoint, for every quantizer and coder."""
    from metaq.files import write_atomically

    check_outputs(output, plot, force=force, source=source)
    from metaq.io import read_state
    from metaq.report import curve as curves
    from metaq.report.tables import show

    state, _ = read_state(source)
    with step_bars(quiet) as advance:
        rows = curves.curve(state, advance=lambda done, total: advance("quantizing and coding", done, total))
    figures = json.dumps({"checkpoint": str(source), "rows": rows}, indent=2)
    write_atomically(output, figures.encode())
    curves.write_plot(rows, plot)
    if as_json:
        print(figures)
    elif not quiet:
        show(curves.size_rows(rows), title=f"{source.name}: bytes by coder")
