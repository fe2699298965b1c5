"""Padding does not count: what is found with it is what is found without it."""

import pytest
import torch
from torch import nn

from metaq.errors import InputError
from metaq.quantizers.calibration import calibrate
from metaq.quantizers.gradients import Loss
from metaq.quantizers.padding import at_tokens, token_mask
from metaq.quantizers.refitting import References
from metaq.quantizers.sequential import quantize_sequentially

LENGTHS = (3, 8, 5)
TOKENS = torch.randint(1, 20, (3, 8), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(8) < torch.tensor(LENGTHS)[:, None]).long()
PADDED = {"input_ids": TOKENS * MASK, "attention_mask": MASK}
ALONE = [{"input_ids": TOKENS[i : i + 1, :length]} for i, length in enumerate(LENGTHS)]


class Layers(nn.Module):
    """A layer for each order of inputs: positions apart, positions as one, and several matrices for each position."""

    def __init__(self):
        super().__init__()
        self.table, self.apart = nn.Embedding(20, 6), nn.Linear(6, 6)
        self.as_one, self.several = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(2, 5, 4))

    def forward(self, input_ids, attention_mask=None):
        hidden = torch.relu(self.apart(self.table(input_ids))).flatten(0, 1)
        hidden = torch.relu(torch.addmm(torch.ones(5), hidden, self.as_one))
        return torch.bmm(hidden.expand(2, -1, -1), self.several).sum(0).reshape(*input_ids.shape, 4)


def transformer(name, config, **sizes):
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, name)(getattr(transformers, config)(vocab_size=20, **sizes))


SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
MODELS = {
    "layers": Layers,
    "bert": lambda: transformer("BertForMaskedLM", "BertConfig", **SIZES),
    "llama": lambda: transformer("LlamaForCausalLM", "LlamaConfig", **SIZES),
    "gpt2": lambda: transformer("GPT2LMHeadModel", "GPT2Config", n_embd=16, n_layer=1, n_head=2),
}
OF_PLACES = ("bert.embeddings.position_embeddings.weight", "transformer.wpe.weight")  # once for all samples


@pytest.mark.parametrize("name", MODELS)
def test_moments_and_counts_are_those_of_samples_alone(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    found, expected = (calibrate(model, batches, gradients=False) for batches in ([PADDED], ALONE))
    assert list(found.inputs) == list(expected.inputs)
    for key, inputs in found.inputs.items():
        torch.testing.assert_close(inputs, expected.inputs[key], rtol=1e-4, atol=1e-4)
        assert torch.equal(found.positions[key], expected.positions[key])
    tables = found.counts.keys() - set(OF_PLACES)
    assert tables
    assert all(torch.equal(found.counts[key], expected.counts[key]) for key in tables)


@pytest.mark.parametrize("loss", Loss)
def test_gradients_are_those_of_the_sample_alone(loss):
    torch.manual_seed(0)
    model, padded = Layers(), {key: tensor[:1] for key, tensor in PADDED.items()}
    found, expected = (calibrate(model, [batch], loss=loss).rows for batch in (padded, ALONE[0]))
    assert all(float(rows.sum()) > 0 for rows in expected.values())
    for name, rows in found.items():
        torch.testing.assert_close(rows, expected[name])


def test_quantizing_in_order_sees_no_padding():
    torch.manual_seed(0)
    model, seen = Layers(), {}
    expected = calibrate(model, ALONE, gradients=False)
    quantize_sequentially(model, [PADDED], lambda name, view, matrices, moments: seen.update({name: moments}))
    torch.testing.assert_close(seen["several"].inputs, expected.inputs["several"])
    assert torch.equal(seen["table.weight"].counts, expected.counts["table.weight"])


def test_distances_are_those_of_outputs_at_tokens():
    torch.manual_seed(0)
    model, other = Layers(), Layers()
    padded = {key: tensor[:1] for key, tensor in PADDED.items()}
    found, expected = (References(other, [batch]).distance(model, 0) for batch in (padded, ALONE[0]))
    torch.testing.assert_close(found, expected)


def test_only_what_is_ordered_by_samples_and_positions_is_masked():
    is_token = MASK.bool()
    for shape in ((3, 8), (3, 4), (8, 3, 2), (3, 2, 8, 6), (25, 2), (24,)):
        values = torch.zeros(shape)
        assert at_tokens(values, is_token) is values
    assert at_tokens(torch.zeros(3, 8, 2, 5), is_token).shape == (16, 2, 5)
    assert at_tokens(torch.zeros(24, 5), is_token).shape == (16, 5)
    assert at_tokens(torch.zeros(3, 8), is_token, inner=0).shape == (16,)


def test_batches_without_a_mask_of_tokens():
    assert torch.equal(token_mask(PADDED, 0), MASK.bool())
    of_decoder = {"attention_mask": MASK, "decoder_input_ids": TOKENS}
    for batch in (TOKENS, (TOKENS, MASK), ALONE[0], {"attention_mask": torch.ones(3, 8)}, of_decoder):
        assert token_mask(batch, 0) is None
    assert token_mask({"attention_mask": torch.zeros(3, 1, 8, 8)}, 0) is None
    assert token_mask(of_decoder | {"decoder_input_ids": TOKENS[:, :4]}, 0) is not None
    with pytest.raises(InputError, match=r"batch 4: expected tokens, found an attention_mask that is zero everywhere"):
        token_mask({"attention_mask": torch.zeros(3, 8)}, 4)
