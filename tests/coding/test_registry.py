"""Coders by name and by their byte in the file."""

import re
from pathlib import Path

import pytest

from metaq.coding import Speed, by_identifier, by_name, coders, suitable
from metaq.errors import FormatError, InputError

DECODER = Path(__file__).parents[2] / "src" / "metaq" / "format" / "chunk.hpp"


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


def test_what_is_said_of_a_coder_is_said():
    for name, coder in coders.items():
        assert coder.summary
        assert coder.speed in Speed
        assert all(other in coders for other in coder.plane_coders), name
        assert coder.plane_coders
        assert coder.chunk_symbols(1 << 40) <= 1 << 26  # docs/format.md: a chunk's most


def test_the_device_decoder_has_the_native_coders():
    enumerated = re.search(r"enum class CoderId[^{]*{([^}]*)}", DECODER.read_text())[1]
    identifiers = {name.strip(): int(number) for name, number in re.findall(r"(\w+) = (\d+)", enumerated)}
    assert identifiers == {name: coder.identifier for name, coder in coders.items()}
    unsupported = {name for name, coder in coders.items() if not coder.is_native}
    assert unsupported == {"gzip", "zstd", "lzma"}


@pytest.mark.parametrize(
    ("size_bytes", "lossless", "name"),
    [(0, False, "mixing"), ((1 << 22) - 1, True, "mixing"), (1 << 22, True, "rans"), (1 << 22, False, "adaptive")],
)
def test_the_coder_that_suits(size_bytes, lossless, name):
    assert suitable(size_bytes, lossless) == name


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
