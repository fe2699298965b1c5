"""Two checkpoints side by side: how far apart their tensors are, what they take, how good they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from metaq.errors import InputError
from metaq.experiments.evaluation import evaluate_weights
from metaq.experiments.recipe import load_recipe
from metaq.files import open_bytes
from metaq.format.reader import Reader
from metaq.io import open_source, read_state
from metaq.io.huggingface import MTQ
from metaq.io.payload import Entry, WrappedTensors, check_reference, read_entries
from metaq.report.contents import shared_sizes
from metaq.report.folders import checkpoint_paths, is_wrapped
from metaq.tensors import load_tensors

Row = dict[str, Any]


@dataclass(frozen=True)
class ComparedCheckpoint:
    """Named tensors of a file or a folder, the bytes that each takes there, and all files together."""

    path: Path
    tensors: Mapping[str, Tensor]
    tensor_bytes: Mapping[str, float]
    file_bytes: int

    @property
    def count(self) -> int:
        """How many weights it has, in matrices and filters."""
        return sum(tensor.numel() for tensor in self.tensors.values() if tensor.ndim >= 2)


class _Shards(Mapping[str, Tensor]):
    """Tensors of a folder's files, of which the file of the tensor last asked for is in memory.

    Args:
        places: the file of each.
        read: gives a file's tensors.
    """

    def __init__(self, places: Mapping[str, Path], read: Callable[[Path], Mapping[str, Tensor]]) -> None:
        self._places, self._read = places, read
        self._path: Path | None = None
        self._tensors: Mapping[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        path = self._places[name]
        if path != self._path:
            self._tensors = {}
            self._path, self._tensors = path, self._read(path)
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_checkpoint(path: Path) -> ComparedCheckpoint:
    """A `.mtq` file, any state dict that `metaq compress` takes, or a folder of such files or that transformers loads.

    Raises:
        InputError: it cannot be read, or two files of a folder have a tensor of the same name.
        FormatError: a `.mtq` file is not whole and unchanged.
    """
    if not path.is_dir():
        tensors = _read_tensors(path)
        return ComparedCheckpoint(path, tensors, _tensor_bytes(path, tensors), path.stat().st_size)
    wrapped = _Wrapped(path) if is_wrapped(path) else None
    paths = checkpoint_paths(path)
    places: dict[str, Path] = {}
    sizes: dict[str, float] = {}
    for shard in paths:
        of_shard = _tensor_bytes(shard) if wrapped is None else wrapped.tensor_bytes(shard)
        for name in of_shard:
            if name in places:
                found = f"it in {places[name].name} and {shard.name}"
                raise InputError(f"{path}: expected tensor {name!r} in one file, found {found}")
            places[name] = shard
        sizes |= of_shard
    shards = _Shards(places, _read_tensors if wrapped is None else wrapped.read)
    return ComparedCheckpoint(path, shards, sizes, sum(shard.stat().st_size for shard in paths))


class _Wrapped:
    """The files of a folder that have `.mtq` files in them."""

    def __init__(self, folder: Path) -> None:
        self._tensors = WrappedTensors(checkpoint_paths(folder))
        self._sizes = {number: shared_sizes(entry.reader()) for number, entry in self._tensors.payloads().items()}

    def read(self, path: Path) -> dict[str, Tensor]:
        """The tensors of a file."""
        return {name: tensor for name, _, tensor in self._tensors.items_in(path)}

    def tensor_bytes(self, path: Path) -> dict[str, float]:
        """Bytes that each tensor of a file takes, what it is wrapped in apart."""
        return {entry.name: self._bytes(entry) for entry in read_entries(path) if entry.payload is None}

    def _bytes(self, entry: Entry) -> float:
        reference = entry.reference
        if reference is None:
            return entry.size_bytes
        check_reference(reference, entry.name, {number: len(sizes) for number, sizes in self._sizes.items()})
        return self._sizes[reference.payload][reference.tensor]


def _read_tensors(path: Path) -> dict[str, Tensor]:
    return load_tensors(Reader(open_bytes(path), str(path))) if path.suffix == MTQ else read_state(path)[0]


def _tensor_bytes(path: Path, tensors: Mapping[str, Tensor] | None = None) -> dict[str, float]:
    """Bytes that each tensor takes in a file, without its values if need be."""
    if path.suffix == MTQ:
        reader = Reader(open_bytes(path), str(path))
        return dict(zip([entry.name for entry in reader.header.tensors], shared_sizes(reader), strict=True))
    if tensors is not None:
        return {name: tensor.nbytes for name, tensor in tensors.items()}
    with closing(open_source(path)) as source:
        return {name: float(layout.size_bytes) for name, layout in source.layouts.items()}


def compare(first: ComparedCheckpoint, second: ComparedCheckpoint) -> tuple[list[Row], Row]:
    """A row for each tensor, and what holds for all.

    Errors are ``‖a - b‖² / ‖a‖²``, a the first's, over all: of the matrices and filters that both have. Elements that
    are equal, or NaN in both, differ by nothing. A tensor's share of the error is its ``‖a - b‖²`` by that of all
    tensors together.
    """
    rows: list[Row] = []
    error = energy = 0.0
    for name in dict.fromkeys((*first.tensors, *second.tensors)):
        a, b = first.tensors.get(name), second.tensors.get(name)
        known = a if a is not None else b
        assert known is not None
        row: Row = {"tensor": name, "shape": list(known.shape)}
        if a is None or b is None:
            row["remark"] = f"only in {(first if b is None else second).path.name}"
        elif a.shape != b.shape:
            row["remark"] = f"of shape {'x'.join(map(str, b.shape)) or 'scalar'} in {second.path.name}"
        else:
            missed, whole, largest = _difference(a, b)
            row |= {"squared_error_share": missed, "relative_squared_error": _ratio(missed, whole)}
            row["largest_difference"] = largest
            if a.dtype != b.dtype:
                row["remark"] = f"{_name(a)} against {_name(b)}"
            if a.ndim >= 2:
                error, energy = error + missed, energy + whole
        row |= {"first_bytes": first.tensor_bytes.get(name), "second_bytes": second.tensor_bytes.get(name)}
        rows.append({key: value for key, value in row.items() if value is not None})
    all_missed = sum(row.get("squared_error_share", 0.0) for row in rows)
    for row in rows:
        if "squared_error_share" in row:
            row["squared_error_share"] = _share(row["squared_error_share"], all_missed)
    summary = {
        "first": str(first.path),
        "second": str(second.path),
        "first_bytes": first.file_bytes,
        "second_bytes": second.file_bytes,
        "second_to_first": second.file_bytes / first.file_bytes,
        "relative_squared_error": _ratio(error, energy),
        "tensors_that_differ": sum(row.get("largest_difference", 1) != 0 for row in rows),
    }
    return rows, summary


def sorted_rows(rows: Sequence[Row], column: str) -> list[Row]:
    """Rows of `compare` by a column: numbers from the largest down, names from a to z.

    Tensors that cannot be compared come first, since no number says how much they differ.
    """
    if column == "tensor":
        return sorted(rows, key=lambda row: ("largest_difference" in row, row["tensor"]))
    return sorted(rows, key=lambda row: ("largest_difference" in row, -row.get(column, math.inf)))


def rate_distortion(first: ComparedCheckpoint, second: ComparedCheckpoint, reference: ComparedCheckpoint) -> Row:
    """How far two files are from the weights that they were made of, and which is better.

    At high rate a bit a weight more takes the error to a quarter. So ``R2 - R1 + log2(D2 / D1) / 2`` bits a weight, R
    the bits and D the errors of each, is what the second file takes more than the first at the same error, or less.

    Raises:
        InputError: a file lacks a matrix or filter of the reference, or has no error to compare.
    """
    found: Row = {}
    for place, checkpoint in (("first", first), ("second", second)):
        for name, tensor in reference.tensors.items():
            if tensor.ndim >= 2 and getattr(checkpoint.tensors.get(name), "shape", None) != tensor.shape:
                raise InputError(f"{checkpoint.path}: expected tensor {name!r} of {reference.path}, found none like it")
        found[f"{place}_error"] = compare(reference, checkpoint)[1]["relative_squared_error"]
        found[f"{place}_bits_per_weight"] = 8 * checkpoint.file_bytes / max(1, reference.count)
    if not (found["first_error"] > 0 and found["second_error"] > 0):
        raise InputError(f"{reference.path}: expected a reference that both files differ from, found one that is exact")
    saved = found["second_bits_per_weight"] - found["first_bits_per_weight"]
    difference = saved + math.log2(found["second_error"] / found["first_error"]) / 2
    return found | {"second_more_bits_per_weight_at_equal_error": difference}


def accuracies(first: ComparedCheckpoint, second: ComparedCheckpoint, recipe_name: str) -> Row:
    """Loss and accuracy of both as weights of a recipe's network, on its test set.

    Raises:
        InputError: an unknown recipe, or tensors that are not those of its network.
        DataError: the data set is not to be had.
    """
    recipe = load_recipe(recipe_name)
    found: Row = {}
    for place, checkpoint in (("first", first), ("second", second)):
        _, result = evaluate_weights(checkpoint.tensors, recipe, str(checkpoint.path))
        found |= {f"{place}_test_{key}": value for key, value in asdict(result).items()}
    return found


def _difference(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """Squared difference, squares of the first, and the largest difference."""
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    differs = ~((a == b) | (a.isnan() & b.isnan()))
    distance = (a - b)[differs].abs()
    largest = float(distance.max()) if distance.numel() else 0.0
    return float(distance.square().sum()), float(a[~a.isnan()].square().sum()), largest


def _ratio(error: float, energy: float) -> float:
    return 0.0 if error == 0 else error / energy if energy > 0 else math.inf


def _share(missed: float, all_missed: float) -> float:
    """0 where there is no error at all; beside an infinite error, finite ones are nothing."""
    if math.isinf(all_missed):
        return float(math.isinf(missed))
    return missed / all_missed if all_missed else 0.0


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
