"""A teacher of a recipe's own: trained once, kept where the recipe says, and what runs distil from."""

import pytest
import torch
from torch import nn

from metaq.experiments import run, teacher
from metaq.experiments.recipe import load_recipe
from metaq.experiments.teacher import Ensemble, trained_teacher

SHORT = [
    "float_training.epochs=1",
    "float_training.distillation=0.5",
    "training.epochs=2",
    "training.last_phase_epochs=1",
    "training.distillation=1.0",
    "method.schedule=[[0, 0.0], [0.1, 1.0]]",
    "teacher.network=lenet300",
    "teacher.count=2",
    "teacher.training={epochs=2,batch_size=64,learning_rate=2e-3,shift_pixels=1}",
]


def short_recipe(*overrides):
    return load_recipe("lenet5-digits", [*SHORT, *overrides])


def test_an_ensemble_gives_the_mean_of_its_probabilities():
    networks = [nn.Linear(4, 3) for _ in range(3)]
    inputs = torch.randn(5, 4)
    expected = torch.stack([network(inputs).softmax(1) for network in networks]).mean(0)
    found = Ensemble(networks)(inputs)
    torch.testing.assert_close(found.exp(), expected)


class KilledError(Exception):
    pass


def test_runs_share_a_teacher_whose_training_may_be_stopped(tmp_path):
    def kill(stage, done, total):
        assert (stage, total) == ("teacher", 2 * 2 * 19)
        if done == 65:  # in the second epoch of the second network
            raise KilledError

    shared = f"teacher.folder='{tmp_path / 'shared'}'"
    with pytest.raises(KilledError):
        run.Run(short_recipe(shared), tmp_path / "first", False, kill).train()
    stages = []
    result = run.Run(short_recipe(shared), tmp_path / "first", True, lambda *step: stages.append(step)).train()
    assert [step for step in stages if step[0] == "teacher"] == [("teacher", done, 76) for done in range(58, 77)]
    assert 0.5 < result["test_teacher"]["accuracy"] <= 1

    stages.clear()
    run.Run(short_recipe(shared, "seed=1"), tmp_path / "second", False, lambda *step: stages.append(step)).train()
    assert {step[0] for step in stages} == {"float", "compress"}
    assert not list((tmp_path / "second").glob("teacher-*"))

    own = run.Run(short_recipe(), tmp_path / "own", False, lambda *_: None).train()
    assert own["weights_sha256"] == result["weights_sha256"]
    (folder,) = (tmp_path / "own").glob("teacher-*")
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "network-0.safetensors",
        "network-1.safetensors",
    ]
    assert folder.name == next((tmp_path / "shared").iterdir()).name


def test_other_training_makes_other_networks_and_another_count_more_of_the_same(tmp_path):
    dataset = run.data.by_name("digits")(200)

    def ensemble(*overrides):
        recipe = short_recipe("teacher.training.epochs=1", f"teacher.folder='{tmp_path}'", *overrides)
        found = trained_teacher(recipe, tmp_path, dataset, torch.device("cpu"), lambda *_: None)
        return [network.fc1.weight for network in found.networks]

    one = ensemble("teacher.count=1")
    two = ensemble()
    assert len(list(tmp_path.iterdir())) == 1
    assert torch.equal(one[0], two[0])
    assert not torch.equal(two[0], two[1])
    ensemble("teacher.training.learning_rate=1e-3", "teacher.count=1")
    assert len(list(tmp_path.iterdir())) == 2


def test_the_teacher_is_the_one_of_the_recipe(tmp_path, monkeypatch):
    asked = []
    forward = teacher.Ensemble.forward
    monkeypatch.setattr(teacher.Ensemble, "forward", lambda self, x: asked.append(self.training) or forward(self, x))
    run.Run(short_recipe("teacher.training.epochs=1"), tmp_path, False, lambda *_: None).train_file()
    assert len(asked) == 38 + 2 * 38
    assert not any(asked)
