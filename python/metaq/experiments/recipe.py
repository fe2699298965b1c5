"""Recipes: one TOML file for each experiment, checked key by key."""

from __future__ import annotations

import dataclasses
import math
import sys
import tomllib
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from metaq import coding, methods
from metaq.errors import InputError, RecipeError, nearest_name
from metaq.experiments import data, models
from metaq.files import read_bytes
from metaq.methods import Method, Pruned

Section = TypeVar("Section")

_MOST = 10**9  # epochs, samples or batches; more are a slip
_MOST_PIXELS = 64  # of a shift; images are not that wide
_MOST_NETWORKS = 1000
_MOST_THREADS = 1024
_MOST_MOVES = 10_000_000
SEED_COUNT = 1 << 32  # of seeds, from 0 on, which every generator takes
_SHOWN_CHARACTERS = 60  # of a value in a message


@dataclass(frozen=True)
class NetworkSection:
    """A network, by its name in `metaq.experiments.models`, and the trained weights to start from (`load_weights`)."""

    name: str
    weights: str = ""


@dataclass(frozen=True)
class DataSection:
    """A data set, by its name in `metaq.experiments.data`, and how many images or characters are held out."""

    name: str
    held_out: int


class Optimizer(Enum):
    """Which optimizer trains: Adam, or stochastic gradient descent with momentum 0.9."""

    ADAM = "adam"
    SGD = "sgd"


class LearningRateSchedule(Enum):
    """How the learning rate changes: it falls to 0 along half a cosine, or is constant."""

    COSINE = "cosine"
    CONSTANT = "constant"


class Precision(Enum):
    """In which numbers a network's layers compute in training; weights, gradients and every evaluation are float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class StageSection:
    """One stage of training.

    Attributes:
        epochs, batch_size: of training; an epoch leaves out the samples that do not fill a batch.
        learning_rate: the first one; `schedule` says how it changes.
        weight_decay: this times the weights is added to their gradients.
        last_phase_epochs: the last of ``epochs``, in which the zero pattern is frozen.
        shift_pixels: every image is moved at random by up to this much each way.
        flip: every image is mirrored left to right with a chance of one half.
        rotation_degrees, scale_share, elastic_pixels: how far every image is rotated, scaled and bent at random
            (`metaq.experiments.augmentation.distorted`).
        average_decay: the last phase begins with a running average of the optimizer's own weights, of which every step
            before it leaves this share; 0 for the weights of the last step.
        distillation: share of the loss that is the distance from the teacher's outputs instead of from the labels, both
            softened by ``temperature``. The teacher is the recipe's `TeacherSection`; in a recipe without one it is the
            float network, which can teach the second stage only.
        recalibration_batches: before every evaluation batch normalisation's statistics are measured anew, on that many
            training batches; 0 leaves those that training gathered.
        precision: of the layers in training. bfloat16 takes half the time where the processor multiplies it (x86-64
            with AVX512-BF16 or AMX, GPUs), and many times longer where it does not.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: Optimizer = Optimizer.ADAM
    schedule: LearningRateSchedule = LearningRateSchedule.COSINE
    weight_decay: float = 0.0
    last_phase_epochs: int = 0
    shift_pixels: int = 0
    flip: bool = False
    rotation_degrees: float = 0.0
    scale_share: float = 0.0
    elastic_pixels: float = 0.0
    average_decay: float = 0.0
    distillation: float = 0.0
    temperature: float = 1.0
    recalibration_batches: int = 0
    precision: Precision = Precision.FLOAT32

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("epochs", 1 <= self.epochs <= _MOST, f"1 to {_MOST}"),
            ("batch_size", 1 <= self.batch_size <= _MOST, f"1 to {_MOST}"),
            ("learning_rate", self.learning_rate > 0, "more than 0"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("last_phase_epochs", 0 <= self.last_phase_epochs <= self.epochs, f"0 to {self.epochs}"),
            ("shift_pixels", 0 <= self.shift_pixels <= _MOST_PIXELS, f"0 to {_MOST_PIXELS}"),
            ("rotation_degrees", 0 <= self.rotation_degrees <= 360, "0 to 360"),
            ("scale_share", 0 <= self.scale_share < 1, "0 to less than 1"),
            ("elastic_pixels", 0 <= self.elastic_pixels <= _MOST_PIXELS, f"0 to {_MOST_PIXELS}"),
            ("average_decay", 0 <= self.average_decay < 1, "0 to less than 1"),
            ("average_decay", not self.average_decay or self.last_phase_epochs > 0, "0 without a last phase"),
            ("distillation", 0 <= self.distillation <= 1, "0 to 1"),
            ("temperature", 0 < self.temperature <= _MOST, f"more than 0, to {_MOST}"),
            ("recalibration_batches", 0 <= self.recalibration_batches <= _MOST, f"0 to {_MOST}"),
        ):
            if not holds:
                raise RecipeError(f"{name}: expected {expected}, found {getattr(self, name)!r}")


@dataclass(frozen=True)
class TeacherSection:
    """An ensemble whose mean of probabilities teaches the stages of training that ask for distillation.

    Attributes:
        network: the name of its networks in `metaq.experiments.models`.
        count: how many there are; their seeds are 0, 1, ...
        training: how each of them is trained, from the labels.
        folder: where they are kept, so that several runs share them; "" for the run's folder.
    """

    network: str
    count: int
    training: StageSection
    folder: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MOST_NETWORKS:
            raise RecipeError(f"count: expected 1 to {_MOST_NETWORKS}, found {self.count}")
        if self.training.distillation:
            raise RecipeError(f"training.distillation: expected 0, found {self.training.distillation}")


@dataclass(frozen=True)
class MethodSection:
    """Which method, and its configuration."""

    name: str
    configuration: Method


@dataclass(frozen=True)
class FileSection:
    """How the file is written.

    Attributes:
        neuron_moves: orders of hidden neurons that are tried for the smallest file (`metaq.order_neurons`); 0 for none.
    """

    coder: str = "mixing"
    neuron_moves: int = 0


@dataclass(frozen=True)
class Recipe:
    """An experiment: train a network, train it on with a method that may prune on the way, and write the file."""

    name: str
    seed: int
    threads: int
    network: NetworkSection
    data: DataSection
    float_training: StageSection
    method: MethodSection
    training: StageSection
    file: FileSection = FileSection()
    pruning: MethodSection | None = None
    teacher: TeacherSection | None = None

    @property
    def compression(self) -> Method:
        """The method, with the pruning if there is one."""
        method = self.method.configuration
        return Pruned(method, self.pruning.configuration) if self.pruning is not None else method


def known_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("metaq.experiments") / "recipes"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name, or from a file whose path ends in ``.toml``, and apply ``section.key=value`` overrides.

    Raises:
        RecipeError: no such recipe, not TOML, an unknown or missing key, a value of the wrong type or range.
    """
    if name_or_path.endswith(".toml"):
        try:
            text = read_bytes(name_or_path).decode("utf-8")
        except (InputError, UnicodeDecodeError) as error:
            raise RecipeError(f"{name_or_path}: expected a readable recipe, found {error}") from None
        name = Path(name_or_path).stem
    else:
        known = known_recipes()
        if name_or_path not in known:
            hint = nearest_name(name_or_path, known)
            raise RecipeError(
                f"recipe: expected one of {', '.join(known)}, or a path ending in .toml, found {name_or_path!r}{hint}"
            )
        text = (resources.files("metaq.experiments") / "recipes" / f"{name_or_path}.toml").read_text(encoding="utf-8")
        name = name_or_path
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers of thousands of digits
        raise RecipeError(f"{name_or_path}: expected TOML, found {error}") from None
    for override in overrides:
        _override(tree, override)
    return recipe_from(name, tree)


def recipe_from(name: str, tree: dict[str, Any]) -> Recipe:
    """A checked recipe from parsed TOML, or from a run's ``config.json``.

    Raises:
        RecipeError: an unknown or missing key, a value of the wrong type or range.
    """
    recipe = _section(Recipe, {"name": name, **tree}, "")
    try:
        models.by_name(recipe.network.name)
        data.by_name(recipe.data.name)
        coding.by_name(recipe.file.coder).check_installed()
        if recipe.teacher is not None:
            models.by_name(recipe.teacher.network)
    except InputError as error:
        raise RecipeError(f"recipe {name}: {error}") from None
    is_float_taught, is_taught = bool(recipe.float_training.distillation), bool(recipe.training.distillation)
    if is_float_taught and recipe.teacher is None:
        raise RecipeError(f"recipe {name}, float_training.distillation: expected a [teacher] for it, found none")
    if recipe.teacher is not None and not (is_float_taught or is_taught):
        raise RecipeError(f"recipe {name}, [teacher]: expected distillation in a stage of training, found none")
    if recipe.file.neuron_moves and not models.neuron_chains(recipe.network.name):
        found = f"{recipe.network.name}, of which none are known"
        raise RecipeError(f"recipe {name}, file.neuron_moves: expected a network with chains of layers, found {found}")
    if not 0 <= recipe.file.neuron_moves <= _MOST_MOVES:
        found = _shown(recipe.file.neuron_moves)
        raise RecipeError(f"recipe {name}, file.neuron_moves: expected 0 to {_MOST_MOVES}, found {found}")
    for key, least, most in (("threads", 1, _MOST_THREADS), ("seed", 0, SEED_COUNT - 1)):
        if not least <= getattr(recipe, key) <= most:
            raise RecipeError(f"recipe {name}, {key}: expected {least} to {most}, found {_shown(getattr(recipe, key))}")
    return recipe


def as_tree(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain dictionaries, in the layout of its TOML file, with every default."""
    tree = dataclasses.asdict(recipe, dict_factory=_plain)
    for key in ("method", "pruning"):
        if tree[key] is not None:
            given = {name: value for name, value in tree[key]["configuration"].items() if value is not None}
            tree[key] = {"name": tree[key]["name"], **given}
    absent = [key for key in ("pruning", "teacher") if tree[key] is None]
    return {key: value for key, value in tree.items() if key not in ("name", *absent)}


def _plain(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    """Enums become their names and tuples become lists, as TOML and JSON have them."""
    lists = ((key, [list(pair) for pair in value] if isinstance(value, tuple) else value) for key, value in entries)
    return {key: value.value if isinstance(value, Enum) else value for key, value in lists}


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"--set: expected key=value, found {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text  # a bare word is a string
    *names, last = key.strip().split(".")
    section = tree
    for name in names:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise RecipeError(f"--set {key}: expected a section named {name!r}, found a value")
    section[last] = value


def _section(kind: type[Section], tree: dict[str, Any], where: str) -> Section:
    """A dataclass from a dictionary; every key must be known and of the right type, every required key present."""
    if kind is MethodSection:
        return typing.cast(Section, _method_section(tree, where))
    types = {key: _required(hint) for key, hint in typing.get_type_hints(kind).items()}
    _check_keys(tree, list(types), where)
    values = {}
    for key, value in tree.items():
        values[key] = _value(value, types[key], f"{where}{key}")
    required = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]  # type: ignore[arg-type]
    missing = [key for key in required if key not in values]
    if missing:
        raise RecipeError(f"recipe key {where + missing[0]!r}: expected a value, found none")
    try:
        return kind(**values)
    except (RecipeError, InputError) as error:
        raise RecipeError(f"recipe section {where.rstrip('.')!r}: {error}") from None


def _required(hint: Any) -> Any:
    """The type itself, where a type may also be None."""
    parts = typing.get_args(hint)
    return next(part for part in parts if part is not type(None)) if type(None) in parts else hint


def _value(value: Any, kind: Any, path: str) -> Any:
    """A section, a table of named values, a list of pairs of numbers, or a plain value, of the kind of a field."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise RecipeError(f"recipe key {path!r}: expected a section, found {_shown(value)}")
        return _section(typing.cast(type[Any], kind), value, f"{path}.")
    if typing.get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise RecipeError(f"recipe key {path!r}: expected a table, found {_shown(value)}")
        return {key: _typed(item, typing.get_args(kind)[1], f"{path}.{key}") for key, item in value.items()}
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or any(not isinstance(pair, list | tuple) for pair in value):
            raise RecipeError(f"recipe key {path!r}: expected a list of pairs, found {_shown(value)}")
        pairs = [tuple(_typed(number, float, path) for number in pair) for pair in value]
        if any(len(pair) != 2 for pair in pairs):
            raise RecipeError(f"recipe key {path!r}: expected a list of pairs, found {_shown(value)}")
        return tuple(pairs)
    return _typed(value, kind, path)


def _method_section(tree: dict[str, Any], where: str) -> MethodSection:
    if "name" not in tree:
        raise RecipeError(f"recipe key {where + 'name'!r}: expected a method, found none")
    try:
        hints = typing.get_type_hints(methods.by_name(_typed(tree["name"], str, where + "name")))
    except InputError as error:
        raise RecipeError(f"recipe key {where + 'name'!r}: {error}") from None
    types = {key: _required(hint) for key, hint in hints.items()}
    _check_keys(tree, ["name", *types], where)
    options = {key: _value(value, types[key], where + key) for key, value in tree.items() if key != "name"}
    try:
        return MethodSection(tree["name"], methods.by_name(tree["name"])(**options))
    except InputError as error:
        raise RecipeError(f"recipe section {where.rstrip('.')!r}: {error}") from None


def _check_keys(tree: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in tree:
        if key not in known:
            hint = nearest_name(key, known)
            raise RecipeError(
                f"recipe key {where + key!r}: expected one of {', '.join(known)}, found an unknown one{hint}"
            )


def _typed(value: Any, kind: Any, path: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        value = float(value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        choices = [choice.value for choice in kind]
        if value not in choices:
            raise RecipeError(f"recipe key {path!r}: expected one of {', '.join(choices)}, found {_shown(value)}")
        return kind(value)
    if type(value) is not kind:
        raise RecipeError(f"recipe key {path!r}: expected {kind.__name__}, found {_shown(value)}")
    if kind is float and not math.isfinite(value):
        raise RecipeError(f"recipe key {path!r}: expected a finite number, found {value}")
    if kind is int and not -(1 << 63) <= value < 1 << 63:
        raise RecipeError(f"recipe key {path!r}: expected an integer of 64 bits, found {_shown(value)}")
    if kind is str and "\0" in value:
        raise RecipeError(f"recipe key {path!r}: expected a text without zero bytes, found {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A value in a message: Python writes no integer of thousands of digits, and nobody reads one."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
