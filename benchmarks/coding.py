"""Sizes and speeds of coders on the integer weights of real networks.

    python benchmarks/coding.py [FOLDER] [--output coding.json] [--quick] [--coders rans,zstd] [--sets resnet32]

FOLDER holds symbol sets, `.npz` files with an integer array `q/<name>` for each tensor; by default it is the folder
`symbols` beside $METAQ_DATA. Every coder gets the same chunks of at most 2^22 weights, as in a file, each coded by
itself. The zero-order entropy is the sum of those of the tensors, without any table. Speeds are in million weights a
second from int32 arrays to bytes and back, the best of a few repeats: of the processor's seconds on one thread, so that
what else the machine does counts little; on t threads, where every chunk is coded t times, of the clock's.

With --chunks, instead: files of the sets of a million weights and more with chunks of different sizes, and how fast
`metaq.load_file` decodes each on one and on two threads, to float32.
"""

import argparse
import importlib
import itertools
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine

import metaq
from metaq import _native, coding
from metaq.coding import base
from metaq.format.reader import Reader

CHUNK_SYMBOLS = base.CHUNK_SYMBOLS
STUDIED_CHUNKS = tuple(1 << width for width in (16, 18, 20, 22, 24))
QUICK_SYMBOLS = 1 << 15
REPEAT_SECONDS = 1.0
MOST_REPEATS = 20

Blocks = list[np.ndarray]
Shapes = list[tuple[int, int, int]]


@dataclass(frozen=True)
class Contestant:
    """A coder of chunks, which are lists of blocks; what `encode` returns is only for `decode` and `size_bytes`."""

    name: str
    encode: Callable[[Blocks], Any]
    decode: Callable[[Any, Shapes], Sequence[np.ndarray]]
    size_bytes: Callable[[Any], int] = len
    note: str = ""


def registered(name: str, coder: str) -> Contestant:
    """A coder of this library."""
    found = coding.by_name(coder)
    return Contestant(name, found.encode, found.decode)


def rans_to_float() -> Contestant:
    """Decoding of rANS to float32 values with a step of one, without symbols in between."""

    def decode(data: bytes, shapes: Shapes) -> Sequence[np.ndarray]:
        outputs = [np.empty(prod(shape), np.float32) for shape in shapes]
        _native.rans_decode_values(data, shapes, outputs, [(1.0, None, 0)] * len(shapes))
        return [output.reshape(shape) for output, shape in zip(outputs, shapes, strict=True)]

    return Contestant("rans to float32", coding.by_name("rans").encode, decode, note="decoded to values")


def brotli_11(module: Any) -> Contestant:
    """The brotli package at its best level over the plain form."""
    stored = coding.by_name("stored")

    def encode(blocks: Blocks) -> bytes:
        compressed: bytes = module.compress(stored.encode(blocks), quality=11, lgwin=24)
        return compressed

    def decode(data: bytes, shapes: Shapes) -> Sequence[np.ndarray]:
        return stored.decode(module.decompress(data), shapes)

    return Contestant("brotli-11", encode, decode)


def constriction_coder(module: Any, is_stack: bool) -> Contestant:
    """ANS (a stack) or range coding of the constriction package, with the exact frequencies of each tensor."""
    stream = module.stream

    def model_of(block: np.ndarray) -> tuple[int, Any]:
        least = int(block.min())
        counts = np.bincount((block - least).reshape(-1), minlength=2).astype(np.float64)
        return least, stream.model.Categorical(counts / counts.sum(), perfect=False)

    def encode(blocks: Blocks) -> tuple[np.ndarray, list[tuple[int, Any]]]:
        models = [model_of(block) for block in blocks]
        coder = stream.stack.AnsCoder() if is_stack else stream.queue.RangeEncoder()
        order = list(zip(blocks, models, strict=True))
        for block, (least, model) in reversed(order) if is_stack else order:
            symbols = (block - least).reshape(-1)
            coder.encode_reverse(symbols, model) if is_stack else coder.encode(symbols, model)
        return coder.get_compressed(), models

    def decode(data: tuple[np.ndarray, list[tuple[int, Any]]], shapes: Shapes) -> Sequence[np.ndarray]:
        words, models = data
        coder = stream.stack.AnsCoder(words) if is_stack else stream.queue.RangeDecoder(words)
        return [
            (coder.decode(model, prod(shape)) + np.int32(least)).reshape(shape)
            for (least, model), shape in zip(models, shapes, strict=True)
        ]

    name = "constriction ANS" if is_stack else "constriction range"
    return Contestant(name, encode, decode, lambda data: data[0].nbytes, note="tables not counted")


@dataclass(frozen=True)
class Speed:
    """Of one coder on one set, in million weights a second."""

    threads: int
    encode_mega_weights_per_second: float
    decode_mega_weights_per_second: float


@dataclass(frozen=True)
class Measurement:
    """One coder on one set."""

    symbol_set: str
    coder: str
    note: str
    weights: int
    zero_order_bytes: float
    size_bytes: int
    ratio: float
    speeds: tuple[Speed, ...]


def contestants() -> tuple[list[Contestant], list[str]]:
    """Every coder there is here, and notes on those that are missing."""
    found = [
        registered("rans", "rans"),
        rans_to_float(),
        registered("mixing", "mixing"),
        registered("adaptive", "adaptive"),
        registered("range", "range"),
        registered("Huffman", "huffman"),
        registered("zstd-22", "zstd"),
        registered("xz -9e", "lzma"),
    ]
    notes = []
    try:
        found.append(brotli_11(importlib.import_module("brotli")))
    except ImportError:
        notes.append("brotli is not installed, so it is not measured.")
    try:
        module = importlib.import_module("constriction")
        found += [constriction_coder(module, is_stack) for is_stack in (True, False)]
    except ImportError:
        notes.append("constriction is not installed, so it is not measured.")
    return found, notes


def load(path: Path, most_symbols: int) -> Blocks:
    """The tensors of a symbol set as blocks, of at most so many symbols in all."""
    blocks = []
    with np.load(path) as arrays:
        for name in arrays.files:
            if not name.startswith("q/"):
                continue
            array = arrays[name].astype(np.int32)
            shape = (array.shape[0], array.shape[1], prod(array.shape[2:])) if array.ndim > 1 else (array.size, 1, 1)
            rows = array.reshape(shape)[: most_symbols // (shape[1] * shape[2])]
            most_symbols -= rows.size
            if rows.size:
                blocks.append(np.ascontiguousarray(rows))
    return blocks


def cut(blocks: Blocks) -> Iterator[Blocks]:
    """Chunks of whole rows, as in a file."""
    chunk: Blocks = []
    room = CHUNK_SYMBOLS
    for block in blocks:
        row = block[0].size
        first = 0
        while first < len(block):
            if chunk and room < row:
                yield chunk
                chunk, room = [], CHUNK_SYMBOLS
            taken = block[first : first + max(1, room // row)]
            chunk.append(taken)
            first += len(taken)
            room -= taken.size
    if chunk:
        yield chunk


def zero_order_bytes(block: np.ndarray) -> float:
    counts = np.unique(block, return_counts=True)[1]
    return float((counts * np.log2(block.size / counts)).sum() / 8)


def best_seconds(
    jobs: Sequence[Callable[[], object]], threads: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The least time of all jobs, `threads` times each, over repeats of about REPEAT_SECONDS together."""
    least, total = float("inf"), 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(MOST_REPEATS):
            start = clock()
            if threads == 1:
                for job in jobs:
                    job()
            else:
                list(pool.map(lambda job: job(), [job for job in jobs for _ in range(threads)]))
            seconds = clock() - start
            least, total = min(least, seconds), total + seconds
            if total > REPEAT_SECONDS:
                break
    return least


def measure(contestant: Contestant, name: str, blocks: Blocks, thread_counts: Sequence[int]) -> Measurement:
    """Sizes and speeds; raises RuntimeError unless what is decoded is what was encoded."""
    chunks = list(cut(blocks))
    shapes = [[block.shape for block in chunk] for chunk in chunks]
    encoded = [contestant.encode(chunk) for chunk in chunks]
    for data, chunk, chunk_shapes in zip(encoded, chunks, shapes, strict=True):
        for block, decoded in zip(chunk, contestant.decode(data, chunk_shapes), strict=True):
            if not np.array_equal(block, decoded):
                raise RuntimeError(f"{contestant.name} on {name}: expected the weights encoded, found others")
    weights = sum(block.size for block in blocks)
    entropy = sum(map(zero_order_bytes, blocks))
    size = sum(map(contestant.size_bytes, encoded))
    encoding = [partial(contestant.encode, chunk) for chunk in chunks]
    decoding = [partial(contestant.decode, *job) for job in zip(encoded, shapes, strict=True)]

    def rate(jobs: Sequence[Callable[[], object]], threads: int) -> float:
        clock = time.process_time if threads == 1 else time.perf_counter
        return threads * weights / best_seconds(jobs, threads, clock) / 1e6

    speeds = tuple(Speed(threads, rate(encoding, threads), rate(decoding, threads)) for threads in thread_counts)
    return Measurement(name, contestant.name, contestant.note, weights, entropy, size, size / entropy, speeds)


@dataclass(frozen=True)
class ChunkSize:
    """Files of one set by one coder, in chunks of one size."""

    symbol_set: str
    coder: str
    chunk_symbols: int
    chunks: int
    size_bytes: int
    load_mega_weights_per_second: tuple[float, ...]  # on 1, 2, ... threads


def study_chunks(name: str, blocks: Blocks, coders: Sequence[str], sizes: Sequence[int]) -> Iterator[ChunkSize]:
    step = metaq.codebook.UniformCodebook(1 / 64)
    coded = [metaq.CodedTensor(torch.from_numpy(block), step, torch.float32) for block in blocks]
    model = metaq.CompressedModel({str(i): tensor for i, tensor in enumerate(coded)})
    weights = sum(block.size for block in blocks)
    available = os.cpu_count
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.mtq"
        for coder, size in itertools.product(coders, sizes):
            base.CHUNK_SYMBOLS = size
            size_bytes = metaq.save(model, path, coder)
            chunks = len(Reader(path.read_bytes()).header.chunks)
            rates = []
            for threads in (1, 2):
                os.cpu_count = lambda threads=threads: threads  # type: ignore[misc]
                rates.append(weights / best_seconds([partial(metaq.load_file, path)], 1) / 1e6)
            os.cpu_count = available
            yield ChunkSize(name, coder, size, chunks, size_bytes, tuple(rates))
    base.CHUNK_SYMBOLS = CHUNK_SYMBOLS


def chunk_table(results: Sequence[ChunkSize]) -> Iterator[str]:
    yield "| set | coder | chunk | chunks | bytes | load, 1 thread | load, 2 threads |"
    yield "|---|---|---|---|---|---|---|"
    for row in results:
        rates = " | ".join(f"{rate:,.1f}" for rate in row.load_mega_weights_per_second)
        yield (
            f"| {row.symbol_set} | {row.coder} | 2^{row.chunk_symbols.bit_length() - 1} | {row.chunks} | "
            f"{row.size_bytes:,} | {rates} |"
        )


def table(results: Sequence[Measurement]) -> Iterator[str]:
    """The lines of a Markdown table for each set."""
    for name in dict.fromkeys(result.symbol_set for result in results):
        rows = [result for result in results if result.symbol_set == name]
        yield f"\n### {name}: {rows[0].weights:,} weights, zero order {rows[0].zero_order_bytes:,.0f} bytes\n"
        threads = [f"{speed.threads} thread{'s' if speed.threads > 1 else ''}" for speed in rows[0].speeds]
        speeds = [f"{what}, {count}" for count in threads for what in ("encode", "decode")]
        yield "| coder | bytes | / zero order | " + " | ".join(speeds) + " |"
        yield "|---|---|---|" + "---|" * len(speeds)
        for row in rows:
            rates = [
                f"{rate:,.1f}"
                for speed in row.speeds
                for rate in (speed.encode_mega_weights_per_second, speed.decode_mega_weights_per_second)
            ]
            label = f"{row.coder} ({row.note})" if row.note else row.coder
            yield f"| {label} | {row.size_bytes:,} | {row.ratio:.4f} | " + " | ".join(rates) + " |"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ["METAQ_DATA"]).parent / "symbols" if "METAQ_DATA" in os.environ else None
    parser.add_argument("folder", nargs="?", type=Path, default=default, help="of .npz files of symbols")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help=f"at most {QUICK_SYMBOLS:,} weights of each set")
    parser.add_argument(
        "--coders", default="", help="only coders whose names contain one of these, with commas between"
    )
    parser.add_argument("--chunks", action="store_true", help="study the size of chunks instead")
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--sets", default="", help="only sets whose names contain one of these, with commas between")
    options = parser.parse_args(arguments)
    if options.folder is None:
        parser.error("expected a folder of symbols, or METAQ_DATA in the environment")
    if not list(options.folder.glob("*.npz")):
        parser.error(f"{options.folder}: expected .npz files of symbols, found none")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.chunks:
        main_chunks(options, arguments)
        return
    chosen, notes = contestants()
    chosen = [coder for coder in chosen if any(part in coder.name for part in options.coders.split(","))]
    results = []
    for path in sorted(options.folder.glob("*.npz")):
        if not any(part in path.stem for part in options.sets.split(",")):
            continue
        blocks = load(path, QUICK_SYMBOLS if options.quick else sys.maxsize)
        results += [measure(coder, path.stem, blocks, options.threads) for coder in chosen]
    print("Speeds in million weights a second.")
    for line in [*notes, *table(results)]:
        print(line)
    write(options.output, arguments, {"notes": notes, "results": [asdict(result) for result in results]})


def main_chunks(options: argparse.Namespace, arguments: Sequence[str] | None) -> None:
    results: list[ChunkSize] = []
    for path in sorted(options.folder.glob("*.npz")):
        blocks = load(path, sys.maxsize)
        if not any(part in path.stem for part in options.sets.split(",")) or sum(b.size for b in blocks) < 1_000_000:
            continue
        coders = [coder for coder in ("rans", "mixing") if any(part in coder for part in options.coders.split(","))]
        results += study_chunks(path.stem, blocks, coders, STUDIED_CHUNKS)
    for line in chunk_table(results):
        print(line)
    write(options.output, arguments, {"results": [asdict(result) for result in results]})


def write(output: Path | None, arguments: Sequence[str] | None, content: dict[str, Any]) -> None:
    if output:
        command = shlex.join(["python", *sys.argv]) if arguments is None else shlex.join(arguments)
        report = {"command": command, "machine": machine(), **content}
        output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
