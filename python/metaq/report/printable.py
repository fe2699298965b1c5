"""Texts from files, names and errors as a terminal may be shown them."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text without characters that steer a terminal, or that hide or reorder others: those become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """The same of a text of several lines, all in one."""
    return printable(" ".join(text.split()))
