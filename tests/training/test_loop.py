"""The loop: its schedule, its batches, and that evaluation leaves the model as it was."""

import torch
from torch import nn

from metaq.data import Split
from metaq.training.loop import Stage, evaluate, shifted
from metaq.training.recipe import StageSection


def tiny():
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(70, 6, generator=generator), torch.randint(0, 3, (70,), generator=generator))
    torch.manual_seed(0)
    return nn.Linear(6, 3), split


def test_loss_falls_and_the_learning_rate_follows_half_a_cosine():
    model, split = tiny()
    stage = Stage(model, StageSection(epochs=10, batch_size=16, learning_rate=0.1), split, 0, None)
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
    stage = Stage(model, StageSection(epochs=1, batch_size=16, learning_rate=0.1), split, 0, None)
    seen = [set(images[:, 0].tolist()) for images, _ in stage._batches()]
    assert sum(map(len, seen)) == 64 == len(set().union(*seen))


def test_a_batch_larger_than_the_data_is_the_data():
    model, split = tiny()
    stage = Stage(model, StageSection(epochs=1, batch_size=1000, learning_rate=0.1), split, 0, None)
    assert [len(labels) for _, labels in stage._batches()] == [70]


def test_evaluation_gives_the_mean_over_all_images_and_restores_the_mode():
    model, split = tiny()
    model.train()
    result = evaluate(model, split)
    logits = model(split.images).detach()
    assert result.accuracy == float((logits.argmax(1) == split.labels).float().mean().double().mul(70).round() / 70)
    assert abs(result.loss - float(nn.functional.cross_entropy(logits, split.labels))) < 1e-6
    assert model.training


def test_shifts_move_whole_images_and_all_ways():
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(200, 2, 5, 7)
    images[:, :, 2, 3] = torch.tensor([1.0, 2.0])
    moved = shifted(images, 1, generator)
    assert moved.shape == images.shape
    places = set()
    for image in moved:
        (row,), (column,) = torch.nonzero(image[0], as_tuple=True)
        assert float(image[1, row, column]) == 2.0
        assert float(image.sum()) == 3.0
        places.add((int(row), int(column)))
    assert places == {(row, column) for row in (1, 2, 3) for column in (2, 3, 4)}
