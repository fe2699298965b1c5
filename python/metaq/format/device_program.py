"""Forward passes of sequential networks for small devices: layers as `metaq/device_network.hpp` takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from metaq import coding
from metaq.errors import InputError
from metaq.format.checked_file import CheckedFile
from metaq.format.device_image import c_header, c_identifier
from metaq.format.header import TensorEntry


class LayerKind(Enum):
    """What a layer computes. A linear layer is a convolution by kernels as large as its input."""

    CONVOLUTION = "convolution"
    MAX_POOL = "max_pool"
    AVERAGE_POOL = "average_pool"


class Volume(NamedTuple):
    """The shape of one sample's values."""

    channels: int
    height: int
    width: int

    @property
    def size(self) -> int:
        """Number of values."""
        return self.channels * self.height * self.width


class Window(NamedTuple):
    """Kernels of a layer and where they are put: each size for rows, then for columns."""

    height: int
    width: int
    row_stride: int = 1
    column_stride: int = 1
    row_padding: int = 0
    column_padding: int = 0


@dataclass(frozen=True)
class Layer:
    """A layer of a sequential network.

    Attributes:
        name: what errors and comments call it.
        weight: the name of its tensor in the file, for convolutions.
        bias: likewise, if it has one.
        is_rectified: whether negative results become zero.
    """

    name: str
    kind: LayerKind
    inputs: Volume
    outputs: Volume
    window: Window
    weight: str | None = None
    bias: str | None = None
    is_rectified: bool = False

    @property
    def weights(self) -> int:
        """The number of elements of its weight."""
        return self.inputs.channels * self.window.height * self.window.width * self.outputs.channels


@dataclass(frozen=True)
class Program:
    """A header for C++ with an image and its forward pass.

    Attributes:
        text: of the header.
        image_bytes: of the image in it, in flash.
        arena_bytes: that decoding takes at most.
        value_bytes: that layers' results take beside the arena.
    """

    text: str
    image_bytes: int
    arena_bytes: int
    value_bytes: int


def program(file: CheckedFile, layers: Sequence[Layer], name: str) -> Program:
    """A file's image with the function that computes a network's output while it decodes the weights.

    Args:
        file: has the layers' tensors as float32, in their order; weights are quantized, biases may be exact.
        layers: each takes what the one before gives; there is at least one.
        name: what the array is called, and the function, `NAME_forward`.

    Raises:
        InputError: the file lacks a layer's tensor, or has it otherwise.
        FormatError: the file is damaged, or of a coder that devices have not.
    """
    image, arena_bytes = file.device_image()
    placed = _place(file, layers)
    floats = _count_floats(layers, [kept for _, _, kept in placed])
    identifier = c_identifier(name)
    macro = identifier.upper()
    lines = ["#ifdef __cplusplus", "// What follows takes C++20 and metaq/device_network.hpp."]
    lines += ["#ifndef METAQ_CODERS", f"#define METAQ_CODERS {_coders(file)}", "#endif"]
    lines += ['#include "metaq/device_network.hpp"', ""]
    lines += [f"#define {macro}_INPUTS {layers[0].inputs.size}", f"#define {macro}_OUTPUTS {layers[-1].outputs.size}"]
    lines += [f"#define {macro}_FLOATS {floats}", ""]
    lines += [f"static constexpr metaq::device::Layer {identifier}_layers[] = {{"]
    for layer, (weight, bias, is_kept) in zip(layers, placed, strict=True):
        lines += _layer_lines(layer, weight, bias, is_kept)
    lines += ["};", f"static_assert(metaq::device::count_floats({identifier}_layers) == {macro}_FLOATS);", ""]
    lines += _function_lines(identifier, macro, layers)
    lines += ["#endif"]
    text = c_header(image, arena_bytes, name, "\n".join(lines))
    return Program(text, len(image), arena_bytes, 4 * floats)


def _place(file: CheckedFile, layers: Sequence[Layer]) -> list[tuple[int | None, int | None, bool]]:
    """Of each layer where in the file its weight and its bias are, and whether the latter is kept without loss."""
    by_name = {entry.name: index for index, entry in enumerate(file.header.tensors)}
    last = -1
    placed = []
    for layer in layers:
        weight = _find(file, by_name, layer, layer.weight, layer.weights)
        bias = _find(file, by_name, layer, layer.bias, layer.outputs.channels)
        if weight is not None and file.header.tensors[weight].codebook is None:
            remedy = "compress the network with a pattern that takes it in"
            raise InputError(f"{file.name}, tensor {layer.weight!r}: expected it quantized, found it exact; {remedy}")
        is_kept = bias is not None and file.header.tensors[bias].codebook is None
        coded = [index for index in (weight, None if is_kept else bias) if index is not None]
        if coded and min(coded) < last:
            remedy = "save the tensors in the order of the layers"
            raise InputError(
                f"{file.name}: expected {layer.name!r} behind the layers before it, found it earlier; {remedy}"
            )
        last = max([last, *coded])
        placed.append((weight, bias, is_kept))
    return placed


def _find(file: CheckedFile, by_name: dict[str, int], layer: Layer, name: str | None, size: int) -> int | None:
    """The index of a layer's tensor, which is float32 and has that many elements."""
    if name is None:
        return None
    if name not in by_name:
        raise InputError(f"{file.name}: expected tensor {name!r} of layer {layer.name!r}, found no such tensor")
    entry: TensorEntry = file.header.tensors[by_name[name]]
    found = "an alias" if entry.target is not None else f"{entry.size} elements of {entry.dtype}"
    if found != (expected := f"{size} elements of float32"):
        raise InputError(f"{file.name}, tensor {name!r}: expected {expected}, found {found}")
    return by_name[name]


def _count_floats(layers: Sequence[Layer], are_kept: Sequence[bool]) -> int:
    """As `count_floats` in C++: the largest input and output together, but for the caller's, and kept biases."""
    inputs = [0, *(layer.inputs.size for layer in layers[1:])]
    outputs = [*(layer.outputs.size for layer in layers[:-1]), 0]
    kept = sum(layer.outputs.channels for layer, is_kept in zip(layers, are_kept, strict=True) if is_kept)
    return max(map(sum, zip(inputs, outputs, strict=True))) + kept


def _coders(file: CheckedFile) -> str:
    """The coders of the file's chunks, as METAQ_CODERS takes them; stored chunks are always read."""
    names = sorted({coding.name_of(chunk.coder) for chunk in file.header.chunks} - {"stored"})
    return "(" + " | ".join(f"METAQ_CODER_{name.upper()}" for name in names) + ")" if names else "0"


def _layer_lines(layer: Layer, weight: int | None, bias: int | None, is_kept: bool) -> list[str]:
    def numbers(values: tuple[int, ...]) -> str:
        return "{" + ", ".join(map(str, values)) + "}"

    def boolean(value: bool) -> str:
        return "true" if value else "false"

    fields = [f"metaq::device::LayerKind::{layer.kind.value}", boolean(layer.is_rectified)]
    fields += [numbers(layer.inputs), numbers(layer.outputs), numbers(layer.window)]
    fields += ["metaq::device::kNoTensor" if index is None else str(index) for index in (weight, bias)]
    return [f"    // {layer.name}", "    {" + ", ".join([*fields, boolean(is_kept)]) + "},"]


def _function_lines(identifier: str, macro: str, layers: Sequence[Layer]) -> list[str]:
    start = f"static inline metaq::FileError {identifier}_forward("
    return [
        f"// From values of shape {tuple(layers[0].inputs)} to {layers[-1].outputs.size}; one call at a time.",
        f"{start}std::span<const float, {macro}_INPUTS> input,",
        f"{' ' * len(start)}std::span<float, {macro}_OUTPUTS> output) {{",
        f"    alignas(16) static std::byte arena[{macro}_ARENA_BYTES];",
        f"    static float values[{macro}_FLOATS];",
        "    metaq::device::Decoder decoder(arena);",
        f"    const metaq::FileError error = decoder.open({identifier});",
        "    if (error != metaq::FileStatus::ok) return error;",
        f"    return metaq::device::Network({identifier}_layers, values).run(decoder, input, output);",
        "}",
    ]
