"""The size of a `.mtq` file's network in Deep Compression's own format, beside the file.

    python benchmarks/deep_compression.py FILE.mtq [--gap-bits 5] [--output sizes.json]

Counted as the paper counts: Huffman codes of shared values and of gaps, fillers included, and the shared values as
float32; not the code tables, names and shapes. Biases and whatever else is not coded are float32.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from metaq.format.reader import Reader
from metaq.report.published_size import published_size
from metaq.tensors import load_tensors


def sizes(path: Path, gap_bits: int) -> dict[str, Any]:
    reader = Reader(path.read_bytes(), str(path))
    weights = load_tensors(reader)
    rows, bits, others = [], 0, 0
    for entry in reader.header.tensors:
        values = weights[entry.name]
        if entry.codebook is None:
            others += 32 * values.numel()
            continue
        _, places = torch.unique(values, return_inverse=True)
        places = torch.where(values == 0, 0, places + 1)
        counted = published_size(places, gap_bits)
        bits += counted.total
        share = float((values != 0).double().mean())
        rows.append({"tensor": entry.name, "weights": values.numel(), "share_kept": share, **asdict(counted)})
    return {
        "file": path.name,
        "gap_bits": gap_bits,
        "tensors": rows,
        "published_weights_bytes": -(-bits // 8),
        "published_bytes": -(-(bits + others) // 8),
        "file_bytes": path.stat().st_size,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--gap-bits", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    report = {"command": shlex.join(["python", *sys.argv] if arguments is None else arguments)}
    report |= sizes(options.file, options.gap_bits)
    print(json.dumps(report, indent=1))
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
