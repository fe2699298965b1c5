"""LC against iterated and plain direct compression on MNIST: training loss, error and bytes of every scheme.

    python benchmarks/lc_curves.py --folder runs/lc --output lc_curves.json [--network lenet300] [--only 'kmeans:*']

The three start from the same trained network; LC and iDC then train for the same number of epochs, with as many
projections, at the same learning rates (half a cosine down to 0) but for LC's limit of 1/μ. All minimise the
cross-entropy and a weight decay, without which a net that fits all images has no optimum to start from: the loss would
fall for ever with the weights' growth. What is measured is the file: its bytes are decoded and put into the network.
Rows that the output file already has are not made again, so a killed run goes on where it was. The settings were chosen
on the objective over the training images. `--plot FILE.svg` draws the rows.
"""

import argparse
import copy
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from torch import nn

from metaq import Compressor, compressed_model
from metaq.experiments import data, models
from metaq.experiments.data import Dataset
from metaq.experiments.loop import Stage, evaluate
from metaq.experiments.recipe import LearningRateSchedule, Optimizer, StageSection
from metaq.format.reader import Reader
from metaq.io.safetensors import read_safetensors, write_safetensors
from metaq.methods.lc import LC, Algorithm
from metaq.solvers.scaled_codebook import best_scale
from metaq.tensors import load_tensors

ADAPTIVE = [f"kmeans:{k}" for k in (2, 4, 8, 16, 32, 64)]
FIXED = ["binary", "scaled-binary", "ternary", "scaled-ternary", "powers:5", "scaled-powers:5"]
OTHERS = ["prune:0.05", "shared correct:0.01+kmeans:2", "shared kmeans:2", "entropy:16:3e-7", "entropy:16:1e-6"]
NAMES = {Algorithm.AUGMENTED: "LC", Algorithm.ITERATED: "iDC", None: "DC"}


@dataclass(frozen=True)
class Settings:
    """Of one network; the last epochs train the biases alone."""

    reference_epochs: int
    epochs: int
    last_epochs: int
    learning_rate: float
    batch_size: int = 256
    weight_decay: float = 1e-4


SETTINGS = {
    "lenet300": Settings(70, 24, 2, 0.1),
    "lenet5": Settings(30, 16, 1, 0.05),
    "lenet5-caffe": Settings(20, 10, 1, 0.05),
    "quick": Settings(1, 2, 1, 0.05),
}


@dataclass(frozen=True)
class Way:
    """LC's way: first and last μ, L steps in an epoch, and the learning rate where the network's own is too large."""

    mu: float
    l_steps: int
    last_mu: float = 10.0
    learning_rate: float | None = None


# Where compression changes the weights much, they need time at a small μ. Where it changes them little, an L step at a
# small μ does not move them towards Δ(Θ), the multipliers only wind up: many short ones settle what they stir up.
COARSE, MIDDLE, FINE = Way(1e-3, 1), Way(5e-3, 4), Way(1e-3, 4)
WAYS = dict.fromkeys(["kmeans:4", "scaled-ternary", "prune:0.05"], MIDDLE)
WAYS |= dict.fromkeys(["kmeans:16", "powers:5", "scaled-powers:5"], FINE)
WAYS |= dict.fromkeys(["kmeans:32", "kmeans:64"], Way(3e-4, 4)) | {"kmeans:8": Way(1e-4, 4, 3.0)}
# Weights of ±1 make outputs of some thousands, and gradients in proportion.
WAYS |= dict.fromkeys(["binary", "ternary"], Way(2e-3, 1, 20.0, 1e-2))

# All three start from weights of this size: to the reference's own the nearest of {-1, 0, 1} is nearly always 0.
RESCALED = {"binary": (-1.0, 1.0), "ternary": (-1.0, 0.0, 1.0)}


# LeNet-5 needs other ways in these; with two more layers of ±1 its outputs are larger still.
OF_LENET5 = {"scaled-binary": MIDDLE, "scaled-powers:5": Way(1e-2, 4, 3.0)}
OF_LENET5 |= {"binary": Way(2e-1, 1, 2000.0, 1e-4), "ternary": Way(6e-2, 1, 600.0, 3e-4)}


def way_of(scheme: str, settings: Settings) -> Way:
    ways = WAYS | OF_LENET5 if settings is SETTINGS["lenet5"] else WAYS
    return ways.get(scheme, COARSE)


def configuration(scheme: str, algorithm: Algorithm, settings: Settings) -> LC:
    way = way_of(scheme, settings)
    l_steps = way.l_steps * (settings.epochs - settings.last_epochs)
    growth = (way.last_mu / way.mu) ** (1 / l_steps)
    return LC({"*.weight": scheme}, algorithm, way.mu, growth, way.l_steps * settings.epochs, start=0.0)


def stage_section(settings: Settings, epochs: int, learning_rate: float, last_epochs: int = 0) -> StageSection:
    return StageSection(
        epochs,
        settings.batch_size,
        learning_rate,
        Optimizer.SGD,
        LearningRateSchedule.COSINE,
        settings.weight_decay,
        last_epochs,
    )


def reference_network(name: str, settings: Settings, dataset: Dataset, folder: Path, seed: int) -> nn.Module:
    """The trained network, from the folder if it is there."""
    torch.manual_seed(seed)
    model: nn.Module = models.by_name(name)()
    path = folder / f"{name}-reference-{seed}.safetensors"
    if not path.exists():
        section = stage_section(settings, settings.reference_epochs, settings.learning_rate)
        stage = Stage(model, section, dataset.train, 2 * seed)
        for epoch in range(section.epochs):
            stage.run_epoch(epoch, lambda: None)
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, model.state_dict(), {})
    model.load_state_dict(read_safetensors(path)[0])
    return model


@torch.no_grad()
def rescale(model: nn.Module, levels: Sequence[float]) -> None:
    """Divide each layer's weights by the best scale of these levels, so that they have the levels' size.

    ReLU and pooling pass a factor on, so with biases in proportion the classes would be the same. The biases stay as
    they are: they matter little, and so much larger they would pay more weight decay than all weights together.
    """
    for name, weights in model.named_parameters():
        if name.endswith("weight"):
            scale = best_scale(weights.flatten().to(torch.float64), torch.tensor(levels, dtype=torch.float64))
            weights /= scale


def measure(model: nn.Module, dataset: Dataset, weight_decay: float) -> dict[str, Any]:
    """Loss and accuracy on all splits; the objective is what training minimises, on all training images."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    measured: dict[str, Any] = {name: asdict(evaluate(model, split)) for name, split in splits.items()}
    norm = sum(float(parameter.detach().square().sum()) for parameter in model.parameters())
    return measured | {"objective": measured["train"]["loss"] + weight_decay / 2 * norm}


def run(
    reference: nn.Module, scheme: str, algorithm: Algorithm | None, settings: Settings, dataset: Dataset, seed: int
) -> Any:
    """One row; no algorithm is direct compression."""
    model = copy.deepcopy(reference)
    if scheme in RESCALED:
        rescale(model, RESCALED[scheme])
    method = configuration(scheme, algorithm or Algorithm.ITERATED, settings)
    started = time.perf_counter()
    if algorithm is None:
        compressor = Compressor(model, method, training_steps=settings.epochs)
    else:
        learning_rate = way_of(scheme, settings).learning_rate or settings.learning_rate
        section = stage_section(settings, settings.epochs, learning_rate, settings.last_epochs)
        stage = Stage(model, section, dataset.train, 2 * seed + 1, method)
        compressor = stage.compressor
        for epoch in range(section.epochs):
            stage.run_epoch(epoch, lambda: None)
    file = compressed_model.encode(compressor.compress())
    decoded = copy.deepcopy(reference)
    decoded.load_state_dict(load_tensors(Reader(file)))
    return {
        "scheme": scheme,
        "algorithm": NAMES[algorithm],
        "file_bytes": len(file),
        **measure(decoded, dataset, settings.weight_decay),
        "distance": compressor.bound.distance,
        "seconds": time.perf_counter() - started,
    }


def jobs(only: Sequence[str]) -> list[tuple[str, Algorithm | None]]:
    schemes = [*ADAPTIVE, *FIXED, *OTHERS]
    schemes = [scheme for scheme in schemes if any(fnmatchcase(scheme, pattern) for pattern in only)]
    rows = [(scheme, algorithm) for scheme in schemes for algorithm in (Algorithm.AUGMENTED, Algorithm.ITERATED, None)]
    # Iterations and one projection know no μ, which sets the price of a bit.
    return [row for row in rows if not row[0].startswith("entropy") or row[1] is Algorithm.AUGMENTED]


def table(report: dict[str, Any]) -> list[str]:
    first = report["reference"]
    lines = [f"reference: objective {first['objective']:.5f}, training loss {first['train']['loss']:.5f}, "]
    lines[0] += f"test error {1 - first['test']['accuracy']:.2%}"
    lines += ["", "| scheme | | objective | training loss | test error | bytes |", "|---|---|---|---|---|---|"]
    for row in report["rows"]:
        lines.append(
            f"| {row['scheme']} | {row['algorithm']} | {row['objective']:.5f} | {row['train']['loss']:.5f} | "
            f"{1 - row['test']['accuracy']:.2%} | {row['file_bytes']:,} |"
        )
    return lines


def plot(report: dict[str, Any], path: Path) -> None:
    """Training loss and test error over the file's size, a curve for each algorithm over the adaptive codebooks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, marker in (("LC", "o"), ("iDC", "s"), ("DC", "^")):
        rows = [row for row in report["rows"] if row["algorithm"] == name and row["scheme"] in ADAPTIVE]
        rows.sort(key=lambda row: int(row["scheme"].partition(":")[2]))
        levels = [row["scheme"].partition(":")[2] for row in rows]
        left.plot(levels, [row["objective"] for row in rows], marker=marker, label=name)
        sizes = [row["file_bytes"] / 1000 for row in rows]
        right.plot(sizes, [100 - 100 * row["test"]["accuracy"] for row in rows], marker=marker, label=name)
    for row in report["rows"]:
        if row["algorithm"] == "LC" and row["scheme"] not in ADAPTIVE:
            size, error = row["file_bytes"] / 1000, 100 - 100 * row["test"]["accuracy"]
            right.plot([size], [error], "x", color="gray")
            right.annotate(row["scheme"], (size, error), (3, 3), textcoords="offset points", fontsize=6)
    left.axhline(report["reference"]["objective"], color="gray", linestyle="--", label="reference")
    right.axhline(100 - 100 * report["reference"]["test"]["accuracy"], color="gray", linestyle="--", label="reference")
    left.set(yscale="log", xlabel="levels in each layer", ylabel="training loss with weight decay, nats")
    right.set(xscale="log", yscale="log", xlabel="file, kB", ylabel="test error, %")
    left.legend()
    right.legend()
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=["lenet300", "lenet5", "lenet5-caffe"], default="lenet300")
    parser.add_argument("--folder", type=Path, required=True, help="where trained networks are kept")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write, and to go on from")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of schemes")
    parser.add_argument("--seed", type=int, default=0, help="of the reference's weights and of all shuffling")
    parser.add_argument("--plot", type=Path, help="only draw the output file's rows, as SVG")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--held-out", type=int, default=5000)
    parser.add_argument("--quick", action="store_true", help="an epoch or two, as a test that it runs")
    options = parser.parse_args(arguments)
    if options.plot:
        plot(json.loads(options.output.read_text()), options.plot)
        return
    torch.set_num_threads(1)
    settings = SETTINGS["quick" if options.quick else options.network]
    dataset = data.by_name(options.data)(options.held_out)
    reference = reference_network(options.network, settings, dataset, options.folder, options.seed)
    report: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv] if arguments is None else arguments),
        "machine": machine(),
        "network": options.network,
        "seed": options.seed,
        "settings": asdict(settings),
        "reference": measure(reference, dataset, settings.weight_decay),
        "rows": json.loads(options.output.read_text())["rows"] if options.output.exists() else [],
    }
    done = {(row["scheme"], row["algorithm"]) for row in report["rows"]}
    for scheme, algorithm in jobs(options.only):
        if (scheme, NAMES[algorithm]) not in done:
            report["rows"].append(run(reference, scheme, algorithm, settings, dataset, options.seed))
            options.output.write_text(json.dumps(report, indent=1) + "\n")
            print(table(report)[-1], flush=True)
    print("\n".join(table(report)))


if __name__ == "__main__":
    main()
