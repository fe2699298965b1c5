"""Compression without training: what networks are still worth at whole bytes, ours beside baselines.

    python benchmarks/post_training.py --networks resnet20 --output post_training.json [--plot post_training.svg]

Every case is a network, a method and a setting: whole bits per parameter, or bits for each symbol where a method has no
other choice. Where a network's data is in parts, a row has their mean, and each of them. What is known of networks,
data and measures is said in post_training_networks.py, of methods in post_training_methods.py and
post_training_baselines.py. "bytes" counts everything; where no file was written, symbols and scales alone, and
everything else as float16. Cases that the output has already are not run again.

`--networks bound` measures, for each linear layer of MiniLM, how far from the rate-distortion bound quantizers are
(post_training_bound.py).
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from measuring import machine, resident_kilobytes
from post_training_bound import layer_gaps
from post_training_methods import METHODS, Workbench
from post_training_networks import NETWORKS, Sizes

BOUND = "bound"
Row = dict[str, Any]
SHOWN = ("loss", "accuracy", "agreement", "cosine", "neighbour_kept", "perplexity")


class Report:
    """Rows that are written as soon as they are there."""

    def __init__(self, path: Path | None, command: str) -> None:
        self.path = path
        found = json.loads(path.read_text()) if path and path.exists() else {}
        kept = {key: found.get(key, default) for key, default in (("networks", {}), ("rows", []))}
        self.fields: dict[str, Any] = {"command": command, "machine": machine(), **kept}

    @property
    def rows(self) -> list[Row]:
        """All of them, those of earlier runs included."""
        rows: list[Row] = self.fields["rows"]
        return rows

    def has(self, key: Row) -> bool:
        """Whether there is a row that begins with these."""
        return any(key.items() <= row.items() for row in self.rows)

    def add(self, row: Row) -> None:
        """Append a row, and write all."""
        self.rows.append(row)
        self.write()

    def write(self) -> None:
        """Write all, if there is a place for it."""
        if self.path:
            self.path.write_text(json.dumps(self.fields, indent=1) + "\n")


def run_network(report: Report, name: str, options: argparse.Namespace) -> None:
    """All cases of a network that are not yet there."""
    networks = NETWORKS[name](options.folder, Sizes(options.calibration, options.measured))
    stems = [
        f"{name}-{options.calibration}",
        *(f"{name}-{options.calibration}-{part}" for part in range(1, len(networks))),
    ]
    kept = [options.calibrations / f"{stem}.safetensors" if options.calibrations else None for stem in stems]
    benches = [Workbench(network, place) for network, place in zip(networks, kept, strict=True)]
    sizes = {"calibration": options.calibration, "measured": options.measured}
    entry = report.fields["networks"].get(name, {})
    if entry.get("sizes") != sizes:
        found = mean_row([network.measure(network.model) for network in networks])
        entry = {"parameters": benches[0].parameters, "sizes": sizes, "float": found, "note": networks[0].note}
        report.fields["networks"][name] = entry
        report.write()
    show_head(name, entry)
    for method in options.methods:
        for setting in options.rates or METHODS[method].settings(networks[0]):
            key = {"network": name, "method": method, "setting": setting, **sizes}
            if not report.has(key):
                report.add(key | mean_row([measure(bench, method, setting) for bench in benches]))
            show(next(row for row in report.rows if key.items() <= row.items()))


def mean_row(parts: list[Row]) -> Row:
    """The means of numbers, and the parts if there are several."""
    if len(parts) == 1:
        return parts[0]
    means = {key: sum(part[key] for part in parts) / len(parts) for key in parts[0] if key != "is_file"}
    if "bytes" in means:
        means |= {"bytes": round(means["bytes"]), "is_file": all(part["is_file"] for part in parts)}
    return means | {"parts": parts}


def measure(bench: Workbench, method: str, setting: float) -> Row:
    """What comes of a case."""
    resident_kilobytes(True)
    found = METHODS[method].run(bench, setting)
    peak = resident_kilobytes(False)
    return {
        "bytes": found.size_bytes,
        "bits_per_parameter": 8 * found.size_bytes / bench.parameters,
        **bench.network.measure(found.model),
        "seconds": found.seconds,
        "peak_kilobytes": peak,
        "is_file": found.is_file,
    }


def show_head(name: str, entry: dict[str, Any]) -> None:
    print(f"\n{name}, {entry['parameters']:,} parameters. {entry['note']}")
    measures = [measure for measure in SHOWN if measure in entry["float"]]
    print(f"| method | setting | bytes | bits/parameter | {' | '.join(measures)} | s | MB | file |")
    print(f"|{'---|' * (7 + len(measures))}")
    figures = " | ".join(spelled(measure, entry["float"][measure]) for measure in measures)
    print(f"| float | | {4 * entry['parameters']:,} | 32 | {figures} | | | |", flush=True)


def spelled(measure: str, value: float) -> str:
    if measure in ("perplexity", "cosine", "loss"):
        return f"{value:.{2 if measure == 'perplexity' else 4}f}"
    return f"{100 * value:.2f} %"


def show(row: Row) -> None:
    figures = " | ".join(spelled(measure, row[measure]) for measure in SHOWN if measure in row)
    spent = f"{row['seconds']:.1f} | {row['peak_kilobytes'] / 1000:.0f} | {'yes' if row['is_file'] else 'no'}"
    size = f"{row['bytes']:,} | {row['bits_per_parameter']:.3f}"
    print(f"| {row['method']} | {row['setting']:g} | {size} | {figures} | {spent} |", flush=True)


def run_bound(report: Report, options: argparse.Namespace) -> None:
    """The rows of all layers, and what they come to."""
    (network,) = NETWORKS["minilm"](options.folder, Sizes(options.calibration, options.measured))
    print("\n| layer | quantizer | bits/weight | above the bound |\n|---|---|---|---|")
    for row in layer_gaps(network, lambda layer: report.has({"network": BOUND, "layer": layer})):
        report.add({"network": BOUND} | row)
        print(f"| {row['layer']} | {row['method']} | {row['bits']:.3f} | {row['gap_bits']:.3f} |", flush=True)
    rows = [row for row in report.rows if row["network"] == BOUND]
    for method in dict.fromkeys(row["method"] for row in rows):
        weights = [(row["weights"], row["gap_bits"]) for row in rows if row["method"] == method]
        mean = sum(count * gap for count, gap in weights) / sum(count for count, _ in weights)
        report.fields["networks"].setdefault(BOUND, {})[method] = {"mean_gap_bits": mean}
        print(f"| all | {method} | | {mean:.3f} |", flush=True)
    report.write()


def write_plot(report: Report, path: Path) -> None:
    """One picture for each network: its main measure against bits per parameter; files have full lines."""
    names = [name for name in report.fields["networks"] if name != BOUND]
    figure = Figure(figsize=(7 * len(names), 4.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        entry = report.fields["networks"][name]
        main = next(measure for measure in ("loss", "accuracy", "perplexity") if measure in entry["float"])
        rows = [row for row in report.rows if row["network"] == name]
        for method in dict.fromkeys(row["method"] for row in rows):
            line = sorted((row for row in rows if row["method"] == method), key=lambda row: row["bytes"])
            style = "o-" if line[0]["is_file"] else "s--"
            label = method if line[0]["is_file"] else f"{method} (no file)"
            points = [(row["bits_per_parameter"], row[main]) for row in line]
            axes.plot(*zip(*points, strict=True), style, markersize=4, label=label)
        axes.axhline(entry["float"][main], color="black", linewidth=0.8, label="float")
        axes.set_xlabel("whole bits per parameter")
        axes.set_ylabel(main)
        axes.set_title(f"{name}\n{entry['note']}" if entry["note"] else name)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
        if main == "perplexity":
            axes.set_yscale("log")
    figure.savefig(path, metadata={"Date": None})


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=[*NETWORKS, BOUND], default=["resnet20"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--rates", type=float, nargs="+", help="settings of all methods, instead of the usual ones")
    parser.add_argument("--folder", type=Path, default=Path(), help="where a network is that is not in the library")
    parser.add_argument("--calibration", type=int, help="images, sentences or windows to calibrate on")
    parser.add_argument("--measured", type=int, help="images, sentences or windows to measure")
    parser.add_argument("--calibrations", type=Path, help="folder to keep calibrations in, for runs that go on")
    parser.add_argument("--output", type=Path, help="JSON file to write, and to go on from")
    parser.add_argument("--plot", type=Path, help="SVG file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(arguments)
    torch.set_num_threads(2)  # the machine that figures are of has two cores
    given = sys.argv[1:] if arguments is None else arguments
    places = {str(options.folder), str(options.calibrations)}
    named = ["FOLDER" if text in places else text for text in given]
    report = Report(options.output, shlex.join(["python", "benchmarks/post_training.py", *named]))
    for name in options.networks:
        if name == BOUND:
            run_bound(report, options)
        else:
            run_network(report, name, options)
    if options.plot:
        write_plot(report, options.plot)


if __name__ == "__main__":
    main()
