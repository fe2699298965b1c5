"""Two checkpoints side by side: how far apart their tensors are, what they take, how good they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from metaq.compressed_model import read_model
from metaq.errors import InputError
from metaq.experiments.evaluation import evaluate_weights
from metaq.experiments.recipe import load_recipe
from metaq.files import map_bytes
from metaq.format.reader import Reader
from metaq.io import read_state
from metaq.report.tables import shared_sizes

Row = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors of a file, the bytes that each takes there, and all of them together."""

    path: Path
    tensors: Mapping[str, Tensor]
    tensor_bytes: Mapping[str, float]
    file_bytes: int

    @property
    def count(self) -> int:
        """How many weights it has, in matrices and filters."""
        return sum(tensor.numel() for tensor in self.tensors.values() if tensor.ndim >= 2)


def read_checkpoint(path: Path) -> Checkpoint:
    """A `.mtq` file, or any state dict that `metaq compress` takes.

    Raises:
        InputError: it cannot be read.
        FormatError: it is not a whole and unchanged `.mtq` file.
    """
    if path.suffix == ".mtq":
        reader = Reader(map_bytes(path), str(path))
        names = [entry.name for entry in reader.header.tensors]
        model = read_model(reader)
        sizes = dict(zip(names, shared_sizes(reader, model), strict=True))
        return Checkpoint(path, model.decompress(), sizes, len(reader.data))
    tensors, _ = read_state(path)
    return Checkpoint(path, tensors, {name: tensor.nbytes for name, tensor in tensors.items()}, path.stat().st_size)


def compare(first: Checkpoint, second: Checkpoint) -> tuple[list[Row], Row]:
    """A row for each tensor, and what holds for all.

    Errors are ``‖a - b‖² / ‖a‖²``, a the first's, over all: of the matrices and filters that both have. Elements that
    are equal, or NaN in both, differ by nothing.
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
            row |= {"relative_squared_error": _ratio(missed, whole), "largest_difference": largest}
            if a.dtype != b.dtype:
                row["remark"] = f"{_name(a)} against {_name(b)}"
            if a.ndim >= 2:
                error, energy = error + missed, energy + whole
        row |= {"first_bytes": first.tensor_bytes.get(name), "second_bytes": second.tensor_bytes.get(name)}
        rows.append({key: value for key, value in row.items() if value is not None})
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


def rate_distortion(first: Checkpoint, second: Checkpoint, reference: Checkpoint) -> Row:
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


def accuracies(first: Checkpoint, second: Checkpoint, recipe_name: str) -> Row:
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


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
