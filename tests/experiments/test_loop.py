"""The loop: its schedule, its batches, and that evaluation leaves the model as it was."""

import pytest
import torch
from torch import nn

from metaq.experiments.data import Split
from metaq.experiments.loop import Stage, distillation_loss, evaluate
from metaq.experiments.recipe import LearningRateSchedule, Optimizer, Precision, StageSection
from metaq.methods import HEMP, METaQ


def tiny():
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(70, 6, generator=generator), torch.randint(0, 3, (70,), generator=generator))
    torch.manual_seed(0)
    return nn.Linear(6, 3), split


def test_loss_falls_and_the_learning_rate_follows_half_a_cosine():
    model, split = tiny()
    stage = Stage(model, StageSection(epochs=10, batch_size=16, learning_rate=0.1), split, 0)
    rates, losses = [], []
    for epoch in range(10):
        losses.append(stage.run_epoch(epoch, lambda: rates.append(stage.optimizer.param_groups[0]["lr"])))
    assert losses[-1] < losses[0]
    assert len(rates) == 40
    assert rates[0] == 0.1
    assert abs(rates[20] - 0.05) < 1e-9
    assert rates[-1] < 0.001
    assert rates == sorted(rates, reverse=True)


def test_every_epoch_uses_every_image_once_but_for_the_last_odd_ones():
    model, split = tiny()
    split = Split(torch.arange(70).float()[:, None].expand(70, 6).contiguous(), split.labels)
    stage = Stage(model, StageSection(epochs=1, batch_size=16, learning_rate=0.1), split, 0)
    seen = [set(images[:, 0].tolist()) for images, _ in stage._batches()]
    assert sum(map(len, seen)) == 64 == len(set().union(*seen))


def test_a_batch_larger_than_the_data_is_the_data():
    model, split = tiny()
    stage = Stage(model, StageSection(epochs=1, batch_size=1000, learning_rate=0.1), split, 0)
    assert [len(labels) for _, labels in stage._batches()] == [70]


def test_evaluation_gives_the_mean_over_all_images_and_restores_the_mode():
    model, split = tiny()
    model.train()
    result = evaluate(model, split)
    logits = model(split.inputs).detach()
    assert result.accuracy == float((logits.argmax(1) == split.labels).float().mean().double().mul(70).round() / 70)
    assert abs(result.loss - float(nn.functional.cross_entropy(logits, split.labels))) < 1e-6
    assert model.training


def test_text_counts_every_position_and_an_epoch_its_share_of_the_windows():
    characters = torch.arange(300) % 4
    split = Split(characters[:-1].unfold(0, 8, 1), characters[1:].unfold(0, 8, 1), samples_per_epoch=37)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(4, 8), nn.Linear(8, 4))
    stage = Stage(model, StageSection(epochs=15, batch_size=8, learning_rate=0.1), split, 0)
    assert stage.steps_per_epoch == 4
    before = evaluate(model, split)
    logits = model(split.inputs).detach()
    assert before.accuracy == float((logits.argmax(2) == split.labels).double().mean())
    assert abs(before.loss - float(nn.functional.cross_entropy(logits.transpose(1, 2), split.labels))) < 1e-5
    for epoch in range(15):
        stage.run_epoch(epoch, lambda: None)
    assert evaluate(model, split).accuracy == 1.0


def test_plain_descent_takes_the_gradient_and_keeps_its_rate():
    model, split = tiny()
    section = StageSection(
        1, 70, 0.5, optimizer=Optimizer.SGD, schedule=LearningRateSchedule.CONSTANT, weight_decay=0.1
    )
    before = model.weight.detach().clone()
    nn.functional.cross_entropy(model(split.inputs), split.labels).backward()
    expected = before - 0.5 * (model.weight.grad + 0.1 * before)
    stage = Stage(model, section, split, 0)
    stage.run_epoch(0, lambda: None)
    torch.testing.assert_close(model.weight.detach(), expected)
    assert stage.optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("method", [METaQ(step=0.15, radius=15, strength=1e-3), HEMP(levels=5), None])
def test_the_last_phase_begins_with_the_average_of_the_optimizers_weights(method):
    model, split = tiny()
    section = StageSection(3, 16, 0.05, last_phase_epochs=1, average_decay=0.8)
    stage = Stage(model, section, split, 0, method)
    expected = latent(stage)
    weights = [expected]

    def advance():
        nonlocal expected
        expected = 0.8 * expected + 0.2 * weights[-1]
        weights.append(latent(stage))

    for epoch in range(2):
        stage.run_epoch(epoch, advance)
        stage.end_epoch(split)
    if stage.compressor is not None:
        stage.compressor.begin_last_phase = lambda: None  # in which the method changes some weights
    stage._begin_last_phase()
    assert not torch.allclose(expected, weights[-1], atol=1e-3)
    torch.testing.assert_close(latent(stage), expected)


def latent(stage):
    if stage.compressor is None:
        return stage.model.weight.detach().clone()
    with stage.compressor.latent_weights():
        return stage.model.weight.detach().clone()


def test_distillation_is_the_softened_divergence_and_its_share_replaces_the_labels():
    logits, teacher = torch.tensor([[1.0, 2.0], [0.0, -3.0]]), torch.tensor([[0.5, 0.5], [2.0, 1.0]])
    ours, theirs = (logits / 4).softmax(1), (teacher / 4).softmax(1)
    expected = 16 * (theirs * (theirs / ours).log()).sum(1).mean()
    torch.testing.assert_close(distillation_loss(logits, teacher, 4.0), expected)
    assert float(distillation_loss(logits, logits, 2.0)) == 0.0
    positions = distillation_loss(logits[None], teacher[None], 4.0)
    torch.testing.assert_close(positions, expected)

    model, split = tiny()
    other = nn.Linear(6, 3)
    section = StageSection(40, 10, 0.1, distillation=1.0)
    stage = Stage(model, section, split, 0, teacher=other)
    for epoch in range(40):
        stage.run_epoch(epoch, lambda: None)
    torch.testing.assert_close(model(split.inputs).softmax(1), other(split.inputs).softmax(1), atol=0.02, rtol=0)


def test_layers_compute_in_bfloat16_and_everything_else_in_float32():
    seen = []

    class Convolution(nn.Conv2d):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            seen.append((self.training, outputs.dtype, outputs.is_contiguous(memory_format=torch.channels_last)))
            return outputs

    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(40, 2, 4, 4, generator=generator), torch.randint(0, 3, (40,), generator=generator))
    torch.manual_seed(0)
    models = [nn.Sequential(Convolution(2, 3, 4), nn.Flatten()) for _ in range(3)]
    models[1].load_state_dict(models[0].state_dict())
    losses = []
    for model, precision in zip(models[:2], Precision, strict=True):
        seen.clear()
        section = StageSection(2, 10, 0.05, distillation=0.5, precision=precision)
        stage = Stage(model, section, split, 0, METaQ(), teacher=models[2])
        losses.append([stage.run_epoch(epoch, lambda: None) for epoch in range(2)])
        stage.end_epoch(split)
        assert model[0].weight.dtype == model[0].weight.grad.dtype == torch.float32
        assert {dtype for training, dtype, _ in seen if not training} >= {torch.float32}
        assert {dtype for training, dtype, _ in seen if training} == {getattr(torch, precision.value)}
        assert all(is_last for training, _, is_last in seen if training) or precision is Precision.FLOAT32
    assert losses[0] != losses[1]
    torch.testing.assert_close(losses[0], losses[1], rtol=0.1, atol=0)
