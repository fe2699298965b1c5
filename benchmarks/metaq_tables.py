"""The METaQ thesis's tables again: its published numbers, its rules as we run them, and ours.

    python benchmarks/metaq_tables.py [--output metaq_tables.json] [--quick] [--network weights.safetensors]

Tables 1-6: the dual of the regulariser for 44,000 random weights, by diminishing steps (1000 and 20), FISTA (20)
and the bundle (20 steps). The thesis does not give its data; here weights are uniform on the levels' range, for
which the optimum is a line, and crowded at both ends, for which it has kinks. Values are in bits and only
comparable in their order of magnitude with the thesis's, which ran on an M1 laptop; the optimum is certain, between
the best dual and primal value. Section 2.2.4: the simil-knapsack by CVXPY (a sample, scaled up), by the cutting
plane, and by the hull. Tables 7-8, only with a network of LeNet-5's shape: sizes by coder and by the number C_Q of
levels, and the accuracy of the quantized network on MNIST's test images. The network is what

    metaq train lenet5-mnist-published --set method.around_mean.buckets=4096

leaves, or that with fewer epochs: weights before their final quantization, but for one part in 4096 of the range.
"""

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from torch import Tensor, nn

import metaq
from metaq import coding
from metaq.experiments import data
from metaq.experiments.loop import evaluate
from metaq.experiments.models import LeNet5
from metaq.solvers import cutting_plane, dual, general, knapsack

SIZE = 44_000
Row = dict[str, Any]

# The thesis: levels, then value and seconds of DSS 1000, DSS 20, FISTA 20, bundle 20.
THESIS_DUAL = {
    256: [(-5.47e7, 22.81), (-1.86e8, 2.53), (1.28e5, 2.28), (2.21e5, 2.29)],
    128: [(-8.7e7, 13.19), (-2.14e8, 1.23), (2.41e5, 1.39), (2.12e4, 1.32)],
    64: [(-6.00e5, 7.53), (-8.22e6, 0.76), (4.10e5, 0.85), (2.09e4, 0.92)],
    32: [(-2.02e6, 5.72), (-6.32e7, 0.56), (4.52e5, 0.57), (2.21e4, 0.57)],
    16: [(-8.35e5, 4.31), (-1.86e7, 0.45), (4.99e5, 0.46), (2.64e5, 0.45)],
    8: [(-1.74e5, 3.30), (-7.92e6, 0.36), (5.46e5, 0.35), (2.05e4, 0.36)],
}
# Instances, levels, calls, and what the thesis says of them.
THESIS_KNAPSACK = [
    (1_000, 256, 1, "CVXPY 3.19 s, cutting plane 0.20 s"),
    (10_000, 5, 1, "CVXPY / vectorised 2,378"),
    (44_000, 256, 1_000, "cutting plane 215.98 s, specialised 18.66 s"),
]
# C_Q, top-1 in per cent, bits by zero order; and bits by coder at C_Q = 140.
THESIS_QUANTIZATION = {
    140: (99.01, 59_601),
    386: (99.01, 70_135),
    331: (99.01, 68_712),
    327: (99.00, 68_583),
    322: (99.00, 68_531),
    678: (98.99, 76_202),
    220: (98.99, 63_668),
    350: (98.99, 69_694),
    377: (98.99, 70_439),
}
THESIS_CODERS = {"huffman": 60_503, "arithmetic": 59_601, "gzip": 61_336, "zstd": 48_824}
THESIS_CENTRE, THESIS_RADIUS = -0.11, 1.114


def timed(job: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """(what the job returns, the least seconds of the repeats)."""
    found, least = None, math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        found = job()
        least = min(least, time.perf_counter() - start)
    return found, least


def random_weights(kind: str, size: int) -> Tensor:
    share = torch.rand(size, generator=torch.Generator().manual_seed(0))
    return torch.cos(share * math.pi) if kind == "crowded" else 2 * share - 1


def dual_table(size: int, repeats: int) -> list[Row]:
    rows: list[Row] = []
    published, convex = dual.Rule.PUBLISHED, dual.Rule.CONVEX
    for kind in ("uniform", "crowded"):
        weights = random_weights(kind, size)
        for count, thesis in THESIS_DUAL.items():
            levels = torch.linspace(-1, 1, count)
            optimum, seconds = timed(partial(dual.newton, weights, levels), repeats)
            row = {"data": kind, "levels": count, "optimum": optimum.value, "primal": optimum.primal, "methods": []}
            row["newton"] = {"seconds": seconds, "iterations": optimum.iterations}
            for (name, solve, make, steps), (value, thesis_seconds) in zip(METHODS, thesis, strict=True):
                entry: Row = {"method": name, "thesis_value": value, "thesis_seconds": thesis_seconds}
                for rule in (published, convex):
                    options = make(rule=rule, iterations=steps)
                    found, seconds = timed(partial(solve, weights, levels, None, options), repeats)
                    entry[rule.value] = {
                        "value": found.value,
                        "relative_error": (optimum.value - found.value) / abs(optimum.value),
                        "seconds": seconds,
                        "iterations": found.iterations,
                        "status": found.status.value,
                    }
                row["methods"].append(entry)
            rows.append(row)
    return rows


METHODS: list[tuple[str, Any, Any, int]] = [
    ("DSS 1000", dual.diminishing_steps, dual.DiminishingSteps, 1000),
    ("DSS 20", dual.diminishing_steps, dual.DiminishingSteps, 20),
    ("FISTA 20", dual.fista, dual.Fista, 20),
    ("bundle 20", dual.proximal_bundle, dual.ProximalBundle, 20),
]


def knapsack_table(sample: int, repeats: int, scale: int) -> list[Row]:
    """Seconds of every solver; ``scale`` divides the instances, as a test that it runs."""
    rows: list[Row] = []
    for all_instances, count, calls, thesis in THESIS_KNAPSACK:
        instances = all_instances // scale
        generator = torch.Generator().manual_seed(count)
        levels, xi = torch.linspace(-1, 1, count), torch.rand(count, generator=generator)
        weights = torch.rand(instances, generator=generator) * 2 - 1
        by_hull, hull_seconds = timed(partial(knapsack.solve, xi, levels, weights), 5 * repeats)
        by_planes, plane_seconds = timed(partial(cutting_plane.solve, xi, levels, weights), repeats)
        torch.testing.assert_close(by_planes.solution.value, by_hull.value)
        few = weights[:sample].tolist()
        general.knapsack(xi, levels, few[0])  # imports
        by_cvxpy, cvxpy_seconds = timed(partial(one_by_one, xi, levels, few), 1)
        torch.testing.assert_close(
            torch.tensor([found.value for found in by_cvxpy]), by_hull.value[: len(few)].float(), rtol=1e-4, atol=1e-4
        )
        rows.append(
            {
                "instances": instances,
                "levels": count,
                "calls": calls,
                "cvxpy_seconds": cvxpy_seconds / len(few) * instances * calls,
                "cvxpy_instances_measured": len(few),
                "cutting_plane_seconds": plane_seconds * calls,
                "cutting_plane_iterations": by_planes.iterations,
                "hull_seconds": hull_seconds * calls,
                "thesis": thesis,
            }
        )
    return rows


def one_by_one(xi: Tensor, levels: Tensor, weights: Sequence[float]) -> list[general.Knapsack]:
    return [general.knapsack(xi, levels, weight) for weight in weights]


def network_table(path: Path) -> list[Row]:
    """Bits of a network's weights by coder for every C_Q of the thesis, on its own equally spaced levels.

    A weight takes the centre of its bucket, as there.
    """
    network, test = LeNet5(), data.by_name("mnist")(5000).test
    tensors = metaq.load_file(path)
    weights = torch.cat([tensor.double().reshape(-1) for tensor in tensors.values()])
    rows: list[Row] = []
    for count, (accuracy, thesis_bits) in THESIS_QUANTIZATION.items():
        width = 2 * THESIS_RADIUS / count
        index = ((weights - (THESIS_CENTRE - THESIS_RADIUS)) / width).floor().clamp(0, count - 1).int()
        occurring = index.bincount().double()
        occurring = occurring[occurring > 0]
        block = index.reshape(-1, 1, 1).numpy()
        centres = THESIS_CENTRE - THESIS_RADIUS + (index + 0.5) * width
        nn.utils.vector_to_parameters(centres.float(), network.parameters())
        rows.append(
            {
                "levels": count,
                "zero_order_bits": float((occurring * (len(index) / occurring).log2()).sum()),
                "bits": {name: 8 * len(coding.by_name(name).encode([block])) for name in NETWORK_CODERS},
                "test_accuracy": evaluate(network, test).accuracy,
                "thesis_zero_order_bits": thesis_bits,
                "thesis_accuracy_percent": accuracy,
                "thesis_bits": THESIS_CODERS if count == 140 else None,
            }
        )
    return rows


NETWORK_CODERS = ("huffman", "range", "gzip", "zstd", "mixing")


def dual_lines(rows: Sequence[Row]) -> list[str]:
    lines = ["The value of the dual, bits, and seconds; errors are relative to the optimum."]
    for kind in ("uniform", "crowded"):
        lines += ["", f"### Tables 1-6, {kind} weights", ""]
        lines += ["| C | optimum | method | thesis | its rule here | error | ours | error | steps |"]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        for row in rows:
            if row["data"] == kind:
                lines += map(partial(method_line, row), row["methods"])
                newton, gap = row["newton"], abs(row["primal"] / row["optimum"] - 1)
                lines += [
                    f"| {row['levels']} | {row['optimum']:.5e} | Newton | | | | {newton['seconds']:.4f} s "
                    f"| {gap:.0e} (gap) | {newton['iterations']} |"
                ]
    return lines


def method_line(row: Row, entry: Row) -> str:
    theirs, ours = entry["published"], entry["convex"]
    return (
        f"| {row['levels']} | {row['optimum']:.5e} | {entry['method']} "
        f"| {entry['thesis_value']:.2e}, {entry['thesis_seconds']:.2f} s "
        f"| {theirs['value']:.2e}, {theirs['seconds']:.4f} s | {theirs['relative_error']:.0e} "
        f"| {ours['value']:.5e}, {ours['seconds']:.4f} s | {abs(ours['relative_error']):.0e} | {ours['iterations']} |"
    )


def knapsack_lines(rows: Sequence[Row]) -> list[str]:
    lines = ["", "### Simil-knapsack, seconds", ""]
    lines += ["| instances | C | calls | CVXPY | cutting plane | hull | CVXPY / hull | cutting plane / hull | thesis |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        by_cvxpy, by_planes, by_hull = (row[f"{name}_seconds"] for name in ("cvxpy", "cutting_plane", "hull"))
        lines.append(
            f"| {row['instances']:,} | {row['levels']} | {row['calls']:,} | {by_cvxpy:.3g} | {by_planes:.3g} "
            f"| {by_hull:.3g} | {by_cvxpy / by_hull:,.0f} | {by_planes / by_hull:,.0f} | {row['thesis']} |"
        )
    return lines


def network_lines(rows: Sequence[Row] | None) -> list[str]:
    if rows is None:
        return ["", "Tables 7-8 need --network, an .mtq file: skipped."]
    lines = [
        "",
        "### Tables 7-8, bits; the thesis by coder at C_Q = 140: " + str(THESIS_CODERS),
        "",
        "| C_Q | thesis, top-1 | bits | ours, top-1 | zero order | " + " | ".join(NETWORK_CODERS) + " |",
    ]
    lines += ["|---|---|---|---|---|" + "---|" * len(NETWORK_CODERS)]
    for row in rows:
        coded = " | ".join(f"{row['bits'][name]:,}" for name in NETWORK_CODERS)
        lines.append(
            f"| {row['levels']} | {row['thesis_accuracy_percent']:.2f} % | {row['thesis_zero_order_bits']:,} "
            f"| {100 * row['test_accuracy']:.2f} % | {row['zero_order_bits']:,.0f} | {coded} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="few weights and repeats, as a test that it runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--network", type=Path, help=".mtq file for tables 7-8")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    command = shlex.join(["python", *sys.argv]) if arguments is None else shlex.join(arguments)
    report: Row = {"command": command, "machine": machine()}
    report["dual"] = dual_table(SIZE // 20 if options.quick else SIZE, 1 if options.quick else 3)
    report["knapsack"] = knapsack_table(
        2 if options.quick else 50, 1 if options.quick else 3, 40 if options.quick else 1
    )
    report["network"] = network_table(options.network) if options.network else None
    lines = [*dual_lines(report["dual"]), *knapsack_lines(report["knapsack"]), *network_lines(report["network"])]
    print("\n".join(lines))
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
