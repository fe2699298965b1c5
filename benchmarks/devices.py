"""What decoding takes on a Cortex-M4: flash by coder, and memory for the LeNets.

    python benchmarks/devices.py [--output devices.json] [--coders huffman,rans]

It takes Debian's gcc-arm-none-eabi, libstdc++-arm-none-eabi-newlib and qemu-system-arm. Flash is that of all of
examples/device/main.cpp, compiled for one coder, less the image in it: also what starts a program, and floating-point
arithmetic, for which this processor is taken to have no unit. The arena and the stack are those of the same program
while it decodes a LeNet under QEMU, row by row; the tensors are not in them.
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

from metaq import compressed_model
from metaq.format.checked_file import CheckedFile
from metaq.format.device_image import c_header
from metaq.format.reader import Reader

ROOT = Path(__file__).parents[1]
FILES = ("lenet5-mnist", "lenet300-mnist")
CODERS = ("huffman", "range", "rans", "mixing", "adaptive")
COMPILER = "arm-none-eabi-g++"
FLAGS = [
    *("-std=c++20", "-Os", "-mcpu=cortex-m4", "-mthumb", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"),
    *("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"),
    *("-DMETAQ_SMALL", "-DMETAQ_NO_SIMD", "-DMETAQ_NO_THREADS", "-DMETAQ_NO_HEAP", "-DMETAQ_NO_DIFFERENCES", f"-I{ROOT / 'src'}"),
]
IN_FLASH = ["--specs=nano.specs", "--specs=nosys.specs"]
IN_QEMU = [
    *("--specs=rdimon.specs", "-DMETAQ_REPORT", str(ROOT / "examples/device/vectors.s")),
    *("-Wl,--section-start=.vectors=0", "-Wl,--undefined=vectors"),
]
QEMU = ["qemu-system-arm", "-M", "mps2-an386", "-cpu", "cortex-m4", "-semihosting", "-nographic", "-monitor", "none"]


def recoded(name: str, coder: str) -> bytes:
    """A file of results/ as that coder writes it."""
    data = (ROOT / "results" / f"{name}.mtq").read_bytes()
    return compressed_model.encode(compressed_model.read_model(Reader(data)), coder)


def build(folder: Path, data: bytes, coder: str, *flags: str) -> tuple[Path, int]:
    """The program with the file in it, and the size of its image."""
    image, arena_bytes = CheckedFile(data).device_image()
    (folder / "model.h").write_text(c_header(image, arena_bytes, "model"))
    program = folder / "program.elf"
    coders = f"-DMETAQ_CODERS=METAQ_CODER_{coder.upper()}"
    source = ROOT / "examples" / "device" / "main.cpp"
    subprocess.run([COMPILER, *FLAGS, coders, f"-I{folder}", source, *flags, "-o", program], check=True)
    return program, len(image)


def flash_bytes(folder: Path, data: bytes, coder: str) -> int:
    program, image_bytes = build(folder, data, coder, *IN_FLASH)
    sizes = subprocess.run(["arm-none-eabi-size", program], capture_output=True, text=True, check=True).stdout
    text, initialised, *_ = sizes.splitlines()[1].split()
    return int(text) + int(initialised) - image_bytes


def memory_bytes(folder: Path, data: bytes, coder: str) -> dict[str, int]:
    program, _ = build(folder, data, coder, *IN_QEMU)
    printed = subprocess.run([*QEMU, "-kernel", program], capture_output=True, text=True, timeout=600, check=False)
    status, _, arena, _, stack = printed.stdout.split()
    if status != "ok":
        raise RuntimeError(f"decoding ended with {status}")
    return {"arena_bytes": int(arena), "stack_bytes": int(stack)}


def measure(coder: str, folder: Path) -> list[dict[str, Any]]:
    rows = []
    for name in FILES:
        data = recoded(name, coder)
        row = {"coder": coder, "file": name, "file_bytes": len(data)}
        row["flash_bytes"] = flash_bytes(folder, data, coder)
        rows.append(row | memory_bytes(folder, data, coder))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--coders", default=",".join(CODERS), help="those to measure")
    options = parser.parse_args(arguments)
    version = subprocess.run([COMPILER, "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    report: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv] if arguments is None else arguments),
        "machine": machine() | {"compiler": f"{COMPILER} {version}"},
        "rows": [],
    }
    print("| coder | file | file, B | flash, B | arena, B | stack, B |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for coder in options.coders.split(","):
            for row in measure(coder, Path(folder)):
                report["rows"].append(row)
                print("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in row.values()) + " |")
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
