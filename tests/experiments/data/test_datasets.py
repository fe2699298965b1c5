"""The data sets: sizes, ranges, and splits that never overlap."""

import os

import pytest

from metaq.errors import InputError
from metaq.experiments import data

HAS_MNIST = "METAQ_DATA" in os.environ
SIZES = {"digits": (1237, 200, 360), "mnist": (59_800, 200, 10_000)}


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        pytest.param("mnist", marks=pytest.mark.skipif(not HAS_MNIST, reason="needs MNIST: set METAQ_DATA")),
    ],
)
def test_splits(name):
    dataset = data.by_name(name)(200)
    splits = (dataset.train, dataset.validation, dataset.test)
    assert tuple(map(len, splits)) == SIZES[name]
    for split in splits:
        assert split.inputs.shape[1:] == (1, 28, 28)
        assert abs(float(split.inputs.mean())) < 0.1
        assert set(split.labels.unique().tolist()) == set(range(10))
    again = data.by_name(name)(200)
    assert again.validation.labels.tolist() == dataset.validation.labels.tolist()
    fingerprints = [set(map(hash, (image.numpy().tobytes() for image in split.inputs))) for split in splits[:2]]
    assert len(fingerprints[0] & fingerprints[1]) <= 1  # MNIST holds a few images twice


@pytest.mark.parametrize("held_out", [0, -1, 1437, 10**9])
def test_refuses_to_hold_out_none_or_all(held_out):
    with pytest.raises(InputError, match="held-out"):
        data.by_name("digits")(held_out)
