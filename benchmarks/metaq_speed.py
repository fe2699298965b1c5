"""Speed and memory of the simil-knapsack and of the dual's iterations, beside the published algorithm.

    python benchmarks/metaq_speed.py [--output metaq_speed.json] [--quick] [--threads 2]

The published algorithm is written anew below from its description: hull by repeated argmin over sorted multipliers,
which is O(C^2), and dense arrays of weights by levels. Both run in turn on the same float32 weights; times are the
least of the repeats, and only their ratio is good on another machine. Memory is how far the resident size of a process
of its own rises during one supergradient and one read-out of all multipliers, and during training steps with
METaQ's `regularize`, in 4-byte floats a weight.

The cost of METaQ in training is the time that its hooks take within training steps: showing quantized weights, counting
them, the hulls, and taking the weights back.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import machine, resident_kilobytes
from torch import Tensor, nn

import metaq
from metaq.experiments import models
from metaq.solvers import dual, knapsack

# Of the published code on one thread, from peers.md: one knapsack, and 15 FISTA iterations, in milliseconds.
PUBLISHED_KNAPSACK = {6: 9.0, 64: 46.0, 256: 247.0}
PUBLISHED_FISTA = {6: 101.0, 64: 498.0, 256: 3801.0}
MOST_FLOATS_PER_WEIGHT = 3.0
RUNS = 4  # in a row, of each job


def published_knapsack(xi: Tensor, levels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(assignment, multipliers) as published; ``xi`` ascending."""
    count = len(levels)
    vertices = [0]
    while vertices[-1] < count - 1:
        vertex = vertices[-1]
        slopes = (xi[vertex + 1 :] - xi[vertex]) / (levels[vertex + 1 :] - levels[vertex])
        vertices.append(vertex + 1 + int(slopes.argmin()))
    hull = torch.tensor(vertices)
    edge = torch.searchsorted(levels[hull], weights, right=True).clamp(1, len(hull) - 1)
    left, right = hull[edge - 1], hull[edge]
    mass = (levels[right] - weights) / (levels[right] - levels[left])
    on_left, on_right = torch.zeros(len(weights), count), torch.zeros(len(weights), count)
    on_left.scatter_(1, left[:, None], mass[:, None])
    on_right.scatter_(1, right[:, None], 1 - mass[:, None])
    return on_left + on_right, (xi[right] - xi[left]) / (levels[right] - levels[left])


def least_milliseconds(jobs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Of every job, a few runs of each in turn, so that all meet the same load, with caches of their own."""
    least = [float("inf")] * len(jobs)
    for _ in range(repeats):
        for index, job in enumerate(jobs):
            for _ in range(RUNS):
                start = time.perf_counter()
                job()
                least[index] = min(least[index], 1e3 * (time.perf_counter() - start))
    return least


def compare_knapsacks(size: int, repeats: int) -> list[dict[str, Any]]:
    rows = []
    for count in PUBLISHED_KNAPSACK:
        generator = torch.Generator().manual_seed(count)
        levels = torch.linspace(-1, 1, count)
        xi = torch.rand(count, generator=generator).sort().values
        weights = torch.rand(size, generator=generator) * 2 - 1
        expected = published_knapsack(xi, levels, weights)[1]
        torch.testing.assert_close(
            knapsack.solve(xi, levels, weights).multiplier.float(), expected, rtol=1e-4, atol=1e-4
        )
        jobs = [
            lambda xi=xi, levels=levels, weights=weights: published_knapsack(xi, levels, weights),
            lambda xi=xi, levels=levels, weights=weights: knapsack.solve(xi, levels, weights),
            lambda xi=xi, levels=levels, weights=weights: knapsack.multipliers(xi, levels, weights),
        ]
        published, ours, multipliers = least_milliseconds(jobs, repeats)
        rows.append(
            {
                "levels": count,
                "weights": size,
                "published_milliseconds": published,
                "solve_milliseconds": ours,
                "multipliers_milliseconds": multipliers,
                "ratio": published / ours,
                "published_milliseconds_peers": PUBLISHED_KNAPSACK[count],
            }
        )
    return rows


def time_iterations(size: int, repeats: int) -> list[dict[str, Any]]:
    """15 FISTA iterations from scratch, with the one pass over the weights before and the one after."""
    rows = []
    for count in PUBLISHED_FISTA:
        # Crowded at the ends, so that the optimum has kinks: on even data the first step already is optimal.
        weights = torch.cos(torch.rand(size, generator=torch.Generator().manual_seed(0)) * torch.pi)
        levels = torch.linspace(-1, 1, count)
        options = dual.Fista(iterations=15, tolerance=0.0)
        found = dual.fista(weights, levels, None, options)
        fifteen, newton = least_milliseconds(
            [
                lambda weights=weights, levels=levels, options=options: dual.fista(weights, levels, None, options),
                lambda weights=weights, levels=levels: dual.newton(weights, levels),
            ],
            repeats,
        )
        rows.append(
            {
                "levels": count,
                "weights": size,
                "fista_iterations": found.iterations,
                "fista_milliseconds": fifteen,
                "fista_relative_gap": found.gap / found.value,
                "newton_milliseconds": newton,
                "published_milliseconds_peers": PUBLISHED_FISTA[count],
            }
        )
    return rows


class TimedTraining:
    """Training steps with METaQ, and how much of each its two hooks take."""

    def __init__(self, model: nn.Module, images: Tensor, config: metaq.METaQ) -> None:
        self.model, self.images = model, images
        self.labels = torch.arange(len(images)) % 10
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        self.compressor = metaq.Compressor(model, config)
        self.taken = 0.0
        show = self.compressor.bound.on_forward
        self.compressor.bound.on_forward = lambda is_training: self.timed(lambda: show(is_training))

    def timed(self, job: Callable[[], None]) -> None:
        """Run a job, and add its seconds to those taken."""
        start = time.perf_counter()
        job()
        self.taken += time.perf_counter() - start

    def step(self) -> tuple[float, float]:
        """(Milliseconds of the plain part of one step, of METaQ's)."""
        start, self.taken = time.perf_counter(), 0.0
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.images), self.labels).backward()
        before = time.perf_counter()
        forward_seconds = self.taken
        self.compressor.regularize()
        hooks = forward_seconds + time.perf_counter() - before
        self.optimizer.step()
        return 1e3 * (time.perf_counter() - start - hooks), 1e3 * hooks


def compare_training(repeats: int) -> list[dict[str, Any]]:
    """The plain part of a training step against METaQ's, code lengths on C levels; medians over steps taken in turn."""
    rows = []
    for name, shape, counts in (("lenet5", (64, 1, 28, 28), (7, 15, 63, 257)), ("resnet32", (128, 3, 32, 32), (31,))):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        jobs = [
            TimedTraining(models.by_name(name)(), images, metaq.METaQ(radius=count // 2, step=min(1.0, 2 / count)))
            for count in counts
        ]
        steps = 12 * repeats if name == "lenet5" else repeats
        times = [[job.step() for job in jobs] for _ in range(steps)]
        plain = statistics.median(step for row in times for step, _ in row)
        for index, count in enumerate(counts):
            hooks = statistics.median(row[index][1] for row in times)
            rows.append(
                {
                    "network": name,
                    "batch": shape[0],
                    "levels": count,
                    "plain_step_milliseconds": plain,
                    "metaq_milliseconds": hooks,
                    "share_of_plain_step": hooks / plain,
                }
            )
    return rows


def measure_memory(size: int, count: int) -> dict[str, Any]:
    """In a process of its own, which has done nothing large before."""
    command = [sys.executable, __file__, "--memory-of", str(size), "--levels", str(count)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def train_two_steps(model: nn.Linear, count: int) -> None:
    """What METaQ does in two training steps, without the steps themselves."""
    if model.weight.grad is None:
        model.weight.grad = torch.zeros_like(model.weight)
    compressor = metaq.Compressor(model, metaq.METaQ(radius=count // 2))
    for _ in range(2):
        compressor.show(True)
        compressor.regularize()


def memory_of(size: int, count: int) -> dict[str, Any]:
    levels = torch.linspace(-1, 1, count)
    xi = torch.rand(count, generator=torch.Generator().manual_seed(0))
    # What is loaded once is no memory of a weight's.
    dual.evaluate(xi, torch.zeros(1000), levels)
    train_two_steps(nn.Linear(10, 10, bias=False), count)
    weights = torch.empty(size).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    before = resident_kilobytes(resets_peak=True)
    start = time.perf_counter()
    dual.evaluate(xi, weights, levels)
    supergradient_seconds = time.perf_counter() - start
    between = resident_kilobytes(resets_peak=False)
    multipliers = knapsack.multipliers(xi, levels, weights)
    after = resident_kilobytes(resets_peak=False)
    del multipliers
    unit = 1024 / 4 / size
    model = nn.Linear(size // 1000, 1000, bias=False)
    model.weight.grad = torch.zeros_like(model.weight)
    before_training = resident_kilobytes(resets_peak=True)
    train_two_steps(model, count)
    in_training = resident_kilobytes(resets_peak=False)
    return {
        "levels": count,
        "weights": size,
        "supergradient_floats_per_weight": (between - before) * unit,
        "supergradient_seconds": supergradient_seconds,
        "with_multipliers_floats_per_weight": (after - before) * unit,
        "training_floats_per_weight": (in_training - before_training) * unit,
    }


def tables(report: dict[str, Any]) -> list[str]:
    lines = ["", "| C | published, ms | solve, ms | ratio | multipliers alone, ms |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['levels']} | {row['published_milliseconds']:.1f} | {row['solve_milliseconds']:.2f} "
        f"| {row['ratio']:.0f} | {row['multipliers_milliseconds']:.2f} |"
        for row in report["knapsack"]
    ]
    lines += ["", "| C | 15 FISTA iterations, ms | gap | Newton to 1e-9, ms | published FISTA (peers), ms |"]
    lines += ["|---|---|---|---|---|"]
    lines += [
        f"| {row['levels']} | {row['fista_milliseconds']:.1f} | {row['fista_relative_gap']:.0e} "
        f"| {row['newton_milliseconds']:.1f} | {row['published_milliseconds_peers']:.0f} |"
        for row in report["iterations"]
    ]
    lines += ["", "| network | batch | C | plain step, ms | METaQ adds, ms | share |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['network']} | {row['batch']} | {row['levels']} | {row['plain_step_milliseconds']:.2f} "
        f"| {row['metaq_milliseconds']:.3f} | {100 * row['share_of_plain_step']:.1f} % |"
        for row in report["training"]
    ]
    memory = report["memory"]
    lines += [
        "",
        f"{memory['weights']:,} weights, {memory['levels']} levels: a supergradient takes "
        f"{memory['supergradient_floats_per_weight']:.2f} floats a weight beside the weights "
        f"({memory['supergradient_seconds']:.2f} s), with all multipliers "
        f"{memory['with_multipliers_floats_per_weight']:.2f}; training with METaQ takes "
        f"{memory['training_floats_per_weight']:.2f}; at most {MOST_FLOATS_PER_WEIGHT:.0f} is asked.",
    ]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="few weights and repeats, as a test that it runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--levels", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of, options.levels)))
        return
    size, repeats = (4_400, 2) if options.quick else (44_000, 25)
    command = shlex.join(["python", *sys.argv]) if arguments is None else shlex.join(arguments)
    report: dict[str, Any] = {"command": command, "machine": machine()}
    report["knapsack"] = compare_knapsacks(size, repeats)
    report["iterations"] = time_iterations(size, repeats)
    report["training"] = compare_training(repeats)
    report["memory"] = measure_memory(2_500_000 if options.quick else 25_000_000, 16)
    print("\n".join(tables(report)))
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
