"""read_a_file.py FILE.mtq: with NumPy alone, an installed metaq reads a file, writes it without loss and reads that."""

import importlib.metadata
import sys
import tempfile
from pathlib import Path

import numpy as np

import metaq.numpy

tensors = metaq.numpy.load_file(sys.argv[1])
with tempfile.TemporaryDirectory() as folder:
    copy = Path(folder) / "copy.mtq"
    metaq.numpy.save_file(tensors, copy)
    again = metaq.numpy.load_file(copy)

assert tensors, "expected tensors, found none"
assert list(again) == list(tensors), f"expected {list(tensors)}, found {list(again)}"
for name, values in tensors.items():
    np.testing.assert_array_equal(again[name], values, err_msg=name, strict=True)
assert importlib.metadata.version("metaq-nn") == metaq.__version__
assert "torch" not in sys.modules, "expected no torch, found it loaded"
print(f"{metaq.__file__}: {len(tensors)} tensors of {sys.argv[1]} read, written and read again")
