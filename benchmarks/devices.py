"""What small devices take on a Cortex-M4: the decoder by coder for three networks, and LeNets with their forward pass.

    python benchmarks/devices.py [--output devices.json] [--coders huffman,rans]

It takes Debian's gcc-arm-none-eabi, libstdc++-arm-none-eabi-newlib and qemu-system-arm. Of the decoder, flash is that
of all of examples/device/main.cpp, compiled for one coder, less the image in it: also what starts a program, and
floating-point arithmetic, for which this processor is taken to have no unit. The arena and the stack are those of the
same program while it decodes a network under QEMU, row by row. Tensors that are coded are not in the arena; those that
are kept without loss are, and their bytes are a figure of their own. The LeNets are those of results/; ResNet-8 has
initial weights, compressed as `metaq compress --bits 3` does it, which keeps its batch norms. Of a network with its
forward pass, flash is all of examples/device/network.cpp, an image and an input with it, and RAM all that is static in
it, with the arena and the results of layers; the stack is measured under QEMU.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import machine
from torch import Tensor

import metaq
from metaq import compressed_model
from metaq.compressed_model import CompressedModel
from metaq.experiments import models
from metaq.experiments.device import recipe_program
from metaq.format.checked_file import CheckedFile
from metaq.format.device_image import c_header
from metaq.format.reader import Reader

ROOT = Path(__file__).parents[1]
FILES = ("lenet5-mnist", "lenet300-mnist", "resnet8")
RESNET8_SEED = 0
RESNET8_BITS = 3.0
CODERS = ("huffman", "range", "rans", "mixing", "adaptive")
NETWORKS = ("lenet5-digits", "lenet5-mnist", "lenet300-mnist")
NETWORK_CODERS = ("huffman", "rans", "mixing")
COMPILER = "arm-none-eabi-g++"
SMALL = ("METAQ_SMALL", "METAQ_NO_SIMD", "METAQ_NO_THREADS", "METAQ_NO_HEAP", "METAQ_NO_DIFFERENCES")
FLAGS = [
    *("-std=c++20", "-Os", "-mcpu=cortex-m4", "-mthumb", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"),
    *("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-Wno-psabi", f"-I{ROOT / 'src'}"),
    *(f"-D{name}" for name in SMALL),
]
IN_FLASH = ["--specs=nano.specs", "--specs=nosys.specs"]
IN_QEMU = [
    *("--specs=rdimon.specs", "-DMETAQ_REPORT", str(ROOT / "examples/device/vectors.s")),
    *("-Wl,--section-start=.vectors=0", "-Wl,--undefined=vectors"),
]
QEMU = ["qemu-system-arm", "-M", "mps2-an386", "-cpu", "cortex-m4", "-semihosting", "-nographic", "-monitor", "none"]


def compressed(name: str, coder: str) -> CompressedModel:
    """The network of a file of results/, or ResNet-8 with initial weights, compressed for that coder."""
    if name == "resnet8":
        state = models.initial(name, RESNET8_SEED).state_dict()
        return metaq.compress_state_dict(state, metaq.CompressionConfig(bits=RESNET8_BITS, coder=coder))
    return compressed_model.read_model(Reader((ROOT / "results" / f"{name}.mtq").read_bytes()))


def build(folder: Path, source: str, *flags: str) -> Path:
    """A program of examples/device/, with the headers in the folder."""
    program = folder / "program.elf"
    path = ROOT / "examples" / "device" / source
    subprocess.run([COMPILER, *FLAGS, f"-I{folder}", path, *flags, "-o", program], check=True)
    return program


def section_bytes(program: Path) -> tuple[int, int]:
    """What lies in flash, and what in RAM: initialised values in both."""
    sizes = subprocess.run(["arm-none-eabi-size", program], capture_output=True, text=True, check=True).stdout
    text, initialised, zeros, *_ = map(int, sizes.splitlines()[1].split()[:3])
    return text + initialised, initialised + zeros


def printed(program: Path) -> list[str]:
    """The words that a program prints under QEMU."""
    run = subprocess.run([*QEMU, "-kernel", program], capture_output=True, text=True, timeout=600, check=False)
    return run.stdout.split()


def decoder_row(coder: str, name: str, folder: Path) -> dict[str, Any]:
    model = compressed(name, coder)
    file = CheckedFile(compressed_model.encode(model, coder), name)
    kept_bytes = sum(tensor.nbytes for tensor in model.tensors.values() if isinstance(tensor, Tensor))
    image, arena_bytes = file.device_image()
    (folder / "model.h").write_text(c_header(image, arena_bytes, "model"))
    coders = f"-DMETAQ_CODERS=METAQ_CODER_{coder.upper()}"
    flash_bytes, _ = section_bytes(build(folder, "main.cpp", coders, *IN_FLASH))
    status, _, arena, _, stack = printed(build(folder, "main.cpp", coders, *IN_QEMU))
    if status != "ok":
        raise RuntimeError(f"decoding ended with {status}")
    row = {"coder": coder, "file": name, "file_bytes": file.size_bytes, "flash_bytes": flash_bytes - len(image)}
    return row | {"arena_bytes": int(arena), "kept_bytes": kept_bytes, "stack_bytes": int(stack)}


def network_row(coder: str, name: str, folder: Path) -> dict[str, Any]:
    file = CheckedFile(compressed_model.encode(compressed(name, coder), coder), name)
    program = recipe_program(file, None, "model")
    (folder / "model.h").write_text(program.text)
    (folder / "input.h").write_text("static const float inputs[1][MODEL_INPUTS] = {};\n")
    flash_bytes, ram_bytes = section_bytes(build(folder, "network.cpp", *IN_FLASH))
    *_, stack = printed(build(folder, "network.cpp", *IN_QEMU))
    row = {"network": name, "coder": coder, "image_bytes": program.image_bytes, "flash_bytes": flash_bytes}
    return row | {"ram_bytes": ram_bytes, "value_bytes": program.value_bytes, "stack_bytes": int(stack)}


def print_row(row: dict[str, Any]) -> None:
    print("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in row.values()) + " |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--coders", default=",".join(CODERS), help="those to measure")
    options = parser.parse_args(arguments)
    version = subprocess.run([COMPILER, "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    coders = options.coders.split(",")
    report: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv] if arguments is None else arguments),
        "machine": machine() | {"compiler": f"{COMPILER} {version}"},
        "rows": [],
        "networks": [],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| coder | file | file, B | flash, B | arena, B | kept, B | stack, B |\n|---|---|---|---|---|---|---|")
        for coder in coders:
            for file in FILES:
                if (coder, file) == ("adaptive", "resnet8"):  # its kept tensors take another coder, not in the program
                    continue
                report["rows"].append(decoder_row(coder, file, folder))
                print_row(report["rows"][-1])
        print(
            "\n| network | coder | image, B | flash, B | RAM, B | values, B | stack, B |\n|---|---|---|---|---|---|---|"
        )
        for network in NETWORKS:
            for coder in NETWORK_CODERS:
                if coder in coders:
                    report["networks"].append(network_row(coder, network, folder))
                    print_row(report["networks"][-1])
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
