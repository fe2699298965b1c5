"""Watching a model changes neither what it computes nor the model."""

import pytest
import torch
from torch import nn

from metaq.errors import InputError
from metaq.quantizers.layers import Weights
from metaq.quantizers.observation import Observation, batch_bytes, run, sample_count, still


class Config:
    use_cache = True
    _experts_implementation = "batched_mm"


def test_results_are_the_same_bit_for_bit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(40, 3)).eval()
    batch, names = torch.randn(2, 5, 8), []

    def listen(factor, operation, output):
        names.append(factor.view.name)
        return output

    with still(model), torch.no_grad():
        expected = model(batch)
        with Observation(Weights(model.named_parameters()), listen):
            assert torch.equal(model(batch), expected)
    parts = ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight")
    assert names == [*(f"0.{part}" for part in parts), "2.weight"]


def test_settings_come_back_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2).eval())
    model.config = Config()
    stilled = still(model)
    stilled.__enter__()
    assert not model.training
    assert not torch.backends.mha.get_fastpath_enabled()
    assert (model.config.use_cache, model.config._experts_implementation) == (False, "eager")
    assert not stilled.__exit__(KeyError, KeyError(), None)
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.backends.mha.get_fastpath_enabled()
    assert (model.config.use_cache, model.config._experts_implementation) == (True, "batched_mm")


def test_kinds_of_batches():
    model, inputs = nn.Linear(3, 2), torch.ones(4, 3)
    expected = model(inputs)
    for batch in (inputs, (inputs, "label"), [inputs], {"input": inputs}):
        assert torch.equal(run(model, batch, 0), expected)
        assert sample_count(batch) == 4
        assert batch_bytes(batch) == 48
    with pytest.raises(InputError, match=r"^batch 7: expected one that the model takes, found TypeError: "):
        run(model, {"other": inputs}, 7)
