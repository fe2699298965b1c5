"""The reference software of ISO/IEC 15938-17, NNCodec 2.1.3, on a checkpoint with its best settings: sizes and seconds.

    python -m venv nnc && . nnc/bin/activate
    pip install -c constraints.txt torch numpy safetensors scikit-learn setuptools pybind11 tqdm wheel
    pip install --no-deps --no-build-isolation nncodec==2.1.3
    python benchmarks/reference_software.py CHECKPOINT < PARAMETERS

It needs an environment of its own, and so `checkpoints.py` runs it by `--reference-python nnc/bin/python`. For each
line of standard input, a quantization parameter (-32, -28, -24 and -20 are those compared), it prints one of JSON: the
bytes of the whole file, the relative squared error of the tensors of two dimensions and more, the seconds of encoding
in memory and the least of decoding three times, for which it uses one thread.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
from safetensors.numpy import load_file

# Its package imports, for its examples of training alone, libraries of gigabytes, and those examples.
NOT_NEEDED = ["torchvision", "cv2", "ptflops", "torchmetrics", "h5py", "pandas"]
NOT_NEEDED += [f"torchvision.{name}" for name in ("models", "datasets", "transforms", "datasets.folder")]
NOT_NEEDED += ["nncodec.framework.applications"]
NOT_NEEDED += [f"nncodec.framework.applications.{name}" for name in ("models", "datasets", "utils", "settings")]
NOT_NEEDED += [f"nncodec.framework.applications.utils.{name}" for name in ("sparsification", "evaluation", "train")]
for name in NOT_NEEDED:
    sys.modules[name] = MagicMock(name=name, __path__=[], __spec__=None)

from nncodec import nnc  # noqa: E402 - after the stand-ins

DECODINGS = 3
BEST = {"use_dq": True, "lambda_scale": 1, "row_skipping": True, "param_opt": True}


def measure(state: dict[str, np.ndarray], parameter: int, path: Path) -> dict[str, float]:
    copy = {name: array.copy() for name, array in state.items()}  # what is encoded may be changed
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        stream = nnc.compress(copy, bitstream_path=str(path), qp=parameter, return_bitstream=True, **BEST)
        encoding = time.perf_counter() - start
        decoding = []
        for _ in range(DECODINGS):
            start = time.perf_counter()
            decoded = nnc.decompress(stream, verbose=False)
            decoding.append(time.perf_counter() - start)
    wide = {name: array.astype(np.float64) for name, array in state.items() if array.ndim >= 2}
    missed = sum(float(((array - decoded[name]) ** 2).sum()) for name, array in wide.items())
    return {
        "parameter": parameter,
        "file_bytes": len(stream),
        "error": missed / sum(float((array**2).sum()) for array in wide.values()),
        "encode_seconds": encoding,
        "decode_seconds": min(decoding),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    options = parser.parse_args()
    # It knows no tensors without dimensions (counters of batches), and all others as float32.
    state = {name: array.astype(np.float32) for name, array in load_file(options.checkpoint).items() if array.ndim > 0}
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            print(json.dumps(measure(state, int(line), Path(folder) / "model.nnc")), flush=True)


if __name__ == "__main__":
    main()
