"""Tables: rows that add up, and text that people can read."""

import pytest
import torch

import metaq
from metaq.compressed_model import encode, read_model
from metaq.format.reader import Reader
from metaq.report.tables import coder_rows, show, show_entries, tensor_rows, text


@pytest.fixture
def model():
    weight = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    return metaq.compress({"a.weight": weight, "a.bias": weight[0].clone(), "tied": weight}, bits=3)


def test_tensor_rows_share_out_all_payload_bytes(model):
    reader = Reader(encode(model))
    rows = tensor_rows(reader, read_model(reader))
    assert [row["kind"] for row in rows] == ["coded", "kept", "alias of a.weight"]
    assert sum(row["bytes"] for row in rows) == pytest.approx(
        sum(c.payload_bytes for c in reader.header.chunks), abs=0.5
    )
    assert rows[0]["zero_order_bits_per_weight"] == pytest.approx(3, abs=0.05)
    assert rows[0]["levels"] > 8


def test_coder_rows_are_whole_files(model):
    rows = {row["coder"]: row["bytes"] for row in coder_rows(model)}
    assert rows["mixing"] == len(encode(model, "mixing"))
    assert {"stored", "huffman", "range", "mixing", "gzip", "zstd", "lzma"} < set(rows)


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
