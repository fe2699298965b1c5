"""Moments of whatever multiplies, against loops over their definition; networks of other libraries."""

import itertools
import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from metaq.errors import InputError
from metaq.quantizers.calibration import calibrate
from metaq.quantizers.gradients import Loss

transformers = pytest.importorskip("transformers")


def patches_by_loops(padded, module):
    """Of shape (groups, samples * positions, channels of a group * positions in the kernel)."""
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    spans = [gap * (size - 1) + 1 for size, gap in zip(kernel, dilation, strict=True)]
    counts = [(n - span) // step + 1 for n, span, step in zip(padded.shape[2:], spans, stride, strict=True)]
    width = padded.shape[1] // module.groups
    found = []
    for group in range(module.groups):
        rows = []
        for sample in padded[:, group * width : (group + 1) * width]:
            for place in itertools.product(*map(range, counts)):
                window = [
                    slice(at * step, at * step + span, gap)
                    for at, step, span, gap in zip(place, stride, spans, dilation, strict=True)
                ]
                rows.append(sample[(slice(None), *window)].flatten())
        found.append(torch.stack(rows))
    return torch.stack(found)


@pytest.mark.parametrize(
    ("module", "size"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (9,)),
        (nn.Conv1d(2, 2, 2, padding="valid", dilation=3), (9,)),
        (nn.Conv2d(4, 4, 3, groups=4, padding=(0, 1)), (5, 4)),
        (nn.Conv2d(2, 3, (3, 4), padding="same", dilation=(1, 2)), (6, 7)),
        (nn.Conv2d(2, 3, 4, padding="same", padding_mode="reflect"), (6, 7)),
        (nn.Conv2d(2, 4, 3, padding=2, padding_mode="circular", groups=2, stride=(2, 1)), (5, 5)),
        (nn.Conv3d(2, 4, (1, 2, 3), padding=1, groups=2, stride=2), (4, 5, 6)),
    ],
)
def test_convolutions(module, size):
    torch.manual_seed(0)
    inputs = torch.randn(3, module.in_channels, *size)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    if isinstance(module.padding, str):
        spans = [gap * (k - 1) for gap, k in zip(module.dilation, module.kernel_size, strict=True)]
        pairs = [(span // 2, span - span // 2) if module.padding == "same" else (0, 0) for span in spans]
    else:
        pairs = [(width, width) for width in module.padding]
    padded = functional.pad(inputs, [end for pair in reversed(pairs) for end in pair], mode=mode)
    patches = patches_by_loops(padded, module)
    found = calibrate(nn.Sequential(module, nn.Flatten()), [inputs[:1], inputs[1:]], gradients=False)
    torch.testing.assert_close(found.inputs["0.weight"], patches.transpose(1, 2) @ patches / 3)
    assert found.positions["0.weight"].tolist() == [patches.shape[1]] * module.groups
    matrices = found.views["0.weight"].matrices(module.weight)
    outputs = (patches @ matrices.transpose(1, 2)).permute(0, 2, 1).flatten(0, 1) + module.bias[:, None]
    torch.testing.assert_close(outputs, module(inputs).flatten(2).permute(1, 0, 2).flatten(1))


def test_gradients_of_filters_against_autograd():
    torch.manual_seed(0)
    module, inputs = nn.Conv2d(2, 4, 3, groups=2), torch.randn(900, 2, 5, 5)
    # Four dimensions: of the outputs, whose gradients are signs.
    found = calibrate(nn.Sequential(module), inputs.split(3))
    torch.testing.assert_close(found.rows["0.weight"], torch.ones(4), rtol=0.15, atol=0)


def test_gradients_at_the_positions_of_a_sample_belong_together():
    """Where a network adds up its positions, as here, the square of the sum is larger than the sum of squares."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    inputs = 1 + 0.1 * torch.randn(400, 1, 4, 4)  # nearly the same everywhere: all positions count as one
    found = calibrate(model, inputs.split(2), loss=Loss.OUTPUT)
    torch.testing.assert_close(found.rows["0.weight"], torch.full((3,), 1 / 16), rtol=0.2, atol=0)


class Attention(nn.Module):
    def __init__(self, others, **options):
        super().__init__()
        self.attention, self.others = nn.MultiheadAttention(8, 2, batch_first=True, **options), others

    def forward(self, inputs):
        key, value = self.others(inputs)
        return self.attention(inputs, key, value)[0]


@pytest.mark.parametrize("kind", ["same", "memory", "all"])
@pytest.mark.parametrize("gradients", [False, True])
def test_packed_projections(kind, gradients):
    torch.manual_seed(0)
    inputs, memory, third = torch.randn(2, 5, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    others = {"same": lambda x: (x, x), "memory": lambda _: (memory, memory), "all": lambda _: (memory, third)}[kind]
    found = calibrate(Attention(others), [inputs], gradients=gradients)
    used = (inputs, *others(inputs)) if kind != "same" else (inputs,)
    expected = torch.stack([part.flatten(0, 1).T @ part.flatten(0, 1) / 2 for part in used])
    torch.testing.assert_close(found.inputs["attention.in_proj_weight"], expected)
    assert found.views["attention.in_proj_weight"].groups == len(used)
    assert found.inputs["attention.out_proj.weight"].shape == (1, 8, 8)
    assert not found.missing


def test_projections_of_other_widths():
    found = calibrate(Attention(lambda x: (x[..., :6], x[..., :4]), kdim=6, vdim=4), [torch.randn(2, 5, 8)])
    widths = [found.views[f"attention.{part}_proj_weight"].columns for part in "qkv"]
    assert widths == [8, 6, 4]


def test_fused_encoders_are_seen():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = calibrate(nn.TransformerEncoder(layer, 2), [torch.randn(2, 5, 8)], gradients=False)
    assert len(found.inputs) == 8
    assert not found.missing


SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
DECODER = SIZES | {"vocab_size": 50, "num_key_value_heads": 1, "max_position_embeddings": 32}
TOKENS = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))


LLAMA4 = DECODER | {"num_local_experts": 2, "intermediate_size_mlp": 24, "head_dim": 8}


def made(name, **options):
    torch.manual_seed(0)
    family = re.sub("(LMHead)?(Model|ForCausalLM)$", "", name)
    config = getattr(transformers, {"Llama4": "Llama4TextConfig"}.get(family, f"{family}Config"))
    return getattr(transformers, name)(config(**options))


def test_bert():
    found = calibrate(made("BertModel", **SIZES, vocab_size=50), [{"input_ids": TOKENS}])
    assert not found.missing
    layer = "encoder.layer.1.attention.self."
    assert found.inputs[layer + "query.weight"] is found.inputs[layer + "value.weight"]
    assert float(found.rows[layer + "value.weight"].min()) > 0
    assert found.rows["pooler.dense.weight"].max() == 0


def test_gpt2_has_transposed_weights():
    found = calibrate(made("GPT2LMHeadModel", vocab_size=50, n_embd=16, n_layer=1, n_head=2), [{"input_ids": TOKENS}])
    view = found.views["transformer.h.0.attn.c_attn.weight"]
    assert (view.groups, view.rows, view.columns, view.is_transposed) == (1, 48, 16, True)
    tied = "transformer.wte.weight"
    assert found.inputs[tied].shape == (1, 16, 16)
    assert found.counts[tied].sum() == 14


def made_experts(name, implementation):
    model = made(name, **DECODER, num_local_experts=4)
    model.set_experts_implementation(implementation)
    return model


@pytest.mark.parametrize("name", ["MixtralForCausalLM", "GptOssForCausalLM"])
def test_experts(name):
    found, other = (
        calibrate(made_experts(name, implementation), [{"input_ids": TOKENS}] * 2, seed=1)
        for implementation in ("eager", "grouped_mm")
    )
    layer = "model.layers.1.mlp.experts."
    assert found.inputs[layer + "down_proj"].shape == (4, 24, 24)
    assert found.inputs[layer + "gate_up_proj"].shape == (4, 16, 16)
    assert found.positions[layer + "down_proj"].sum() == 2 * 14 * (2 if name.startswith("Mixtral") else 4)
    for kind in ("inputs", "rows", "positions"):
        for part in ("gate_up_proj", "down_proj"):
            torch.testing.assert_close(getattr(other, kind)[layer + part], getattr(found, kind)[layer + part])
    model = made_experts(name, "eager")
    model.set_experts_implementation("eager")
    seen = []
    model.model.layers[1].mlp.experts.register_forward_hook(lambda _, arguments, output: seen.append(arguments))
    model(TOKENS, use_cache=False)
    states, chosen, _ = seen[0]
    for expert in range(4):
        part = states[(chosen == expert).any(1)]
        torch.testing.assert_close(found.inputs[layer + "gate_up_proj"][expert], part.T @ part / 2)


def test_experts_that_are_copied_otherwise():
    model = made_experts("MixtralForCausalLM", "batched_mm")
    found = calibrate(model, [{"input_ids": TOKENS}])
    assert not found.missing
    assert model.config._experts_implementation == "batched_mm"


def test_experts_that_all_see_every_token():
    found = calibrate(made("Llama4ForCausalLM", **LLAMA4), [{"input_ids": TOKENS}])
    view = found.views["model.layers.1.feed_forward.experts.gate_up_proj"]
    assert (view.groups, view.rows, view.columns, view.is_transposed) == (2, 48, 16, True)
    assert found.positions[view.name].tolist() == [14, 14]
    assert not found.missing


def test_calls_in_unknown_forms_are_left_alone():
    class Model(nn.Linear):
        def forward(self, inputs):
            return torch.mm(inputs, mat2=self.weight.T)

    with pytest.raises(InputError, match="found none that does"):
        calibrate(Model(3, 2), [torch.ones(2, 3)])
