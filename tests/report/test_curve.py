"""Rate-error curves."""

import pytest
import torch

from metaq import coding
from metaq.errors import InputError
from metaq.metrics import entropy_bits
from metaq.report.curve import QUANTIZERS, by_nearest, curve, size_rows, step_of_entropy, write_plot


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    state = {"weight": torch.randn(60, 50, generator=generator), "bias": torch.randn(60, generator=generator)}
    steps = []
    found = curve(state, (2.0, 3.0), lambda done, total: steps.append((done, total)))
    assert steps == [(done, 2 * len(QUANTIZERS)) for done in range(1, 2 * len(QUANTIZERS) + 1)]
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


@pytest.mark.parametrize("bits", [0.5, 2.0, 6.0])
def test_the_aim_is_met_from_below(bits):
    weights = torch.randn(300, 200, generator=torch.Generator().manual_seed(2))
    entropies = []
    for scale in (1.0, 0.99):
        model = by_nearest({"w": weights * (1 / scale)}, bits)  # on the step of scaled weights: 1 % finer or as it is
        entropies.append(entropy_bits(model.tensors["w"].symbols) / weights.numel())
    assert all(0.99 * bits < entropy <= bits for entropy in entropies)


@pytest.mark.parametrize(("weights", "bits"), [(torch.ones(2, 2), 0.0), (torch.full((2, 2), torch.nan), 2.0)])
def test_no_step(weights, bits):
    with pytest.raises(InputError, match="expected"):
        step_of_entropy([weights], bits)


def test_zeros_have_a_step():
    assert step_of_entropy([torch.zeros(2, 2)], 2.0) == 1.0
