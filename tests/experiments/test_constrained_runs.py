"""Runs of LC and Deep Compression: their files are what evaluation saw, and a killed run resumes to the same bytes."""

import json

import pytest

from metaq.experiments import run
from metaq.experiments.recipe import as_tree, load_recipe, recipe_from
from metaq.format.reader import Reader
from metaq.metrics import digest
from metaq.report.page import write_report
from metaq.tensors import load_tensors

COMMON = ["network.name=lenet5", "data.name=digits", "data.held_out=200", "float_training.epochs=3"]
COMMON += [
    "float_training.batch_size=32",
    "training.epochs=3",
    "training.last_phase_epochs=1",
    "training.batch_size=32",
]
OPTIONS = {
    # An L step and a round of pruning each end within an epoch of 49 training steps.
    "lenet300-lc-mnist": ["method.l_steps=3", "method.growth=3", "training.learning_rate=0.02"],
    "lenet300-deep-compression": [
        "method.rounds=2",
        "method.round_share=0.6",
        'method.keep={"fc*.weight"=0.2, "*.weight"=0.7}',
        "float_training.shift_pixels=0",
        "training.shift_pixels=0",
    ],
}


class KilledError(Exception):
    pass


def short_recipe(name):
    return load_recipe(name, [*COMMON, *OPTIONS[name]])


@pytest.mark.parametrize("name", OPTIONS)
def test_a_killed_run_resumes_to_the_same_bytes_and_the_file_is_what_was_validated(name, tmp_path):
    recipe, steps = short_recipe(name), 0
    whole = run.Run(recipe, tmp_path / "whole", False, lambda *_: None).train()

    def kill(*_):
        nonlocal steps
        steps += 1
        if steps == 49 * 4 + 20:
            raise KilledError

    with pytest.raises(KilledError):
        run.Run(recipe, tmp_path / "killed", False, kill).train()
    run.Run(recipe, tmp_path / "killed", True, lambda *_: None).train()
    assert (tmp_path / "killed" / run.FILE).read_bytes() == (tmp_path / "whole" / run.FILE).read_bytes()
    assert digest(load_tensors(Reader((tmp_path / "whole" / run.FILE).read_bytes()))) == whole["weights_sha256"]
    lines = [json.loads(line) for line in (tmp_path / "whole" / run.METRICS).read_text().splitlines()]
    assert lines[-1]["validation_accuracy"] == whole["validation_accuracy"]
    assert whole["test_after"]["accuracy"] > 0.5
    assert whole["ratio"] > 8
    assert write_report(tmp_path / "whole").exists()


@pytest.mark.parametrize("name", [*OPTIONS, "lenet5-caffe-deep-compression"])
def test_tables_of_patterns_survive_the_run_s_configuration(name):
    recipe = load_recipe(name)
    tree = json.loads(json.dumps(as_tree(recipe)))
    assert recipe_from(name, tree) == recipe
    assert list(tree["method"].get("schemes", tree["method"].get("keep"))) == list(
        getattr(recipe.method.configuration, "schemes", None) or recipe.method.configuration.keep
    )
