"""Rate-error curves."""

import pytest
import torch

from metaq import coding
from metaq.errors import InputError
from metaq.report.curve import QUANTIZERS, curve, size_rows, write_plot


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    state = {"weight": torch.randn(60, 50, generator=generator), "bias": torch.randn(60, generator=generator)}
    steps = []
    found = curve(state, (2.0, 3.0), lambda: steps.append(None))
    assert len(steps) == 2 * len(QUANTIZERS)
    return found


def test_every_quantizer_rate_and_coder_has_a_row(rows):
    keys = {(row["quantizer"], row["aim"], row["coder"]) for row in rows}
    assert keys == {(q, aim, coder) for q in QUANTIZERS for aim in (2.0, 3.0) for coder in coding.coders}
    assert len(rows) == len(keys)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_more_bits_are_less_error(rows, quantizer):
    coarse, fine = (
        next(row for row in rows if (row["quantizer"], row["aim"], row["coder"]) == (quantizer, aim, "mixing"))
        for aim in (2.0, 3.0)
    )
    assert coarse["file_bytes"] < fine["file_bytes"]
    assert 0 < fine["relative_squared_error"] < coarse["relative_squared_error"] < 0.3
    assert fine["bits_per_weight"] == 8 * fine["file_bytes"] / 3060


def test_table_and_plot(rows, tmp_path):
    table = size_rows(rows)
    assert len(table) == 2 * len(QUANTIZERS)
    assert table[0]["mixing"] == next(row["file_bytes"] for row in rows if row["coder"] == "mixing")
    write_plot(rows, tmp_path / "a.svg")
    write_plot(rows, tmp_path / "b.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert "<svg" in drawn
    assert drawn == (tmp_path / "b.svg").read_text()


def test_nothing_to_quantize():
    with pytest.raises(InputError, match="expected a matrix or filter"):
        curve({"bias": torch.zeros(3)})
