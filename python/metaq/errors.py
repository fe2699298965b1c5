"""What metaq raises. A message says where, what was expected and what was found."""

from __future__ import annotations

import difflib
import heapq
import operator
from collections.abc import Iterable, Mapping
from itertools import islice, takewhile
from typing import TypeVar

# Of names that might have been meant: how many are looked at, and how many of these, with most in common, closely.
_MOST_NAMES, _MOST_COMPARED = 1 << 16, 100
_SHORT_NAME, _LONG_NAME = 16, 1000  # in characters

Entry = TypeVar("Entry")


class MetaqError(Exception):
    """Any error that metaq raises itself."""


class FormatError(MetaqError):
    """A file or stream is not what its format says: 'where: expected X, found Y'."""


class InputError(MetaqError):
    """An argument or an array cannot be used: wrong shape, dtype, range or name."""


class InfeasibleError(InputError):
    """An optimisation problem has no feasible point."""


class DataError(MetaqError):
    """A data set is missing, cannot be fetched or has the wrong checksum."""


class RecipeError(MetaqError):
    """A recipe file has an unknown key, a missing one or a value out of its range."""


def first_line(error: BaseException) -> str:
    """What an exception of a library says, as far as one line has room for it."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: "; did you mean 'x'?", or nothing when no known name is near.

    Of very many known names, or long ones, only some are looked at, so that a message never takes long.
    """

    def agreement(other: str) -> int:
        return _common_length(name, other) + _common_length(reversed(name), reversed(other))

    candidates = (other for other in islice(known, _MOST_NAMES) if len(other) <= 2 * len(name) + _SHORT_NAME)
    near = difflib.get_close_matches(name[:_LONG_NAME], heapq.nlargest(_MOST_COMPARED, candidates, key=agreement), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _common_length(one: Iterable[str], other: Iterable[str]) -> int:
    """How many characters two texts begin with alike."""
    return sum(1 for _ in takewhile(bool, map(operator.eq, one, other)))


def entry_of_name(name: str, known: Mapping[str, Entry], kind: str) -> Entry:
    """The entry of that name in a table of all that there are.

    Raises:
        InputError: there is none; the message begins with ``kind``, and lists the names.
    """
    if name not in known:
        raise InputError(f"{kind}: expected one of {', '.join(known)}, found {name!r}{nearest_name(name, known)}")
    return known[name]
