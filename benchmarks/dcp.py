"""Checkpoints of torch.distributed.checkpoint in `.mtq` pieces, beside torch's own writer, plain and with zstd.

    python benchmarks/dcp.py [--output dcp.json]

A model of bfloat16 matrices, normal with a deviation of 0.02, alone and with Adam's two moments in float32, is saved
before and after a step that changes about 3 % of its weights; moments are running means of normal gradients. Bytes are
those of the folder, seconds the least of a few repeats by the clock, on one process, the file system's cache being
warm. `difference` is the second checkpoint from the first; loading it reads the first as well.
"""

import argparse
import json
import shlex
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from delta import step
from measuring import machine
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint._extension import ZStandard

from metaq.integrations.distributed_checkpoint import MtqStorageReader, MtqStorageWriter
from metaq.integrations.stream_extension import MtqStream, registry

MATRICES = 8
State = dict[str, Any]


def states(weights: int, has_moments: bool) -> tuple[State, State]:
    """Before and after a step."""
    both = [torch.from_numpy(words.view("i2")).view(torch.bfloat16) for words in step(weights, "bfloat16", 0.03)]
    first, second = ({"model": {f"{i}": part.clone() for i, part in enumerate(w.chunk(MATRICES))}} for w in both)
    if has_moments:
        generator = torch.Generator().manual_seed(1)
        means, squares = {}, {}
        for name, weight in first["model"].items():
            gradients = 1e-3 * torch.randn(10, weight.numel(), generator=generator)
            means[name], squares[name] = 0.1 * gradients.sum(0), 1e-3 * gradients.square().sum(0)
        first["optimizer"] = {"exp_avg": means, "exp_avg_sq": squares}
        after = {"exp_avg": {}, "exp_avg_sq": {}}
        for name in means:
            gradient = 1e-3 * torch.randn(means[name].shape, generator=generator)
            after["exp_avg"][name] = 0.9 * means[name] + 0.1 * gradient
            after["exp_avg_sq"][name] = 0.999 * squares[name] + 0.001 * gradient.square()
        second["optimizer"] = after
    return first, second


def writers(folder: Path) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """By name, what saves the second state, and what loads it."""
    base, place = folder / "base", folder / "new"
    own = {"_extensions": [MtqStream()]}
    return {
        "FileSystemWriter": (lambda: dcp.FileSystemWriter(place), lambda: dcp.FileSystemReader(place)),
        "FileSystemWriter, zstd": (
            lambda: dcp.FileSystemWriter(place, _extensions=[ZStandard()]),
            lambda: dcp.FileSystemReader(place),
        ),
        "FileSystemWriter, MtqStream": (
            lambda: dcp.FileSystemWriter(place, **own),
            lambda: dcp.FileSystemReader(place, _extension_registry=registry()),
        ),
        "MtqStorageWriter": (lambda: MtqStorageWriter(place), lambda: MtqStorageReader(place)),
        "MtqStorageWriter, difference": (lambda: MtqStorageWriter(place, base=base), lambda: MtqStorageReader(place)),
    }


def blank(state: State) -> State:
    return {key: blank(value) if isinstance(value, dict) else torch.zeros_like(value) for key, value in state.items()}


def is_same(first: State, second: State) -> bool:
    return all(
        is_same(value, second[key]) if isinstance(value, dict) else torch.equal(value, second[key])
        for key, value in first.items()
    )


def measure(has_moments: bool, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each writer; they take turns, so that a machine that is busy for a while is so for all."""
    first, second = states(options.weights, has_moments)
    found = blank(second)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        dcp.save(first, storage_writer=MtqStorageWriter(folder / "base"))
        rows = {name: {"writer": name, "has_moments": has_moments} for name in writers(folder)}
        for _ in range(options.repeats):
            for name, (writer, reader) in writers(folder).items():
                shutil.rmtree(folder / "new", ignore_errors=True)
                start = time.perf_counter()
                dcp.save(second, storage_writer=writer())
                middle = time.perf_counter()
                dcp.load(found, storage_reader=reader())
                end = time.perf_counter()
                if not is_same(found, second):
                    raise RuntimeError(f"{name}: expected what was saved, found something else")
                row = rows[name]
                row["bytes"] = sum(file.stat().st_size for file in (folder / "new").iterdir())
                row["save_seconds"] = min(middle - start, row.get("save_seconds", float("inf")))
                row["load_seconds"] = min(end - middle, row.get("load_seconds", float("inf")))
    return list(rows.values())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=int, default=1 << 24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, help="where checkpoints are written; by default where temporary files are"
    )
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    rows = []
    for has_moments in (False, True):
        rows += measure(has_moments, options)
    for row in rows:
        what = "model and moments" if row["has_moments"] else "model"
        seconds = f"{row['save_seconds']:6.2f} s to save, {row['load_seconds']:5.2f} s to load"
        print(f"{what:18} {row['writer']:30} {row['bytes']:12,} bytes, {seconds}")
    command = shlex.join(["python", *sys.argv]) if arguments is None else shlex.join(arguments)
    if options.output:
        report = {"command": command, "weights": options.weights, "machine": machine(), "rows": rows}
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
