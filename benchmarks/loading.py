"""How long files take to load: whole, tensor by tensor, and one row of the largest tensor.

    python benchmarks/loading.py [--against FOLDER] [--quick] [--output benchmarks/results/loading.json]

Files: LeNet-5 of results/; the ResNet-32 of the folder `models` beside $METAQ_DATA with every coder; 16 million weights
in tensors of a million, at about 4 bits in float32 and without loss in bfloat16. FOLDER is the `python` folder of
another checkout, built, which loads the same files by turns with this one. Each is a process of its own that has loaded
the file before; a figure is the least of the repeats, in milliseconds.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from safetensors.torch import load_file

import metaq
from metaq import coding
from metaq.codebook import UniformCodebook
from metaq.compressed_model import keep

ROOT = Path(__file__).parents[1]
WAYS = ("load_file", "loop", "row")
LEAST_SECONDS = 0.1  # of repeats at a turn
TURNS = 12
SLOW_SECONDS = 0.3  # what takes longer is called at one turn only
SERVER = """
import json, sys, time
import metaq

def load_file(path):
    return metaq.load_file(path)

def loop(path):
    with metaq.safe_open(path) as file:
        return [file.get_tensor(name) for name in file.keys()]

def row(path):
    with metaq.safe_open(path) as file:
        return file.get_slice(max(file.keys(), key=lambda name: file.get_slice(name).get_shape()))[0:1]

for line in sys.stdin:
    way, path, least_seconds = json.loads(line)
    call, times = globals()[way], []
    call(path)
    end = time.perf_counter() + least_seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        result = call(path)
        times.append(time.perf_counter() - started)
        del result
    print(json.dumps(min(times)), flush=True)
"""


class Checkout:
    """A process that loads files with the metaq of a folder."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        command = [sys.executable, "-c", SERVER]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def seconds(self, way: str, path: Path) -> float:
        """The least time of some calls."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([way, str(path), LEAST_SECONDS]) + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def make_files(folder: Path, quick: bool) -> dict[str, Path]:
    """Files by what they are called."""
    files = {"LeNet-5": ROOT / "results" / "lenet5-mnist.mtq"}
    models = Path(os.environ["METAQ_DATA"]).resolve().parent / "models"
    resnet = metaq.compress(load_file(models / "resnet32-cifar10.safetensors"), step=0.03)
    for coder in coding.coders:
        files[f"ResNet-32, {coder}"] = save(resnet, folder / f"resnet32-{coder}.mtq", coder)
    count = 2 if quick else 16
    generator = torch.Generator().manual_seed(0)
    weights = {f"{i}.weight": torch.randn(1024, 1024, generator=generator) for i in range(count)}
    norms = {f"{i}.norm": torch.randn(1024, generator=generator) for i in range(count)}
    quantized = {
        name: metaq.CodedTensor((3 * weight).round().int(), UniformCodebook(1 / 3), torch.float32)
        for name, weight in weights.items()
    }
    model = metaq.CompressedModel(interleaved(quantized, keep(norms)))
    for coder in ("rans", "adaptive", "huffman"):
        files[f"{count} M weights of 4 bits, {coder}"] = save(model, folder / f"quantized-{coder}.mtq", coder)
    half = {name: metaq.CodedTensor(entry.symbols, entry.codebook, torch.bfloat16) for name, entry in quantized.items()}
    model = metaq.CompressedModel(interleaved(half, keep(norms)))
    files[f"{count} M weights of 4 bits to bfloat16, huffman"] = save(model, folder / "half-huffman.mtq", "huffman")
    kept = keep({name: tensor.bfloat16() for name, tensor in interleaved(weights, norms).items()})
    path = save(metaq.CompressedModel(kept), folder / "lossless.mtq", "rans")
    return {**files, f"{count} M weights in bfloat16 without loss, rans": path}


def interleaved(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The entries of both, by turns."""
    pairs = zip(first.items(), second.items(), strict=True)
    return dict(item for pair in pairs for item in pair)


def save(model: metaq.CompressedModel, path: Path, coder: str) -> Path:
    """The path, where the model now is."""
    metaq.save(model, path, coder)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="the python folder of another checkout")
    parser.add_argument("--quick", action="store_true", help="smaller files, fewer turns")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "loading.json")
    arguments = parser.parse_args()
    checkouts = {"this": Checkout(ROOT / "python")}
    if arguments.against is not None:
        checkouts["other"] = Checkout(arguments.against)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, path in make_files(Path(folder), arguments.quick).items():
            row: dict[str, Any] = {"file": name, "bytes": path.stat().st_size}
            for way in WAYS:
                times: dict[str, list[float]] = {which: [] for which in checkouts}
                for _ in range(2 if arguments.quick else TURNS):
                    for which, checkout in checkouts.items():
                        if not times[which] or times[which][0] < SLOW_SECONDS:
                            times[which].append(checkout.seconds(way, path))
                row[way] = {which: round(1000 * min(found), 3) for which, found in times.items()}
            rows.append(row)
            print(json.dumps(row), flush=True)
    for checkout in checkouts.values():
        checkout.close()
    result = {"command": shlex.join(["python", *sys.argv]), "machine": machine(), "milliseconds": rows}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
