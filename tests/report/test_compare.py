"""Two checkpoints side by side."""

import math

import pytest
import safetensors.torch
import torch

import metaq
from metaq.errors import InputError
from metaq.report.compare import compare, rate_distortion, read_checkpoint


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {"weight": torch.randn(60, 50, generator=generator), "bias": torch.randn(60, generator=generator)}


@pytest.fixture
def checkpoint(tmp_path):
    """A function from a state dict or a compressed model to what is read back from its file."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, dict):
            safetensors.torch.save_file(content, path)
        else:
            metaq.save(content, path)
        return read_checkpoint(path)

    return write


def test_a_checkpoint_is_like_itself(checkpoint, state):
    rows, summary = compare(checkpoint("a.safetensors", state), checkpoint("b.safetensors", state))
    assert [row["largest_difference"] for row in rows] == [0, 0]
    assert summary["relative_squared_error"] == summary["tensors_that_differ"] == 0
    assert summary["second_to_first"] == 1


def test_errors_and_sizes_are_what_they_are(checkpoint, state):
    model = metaq.compress(state, step=0.5)
    original, compressed = checkpoint("a.safetensors", state), checkpoint("b.mtq", model)
    rows, summary = compare(original, compressed)
    row = next(row for row in rows if row["tensor"] == "weight")
    missed = state["weight"].double() - model.decompress()["weight"].double()
    assert row["relative_squared_error"] == pytest.approx(float((missed**2).sum() / (state["weight"] ** 2).sum()))
    assert row["largest_difference"] == float(missed.abs().max())
    assert summary["relative_squared_error"] == row["relative_squared_error"]  # vectors are not in it
    assert summary["tensors_that_differ"] == 1
    assert row["first_bytes"] == 60 * 50 * 4
    assert sum(row["second_bytes"] for row in rows) < summary["second_bytes"] == compressed.path.stat().st_size


def test_what_cannot_be_compared_is_said(checkpoint, state):
    other = {"weight": state["weight"][:10].clone(), "bias": state["bias"].half(), "more": torch.zeros(2, 2)}
    rows, summary = compare(checkpoint("a.safetensors", state), checkpoint("b.safetensors", other))
    remarks = {row["tensor"]: row["remark"] for row in rows}
    assert remarks == {
        "weight": "of shape 10x50 in b.safetensors",
        "bias": "float32 against float16",
        "more": "only in b.safetensors",
    }
    assert summary["tensors_that_differ"] == 3


def test_nan_and_infinity_equal_themselves(checkpoint):
    odd = torch.tensor([[math.nan, math.inf, -math.inf, 1.0]])
    changed = torch.tensor([[math.nan, math.inf, 0.0, 1.0]])
    first = checkpoint("a.safetensors", {"w": odd})
    assert compare(first, checkpoint("b.safetensors", {"w": odd}))[1]["relative_squared_error"] == 0
    assert compare(first, checkpoint("c.safetensors", {"w": changed}))[0][0]["largest_difference"] == math.inf


def test_rate_and_distortion_of_a_halved_step_nearly_cancel(checkpoint):
    weights = torch.randn(400, 300, generator=torch.Generator().manual_seed(1))
    reference = checkpoint("a.safetensors", {"weight": weights})
    files = [checkpoint(f"{step}.mtq", metaq.compress(reference.tensors, step=step)) for step in (0.2, 0.1)]
    found = rate_distortion(*files, reference)
    assert found["second_bits_per_weight"] - found["first_bits_per_weight"] == pytest.approx(1, abs=0.02)
    assert found["first_error"] / found["second_error"] == pytest.approx(4, rel=0.02)
    assert abs(found["second_more_bits_per_weight_at_equal_error"]) < 0.02


def test_rate_and_distortion_need_the_reference(checkpoint, state):
    original = checkpoint("a.safetensors", state)
    with pytest.raises(InputError, match="found one that is exact"):
        rate_distortion(original, original, original)
    other = checkpoint("b.safetensors", {"weight": torch.zeros(2, 2)})
    with pytest.raises(InputError, match="expected tensor 'weight'"):
        rate_distortion(other, other, original)
