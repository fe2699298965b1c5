"""The figures of the HEMP paper, from short training runs of one's own.

    python benchmarks/hemp_figures.py [--network lenet5] [--data mnist] [--epochs 8] [--folder benchmarks/results]
    python benchmarks/hemp_figures.py --network resnet32 --weights resnet32-cifar10 --data cifar10-jpeg --only 8 ...

6a: H_n and the entropy of the quantized weights over epochs, for every order. 7: weights around their levels, N = 3.
8a: losses of the float and of the quantized network with and without E. 8b: R and the loss with and without the
insensitivity, and without it at a tenth of R. Table 3: file bytes (LZMA) and accuracy of HEMP alone and with LOBSTER.
Losses and accuracies are on held-out images. All runs start from one float network;
each is added to the JSON file when it is done, and not done again. With --images a run is shortened: its epochs are of
that many training images.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import nn

import metaq
from metaq import compressed_model
from metaq.experiments import data, models
from metaq.experiments.data import Dataset, Split
from metaq.experiments.loop import Stage, evaluate
from metaq.experiments.recipe import LearningRateSchedule, Optimizer, StageSection
from metaq.metrics import entropy_of_order

BATCH, RATE = 100, 1e-2
PAPER = metaq.HEMP()
RECALIBRATION_BATCHES = 20
STRONG_ERROR = 20.0  # λ_E at which E is felt: (25) divides its gradient by the number of weights
ALONE = replace(PAPER, zero_level=True, error_strength=STRONG_ERROR)
RUNS: dict[str, metaq.HEMP | metaq.Pruned] = {
    "order 1": replace(PAPER, order=1),
    "order 2": PAPER,
    "order 4": replace(PAPER, order=4),
    "three levels": replace(PAPER, levels=3, zero_level=True, error_strength=STRONG_ERROR),
    "without E": replace(PAPER, levels=5, error_strength=0.0),
    "with E": replace(PAPER, levels=5),
    "with strong E": replace(PAPER, levels=5, error_strength=STRONG_ERROR),
    "without insensitivity": replace(PAPER, levels=5, insensitivity=False),
    "without insensitivity, 0.1 R": replace(PAPER, levels=5, insensitivity=False, strength=0.1, error_strength=0.01),
    "HEMP": ALONE,
    "HEMP + LOBSTER": metaq.Pruned(ALONE, metaq.LOBSTER(tolerated_worsening=0.1, plateau_epochs=1)),
}


PANELS = {  # of each figure, the runs that it shows
    "6a": ("order 1", "order 2", "order 4"),
    "7": ("three levels",),
    "table 3": ("HEMP", "HEMP + LOBSTER"),
    "8": ("without E", "with E", "with strong E", "without insensitivity", "without insensitivity, 0.1 R"),
}


def new_network(options: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    model = models.by_name(options.network)()
    if options.weights:
        models.load_weights(model, options.weights)
    return model


def load(options: argparse.Namespace) -> Dataset:
    dataset = data.by_name(options.data)(options.held_out)
    if options.images is None:
        return dataset
    return replace(dataset, train=Split(dataset.train.inputs[: options.images], dataset.train.labels[: options.images]))


def trained(
    model: nn.Module, dataset: Dataset, epochs: int, method: metaq.HEMP | metaq.Pruned | None = None
) -> tuple[list[Any], metaq.Compressor | None]:
    """Train in place; what the figures show, before training and of every epoch, and what has compressed."""
    section = StageSection(
        epochs, BATCH, RATE, Optimizer.SGD, LearningRateSchedule.CONSTANT, recalibration_batches=RECALIBRATION_BATCHES
    )
    stage = Stage(model, section, dataset.train, 1, method)
    compressor = stage.compressor
    rows = [] if compressor is None else [measured(model, dataset, compressor, method)]
    for epoch in range(epochs):
        stage.run_epoch(epoch, lambda: None)
        quantized = stage.end_epoch(dataset.validation)
        if compressor is not None:
            rows.append(measured(model, dataset, compressor, method) | {"quantized_loss": quantized.loss})
            rows[-1]["quantized_accuracy"] = quantized.accuracy
    return rows, compressor


def measured(
    model: nn.Module, dataset: Dataset, compressor: metaq.Compressor, method: metaq.HEMP | metaq.Pruned
) -> dict[str, float]:
    """Of the float network, and of the file that would be made of it."""
    config = method.method if isinstance(method, metaq.Pruned) else method
    measures = compressor.bound.measures()
    terms = config.strength * config.order * measures["proxy_entropy"]
    float_network = type(model)()
    float_network.load_state_dict(model.state_dict())
    compressed = compressor.compress()
    return measures | {
        "entropy": entropy_of_order(compressed, config.order),
        "file_bytes": len(compressed_model.encode(compressed, "lzma")),
        "float_loss": evaluate(float_network, dataset.validation).loss,
        "terms": terms + config.error_strength * measures["reconstruction_error"],
    }


def histogram(model: nn.Module, compressor: metaq.Compressor) -> dict[str, Any]:
    """The histogram of the second convolution's quantized weights, and its levels."""
    name = [name for name, parameter in model.named_parameters() if parameter.ndim == 4][1]
    levels = compressor.bound.levels[list(compressor.bound.parameters).index(name)]
    compressor.bound.on_forward(is_training=False)
    weights = compressor.bound.parameters[name].detach()
    counts, edges = torch.histogram(weights.reshape(-1), bins=120)
    return {"parameter": name, "levels": levels.tolist(), "counts": counts.tolist(), "edges": edges.tolist()}


def run_all(options: argparse.Namespace, path: Path, report: dict[str, Any]) -> None:
    dataset = load(options)
    start = new_network(options)
    trained(start, dataset, options.float_epochs)
    for name in (name for panel in options.only for name in PANELS[panel]):
        if name in report["runs"]:
            continue
        config = RUNS[name]
        model = new_network(options)
        model.load_state_dict(start.state_dict())
        run: dict[str, Any] = {"configuration": {k: str(v) for k, v in asdict(config).items()}}
        (run["before"], *run["epochs"]), compressor = trained(model, dataset, options.epochs, config)
        if name == "three levels":
            run["histogram"] = histogram(model, compressor)
        report["runs"][name] = run
        path.write_text(json.dumps(report, indent=1) + "\n")


def series(axes: Any, run: dict[str, Any], key: str, label: str, **style: Any) -> None:
    values = [row[key] for row in run["epochs"]]
    axes.plot(range(1, len(values) + 1), values, label=label, **style)


def plot_orders(runs: dict[str, Any], axes: Any) -> None:
    for order, colour in ((1, "tab:red"), (2, "tab:blue"), (4, "black")):
        series(axes, runs[f"order {order}"], "proxy_entropy", f"H, n = {order}", color=colour)
        series(axes, runs[f"order {order}"], "entropy", f"quantized, n = {order}", color=colour, linestyle="--")
    axes.set(title="6a: entropy of order n over n", xlabel="epoch", ylabel="bits per weight")
    axes.legend(fontsize="small")


def plot_histogram(runs: dict[str, Any], axes: Any) -> None:
    drawn = runs["three levels"]["histogram"]
    axes.stairs(drawn["counts"], drawn["edges"], fill=True)
    for level in drawn["levels"]:
        axes.axvline(level, color="tab:red", linewidth=0.8)
    axes.set(title=f"7: {drawn['parameter']}, N = 3", xlabel="weight", ylabel="count", yscale="log")


def plot_error(runs: dict[str, Any], axes: Any) -> None:
    for name, colour in (("without E", "tab:red"), ("with E", "tab:blue"), ("with strong E", "tab:green")):
        series(axes, runs[name], "float_loss", f"{name}, float", color=colour)
        series(axes, runs[name], "quantized_loss", f"{name}, quantized", color=colour, linestyle="--")
    axes.set(title="8a: loss with and without E", xlabel="epoch", ylabel="held-out loss", yscale="log")
    axes.legend(fontsize="small")


def plot_insensitivity(runs: dict[str, Any], axes: Any) -> None:
    names = {"with E": "tab:blue", "without insensitivity": "magenta", "without insensitivity, 0.1 R": "tab:cyan"}
    beside = axes.twinx()
    for name, colour in names.items():
        label = "with insensitivity" if name == "with E" else name
        series(axes, runs[name], "float_loss", label, color=colour)
        series(beside, runs[name], "terms", label, color=colour, linestyle="--")
    axes.set(title="8b: loss (solid) and R (dashed)", xlabel="epoch", ylabel="held-out loss", yscale="log")
    axes.legend(fontsize="small")
    beside.set_ylabel("R")


def plot_sizes(runs: dict[str, Any], axes: Any) -> None:
    beside = axes.twinx()
    for name, colour in (("HEMP", "tab:blue"), ("HEMP + LOBSTER", "tab:red")):
        series(axes, runs[name], "file_bytes", name, color=colour)
        series(beside, runs[name], "quantized_accuracy", name, color=colour, linestyle="--")
    axes.set(title="Table 3: bytes (solid), accuracy (dashed)", xlabel="epoch", ylabel="file bytes, LZMA")
    axes.legend(fontsize="small")
    beside.set_ylabel("held-out accuracy, quantized")


def plot(runs: dict[str, Any], figures: Sequence[str], path: Path) -> None:
    plots = {
        "6a": [plot_orders],
        "7": [plot_histogram],
        "8": [plot_error, plot_insensitivity],
        "table 3": [plot_sizes],
    }
    panels = [panel for figure in figures for panel in plots[figure]]
    rows = (len(panels) + 1) // 2
    figure, axes = plt.subplots(rows, 2, figsize=(11, 4 * rows), layout="constrained", squeeze=False)
    for panel, place in zip(panels, axes.flat, strict=False):
        panel(runs, place)
    for place in axes.flat[len(panels) :]:
        place.remove()
    figure.savefig(path.with_suffix(".svg"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="lenet5")
    parser.add_argument("--weights", help="trained ones to start from, by name or path")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--images", type=int, help="train on only so many of them")
    parser.add_argument("--only", nargs="+", choices=PANELS, default=["6a", "7", "8"], metavar="FIGURE")
    parser.add_argument("--held-out", type=int, default=5000)
    parser.add_argument("--float-epochs", type=int, default=3, help="in float, before all runs")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = options.folder / f"hemp_figures_{options.network}_{options.data}.json"
    command = shlex.join(["python", *(sys.argv if arguments is None else arguments)])
    report = json.loads(path.read_text()) if path.exists() else {"command": command, "runs": {}}
    run_all(options, path, report)
    plot(report["runs"], options.only, path)


if __name__ == "__main__":
    main()
