"""Speed and memory of HEMP's terms: explicit against automatic gradient, a training step's share, growth with size.

    python benchmarks/hemp_speed.py [--output hemp_speed.json] [--quick] [--threads 1]

What is compared runs in turn in one process; times are the least of the repeats, and only ratios are good on another
machine. Memory is how far the resident size of a process of its own rises in one step, in 4-byte floats a weight.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import machine, resident_kilobytes
from torch.nn import functional

import metaq
from metaq.experiments.models import LeNet5Caffe
from metaq.methods import hemp
from metaq.methods.hemp_terms import Layers, Weighting
from metaq.solvers import tuple_entropy
from metaq.solvers.tuple_entropy import Gradient

WEIGHTING = Weighting(1.0, 0.1, Gradient.EXACT, insensitivity=True)
BATCH = 100


def least_milliseconds(jobs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Of every job, in turn."""
    least = [float("inf")] * len(jobs)
    for _ in range(repeats):
        for index, job in enumerate(jobs):
            start = time.perf_counter()
            job()
            least[index] = min(least[index], 1e3 * (time.perf_counter() - start))
    return least


def random_layer(size: int, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian weights and equally spaced levels over ±3 deviations."""
    weights = torch.empty(size).normal_(generator=torch.Generator().manual_seed(0))
    return weights, torch.linspace(-3, 3, levels)


def compare_gradients(size: int, repeats: int) -> list[dict[str, Any]]:
    rows = []
    for order, levels in ((1, 16), (2, 16), (3, 16), (4, 16), (2, 256)):
        weights, table = random_layer(size, levels)

        def explicit(weights=weights, table=table, order=order):
            return hemp.entropy(weights, table, order)

        def automatic(weights=weights, table=table, order=order):
            leaf = weights.clone().requires_grad_()
            (tuple_entropy.value(tuple_entropy.tuples([leaf], [table], order)) / order).backward()
            return leaf.grad

        torch.testing.assert_close(explicit().gradient, automatic(), rtol=1e-3, atol=1e-3 / size)
        ours, theirs = least_milliseconds([explicit, automatic], repeats)
        row = {"order": order, "levels": levels, "weights": size, "explicit_milliseconds": ours}
        rows.append(row | {"automatic_milliseconds": theirs, "ratio": theirs / ours})
    return rows


def training_step(repeats: int) -> dict[str, Any]:
    """LeNet-5 as in Caffe, batch 100, plain momentum: a step without, and what `regularize` costs on top."""
    torch.manual_seed(0)
    model = LeNet5Caffe()
    images, labels = torch.randn(BATCH, 1, 28, 28), torch.arange(BATCH) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    compressor = metaq.Compressor(model, metaq.HEMP(order=2, levels=16))

    def step():
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    refresh = compressor.bound._refresh
    compressor.bound._refresh = lambda: None
    plain, regularize = least_milliseconds([step, compressor.regularize], repeats)
    (fit,) = least_milliseconds([refresh], max(2, repeats // 10))
    regularize += fit / compressor.bound.config.refresh_every
    return {
        "plain_step_milliseconds": plain,
        "regularize_milliseconds": regularize,
        "of_which_fitting_levels": fit / compressor.bound.config.refresh_every,
        "share": regularize / plain,
    }


def growth(sizes: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    rows = []
    for size in sizes:
        weights, table = random_layer(size, 16)
        layers, gradient = Layers([weights], [table], 2), torch.zeros(size)
        (taken,) = least_milliseconds([lambda: layers.add_gradient([gradient], WEIGHTING)], repeats)  # noqa: B023
        rows.append({"weights": size, "milliseconds": taken, "nanoseconds_per_weight": 1e6 * taken / size})
    return rows


def measure_memory(size: int, order: int, levels: int) -> dict[str, Any]:
    """In a process of its own, which has done nothing large before."""
    command = [sys.executable, __file__, "--memory-of", str(size), "--order", str(order), "--levels", str(levels)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def memory_of(size: int, order: int, levels: int) -> dict[str, Any]:
    hemp.entropy(*random_layer(1000, levels), order)  # what is only loaded once
    weights, table = random_layer(size, levels)
    gradient = torch.zeros(size)
    before = resident_kilobytes(resets_peak=True)
    start = time.perf_counter()
    layers = Layers([weights], [table], order)
    bits, _ = layers.add_gradient([gradient], WEIGHTING)
    seconds = time.perf_counter() - start
    floats = (resident_kilobytes(resets_peak=False) - before) * 1024 / 4 / size
    names = {"weights": size, "order": order, "levels": levels, "histogram": "dense" if layers.is_native else "sparse"}
    return names | {"bits_per_weight": bits / order, "seconds": seconds, "floats_per_weight": floats}


def lines(report: dict[str, Any]) -> list[str]:
    found = ["| n | N | explicit, ms | automatic, ms | ratio |", "|---|---|---|---|---|"]
    for row in report["gradients"]:
        times = f"{row['explicit_milliseconds']:.1f} | {row['automatic_milliseconds']:.1f} | {row['ratio']:.1f}"
        found.append(f"| {row['order']} | {row['levels']} | {times} |")
    step = report["step"]
    found.append(
        f"regularize: {step['regularize_milliseconds']:.2f} ms beside a step of {step['plain_step_milliseconds']:.2f} "
        f"ms: {step['share']:.0%}; at most 25 % is asked"
    )
    found += [
        f"{row['weights']:,} weights: {row['nanoseconds_per_weight']:.1f} ns a weight" for row in report["growth"]
    ]
    found += [
        f"{row['weights']:,} weights, n = {row['order']}, N = {row['levels']}, {row['histogram']}: "
        f"{row['floats_per_weight']:.1f} floats a weight, {row['seconds']:.2f} s"
        for row in report["memory"]
    ]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="few weights and repeats, as a test that it runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--order", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--levels", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of, options.order, options.levels)))
        return
    size, repeats = (20_000, 3) if options.quick else (431_080, 30)
    large = 100_000 if options.quick else 25_000_000
    report: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]) if arguments is None else shlex.join(arguments),
        "machine": machine(),
        "gradients": compare_gradients(size, max(3, repeats // 3)),
        "step": training_step(repeats),
        "growth": growth([20_000, 100_000] if options.quick else [400_000, 1_600_000, 6_400_000, 25_000_000], 5),
    }
    memory = [(large, 4, 16), (large, 2, 256), (size, 4, 256)]
    report["memory"] = [measure_memory(*case) for case in memory]
    print("\n".join(lines(report)))
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
