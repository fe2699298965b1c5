"""Tiny Shakespeare: windows whose labels are the characters after them, in three splits that never overlap."""

import hashlib
import os

import pytest
import torch

from metaq.errors import InputError
from metaq.experiments import data
from metaq.experiments.data import tinyshakespeare
from metaq.experiments.data.files import PublishedFile


@pytest.fixture
def text(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    content = bytes((torch.randint(0, 20, (3000,), generator=generator) + 65).tolist())
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_bytes(content)
    monkeypatch.setenv("METAQ_DATA", str(tmp_path))
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(tinyshakespeare, "_FILE", PublishedFile("input.txt", sha256, len(content)))
    return torch.tensor(list(content)) - 65


def test_labels_are_the_next_characters_of_three_parts(text):
    dataset = data.by_name("tinyshakespeare")(150)
    starts = {"train": range(2636), "validation": range(2700, 2786, 64), "test": range(2850, 2936, 64)}
    for name, places in starts.items():
        split = getattr(dataset, name)
        assert len(split) == len(places)
        assert torch.equal(split.inputs, torch.stack([text[start : start + 64] for start in places]))
        assert torch.equal(split.labels, torch.stack([text[start + 1 : start + 65] for start in places]))
    assert dataset.train.samples_per_epoch == 2700 // 64


@pytest.mark.parametrize("held_out", [0, 64, 236, 10**9])
def test_every_part_has_a_window(text, held_out):
    with pytest.raises(InputError, match=r"held-out characters: expected 65 to 235"):
        data.by_name("tinyshakespeare")(held_out)
    assert all(map(len, vars(data.by_name("tinyshakespeare")(65)).values()))
    assert all(map(len, vars(data.by_name("tinyshakespeare")(235)).values()))


@pytest.mark.skipif(
    not os.path.exists(os.path.join(os.environ.get("METAQ_DATA", ""), "tinyshakespeare")), reason="needs the text"
)
def test_the_published_text():
    dataset = data.by_name("tinyshakespeare")(55_770)
    assert list(map(len, (dataset.train, dataset.validation, dataset.test))) == [1_003_790, 871, 871]
    assert int(dataset.train.inputs[::64].max()) == 64
