"""Commands on checkpoints and `.mtq` files. What they need is imported when they run, so that help need not wait."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metaq.checkpoints.folder_kind import FolderKind
from metaq.cli.bars import byte_bar, resumable, spinner, step_bars
from metaq.cli.calibration import DataOptions, compress_with_data, hint_at_data
from metaq.cli.compress_options import (
    AsKind,
    Bits,
    Calibrate,
    CheckpointPath,
    CoderName,
    Keep,
    Key,
    Lossless,
    MaxError,
    QualityName,
    RefitEpochs,
    Samples,
    Size,
    Step,
    TensorBits,
    Window,
)
from metaq.cli.options import (
    AsJson,
    Force,
    MtqPath,
    Output,
    Quiet,
    Resume,
    SortColumn,
    check_outputs,
    complete_recipe,
    parse_bits,
    parse_size,
)

if TYPE_CHECKING:
    from metaq.format.checked_file import CheckedFile


def compress(
    source: CheckpointPath,
    output: Output,
    bits: Bits = None,
    size: Size = None,
    max_error: MaxError = None,
    quality: QualityName = None,
    step: Step = None,
    lossless: Lossless = False,
    keep: Keep = None,
    override: TensorBits = None,
    coder: CoderName = None,
    key: Key = None,
    kind: AsKind = FolderKind.MTQ,
    calibrate: Calibrate = None,
    samples: Samples = None,
    window: Window = None,
    refit: RefitEpochs = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compress a checkpoint without training, to a size or to an error, as a .mtq file.

    Matrices and filters are quantized. Biases and norms stay as exact as float16, or exact with --step and --keep.
    With --lossless everything stays as it is, bit for bit: bfloat16 weights take about two thirds of their size.
    A folder of shards becomes a folder of .mtq shards or, with --as safetensors, one that transformers loads. With
    --calibrate the model of a Hugging Face folder is run on some data, and files of the same size are nearer to it. The
    place - is standard input or output. Started by "torchrun -m metaq compress", the processes share the shards of a
    folder.
    """
    from metaq.checkpoints import CompressionConfig, compress_path
    from metaq.checkpoints.ranks import joined
    from metaq.report.tables import print_result

    with joined() as ranks:
        if ranks is not None and not ranks.is_first:
            raise typer.Exit(0 if ranks.serve() else 2)
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
        options = DataOptions(calibrate, samples, window, refit)
        shared: Any = {"resume": resume, "force": force, "key": key, "kind": kind, "ranks": ranks}
        with resumable(output, quiet) as progress:
            if calibrate is None:
                report = compress_path(source, output, config, progress=progress, **shared)
            else:
                report = compress_with_data(source, output, config, options, progress=progress, **shared)
        if calibrate is None and not quiet:
            hint_at_data(source, config)
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


def export(
    source: Annotated[Path, typer.Argument(help="A .mtq file, or -.", show_default=False)],
    output: Output,
    like: Annotated[
        Path | None,
        typer.Option(
            help="The .onnx model whose initialisers have the names of the tensors. A file that was made of an .onnx "
            "model needs none.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write an .onnx model with the weights of a .mtq file, those that are quantized as integers.

    The graph is that of another .onnx model, or of the one that the file was made of. Initialisers of 4, 8 or 16 bits
    take the place of its quantized weights, with the operators that make these of them. It becomes opset 21, if it is
    less. The place - is standard input.
    """
    from metaq.integrations.onnx import export as export_file
    from metaq.report.tables import print_result

    with byte_bar(quiet) as progress:
        report = export_file(source, output, like, force=force, progress=progress).as_dict()
    if not as_json:
        left = report.pop("left")
        report |= {"kinds": ", ".join(f"{count} {kind}" for kind, count in report["kinds"].items()), "left": len(left)}
    print_result(report, as_json, quiet)


def inspect(source: MtqPath, as_json: AsJson = False) -> None:
    """Show what a .mtq file holds, tensor by tensor, and what each costs; of a folder, file by file.

    A folder may have .mtq files by themselves, or within .safetensors files, as --as safetensors makes them.
    """
    from metaq.io.standard import readable
    from metaq.report.contents import inspect_file, inspect_folder
    from metaq.report.tables import show, show_entries

    with byte_bar() as progress:
        if source.is_dir():
            found = inspect_folder(source, progress)
        else:
            with readable(source) as path:
                found = inspect_file(path, progress)
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
        return
    show(found.rows, title=str(source))
    show_entries(found.summary | {f"metadata {key}": value for key, value in found.metadata.items()})


def pack(
    source: MtqPath,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The image to write, as bytes.", show_default=False)
    ] = None,
    c: Annotated[
        Path | None,
        typer.Option("--c", help="The header to write, with the image as an array of C.", show_default=False),
    ] = None,
    forward: Annotated[
        bool | None,
        typer.Option(
            help="Write the network's forward pass into the header. By default it is, if it can be.", show_default=False
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="The recipe whose network it is, if the file names none.",
            show_default=False,
            autocompletion=complete_recipe,
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Turn a .mtq file into an image for small devices, which have no room to decode its header.

    It prints the image's size and the bytes of arena that a device needs to decode it, at most; with a forward pass
    also the bytes that results of layers take. For networks of your own there is metaq.c_program.
    """
    from metaq.errors import InputError
    from metaq.files import open_bytes, write_atomically
    from metaq.format.checked_file import CheckedFile
    from metaq.format.device_image import c_header
    from metaq.io.standard import readable
    from metaq.report.tables import print_result

    if output is None and c is None:
        raise InputError("expected a place to write the image to, found none; give -o or --c")
    with readable(source) as path:
        file = CheckedFile(open_bytes(path), str(source))
    image, arena_bytes = file.device_image()
    result: dict[str, Any] = {"bytes": len(image), "arena_bytes": arena_bytes}
    if output is not None:
        write_atomically(output, image)
    if c is not None:
        text, more = _forward_pass(file, forward, recipe, c.stem)
        write_atomically(c, (text or c_header(image, arena_bytes, c.stem)).encode())
        result |= more
    print_result(result, as_json, quiet)


def _forward_pass(
    file: CheckedFile, forward: bool | None, recipe: str | None, name: str
) -> tuple[str | None, dict[str, Any]]:
    """A header with the forward pass, and what is to be said of it. Unless it is asked for, there may be none."""
    from metaq.errors import InputError

    is_known = recipe is not None or "recipe" in file.header.metadata
    if forward is False or (forward is None and not is_known):
        return None, {}
    try:
        from metaq.experiments.device import recipe_program

        made = recipe_program(file, recipe, name)
    except (InputError, ModuleNotFoundError) as error:
        if forward or recipe is not None:
            raise
        return None, {"forward_pass": f"none: {error}"}
    return made.text, {"value_bytes": made.value_bytes}


def verify(source: MtqPath, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Check every byte of a .mtq file or of a folder's: checksums, limits, and that all of it decodes.

    A folder may have .mtq files by themselves, or within .safetensors files, as --as safetensors makes them.
    """
    from metaq.io.standard import readable
    from metaq.report.contents import verify_file, verify_folder
    from metaq.report.tables import print_result, show

    with byte_bar(quiet) as progress:
        if source.is_dir():
            rows, result = verify_folder(source, progress)
        else:
            with readable(source) as path:
                rows, result = [], verify_file(path, progress) | {"file": str(source)}
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
