"""The memory that decoding takes, measured in a process of its own: the tensors, and a chunk for each thread."""

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import metaq.numpy
from metaq import _native
from metaq.codebook import TableCodebook, UniformCodebook
from metaq.coding import CHUNK_SYMBOLS
from metaq.compressed_model import CodedTensor, CompressedModel, encode
from metaq.format.dtypes import BY_NAME
from metaq.format.header import ChunkEntry, Header, TensorEntry, pack, varint
from metaq.matrix_layout import MatrixLayout

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

ROOT = Path(__file__).parents[1]
SIZE_BYTES = 64 << 20
STEP = UniformCodebook(0.25)
CHILD = """
import json, os, sys, torch
os.cpu_count = lambda: 2
from metaq.codebook import UniformCodebook
from metaq.compressed_model import CodedTensor, CompressedModel, encode
from metaq.errors import MetaqError
from metaq.format.reader import Reader
from metaq.tensors import load_tensors

def kib(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))

def load(path):
    data = open(path, "rb").read()
    open("/proc/self/clear_refs", "w").write("5")  # the highest so far is now what there is
    before = kib("VmRSS")
    try:
        load_tensors(Reader(data))
        error = ""
    except (MetaqError, MemoryError) as raised:
        error = type(raised).__name__
    return 1024 * (kib("VmHWM") - before), error

small = {"a": torch.zeros(70000), "b": CodedTensor(torch.ones(9).int(), UniformCodebook(1.0), torch.half)}
load_tensors(Reader(encode(CompressedModel(small))))  # what is set up on first use
print(json.dumps([load(path) for path in sys.argv[1:]]))
"""


def measured(folder, files):
    """For each file, the highest memory while decoding it, in bytes more than before, and the error raised."""
    paths = [folder / f"{index}.mtq" for index in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    finished = subprocess.run([sys.executable, "-c", CHILD, *paths], capture_output=True, text=True, check=True)
    return json.loads(finished.stdout)


def test_decoding_64_mib(tmp_path):
    symbols = torch.arange(SIZE_BYTES // 4, dtype=torch.int32).bitwise_and(3).reshape(4096, -1)
    table = TableCodebook((0.0, 1.0, 2.0, 3.0), 0)
    tensors = [
        CodedTensor(symbols, STEP, torch.float32),
        CodedTensor(torch.cat([symbols, symbols]), table, torch.bfloat16),
        symbols.float(),
        CodedTensor(symbols, STEP, torch.float32, MatrixLayout(1, np.arange(4096) % 9, by_columns=True)),
        CodedTensor(torch.cat([symbols, symbols]), STEP, torch.float16, MatrixLayout(1, by_columns=True)),
    ]
    files = [encode(CompressedModel({"a": tensor}), coder) for tensor in tensors for coder in ("huffman", "rans")]
    for peak, error in measured(tmp_path, files):
        assert not error
        # The symbols of a chunk for each of two threads, and half as many bytes of planes.
        assert SIZE_BYTES * 0.95 < peak < SIZE_BYTES + 2 * 6 * CHUNK_SYMBOLS


def test_a_small_network_takes_little(tmp_path):
    data = (ROOT / "results" / "lenet5-mnist.mtq").read_bytes()
    tensors_bytes = sum(array.nbytes for array in metaq.numpy.load(data).values())
    ((peak, error),) = measured(tmp_path, [data])
    assert not error
    assert peak < tensors_bytes + 1_000_000


def absurd(entry, chunks, coder):
    """Chunks as large as the limits allow, over noise that says nothing."""
    payload = np.random.default_rng(0).integers(0, 256, 128, dtype=np.uint8).tobytes()
    entries = [ChunkEntry(coder, 2**26, len(payload))] * chunks
    packed = pack(Header({}, [entry], entries))
    coded = _native.text_encode(packed)
    out = b"MTQ\1" + varint(len(packed)) + varint(len(coded)) + coded
    out += struct.pack("<I", zlib.crc32(out))
    return out + (payload + struct.pack("<I", zlib.crc32(payload))) * chunks


def test_absurd_headers(tmp_path):
    files = [
        absurd(TensorEntry("a", BY_NAME["float64"], (2**39,), STEP), 2**13, 2),
        absurd(TensorEntry("a", BY_NAME["float64"], (2**36,)), 2**13, 3),
        absurd(TensorEntry("a", BY_NAME["float32"], (2**26,), STEP), 1, 2),
        absurd(TensorEntry("a", BY_NAME["int32"], (2**24,)), 1, 3),
        absurd(TensorEntry("a", BY_NAME["float32"], (2**26,), STEP), 1, 6),
    ]
    for peak, error in measured(tmp_path, files):
        assert error in ("FormatError", "MemoryError")
        assert peak < 80 << 20
