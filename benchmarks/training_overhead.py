"""What METaQ adds to a step of training: MiniLM's encoder with its embeddings, 22.7 million weights, on the CPU.

    python benchmarks/training_overhead.py [--output training_overhead.json] [--threads 2] [--quick]

A step is zero_grad, forward and backward of BERT's architecture in MiniLM's size on 32 x 64 tokens, and AdamW. A
compressor takes part by its `regularize` and by its hooks, which show the quantized weights; the time in these is what
METaQ adds, the rest is the plain step. The floor is the time in which as many bytes are copied as METaQ's kernels must
move: a weight is 4 bytes read and 8 written when it is shown, 8 read and 8 written when it is given back. Further
copies are the memory of tensors that the compressor holds, over that of the weights.
"""

import argparse
import gc
import json
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from torch import nn

import metaq

VOCABULARY, WIDTH, LAYERS, HEADS, INNER = 30522, 384, 6, 12, 1536
BYTES_A_WEIGHT = 28


class Encoder(nn.Module):
    """BERT in MiniLM's size: embeddings, layers of attention, and two classes."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(512, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers)
        self.classes = nn.Linear(WIDTH, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (N, 2) of tokens (N, length)."""
        places = torch.arange(tokens.shape[1])
        found: torch.Tensor = self.classes(self.layers(self.words(tokens) + self.positions(places)).mean(dim=1))
        return found


def copying_seconds(weights: int) -> float:
    """The time in which as many bytes move as METaQ's kernels move, by torch's own copy on as many threads."""
    source, target = torch.zeros(2, weights)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        target.copy_(source)  # 8 bytes a weight
        times.append(time.perf_counter() - start)
    return statistics.median(times) * BYTES_A_WEIGHT / 8


def held_bytes() -> int:
    """The memory of all tensors that the process holds."""
    storages = {}
    for found in gc.get_objects():
        if issubclass(type(found), torch.Tensor):
            storages[found.untyped_storage().data_ptr()] = found.untyped_storage().nbytes()
    return sum(storages.values())


class Loop:
    """Training steps, with METaQ's part timed."""

    def __init__(self, layers: int) -> None:
        torch.manual_seed(0)
        self.model = Encoder(layers)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.tokens, self.labels = torch.randint(VOCABULARY, (32, 64)), torch.randint(2, (32,))
        self.gradients()
        self.optimizer.step()  # allocates the optimizer's state
        start, held = time.perf_counter(), held_bytes()
        self.compressor = metaq.Compressor(self.model, metaq.METaQ(), self.optimizer, training_steps=1000)
        self.binding_seconds = time.perf_counter() - start
        self.weights = sum(p.numel() for p in self.compressor.bound.parameters.values())
        self.shown = 0.0  # seconds that showing took in the present step
        self._show, self.compressor.bound.on_forward = self.compressor.bound.on_forward, self._timed_show
        self.compressor.show(is_training=True)
        self.copies = (held_bytes() - held) / 4 / self.weights

    def gradients(self) -> None:
        """Forward and backward."""
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.tokens), self.labels).backward()

    def step(self) -> tuple[float, float, float]:
        """Seconds of a step's plain part, of giving back the latent weights, and of showing the quantized ones."""
        start, self.shown = time.perf_counter(), 0.0
        self.gradients()
        before, shown = time.perf_counter(), self.shown
        self.compressor.regularize()
        regularizing, self.shown = time.perf_counter() - before, shown
        self.optimizer.step()
        return time.perf_counter() - start - regularizing - self.shown, regularizing, self.shown

    def _timed_show(self, is_training: bool) -> None:
        start = time.perf_counter()
        self._show(is_training)
        self.shown += time.perf_counter() - start


def measure(layers: int, steps: int) -> dict[str, Any]:
    loop = Loop(layers)
    loop.step()
    plain, regularizing, showing = zip(*(loop.step() for _ in range(steps)), strict=True)
    found = {"plain": plain, "regularize": regularizing, "show": showing}
    row: dict[str, Any] = {f"{name}_milliseconds": 1e3 * statistics.median(times) for name, times in found.items()}
    added = statistics.mean(regularizing) + statistics.mean(showing)  # some of which determine code lengths
    return {
        "weights": loop.weights,
        "binding_seconds": loop.binding_seconds,
        **row,
        "floor_milliseconds": 1e3 * copying_seconds(loop.weights),
        "added_share": added / statistics.mean(plain),
        "further_copies": loop.copies,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="one layer and two steps, as a test that it runs")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    command = shlex.join(["python", *sys.argv]) if arguments is None else shlex.join(arguments)
    report: dict[str, Any] = {"command": command, "machine": machine()}
    report |= measure(1, 2) if options.quick else measure(LAYERS, options.steps)
    print(json.dumps(report, indent=1))
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
