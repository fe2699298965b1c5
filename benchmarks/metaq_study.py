"""What METaQ's options are worth, on LeNet-5 and MNIST: runs of the recipe `lenet5-mnist` in half as many epochs.

    python benchmarks/metaq_study.py [curve ingredients objectives targets] --folder runs/study [--output FILE.json]

curve: file size against accuracy over a sweep of the strength; drawn as FILE.svg. ingredients: what the field found to
matter, each against the same run without it. objectives: code length, the published form and
the perspective, and the recipe `lenet5-mnist-published` cut to 12 epochs. targets: a size in bytes instead of
a strength. Runs that a folder holds already are not repeated, and one that was interrupted goes on, so the JSON of a
run stopped half-way is completed by the same command. Choices are to be made by the validation columns: the test
columns are there to be reported.
"""

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metaq.experiments.recipe import load_recipe
from metaq.experiments.run import CHECKPOINT, RESULT, Run

SHORT = ["training.epochs=19", "training.last_phase_epochs=4", "method.schedule=[[0, 0.0], [0.076588, 1.0]]"]
STANDARD = [*SHORT, "method.strength=3.3e-5"]
GROUPS: dict[str, dict[str, list[str]]] = {
    "curve": {
        f"strength {strength}": [*SHORT, f"method.strength={strength}"]
        for strength in ("3.3e-5", "1e-5", "1e-4", "2e-5", "6e-5", "2e-4")
    },
    "ingredients": {
        "without": STANDARD,
        "learned steps": [*STANDARD, "method.levels=learned"],
        "distillation": [*STANDARD, "training.distillation=0.5", "training.temperature=4"],
        "no frozen last phase": [*STANDARD, "training.last_phase_epochs=0"],
        "rate-aware at the end": [*STANDARD, "method.final=rate"],
        "shifted images": [*STANDARD, "training.shift_pixels=1"],
    },
    "objectives": {
        "code length": STANDARD,
        "code length, adjacent slopes": [*STANDARD, "method.slopes=adjacent"],
        "counts": [*STANDARD, "method.objective=counts", "method.refresh_every=50"],
        "perspective": [
            *SHORT,
            "method.objective=perspective",
            "method.refresh_every=50",
            "method.perspective.iterations=5",
        ],
        "as published, 12 epochs": ["training.epochs=12"],
    },
    "targets": {f"{target} bytes": [*SHORT, f"method.target_bytes={target}"] for target in (900, 1500)},
}


def run_variant(overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """The content of a run's result, from an earlier call's folder where it is there."""
    if not (folder / RESULT).exists():
        recipe = load_recipe("lenet5-mnist" if SHORT[0] in overrides else "lenet5-mnist-published", overrides)
        Run(recipe, folder, (folder / CHECKPOINT).exists(), lambda *_: None).train()
    result: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return result


def row_of(group: str, name: str, overrides: Sequence[str], result: dict[str, Any]) -> dict[str, Any]:
    return {
        "group": group,
        "variant": name,
        "overrides": list(overrides),
        "file_bytes": result["file_bytes"],
        "validation_accuracy": result["validation_accuracy"],
        "test_accuracy": result["test_after"]["accuracy"],
        "seconds": result["seconds"],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| group | variant | bytes | validation | test |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['group']} | {row['variant']} | {row['file_bytes']:,} "
        f"| {100 * row['validation_accuracy']:.2f} % | {100 * row['test_accuracy']:.2f} % |"
        for row in rows
    ]
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Size against accuracy over the strength."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    points = sorted((row for row in rows if row["group"] == "curve"), key=lambda row: row["file_bytes"])
    sizes = [row["file_bytes"] for row in points]
    for key, label in (("validation_accuracy", "validation"), ("test_accuracy", "test")):
        axes.plot(sizes, [100 * row[key] for row in points], "o-", label=label)
    for row in points:
        label = row["variant"].removeprefix("strength ")
        place = (row["file_bytes"], 100 * row["test_accuracy"])
        axes.annotate(label, place, textcoords="offset points", xytext=(4, -10))
    axes.set(
        xscale="log", xlabel="whole file, bytes", ylabel="top-1, %", title="LeNet-5 on MNIST over METaQ's strength"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="all unless given")
    parser.add_argument("--folder", type=Path, default=Path("runs/study"), help="where the runs are")
    parser.add_argument("--output", type=Path, help="JSON file to write; the plot is beside it")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for group in options.groups or GROUPS:
        for name, overrides in GROUPS[group].items():
            # Named by what is changed, so that variants of several groups that are the same share one run.
            folder = options.folder / hashlib.sha256(json.dumps(overrides).encode()).hexdigest()[:12]
            rows.append(row_of(group, name, overrides, run_variant(overrides, folder)))
            print(json.dumps(rows[-1]), flush=True)
            if options.output:
                command = shlex.join(["python", *sys.argv]) if arguments is None else shlex.join(arguments)
                content = {"command": command, "machine": run_variant(overrides, folder)["machine"], "runs": rows}
                options.output.write_text(json.dumps(content, indent=1) + "\n")
    print(table(rows))
    if options.output and any(row["group"] == "curve" for row in rows):
        plot(rows, options.output.with_suffix(".svg"))


if __name__ == "__main__":
    main()
