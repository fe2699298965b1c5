"""What a sweep varies: entries of a recipe, each with an interval of numbers or a list of choices."""

from __future__ import annotations

import copy
import math
import sys
import tomllib
from dataclasses import dataclass
from typing import Any

from optuna.trial import Trial

from metaq.errors import InputError, nearest_name
from metaq.experiments.recipe import Recipe, as_tree, recipe_from

# How far a default range goes from the recipe's own value: it is divided and multiplied by this.
_DEFAULT_FACTORS = {"target_bytes": 2.0, "target_ratio": 2.0, "strength": 10.0, "step": 2.0}


@dataclass(frozen=True)
class Numbers:
    """All numbers from ``low`` to ``high``, both included; whole ones only where the recipe's entry is whole."""

    key: str
    low: float
    high: float
    is_whole: bool = False
    is_logarithmic: bool = False

    def __str__(self) -> str:
        return f"{self.key}={self.low!r}:{self.high!r}{':log' if self.is_logarithmic else ''}"

    def suggest(self, trial: Trial) -> Any:
        """The value that the study's sampler wants to see tried."""
        if self.is_whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.is_logarithmic)
        return trial.suggest_float(self.key, self.low, self.high, log=self.is_logarithmic)

    def parameter(self, value: Any) -> Any:
        """What the study calls a value of the recipe, or None where it lies outside."""
        return value if self.low <= value <= self.high else None

    def extremes(self) -> list[Any]:
        """Values that must be possible, each alone."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Choices:
    """A list of values, each written as in TOML; a bare word is a string."""

    key: str
    texts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.key}={'|'.join(self.texts)}"

    def suggest(self, trial: Trial) -> Any:
        """The value that the study's sampler wants to see tried."""
        return _from_toml(trial.suggest_categorical(self.key, self.texts))

    def parameter(self, value: Any) -> Any:
        """What the study calls a value of the recipe, or None where it is none of the choices."""
        return next((text for text in self.texts if _from_toml(text) == value), None)

    def extremes(self) -> list[Any]:
        """Values that must be possible, each alone."""
        return [_from_toml(text) for text in self.texts]


Range = Numbers | Choices


def parse_range(text: str, recipe: Recipe) -> Range:
    """A range of a recipe's entry: ``key=low:high``, ``key=low:high:log`` or ``key=this|that|another``.

    Raises:
        InputError: the text has another form, or the recipe has no such entry.
        RecipeError: the recipe cannot have one of the values.
    """
    key, _, values = (part.strip() for part in text.partition("="))
    current = _entry(recipe, key)
    if "|" in values:
        found: Range = _choices(key, values)
    else:
        found = _numbers(key, values, current)
    for value in found.extremes():
        recipe_from(recipe.name, placed(as_tree(recipe), {key: value}))
    return found


def default_ranges(recipe: Recipe) -> tuple[Range, ...]:
    """The strength of a recipe's method, or else the size that it aims at, and its step between levels.

    Raises:
        InputError: the method has none of them.
    """
    section = as_tree(recipe)["method"]
    varied = {key for key in _DEFAULT_FACTORS if _is_number(section.get(key)) and section[key] > 0}
    if varied & {"target_bytes", "target_ratio"}:
        varied.discard("strength")  # which the method then chooses itself
    if not varied:
        name = section["name"]
        raise InputError(f"sweep: expected a --range for method {name!r}, which has no default ranges, found none")
    return tuple(_around(key, section[key]) for key in _DEFAULT_FACTORS if key in varied)


def placed(tree: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a recipe's tree with some entries, by their dotted keys, replaced."""
    tree = copy.deepcopy(tree)
    for key, value in values.items():
        *names, last = key.split(".")
        section = tree
        for name in names:
            section = section[name]
        section[last] = value
    return tree


def _around(key: str, value: float) -> Numbers:
    factor = _DEFAULT_FACTORS[key]
    low, high = value / factor, value * factor
    if isinstance(value, int):
        low, high = max(1, math.floor(low)), math.ceil(high)
    return Numbers(f"method.{key}", low, high, isinstance(value, int), is_logarithmic=True)


def _choices(key: str, values: str) -> Choices:
    texts = tuple(part.strip() for part in values.split("|"))
    if len(set(texts)) < len(texts):
        raise InputError(f"range {key}: expected different choices, found {values!r}")
    return Choices(key, texts)


def _numbers(key: str, values: str, current: Any) -> Numbers:
    low, _, rest = values.partition(":")
    high, _, scale = rest.partition(":")
    is_whole = isinstance(current, int)
    try:
        numbers = [int(part) if is_whole else float(part) for part in (low, high)]
    except ValueError:
        numbers = []
    if not _is_number(current) or not numbers or scale not in ("", "log"):
        forms = f"'A|B|C', since it is {current!r} in the recipe"
        if _is_number(current):
            forms = f"{'whole numbers ' if is_whole else ''}LOW:HIGH, LOW:HIGH:log or 'A|B|C'"
        raise InputError(f"range {key}: expected {forms}, found {values!r}")
    if not (-sys.float_info.max <= numbers[0] < numbers[1] <= sys.float_info.max):
        raise InputError(f"range {key}: expected a lower and a higher number, found {values!r}")
    if scale and numbers[0] <= 0:
        raise InputError(f"range {key}: expected numbers above 0 on a logarithmic scale, found {values!r}")
    return Numbers(key, numbers[0], numbers[1], is_whole, bool(scale))


def _entry(recipe: Recipe, key: str) -> Any:
    """The present value of an entry."""
    entries = dict(_entries(as_tree(recipe), ""))
    if key not in entries:
        hint = nearest_name(key, entries)
        raise InputError(f"range: expected KEY=LOW:HIGH with an entry of recipe {recipe.name}, found {key!r}{hint}")
    return entries[key]


def _entries(tree: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    entries = []
    for key, value in tree.items():
        entries.append((prefix + key, value))
        if isinstance(value, dict):
            entries += _entries(value, f"{prefix}{key}.")
    return entries


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _from_toml(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
