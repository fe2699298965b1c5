"""What batch normalisation's recalibration is worth after quantization, on a trained ResNet and CIFAR-10.

    python benchmarks/recalibration.py [--network resnet20] [--output recalibration.json]

The network's trained weights are quantized without training, on multiples of several steps; bits are their entropy.
Then its running statistics are measured anew on training images. Both are evaluated on images held out from training.
With the JPEG copy of CIFAR-10, which is heavily compressed, all accuracies are lower than published: only their
differences count.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import machine

from metaq.compressed_model import CodedTensor
from metaq.experiments import data, models
from metaq.experiments.data import Split
from metaq.experiments.loop import evaluate
from metaq.experiments.models.pretrained import load_weights
from metaq.metrics import entropy_bits
from metaq.quantizers import uniform
from metaq.quantizers.recalibration import recalibrate

STEPS = (0.16788760, 0.13669750, 0.09241299, 0.06355724, 0.04425872, 0.02175619)  # 1.25 to 4 bits on ResNet-20
HELD_OUT = 2000
BATCH = 200


def measure(network: str, batches: Sequence[torch.Tensor], held_out: Split, step: float) -> dict[str, Any]:
    model = models.by_name(network)()
    load_weights(model, f"{network}-cifar10")
    compressed = uniform.compress(model.state_dict(), step)
    symbols = [entry.symbols for entry in compressed.tensors.values() if isinstance(entry, CodedTensor)]
    weights = [tensor for tensor in symbols if tensor.ndim >= 2]
    bits = sum(entropy_bits(tensor) for tensor in weights) / sum(tensor.numel() for tensor in weights)
    model.load_state_dict(compressed.decompress())
    before = evaluate(model, held_out)
    recalibrate(model, batches)
    after = evaluate(model, held_out)
    return {
        "bits_per_weight": bits,
        "accuracy_before": before.accuracy,
        "accuracy_after": after.accuracy,
        "loss_before": before.loss,
        "loss_after": after.loss,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--data", default="cifar10-jpeg")
    parser.add_argument("--batches", type=int, default=10, help=f"training batches of {BATCH} images to recalibrate on")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    dataset = data.by_name(options.data)(HELD_OUT)
    chosen = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))
    batches = dataset.train.inputs[chosen[: BATCH * options.batches]].split(BATCH)
    model = models.by_name(options.network)()
    load_weights(model, f"{options.network}-cifar10")
    command = shlex.join(["python", *sys.argv]) if arguments is None else shlex.join(arguments)
    report: dict[str, Any] = {
        "command": command,
        "machine": machine(),
        "accuracy_float": evaluate(model, dataset.validation).accuracy,
        "rows": [measure(options.network, batches, dataset.validation, step) for step in STEPS],
    }
    print(f"{options.network}, float: {100 * report['accuracy_float']:.2f} %")
    print("| bits per weight | quantized | recalibrated |\n|---|---|---|")
    for row in report["rows"]:
        before, after = 100 * row["accuracy_before"], 100 * row["accuracy_after"]
        print(f"| {row['bits_per_weight']:.2f} | {before:.2f} % | {after:.2f} % |")
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
