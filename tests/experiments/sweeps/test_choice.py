"""The front, and the one look at the test set."""

import json
import shutil

import pytest

from metaq.errors import InputError
from metaq.experiments import run
from metaq.experiments.sweeps import choice, storage
from metaq.experiments.sweeps.trials import sweep

QUIET = lambda *_: None  # noqa: E731


@pytest.fixture
def place(finished, tmp_path, store):
    """A copy of the finished sweep: its study and its folder."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    return storage.existing_study(store(folder), folder), folder


def rows(*points):
    return [
        {"trial": number, "state": state, "file_bytes": size, "held_out_error": error}
        for number, (state, size, error) in enumerate(points)
    ]


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([("finished", 10, 0.1)], [0]),
        ([("finished", 30, 0.1), ("finished", 10, 0.3), ("finished", 20, 0.2)], [1, 2, 0]),
        ([("finished", 30, 0.1), ("finished", 20, 0.1), ("finished", 20, 0.2)], [1]),
        ([("finished", 10, 0.1), ("finished", 10, 0.1)], [0]),
        ([("finished", 10, 0.2), ("pruned", 5, 0.1), ("failed", None, None), ("running", None, None)], [0]),
    ],
)
def test_the_front(points, front):
    assert choice._front(rows(*points)) == front


def test_the_outcome_is_all_of_the_sweep(place):
    study, folder = place
    found = choice.write_outcome(study, folder)
    assert json.loads((folder / choice.SWEEP).read_text()) == found
    assert (found["study"], found["recipe"]) == ("digits", "lenet5-digits")
    assert found["ranges"] == ["method.strength=1e-05:0.001:log"]
    assert found["chosen"] is None
    assert [row["trial"] for row in found["trials"]] == [0, 1, 2]
    for row, trial in zip(found["trials"], study.trials, strict=True):
        assert [row["file_bytes"], row["held_out_error"]] == trial.values
        assert row["values"] == trial.params
        assert row["is_on_front"] == (row["trial"] in found["front"])
    assert {trial.number for trial in study.best_trials} == set(found["front"])


def test_the_smallest_file_that_is_good_enough(place):
    study, _ = place
    by_size = sorted(study.trials, key=lambda trial: trial.values)
    assert choice.smallest_within(study, 1.0) == by_size[0].number
    least = min(trial.values[1] for trial in study.trials)
    within = choice.smallest_within(study, least)
    assert study.trials[within].values[1] == least
    with pytest.raises(InputError, match=r"max-error: expected at least the least held-out error, [0-9.]+, found -1"):
        choice.smallest_within(study, -1)


def test_the_test_set_is_used_once(place, untouched_test_set):
    study, folder = place
    recipe, result = choice.choose(study, 1, folder, QUIET, "cpu")
    assert len(untouched_test_set) == 2  # the float network and the file's
    assert result["config"]["method"]["strength"] == study.trials[1].params["method.strength"]
    assert recipe.method.configuration.strength == study.trials[1].params["method.strength"]
    chosen = folder / choice.CHOSEN
    assert json.loads((chosen / run.RESULT).read_text()) == result
    assert (chosen / run.FILE).read_bytes() == (folder / "trial-1" / run.FILE).read_bytes()
    assert not (folder / "trial-1" / run.RESULT).exists()
    assert choice.outcome(study, folder)["chosen"] == {"trial": 1, "result": result}

    assert choice.choose(study, 1, folder, QUIET, "cpu") == (recipe, result)
    with pytest.raises(InputError, match="expected trial 1, for which the test set has been used, found trial 2"):
        choice.choose(study, 2, folder, QUIET, "cpu")
    assert len(untouched_test_set) == 2


def test_a_choice_that_was_stopped_cannot_be_changed_but_ended(place, monkeypatch):
    study, folder = place

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            choice.choose(study, 1, folder, QUIET, "cpu")
    assert choice.outcome(study, folder)["chosen"] == {"trial": 1, "result": None}
    with pytest.raises(InputError, match="expected trial 1"):
        choice.choose(study, 0, folder, QUIET, "cpu")
    assert choice.choose(study, 1, folder, QUIET, "cpu")[1]["file_bytes"] == study.trials[1].values[0]


def test_a_trial_of_another_machine_is_trained_again(place):
    study, folder = place
    file = (folder / "trial-1" / run.FILE).read_bytes()
    shutil.rmtree(folder / "trial-1")
    choice.choose(study, 1, folder, QUIET, "cpu")
    assert (folder / choice.CHOSEN / run.FILE).read_bytes() == file


def test_no_such_trial(place):
    study, folder = place
    with pytest.raises(InputError, match=r"expected a finished trial \(0, 1, 2\), found 7"):
        choice.choose(study, 7, folder, QUIET, "cpu")


def test_a_retried_trial_has_the_number_of_its_first_try(tmp_path, plan, store):
    def stop(what, *_):
        if what == "compress":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(plan(tmp_path), store(tmp_path), 1, stop)
    study = sweep(plan(tmp_path), store(tmp_path), 1, QUIET)
    assert study.trials[-1].number == 1
    found = choice.outcome(study, tmp_path)
    assert [row["trial"] for row in found["trials"]] == found["front"] == [0]
    assert choice.choose(study, 0, tmp_path, QUIET, "cpu")[1]["file_bytes"] == found["trials"][0]["file_bytes"]
