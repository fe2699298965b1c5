"""Which parameters of a model are compressed, and by what method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from metaq.binding.shards import check_no_flat_parameters
from metaq.errors import InputError
from metaq.methods.base import Method
from metaq.methods.difference import Difference
from metaq.quantizers.rounding import is_roundable
from metaq.tensors import CODED_FLOATS

Methods = Method | Mapping[str, Method | None]
"""One method for a model, or patterns of its parameters' names with a method for each, or None to keep them."""

LARGE_NETWORK = 1 << 22
"""Elements of the parameters beyond which norms and biases are kept: below, they are a good part of the file."""

_REST = "*"  # the pattern of what no other fits, for which the choice is that of a method without patterns
# Wrappers that put themselves into the names of the modules in them.
_INSERTED = "_orig_mod.", "_checkpoint_wrapped_module."


class Fate(Enum):
    """What becomes of a parameter."""

    COMPRESSED = "compressed"
    FROZEN = "quantized once, since it is not trained"
    ROUNDED = "kept with eleven significant bits, as float16 has them"
    KEPT = "kept exactly"


@dataclass(frozen=True)
class Choice:
    """A parameter, what becomes of it, and by which method where it is compressed or frozen.

    Attributes:
        names: all its names, more than one where weights are tied; the first is the one that methods and files use.
        path: its first name with those of wrappers inside of the model.
        dtype: of the model's parameter.
    """

    names: tuple[str, ...]
    path: str
    parameter: nn.Parameter
    dtype: torch.dtype
    fate: Fate
    method: Method | None = None

    @property
    def name(self) -> str:
        """Its first name."""
        return self.names[0]


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside of wrappers that run or average it: of DDP, of `DataParallel`, of `torch.compile`, of EMA."""
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel | AveragedModel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def plain_name(name: str) -> str:
    """A parameter's name without what `torch.compile` and activation checkpointing put into it."""
    for inserted in _INSERTED:
        name = name.replace(inserted, "")
    return name


def select(model: nn.Module, methods: Methods) -> list[Choice]:
    """What becomes of every parameter of a model, in its order.

    Without patterns, matrices, filters and embeddings are compressed, and so are norms and biases of networks of up to
    `LARGE_NETWORK` elements; those of larger ones are rounded. With patterns the first one that fits a name decides,
    and a parameter that none fits is kept. The pattern "*" stands for all others, which go as they would without
    patterns. With `Difference` norms and biases of large networks are compressed too, and what is not trained is kept.

    Raises:
        InputError: a parameter that cannot be compressed is to be; nothing is; or a pattern fits no parameter.
    """
    check_no_flat_parameters(model)
    parameters = list(model.named_parameters())
    names = _all_names(model)
    if not parameters:
        raise InputError("model: expected trainable parameters, found none")
    for path, parameter in parameters:
        if nn.parameter.is_lazy(parameter):
            raise InputError(f"parameter {path!r}: expected weights, found none yet; run the model once before")
    patterns = {_REST: methods} if isinstance(methods, Method) else dict(methods)
    for pattern, chosen in patterns.items():
        if not isinstance(chosen, Method | None):
            raise InputError(f"method of pattern {pattern!r}: expected a method or None, found {chosen!r}")
    _check_patterns(patterns, [names[id(parameter)] for _, parameter in parameters])
    is_large = sum(parameter.numel() for _, parameter in parameters) > LARGE_NETWORK
    choices = []
    for path, parameter in parameters:
        of_parameter = names[id(parameter)]
        fitting = next((pattern for pattern in patterns if _fits(of_parameter, pattern)), None)
        method = None if fitting is None else patterns[fitting]
        is_small = fitting == _REST and is_large and parameter.ndim < 2
        fate = _fate(of_parameter[0], parameter, method, is_small) if method is not None else Fate.KEPT
        by = method if fate in (Fate.COMPRESSED, Fate.FROZEN) else None
        choices.append(Choice(of_parameter, path, parameter, parameter.dtype, fate, by))
    _check_choices(choices)
    return choices


def _fate(name: str, parameter: nn.Parameter, method: Method, is_small: bool) -> Fate:
    """What becomes of a parameter that has a method, and whose error would cost more than its bytes if ``is_small``."""
    _check_parameter(name, parameter)
    if not parameter.numel():
        return Fate.KEPT
    if isinstance(method, Difference):  # nobody's difference is 0, and costs nothing; that of a norm is small
        return Fate.COMPRESSED if parameter.requires_grad else Fate.KEPT
    if is_small:
        return Fate.ROUNDED if is_roundable(parameter) and parameter.requires_grad else Fate.KEPT
    return Fate.COMPRESSED if parameter.requires_grad else Fate.FROZEN


def _all_names(model: nn.Module) -> dict[int, tuple[str, ...]]:
    """All names of every parameter, by its id, in the model's order."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(plain_name(name))
    return {key: tuple(of_parameter) for key, of_parameter in names.items()}


def _check_patterns(patterns: Iterable[str], parameters: Iterable[tuple[str, ...]]) -> None:
    left = list(parameters)
    some = ", ".join(names[0] for names in left[:3]) + (", ..." if len(left) > 3 else "")
    for pattern in patterns:
        rest = [names for names in left if not _fits(names, pattern)]
        if len(rest) == len(left):
            raise InputError(
                f"pattern {pattern!r}: expected one that fits a parameter which no earlier pattern fits, found none;"
                f" the model has {some}"
            )
        left = rest


def _fits(names: tuple[str, ...], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _check_parameter(name: str, parameter: nn.Parameter) -> None:
    keep = f'; {{"{name}": None, "*": method}} keeps it'
    if parameter.is_meta:
        raise InputError(f"parameter {name!r}: expected weights, found a tensor on the meta device; load them before")
    if parameter.dtype not in CODED_FLOATS:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in CODED_FLOATS)
        raise InputError(f"parameter {name!r}: expected one of {known}, found {parameter.dtype}{keep}")


def _check_choices(choices: list[Choice]) -> None:
    compressed = [choice for choice in choices if choice.fate is Fate.COMPRESSED]
    if not compressed:
        raise InputError("model: expected trainable parameters to compress, found none")
    devices = {choice.parameter.device: choice.name for choice in compressed}
    if len(devices) > 1:
        (first, name), (second, other) = list(devices.items())[:2]
        raise InputError(f"model: expected one device, found {name!r} on {first} and {other!r} on {second}")
