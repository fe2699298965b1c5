"""Builds the npm package's two modules of the decoder in src/: `python wasm/build.py`; it takes `pip install ziglang`.

`metaq.simd.wasm` has vectors of 128 bits; `metaq.plain.wasm` is for engines without them.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"
EXPORTS = ("close", "tensor_count", "metadata_count", "base", "status_name", "status_text", "dtype_name", "version")
FLAGS = [
    *("-target", "wasm32-wasi", "-mexec-model=reactor", "-std=c++20", "-Os", "-flto", "-fno-exceptions", "-fno-rtti"),
    "-ffp-contract=off",
    *("-DNDEBUG", "-DMETAQ_NO_THREADS", "-DMETAQ_NO_HEAP", "-DMETAQ_TABLES_AT_START", f"-I{SOURCE}"),
    *("-Wl,--gc-sections", "-Wl,--strip-all", "-Wl,-z,stack-size=262144"),
    *(f"-Wl,--export=metaq_{name}" for name in EXPORTS),
]
BUILDS = {"simd": ["-msimd128"], "plain": []}


def build(folder: Path) -> None:
    """Writes `metaq.simd.wasm` and `metaq.plain.wasm` to the folder; a build that fails raises."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, flags in BUILDS.items():
        sources = [HERE / "metaq_wasm.cpp", SOURCE / "metaq" / "metaq.cpp"]
        output = folder / f"metaq.{name}.wasm"
        subprocess.run([sys.executable, "-m", "ziglang", "c++", *FLAGS, *flags, *sources, "-o", output], check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "dist")
