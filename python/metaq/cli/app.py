"""The command line. Every failure is one line on standard error and exit code 2; Ctrl-C exits with 130."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from typer.exceptions import TyperException

from metaq.errors import MetaqError

app = typer.Typer(
    help="Neural networks, small on disk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Add --debug to any command to see where an error comes from.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
MtqFile = Annotated[Path, typer.Argument(help="A .mtq file.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write.", show_default=False)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what a stopped run left.")]


class _StoppedError(Exception):
    """Ctrl-C, with what there is to say of it."""


def main() -> None:
    """Entry point of the `metaq` command."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    is_debug = len(arguments) < len(sys.argv) - 1
    try:
        code = app(arguments, prog_name="metaq", standalone_mode=False)
        if code == 130:
            raise _StoppedError("stopped")
    except (_StoppedError, KeyboardInterrupt) as stop:
        print(f"metaq: {str(stop) or 'stopped'}", file=sys.stderr, flush=True)
        # Python would end itself by the signal if that once hit code run from a string, as in imports, caught or not.
        os._exit(130)
    except (MetaqError, TyperException, OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError):
            sys.stderr.close()  # nobody reads on; Python's own flush would complain
            sys.exit(1)
        if is_debug:
            traceback.print_exc()
        message = _usage(error) if isinstance(error, TyperException) else str(error) or type(error).__name__
        if message:
            print("metaq: " + " ".join(message.split()), file=sys.stderr)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: TyperException) -> str:
    context, message = getattr(error, "ctx", None), error.format_message()
    return message and message + (f" See {context.command_path} --help." if context else "")


@app.command()
def compress(
    source: Annotated[
        Path,
        typer.Argument(help="A .safetensors, .pt or .onnx file, a Hugging Face folder, or -.", show_default=False),
    ],
    output: Output,
    max_error: Annotated[float | None, typer.Option(help="Relative squared error to stay below.")] = None,
    size: Annotated[str | None, typer.Option(help="Size of the file to stay below: 4MB, 500kB, 20000.")] = None,
    bits: Annotated[float | None, typer.Option(help="Bits per quantized weight to stay below.")] = None,
    quality: Annotated[str | None, typer.Option(help="low, medium or high: errors of 3e-2, 3e-3, 3e-4.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Keep tensors of matching names exactly.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="PATTERN:bits=N, bits per weight of matching tensors.")
    ] = None,
    step: Annotated[float | None, typer.Option(help="Instead: every weight on the nearest multiple of this.")] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Instead: keep every bit.")] = False,
    coder: Annotated[
        str | None,
        typer.Option(
            help="mixing (smallest), adaptive (nearly), rans (fastest), range, huffman, zstd, lzma, gzip or stored. "
            "Unless given, mixing; from 4 MiB on adaptive, with --lossless rans.",
            show_default=False,
        ),
    ] = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Compress a checkpoint, without training, to an error or a size, as a .mtq file; to 4 bits unless told otherwise.

    Matrices and filters are quantized; biases and norms stay as exact as float16, or exact with --step and --keep.
    With --lossless all stays as it is, bit for bit: bfloat16 weights take about two thirds of their size.
    A folder of shards becomes such a folder. The place - is standard input or output.
    """
    from metaq.checkpoints.in_memory import CompressionConfig
    from metaq.checkpoints.paths import compress_path
    from metaq.checkpoints.plan import Dials
    from metaq.cli.options import parse_bits, parse_size
    from metaq.errors import InputError

    has_dials = any(dial is not None for dial in (max_error, size, bits, quality)) or bool(keep or override)
    if has_dials + (step is not None) + lossless > 1:
        raise InputError("compress: expected --lossless or --step alone, found other options too")
    size_bytes = None if size is None else parse_size(size)
    given = {} if coder is None else {"coder": coder}
    config = CompressionConfig(
        max_error, size_bytes, bits, quality, tuple(keep or ()), parse_bits(override or []), **given
    )
    with _resumable(output) as progress:
        result = compress_path(source, output, Dials(config, lossless, step, coder), resume, progress)
    if str(output) != "-":
        _print(result, as_json)


@app.command()
def decompress(
    source: Annotated[Path, typer.Argument(help="A .mtq file, a folder of such, or -.", show_default=False)],
    output: Output,
    resume: Resume = False,
) -> None:
    """Write a .mtq file's tensors as a .safetensors, .pt, .pth or .onnx file, or a folder's as the folder it was."""
    from metaq.checkpoints.paths import decompress_path

    with _resumable(output) as progress:
        decompress_path(source, output, resume, progress)


@app.command()
def inspect(source: MtqFile, as_json: AsJson = False) -> None:
    """Show what a .mtq file holds, tensor by tensor, and what each costs."""
    from metaq.compressed_model import read_model
    from metaq.files import map_bytes
    from metaq.format.reader import Reader
    from metaq.report.tables import entropy_entries, show, show_entries, tensor_rows

    reader = Reader(map_bytes(source), str(source))
    with _working(f"reading {source.name}"):
        model = read_model(reader)
        rows = tensor_rows(reader, model)
        entropies = entropy_entries(model)
    coded_bytes = sum(chunk.payload_bytes for chunk in reader.header.chunks)
    sizes = {"file_bytes": len(reader.data), "header_and_checksum_bytes": len(reader.data) - coded_bytes}
    summary = {**sizes, **entropies}
    if as_json:
        print(json.dumps({**summary, "metadata": reader.header.metadata, "tensors": rows}, indent=2))
        return
    show(rows, title=str(source))
    show_entries(summary | {f"metadata {key}": value for key, value in reader.header.metadata.items()})


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A checkpoint or .mtq file.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="Another of the same network.", show_default=False)],
    reference: Annotated[
        Path | None, typer.Option(help="The checkpoint that both were made of, to compare their rate and distortion.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe whose network and test set to measure both with.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two checkpoints: errors and sizes tensor by tensor and over all, and accuracies, given a recipe."""
    from metaq.report import compare as comparison
    from metaq.report.tables import show, show_entries

    with _working(f"comparing {first.name} and {second.name}"):
        a, b = comparison.read_checkpoint(first), comparison.read_checkpoint(second)
        rows, summary = comparison.compare(a, b)
        if reference is not None:
            summary |= comparison.rate_distortion(a, b, comparison.read_checkpoint(reference))
        if recipe is not None:
            summary |= comparison.accuracies(a, b, recipe)
    if as_json:
        print(json.dumps({**summary, "tensors": rows}, indent=2))
        return
    show(rows)
    show_entries(summary)


@app.command()
def curve(
    source: Annotated[Path, typer.Argument(help="A .safetensors, .pt or .pth state dict.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the figures, as JSON.")] = Path(
        "curve.json"
    ),
    plot: Annotated[Path, typer.Option(help="Where to draw them, as SVG.")] = Path("curve.svg"),
    as_json: AsJson = False,
) -> None:
    """Size against error of a checkpoint, for every quantizer and coder."""
    from metaq.files import write_atomically
    from metaq.io import read_state
    from metaq.report import curve as curves
    from metaq.report.tables import show

    state, _ = read_state(source)
    with _progress(MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        bar = progress.add_task("quantizing and coding", total=len(curves.QUANTIZERS) * len(curves.BITS))
        rows = curves.curve(state, advance=lambda: progress.advance(bar))
    figures = json.dumps({"checkpoint": str(source), "rows": rows}, indent=2)
    write_atomically(output, figures.encode())
    curves.write_plot(rows, plot)
    if as_json:
        print(figures)
        return
    show(curves.size_rows(rows), title=f"{source.name}: bytes by coder")


@app.command()
def verify(source: MtqFile, as_json: AsJson = False) -> None:
    """Check every byte of a .mtq file: checksums, limits, and that all of it decodes."""
    from metaq.files import map_bytes
    from metaq.format.reader import Reader
    from metaq.metrics import digest
    from metaq.tensors import load_tensors

    reader = Reader(map_bytes(source), str(source))
    with _working(f"verifying {source.name}"):
        tensors = load_tensors(reader)
    result = {"file": str(source), "verdict": "whole and unchanged", "tensors": len(tensors)}
    _print({**result, "file_bytes": len(reader.data), "weights_sha256": digest(tensors)}, as_json)


@app.command()
def evaluate(
    source: MtqFile,
    recipe: Annotated[str | None, typer.Option(help="Recipe, if the file names none.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the accuracy of the network that a .mtq file holds, on its recipe's test set."""
    from metaq.experiments.evaluation import evaluate_file

    with _working(f"evaluating {source.name}"):
        result = evaluate_file(source, recipe)
    _print(result, as_json)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or the path of a .toml file.", show_default=False)],
    folder: Annotated[Path | None, typer.Option(help="The run's folder; runs/RECIPE if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    override: Annotated[list[str] | None, typer.Option("--set", help="Override an entry: section.key=value.")] = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda, or another that torch has.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Train a network by recipe: float first, then towards a small file; write the file and a report."""
    from metaq.experiments.recipe import load_recipe

    loaded = load_recipe(recipe, override or [])
    result = _run(loaded, folder or Path("runs") / loaded.name, resume, "the same command with --resume", device)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    from metaq.report.tables import result_entries, show_entries

    show_entries(result_entries(result))


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="The folder to write.")] = Path("demo"),
    as_json: AsJson = False,
) -> None:
    """Train LeNet-5 on scikit-learn's digits towards a small file, read it back, show what it came to. No download."""
    from metaq.experiments.recipe import load_recipe
    from metaq.experiments.run import REPORT
    from metaq.report.demo import check_in_new_process, demo_entries, forget_last_demo
    from metaq.report.tables import show_entries

    forget_last_demo(folder)
    again = f"metaq train lenet5-digits --folder {folder} --resume"
    result = _run(load_recipe("lenet5-digits"), folder, False, again)
    with _working("reading the file back in a new process"):
        check_in_new_process(folder, result)
        entries = demo_entries(folder, result)
    if as_json:
        print(json.dumps(entries, indent=2))
        return
    show_entries(entries)
    print(f"Every weight read back bit-identical, accuracy the same. Look at {folder / REPORT}.")


@app.command()
def complexity(
    levels: Annotated[int, typer.Option(help="Levels of each random hull.")] = 256,
    draws: Annotated[int, typer.Option(help="Random hulls.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    plot: Annotated[Path, typer.Option(help="Where to write the histogram, as SVG.")] = Path("complexity.svg"),
    as_json: AsJson = False,
) -> None:
    """Count the vertices of random hulls: what the simil-knapsack really has to search."""
    from metaq.report.complexity import study, write_plot

    with _working("drawing hulls"):
        result = study(levels, draws, seed)
        write_plot(result, plot)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    fits = {
        f"{fit} fit, log10 P(N = {levels})": result[fit] and result[fit]["log10_tail"]
        for fit in ("moments", "likelihood")
    }
    _print({**{key: result[key] for key in ("levels", "draws", "mean", "largest")}, **fits, "plot": str(plot)}, False)


def _run(recipe: Any, folder: Path, resume: bool, again: str, device: str = "cpu") -> dict[str, Any]:
    """A run under a progress bar for each of its stages, and its report; ``again`` is how to go on after Ctrl-C."""
    from metaq.experiments.run import Run
    from metaq.report.page import write_report

    with _progress(MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        bars: dict[str, Any] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(f"training, {stage}", total=total)
            progress.update(bars[stage], completed=done)

        try:
            result = Run(recipe, folder, resume, advance, device).train()
        except KeyboardInterrupt:
            raise _StoppedError(f"stopped; the epochs done are kept: {again} goes on from there") from None
    with _working("writing the report"):
        write_report(folder)
    return result


def _print(result: dict[str, Any], as_json: bool) -> None:
    """One result, as JSON or as a line for each of its entries."""
    from metaq.report.tables import show_entries

    if as_json:
        print(json.dumps(result, indent=2))
    else:
        show_entries(result)


@contextmanager
def _resumable(output: Path) -> Iterator[Any]:
    """A bar, and what to do after Ctrl-C."""
    from metaq.checkpoints.paths import work_folder
    from metaq.progress import shown

    try:
        with shown() as progress:
            yield progress
    except KeyboardInterrupt:
        if str(output) != "-" and work_folder(output).exists():
            kept = "what is finished is kept: the same command with --resume goes on from there"
            raise _StoppedError(f"stopped; {kept}") from None
        raise


@contextmanager
def _working(what: str) -> Iterator[None]:
    """A spinner with the elapsed time, for whatever may take over two seconds."""
    with _progress(TimeElapsedColumn(), transient=True) as bar:
        bar.add_task(what, total=None)
        yield


def _progress(*columns: ProgressColumn, transient: bool = False) -> Progress:
    """A bar on standard error with a description and these columns; nothing where that is not a terminal."""
    console = Console(stderr=True)
    first = (TextColumn("{task.description}", markup=False), BarColumn())
    return Progress(*first, *columns, console=console, transient=transient, disable=not console.is_terminal)
