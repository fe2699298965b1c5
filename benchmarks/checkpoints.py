"""Checkpoints without training: size at equal error, and speeds, beside the ISO/IEC 15938-17 reference software.

    python benchmarks/checkpoints.py MODEL=CHECKPOINT ... [--output checkpoints.json] [--plot checkpoints.svg]

MODEL is a key of REFERENCE, CHECKPOINT its .safetensors file. Every target error is given to `compress_state_dict`
(which meets it from below), the whole file's size is compared with the reference's at that error. Seconds are those of
compression (search, quantization and coding into a file) and of `metaq.load_file`, by the clock and of CPU; there are
as many threads as cores, but with the mixing coder these networks are one chunk.

The reference is NNCodec 2.1.3 with its best settings, dependent quantization and rate-distortion optimised with
lambda_scale 1: bytes of the whole file by relative squared error of the tensors of two dimensions and more, the others
at 31 bits a parameter. With --reference-python, an interpreter for reference_software.py, it is measured too, and its
bytes must be those given here; without it, its seconds are those of another machine, so that ratios, of ours by the
clock, are rough. At each error all take turns, round after round, each to encode once and to decode thrice, and the
least seconds of each count: a machine's own speed, which may change, is then the same for all.
"""

import argparse
import contextlib
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
PARAMETERS = (-32, -28, -24, -20)  # of the reference, for these
REFERENCE_SECONDS = {"ResNet-20": (0.405, 0.033), "ResNet-32": (0.697, 0.046)}  # encoding, decoding; of CPU
CODERS = ("mixing", "adaptive", "rans")
ROUNDS = 8
DECODINGS = 3

State = dict[str, torch.Tensor]
Row = dict[str, Any]


def seconds_of(work: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of CPU."""
    start, of_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - of_cpu


def least(seconds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return min(clock for clock, _ in seconds), min(cpu for _, cpu in seconds)


def flat(state: State) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in state.values() if tensor.ndim >= 2])


class Reference:
    """The reference software, which waits for its turns."""

    def __init__(self, python: Path, checkpoint: str) -> None:
        script = str(Path(__file__).with_name("reference_software.py"))
        self.name = f"--reference-python {python}"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        try:
            self.process = subprocess.Popen([str(python), script, checkpoint], text=True, **pipes)
        except OSError as error:
            raise SystemExit(f"{self.name}: expected an interpreter, found {error}") from None

    def measure(self, parameter: int, expected: tuple[float, int]) -> tuple[float, float]:
        """Seconds of encoding and decoding; the error and the bytes must be those expected."""
        with contextlib.suppress(BrokenPipeError):
            print(parameter, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            found = (self.process.communicate()[1].strip() or "nothing").splitlines()[-1]
            raise SystemExit(f"{self.name}: expected an interpreter that has the reference software, found {found}")
        row = json.loads(line)
        measured = float(f"{row['error']:.3e}"), row["file_bytes"]
        if measured != expected:
            raise SystemExit(f"{self.name}: expected the reference software to give {expected}, found {measured}")
        return row["encode_seconds"], row["decode_seconds"]


def measure(model: str, state: State, error: float, reference: Reference | None, folder: Path) -> list[Row]:
    """A row for each coder."""
    paths = {coder: folder / f"{coder}.mtq" for coder in CODERS}
    encoding: dict[str, list[tuple[float, float]]] = {coder: [] for coder in CODERS}
    decoding: dict[str, list[tuple[float, float]]] = {coder: [] for coder in CODERS}
    theirs = []

    def encode(coder: str) -> None:
        config = metaq.CompressionConfig(max_error=error, coder=coder)
        metaq.save(metaq.compress_state_dict(state, config), paths[coder], coder)

    for _ in range(ROUNDS):
        if reference:
            parameter = PARAMETERS[list(REFERENCE[model]).index(error)]
            theirs.append(reference.measure(parameter, (error, REFERENCE[model][error])))
        for coder, path in paths.items():
            encoding[coder].append(seconds_of(lambda coder=coder: encode(coder)))
            decoding[coder] += [seconds_of(lambda path=path: metaq.load_file(path)) for _ in range(DECODINGS)]
    reference_seconds = least(theirs) if theirs else REFERENCE_SECONDS[model]
    weights = sum(tensor.numel() for tensor in state.values())
    rows = []
    for coder, path in paths.items():
        size = path.stat().st_size
        encode_clock, encode_cpu = least(encoding[coder])
        decode_clock, decode_cpu = least(decoding[coder])
        rows.append(
            {
                "model": model,
                "coder": coder,
                "max_error": error,
                "error": relative_squared_error(flat(state), flat(metaq.load_file(path))),
                "file_bytes": size,
                "bits_per_parameter": 8 * size / weights,
                "reference_bytes": REFERENCE[model][error],
                "size_ratio": size / REFERENCE[model][error],
                "encode_seconds": encode_clock,
                "encode_cpu_seconds": encode_cpu,
                "decode_seconds": decode_clock,
                "decode_cpu_seconds": decode_cpu,
                "reference_encode_seconds": reference_seconds[0],
                "reference_decode_seconds": reference_seconds[1],
                "encode_times_faster": reference_seconds[0] / encode_clock,
                "decode_times_faster": reference_seconds[1] / decode_clock,
            }
        )
    return rows


def show(row: Row) -> None:
    print(
        f"| {row['model']} | {row['coder']} | {row['error']:.4g} | {row['file_bytes']:,} | {row['size_ratio']:.3f} | "
        f"{row['encode_seconds']:.3f} | {row['encode_times_faster']:.1f} | "
        f"{1e3 * row['decode_seconds']:.1f} | {row['decode_times_faster']:.1f} |",
        flush=True,
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
            reference = Reference(options.reference_python, checkpoint) if options.reference_python else None
            for error in REFERENCE[model]:
                of_error = measure(model, state, error, reference, Path(folder))
                for row in of_error:
                    show(row)
                rows += of_error
            if reference:
                reference.process.communicate()  # its input ends, and so does it
    if options.plot:
        write_plot(rows, options.plot)
    if options.output:
        command = shlex.join(["python", "benchmarks/checkpoints.py", *(arguments or sys.argv[1:])])
        options.output.write_text(
            json.dumps({"command": command, "machine": machine(), "results": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
