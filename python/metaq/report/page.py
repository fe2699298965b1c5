"""One self-contained HTML page for a run: what came out, how it went, and where the bytes are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from metaq.codebook import IntegerCodebook
from metaq.compressed_model import CodedTensor, CompressedModel, read_model
from metaq.errors import FormatError, InputError
from metaq.experiments import run
from metaq.experiments.checkpoint import COMPRESS
from metaq.files import read_bytes, write_atomically
from metaq.format.reader import Reader
from metaq.io.safetensors import read_safetensors
from metaq.report.coder_sizes import coder_rows
from metaq.report.contents import inspect
from metaq.report.run_results import check_keys
from metaq.report.tables import Row

try:  # here and not in write_report, so that a run lacks them before its training and not after
    from metaq.report import plots
    from metaq.report.html import html
except ModuleNotFoundError as error:
    raise InputError(f"report: expected module {error.name!r}, found none; pip install 'metaq-nn[train]'") from None

MOST_HISTOGRAMS = 100  # about 10 kilobytes each
_RESULT_KEYS = (
    *("recipe", "float32_bytes", "file_bytes", "ratio", "epoch"),
    *("test_before", "test_after", "seconds", "machine", "weights_sha256"),
)
_EPOCH_KEYS = "stage", "epoch", "loss", "validation_loss", "validation_accuracy"


@dataclass(frozen=True)
class _Content:
    """What a run's folder holds; ``chosen`` is the position in ``epochs`` of the one whose weights are the file's."""

    folder: Path
    config: Row
    result: Row
    epochs: list[Row]
    chosen: int
    before: dict[str, Tensor]
    reader: Reader


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run's folder, whole or not at all; returns its path.

    Raises:
        InputError: the folder or one of its files is missing or cannot be read, or the page cannot be written.
        FormatError: one of its files is not what a run writes.
    """
    content = _read(folder)
    model = read_model(content.reader)
    quantized = _quantized(content, model)
    page = html(
        "page.html.j2",
        result=content.result,
        config=_flat(content.config),
        file_coder=content.config["file"]["coder"],
        curves=_curves(content),
        histograms=_histograms(content.before, quantized),
        left_out=max(0, len(quantized) - MOST_HISTOGRAMS),
        coders=coder_rows(model),
        tensors=inspect(content.reader).rows,
    )
    path = folder / run.REPORT
    write_atomically(path, page.encode())
    return path


def _read(folder: Path) -> _Content:
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a run's folder, found none")
    result = _object(read_bytes(folder / run.RESULT), _RESULT_KEYS, str(folder / run.RESULT))
    for key in ("test_before", "test_after"):
        check_keys(result[key], ("accuracy",), f"{folder / run.RESULT}, {key}")
    config = _object(read_bytes(folder / run.CONFIG), ("file",), str(folder / run.CONFIG))
    check_keys(config["file"], ("coder",), f"{folder / run.CONFIG}, file")
    metrics = folder / run.METRICS
    lines = read_bytes(metrics).splitlines()
    epochs = [_object(line, _EPOCH_KEYS, f"{metrics}, line {number}") for number, line in enumerate(lines, 1)]
    chosen = [n for n, epoch in enumerate(epochs) if (epoch["stage"], epoch["epoch"]) == (COMPRESS, result["epoch"])]
    if len(chosen) != 1 or "file_bytes" not in epochs[chosen[0]]:
        where = f"{metrics}, epoch {result['epoch']} of stage compress"
        raise FormatError(f"{where}: expected one line with file_bytes, found {len(chosen)} lines")
    reader = Reader(read_bytes(folder / run.FILE), str(folder / run.FILE))
    return _Content(folder, config, result, epochs, chosen[0], read_safetensors(folder / run.FLOAT_NETWORK)[0], reader)


def _object(data: bytes, keys: Sequence[str], where: str) -> Row:
    """A JSON object with at least these keys."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise FormatError(f"{where}: expected JSON, found something else ({error})") from None
    return check_keys(found, keys, where)


def _curves(content: _Content) -> dict[str, str]:
    """Titles and SVG."""
    epochs, chosen = content.epochs, content.chosen
    return {
        "Loss": plots.loss_curves(epochs),
        "Accuracy": plots.accuracy_curve(epochs, chosen),
        "File size": plots.size_curve(epochs, chosen, content.result["float32_bytes"]),
    }


def _quantized(content: _Content, model: CompressedModel) -> dict[str, CodedTensor]:
    """The tensors whose histograms there are: quantized, not empty, and in the float network too."""
    quantized: dict[str, CodedTensor] = {}
    for name, tensor in model.tensors.items():
        if not isinstance(tensor, CodedTensor) or isinstance(tensor.codebook, IntegerCodebook):
            continue
        expected = list(tensor.symbols.shape)
        found = list(content.before[name].shape) if name in content.before else "no such tensor"
        if found != expected:
            where = f"{content.folder / run.FLOAT_NETWORK}, tensor {name!r}"
            raise FormatError(f"{where}: expected shape {expected} as in {run.FILE}, found {found}")
        if tensor.symbols.numel():
            quantized[name] = tensor
    return quantized


def _histograms(before: dict[str, Tensor], quantized: dict[str, CodedTensor]) -> dict[str, str]:
    """Names and SVG in the file's order; of too many tensors, the largest."""
    by_size = sorted(quantized, key=lambda name: -quantized[name].symbols.numel())
    drawn = set(by_size[:MOST_HISTOGRAMS])
    return {
        name: plots.weight_histogram(name, before[name], tensor.decompress())
        for name, tensor in quantized.items()
        if name in drawn
    }


def _flat(tree: Row, prefix: str = "") -> Row:
    """The entries of a configuration under the keys that `--set` takes, as JSON."""
    flat: Row = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: json.dumps(value)}
    return flat
