"""What a task costs as a difference from its base, and as a whole network: LeNet-5 on digits, then on moved digits.

    python benchmarks/differences.py [--output differences.json]

Accuracies are those on images that are held out from training.
"""

import argparse
import copy
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from torch import Tensor, nn
from torch.nn import functional

import metaq
from metaq.compressed_model import encode
from metaq.experiments import data, models
from metaq.experiments.data import Split
from metaq.experiments.loop import evaluate
from metaq.methods import Method

EPOCHS, BATCH, RATE, HELD_OUT = 20, 32, 3e-3, 200
STRENGTHS = {"whole": (3e-5, 1e-4, 3e-4), "difference": (1e-5, 3e-5, 1e-4)}
STEPS = (0.15, 0.3, 0.6)


def moved(split: Split) -> Split:
    """The images, four pixels to the right and three down."""
    return Split(functional.pad(split.inputs, (4, 0, 3, 0))[..., :-3, :-4], split.labels)


def train(model: nn.Module, split: Split, method: Method | None = None) -> int:
    """The size of the file, 0 without a method."""
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    steps = EPOCHS * -(-len(split) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    compressor = metaq.Compressor(model, method, optimizer, training_steps=steps) if method else None
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(split)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(model(split.inputs[batch]), split.labels[batch]).backward()
            if compressor is not None:
                compressor.regularize()
            optimizer.step()
            schedule.step()
    return len(encode(compressor.compress())) if compressor is not None else 0


def measure(base: dict[str, Tensor], task: Sequence[Split], method: Method | None) -> dict[str, float]:
    model = models.LeNet5()
    model.load_state_dict(copy.deepcopy(base))
    size_bytes = train(model, task[0], method)
    return {"file_bytes": size_bytes, "accuracy": evaluate(model, task[1]).accuracy}


def methods() -> list[tuple[dict[str, Any], Method | None]]:
    """What describes a row, and its method."""
    whole = [({"file": "whole", "strength": s}, metaq.METaQ(strength=s)) for s in STRENGTHS["whole"]]
    differences = [
        (
            {"file": "difference", "strength": strength, "step": step},
            metaq.Difference(metaq.METaQ(strength=strength), step),
        )
        for strength in STRENGTHS["difference"]
        for step in STEPS
    ]
    return [({"file": "float32, fine-tuned"}, None), *whole, *differences]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    digits = data.by_name("digits")(HELD_OUT)
    task = [moved(digits.train), moved(digits.validation)]
    bases, before = [], []
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        base = models.LeNet5()
        train(base, digits.train)
        bases.append((base.state_dict(), torch.get_rng_state()))
        before.append(evaluate(base, task[1]).accuracy)
    rows = []
    for row, method in methods():
        runs = []
        for base, generator in bases:
            torch.set_rng_state(generator)
            runs.append(measure(base, task, method))
        means = {key: sum(run[key] for run in runs) / len(runs) for key in runs[0]}
        rows.append({**row, **means, "runs": runs})
        print(*row.values(), f"{means['file_bytes']:,.0f} bytes, {means['accuracy']:.3f}", flush=True)
    command = shlex.join(["python", *sys.argv]) if arguments is None else shlex.join(arguments)
    report = {"command": command, "machine": machine(), "accuracies_before": before, "rows": rows}
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
