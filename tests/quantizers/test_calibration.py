"""Fisher information of layers, against its definition."""

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

import metaq
from metaq.errors import FormatError, InputError
from metaq.quantizers.calibration import Calibration, calibrate
from metaq.quantizers.gradients import Loss, main_output


def exact_fisher(model, images, name):
    """The mean over samples and over all labels, by their probability, of the squared gradient."""
    parameter = dict(model.named_parameters())[name]
    total = torch.zeros_like(parameter)
    for image in images:
        logits = model(image[None])
        for label, share in enumerate(logits.detach().softmax(-1)[0]):
            loss = functional.cross_entropy(logits, torch.tensor([label]))
            (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
            total += share * gradient.square()
    return total / len(images)


def test_last_matrix_with_independent_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4))
    images = torch.randn(4000, 6)
    found = calibrate(model, images.split(500)).importance("0.weight")
    torch.testing.assert_close(found, exact_fisher(model, images[:1500], "0.weight"), rtol=0.25, atol=0.01)


def test_filters_are_ranked_as_the_definition_ranks_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 5))
    with torch.no_grad():
        model[0].weight[1] *= 0.01
        model[0].bias.zero_()
        model[3].weight[:, 9:18] *= 0.01
    images = torch.randn(300, 2, 6, 6) * torch.tensor([0.3, 1.0])[:, None, None]
    found = calibrate(model, [(part, None) for part in images.split(50)]).importance("0.weight")
    exact = exact_fisher(model, images[:150], "0.weight")
    assert found.shape == (3, 18)
    both = torch.stack([found.flatten().log(), exact.flatten().log()])
    assert torch.corrcoef(both)[0, 1] > 0.95
    assert 0.3 < float(found.sum() / exact.sum()) < 3


def test_inputs_are_their_second_moments():
    model, inputs = nn.Linear(5, 3), torch.randn(40, 5)
    found = calibrate(model, [inputs[:10], inputs[10:]])
    torch.testing.assert_close(found.inputs["weight"], inputs.T[None] @ inputs / 40)


def test_inputs_of_filters_are_patches():
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten())
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    patches = torch.tensor([[0.0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]])
    torch.testing.assert_close(calibrate(model, [image]).inputs["0.weight"], patches.T[None] @ patches)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.Linear(8, 3))
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = calibrate(model, [torch.ones(4, 5)]).importance("0.weight")
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(first, calibrate(model, [torch.ones(4, 5)]).importance("0.weight"))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head, self.unused = nn.Embedding(7, 4), nn.Linear(4, 7), nn.Linear(2, 2)

    def forward(self, tokens):
        return type("Output", (), {"logits": self.head(self.embedding(tokens))})


def test_sequences_and_keyword_arguments():
    found = metaq.calibrate(Tokens(), [{"tokens": torch.arange(6).reshape(2, 3)}], limit=1)
    assert list(found.inputs) == ["head.weight"]
    assert list(found.rows) == ["embedding.weight", "head.weight"]
    assert found.counts["embedding.weight"].tolist() == [1, 1, 1, 1, 1, 1, 0]
    assert found.missing == ("unused.weight",)
    assert found.importance("embedding.weight").shape == (7, 4)
    assert float(found.importance("head.weight").min()) > 0


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 2), nn.Linear(64, 3)

    def forward(self, inputs):
        return torch.cat([self.first(inputs), self.second(inputs)], 1)


class NotFinite(nn.Module):
    def forward(self, inputs):
        return inputs / torch.zeros(())


class Unused(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)

    def forward(self, inputs):
        return inputs


class Unusual(Unused):
    def forward(self, inputs):
        return str(super(Unused, self).forward(inputs))


@pytest.mark.parametrize(
    ("model", "loader", "message"),
    [
        (nn.ReLU(), [torch.zeros(1, 2)], "expected a model with weights"),
        (nn.Linear(2, 2), [], "expected at least one batch"),
        (nn.Linear(2, 2), torch.zeros(3, 2), "batches: expected several"),
        (
            nn.Linear(2, 2),
            [torch.zeros(1, 2), torch.full((1, 2), torch.inf)],
            "batch 1: weight: expected finite inputs",
        ),
        (nn.Linear(2, 2), [torch.zeros(2)], "found shape"),
        (nn.Linear(2, 2), [torch.zeros(1, 3)], "batch 0: expected one that the model takes, found RuntimeError"),
        (nn.Sequential(nn.Linear(2, 2), NotFinite()), [torch.zeros(1, 2)], "expected finite logits"),
        (Unusual(), [torch.zeros(1, 2)], "output of the model: expected a tensor .* found str"),
        (Unused(), [torch.zeros(1, 2)], "multiplies inputs by its weights"),
    ],
)
def test_what_it_refuses(model, loader, message):
    with pytest.raises(InputError, match=message) as found:
        calibrate(model, loader)
    assert "\n" not in str(found.value)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_models_own_error_is_the_cause():
    with pytest.raises(InputError) as found:
        calibrate(nn.Linear(2, 2), [torch.zeros(1, 3)])
    assert isinstance(found.value.__cause__, RuntimeError)


def test_frozen_parameters_are_calibrated_like_others():
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)), torch.randn(6, 4)
    expected = calibrate(model, [batch])
    found = calibrate(model.requires_grad_(False), [batch])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(found.rows[name], rows) for name, rows in expected.rows.items())


def test_without_gradients_rows_count_alike():
    model, batch = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), torch.randn(6, 4)
    found, full = calibrate(model, [batch], gradients=False), calibrate(model, [batch])
    assert found.rows["0.weight"].tolist() == [1] * 5
    assert torch.equal(found.inputs["2.weight"], full.inputs["2.weight"])
    assert found.samples == 6
    assert found.positions["2.weight"].tolist() == [6]


def test_gradients_are_means_of_squares():
    """Of an output y = V W x, the squared error's gradient with random signs has the mean square Σ_k V_ki²."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    found = calibrate(model, torch.randn(8000, 3).split(20), loss=Loss.OUTPUT)
    torch.testing.assert_close(found.rows["1.weight"], torch.ones(2), rtol=0.2, atol=0)
    torch.testing.assert_close(found.rows["0.weight"], model[1].weight.detach().square().sum(0), rtol=0.2, atol=0.02)


def certain_of_one(classes):
    model = nn.Linear(1, classes, bias=False)
    with torch.no_grad():
        model.weight.copy_(1000 * torch.eye(classes)[:, :1])
    return model


def test_classes_that_no_sample_shows_count():
    """With p = 1 for one class the information is 0; of a tenth that n classes share, each other has 0.1 / n."""
    model = certain_of_one(classes=50)
    rows = calibrate(model, torch.ones(6000, 1).split(3)).rows["weight"]
    torch.testing.assert_close(rows[1:].mean(), torch.tensor(0.1 / 50), rtol=0.1, atol=0)


def test_tokens_are_drawn_as_the_model_predicts_them():
    model = certain_of_one(classes=50)
    assert not calibrate(model, torch.ones(200, 1, 1).split(1)).rows["weight"].any()


def test_the_loss_follows_from_the_output():
    images = torch.zeros(2, 3, 4, 4)
    assert main_output(images)[1] is main_output({"last_hidden_state": images[0]})[1] is Loss.OUTPUT
    assert main_output((images[0], 1))[1] is main_output({"logits": images[0, 0]})[1] is Loss.LIKELIHOOD


def test_dead_inputs_stay_finite():
    inputs = torch.randn(8, 3) * torch.tensor([1.0, 0.0, 1.0])
    found = calibrate(nn.Linear(3, 2), [inputs])
    assert found.inputs["weight"][0, 1].tolist() == [0, 0, 0]
    assert bool(torch.isfinite(found.importance("weight")).all())


def test_what_is_missing_is_said_once(caplog):
    calibrate(Tokens(), [{"tokens": torch.zeros(1, 2, dtype=torch.long)}] * 3)
    assert [record.getMessage() for record in caplog.records] == [
        "calibrate: expected every weight to multiply inputs, found none for unused.weight"
    ]


def test_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    model, batch = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(2, 5, 8)
    for known in (calibrate(model, [batch]), calibrate(Tokens(), [torch.zeros(2, 3, dtype=torch.long)])):
        known.save(tmp_path / "known.safetensors")
        found = Calibration.load(tmp_path / "known.safetensors")
        assert (found.views, found.samples, found.missing) == (known.views, known.samples, known.missing)
        for kind in ("inputs", "rows", "counts", "positions"):
            expected = getattr(known, kind)
            assert getattr(found, kind).keys() == expected.keys()
            assert all(torch.equal(tensor, expected[name]) for name, tensor in getattr(found, kind).items())


def test_shared_moments_are_stored_once(tmp_path):
    known = calibrate(TwoHeads(), [torch.randn(2, 64)])
    assert known.inputs["first.weight"] is known.inputs["second.weight"]
    known.save(tmp_path / "known")
    assert (tmp_path / "known").stat().st_size < 1.2 * 4 * 64**2
    found = Calibration.load(tmp_path / "known")
    assert found.inputs["first.weight"] is found.inputs["second.weight"]


def test_files_that_are_none(tmp_path):
    calibrate(nn.Linear(3, 2), [torch.randn(2, 3)]).save(tmp_path / "known")
    octets = (tmp_path / "known").read_bytes()
    foreign = safetensors.torch.save({"x": torch.zeros(3)})
    changed = octets.replace(b'\\"groups\\": 1', b'\\"groups\\": 2')
    assert changed != octets
    for damaged in (b"", octets[:-1], octets[:20], foreign, changed):
        (tmp_path / "bad").write_bytes(damaged)
        with pytest.raises(FormatError, match="expected a calibration, found") as found:
            Calibration.load(tmp_path / "bad")
        assert "\n" not in str(found.value)
    with pytest.raises(InputError, match="expected a readable file"):
        Calibration.load(tmp_path / "none")
    with pytest.raises(InputError, match="expected a writable place"):
        calibrate(nn.Linear(3, 2), [torch.randn(2, 3)]).save(tmp_path / "no" / "known")
