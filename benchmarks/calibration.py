"""What calibration is worth: a trained ResNet at equal sizes with and without it, on CIFAR-10.

    python benchmarks/calibration.py [--network resnet20] [--output calibration.json]

The network's trained weights are quantized without training at several rates: as `metaq compress --bits` does, and with
`metaq.calibrate` on a few hundred training images. Files are compared by the accuracy and the loss of the network on
images held out from training. With the JPEG copy of CIFAR-10, which is heavily compressed, all accuracies are lower
than published: only their differences count.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import machine

import metaq
from metaq.compressed_model import encode
from metaq.experiments import data, models
from metaq.experiments.data import Split
from metaq.experiments.loop import evaluate
from metaq.experiments.models.pretrained import load_weights

BITS = (1.75, 2.0, 2.5, 3.0, 4.0)
HELD_OUT = 2000
BATCH = 64


def measure(network: str, held_out: Split, bits: float, calibration: metaq.Calibration | None) -> dict[str, Any]:
    model = models.by_name(network)()
    load_weights(model, f"{network}-cifar10")
    config = metaq.CompressionConfig(bits=bits)
    compressed = metaq.compress_state_dict(model.state_dict(), config, calibration=calibration)
    model.load_state_dict(compressed.decompress())
    found = evaluate(model, held_out)
    row = {"bits_per_weight": bits, "calibrated": calibration is not None, "file_bytes": len(encode(compressed))}
    return row | {"accuracy": found.accuracy, "loss": found.loss}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--data", default="cifar10-jpeg")
    parser.add_argument("--images", type=int, default=512, help="training images to calibrate on")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    dataset = data.by_name(options.data)(HELD_OUT)
    chosen = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))[: options.images]
    model = models.by_name(options.network)()
    load_weights(model, f"{options.network}-cifar10")
    start = time.perf_counter()
    calibration = metaq.calibrate(model, dataset.train.images[chosen].split(BATCH))
    report: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]) if arguments is None else shlex.join(arguments),
        "machine": machine(),
        "calibration_seconds": time.perf_counter() - start,
        "accuracy_float": evaluate(model, dataset.validation).accuracy,
        "rows": [],
    }
    print(f"{options.network}, float: {100 * report['accuracy_float']:.2f} %")
    print("| bits per weight | calibrated | bytes | accuracy | loss |\n|---|---|---|---|---|")
    for bits in BITS:
        for known in (None, calibration):
            row = measure(options.network, dataset.validation, bits, known)
            report["rows"].append(row)
            is_calibrated = "yes" if row["calibrated"] else "no"
            figures = f"{row['file_bytes']:,} | {100 * row['accuracy']:.2f} % | {row['loss']:.3f}"
            print(f"| {bits} | {is_calibrated} | {figures} |", flush=True)
            if options.output:
                options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
