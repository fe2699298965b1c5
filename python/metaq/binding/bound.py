"""Methods bound to the parameters that they are chosen for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from metaq.binding.groups import BoundGroups
from metaq.binding.rounded import BoundRounding
from metaq.binding.selection import Choice, Fate
from metaq.binding.sharded_parameter import working_parameter
from metaq.binding.shards import ShardRanks, is_distributed
from metaq.methods.base import BoundMethod, Method
from metaq.methods.difference import Difference
from metaq.methods.training import Training


def bind(choices: Sequence[Choice], parameters: Mapping[str, nn.Parameter], training: Training) -> BoundMethod:
    """The methods at work on the parameters that are trained.

    Args:
        choices: those that are compressed or rounded, at least one of them compressed.
        parameters: working parameters, by name.
    """
    members = [
        method.bind({choice.name: parameters[choice.name] for choice in of_method}, _spread(training, of_method))
        for method, of_method in _by_method(choices)
    ]
    rounded = {choice.name: parameters[choice.name] for choice in choices if choice.fate is Fate.ROUNDED}
    if rounded:
        members.append(BoundRounding(rounded, _spread(training, [c for c in choices if c.fate is Fate.ROUNDED])))
    return members[0] if len(members) == 1 else BoundGroups(members, training)


def bind_frozen(choices: Sequence[Choice], training: Training) -> tuple[list[Choice], BoundMethod | None]:
    """The parameters that nobody trains, quantized for good, where their methods do that without training.

    Returns:
        the choices, with those kept whose methods do not; and what quantizes the others, if there are any.
    """
    members, kept = [], set()
    for method, of_method in _by_method([choice for choice in choices if choice.fate is Fate.FROZEN]):
        working = [working_parameter(choice.name, choice.path, choice.parameter) for choice in of_method]
        bound = method.bind_frozen({w.name: w.working for w in working}, _spread(training, of_method))
        if bound is None:
            kept |= {choice.name for choice in of_method}
            continue
        bound.on_forward(False)
        for parameter in working:
            parameter.show()
        bound.adopt_weights()
        members.append(bound)
    result = [replace(choice, fate=Fate.KEPT, method=None) if choice.name in kept else choice for choice in choices]
    return result, BoundGroups(members, training) if members else None


def _spread(training: Training, choices: Sequence[Choice]) -> Training:
    """What a method on these parameters is told: also who has the shards of them, and the levels of differences."""
    method, parameters = choices[0].method, [choice.parameter for choice in choices]
    if isinstance(method, Difference):
        distances = method.level_distances({choice.name: choice.parameter.detach() for choice in choices})
        return replace(training, level_distances=distances)
    return replace(training, ranks=ShardRanks(parameters)) if any(map(is_distributed, parameters)) else training


def _by_method(choices: Sequence[Choice]) -> list[tuple[Method, list[Choice]]]:
    """Each method that is chosen, and what for, in order; two equal ones that are not the same object stay two."""
    groups: dict[int, tuple[Method, list[Choice]]] = {}
    for choice in choices:
        if choice.method is not None:
            groups.setdefault(id(choice.method), (choice.method, []))[1].append(choice)
    return list(groups.values())
