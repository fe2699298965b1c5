"""Networks of torch as programs for small devices: an image of the weights with the forward pass of the layers."""

from __future__ import annotations

import dataclasses
import operator
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from metaq.errors import InputError
from metaq.files import open_bytes
from metaq.format.checked_file import CheckedFile
from metaq.format.device_program import Layer, LayerKind, Volume, Window, program

# Functions, and methods of tensors, that do what a module does whose arguments are theirs.
_FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    functional.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    functional.max_pool2d: nn.MaxPool2d,
    functional.avg_pool2d: nn.AvgPool2d,
    functional.dropout: lambda *_, **__: nn.Identity(),
    torch.flatten: nn.Flatten,
}
_METHODS: dict[Any, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "flatten": nn.Flatten,
    "reshape": lambda *_: nn.Flatten(),  # to samples of one dimension
    "view": lambda *_: nn.Flatten(),
}


def c_program(source: str | os.PathLike[str], model: nn.Module, example: Tensor, name: str = "model") -> str:
    """A header for C++20 with a `.mtq` file's weights and a function that computes the network's output from them.

    The function, ``NAME_forward``, decodes weights while it computes, so that no layer of them is in memory. It takes
    no heap; docs/devices.md says how it is compiled and used. A network is a sequence of ``Linear``, ``Conv2d``,
    ``MaxPool2d``, ``AvgPool2d``, ``ReLU`` and ``Flatten``, as modules or as functions.

    Args:
        source: the `.mtq` file; its tensors are named as in the model's state. The model's own weights are not read.
        model: the network, which `torch.fx` can trace.
        example: an input of one sample, of shape (1, channels, height, width) or (1, features).
        name: what the array is called, and the function.

    Raises:
        InputError: the network is no such sequence, or the file cannot be read or lacks a tensor of it.
        FormatError: the file is not a whole and unchanged `.mtq` file, or of a coder that devices have not.

    Example::

        Path("model.h").write_text(metaq.c_program("model.mtq", network, images[:1]))
    """
    return program(CheckedFile(open_bytes(source), str(source)), sequential_layers(model, example), name).text


def sequential_layers(model: nn.Module, example: Tensor) -> list[Layer]:
    """The layers of a network that is a sequence of those that devices compute.

    Raises:
        InputError: it is not.
    """
    layers: list[Layer] = []
    before: fx.Node | None = None
    for node in _traced(model, example):
        if node.op == "output" and node.args[0] is before and layers:
            return layers
        if node.op == "placeholder" and before is None:
            before = node
            continue
        if before is None or node.op in ("placeholder", "output") or node.all_input_nodes != [before]:
            raise InputError(f"{node.name}: expected a sequence of layers, found one that takes other inputs")
        _append(layers, node, _module_of(model, node), _shape(before), _shape(node))
        before = node
    raise InputError(f"{type(model).__name__}: expected a sequence of layers, found none that is the output")


def _traced(model: nn.Module, example: Tensor) -> list[fx.Node]:
    try:
        traced = fx.symbolic_trace(model)
    except Exception as error:  # whatever the network's own code raises
        words = " ".join(str(error).split())
        raise InputError(f"{type(model).__name__}: expected a network that torch.fx traces, found: {words}") from None
    with torch.no_grad():
        ShapeProp(traced).propagate(example)
    return list(traced.graph.nodes)


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Of one sample."""
    return tuple(node.meta["tensor_meta"].shape[1:])


def _volume(shape: tuple[int, ...]) -> Volume:
    return Volume(*shape, *(1,) * (3 - len(shape)))


def _module_of(model: nn.Module, node: fx.Node) -> nn.Module:
    """The module of a node, or the one that does the same."""
    if node.op == "call_module":
        return model.get_submodule(str(node.target))
    made = (_METHODS if node.op == "call_method" else _FUNCTIONS).get(node.target)
    if made is None:
        raise InputError(f"{node.name}: {_supported}, found {node.target}")
    return made(*node.args[1:], **node.kwargs)


_supported = "expected Linear, Conv2d, MaxPool2d, AvgPool2d, ReLU or Flatten"


def _append(
    layers: list[Layer], node: fx.Node, module: nn.Module, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> None:
    """Adds what a module computes to the layers. Negative results of the last become zero by a ReLU."""
    name = str(node.target) if node.op == "call_module" else node.name
    match module:
        case nn.Linear() if len(inputs) == 1:
            # The features are those of the layer before, which may have rows and columns.
            volume = layers[-1].outputs if layers else _volume(inputs)
            window = Window(volume.height, volume.width)
            layers.append(_weighted(name, module, volume, _volume(outputs), window))
        case nn.Conv2d(groups=1, dilation=(1, 1), padding_mode="zeros", padding=tuple()):
            window = Window(*_pair(module.kernel_size), *_pair(module.stride), *_pair(module.padding))
            layers.append(_weighted(name, module, _volume(inputs), _volume(outputs), window))
        case nn.MaxPool2d(dilation=1, ceil_mode=False, return_indices=False):
            layers.append(_pool(name, LayerKind.MAX_POOL, module, inputs, outputs))
        case nn.AvgPool2d(ceil_mode=False, count_include_pad=True, divisor_override=None):
            layers.append(_pool(name, LayerKind.AVERAGE_POOL, module, inputs, outputs))
        case nn.ReLU() if layers:
            layers[-1] = dataclasses.replace(layers[-1], is_rectified=True)
        case nn.Dropout() | nn.Identity():
            pass
        case nn.Flatten(start_dim=1) if len(outputs) == 1:
            pass
        case _:
            raise InputError(f"{name}: {_supported}, found {module}")


def _weighted(name: str, module: nn.Linear | nn.Conv2d, inputs: Volume, outputs: Volume, window: Window) -> Layer:
    bias = None if module.bias is None else f"{name}.bias"
    return Layer(name, LayerKind.CONVOLUTION, inputs, outputs, window, f"{name}.weight", bias)


def _pool(
    name: str, kind: LayerKind, module: nn.MaxPool2d | nn.AvgPool2d, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> Layer:
    window = Window(*_pair(module.kernel_size), *_pair(module.stride), *_pair(module.padding))
    return Layer(name, kind, _volume(inputs), _volume(outputs), window)


def _pair(size: Any) -> tuple[int, int]:
    """A size for rows and one for columns, which may be given as one number."""
    return (operator.index(size[0]), operator.index(size[1])) if isinstance(size, tuple) else (size, size)
