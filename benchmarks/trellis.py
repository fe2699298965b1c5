"""How far the trellis is from the rate-distortion bound, and how fast it is.

    python benchmarks/trellis.py [--output trellis.json] [--quick]

A million normal weights are quantized at high rate, in the trellis of four and of eight states and each to its nearest
level, with no price on bits. The gap is the bits that a weight takes with the mixing coder, less the least that any
code needs at that error, 1/2 log2(variance / error). For weights taken one by one it is 1/2 log2(pi e / 6) = 0.25 bits
in the limit. Speeds are million weights of quantization in a second of the processor, the best of three repeats.
"""

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from torch import Tensor

from metaq import coding
from metaq.codebook import UniformCodebook
from metaq.quantizers import trellis

STEPS = (0.05, 0.1, 0.2)  # of the trellis, in standard deviations; finer by FINER than for weights taken one by one
REPEATS = 3


def measure(weights: Tensor, way: str, step: float, quantize: Callable[[UniformCodebook], Tensor]) -> dict[str, Any]:
    codebook = UniformCodebook(step)
    seconds = math.inf
    for _ in range(REPEATS):
        start = time.process_time()
        symbols = quantize(codebook)
        seconds = min(seconds, time.process_time() - start)
    bits = 8 * len(coding.by_name("mixing").encode([symbols.numpy()[:, :, None]])) / weights.numel()
    error = float((weights - codebook.values(symbols)).square().mean())
    bound = math.log2(float(weights.square().mean()) / error) / 2
    row = {"way": way, "step": step, "bits_per_weight": bits, "squared_error": error, "gap_bits": bits - bound}
    return row | {"mega_weights_per_second": weights.numel() / seconds / 1e6}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="few weights, as a test that it runs")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = 10 if options.quick else 1000
    weights = torch.randn(rows, 1000, generator=torch.Generator().manual_seed(0))
    results = []
    for step in STEPS:
        for states in trellis.STATES:

            def in_trellis(codebook: UniformCodebook, states: int = states) -> Tensor:
                return trellis.quantize({"w": weights}, codebook, rate_weight=0.0, states=states)["w"]

            results.append(measure(weights, f"trellis, {states} states", step, in_trellis))

        def nearest(codebook: UniformCodebook) -> Tensor:
            return torch.round(weights / codebook.step).to(torch.int32)

        results.append(measure(weights, "nearest", trellis.FINER * step, nearest))
    print("| way | step | bits per weight | gap, bits | million weights a CPU second |\n|---|---|---|---|---|")
    for row in results:
        figures = f"{row['bits_per_weight']:.3f} | {row['gap_bits']:.3f} | {row['mega_weights_per_second']:.1f}"
        print(f"| {row['way']} | {row['step']:g} | {figures} |")
    if options.output:
        command = shlex.join(["python", *sys.argv] if arguments is None else arguments)
        report = {"command": command, "machine": machine(), "results": results}
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
