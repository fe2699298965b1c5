"""What files cost that a GPU decodes, and how fast one does.

    python benchmarks/gpu.py CHECKPOINT [--output gpu.json]

Of a .safetensors file's floats as bfloat16, without loss and with the coder rans: the bytes of a file by the size of
its chunks, how many lanes decode at once, and the seconds in which the CPU opens them all. With a GPU also gigabytes of
output a second: of `metaq.load_file(path, device="cuda")` from the page cache, and of decoding where the file's bytes
are on the GPU already; every bit is compared with the CPU's.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine
from safetensors.torch import load_file

import metaq
from metaq.format.reader import Reader
from metaq.tensors import octets_of

CHUNKS = (None, 1 << 18, 1 << 17, 1 << 16)
REPEATS = 7


def least_seconds(work: Callable[[], object]) -> float:
    """Of a few runs, each ended when the GPU has ended."""
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found)


def row_of(state: dict[str, torch.Tensor], chunk_symbols: int | None, path: Path) -> dict[str, Any]:
    metaq.save(metaq.compress_losslessly(state), path, "rans", chunk_symbols)
    reader = Reader(path.read_bytes())
    fields = np.frombuffer(reader.streams(1)[0], np.int64).reshape(len(reader.header.chunks), -1)
    size = sum(octets_of(tensor).size for tensor in state.values())
    row = {"chunk_symbols": chunk_symbols, "bytes": size, "file_bytes": path.stat().st_size}
    row |= {"lanes": int(fields[:, -1].sum()), "seconds_to_open": least_seconds(lambda: reader.streams(1))}
    if torch.cuda.is_available():
        row |= on_a_gpu(state, path, size)
    return row


def on_a_gpu(state: dict[str, torch.Tensor], path: Path, size: int) -> dict[str, Any]:
    """Raises RuntimeError unless every bit is that of the state."""
    from metaq.gpu.loading import Loading
    from metaq.gpu.streams import Streams

    for name, tensor in metaq.load_file(path, device="cuda").items():
        if not np.array_equal(octets_of(tensor), octets_of(state[name])):
            raise RuntimeError(f"tensor {name!r}: expected the bits that were saved, found others")
    content = path.read_bytes()
    loading = Loading(Reader(content), Streams(Reader(content), content, torch.device("cuda")))
    return {
        "gpu": torch.cuda.get_device_name(),
        "load_gigabytes_per_second": size / least_seconds(lambda: metaq.load_file(path, device="cuda")) / 1e9,
        "decode_gigabytes_per_second": size / least_seconds(loading.tensors) / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    given = load_file(options.checkpoint)
    state = {name: tensor.bfloat16() for name, tensor in given.items() if tensor.is_floating_point()}
    with tempfile.TemporaryDirectory() as folder:
        rows = [row_of(state, chunk_symbols, Path(folder) / "model.mtq") for chunk_symbols in CHUNKS]
    print("| symbols of a chunk | bytes | more | lanes | ms to open | load, GB/s | decode, GB/s |\n" + "|---" * 7 + "|")
    for row in rows:
        more = row["file_bytes"] / rows[0]["file_bytes"] - 1
        speeds = (row.get(f"{what}_gigabytes_per_second") for what in ("load", "decode"))
        shown = " | ".join("" if speed is None else f"{speed:.1f}" for speed in speeds)
        milliseconds = 1e3 * row["seconds_to_open"]
        print(
            f"| {row['chunk_symbols'] or 'by default'} | {row['file_bytes']:,} | {more:.2%} | {row['lanes']:,} |"
            f" {milliseconds:.1f} | {shown} |"
        )
    if options.output:
        command = shlex.join(["python", *sys.argv]).replace(str(options.checkpoint), "CHECKPOINT")
        result = {"command": command, "machine": machine(), "checkpoint": options.checkpoint.stem, "rows": rows}
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
