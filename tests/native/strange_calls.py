"""Calls every function of `metaq._native` with arguments of which some are strange: `strange_calls.py SEED CALLS`.

An error is a Python exception in one line; arrays that are not aligned are one. The name of each call is printed before
it is made, so that the last line of a process that crashed says which it was.
"""

import os
import random
import sys
import warnings

import malformed_files as malformed
import numpy as np
import pytest

from metaq import _native

EXPECTED = (TypeError, ValueError, OverflowError, MemoryError, IndexError, OSError)
NUMBERS = [0, 1, 2, 3, -1, -(2**31), 2**31 - 1, 2**31, 2**40, 2**63, 2**64 - 1, 0.5, float("nan"), float("inf"), -1e308]
SHAPES = [(2, 3, 4), (4, 1, 1), (1, 5, 1), (0, 3, 2), (3, 0, 1), (16, 16, 1)]


class Arguments:
    """Arguments by chance: first good ones, then others in their places."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.generator = np.random.default_rng(seed)

    def array(self, shape, dtype=np.float32, most=3):
        values = self.generator.normal(0, most, shape)
        return np.rint(values).astype(dtype) if np.dtype(dtype).kind in "iu" else values.astype(dtype)

    def integers(self, shape):
        array = self.array(shape, np.int32)
        if array.size and self.random.random() < 0.3:
            array.flat[self.random.randrange(array.size)] = self.random.choice([2**30, -(2**30), 2**31 - 1, -(2**31)])
        return array

    def floats(self, shape, dtype=np.float32):
        array = self.array(shape, dtype)
        if array.size and self.random.random() < 0.4:
            array.flat[self.random.randrange(array.size)] = self.random.choice([np.nan, np.inf, -np.inf, 1e38, 1e-45])
        return array

    def bytes(self):
        return np.frombuffer(self.random.randbytes(self.random.choice([0, 1, 3, 20, 300])), np.uint8)

    def strange(self, good):
        """Something else in the place of an argument."""
        kind = self.random.randrange(12)
        if isinstance(good, list) and good and kind < 6:
            changed = list(good)
            changed[self.random.randrange(len(good))] = self.strange(good[0])
            return changed
        if isinstance(good, np.ndarray) and kind < 9:
            return self.strange_array(good, kind)
        return self.random.choice([None, "text", [], (), b"", object(), *NUMBERS])

    def strange_array(self, good, kind):
        if good.size > 1 << 20 or good.dtype.kind not in "iuf":
            return good
        if kind == 0:
            return good.astype(self.random.choice([np.float64, np.int64, np.uint8, np.complex64, object]))
        if kind == 1:
            return np.repeat(good, 2, axis=-1)[..., ::2] if good.ndim else good
        if kind == 2:
            return good[..., ::-1] if good.ndim else good
        if kind == 3:
            good = good.copy()
            good.flags.writeable = False
            return good
        if kind == 4:
            return np.empty((0,) * good.ndim, good.dtype)
        if kind == 5:
            return np.broadcast_to(good.dtype.type(1), (2**18,) * good.ndim)  # huge, without memory
        if kind == 6:
            return good.reshape(-1)[1:].reshape(-1)
        if kind == 7:
            return unaligned(good) if good.size else good
        return good.byteswap().view(good.dtype.newbyteorder())

    def call(self, name, function, *arguments):
        places = [place for place, argument in enumerate(arguments) if has_wide(argument)]
        if places and self.random.random() < 0.5:
            self.refuse_unaligned(name, function, list(arguments), self.random.choice(places))
        chosen = list(arguments)
        for _ in range(self.random.choice([0, 1, 1, 2])):
            if chosen:
                place = self.random.randrange(len(chosen))
                chosen[place] = self.strange(chosen[place])
        if len(chosen) > 1 and self.random.random() < 0.1:
            chosen[-1] = chosen[0]  # the same memory twice
        print(name, flush=True)
        try:
            return function(*chosen)
        except EXPECTED as error:
            if isinstance(error, ValueError) and "\n" in str(error):
                raise
            return None

    def refuse_unaligned(self, name, function, arguments, place):
        """One array, wherever in the argument, is not aligned: the first thing that a function looks at."""
        arguments[place] = self.with_unaligned(arguments[place])
        print(f"unaligned:{name}", flush=True)
        with pytest.raises(ValueError, match=r"^array: expected elements at multiples of their \d+ bytes in memory"):
            function(*arguments)

    def with_unaligned(self, argument):
        if isinstance(argument, np.ndarray):
            return unaligned(argument)
        place = self.random.choice([place for place, item in enumerate(argument) if has_wide(item)])
        changed = [self.with_unaligned(item) if index == place else item for index, item in enumerate(argument)]
        return type(argument)(changed)


def unaligned(array):
    """A copy that begins at an odd address."""
    octets = np.zeros(array.nbytes + 2, np.uint8)
    begin = 1 + octets.ctypes.data % 2
    copy = octets[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def has_wide(argument):
    """Whether an argument has an array among it, with elements, that can lie wrong."""
    if isinstance(argument, list | tuple):
        return any(map(has_wide, argument))
    return isinstance(argument, np.ndarray) and argument.itemsize > 1 and argument.size > 0


def coders(given):
    name = given.random.choice(["huffman", "range", "rans", "mixing", "adaptive"])
    shapes = [given.random.choice(SHAPES) for _ in range(given.random.randrange(4))]
    blocks = [given.integers(shape) for shape in shapes]
    data = given.call(f"{name}_encode", getattr(_native, f"{name}_encode"), blocks)
    payload = given.bytes() if data is None or given.random.random() < 0.5 else np.frombuffer(data, np.uint8)
    given.call(f"{name}_decode", getattr(_native, f"{name}_decode"), payload, [np.empty(s, np.int32) for s in shapes])


def rans_values(given):
    shape = given.random.choice(SHAPES)
    data = _native.rans_encode([given.array(shape, np.int32)])
    dtype = given.random.choice([np.int32, np.int8, np.float32, np.float16, np.uint16])
    levels = given.random.choice([None, given.floats(given.random.choice([1, 7, 9]))])
    codebook = (0.5, levels, given.random.choice([0, 3, 4, 9, -5, 2**31 - 1, -(2**31)]))
    out = np.empty(int(np.prod(shape)), dtype)
    payload = np.frombuffer(data, np.uint8)
    given.call("rans_decode_values", _native.rans_decode_values, payload, [shape], [out], [codebook])


def texts(given):
    data = given.call("text_encode", _native.text_encode, given.bytes())
    size = given.random.choice([0, 1, 20, 300, 2**20, 2**40, 2**63])
    given.call(
        "text_decode", _native.text_decode, given.bytes() if data is None else np.frombuffer(data, np.uint8), size
    )


def differences(given):
    base, other = given.array(48, np.uint8), given.array(48, np.uint8)
    given.call(
        "difference_encode", _native.difference_encode, base, other, given.random.choice([0, 1, 2, 3, 4, 21, 99])
    )


def modes(given):
    floats = given.call("DefaultFloats", _native.DefaultFloats)
    if floats is not None:
        for _ in range(given.random.choice([1, 2])):
            given.call("DefaultFloats.restore", floats.restore)


def planes(given):
    width, count = given.random.choice([1, 2, 3, 4, 8, 16]), given.random.choice([0, 1, 5, 300])
    out = np.empty(count, np.int8)
    is_float, plane = given.random.choice([False, True]), given.random.choice([0, 1, 7, 9])
    given.call("split_plane", _native.split_plane, given.array((count, width), np.uint8), is_float, plane, out)
    given.call("rans_encode_bytes", _native.rans_encode_bytes, [given.array((1, 1, count), np.int8)])
    dtype = given.random.choice([np.uint8, np.uint16])
    counts = np.zeros(given.random.choice([2**8, 2**16]), np.uint64)
    given.call("count_numbers", _native.count_numbers, given.array(count, dtype), counts)


def quantizers(given):
    shape = given.random.choice(SHAPES)
    weights, importances = [given.floats(shape)], [given.random.choice([None, given.floats(shape)])]
    symbols = [given.integers(shape)]
    rate = given.random.choice([0.0, 0.1, -1.0, float("nan"), float("inf")])
    given.call("are_dependent", _native.are_dependent, symbols[0])
    given.call("quantize_by_trellis", _native.quantize_by_trellis, weights, importances, symbols, [5], rate, 8)
    given.call("quantize_by_rate", _native.quantize_by_rate, weights, importances, symbols, rate)


def columns(given):
    rows, count, matrices = 4, 3, given.random.choice([1, 2])
    quantizer = given.call("ColumnQuantizer", _native.ColumnQuantizer, given.random.choice([0.1, float("nan")]), 4)
    if quantizer is not None:
        shares, scales = given.floats((matrices, count, count)), given.floats(count)
        arrays = [given.floats((count, rows)), shares, scales, given.floats((count, rows)), given.floats(rows)]
        symbols, errors = np.zeros((count, rows), np.int32), np.zeros((count, rows), np.float32)
        most = given.random.choice([0.0, 5.0, -3.0, 1e30, float("nan"), float("inf")])
        given.call("ColumnQuantizer.quantize", quantizer.quantize, *arrays, symbols, errors, most)


def tuples(given):
    weights, order = [given.floats(5), given.floats(2)], given.random.choice([1, 2, 3])
    table = given.floats((2, 2, 3))
    cells, shares = np.zeros(7, np.int32), np.zeros(7, np.float32)
    histogram = np.zeros(3**order)
    given.call("count_tuples", _native.count_tuples, weights, table, [3, 2], cells, shares, order, histogram)
    if given.random.random() < 0.3:
        cells[:] = given.integers(7)
    gradients, logs = [given.floats(5), given.floats(2)], given.floats(3**order)
    settings = (order, logs, 0.5, given.random.choice([0.1, float("nan")]), True, False)
    given.call(
        "add_tuple_gradient", _native.add_tuple_gradient, weights, gradients, table, [3, 2], cells, shares, *settings
    )


def parameters(given):
    weights, latents = [given.floats(5), given.floats(3)], [given.floats(5), given.floats(3)]
    made = given.call("QuantizedParameters", _native.QuantizedParameters, weights, latents)
    if made is None:
        return
    steps = [given.random.choice([0.5, 0.0, -1.0, float("nan"), 1e-40, float("inf")]), 0.25]
    radius, threads = given.random.choice([0, 1, 7]), given.random.choice([0, 1, 3, 2**40])
    counts = np.zeros((2, 2 * radius + 1), np.int64)
    given.call(
        "write_quantized", made.write_quantized, steps, given.random.choice([0, 5, 2**22]), radius, counts, threads
    )
    gradients, slopes = [given.floats(5), given.floats(3)], given.floats((2, 2 * radius + 1, 2))
    given.call("restore_latent", made.restore_latent, gradients, steps, radius, slopes, 0.5, threads)


def solvers(given):
    sets, levels, count = given.random.choice([1, 2]), given.random.choice([1, 2, 5]), 6
    costs, places = given.floats((sets, levels), np.float64), np.sort(given.floats((sets, levels), np.float64))
    hulls = tuple(np.zeros((sets, max(levels - 1, 0)), dtype) for dtype in (np.int64, np.int64, np.float64))
    given.call("find_hulls", _native.find_hulls, costs, places, hulls)
    hull = tuple(array[:1].copy() for array in hulls)
    if given.random.random() < 0.3 and hull[0].size:
        hull[0].flat[0] = given.random.choice([-1, 99, 2**62])
    optima = tuple(np.zeros(count, dtype) for dtype in (np.int64, np.int64, np.float64, np.float64, np.float64))
    weights = given.floats(count, given.random.choice([np.float32, np.float64]))
    slack = given.random.choice([0.1, 0.5, float("nan")])
    given.call(
        "solve_knapsacks", _native.solve_knapsacks, weights, costs[0].copy(), places[0].copy(), hull, slack, optima
    )
    values, counts = np.sort(given.floats(count, np.float64)), np.abs(given.floats(count, np.float64))
    given.call("kmeans", _native.kmeans, values, counts, np.zeros(given.random.choice([0, 1, 3, 6, 7]), np.int64))


def files(given):
    data = bytearray(given.random.choice(FILES))
    if given.random.random() < 0.3:
        data[given.random.randrange(len(data))] ^= 1 << given.random.randrange(8)
    octets = np.frombuffer(bytes(data), np.uint8)
    settings = ([4, 5, 6], 1 << 10, True)
    if given.random.random() < 0.5:
        file = given.call("File of memory", _native.File, octets, given.random.random() < 0.5, *settings)
    else:
        descriptor = os.memfd_create("file")
        begin = given.random.choice([0, 3, 2**40, 2**63, 2**64 - 1])
        os.pwrite(descriptor, data, begin if begin < 9 else 0)
        given_descriptor = given.random.choice([descriptor, descriptor, -1, 9999, 2**31 - 1])
        file = given.call("File of a descriptor", _native.File, given_descriptor, begin, len(data), *settings)
        os.close(descriptor)
    if file is None:
        return
    for name in ("base", "metadata", "tensors", "codebooks", "matrices", "chunks", "changes", "pack"):
        given.call(f"File.{name}", getattr(file, name))
    index, chunk = given.random.choice([0, 0, 1, 2**40]), given.random.choice([0, 0, 1, 2**40])
    out = np.empty(given.random.choice([24, 6, 0]), given.random.choice([np.uint8, np.int32, np.float32]))
    given.call("File.streams", file.streams, given.random.choice([0, 1, 3, 2**40, 2**64 - 1]))
    given.call("File.runs", file.runs, chunk)
    given.call("File.end_of_group", file.end_of_group, index, given.random.choice([0, 1, 2**40]))
    request = (index, given.random.choice([0, 3, 2**63]), given.random.choice([2**64 - 1, 3, 2**62]), out)
    given.call("File.decode", file.decode, [request] * given.random.choice([0, 1, 2]), False, True, 2, foreign)
    given.call("File.decode of symbols", file.decode, [request], True, False, 2, foreign)
    given.call("File.decode_chunk", file.decode_chunk, chunk, [np.empty(6, np.int32)], foreign)
    given.call("File.apply_chunk", file.apply_chunk, chunk, np.zeros(24, np.uint8), np.zeros(24, np.uint8))


def foreign(chunk, coder, payload, shapes):
    """A coder of the caller's that gives what it should not."""
    return [np.zeros(shape[:2], np.int32) for shape in shapes]


FILES = [
    malformed.GOOD,
    malformed.GOOD_SCALED,
    malformed.GOOD_DIFFERENCE,
    malformed.GOOD_CHANGE,
    *malformed.UNSUPPORTED,
]
CALLS = [
    coders,
    coders,
    rans_values,
    texts,
    differences,
    planes,
    modes,
    quantizers,
    columns,
    tuples,
    parameters,
    solvers,
    files,
    files,
]


def main(seed, calls):
    warnings.simplefilter("ignore")
    given = Arguments(seed)
    for number in range(calls):
        CALLS[number % len(CALLS)](given)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
