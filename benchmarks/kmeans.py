"""Speed of one-dimensional k-means: the exact programme, and Lloyd's algorithm from evenly spaced levels.

    python benchmarks/kmeans.py [--output kmeans.json] [--quick]

Processor seconds of one thread, the least of the repeats, on normal weights, sorting included. The error is the squared
one, relative to the exact optimum's.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import machine

from metaq.solvers.kmeans1d import Clustering, kmeans, lloyd

MOST_SECONDS = 2.0  # for a million weights and 16 levels


def least_seconds(job: Callable[[], Clustering], repeats: int) -> tuple[float, Clustering]:
    least = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        found = job()
        least = min(least, time.process_time() - start)
    return least, found


def measure(size: int, levels: int, repeats: int) -> dict[str, Any]:
    weights = torch.randn(size, generator=torch.Generator().manual_seed(0))
    start = torch.linspace(float(weights.min()), float(weights.max()), levels)
    exact_seconds, exact = least_seconds(lambda: kmeans(weights, levels), repeats)
    lloyd_seconds, local = least_seconds(lambda: lloyd(weights, start), repeats)
    return {
        "weights": size,
        "levels": levels,
        "exact_seconds": exact_seconds,
        "lloyd_seconds": lloyd_seconds,
        "lloyd_error": local.squared_error / exact.squared_error,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="few weights and repeats, as a test that it runs")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    unit, repeats = (1000, 1) if options.quick else (1_000_000, 5)
    sizes = [(unit, 2), (unit, 4), (unit, 16), (unit, 64), (unit // 10, 16), (unit // 10, 256)]
    report = {
        "command": shlex.join(["python", *sys.argv] if arguments is None else arguments),
        "machine": machine(),
        "most_seconds": MOST_SECONDS,
        "rows": [measure(size, levels, repeats) for size, levels in sizes],
    }
    print("| weights | levels | exact, s | Lloyd, s | Lloyd's error |\n|---|---|---|---|---|")
    for row in report["rows"]:
        print(
            f"| {row['weights']:,} | {row['levels']} | {row['exact_seconds']:.3f} | {row['lloyd_seconds']:.3f} "
            f"| {row['lloyd_error']:.4f} |"
        )
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
