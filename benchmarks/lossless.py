"""Sizes and speeds of lossless files, beside zstd, ZipNN and memcpy.

    python benchmarks/lossless.py [CHECKPOINT ...] [--output lossless.json] [--weights 30000000]

Measured are so many normally distributed weights, and every checkpoint named, a .safetensors file: its floats as
bfloat16, float16, float32 and both float8. Speeds are in gigabytes of output a second, the best of a few repeats: ours
is `metaq.load_file` of a file in the page cache, whole and checked; zstd's and ZipNN's are decompression into new
memory on one thread; memcpy's are a copy of the output, into new memory and into memory that was written before.
Where other programs run beside it, speeds by the processor's time (`*_per_processor_second`) tell more; those of
compression count everything from the tensors to the file on disk.
"""

import argparse
import importlib
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from measuring import machine
from safetensors.torch import load_file

import metaq
from metaq.tensors import octets_of

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
REPEATS = 7

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Seconds:
    """The least of some repeats."""

    wall: float = float("inf")
    processor: float = float("inf")


def least_seconds(work: Callable[[], object], repeats: int = REPEATS) -> Seconds:
    least = Seconds()
    for _ in range(repeats):
        start, processor = time.perf_counter(), time.process_time()
        result = work()
        wall, processor = time.perf_counter() - start, time.process_time() - processor
        least = Seconds(min(least.wall, wall), min(least.processor, processor))
        del result
    return least


@dataclass(frozen=True)
class Measured:
    """What a way takes; without compression, size and encoding are those of a copy."""

    size: int
    decoding: Seconds
    encoding: Seconds | None = None


def copies(plain: np.ndarray) -> dict[str, Measured]:
    used = plain.copy()
    return {
        "memcpy": Measured(plain.size, least_seconds(plain.copy)),
        "memcpy into used memory": Measured(plain.size, least_seconds(lambda: np.copyto(used, plain))),
    }


def zstd(plain: np.ndarray, level: int) -> Measured:
    data = zstandard.ZstdCompressor(level=level).compress(plain)
    return Measured(len(data), least_seconds(lambda: zstandard.ZstdDecompressor().decompress(data)))


def zipnn(module: Any, plain: np.ndarray, dtype: str) -> Measured:
    coder = module.ZipNN(input_format="byte", bytearray_dtype=dtype, threads=1)
    # It changes what it is given.
    copies = [bytearray(plain) for _ in range(REPEATS)]
    encoding = least_seconds(lambda: coder.compress(copies.pop()))
    data = bytes(coder.compress(bytearray(plain)))
    if bytes(coder.decompress(data)) != plain.tobytes():
        raise RuntimeError("ZipNN: expected the bytes that were compressed, found others")
    return Measured(len(data), least_seconds(lambda: coder.decompress(data)), encoding)


def ours(state: State, coder: str, threads: int, folder: Path) -> Measured:
    """Raises RuntimeError unless every bit is back."""
    path = folder / "model.mtq"

    def encode() -> None:
        metaq.save(metaq.compress_losslessly(state), path, coder)

    available, os.cpu_count = os.cpu_count, lambda: threads  # type: ignore[assignment]
    try:
        encoding = least_seconds(encode, 3 if coder == "rans" else 1)
        decoding = least_seconds(lambda: metaq.load_file(path))
    finally:
        os.cpu_count = available
    for name, tensor in metaq.load_file(path).items():
        if not np.array_equal(octets_of(tensor), octets_of(state[name])):
            raise RuntimeError(f"tensor {name!r}: expected the bits that were saved, found others")
    return Measured(path.stat().st_size, decoding, encoding)


def measure(name: str, dtype: str, state: State, folder: Path) -> list[dict[str, Any]]:
    """A row for each way."""
    plain = np.concatenate([octets_of(tensor) for tensor in state.values()])
    rows: list[dict[str, Any]] = []

    def add(way: str, threads: int, found: Measured) -> None:
        row = {"weights": name, "way": way, "threads": threads, "bytes": plain.size, "size_bytes": found.size}
        row["percent"] = 100 * found.size / plain.size
        for what, seconds in (("decode", found.decoding), ("encode", found.encoding)):
            for of, value in asdict(seconds).items() if seconds else ():
                unit = "second" if of == "wall" else "processor_second"
                row[f"{what}_gigabytes_per_{unit}"] = plain.size / value / 1e9
        rows.append(row)

    for way, found in copies(plain).items():
        add(way, 1, found)
    for level in (3, 19) if plain.size < 1 << 22 else (3,):
        add(f"zstd-{level}", 1, zstd(plain, level))
    try:
        add("ZipNN", 1, zipnn(importlib.import_module("zipnn"), plain, dtype))
    except ImportError:
        print("zipnn is not installed, so it is not measured.")
    for coder in ("rans", "mixing") if plain.size < 1 << 22 else ("rans",):
        for threads in (1, 2):
            add(f"metaq, {coder}", threads, ours(state, coder, threads, folder))
    return rows


def states(options: argparse.Namespace) -> dict[tuple[str, str], State]:
    generator = torch.Generator().manual_seed(0)
    normal = {"weight": torch.randn(options.weights // 1000, 1000, generator=generator) * 0.02}
    sources = {"normal": normal} | {path.stem: load_file(path) for path in options.checkpoints}
    return {
        (name, title): {
            key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in source.items()
        }
        for name, source in sources.items()
        for title, dtype in DTYPES.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="*", type=Path, help="of .safetensors files")
    parser.add_argument("--weights", type=int, default=30_000_000, help="normally distributed ones")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    print("GB of output by the processor's second.")
    print("| weights | way | threads | % of size | decode | encode |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for (name, dtype), state in states(options).items():
            for row in measure(f"{name}, {dtype}", dtype, state, Path(folder)):
                rows.append(row)
                rates = [row.get(f"{what}_gigabytes_per_processor_second", 0) for what in ("decode", "encode")]
                print(
                    f"| {row['weights']} | {row['way']} | {row['threads']} | {row['percent']:.2f} | "
                    + " | ".join(f"{rate:.2f}" if rate else "" for rate in rates)
                    + " |",
                    flush=True,
                )
    if options.output:
        command = shlex.join(["python", "benchmarks/lossless.py", *(arguments or sys.argv[1:])])
        options.output.write_text(
            json.dumps({"command": command, "machine": machine(), "results": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
