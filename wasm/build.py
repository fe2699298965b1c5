"""Builds the npm package's two modules of the decoder in src/: `python wasm/build.py`; it takes `pip install ziglang`.

`metaq.plain.wasm` is all of it, without vectors. `metaq.simd.wasm` has only the inner loops that vectors of 128 bits
make faster; it works in the memory of the other, between that one's stack and its data.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"
EXPORTS = ("close", "tensor_count", "metadata_count", "base", "status_name", "status_text", "dtype_name", "version")
STACK_BYTES = 0x40000  # of the decoder, from address 0 on
LOOPS_END = 0x50000  # behind data and stack of the loops; metaq.js knows it, too
FLAGS = [
    *("-target", "wasm32-wasi", "-mexec-model=reactor", "-std=c++20", "-fno-exceptions", "-fno-rtti", "-mbulk-memory"),
    *("-DNDEBUG", "-DMETAQ_NO_THREADS", "-DMETAQ_NO_HEAP", "-DMETAQ_TABLES_AT_START", "-DMETAQ_REPLACEABLE"),
    *("-ffp-contract=off", f"-I{SOURCE}", "-Wl,--gc-sections", "-Wl,--strip-all"),
]
FOR_SPEED = ["-O2"]
FOR_SIZE = ["-Os", "-Xclang", "-Oz"]  # -Oz alone is -Os to zig
PLAIN = [
    *("-flto", f"-Wl,-z,stack-size={STACK_BYTES}", f"-Wl,--global-base={LOOPS_END}"),
    *("-Wl,--export-table", "-Wl,--growable-table"),
    *(f"-Wl,--export=metaq_{name}" for name in EXPORTS),
]
# More memory than to LOOPS_END is an error. Without -flto, which brings in parts of libc.
SIMD = [
    *("-msimd128", f"-Wl,--global-base={STACK_BYTES}", f"-Wl,--initial-memory={LOOPS_END}", "-Wl,-z,stack-size=4096"),
    *("-Wl,--import-memory", "-Wl,--import-table", "-Wl,--export=__stack_pointer"),
]


def build(folder: Path) -> None:
    """Writes `metaq.plain.wasm` and `metaq.simd.wasm` to the folder; a build that fails raises."""
    folder.mkdir(parents=True, exist_ok=True)
    loops = HERE / "loops.cpp"
    with tempfile.TemporaryDirectory() as objects:
        fast = Path(objects) / "loops.o"
        _compile("-flto", *FOR_SPEED, "-c", loops, "-o", fast)
        # Of a function that two files have, the linker takes the first.
        others = (HERE / "metaq_wasm.cpp", SOURCE / "metaq" / "metaq.cpp")
        _compile(*PLAIN, *FOR_SIZE, fast, *others, "-o", folder / "metaq.plain.wasm")
    _compile(*SIMD, *FOR_SPEED, loops, "-o", folder / "metaq.simd.wasm")


def _compile(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "ziglang", "c++", *FLAGS, *arguments], check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "dist")
