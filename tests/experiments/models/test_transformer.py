"""The transformer over characters sees nothing of what it is to tell."""

import torch

from metaq.experiments.models import CharTransformer


def test_size_and_shapes():
    model = CharTransformer()
    assert sum(parameter.numel() for parameter in model.parameters()) == 804_096
    for length in (1, 17, 64):
        assert model(torch.zeros(2, length, dtype=torch.int64)).shape == (2, length, 65)


def test_a_character_changes_no_output_before_it():
    model = CharTransformer()
    characters = torch.randint(0, 65, (1, 64), generator=torch.Generator().manual_seed(0))
    changed = characters.clone()
    changed[0, 40] = (changed[0, 40] + 1) % 65
    before, after = model(characters), model(changed)
    torch.testing.assert_close(before[:, :40], after[:, :40])
    assert float((before[:, 40:] - after[:, 40:]).detach().abs().amax(dim=2).min()) > 0
