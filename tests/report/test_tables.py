"""Tables that people can read, wherever they are printed."""

import io
import json
import re
import sys

import pytest

from metaq.report.tables import print_result, show, show_entries, text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (1234.5, "1,234"),
        ([3, 4], "3x4"),
        ([], "scalar"),
        ("name", "name"),
        (True, "True"),
        (None, "none"),
        ("a\x1b[31m\nb", "a\\x1b[31m\\nb"),
    ],
)
def test_text(value, expected):
    assert text(value) == expected


def test_show_prints_every_cell(capsys):
    show([{"name": "a", "bytes": 1}, {"name": "b", "note": "x"}], title="sizes")
    show_entries({"file_bytes": 12345})
    printed = capsys.readouterr().out
    for piece in ("sizes", "name", "bytes", "note", "a", "b", "x", "file bytes", "12,345"):
        assert piece in printed


class Terminal(io.StringIO):
    def isatty(self):
        return True


ROWS = [
    {
        "tensor": f"model.layers.{layer}.self_attention.query_projection.weight",
        "dtype": "bfloat16",
        "shape": [4096, 14336],
        "kind": "coded",
        "levels": 19,
        "zeros": 12_345_678,
        "zero_order_bits_per_weight": 2.99123,
        "bits_per_weight": 2.98765,
        "bytes": 22_222_222,
    }
    for layer in range(12)
]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160])
def test_a_table_fits_the_terminal(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", Terminal())
    show(ROWS)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", sys.stdout.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    joined = " ".join(" ".join(lines).split())
    assert joined.count("22,222,222") == len(ROWS)  # no number is folded, and the most important one is always there
    assert "…" not in joined
    assert ("This terminal has no room for these columns: dtype" in joined) == (width <= 100)
    missing = joined.partition("This terminal has no room for these columns:")[2]
    for heading, value in {"dtype": "bfloat16", "levels": "19", "zeros": "12,345,678", "shape": "4096x14336"}.items():
        assert (value in joined) == (heading not in missing)


def test_where_there_is_no_terminal_each_row_is_a_line(capsys):
    show(ROWS)
    lines = capsys.readouterr().out.splitlines()
    for row in ROWS:
        line = next(line for line in lines if row["tensor"] in line)
        for piece in ("bfloat16", "4096x14336", "12,345,678", "2.991", "2.988", "22,222,222"):
            assert piece in line


def test_print_result(capsys):
    print_result({"file_bytes": 12345}, as_json=False)
    assert capsys.readouterr().out.split() == ["file", "bytes", "12,345"]
    print_result({"file_bytes": 12345}, as_json=True, quiet=True)
    assert json.loads(capsys.readouterr().out) == {"file_bytes": 12345}
    print_result({"file_bytes": 12345}, as_json=False, quiet=True)
    assert capsys.readouterr().out == ""
