"""What a step of training costs as a difference without loss, beside what general compressors make of it.

    python benchmarks/delta.py [--output delta.json]

Weights are normal, of a deviation of 0.02; a step adds normal numbers of such a size that the wanted share of the
weights, rounded to their dtype, changes. For a share of 1, those that do not are moved to the next number. The
peers are given what a careful person would give them: zstd the exclusive or of both bit patterns, whole and as byte
planes, the base as a dictionary (`--patch-from`), and the distances between changed weights with the new ones; ZipNN
both networks. Peers' speeds are of one thread, once, and count what NumPy does around them.

Ours are the bytes of the file. Speeds are gigabytes of the new weights a second, the best of a few repeats: of
`metaq.delta` and `metaq.apply` with all they do, the SHA-256 of the base included, and of the coder alone, on one
thread and on two, and for each second of a processor's time, which says more on a machine that has other work.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import machine

from metaq import _native
from metaq.format.applying import apply_to, open_difference
from metaq.format.changes import encode_difference
from metaq.format.dtypes import BY_NAME, new_array
from metaq.format.network import Layout, OctetNetwork
from metaq.format.reader import Reader

try:
    import zstandard
except ImportError:
    zstandard = None
try:
    import zipnn
except ImportError:
    zipnn = None

SHARES = (0.001, 0.01, 0.03, 0.1, 1.0)
REPEATS = 5
CHUNK = 1 << 20  # elements

Words = np.ndarray


def rounded(values: np.ndarray, dtype: str) -> Words:
    """float32 as the bits of a dtype, rounded to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16) if dtype == "bfloat16" else bits


def step(count: int, dtype: str, share: float) -> tuple[Words, Words]:
    """Bits of weights before and after a step that changes about this share of them."""
    generator = np.random.default_rng(0)
    base = rounded((generator.normal(0, 0.02, count)).astype(np.float32), dtype)
    values = (base.astype(np.uint32) << 16 if dtype == "bfloat16" else base).view(np.float32)
    noise = generator.normal(0, 1, count).astype(np.float32)
    low, high = 1e-10, 1e-2
    for _ in range(40):
        size = float(np.sqrt(low * high))
        new = rounded(values + np.float32(size) * noise, dtype)
        low, high = (size, high) if np.mean(new != base) < min(share, 0.97) else (low, size)
    return base, np.where(new == base, base + 1, new) if share == 1 else new


def least_seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    least = float("inf")
    for _ in range(REPEATS):
        start = clock()
        work()
        least = min(least, clock() - start)
    return least


def planes(words: Words) -> bytes:
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, words.itemsize).T).tobytes()


def from_planes(data: bytes | Words, dtype: np.dtype) -> Words:
    octets = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(octets.T).view(dtype)[:, 0]


def index_and_values(base: Words, new: Words) -> bytes:
    """Distances between changed weights as varints, then the new ones."""
    places = np.flatnonzero(base != new)
    gaps = np.diff(places, prepend=-1)
    low, more = (gaps & 127) | np.where(gaps > 127, 128, 0), gaps >> 7
    columns = np.stack([low, (more & 127) | np.where(more > 127, 128, 0), more >> 7], 1).astype(np.uint8)
    is_used = np.stack([gaps >= 0, gaps > 127, more > 127], 1)
    return len(places).to_bytes(4, "little") + columns[is_used].tobytes() + planes(new[places])


def from_index_and_values(base: Words, data: bytes) -> Words:
    count, bytes_ = int.from_bytes(data[:4], "little"), np.frombuffer(data, np.uint8, offset=4)
    ends = np.flatnonzero(bytes_ < 128)[:count]
    lengths = np.diff(ends, prepend=-1)
    gaps = bytes_[ends].astype(np.int64)
    for back in (1, 2):
        gaps = np.where(lengths > back, gaps << 7 | bytes_[ends - np.minimum(back, lengths - 1)] & 127, gaps)
    new = base.copy()
    new[np.cumsum(gaps) - 1] = from_planes(bytes_[ends[-1] + 1 if count else 0 :], base.dtype)
    return new


@dataclass(frozen=True)
class Peer:
    """What another tool makes of the same step: bytes, and the seconds of one thread."""

    size: int
    encoding: float
    decoding: float


def timed(new: Words, encode: Callable[[], bytes], decode: Callable[[bytes], Any]) -> Peer:
    """Once, because the slowest take half a minute.

    Raises:
        RuntimeError: where the new weights do not come back.
    """
    start = time.perf_counter()
    data = encode()
    middle = time.perf_counter()
    found = decode(data)
    end = time.perf_counter()
    if bytes(found) != bytes(new):
        raise RuntimeError("expected a peer to give the new weights back, found others")
    return Peer(len(data), middle - start, end - middle)


def peers(base: Words, new: Words, largest_level: int, dtype: str) -> dict[str, Peer]:
    """By name; those that are not installed are left out."""
    found: dict[str, Peer] = {}
    if zipnn is not None:
        coder = zipnn.ZipNN(bytearray_dtype=dtype, delta_compressed_type="byte", threads=1)
        old, plain = bytearray(base), bytearray(new)  # it changes what it is given
        found["ZipNN's delta"] = timed(
            new,
            lambda: bytes(coder.compress(plain, delta_second_data=old)),
            lambda data: coder.decompress(data, delta_second_data=old),
        )
    if zstandard is not None:
        found |= zstd_peers(base, new, 3) | zstd_peers(base, new, largest_level)
    return found


def zstd_peers(base: Words, new: Words, level: int) -> dict[str, Peer]:
    coder, decoder = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
    parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=27, enable_ldm=True)
    dictionary = zstandard.ZstdCompressionDict(base.tobytes(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    patch = zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary)
    patched = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=1 << 27)
    return {
        f"zstd-{level} of the xor": timed(
            new,
            lambda: coder.compress((base ^ new).tobytes()),
            lambda data: base ^ np.frombuffer(decoder.decompress(data), base.dtype),
        ),
        f"zstd-{level} of its planes": timed(
            new,
            lambda: coder.compress(planes(base ^ new)),
            lambda data: base ^ from_planes(decoder.decompress(data), base.dtype),
        ),
        f"zstd-{level} with the base as a dictionary": timed(
            new, lambda: patch.compress(new.tobytes()), patched.decompress
        ),
        f"index and values, zstd-{level}": timed(
            new,
            lambda: coder.compress(index_and_values(base, new)),
            lambda data: from_index_and_values(base, decoder.decompress(data)),
        ),
    }


def network(words: Words, dtype: str) -> OctetNetwork:
    return OctetNetwork({"w": Layout(BY_NAME[dtype], words.shape)}, {}, {"w": words.view(np.uint8)})


def coder_seconds(base: Words, new: Words, dtype: str, data: bytes) -> dict[str, float]:
    """Of coding and decoding all chunks, without anything else, by what is measured."""
    code, reader = BY_NAME[dtype].code, Reader(data, takes_differences=True)
    old, now = base.view(np.uint8), new.view(np.uint8)
    width = CHUNK * base.itemsize
    starts = range(0, old.size, width)

    def encode(at: int) -> object:
        return _native.difference_encode(old[at : at + width], now[at : at + width], code)

    def decode(at: int) -> object:
        return reader.apply_chunk(at // width, old[at : at + width])

    seconds = {}
    for name, work in {"encode": encode, "decode": decode}.items():
        seconds[f"{name}, a processor's second"] = least_seconds(lambda: [*map(work, starts)], time.process_time)  # noqa: B023
        for threads in (1, 2):
            with ThreadPoolExecutor(threads) as pool:
                seconds[f"{name}, {threads} threads"] = least_seconds(lambda: list(pool.map(work, starts)))  # noqa: B023
    return seconds


def measure(dtype: str, share: float, options: argparse.Namespace) -> dict[str, Any]:
    base, new = step(options.weights, dtype, share)
    old, other = network(base, dtype), network(new, dtype)
    data = encode_difference(old, other)
    if not np.array_equal(apply_to(open_difference(data), old, new_array)["w"].view(new.dtype), new):
        raise RuntimeError("expected the new weights, found others")
    row: dict[str, Any] = {"dtype": dtype, "weights": base.size, "changed_share": float(np.mean(base != new))}
    row |= {"file_bytes": len(data), "peers": {}, "peers_gigabytes_per_second": {}}
    for name, peer in peers(base, new, options.level, dtype).items():
        row["peers"][name] = peer.size
        speeds = {"encode": new.nbytes / peer.encoding / 1e9, "decode": new.nbytes / peer.decoding / 1e9}
        row["peers_gigabytes_per_second"][name] = speeds
    if row["peers"]:
        row["of_the_best_peer"] = len(data) / min(row["peers"].values())
    large, larger = np.tile(base, options.copies), np.tile(new, options.copies)
    old, other = network(large, dtype), network(larger, dtype)
    data = encode_difference(old, other)
    is_changes = Reader(data, takes_differences=True).header.tensors[0].change is not None
    seconds = {
        "delta": least_seconds(lambda: encode_difference(old, other)),
        "apply": least_seconds(lambda: apply_to(open_difference(data), old, new_array)),
    }
    seconds |= coder_seconds(large, larger, dtype, data) if is_changes else {}
    row["gigabytes_per_second"] = {name: large.nbytes / value / 1e9 for name, value in seconds.items()}
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=int, default=1 << 22)
    parser.add_argument("--copies", type=int, default=4, help="of the weights, to measure speeds with")
    parser.add_argument("--level", type=int, default=19, help="zstd's, beside 3")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    for name, module in (("zstandard", zstandard), ("zipnn", zipnn)):
        if module is None:
            print(f"{name} is not installed, so it is not measured.")
    rows = []
    for dtype, shares in (("bfloat16", SHARES), ("float32", (1.0,))):
        for share in shares:
            rows.append(measure(dtype, share, options))
            row = rows[-1]
            print(f"{dtype}, {100 * row['changed_share']:.2f} % changed: {row['file_bytes']:,} bytes")
            for name, size in sorted(row["peers"].items(), key=lambda item: item[1]):
                speeds = row["peers_gigabytes_per_second"][name]
                rates = f"{speeds['encode']:.2f} and {speeds['decode']:.2f} GB/s"
                print(f"    {size:10,}  {row['file_bytes'] / size:.3f}  {name}, {rates}")
            print("    GB/s:", ", ".join(f"{k} {v:.2f}" for k, v in row["gigabytes_per_second"].items()), flush=True)
    command = shlex.join(["python", *sys.argv]) if arguments is None else shlex.join(arguments)
    report = {"command": command, "machine": machine(), "rows": rows}
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
