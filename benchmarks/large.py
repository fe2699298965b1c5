"""Memory and time of checkpoints larger than memory should have to hold.

    python benchmarks/large.py [--shards 8] [--megabytes 256] [--output large.json] [-- --bits 4]

A folder of synthetic shards, normally distributed bfloat16 matrices of various scales beside float32 vectors, is
compressed and decompressed by the command line. Memory is the highest resident size of that process (Linux); what
follows ``--`` are options of `metaq compress`, by default first ``--lossless`` and then ``--bits 4``.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from safetensors.torch import load_file, save_file

COLUMNS = 4096
CHILD = """
import sys
from metaq.cli import app
try:
    app.main()
finally:
    sys.stderr.write(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def write_checkpoint(folder: Path, shards: int, size_bytes: int) -> None:
    """Shards and their index, as Hugging Face's libraries write them."""
    folder.mkdir()
    places: dict[str, str] = {}
    generator = torch.Generator().manual_seed(0)
    for shard in range(shards):
        state = {}
        for layer in range(max(1, size_bytes // (2 * COLUMNS * COLUMNS))):
            rows = min(COLUMNS, size_bytes // (2 * COLUMNS))
            scale = 0.01 * 2.0 ** ((shard + layer) % 3)
            weights = scale * torch.randn(rows, COLUMNS, generator=generator)
            state[f"{shard}.{layer}.weight"] = weights.bfloat16()
            state[f"{shard}.{layer}.norm"] = 1 + 0.1 * torch.randn(COLUMNS, generator=generator)
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        save_file(state, folder / name, {"format": "pt"})
        places |= dict.fromkeys(state, name)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_text("{}\n")


def run(*arguments: object) -> dict[str, float]:
    """Seconds and megabytes of a command."""
    start = time.perf_counter()
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if finished.returncode:
        raise RuntimeError(finished.stderr)
    return {"seconds": seconds, "resident_megabytes": int(finished.stderr.split()[-2]) / 1000}


def files_size(folder: Path, suffix: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"*{suffix}"))


def relative_error(folder: Path, other: Path) -> float:
    error = energy = 0.0
    for path in folder.glob("*.safetensors"):
        found = load_file(other / path.name)
        for name, tensor in load_file(path).items():
            if tensor.ndim > 1:
                error += float((tensor.float() - found[name].float()).square().sum())
                energy += float(tensor.float().square().sum())
    return error / energy


def measure(folder: Path, options: Sequence[str]) -> dict[str, Any]:
    """What becomes of a checkpoint's folder with some options."""
    compressed, back = folder.with_name("small"), folder.with_name("back")
    row: dict[str, Any] = {"options": shlex.join(options), "bytes": files_size(folder, ".safetensors")}
    row["compress"] = run("compress", folder, "-o", compressed, *options)
    row["compressed_bytes"] = files_size(compressed, ".mtq")
    row["decompress"] = run("decompress", compressed, "-o", back)
    row["relative_squared_error"] = relative_error(folder, back)
    for path in (*compressed.iterdir(), *back.iterdir()):
        path.unlink()
    compressed.rmdir()
    back.rmdir()
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=256, help="of each shard, of 2^20 bytes")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("options", nargs="*", help="of metaq compress, behind --")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "model")
        write_checkpoint(folder, options.shards, options.megabytes << 20)
        for dials in [options.options] if options.options else [["--lossless"], ["--bits", "4"]]:
            rows.append(measure(folder, dials))
            print(json.dumps(rows[-1]), flush=True)
            if options.output:
                command = shlex.join(["python", "benchmarks/large.py", *(arguments or sys.argv[1:])])
                report = {"command": command, "machine": machine(), "results": rows}
                options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
