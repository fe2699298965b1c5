"""The baselines of `benchmarks/post_training.py` do what their papers say, and the benchmark runs and goes on."""

import importlib
import json
import math
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def baselines(module):
    return module("post_training_baselines")


@pytest.fixture
def layer(baselines):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(64, 192, generator=generator)
    inputs = torch.randn(4000, 192, generator=generator) @ torch.randn(192, 192, generator=generator)
    return baselines.Layer(matrix[None], (inputs.T @ inputs / 4000)[None])


def error_of(layer, found):
    errors = (found.values - layer.matrices)[0].double()
    return float((errors @ layer.moments[0].double() * errors).sum())


def test_entropy_of_symbols(baselines):
    assert baselines.entropy_bits(torch.tensor([-1, -1, 0, 1])) == pytest.approx(6)


def test_nearest_levels(baselines):
    weights = torch.tensor([[[-1.0, 0.0, 0.4, 2.0]]])
    (found,) = baselines.nearest_by_tensor([baselines.Layer(weights, None)], 2)
    assert found.values.tolist() == [[[-1, 0, 0, 2]]]
    assert found.bits == 4 * 2 + 16 + 2


def test_groups_have_scales_of_their_own(baselines):
    weights = torch.cat([torch.ones(1, 2, 128), torch.full((1, 2, 10), 1e-3)], dim=2)
    (found,) = baselines.nearest_by_groups([baselines.Layer(weights, None)], 2)
    assert torch.allclose(found.values, weights, rtol=1e-3)
    assert found.bits == 2 * weights.numel() + 4 * (16 + 2)


def test_gptq_makes_up_for_errors(baselines, layer):
    (nearest,), (fed_back,) = baselines.nearest_by_groups([layer], 3), baselines.gptq([layer], 3)
    assert nearest.bits == fed_back.bits
    assert error_of(layer, fed_back) < 0.7 * error_of(layer, nearest)


def test_feedback_is_the_best_that_the_columns_behind_can_do(baselines, layer):
    """With the first column rounded to zero and none of the others, what is left is the least squared error."""
    factor = baselines.feedback_factor(layer.moments)

    def rounder_of(at, _):
        return lambda j, column: torch.zeros_like(column) if at.start + j == 0 else column

    found = baselines.feed_back(layer.matrices, factor, rounder_of)
    damping = 0.01 * layer.moments[0].diagonal().mean() * torch.eye(192)
    moments = (layer.moments[0] + damping).double()
    moved = torch.linalg.solve(moments[1:, 1:], moments[1:, :1] * layer.matrices[0, :, 0].double())
    assert torch.allclose((found - layer.matrices)[0, :, 1:].double(), moved.T, atol=1e-3)


@pytest.mark.parametrize("name", ["scalar", "l1-scales", "watersic"])
def test_budgets_are_met_from_below(baselines, layer, name):
    layers = [layer, baselines.Layer(0.1 * layer.matrices, None)]
    budget = 3.0 * 2 * layer.matrices.numel()
    found = baselines.WITHIN_BUDGET[name](layers, budget)
    assert 0.97 * budget < sum(one.bits for one in found) <= budget


def test_waterfilling_beats_equal_steps(baselines, layer):
    budget = 3.0 * layer.matrices.numel()
    (plain,), (filled,) = baselines.scalar([layer], budget), baselines.watersic([layer], budget)
    assert error_of(layer, filled) < error_of(layer, plain)


def test_the_bound_of_equal_components(module):
    bound = module("post_training_bound")
    variances = torch.ones(100, dtype=torch.float64)
    assert bound.bound_bits(variances, 100 / 16) == pytest.approx(2)


def test_the_bound_leaves_out_what_is_below_the_water(module):
    bound = module("post_training_bound")
    variances = torch.tensor([4.0, 0.1], dtype=torch.float64)
    assert bound.bound_bits(variances, 1.1) == pytest.approx(0.5 * math.log2(4) / 2)


def test_quantizers_stay_above_the_bound(module, layer):
    bound = module("post_training_bound")
    metric = bound.damped(layer.moments[0])
    variances = bound.component_variances(layer.matrices[0], metric)
    for quantize, most in ((bound.ours, 0.3), (bound.scalar_feedback, 0.4)):
        values, bits = quantize(layer)
        error = bound.error(layer.matrices[0] - values[0], metric)
        assert 0 < bits - bound.bound_bits(variances, error) < most


@pytest.mark.slow
def test_parts_count_alike(module):
    parts = [
        {"bytes": 10, "accuracy": 0.5, "is_file": True},
        {"bytes": 13, "accuracy": 1.0, "is_file": False},
    ]
    mean_row = module("post_training").mean_row
    assert mean_row(parts) == {"bytes": 12, "accuracy": 0.75, "is_file": False, "parts": parts}
    assert mean_row(parts[:1]) == parts[0]


def test_a_run_and_one_that_goes_on(module, tmp_path):
    post_training = module("post_training")
    output, plot = tmp_path / "found.json", tmp_path / "found.svg"
    sizes = [
        "--calibration",
        "64",
        "--measured",
        "64",
        "--output",
        str(output),
        "--calibrations",
        str(tmp_path / "kept"),
    ]
    methods = ["metaq-no-data", "gptq", "scalar"]
    post_training.main(["--methods", *methods[:2], "--rates", "3", *sizes])
    first = json.loads(output.read_text())["rows"]
    post_training.main(["--methods", *methods, "--rates", "3", "4", "--plot", str(plot), *sizes])
    rows = json.loads(output.read_text())["rows"]
    assert rows[:2] == first
    assert sorted(path.suffix for path in (tmp_path / "kept").iterdir()) == [".safetensors", ".seconds"]
    assert str(tmp_path) not in json.loads(output.read_text())["command"].replace(str(output), "").replace(
        str(plot), ""
    )
    assert len(rows) == 6
    assert plot.exists()
    for row in rows:
        assert row["is_file"] == (row["method"] == "metaq-no-data")
        assert row["is_file"] <= (row["bits_per_parameter"] <= row["setting"])
