from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

HullArrays = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
OptimaArrays = tuple[
    NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]
]

def huffman_encode(blocks: Sequence[NDArray[np.int32]]) -> bytes: ...
def huffman_decode(data: Buffer, blocks: Sequence[NDArray[np.int32]]) -> None: ...
def range_encode(blocks: Sequence[NDArray[np.int32]]) -> bytes: ...
def range_decode(data: Buffer, blocks: Sequence[NDArray[np.int32]]) -> None: ...
def rans_encode(blocks: Sequence[NDArray[np.int32]]) -> bytes: ...
def rans_decode(data: Buffer, blocks: Sequence[NDArray[np.int32]]) -> None: ...
def rans_decode_values(
    data: Buffer,
    shapes: Sequence[tuple[int, int, int]],
    outputs: Sequence[NDArray[np.int32 | np.int8 | np.float32 | np.float16 | np.uint16]],
    codebooks: Sequence[tuple[float, NDArray[np.float32] | None, int]],
    portable: bool = False,
) -> None: ...
def mixing_encode(blocks: Sequence[NDArray[np.int32]]) -> bytes: ...
def mixing_decode(data: Buffer, blocks: Sequence[NDArray[np.int32]]) -> None: ...
def adaptive_encode(blocks: Sequence[NDArray[np.int32]]) -> bytes: ...
def adaptive_decode(data: Buffer, blocks: Sequence[NDArray[np.int32]]) -> None: ...
def quantize_by_rate(
    weights: Sequence[NDArray[np.float32]],
    importances: Sequence[NDArray[np.float32] | None],
    symbols: Sequence[NDArray[np.int32]],
    rate_weight: float,
) -> float: ...
def quantize_by_trellis(
    weights: Sequence[NDArray[np.float32]],
    importances: Sequence[NDArray[np.float32] | None],
    symbols: Sequence[NDArray[np.int32]],
    most: Sequence[int],
    rate_weight: float,
    states: int,
) -> None: ...
def are_dependent(symbols: NDArray[np.int32]) -> bool: ...
def difference_encode(base: NDArray[np.uint8], other: NDArray[np.uint8], dtype: int) -> tuple[bytes, int]: ...
def text_encode(bytes: Buffer) -> bytes: ...
def text_decode(data: Buffer, size: int) -> bytes: ...
def count_tuples(
    weights: Sequence[NDArray[np.float32]],
    table: NDArray[np.float32],
    level_counts: Sequence[int],
    cells: NDArray[np.int32],
    shares: NDArray[np.float32],
    order: int,
    histogram: NDArray[np.float64],
) -> float: ...
def add_tuple_gradient(
    weights: Sequence[NDArray[np.float32]],
    gradients: Sequence[NDArray[np.float32]],
    table: NDArray[np.float32],
    level_counts: Sequence[int],
    cells: NDArray[np.int32],
    shares: NDArray[np.float32],
    order: int,
    logs: NDArray[np.float32],
    entropy: float,
    error: float,
    is_printed: bool,
    has_insensitivity: bool,
) -> None: ...
def find_hulls(costs: NDArray[np.float64], places: NDArray[np.float64], hulls: HullArrays) -> None: ...
def solve_knapsacks(
    weights: NDArray[np.float32 | np.float64],
    costs: NDArray[np.float64],
    places: NDArray[np.float64],
    hull: HullArrays,
    slack: float,
    optima: OptimaArrays,
) -> None: ...
def kmeans(values: NDArray[np.float64], counts: NDArray[np.float64], ends: NDArray[np.int64]) -> None: ...

class ColumnQuantizer:
    def __init__(self, rate_weight: float, states: int) -> None: ...
    def quantize(
        self,
        targets: NDArray[np.float32],
        shares: NDArray[np.float32],
        scales: NDArray[np.float32],
        importances: NDArray[np.float32],
        row_levels: NDArray[np.float32],
        symbols: NDArray[np.int32],
        errors: NDArray[np.float32],
        most: float,
    ) -> None: ...

class QuantizedParameters:
    def __init__(self, weights: Sequence[NDArray[np.float32]], latents: Sequence[NDArray[np.float32]]) -> None: ...
    def write_quantized(
        self, steps: Sequence[float], reach: int, radius: int, counts: NDArray[np.int64] | None, threads: int
    ) -> None: ...
    def restore_latent(
        self,
        gradients: Sequence[NDArray[np.float32]],
        steps: Sequence[float],
        radius: int,
        slopes: NDArray[np.float32],
        strength: float,
        threads: int,
    ) -> None: ...

class FileError:
    @property
    def status(self) -> str: ...
    @property
    def words(self) -> str: ...
    @property
    def header_byte(self) -> int | None: ...
    @property
    def chunk(self) -> int | None: ...
    @property
    def tensor(self) -> int | None: ...
    @property
    def name(self) -> bytes: ...
    @property
    def what(self) -> str: ...
    @property
    def expected(self) -> tuple[int, int]: ...
    @property
    def found(self) -> tuple[int, int]: ...

class File:
    @overload
    def __init__(
        self,
        data: NDArray[np.uint8],
        is_constant: bool = ...,
        foreign_coders: Sequence[int] = ...,
        cache_bytes: int = ...,
        takes_differences: bool = ...,
        header_bytes: int = ...,
        decoded_bytes: int = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        descriptor: int,
        size_bytes: int,
        foreign_coders: Sequence[int] = ...,
        cache_bytes: int = ...,
        takes_differences: bool = ...,
        header_bytes: int = ...,
        decoded_bytes: int = ...,
    ) -> None: ...
    @property
    def error(self) -> FileError | None: ...
    @property
    def decoded_chunks(self) -> int: ...
    def base(self) -> bytes | None: ...
    def metadata(self) -> list[tuple[str, str]]: ...
    def tensors(self) -> list[tuple[str, int, int, tuple[int, ...], int, int]]: ...
    def codebooks(self) -> list[tuple[int, float, int, bytes]]: ...
    def matrices(self) -> list[tuple[int, tuple[int, bytes | None, bytes | None, bool]]]: ...
    def chunks(self) -> list[tuple[int, int, int, int]]: ...
    def changes(self) -> list[tuple[int, tuple[tuple[int, ...], int, int, str]]]: ...
    def apply_chunk(self, chunk: int, base: NDArray[np.uint8], out: NDArray[np.uint8]) -> FileError | None: ...
    def runs(self, chunk: int) -> list[tuple[int, int | None, int, tuple[int, int, int]]]: ...
    def decode_chunk(
        self,
        chunk: int,
        arrays: Sequence[NDArray[np.int32 | np.int8]],
        foreign: Callable[[int, int, bytes, list[tuple[int, int, int]]], list[NDArray[np.int32]]],
    ) -> FileError | None: ...
    def pack(self) -> tuple[bytes, int, FileError | None]: ...
    def end_of_group(self, first: int, threads: int) -> int: ...
    def decode(
        self,
        requests: Sequence[tuple[int, int, int, NDArray[Any]]],
        as_symbols: bool,
        is_session: bool,
        threads: int,
        foreign: Callable[[int, int, bytes, list[tuple[int, int, int]]], list[NDArray[np.int32]]],
    ) -> FileError | None: ...
