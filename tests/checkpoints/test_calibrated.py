"""Compression by what outputs are on some data: sizes that are met, outputs that come near, files that hold it all."""

import copy

import pytest
import torch
from torch import nn

import metaq
from metaq import CompressionConfig
from metaq.checkpoints import calibrated
from metaq.compressed_model import Alias, CodedTensor, encode
from metaq.errors import InputError
from metaq.matrix_layout import MatrixLayout
from metaq.numpy import load_file


class Mixed(nn.Module):
    """A table, a transposed matrix, filters of several groups, a norm, and a head that is the table again."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 24)
        nn.init.normal_(self.table.weight, std=0.2)
        self.transposed = nn.Parameter(torch.randn(24, 32) / 5)
        self.filters = nn.Conv1d(32, 32, 3, padding=1, groups=32)
        self.mixing = nn.Conv1d(32, 24, 1)
        self.norm = nn.LayerNorm(24)
        self.idle = nn.Linear(12, 13)
        self.head = nn.Linear(24, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        hidden = torch.relu(self.table(tokens) @ self.transposed)
        hidden = self.mixing(torch.relu(self.filters(hidden.transpose(1, 2)))).transpose(1, 2)
        return self.head(self.norm(hidden))


def mixed_batches(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 40, (8, 20), generator=generator) for _ in range(count)]


def deep():
    torch.manual_seed(1)
    blocks = [nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(5)]
    return nn.Sequential(nn.Linear(20, 32), *blocks, nn.Linear(32, 10))


def deep_batches(count=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(20, 20, generator=torch.Generator().manual_seed(7))
    return [torch.randn(64, 20, generator=generator) @ mixing for _ in range(count)]


def divergence(model, compressed, batches):
    other = copy.deepcopy(model)
    other.load_state_dict(compressed.decompress())
    inputs = torch.cat(batches)
    with torch.no_grad():
        expected, found = (one(inputs).log_softmax(-1) for one in (model, other))
    return float(nn.functional.kl_div(found, expected, log_target=True, reduction="batchmean"))


def test_data_is_worth_more_the_more_of_the_model_sees_it():
    model, config = deep(), CompressionConfig(bits=2.5)
    plain = metaq.compress_state_dict(model.state_dict(), config)
    calibration = metaq.calibrate(model, deep_batches())
    by_moments = metaq.compress_state_dict(model.state_dict(), config, calibration=calibration)
    by_blocks = metaq.compress_calibrated(model, deep_batches(), config, refit_epochs=0)
    unseen = deep_batches(seed=5)
    errors = [divergence(model, one, unseen) for one in (plain, by_moments, by_blocks)]
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.8 * errors[1]
    sizes = [len(encode(one, one.coder)) for one in (plain, by_moments, by_blocks)]
    assert max(sizes) < 1.1 * min(sizes)


def test_a_calibration_is_found_once_for_several_sizes(monkeypatch):
    model, config = deep(), CompressionConfig(bits=2.5)
    calibration = metaq.calibrate(model, deep_batches())
    expected = metaq.compress_calibrated(model, deep_batches(), config)
    monkeypatch.setattr(calibrated, "calibrate", None)
    found = metaq.compress_calibrated(model, deep_batches(), config, calibration=calibration)
    assert encode(found, found.coder) == encode(expected, expected.coder)


def test_a_calibration_of_another_model_is_refused():
    model, config = deep(), CompressionConfig(bits=2.5)
    calibration = metaq.calibrate(nn.Sequential(nn.Sequential(nn.Linear(20, 10))), deep_batches())
    for compress in (
        lambda: metaq.compress_calibrated(model, deep_batches(), config, calibration=calibration),
        lambda: metaq.compress_state_dict(model.state_dict(), config, calibration=calibration),
    ):
        with pytest.raises(
            InputError, match=r"one of this model, which has '0\.weight', found one that has '0\.0\.weight'"
        ):
            compress()


def test_norms_and_biases_are_fitted_again():
    model, config = deep(), CompressionConfig(bits=1.5)
    without, fitted = (
        metaq.compress_calibrated(model, deep_batches(), config, refit_epochs=epochs) for epochs in (0, 6)
    )
    assert divergence(model, fitted, deep_batches(seed=5)) < divergence(model, without, deep_batches(seed=5))


@pytest.mark.parametrize("target", [{"size_bytes": 3000}, {"bits": 3.0}, {"max_error": 1e-2}])
def test_targets_are_met_from_below(target):
    model = deep()
    before = copy.deepcopy(model.state_dict())
    found = metaq.compress_calibrated(model, deep_batches(), CompressionConfig(**target), refit_epochs=0)
    if "size_bytes" in target:
        assert 0.97 * 3000 <= len(encode(found, found.coder)) <= 3000
    weights = {name: one for name, one in found.tensors.items() if isinstance(one, CodedTensor)}
    if "bits" in target:
        count = sum(one.symbols.numel() for one in weights.values())
        coded = metaq.CompressedModel(dict(weights))
        assert 0.97 * 3 <= 8 * len(encode(coded, found.coder)) / count <= 3
    if "max_error" in target:
        missed = sum(float((one.decompress() - before[name]).square().sum()) for name, one in weights.items())
        assert 0.8e-2 <= missed / sum(float(before[name].square().sum()) for name in weights) <= 1e-2
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("coder", ["mixing", "adaptive", "rans"])
@pytest.mark.parametrize("by_blocks", [True, False])
def test_every_kind_of_weight_is_in_the_file(coder, by_blocks, caplog, tmp_path):
    model, config = Mixed(), CompressionConfig(bits=4, coder=coder)
    if by_blocks:
        found = metaq.compress_calibrated(model, mixed_batches(), config, refit_epochs=1)
    else:
        calibration = metaq.calibrate(model, mixed_batches())
        found = metaq.compress_state_dict(model.state_dict(), config, calibration=calibration)
    assert "idle.weight" in caplog.text
    assert isinstance(found.tensors["head.weight"], Alias)
    layouts = {name: one.matrix for name, one in found.tensors.items() if isinstance(one, CodedTensor)}
    assert set(layouts) == {"table.weight", "transposed", "filters.weight", "mixing.weight", "idle.weight"}
    assert layouts["filters.weight"].by_columns
    assert layouts["mixing.weight"].by_columns
    assert layouts["transposed"] is None or not layouts["transposed"].by_columns
    metaq.save(found, tmp_path / "found.mtq")
    decoded = load_file(tmp_path / "found.mtq")
    for name, tensor in found.decompress().items():
        assert torch.equal(torch.from_numpy(decoded[name]), tensor), name
    assert divergence(model, found, mixed_batches(seed=3)) < 0.02


class Experts(nn.Module):
    """Matrices that have inputs before outputs: one sees small inputs, one large ones, the last none."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.experts, self.head = nn.Parameter(torch.randn(3, 20, 64) / 5), nn.Linear(64, 10)
        self.sizes = torch.logspace(-1, 0.5, 20)

    def forward(self, inputs):
        parts = [(size * self.sizes * inputs) @ expert for size, expert in zip((0.5, 2), self.experts[:2], strict=True)]
        return self.head(torch.relu(sum(parts)))


@pytest.mark.parametrize("coder", ["adaptive", "rans"])
def test_transposed_experts_make_up_for_errors_too(coder, tmp_path):
    model, config = Experts(), CompressionConfig(bits=3, coder=coder)
    plain = metaq.compress_state_dict(model.state_dict(), config)
    found = metaq.compress_calibrated(model, deep_batches(), config, refit_epochs=0)
    layout = found.tensors["experts"].matrix
    assert (layout.leading, layout.by_columns, layout.column_logs) == (2, False, None)
    of_experts = layout.row_logs.reshape(3, 20)
    assert len(set(of_experts[0])) > 2
    assert float(of_experts[0].mean()) > float(of_experts[1].mean())
    assert divergence(model, found, deep_batches(seed=5)) < 0.1 * divergence(model, plain, deep_batches(seed=5))
    metaq.save(found, tmp_path / "found.mtq")
    decoded = torch.from_numpy(load_file(tmp_path / "found.mtq")["experts"])
    assert torch.equal(decoded, found.decompress()["experts"])
    missed = (decoded - model.experts.detach()).square().sum((1, 2)) / model.experts.detach().square().sum((1, 2))
    assert missed[1] < missed[0] < missed[2] < 0.5


def test_rows_that_are_never_looked_up_are_coarser_but_there():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(400, 24), nn.Linear(24, 10))
    batches = [batch % 100 for batch in mixed_batches(12)]
    found = metaq.compress_calibrated(model, batches, CompressionConfig(bits=3), refit_epochs=0)
    table, exact = found.decompress()["0.weight"], model[0].weight.detach()
    missed = (table - exact).square().mean(1)
    assert 3 * missed[:40].mean() < missed[40:].mean() < 0.8 * exact.square().mean()


class WithUnusedHead(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.pooler = deep(), nn.Linear(10, 10)

    def forward(self, inputs):
        hidden = self.body(inputs)
        return {"last_hidden_state": hidden[:, None], "pooled": self.pooler(hidden)}


def test_what_does_not_matter_to_the_outputs_is_not_lost():
    model = WithUnusedHead()
    found = metaq.compress_calibrated(model, deep_batches(), CompressionConfig(bits=4), refit_epochs=0)
    exact = model.pooler.weight.detach()
    assert (found.decompress()["pooler.weight"] - exact).square().sum() < 0.1 * exact.square().sum()


def test_patterns_keep_and_give_bits():
    model = deep()
    config = CompressionConfig(bits=3, keep=("0.*",), tensor_bits={"6.weight": 6.0})
    found = metaq.compress_calibrated(model, deep_batches(), config, refit_epochs=0)
    assert torch.equal(found.tensors["0.weight"], model[0].weight)
    errors = [
        float((found.decompress()[name] - weight).square().sum() / weight.square().sum())
        for name, weight in model.state_dict().items()
        if name in ("5.0.weight", "6.weight")
    ]
    assert errors[1] < 0.2 * errors[0]


def test_half_precision_stays_so():
    model = deep().bfloat16()
    batches = [batch.bfloat16() for batch in deep_batches()]
    found = metaq.compress_calibrated(model, batches, CompressionConfig(bits=4))
    assert {tensor.dtype for tensor in found.decompress().values()} == {torch.bfloat16}


def test_weights_that_are_not_finite_are_kept(caplog):
    model = Mixed()
    with torch.no_grad():
        model.idle.weight[0, 0] = torch.nan
    found = metaq.compress_calibrated(model, mixed_batches(), CompressionConfig(bits=4))
    assert isinstance(found.tensors["idle.weight"], torch.Tensor)
    assert "expected weights that float32 holds" in caplog.text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lossless": True}, "found lossless"),
        ({"step": 0.1}, "found step"),
        ({"keep": ("nothing",)}, "pattern 'nothing'"),
        ({"size_bytes": 100}, "size_bytes: expected at least"),
    ],
)
def test_what_data_does_not_help(config, message):
    with pytest.raises(InputError, match=message):
        metaq.compress_calibrated(deep(), deep_batches(), CompressionConfig(**config))


@pytest.mark.parametrize("target", [{"size_bytes": 10**9}, {"bits": 24.0}])
def test_more_than_weights_can_use(target):
    model = deep()
    with torch.no_grad():
        model[0].weight[0, 0] = 50  # far from all others
    found = metaq.compress_calibrated(model, deep_batches(2), CompressionConfig(**target)).decompress()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, atol=1e-3, rtol=1e-3)


def test_weights_that_are_all_zero():
    model = nn.Linear(20, 4)
    nn.init.zeros_(model.weight)
    found = metaq.compress_calibrated(model, deep_batches(2), CompressionConfig(max_error=1e-2))
    assert not found.decompress()["weight"].any()


def test_what_is_wrong_is_said_before_the_model_runs():
    def run(*_):
        raise AssertionError("the model has run")

    model = deep()
    model.register_forward_pre_hook(run)
    with pytest.raises(InputError, match="found step"):
        metaq.compress_calibrated(model, deep_batches(), CompressionConfig(step=0.1))


def test_no_data():
    with pytest.raises(InputError, match="at least one batch"):
        metaq.compress_calibrated(deep(), [])
    with pytest.raises(InputError, match="batches: expected several"):
        metaq.compress_calibrated(deep(), deep_batches()[0])


def test_layouts_say_which_scales_there_are():
    found = metaq.compress_calibrated(deep(), deep_batches(), CompressionConfig(bits=3), refit_epochs=0)
    layouts = [one.matrix for one in found.tensors.values() if isinstance(one, CodedTensor)]
    assert all(isinstance(layout, MatrixLayout) and layout.row_logs is None for layout in layouts)


@pytest.mark.parametrize(("bits", "most"), [(2, 7), (12, 11)])
def test_vectors_are_as_exact_as_the_weights_allow(bits, most):
    model = deep()
    compressed = metaq.compress_calibrated(model, deep_batches(2), CompressionConfig(bits=bits), refit_epochs=0)
    found, exact = compressed.decompress()["0.bias"], model.state_dict()["0.bias"]
    significant = torch.frexp(found)[0] * 2**most
    assert torch.equal(significant, significant.round())
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=2.0 ** -(4 if bits == 2 else 11), atol=0)
