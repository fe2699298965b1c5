"""Coders by name and by their byte in the file."""

import pytest

from metaq.coding import by_identifier, by_name, coders
from metaq.errors import FormatError, InputError


def test_names_and_identifiers_are_the_formats():
    identifiers = {name: coder.identifier for name, coder in coders.items()}
    assert identifiers == {
        "stored": 0,
        "huffman": 1,
        "range": 2,
        "mixing": 3,
        "gzip": 4,
        "zstd": 5,
        "lzma": 6,
        "rans": 7,
        "adaptive": 8,
    }


def test_found_by_either():
    for name, coder in coders.items():
        assert by_name(name) is coder
        assert by_identifier(coder.identifier) is coder


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'huffman'"):
        by_name("hufman")


def test_an_unknown_identifier_is_a_bad_file():
    with pytest.raises(FormatError, match="found 200"):
        by_identifier(200)
