"""Every method keeps the contract, and trains on the weights that it says it does."""

import contract
import pytest
import torch

import metaq
from metaq.errors import InputError
from metaq.methods import by_name, methods
from metaq.methods.hemp import Quantizer
from metaq.methods.lc import Algorithm
from metaq.methods.metaq.config import Counts, Final, LevelPlacement, Objective, Perspective

LOBSTER = metaq.LOBSTER(strength=1e-2, plateau_epochs=1, tolerated_worsening=0.2)
CONFIGURATIONS = {
    "metaq": metaq.METaQ(strength=1e-3, refresh_every=2),
    "metaq, learned steps": metaq.METaQ(strength=1e-3, levels=LevelPlacement.LEARNED),
    "metaq, around the mean": metaq.METaQ(strength=1e-3, levels=LevelPlacement.AROUND_MEAN, tolerance=0.1),
    "metaq, counts": metaq.METaQ(Objective.COUNTS, strength=1e-3, counts=Counts(alpha=0.25)),
    "metaq, perspective": metaq.METaQ(Objective.PERSPECTIVE, 1e-3, radius=4, perspective=Perspective(iterations=2)),
    "metaq, rate": metaq.METaQ(strength=1e-3, final=Final.RATE, tolerance=0.05),
    "metaq, target": metaq.METaQ(target_bytes=400),
    "hemp": metaq.HEMP(levels=5, refresh_every=2),
    "hemp, straight through": metaq.HEMP(levels=5, refresh_every=3, straight_through=True),
    "lobster": LOBSTER,
    "lc": metaq.LC(mu=0.1, l_steps=6, start=0.0),
    "lc, pruning, iterated": metaq.LC({"*weight": "prune:0.5"}, Algorithm.ITERATED, l_steps=4, start=0.0),
    "deep-compression": metaq.DeepCompression({"*weight": 0.5}, {"*": 4}, rounds=2, start=0.0, round_share=0.25),
    "hemp, sized": metaq.Sized(metaq.HEMP(levels=5), target_bytes=450),
    "lc, sized": metaq.Sized(metaq.LC(l_steps=6, start=0.3), target_ratio=4.0),
    "hemp, pruned": metaq.Pruned(metaq.HEMP(levels=5, zero_level=True), LOBSTER),
    "hemp, straight through, pruned": metaq.Pruned(
        metaq.HEMP(levels=5, zero_level=True, straight_through=True), LOBSTER
    ),
    "metaq, pruned": metaq.Pruned(metaq.METaQ(strength=1e-3), LOBSTER),
    "difference, metaq": metaq.Difference(metaq.METaQ(strength=1e-4, refresh_every=2)),
    "difference, metaq, learned": metaq.Difference(metaq.METaQ(strength=1e-4, levels=LevelPlacement.LEARNED)),
    "difference, metaq, rate": metaq.Difference(metaq.METaQ(strength=1e-4, final=Final.RATE, tolerance=0.1), 0.05),
    "difference, metaq, sized": metaq.Difference(metaq.METaQ(target_bytes=900), 0.05),
    "difference, hemp": metaq.Difference(metaq.HEMP(zero_level=True, quantizer=Quantizer.FIXED, straight_through=True)),
    "difference, hemp, latent": metaq.Difference(metaq.HEMP(zero_level=True, quantizer=Quantizer.FIXED)),
    "difference, lobster": metaq.Difference(LOBSTER),
    "difference, lobster and metaq": metaq.Difference(metaq.Pruned(metaq.METaQ(strength=1e-4), LOBSTER), 0.05),
}
WHOLE = [name for name in CONFIGURATIONS if "difference" not in name]
# HEMP and METaQ alone do not prune; METaQ keeps the weights at each tensor's commonest level, zero or not.
PRUNE = [name for name in WHOLE if "pruned" in name or not name.startswith(("hemp", "metaq", "lc, sized"))]
SEE_THE_FILE = [
    name for name in WHOLE if "straight" in name or name == "hemp, sized" or ("metaq" in name and "mean" not in name)
]


def test_every_method_is_tried():
    tried = {type(configuration) for configuration in CONFIGURATIONS.values()}
    assert set(methods.values()) | {metaq.Difference, metaq.Pruned, metaq.Sized} == tried


# Those that steer a size encode the file again and again; one difference stands for the others.
SLOW = [
    name
    for name in CONFIGURATIONS
    if "sized" in name or "target" in name or ("difference" in name and name != "difference, lobster and metaq")
]
BRIEF_OR_SLOW = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in CONFIGURATIONS]


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", BRIEF_OR_SLOW)
def test_contract(name, check):
    check(CONFIGURATIONS[name])


@pytest.mark.parametrize("name", PRUNE)
def test_zeros_stay_in_the_last_phase(name):
    contract.check_zeros_stay_in_the_last_phase(CONFIGURATIONS[name])


@pytest.mark.parametrize("name", WHOLE)
def test_training_sees_the_weights_that_the_compressor_says(name):
    training = contract.Training(CONFIGURATIONS[name])
    for _ in range(4):
        training.step()
    training.model.train()
    training.model(contract.INPUTS)
    seen = {key: parameter.detach().clone() for key, parameter in training.compressor.bound.parameters.items()}
    latent, decoded = training.latent_weights(), training.decoded()
    expected = {key: decoded[key] for key in seen} if name in SEE_THE_FILE else latent
    contract.assert_same(seen, expected)
    assert training.compressor.bound.is_straight_through == (name in SEE_THE_FILE)
    assert any(not torch.equal(latent[key], decoded[key]) for key in seen)


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match=r"expected one of metaq, .*found 'hmep'.*hemp"):
        by_name("hmep")
