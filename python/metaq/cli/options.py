"""Values of command line options that are more than a number or a word."""

from __future__ import annotations

import re
from collections.abc import Sequence

from metaq.errors import InputError

_UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_size(text: str) -> int:
    """Bytes: "4MB", "0.5 MiB", "20000". Units of 1000 are kB, MB and GB, those of 1024 KiB, MiB and GiB.

    Raises:
        InputError: it is none.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([A-Za-z]*)", text.strip())
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    if found is None or found[2].lower() not in units:
        raise InputError(f"size: expected a number and a unit such as kB, MB, MiB or none, found {text!r}")
    return int(float(found[1]) * units[found[2].lower()])


def parse_bits(texts: Sequence[str]) -> dict[str, float]:
    """Bits by pattern, of texts PATTERN:bits=N; N counts from the last colon.

    Raises:
        InputError: a text of another form.
    """
    bits = {}
    for text in texts:
        pattern, _, entry = text.rpartition(":")
        key, _, value = entry.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = None
        if not pattern or key != "bits" or number is None:
            raise InputError(f"--set: expected PATTERN:bits=NUMBER, found {text!r}")
        bits[pattern] = number
    return bits
