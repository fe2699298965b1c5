"""ONNX models whose weights are the integers of a `.mtq` file: small on disk, and with runtimes that can, in memory."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from metaq.checkpoints.chunk_decoder import stored_tensors
from metaq.checkpoints.places import check_file
from metaq.errors import InputError, nearest_name
from metaq.files import open_bytes, write_atomically
from metaq.format.dtypes import Dtype, new_array
from metaq.format.header import TensorEntry
from metaq.format.reader import Reader
from metaq.integrations.onnx_forms import Form, alias, compact, plain
from metaq.integrations.onnx_opset import raise_opset, subgraphs
from metaq.io.onnx import DTYPES, GRAPH, MOST_BYTES, Onnx, load_model
from metaq.io.standard import readable
from metaq.progress import Progress

_log = logging.getLogger(__name__)

_MOST_NAMES = 5  # in a warning

Wanted = tuple[TensorEntry, Dtype]  # a tensor of the file, and the dtype that the graph has it in


@dataclass(frozen=True)
class ExportReport:
    """What an export came to.

    Attributes:
        initializers: how many initialisers took values from the `.mtq` file.
        left: the names of the float initialisers that stayed as they were.
        kinds: how many initialisers became what, such as ``int4 DequantizeLinear``, ``uint8 Gather`` and ``plain``.
        bytes_before: of the model that was given, files beside it included.
        bytes: of the model that was written.
    """

    initializers: int
    left: tuple[str, ...]
    kinds: dict[str, int]
    bytes_before: int
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """The fields and the ratio of the sizes, for JSON and for tables."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"left": list(self.left), "ratio": self.bytes_before / self.bytes}


def export(
    source: str | Path,
    output: str | Path,
    like: str | Path | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the `.onnx` model ``like`` with the weights of a `.mtq` file, those that are quantized as integers.

    Each initialiser of floating point whose name a tensor of the file has is replaced. A quantized one becomes integers
    of 4, 8 or 16 bits with `DequantizeLinear`, or with `Gather` from its table of levels, if that is smaller. All
    others become plain initialisers, and so does one that is an input too, which callers may override. Values keep the
    graph's dtype, which may be wider than the file's. The model's opset becomes 21 and its IR version 10, unless they
    are higher or nothing became integers.

    Args:
        source: a `.mtq` file; "-" is standard input.
        output: a path that ends in ``.onnx``; the model is one file.
        like: the model that gives the graph. Values in files beside it are read and become part of it. If not given, it
            is the model that the file was made of, whose graph such a file holds.
        force: replace an output that exists, which is refused otherwise. ``source`` and ``like`` never are.
        progress: is told of decoded bytes, and of those that stand for them in the model.

    Raises:
        InputError: a file is unreadable or not of its kind; there is neither ``like`` nor a graph in the file; no name
            of the file is one of an initialiser's; the shape of such a name differs, or its dtype is wider in the file;
            the model cannot be raised to opset 21 or is of over 2 GiB; or the output exists or cannot be written.
        FormatError: the source is not a whole and unchanged `.mtq` file.

    Example::

        report = metaq.integrations.onnx.export("model.mtq", "small.onnx", like="model.onnx")
    """
    source, output, given = Path(source), Path(output), None if like is None else Path(like)
    _check_places(source, output, given, force)
    with readable(source) as path:
        reader = Reader(open_bytes(path), str(path))
        model, bytes_before = _own_model(reader) if given is None else _load(given)
        name = f"the graph in {reader.name}" if given is None else str(given)
        wanted = _matched(reader, model, name)
        forms = _forms(reader, wanted, _overridable(model), _renaming(model), progress or Progress())
        left = tuple(tensor.name for tensor in _float_initializers(model) if tensor.name not in forms)
        if any(form.nodes for form in forms.values()):
            model = raise_opset(model, name)
        _replace(model, forms)
        size_bytes = _write(model, output)
    return ExportReport(len(forms), left, dict(Counter(form.kind for form in forms.values())), bytes_before, size_bytes)


def _check_places(source: Path, output: Path, like: Path | None, force: bool) -> None:
    if output.suffix != ".onnx":
        raise InputError(f"{output}: expected a path ending in .onnx, found {output.suffix or 'no suffix'}")
    if source.is_dir():
        remedy = "export its files one after the other, each with the model before as the graph"
        raise InputError(f"{source}: expected a .mtq file, found a folder; {remedy}")
    for given in (source, *([] if like is None else [like])):
        check_file(given, output, force)


def _own_model(reader: Reader) -> tuple[ModelProto, int]:
    """The model that a file was made of, with the file's values, and the bytes that it takes."""
    if not any(entry.name == GRAPH for entry in reader.header.tensors):
        found = "none; `--like MODEL.onnx` gives one"
        raise InputError(f"{reader.name}: expected the graph of an .onnx model in it, found {found}")
    model = Onnx().together(Path(reader.name), stored_tensors(reader, with_graph=True))
    return model, model.ByteSize()


def _load(path: Path) -> tuple[ModelProto, int]:
    """A model with all of its values, and the bytes that it takes, files beside it included."""
    model, values_bytes = load_model(path)
    if not model.graph.node:
        raise InputError(f"{path}: expected an .onnx model, found no nodes in it")
    return model, path.stat().st_size + values_bytes


def _float_initializers(model: ModelProto) -> list[TensorProto]:
    """Those of floating point that a `.mtq` file can hold."""
    return [t for t in model.graph.initializer if t.data_type in DTYPES and DTYPES[t.data_type].is_float]


def _matched(reader: Reader, model: ModelProto, like: str) -> dict[int, Wanted]:
    """By their places in the file, the tensors that the graph has; what only one of both has is warned of."""
    initializers = {tensor.name: tensor for tensor in _float_initializers(model)}
    floats = {index: entry for index, entry in enumerate(reader.header.tensors) if entry.dtype.is_float}
    names = [entry.name for entry in floats.values()]
    if not names:
        raise InputError(f"{reader.name}: expected float tensors, found none")
    left = [name for name in initializers if name not in set(names)]
    others = [name for name in names if name not in initializers]
    expected = f"{reader.name}: expected a float initialiser of {like} for each float tensor"
    if len(others) == len(names):
        raise InputError(f"{expected}, found none for {_listed(others, initializers)}")
    matched = {index: entry for index, entry in floats.items() if entry.name in initializers}
    for entry in matched.values():
        tensor = initializers[entry.name]
        dtype, shape = DTYPES[tensor.data_type], tuple(tensor.dims)
        if entry.shape != shape or not (entry.dtype == dtype or entry.dtype.itemsize < dtype.itemsize):
            where = f"{reader.name}, tensor {entry.name!r}: expected {dtype} of shape {shape} as in {like}"
            raise InputError(f"{where}, or a narrower dtype, found {entry.dtype} of shape {entry.shape}")
    if left:
        lacking = f"{like}: expected a tensor of {reader.name} for each float initialiser"
        _log.warning("%s, found none for %s They stay as they are", lacking, _listed(left, names, "."))
    if others:
        _log.warning("%s, found none for %s They are left out", expected, _listed(others, initializers, "."))
    return {index: (entry, DTYPES[initializers[entry.name].data_type]) for index, entry in matched.items()}


def _listed(names: list[str], known: Iterable[str], end: str = "") -> str:
    """The first few of several names, and for the first of them the nearest one of those known, or else the end."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(repr, names[:_MOST_NAMES])) + more + (nearest_name(names[0], known) or end)


def _overridable(model: ModelProto) -> set[str]:
    """Initialisers that are inputs too, and so only what these are by default. Old models had to repeat all of them."""
    return {value.name for value in model.graph.input} if model.ir_version >= 4 else set()


def _renaming(model: ModelProto) -> Callable[[str], str]:
    """A function from a name to one like it that the model has not, and that it has not given before."""
    taken: set[str] = set()
    for graph in subgraphs(model.graph):
        taken.update(value.name for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info))
        taken.update(name for node in graph.node for name in (*node.input, *node.output))

    def rename(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    return rename


def _forms(
    reader: Reader, wanted: dict[int, Wanted], overridable: set[str], rename: Callable[[str], str], progress: Progress
) -> dict[str, Form]:
    """What each initialiser becomes, by its name; some tensors at a time, in the file's order."""
    progress.begin("exporting", sum(entry.size * dtype.itemsize for entry, dtype in wanted.values()))
    forms: dict[str, Form] = {}
    made: dict[tuple[int, Dtype], str] = {}  # by the owner's place and the dtype, the tensors that nodes make
    for group in reader.symbol_groups(new_array):
        for index in sorted(group.keys() & wanted.keys()):
            entry, dtype = wanted[index]
            owner = index if entry.target is None else entry.target
            if entry.name in overridable:
                form = plain(entry, dtype, reader.tensor(entry.name))
            elif (owner, dtype) in made:
                form = alias(entry.name, made[owner, dtype])
            else:
                own = reader.header.tensors[owner]._replace(name=entry.name)
                form = _smaller(reader, own, dtype, group[index], rename)
            if form.nodes:
                made.setdefault((owner, dtype), entry.name)
            forms[entry.name] = form
            progress.advance(entry.size * dtype.itemsize, form.size_bytes)
    return forms


def _smaller(reader: Reader, entry: TensorEntry, dtype: Dtype, array: np.ndarray, rename: Callable[[str], str]) -> Form:
    """Of a tensor's integers, if it is one of symbols, and its values, what takes fewer bytes."""
    if entry.codebook is None:
        return plain(entry, dtype, array)
    form = compact(entry, dtype, array, rename)
    if form is not None and form.size_bytes < entry.size * dtype.itemsize:
        return form
    return plain(entry, dtype, reader.tensor(entry.name))


def _replace(model: ModelProto, forms: dict[str, Form]) -> None:
    """Put forms in place of initialisers. Their nodes come first, so that subgraphs see what they make too."""
    graph = model.graph
    kept = [tensor for tensor in graph.initializer if tensor.name not in forms]
    made = [tensor for form in forms.values() for tensor in form.initializers]
    nodes = [*(node for form in forms.values() for node in form.nodes), *graph.node]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *made])
    del graph.node[:]
    graph.node.extend(nodes)


def _write(model: ModelProto, output: Path) -> int:
    """Write a model whole or not at all; returns its size in bytes."""
    size_bytes = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    if size_bytes > MOST_BYTES or model.ByteSize() > MOST_BYTES:
        raise InputError(f"{output}: expected a model of at most 2 GiB, found {size_bytes} bytes of initialisers")
    data: bytes = model.SerializeToString(deterministic=True)
    write_atomically(output, data)
    return len(data)
