"""A file with what only a newer version has is refused by the name of that, by every reader."""

import re
from pathlib import Path

import malformed_files as malformed
import pytest
import reference_decoder as reference

from metaq.errors import FormatError
from metaq.format.reader import Reader

STATUS_TEXT = (Path(__file__).parents[2] / "src" / "metaq" / "format" / "status.hpp").read_text()
MESSAGES = dict(re.findall(r'STATUS\((\w+), "([^"]*)"\)', STATUS_TEXT))
TAIL = "; a newer metaq may read it"

# By status: a file, and what Python and the reference decoder find in it.
NEWER = {
    "wrong_version": (b"MTQ\2" + malformed.GOOD[4:], "version 2", "version 2"),
    "reserved_flags": (malformed.file(flags=b"\2"), "flags 0 or 1, found 2, for a table of priors", "flags 2"),
    "unknown_dtype": (malformed.file((malformed.tensor(dtype=b"\6"),)), "dtype, found 6 for tensor 'w'", "dtype 6"),
    "unknown_kind": (
        malformed.file((malformed.tensor(kind=b"\6"),)),
        "kind of 0 to 3, found 6 for tensor 'w'",
        "kind 6",
    ),
    "unknown_codebook": (
        malformed.file((malformed.tensor(rest=malformed.shape(2, 3) + b"\0\3"),)),
        "codebook kind 0, 1 or 2, found 3 for tensor 'w'",
        "codebook kind 3",
    ),
    "bad_layout": (malformed.scaled(bytes([8, 1])), "layout of 1 to 7, found 8 for tensor 'w'", "layout 8"),
    "unknown_coder": (
        malformed.file(chunks=((10, 0, malformed.PLAIN),)),
        "coder: expected an .*, found 10",
        "coder 10",
    ),
}


@pytest.mark.parametrize("status", NEWER)
def test_it_is_named(status):
    data, found, name = NEWER[status]
    with pytest.raises(FormatError, match=f"{found}; a newer metaq may (read|have) it$"):
        Reader(data)
    with pytest.raises(reference.MalformedError, match=f"{name}, of a newer"):
        reference.decode(data)
    assert malformed.first_error(data).status == status
    assert MESSAGES[status].endswith(TAIL)


def test_the_words_of_native_code_name_all_that_a_newer_version_may_have():
    assert {status for status, words in MESSAGES.items() if TAIL in words} == set(NEWER)
    assert "a table of priors" in MESSAGES["reserved_flags"]


def test_flags_and_kinds_that_are_not_of_a_feature():
    with pytest.raises(FormatError, match="found 128, for what this version does not know; a newer metaq may read it"):
        Reader(malformed.file(flags=b"\x80"))
    with pytest.raises(FormatError, match="a kind of 0 to 3, found 4 for tensor 'w'; a difference may have it"):
        Reader(malformed.file((malformed.changed(),)))
    with pytest.raises(FormatError, match="a kind of 0 to 5, found 6 for tensor 'w'; a newer metaq may read it"):
        Reader(malformed.difference((malformed.tensor(kind=b"\6"),), ()), takes_differences=True)
