"""Checkpoints without training: size at equal error, and speeds, beside the ISO/IEC 15938-17 reference software.

    python benchmarks/checkpoints.py MODEL=CHECKPOINT ... [--output checkpoints.json] [--plot checkpoints.svg]

MODEL is a key of REFERENCE, CHECKPOINT its .safetensors file. Every target error is given to `compress_state_dict`
(which meets it from below), the whole file's size is compared with the reference's at that error. Of every row the
seconds of compression (search, quantization and coding into a file) and of `metaq.load_file` are the least of a few, by
the clock and of CPU; there are as many threads as cores, but with the mixing coder these networks are one chunk.

The reference is NNCodec 2.1.3 with its best settings, dependent quantization and rate-distortion optimised with
lambda_scale 1: bytes of the whole file by relative squared error of the tensors of two dimensions and more, the others
at 31 bits a parameter. With --reference-python, an interpreter for reference_software.py, it is measured before and
after the rows of each model, and its bytes must be those given here; without it, its seconds are those of another
machine, so that ratios, of ours by the clock, are rough.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from measuring import machine
from safetensors.torch import load_file

import metaq
from metaq.metrics import relative_squared_error

REFERENCE = {
    "ResNet-20": {4.242e-4: 190_827, 1.643e-3: 157_791, 6.349e-3: 125_907, 2.469e-2: 94_812},
    "ResNet-32": {6.759e-4: 302_360, 2.611e-3: 246_981, 1.009e-2: 193_683, 3.895e-2: 140_581},
}
REFERENCE_SECONDS = {"ResNet-20": (0.405, 0.033), "ResNet-32": (0.697, 0.046)}  # encoding, decoding; of CPU
CODERS = ("mixing", "adaptive", "rans")
REPEATS = 15

State = dict[str, torch.Tensor]
Row = dict[str, Any]
Seconds = dict[float, tuple[float, float]]  # by error: encoding, decoding


def least_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of CPU."""
    seconds = []
    for _ in range(REPEATS):
        start, of_cpu = time.perf_counter(), time.process_time()
        work()
        seconds.append((time.perf_counter() - start, time.process_time() - of_cpu))
    return min(clock for clock, _ in seconds), min(cpu for _, cpu in seconds)


def flat(state: State) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in state.values() if tensor.ndim >= 2])


def reference_seconds(python: Path, model: str, checkpoint: str) -> Seconds:
    """Of encoding and decoding by the reference software, here and now, for each error."""
    script = str(Path(__file__).with_name("reference_software.py"))
    try:
        run = subprocess.run([str(python), script, checkpoint], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        found = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        expected = "an interpreter that has the reference software"
        raise SystemExit(f"--reference-python {python}: expected {expected}, found {found}") from None
    rows = json.loads(run.stdout)["results"]
    points = list(REFERENCE[model].items())
    measured = [(float(f"{row['error']:.3e}"), row["file_bytes"]) for row in rows]
    if measured != points:
        raise SystemExit(f"{model}: expected the reference software to give {points}, found {measured}")
    return {error: (row["encode_seconds"], row["decode_seconds"]) for (error, _), row in zip(points, rows, strict=True)}


def least_of(first: Seconds, second: Seconds) -> Seconds:
    return {
        error: (min(encoding, second[error][0]), min(decoding, second[error][1]))
        for error, (encoding, decoding) in first.items()
    }


def measure(model: str, state: State, coder: str, error: float, path: Path) -> Row:
    config = metaq.CompressionConfig(max_error=error, coder=coder)

    def encode() -> int:
        return metaq.save(metaq.compress_state_dict(state, config), path, coder)

    size, reference = encode(), REFERENCE[model][error]
    found = relative_squared_error(flat(state), flat(metaq.load_file(path)))
    encoding, decoding = least_seconds(encode), least_seconds(lambda: metaq.load_file(path))
    return {
        "model": model,
        "coder": coder,
        "max_error": error,
        "error": found,
        "file_bytes": size,
        "bits_per_parameter": 8 * size / sum(tensor.numel() for tensor in state.values()),
        "reference_bytes": reference,
        "size_ratio": size / reference,
        "encode_seconds": encoding[0],
        "encode_cpu_seconds": encoding[1],
        "decode_seconds": decoding[0],
        "decode_cpu_seconds": decoding[1],
    }


def compare(row: Row, theirs: tuple[float, float]) -> None:
    """Adds the reference's seconds, and how many times as fast ours are."""
    for part, seconds in zip(("encode", "decode"), theirs, strict=True):
        row[f"reference_{part}_seconds"] = seconds
        row[f"{part}_times_faster"] = seconds / row[f"{part}_seconds"]
    print(
        f"| {row['model']} | {row['coder']} | {row['error']:.4g} | {row['file_bytes']:,} | {row['size_ratio']:.3f} | "
        f"{row['encode_seconds']:.3f} | {row['encode_times_faster']:.1f} | "
        f"{1e3 * row['decode_seconds']:.1f} | {row['decode_times_faster']:.1f} |"
    )


def write_plot(rows: Sequence[Row], path: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    models = list(dict.fromkeys(row["model"] for row in rows))
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        for coder in CODERS:
            line = [row for row in rows if (row["model"], row["coder"]) == (model, coder)]
            axes.semilogy(
                [row["file_bytes"] / 1e3 for row in line], [row["error"] for row in line], "o-", label=f"metaq, {coder}"
            )
        reference = REFERENCE[model]
        axes.semilogy(
            [size / 1e3 for size in reference.values()], list(reference), "s--", label="ISO/IEC 15938-17, best"
        )
        axes.set_xlabel("whole file, kB")
        axes.set_title(model)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("relative squared error")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", metavar="MODEL=CHECKPOINT", help=f"of {', '.join(REFERENCE)}")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--reference-python", type=Path, help="interpreter that has the reference software")
    parser.add_argument("--plot", type=Path, help="SVG file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    print("| model | coder | error | bytes | of reference | encode, s | times faster | decode, ms | times faster |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for model, _, checkpoint in (text.partition("=") for text in options.checkpoints):
            state = load_file(checkpoint)
            theirs = dict.fromkeys(REFERENCE[model], REFERENCE_SECONDS[model])
            if options.reference_python:
                theirs = reference_seconds(options.reference_python, model, checkpoint)
            path = Path(folder) / "model.mtq"
            of_model = [measure(model, state, coder, error, path) for coder in CODERS for error in REFERENCE[model]]
            if options.reference_python:
                theirs = least_of(theirs, reference_seconds(options.reference_python, model, checkpoint))
            for row in of_model:
                compare(row, theirs[row["max_error"]])
            rows += of_model
    if options.plot:
        write_plot(rows, options.plot)
    if options.output:
        command = shlex.join(["python", "benchmarks/checkpoints.py", *(arguments or sys.argv[1:])])
        options.output.write_text(
            json.dumps({"command": command, "machine": machine(), "results": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
