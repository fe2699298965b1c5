from collections.abc import Sequence

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
    feedbacks: Sequence[NDArray[np.float32] | None],
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
def join_planes(planes: Sequence[NDArray[np.int8]], is_float: bool, output: NDArray[np.uint8]) -> None: ...
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

class WholeFile:
    def __init__(self, data: np.ndarray) -> None: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def size_bytes(self) -> int: ...
    def tensors(self) -> list[tuple[str, int, list[int], list[int], int]]: ...
    def decode(self, addresses: list[int], threads: int) -> bool: ...

class QuantizedParameters:
    def __init__(self, weights: Sequence[NDArray[np.float32]], latents: Sequence[NDArray[np.float32]]) -> None: ...
    def write_quantized(self, steps: Sequence[float], radius: int, counts: NDArray[np.int64] | None) -> None: ...
    def restore_latent(
        self,
        gradients: Sequence[NDArray[np.float32]],
        steps: Sequence[float],
        radius: int,
        slopes: NDArray[np.float32],
        strength: float,
    ) -> None: ...
