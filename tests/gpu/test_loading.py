"""`metaq.gpu` on a GPU or, without one, in Triton's interpreter: the same bits as the CPU's, whatever is in a file."""

import logging
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import metaq
import metaq.gpu.streams as streams
from metaq import CodedTensor, CompressedModel, FormatError
from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.compressed_model import Alias, encode
from metaq.format.reader import Reader
from metaq.gpu import load_tensors_on, loading
from metaq.matrix_layout import MatrixLayout

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def launched(monkeypatch):
    """How many chunks the kernel was given, and how many it found good."""
    found = []
    launch = streams.Streams._launch

    def launching(self, chunks, places, out):
        are_good = launch(self, chunks, places, out)
        found.extend(are_good.tolist())
        return are_good

    monkeypatch.setattr(streams.Streams, "_launch", launching)
    return found


def bits(tensor):
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).tolist() if tensor.numel() else []


def check(data):
    """Both decoders agree on a file."""
    reader = Reader(data)
    expected, found = metaq.tensors.load_tensors(reader), load_tensors_on(DEVICE, reader)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(found[name]) == bits(tensor), name
    return found


def streams_of(data):
    return streams.Streams(Reader(data), data, DEVICE)


def symbols(*shape, spread=2.0):
    return (spread * torch.randn(shape)).round().to(torch.int32)


def test_planes_of_every_width(launched):
    state = {
        "bfloat16": torch.randn(4, 20).bfloat16(),
        "float32": torch.randn(6, 7),
        "float64": torch.randn(9, dtype=torch.float64),
        "float8": torch.randn(20).to(torch.float8_e4m3fn),
        "int64": torch.arange(-6, 6).pow(9),
        "none": torch.zeros(0, 3),
        "special": torch.tensor([float("nan"), float("inf"), -0.0, 1e-40, -float("inf")]),
    }
    check(encode(metaq.CompressedModel(dict(state)), "rans"))
    assert launched
    assert all(launched)


def test_every_codebook_dtype_layout_and_alias(launched):
    scaled = MatrixLayout(1, np.array([-3, 0, 9], np.int8), np.arange(20, dtype=np.int8))
    columns = MatrixLayout(1, None, np.arange(20, dtype=np.int8) - 9, by_columns=True)
    tensors = {
        "uniform": CodedTensor(symbols(3, 20), UniformCodebook(0.0125), torch.float32),
        "half": CodedTensor(symbols(3, 20), UniformCodebook(0.3), torch.float16),
        "double": CodedTensor(symbols(30), UniformCodebook(1e-30), torch.float64),
        "table": CodedTensor(
            symbols(20).clamp(-3, 3), TableCodebook((-4.0, -2.0, -1.0, 0.0, 1.5, 2.0, 3.0), 3), torch.bfloat16
        ),
        "integers": CodedTensor(symbols(2, 9), IntegerCodebook(), torch.int8),
        "bools": CodedTensor(torch.tensor([1, 0, 1], dtype=torch.int32), IntegerCodebook(), torch.bool),
        "scaled": CodedTensor(symbols(3, 20), UniformCodebook(0.1), torch.float32, scaled),
        "columns": CodedTensor(symbols(3, 20), UniformCodebook(0.1), torch.bfloat16, columns),
        "scalar": CodedTensor(symbols(1).reshape(()), UniformCodebook(2.0), torch.float32),
        "kept": torch.randn(5),
        "alias": Alias("half"),
    }
    found = check(encode(CompressedModel(tensors), "rans"))
    assert found["alias"] is found["half"]
    assert launched
    assert all(launched)


@pytest.mark.slow
def test_contexts_and_classes(launched):
    rows = torch.arange(24) % 3
    by_row = torch.randn(24, 40) * (1 + 6 * rows[:, None] ** 2)
    slots = []
    for tensor in (by_row.round().to(torch.int32), torch.cumsum(symbols(24, 40), 1).to(torch.int32)):
        data = encode(CompressedModel({"w": CodedTensor(tensor, UniformCodebook(0.5), torch.float32)}), "rans")
        check(data)
        (fields,) = streams_of(data).fields
        slots.append((fields[streams.Field.UNITS] > 1, fields[streams.Field.CONTEXT_MASK] > 0))
    assert launched == [True, True]
    assert (True, False) in slots
    assert any(has_contexts for _, has_contexts in slots)


@pytest.mark.slow
def test_escapes(launched):
    tensor = torch.randint(-60, 60, (90, 100), dtype=torch.int32)
    tensor[::9, ::11] = torch.arange(100, dtype=torch.int32).reshape(10, 10) * 1001 - 9000
    data = encode(CompressedModel({"w": CodedTensor(tensor, UniformCodebook(0.5), torch.float32)}), "rans")
    assert streams_of(data).fields[0, streams.Field.ESCAPES] > 90
    check(data)
    assert launched == [True]


def test_chunks_and_groups_that_cut_tensors(launched, monkeypatch):
    monkeypatch.setattr(loading, "GROUP_SYMBOLS", 90)
    monkeypatch.setattr(streams, "SLOTS_PER_LAUNCH", 50)
    tensors = {f"coded{i}": CodedTensor(symbols(5, 8), UniformCodebook(0.1), torch.float32) for i in range(4)}
    tensors |= {f"kept{i}": torch.randn(4, 6).bfloat16() for i in range(4)}
    check(encode(CompressedModel(tensors), "rans", chunk_symbols=50))
    assert len(launched) >= 4
    assert all(launched)


@pytest.mark.slow
def test_all_lanes(launched):
    model = CompressedModel({"w": CodedTensor(symbols(60, 300, spread=40), UniformCodebook(0.1), torch.float32)})
    assert streams_of(encode(model, "rans")).fields[0, streams.Field.LANES] == 32
    check(encode(model, "rans"))
    assert launched == [True]


@pytest.mark.parametrize("coder", ["mixing", "huffman", "zstd", "stored"])
def test_other_coders_are_decoded_here(launched, coder):
    tensors = {"coded": CodedTensor(symbols(5, 20), UniformCodebook(0.1), torch.float32), "kept": torch.randn(9, 9)}
    check(encode(CompressedModel(tensors), coder))
    assert not launched


def refusal(decode):
    """What is said of a file that is refused; None of one that is not."""
    try:
        decode()
    except FormatError as error:
        return str(error)
    return None


def sealed_with(data, change):
    """A file with its first payload changed, and its checksum made right."""
    reader = Reader(data)
    start, size = reader.payload_offsets[0], reader.header.chunks[0].payload_bytes
    changed = bytearray(data)
    change(memoryview(changed)[start : start + size])
    changed[start + size : start + size + 4] = zlib.crc32(changed[start : start + size]).to_bytes(4, "little")
    return bytes(changed)


def test_damaged_streams_are_refused_as_the_cpu_refuses_them(launched):
    data = encode(CompressedModel({"w": CodedTensor(symbols(5, 20), UniformCodebook(0.1), torch.float32)}), "rans")
    size = Reader(data).header.chunks[0].payload_bytes
    refused = 0
    for place in range(1, size, size // 4):

        def flip(payload, place=place):
            payload[-place] ^= 0x41

        damaged = sealed_with(data, flip)
        expected = refusal(Reader(damaged).load)
        refused += expected is not None
        assert refusal(lambda data=damaged: load_tensors_on(DEVICE, Reader(data))) == expected
    assert refused > 2
    assert not all(launched)


def test_a_wrong_checksum_and_a_symbol_without_a_level_are_refused_in_the_same_words(monkeypatch):
    monkeypatch.setattr("metaq.compressed_model.check_model", lambda model: None)
    tensor = CodedTensor(symbols(9, 9).clamp(-1, 1), TableCodebook((-1.0, 1.0), 1), torch.float32)
    without_level = encode(CompressedModel({"w": tensor}), "rans")
    flipped = bytearray(without_level)
    flipped[-6] ^= 1
    for data, reason in ((without_level, "symbols that stand for values"), (bytes(flipped), "to match its checksum")):
        expected = refusal(Reader(data).load)
        assert reason in expected
        assert refusal(lambda data=data: load_tensors_on(DEVICE, Reader(data))) == expected


def test_a_kernel_that_fails_leaves_all_to_the_cpu(monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(streams.Streams, "_launch", fail)
    with caplog.at_level(logging.WARNING):
        check(encode(CompressedModel({"w": CodedTensor(symbols(5, 20), UniformCodebook(0.1), torch.float32)}), "rans"))
    expected = f"data: expected to decode on {DEVICE}, found no compiler; the CPU has decoded it"
    assert [record.message for record in caplog.records] == [expected]


def test_the_kernel_compiles_for_a_gpu():
    """For compute capability 9.0, in a process of its own, which does not interpret it; none has to be there."""
    program = """
import warnings

warnings.simplefilter("ignore")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from metaq.gpu.kernel import decode_chunks

for out, origin in (("*u8", 128), ("*i32", 0)):
    types = dict(octets="*u8", fields="*i64", slots="*u32", listed="*i32", unit_ends="*u32", unit_tables="*u32")
    constants = dict(FIELDS=16, ORIGIN=origin, LEAST=-128, GREATEST=127)
    types |= dict(out=out, are_good="*i32") | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=decode_chunks, signature=types, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
    assert made.asm["cubin"] and made.metadata.shared == 0 and "bar.sync" not in made.asm["ptx"]
"""
    without = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", program], check=True, env=without)
