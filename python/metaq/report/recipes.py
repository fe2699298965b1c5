"""The recipes that come with the package, as a table; read as plain TOML, which takes no torch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

Row = dict[str, str]


def recipe_rows() -> list[Row]:
    """Of each recipe its name, network, data, method, and the first line of its file, which says what it is for."""
    folder = resources.files("metaq.experiments") / "recipes"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return [_row(file.name.removesuffix(".toml"), file.read_text(encoding="utf-8")) for file in files]


def method_names(tree: Mapping[str, Any]) -> str:
    """The method of a recipe's tree, and what prunes beside it."""
    return " + ".join(tree[section]["name"] for section in ("method", "pruning") if section in tree)


def _row(name: str, text: str) -> Row:
    tree = tomllib.loads(text)
    return {
        "recipe": name,
        "network": tree["network"]["name"],
        "data": tree["data"]["name"],
        "method": method_names(tree),
        "description": _first_sentence(text),
    }


def _first_sentence(text: str) -> str:
    """The comment that a recipe begins with, up to its first full stop at the end of a sentence."""
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    sentence, _, _ = " ".join(comment).partition(". ")
    return sentence.removesuffix(".") + "."
