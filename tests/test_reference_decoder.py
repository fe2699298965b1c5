"""The reference decoder agrees with the implementation: on golden files, on made ones, and on what is no file."""

import importlib.util
import re
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np
import pytest
import reference_decoder as reference
import torch

import metaq
from metaq import coding, compressed_model
from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.coding import base as coding_base
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, read_model
from metaq.errors import FormatError
from metaq.format.reader import Reader
from metaq.tensors import load_tensors, octets_of

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("golden_make", HERE / "golden" / "make.py")
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)
DOCUMENT = (HERE.parent / "docs" / "format.md").read_text()

NAMES = [name for name, coder in coding.coders.items() if coder.identifier in reference.CODERS]

# Lists of blocks for which each branch of the mixing coder is taken somewhere.
SHAPES = {
    "vector": [(40, 1, 1)],
    "matrix": [(12, 10, 1)],
    "wide matrix": [(2, 60, 1)],
    "filters": [(4, 3, 9), (6, 4, 9), (3, 12, 4)],
    "odd kernels": [(3, 2, 7), (2, 2, 2)],
    "wide kernels": [(2, 1, 100), (1, 1, 4225)],
    "network": [(6, 2, 9), (5, 24, 1), (8, 5, 1), (8, 1, 1), (16, 8, 1)],
    "one": [(1, 1, 1)],
}


def symbols_like(name, generator, size):
    """Symbols of one distribution."""
    if name == "constant":
        return np.full(size, generator.integers(-3, 4))
    if name == "signs":
        return generator.integers(0, 2, size) * 2 - 1
    if name == "sparse":
        return (generator.random(size) < 0.1) * generator.integers(-3, 4, size)
    if name == "weights":
        return np.rint(generator.laplace(0, 2, size))
    if name == "smooth":
        return np.rint(30 * np.sin(np.arange(size) / 3) + generator.normal(0, 2, size))
    if name == "wide":
        return np.rint(generator.standard_cauchy(size) * 1000).clip(-(2**29), 2**29)
    assert name == "extreme"
    return generator.integers(1 - 2**30, 2**30, size)


DISTRIBUTIONS = ["constant", "signs", "sparse", "weights", "smooth", "wide", "extreme"]


def blocks_of(shapes, distribution, seed):
    generator = np.random.default_rng(seed)
    blocks = [symbols_like(distribution, generator, prod(shape)) for shape in shapes]
    return [block.astype(np.int32).reshape(shape) for block, shape in zip(blocks, shapes, strict=True)]


def as_lists(blocks):
    return [block.reshape(-1).tolist() for block in blocks]


def assert_agrees(data):
    expected = load_tensors(Reader(data))
    decoded = reference.decode(data)
    assert list(decoded) == list(expected)
    for name, tensor in expected.items():
        dtype, shape, raw = decoded[name]
        assert (dtype, shape) == (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        assert raw == octets_of(tensor).tobytes()


@pytest.mark.parametrize("path", sorted((HERE / "golden").glob("*.mtq")), ids=lambda path: path.name)
def test_golden_files(path):
    data = path.read_bytes()
    if any(chunk.coder not in reference.CODERS for chunk in Reader(data).header.chunks):
        pytest.skip("a coder that the reference decoder does not know")
    assert_agrees(data)


def as_bytes(state):
    """Tensors as the reference decoder has them."""
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in state.items()}
    return {name: (dtypes[name], tuple(tensor.shape), octets_of(tensor).tobytes()) for name, tensor in state.items()}


def test_a_golden_difference():
    data, base = (HERE / "golden" / "differences" / "task.mtq").read_bytes(), make.base()
    made = metaq.apply_difference(read_model(Reader(data, takes_differences=True)), base)
    assert reference.apply(data, as_bytes(base)) == as_bytes(made)
    with pytest.raises(reference.MalformedError, match="a difference"):
        reference.decode(data)
    with pytest.raises(reference.MalformedError, match="another base"):
        reference.apply(data, as_bytes(made))


def test_a_golden_difference_without_loss():
    data, base = (HERE / "golden" / make.LOSSLESS).read_bytes(), as_bytes(make.lossless_base())
    assert reference.apply(data, base) == as_bytes(make.lossless_new())
    with pytest.raises(reference.MalformedError, match="another base"):
        reference.apply(data, as_bytes(make.lossless_new()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_sums_of_every_dtype(dtype):
    """Ties, cancellation, denormals and overflow among any bits."""
    generator = torch.Generator().manual_seed(5)
    words = torch.randint(-(2**62), 2**62, (500,), generator=generator)
    base = {"w": words.view(torch.int16)[:500].view(dtype) if dtype.itemsize == 2 else words.view(dtype)[:500].clone()}
    near = torch.randint(-9, 10, (500,), generator=generator, dtype=torch.int32)
    for step in (2.0**-149, 2.0**-24, 2.0**-12, 0.1, 3e37):
        entry = CodedTensor(near, UniformCodebook(step), torch.float32)
        difference = CompressedModel({"w": entry}, base=metaq.checksum(base))
        made = metaq.apply_difference(difference, base)
        data = compressed_model.encode(difference, "stored")
        assert reference.apply(data, as_bytes(base)) == as_bytes(made)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_streams_of_every_coder(name, distribution):
    coder = coding.by_name(name)
    for seed, shapes in enumerate(SHAPES.values()):
        if name == "mixing" and shapes == SHAPES["wide kernels"] and distribution not in ("constant", "smooth"):
            continue
        blocks = blocks_of(shapes, distribution, seed)
        decoded = reference.CODERS[coder.identifier](coder.encode(blocks), shapes)
        assert decoded == as_lists(blocks)


def path_of(indices, machine):
    """The symbols of dependent quantizers with these indices: row by row, 2 index - sign(index) * (state mod 2)."""
    symbols = np.zeros(indices.shape, dtype=np.int32)
    for row, line in zip(symbols.reshape(len(indices), -1), indices.reshape(len(indices), -1).tolist(), strict=True):
        state = 0
        for n, index in enumerate(line):
            row[n] = 2 * index - (index > 0) * (state % 2) + (index < 0) * (state % 2)
            state = reference.MACHINES[machine][state][index % 2]
    return symbols


def assert_adaptive_agrees(blocks):
    data = coding.by_name("adaptive").encode(blocks)
    assert reference.decode_adaptive(data, [block.shape for block in blocks]) == as_lists(blocks)


@pytest.mark.parametrize("scale", [0.2, 2.0, 30.0, 1e3, 1e5, 1e8])
def test_adaptive_blocks_of_every_kind(scale):
    """Small and large shifts, far cells, free, sparse and dependent symbols, rows that feed channels, constants."""
    generator = np.random.default_rng(3)

    def symbols(values):
        return np.rint(values).clip(-(2**28), 2**28).astype(np.int32)

    def weights(*shape):
        spread = scale * np.exp(generator.normal(0, 1, (shape[0], 1, 1)))
        return symbols(np.exp(generator.normal(0, 1, shape)) * generator.laplace(0, spread, shape))

    def sparse(*shape):
        return weights(*shape) * (generator.random(shape) < 0.1)

    waves = 9 * np.sin(np.arange(30 * 4 * 25) / 3) + generator.normal(0, 1, 3000)
    columns = np.linspace(-40 * scale, 40 * scale, 80)[:, None]
    assert_adaptive_agrees(
        [
            weights(40, 3, 9),
            symbols(scale * waves).reshape(30, 4, 25),
            weights(4, 2, 150) + 5,
            np.full((3, 4, 9), -6, dtype=np.int32),
            path_of(weights(16, 8, 9), 0),
            path_of(weights(24, 32, 1), 1),
            weights(50, 1, 1) + 2**29,
            symbols(weights(40, 48, 1) * (np.arange(40) % 2)[:, None, None]),
            weights(2, 80, 4),
            symbols(weights(60, 80, 1) + columns),
            sparse(18, 50, 1) + 3,
            sparse(9, 6, 25),
            weights(1, 1, 1),
        ]
    )


def test_adaptive_tables_that_have_seen_much():
    generator = np.random.default_rng(4)
    assert_adaptive_agrees([generator.integers(-1, 2, (150, 100, 1)).astype(np.int32)])


def test_adaptive_rows_too_many_for_their_levels_and_weights_beyond_32_bits():
    rows = np.tile(np.array([2, 201], dtype=np.int32), 65_700).reshape(65_700, 1, 2)
    assert_adaptive_agrees([rows, rows[:20].reshape(4, 5, 2)])


def test_adaptive_levels_at_their_limits():
    generator = np.random.default_rng(5)
    every_other = generator.integers(-200, 201, (40, 48, 1), dtype=np.int32)
    every_other[::2] = 0
    assert_adaptive_agrees(blocks_of([*[(1, 16, 1)] * 150, (1, 4000, 1), (2, 3, 4)], "extreme", 5))
    assert_adaptive_agrees([every_other, generator.integers(-1, 2, (3, 80, 64), dtype=np.int32)])


@pytest.mark.parametrize("name", ["huffman", "range", "mixing", "rans", "adaptive"])
def test_fillers_and_least_sizes(name):
    shapes = [(2**19 + 1, 1, 1), (2**20, 1, 1), (1, 1, 1)]
    blocks = [np.full(shape, 7, dtype=np.int32) for shape in shapes]
    coder = coding.by_name(name)
    data = coder.encode(blocks)
    assert reference.CODERS[coder.identifier](data, shapes) == as_lists(blocks)
    with pytest.raises(reference.MalformedError):
        reference.CODERS[coder.identifier](data[:-1], shapes)


def mutated(data, generator):
    """The data with a change: cut, longer, or with bytes altered."""
    kind = generator.integers(0, 5)
    changed = bytearray(data)
    if kind == 0:
        return data[: generator.integers(0, len(data))]
    if kind == 1:
        return data + bytes([generator.integers(0, 3)])
    if kind == 2:
        return generator.bytes(len(data))
    position = generator.integers(0, len(data))
    if kind == 3:
        changed[position] ^= 1 << generator.integers(0, 8)
    else:
        changed[position:] = (
            bytes(len(data) - position) if generator.integers(0, 2) else b"\xff" * (len(data) - position)
        )
    return bytes(changed)


@pytest.mark.parametrize("name", NAMES)
def test_what_no_encoder_writes(name):
    """Both refuse it, or both decode it to the same symbols."""
    coder = coding.by_name(name)
    generator = np.random.default_rng(5)
    shapes = [(3, 2, 4), (4, 3, 1)]
    for attempt in range(120):
        blocks = blocks_of(shapes, DISTRIBUTIONS[attempt % len(DISTRIBUTIONS)], attempt)
        data = mutated(coder.encode(blocks), generator)
        try:
            expected = as_lists(coder.decode(data, shapes))
        except FormatError:
            expected = None
        try:
            decoded = reference.CODERS[coder.identifier](data, shapes)
            if not all(reference.is_symbol(symbol) for block in decoded for symbol in block):
                decoded = None
        except reference.MalformedError:
            decoded = None
        assert decoded == expected, data.hex()


def small_model(seed):
    """Coded tensors of all float dtypes and codebooks, coded integers, kept tensors and aliases."""
    generator = torch.Generator().manual_seed(seed)
    floats = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
    integers = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool]
    levels = (torch.randn(9, generator=generator) * 10 ** torch.randn(9, generator=generator)).sort().values
    table = TableCodebook(tuple(levels.tolist()), 4)
    tensors = {}
    for i, dtype in enumerate(floats):
        step = UniformCodebook(10.0 ** (6 * torch.randn((), generator=generator)).item())
        spread = 10 ** (1 + 2 * (i + seed) % 9)
        symbols = torch.randint(-spread, spread + 1, (3, 2, 2, 3), generator=generator)
        tensors[f"uniform {dtype}"] = CodedTensor(symbols.int(), step, dtype)
        symbols = torch.randint(-4, 5, (5, 4), generator=generator)
        tensors[f"table {dtype}"] = CodedTensor(symbols.int(), table, dtype)
        tensors[f"kept {dtype}"] = torch.randn(4, 3, generator=generator).to(dtype)
    for dtype in integers:
        symbols = torch.randint(0, 2, (7,), generator=generator)
        tensors[f"coded {dtype}"] = CodedTensor(symbols.int(), IntegerCodebook(), dtype)
        if dtype == torch.bool:
            continue
        tensors[f"kept {dtype}"] = torch.randint(0, 2, (2, 2), generator=generator).to(dtype)
    tensors["tied"] = Alias("kept torch.float32")
    tensors["tied too"] = Alias("table torch.float16")
    return CompressedModel(tensors, {"seed": str(seed)})


@pytest.mark.parametrize("name", NAMES)
def test_made_files(name, monkeypatch):
    for seed in range(3):
        if seed == 2:
            monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", 20)
        assert_agrees(compressed_model.encode(small_model(seed), name))


def test_float_edges():
    """Values that round, overflow and underflow in each float dtype."""
    tensors = {}
    for i, step in enumerate([2.0**-149, 2.0**-26, 1 / 3, 65504 / 3, 65519.99 / 1024, 3.4e38 / 7, 3.4028235e38]):
        symbols = torch.tensor([0, 1, -1, 2, 3, 5, 7, -7, 1023, 1024, 1025, 2**24 + 1, -(2**24) - 3, 2**30 - 1])
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            tensors[f"{i} {dtype}"] = CodedTensor(symbols.int(), UniformCodebook(step), dtype)
    assert_agrees(compressed_model.encode(CompressedModel(tensors), "stored"))


def test_flipped_bits_and_cut_files():
    data = bytearray(compressed_model.encode(small_model(0), "huffman"))
    for position in range(0, len(data), 97):
        data[position] ^= 16
        with pytest.raises(reference.MalformedError):
            reference.decode(bytes(data))
        data[position] ^= 16
    for size in [*range(12), len(data) // 2, len(data) - 1]:
        with pytest.raises(reference.MalformedError):
            reference.decode(bytes(data[:size]))
    with pytest.raises(reference.MalformedError):
        reference.decode(bytes(data) + b"\0")


def test_the_documents_example_is_the_golden_file():
    lines = re.findall(r"^[0-9a-f]{8}  ((?:[0-9a-f]{2} ?)+)$", DOCUMENT, flags=re.MULTILINE)
    assert bytes.fromhex("".join(lines)) == (HERE / "golden" / "shapes.mtq").read_bytes()


def test_the_documents_check_values():
    tables = {
        "SQUASH": [reference.SQUASH[x] for x in range(-2880, 2881)],
        "STRETCH": [x % 65536 for x in reference.STRETCH],
        "RECIPROCAL": reference.RECIPROCAL,
        "LOG2": reference.LOG2,
    }
    for name, table in tables.items():
        crc = zlib.crc32(struct.pack(f"<{len(table)}H", *table))
        assert re.search(rf"{name}\W+`{crc:08X}`", DOCUMENT), f"{name} {crc:08X}"
    counts = [count for bins in reference.CELL_COUNTS for counts in bins for count in counts]
    for crc in (zlib.crc32(struct.pack("<2560H", *counts)), zlib.crc32(struct.pack("<320I", *reference.SCALE))):
        assert f"`{crc:08X}`" in DOCUMENT, f"{crc:08X}"
    assert len(reference.PRIMING) == 1036
    assert f"{zlib.crc32(reference.PRIMING):08X}" in DOCUMENT
