"""Which blocks models have, and in what order their weights run."""

import pytest
import torch
from torch import nn

from metaq.errors import InputError
from metaq.experiments import models
from metaq.quantizers.stages import block_names, stages

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def test_layers_of_transformers():
    model = transformers.BertModel(transformers.BertConfig(**SIZES, vocab_size=50))
    found = stages(model, torch.zeros(2, 5, dtype=torch.long))
    assert [stage.block for stage in found] == [None, "encoder.layer.0", "encoder.layer.1", None]
    kinds = ("word", "token_type", "position")
    assert sorted(found[0].weights) == sorted(f"embeddings.{kind}_embeddings.weight" for kind in kinds)
    parts = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    expected = [f"encoder.layer.1.{part}.weight" for part in (*parts, "intermediate.dense", "output.dense")]
    assert list(found[2].weights) == expected
    assert found[3].weights == ("pooler.dense.weight",)


def test_blocks_of_a_resnet():
    model = models.by_name("resnet20")()
    found = stages(model, torch.zeros(1, 3, 32, 32))
    blocks = [stage.block for stage in found if stage.block]
    assert len(blocks) == 9
    names = [name for stage in found for name in stage.weights]
    assert len(names) == len(set(names)) == sum(parameter.ndim >= 2 for parameter in model.parameters())


class Level(nn.Module):
    """A block with a list of blocks; what runs of them depends on ``picks``."""

    def __init__(self, picks):
        super().__init__()
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.ReLU()) for _ in range(3))
        self.down, self.picks = nn.Linear(3, 3), picks

    def forward(self, inputs):
        if self.picks:
            return self.down(self.parts[0](inputs) + self.parts[2](inputs))
        for part in self.parts:
            inputs = part(inputs)
        return self.down(inputs)


def test_lists_within_blocks():
    def blocks(*picks):
        model = nn.Sequential(*(nn.Sequential(Level(pick), nn.ReLU()) for pick in picks))
        return block_names(model, torch.zeros(1, 3))

    assert blocks(False) == [f"0.0.parts.{part}" for part in range(3)]
    assert blocks(False, True) == [*(f"0.0.parts.{part}" for part in range(3)), "1.0"]
    assert blocks(True, True) == ["0.0", "1.0"]
    assert blocks(*[False] * 3) == ["0.0", "1.0", "2.0"]  # there are as many blocks as any has parts


def test_resolutions():
    options = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 3]}
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**options)).eval()
    expected = ["resnet.encoder.stages.0.layers.0", *(f"resnet.encoder.stages.1.layers.{part}" for part in range(3))]
    assert [stage.block for stage in stages(model, torch.zeros(1, 3, 32, 32)) if stage.block] == expected


def test_modules_with_weights_where_there_are_no_blocks():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert block_names(model, torch.zeros(1, 3)) == ["0", "2"]
    assert [stage.block for stage in stages(model, torch.zeros(1, 3))] == ["0", "2"]
    assert stages(nn.Linear(3, 2), torch.zeros(1, 3))[0].weights == ("weight",)


def test_what_runs_between_blocks_and_not_at_all():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.ReLU()) for _ in range(3))
            self.between = nn.Linear(3, 3)

        def forward(self, inputs):
            return self.blocks[0](self.between(self.blocks[1](inputs)))

    assert [(stage.block, stage.before, stage.weights) for stage in stages(Model(), torch.zeros(1, 3))] == [
        ("blocks.1", 0, ("blocks.1.0.weight",)),
        (None, 1, ("between.weight",)),
        ("blocks.0", 1, ("blocks.0.0.weight",)),
    ]


def test_models_without_products():
    with pytest.raises(InputError, match="found none that does"):
        stages(nn.ReLU(), torch.zeros(1, 3))
