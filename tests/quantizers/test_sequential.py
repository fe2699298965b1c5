"""Quantization stage by stage, against runs of the whole model and against definitions."""

import copy

import pytest
import torch
from torch import nn

from metaq.errors import InputError
from metaq.progress import Progress
from metaq.quantizers.calibration import calibrate
from metaq.quantizers.observation import still
from metaq.quantizers.replay import Memory, memory_of
from metaq.quantizers.sequential import SequentialOptions, Within, quantize_sequentially
from metaq.quantizers.stages import trace

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
DECODER = SIZES | {"vocab_size": 50, "num_key_value_heads": 1, "max_position_embeddings": 32}
TOKENS = torch.randint(0, 50, (6, 7), generator=torch.Generator().manual_seed(0)).split(2)
MASK = torch.ones(2, 7, dtype=torch.long)
MASK[1, 5:] = 0


def texts(_):
    return [{"input_ids": part, "attention_mask": MASK} for part in TOKENS]


class Block(nn.Module):
    def __init__(self, width, groups=1):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding="same", groups=groups)
        self.norm, self.second = nn.BatchNorm2d(width), nn.Conv2d(width, width, 1)

    def forward(self, inputs):
        return torch.relu_(self.second(torch.relu_(self.norm(self.first(inputs)))) + inputs)


def convolutions():
    stem, end = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True)), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    return nn.Sequential(stem, nn.Sequential(Block(4), Block(4, 2)), nn.MaxPool2d(2), Block(4, 4), end)


class Skips(nn.Module):
    """Blocks of which a later one gets what an earlier one gave."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(3))
        self.last = nn.Linear(12, 2)

    def forward(self, inputs):
        first = self.blocks[0](inputs)
        third = self.blocks[2](self.blocks[1](first) + first)
        return self.last(torch.cat([first, third], 1))


class Repeats(nn.Module):
    """A block that runs twice."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(2))

    def forward(self, inputs):
        return self.blocks[1](self.blocks[0](self.blocks[1](inputs)))


def images(generator):
    return list(torch.randn(6, 2, 10, 10, generator=generator).split(2))


def vectors(generator):
    return list(torch.randn(12, 6, generator=generator).split(4))


def perceptron():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def from_config(name, config, **options):
    return lambda: getattr(transformers, name)(getattr(transformers, config)(**options))


GPT2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2}
T5 = {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 50}


def pairs(_):
    return [{"input_ids": part, "decoder_input_ids": part[:, :4]} for part in TOKENS]


MODELS = {
    "perceptron": (perceptron, vectors, Memory.LAST),
    "convolutions": (convolutions, images, Memory.ALL),
    "skips": (Skips, vectors, Memory.ALL),
    "repeats": (Repeats, vectors, Memory.NOTHING),
    "bert": (from_config("BertModel", "BertConfig", **SIZES, vocab_size=50), texts, Memory.LAST),
    "llama": (from_config("LlamaForCausalLM", "LlamaConfig", **DECODER), texts, Memory.LAST),
    "gemma": (
        from_config("Gemma3ForCausalLM", "Gemma3TextConfig", **DECODER, head_dim=8, sliding_window=4),
        texts,
        Memory.LAST,
    ),
    "gpt2": (
        from_config("GPT2LMHeadModel", "GPT2Config", vocab_size=50, n_embd=16, n_layer=2, n_head=2),
        texts,
        Memory.LAST,
    ),
    "mixtral": (from_config("MixtralForCausalLM", "MixtralConfig", **DECODER, num_local_experts=4), texts, Memory.LAST),
    "t5": (from_config("T5ForConditionalGeneration", "T5Config", **T5), pairs, Memory.ALL),
}


def made(name):
    torch.manual_seed(0)
    make, batches, _ = MODELS[name]
    return make().eval(), batches(torch.Generator().manual_seed(1))


def coarse(seen):
    """Quantizes to multiples of a twentieth of the largest weight, and notes what it is given."""

    def quantize(name, view, matrices, moments):
        assert matrices.shape == (view.groups, view.rows, view.columns)
        seen[name] = moments
        step = matrices.abs().max() / 20
        return (matrices / step).round() * step

    return quantize


def quantized(name, **options):
    model, batches = made(name)
    seen = {}
    quantize_sequentially(model, batches, coarse(seen), options=SequentialOptions(**options))
    return model, seen


def assert_same_moments(found, expected):
    assert list(found) == list(expected)
    for name, moments in found.items():
        for kind in ("inputs", "cross", "positions", "counts"):
            one, other = getattr(moments, kind), getattr(expected[name], kind)
            assert (one is None) == (other is None), (name, kind)
            if one is not None:
                assert torch.equal(one, other), (name, kind)


@pytest.mark.parametrize("name", MODELS)
def test_as_much_is_stored_as_needed(name):
    model, batches = made(name)
    with still(model), torch.no_grad():
        assert memory_of(model, batches[0], trace(model, batches[0], keeps=True)) is MODELS[name][2]


@pytest.mark.parametrize("within", Within)
@pytest.mark.parametrize("name", MODELS)
def test_stages_are_as_runs_of_the_whole_model(name, within):
    model, seen = quantized(name, within=within, cross=True)
    other, expected = quantized(name, within=within, cross=True, memory=Memory.NOTHING)
    assert_same_moments(seen, expected)
    state = other.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    original = made(name)[0].state_dict()
    assert sum(not torch.equal(tensor, original[key]) for key, tensor in state.items()) >= len(seen)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("repeats", "mixtral")])
def test_layer_by_layer_inputs_are_those_of_the_quantized_model(name):
    """By definition: the inputs of a layer depend on what runs before it, which is quantized when its turn comes."""
    model, seen = quantized(name, within=Within.LAYER)
    expected = calibrate(model, made(name)[1], gradients=False)
    for key, moments in seen.items():
        if key in expected.counts:
            assert torch.equal(moments.counts, expected.counts[key])
        elif key in expected.inputs:
            torch.testing.assert_close(moments.inputs, expected.inputs[key], msg=key)


def inputs_of_layers(model, batches):
    """For each Linear, its inputs for all batches, as rows, without padding."""
    found = {}

    def tokens(inputs):
        return inputs[MASK.bool()] if inputs.shape[:2] == MASK.shape else inputs

    hooks = [
        module.register_forward_hook(
            lambda _, arguments, output, name=name: found.setdefault(f"{name}.weight", []).append(tokens(arguments[0]))
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        for batch in batches:
            model(**batch) if isinstance(batch, dict) else model(batch)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


@pytest.mark.parametrize("name", ["perceptron", "skips", "bert", "llama"])
def test_cross_moments_are_those_of_the_definition(name):
    model, seen = quantized(name, within=Within.LAYER, cross=True)
    original, batches = made(name)
    before, after = inputs_of_layers(original, batches), inputs_of_layers(model, batches)
    samples = 12 if name in ("perceptron", "skips") else 6
    for key, x in after.items():
        expected = (before[key] - x).T @ x / samples
        torch.testing.assert_close(
            seen[key].cross[0], expected, rtol=1e-3, atol=1e-5 * float(x.square().sum() / samples)
        )
        assert float(expected.abs().max()) > 0 or key in ("0.weight", "blocks.0.0.weight")


def test_blocks_see_their_stage_as_it_was():
    model, seen = quantized("llama", cross=True)
    original, batches = made("llama")
    mixed = copy.deepcopy(original)
    mixed.model.embed_tokens.load_state_dict(model.model.embed_tokens.state_dict())
    mixed.model.layers[0].load_state_dict(model.model.layers[0].state_dict())
    expected = calibrate(mixed, batches, gradients=False).inputs
    for part in ("self_attn.q_proj", "mlp.down_proj"):
        torch.testing.assert_close(
            seen[f"model.layers.1.{part}.weight"].inputs, expected[f"model.layers.1.{part}.weight"]
        )
    assert seen["model.layers.1.self_attn.q_proj.weight"].cross.abs().max() > 0


def test_experts_have_no_cross_moments():
    _, seen = quantized("mixtral", cross=True)
    assert seen["model.layers.1.mlp.experts.down_proj"].cross is None
    assert seen["model.layers.1.self_attn.o_proj.weight"].cross is not None


@pytest.mark.parametrize("within", Within)
def test_weights_that_the_first_batch_does_not_use(within):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.positive, self.others = nn.Linear(2, 2), nn.Linear(2, 2)
            self.never = nn.Linear(2, 2)

        def forward(self, inputs):
            return inputs + (self.positive if inputs.sum() > 0 else self.others)(inputs)

    seen = {}
    batches = [torch.ones(3, 2) * 100, -torch.ones(3, 2) * 100]
    options = SequentialOptions(cross=True, within=within)
    quantize_sequentially(nn.Sequential(Block(), Block()), batches, coarse(seen), options=options)
    assert list(seen) == [f"{block}.{part}.weight" for block in range(2) for part in ("positive", "others")]
    torch.testing.assert_close(seen["0.others.weight"].inputs, torch.full((1, 2, 2), 5000.0))


def test_tied_weights_are_quantized_once_by_what_they_see_in_the_original():
    _, seen = quantized("gpt2")
    original, batches = made("gpt2")
    expected = calibrate(original, batches, gradients=False)
    tied = "transformer.wte.weight"
    torch.testing.assert_close(seen[tied].inputs, expected.inputs[tied])
    assert torch.equal(seen[tied].counts, expected.counts[tied])
    assert next(iter(seen)) == tied


def test_progress_and_what_is_missing(caplog):
    class Shown(Progress):
        total_bytes = done_bytes = 0

        def begin(self, what, total_bytes=None):
            self.total_bytes = total_bytes

        def advance(self, read_bytes, written_bytes):
            self.done_bytes += read_bytes

    model, progress = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 2)), Shown()
    quantize_sequentially(model, [torch.ones(1, 6)], lambda *_: None, progress=progress)
    assert progress.done_bytes == progress.total_bytes == 4 * (18 + 6)
    assert not caplog.records
    model.spare = nn.Identity()
    model.spare.weight = nn.Parameter(torch.ones(2, 2))
    quantize_sequentially(model, [torch.ones(1, 6)], lambda *_: None)
    assert [record.getMessage() for record in caplog.records] == [
        "quantize_sequentially: expected every weight to multiply inputs, found none for spare.weight"
    ]


def test_a_quantizer_may_leave_weights():
    model, batches = made("llama")
    before = copy.deepcopy(model.state_dict())
    quantize_sequentially(model, batches, lambda *_: None, options=SequentialOptions(cross=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["convolutions", "llama"])
def test_the_model_is_left_in_order(name):
    model, batches = made(name)
    model.train()
    quantize_sequentially(model, batches, coarse({}), options=SequentialOptions(cross=True))
    assert model.training
    assert all("forward" not in vars(module) for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert getattr(getattr(model, "config", None), "use_cache", True)


@pytest.mark.parametrize(
    ("batches", "quantize", "message"),
    [
        ([], coarse({}), "at least one batch"),
        (torch.zeros(2, 6), coarse({}), "expected several"),
        ([torch.zeros(2, 6), torch.zeros(2, 5)], coarse({}), "batch 1: expected one that the model takes"),
        ([torch.zeros(2, 6), torch.full((2, 6), torch.nan)], coarse({}), "batch 1: 0.weight: expected finite inputs"),
        (
            [torch.zeros(2, 6)],
            lambda name, view, matrices, moments: matrices / 0,
            "0.weight: expected finite quantized",
        ),
        (
            [torch.zeros(2, 6)],
            lambda name, view, matrices, moments: matrices[0],
            "0.weight: expected matrices of shape",
        ),
    ],
)
def test_what_it_refuses(batches, quantize, message):
    model = perceptron()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=message) as found:
        quantize_sequentially(model, batches, quantize)
    assert "\n" not in str(found.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all("forward" not in vars(module) for module in model.modules())
