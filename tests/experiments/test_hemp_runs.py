"""Whole runs with HEMP and LOBSTER, alone and together: small files, that hold what was measured, and resumed runs."""

import json
import os

import pytest

from metaq.experiments import run
from metaq.experiments.recipe import recipe_from
from metaq.format.reader import Reader
from metaq.metrics import digest
from metaq.tensors import load_tensors

METHODS = {
    "hemp": {"method": {"name": "hemp", "levels": 5, "strength": 0.3, "last_error_strength": 2.0}},
    "lobster": {"method": {"name": "lobster", "plateau_epochs": 1, "strength": 1e-3}},
    "hemp-lobster": {
        "method": {"name": "hemp", "levels": 5, "strength": 0.3, "zero_level": True, "last_error_strength": 2.0},
        "pruning": {"name": "lobster", "plateau_epochs": 1, "strength": 1e-3},
    },
    "metaq-lobster": {
        "method": {"name": "metaq", "strength": 3e-5},
        "pruning": {"name": "lobster", "plateau_epochs": 1, "strength": 1e-4},
    },
}


def recipe(name, network="lenet5", data="digits", epochs=(8, 6)):
    stage = {"batch_size": 32, "learning_rate": 1e-2, "optimizer": "sgd", "epochs": epochs[0]}
    tree = {
        "seed": 0,
        "threads": 1,
        "network": {"name": network},
        "data": {"name": data, "held_out": 200},
        "float_training": stage,
        "training": {**stage, "epochs": epochs[1], "last_phase_epochs": 2},
        **METHODS[name],
    }
    return recipe_from(name, tree)


def lines(folder):
    return [json.loads(line) for line in (folder / run.METRICS).read_text().splitlines()]


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    "name",
    ["hemp-lobster", *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name != "hemp-lobster")],
)
def test_a_run_makes_the_file_small_and_resumes_to_the_same_bytes(name, tmp_path):
    result = run.Run(recipe(name), tmp_path / "whole", False, lambda *_: None).train()
    reader = Reader((tmp_path / "whole" / run.FILE).read_bytes())
    assert digest(load_tensors(reader)) == result["weights_sha256"]
    assert result["test_after"]["accuracy"] > result["test_before"]["accuracy"] - 0.03 > 0.8
    trained = [line for line in lines(tmp_path / "whole") if line["stage"] == "compress"]
    assert trained[-1]["entropy_2"] < trained[0]["entropy_2"]
    assert result["file_bytes"] < 177_704 / 5
    if "lobster" in name:
        assert trained[-1]["zero_share"] > 0.01
    if name.startswith("hemp"):
        assert trained[-1]["proxy_entropy"] == pytest.approx(trained[-1]["entropy_2"], rel=0.15)

    def kill(stage, done, total):
        if stage == "compress" and done == 4 * (total // 6) + 3:
            raise KilledError

    with pytest.raises(KilledError):
        run.Run(recipe(name), tmp_path / "resumed", False, kill).train()
    resumed = run.Run(recipe(name), tmp_path / "resumed", True, lambda *_: None).train()
    assert resumed["weights_sha256"] == result["weights_sha256"]
    assert (tmp_path / "resumed" / run.FILE).read_bytes() == (tmp_path / "whole" / run.FILE).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(
    "METAQ_DATA" not in os.environ, reason="needs MNIST: set METAQ_DATA to the folder that holds mnist/"
)
def test_higher_orders_see_more_on_real_weights(tmp_path):
    """Ĥ_n / n does not rise with n, and LeNet-5 on MNIST keeps its accuracy at a fraction of its entropy."""
    result = run.Run(recipe("hemp", data="mnist", epochs=(1, 3)), tmp_path, False, lambda *_: None).train()
    last = lines(tmp_path)[-1]
    assert last["entropy_4"] <= last["entropy_2"] <= last["entropy_1"]
    assert last["entropy_2"] < 1.5
    assert result["test_after"]["accuracy"] > 0.96
