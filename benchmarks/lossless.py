"""Sizes and speeds of lossless files, beside zstd and memcpy.

    python benchmarks/lossless.py [CHECKPOINT ...] [--output lossless.json] [--weights 30000000]

Measured are so many normally distributed weights, and every checkpoint named, a .safetensors file: its floats as
bfloat16, float16 and float32. Speeds are in gigabytes of output a second, the best of a few repeats: ours is
`metaq.load_file` of a file in the page cache, whole and checked; zstd's are decompression into new memory on one
thread; memcpy's are a copy of the output, into new memory and into memory that was written before.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from measuring import machine
from safetensors.torch import load_file

import metaq
from metaq.tensors import octets_of

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
REPEATS = 7

State = dict[str, torch.Tensor]


def least_seconds(work: Callable[[], object]) -> float:
    least = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = work()
        least = min(least, time.perf_counter() - start)
        del result
    return least


def copies(plain: np.ndarray) -> dict[str, float]:
    """Seconds of copying."""
    used = plain.copy()
    return {
        "memcpy": least_seconds(plain.copy),
        "memcpy into used memory": least_seconds(lambda: np.copyto(used, plain)),
    }


def zstd(plain: np.ndarray, level: int) -> tuple[int, float]:
    """Size, and seconds of decompression."""
    data = zstandard.ZstdCompressor(level=level).compress(plain)
    return len(data), least_seconds(lambda: zstandard.ZstdDecompressor().decompress(data))


def ours(state: State, coder: str, threads: int, folder: Path) -> tuple[int, float, float]:
    """Size, and seconds of compression and of loading; raises RuntimeError unless every bit is back."""
    start = time.perf_counter()
    model = metaq.compress_losslessly(state)
    size = metaq.save(model, folder / "model.mtq", coder)
    encoding = time.perf_counter() - start
    available, os.cpu_count = os.cpu_count, lambda: threads  # type: ignore[assignment]
    try:
        seconds = least_seconds(lambda: metaq.load_file(folder / "model.mtq"))
    finally:
        os.cpu_count = available
    for name, tensor in metaq.load_file(folder / "model.mtq").items():
        if not np.array_equal(octets_of(tensor), octets_of(state[name])):
            raise RuntimeError(f"tensor {name!r}: expected the bits that were saved, found others")
    return size, encoding, seconds


def measure(name: str, state: State, folder: Path) -> list[dict[str, Any]]:
    """A row for each way."""
    plain = np.concatenate([octets_of(tensor) for tensor in state.values()])
    rows: list[dict[str, Any]] = []

    def add(way: str, threads: int, size: int, seconds: float, encoding: float | None = None) -> None:
        row = {"weights": name, "way": way, "threads": threads, "bytes": plain.size, "size_bytes": size}
        row["percent"] = 100 * size / plain.size
        row["decode_gigabytes_per_second"] = plain.size / seconds / 1e9
        row["encode_seconds"] = encoding
        rows.append(row)

    for way, seconds in copies(plain).items():
        add(way, 1, plain.size, seconds)
    for level in (3, 19) if plain.size < 1 << 22 else (3,):
        add(f"zstd-{level}", 1, *zstd(plain, level))
    for coder in ("rans", "mixing") if plain.size < 1 << 22 else ("rans",):
        for threads in (1, 2):
            size, encoding, seconds = ours(state, coder, threads, folder)
            add(f"metaq, {coder}", threads, size, seconds, encoding)
    return rows


def states(options: argparse.Namespace) -> dict[str, State]:
    generator = torch.Generator().manual_seed(0)
    normal = {"weight": torch.randn(options.weights // 1000, 1000, generator=generator) * 0.02}
    sources = {"normal": normal} | {path.stem: load_file(path) for path in options.checkpoints}
    return {
        f"{name}, {title}": {
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
    print("| weights | way | threads | % of size | decode, GB/s | encode, s |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, state in states(options).items():
            for row in measure(name, state, Path(folder)):
                rows.append(row)
                encoding = "" if row["encode_seconds"] is None else f"{row['encode_seconds']:.2f}"
                print(
                    f"| {name} | {row['way']} | {row['threads']} | {row['percent']:.2f} | "
                    f"{row['decode_gigabytes_per_second']:.2f} | {encoding} |"
                )
    if options.output:
        command = shlex.join(["python", "benchmarks/lossless.py", *(arguments or sys.argv[1:])])
        options.output.write_text(
            json.dumps({"command": command, "machine": machine(), "results": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
