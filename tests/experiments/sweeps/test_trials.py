"""Trials: of one worker and several, stopped, killed, pruned and failing."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from metaq.errors import DataError, InputError
from metaq.experiments import run
from metaq.experiments.recipe import as_tree, recipe_from
from metaq.experiments.sweeps import storage, trials
from metaq.experiments.sweeps.choice import outcome
from metaq.experiments.sweeps.pruning import Pruning
from metaq.experiments.sweeps.ranges import placed
from metaq.experiments.sweeps.trials import sweep

QUIET = lambda *_: None  # noqa: E731
EAGER = Pruning(least_share=0.0, byte_margin=-1.0, error_margin=-1.0, epochs_in_a_row=1)  # prunes whatever it can
WORKER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from conftest import MadeUpRun, short_plan, short_store
from metaq.experiments.sweeps import trials
folder = Path({folder!r})
trials.Run = MadeUpRun
MadeUpRun.pause_seconds = {pause_seconds}
trials.sweep(short_plan(folder), short_store(folder), {total}, lambda *_: None)
"""


def start_worker(folder, total, pause_seconds):
    """A process of its own, in which runs are made up."""
    code = WORKER.format(tests=str(Path(__file__).parent), folder=str(folder), total=total, pause_seconds=pause_seconds)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def numbers(study):
    return sorted(storage.original_number(trial) for trial in study.trials if trials.counts(trial))


@pytest.fixture
def study(finished, store):
    return storage.existing_study(store(finished), finished)


def test_every_trial_has_a_folder_and_two_objectives(finished, study):
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    for trial in study.trials:
        folder = finished / f"trial-{trial.number}"
        last = json.loads((folder / run.METRICS).read_text().splitlines()[-1])
        assert trial.values == [last["file_bytes"], pytest.approx(1 - last["validation_accuracy"])]
        assert (folder / run.FILE).stat().st_size == last["file_bytes"]
        assert not (folder / run.RESULT).exists()


def test_the_first_trial_is_the_recipe_itself(study, finished, plan):
    assert study.trials[0].params == {"method.strength": plan(finished).recipe.method.configuration.strength}


def test_larger_strengths_make_smaller_files(study):
    by_strength = sorted(study.trials, key=lambda trial: trial.params["method.strength"])
    assert by_strength[0].values[0] > by_strength[-1].values[0]


def test_the_shared_float_network_changes_no_byte(finished, study, plan, tmp_path):
    assert len(list(finished.glob("float-*"))) == 1
    last = study.trials[-1]
    tree = placed(as_tree(plan(finished).recipe), last.params)
    run.Run(recipe_from("lenet5-digits", tree), tmp_path, False, QUIET).train_file()
    for name in (run.FILE, run.FLOAT_NETWORK):
        assert (tmp_path / name).read_bytes() == (finished / f"trial-{last.number}" / name).read_bytes()


def test_trials_of_other_float_networks_do_not_share(tmp_path, plan, store):
    ranges = ["float_training.learning_rate=1e-3|2e-3"]
    study = sweep(plan(tmp_path, ranges), store(tmp_path), 1, QUIET)
    study.enqueue_trial({"float_training.learning_rate": "1e-3"})
    sweep(plan(tmp_path, ranges), store(tmp_path), 2, QUIET)
    assert len(list(tmp_path.glob("float-*"))) == 2
    first, second = ((tmp_path / f"trial-{number}" / run.FLOAT_NETWORK).read_bytes() for number in (0, 1))
    assert first != second


def test_the_test_set_stays_unused(tmp_path, plan, store, untouched_test_set):
    sweep(plan(tmp_path), store(tmp_path), 1, QUIET)
    assert untouched_test_set == []


def test_more_trials_are_added_to_those_that_are_there(finished, tmp_path, plan, store):
    shutil.copytree(finished, tmp_path / "copy")
    before = storage.existing_study(store(finished), finished).trials
    study = sweep(plan(tmp_path / "copy"), store(tmp_path / "copy"), 4, QUIET)
    assert numbers(study) == [0, 1, 2, 3]
    assert [trial.values for trial in study.trials[:3]] == [trial.values for trial in before]
    assert study.trials[3].params not in [trial.params for trial in before]


def test_a_finished_sweep_trains_no_more(finished, plan, store, monkeypatch):
    monkeypatch.setattr(trials, "Run", None)
    seen = []
    sweep(plan(finished), store(finished), 3, lambda *progress: seen.append(progress))
    assert seen == [("trials", 3, 3)]


@pytest.mark.slow
def test_ctrl_c_and_the_same_call_again(tmp_path, plan, store):
    def stop(what, done, total):
        if (what, done) == ("compress", total - 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(plan(tmp_path), store(tmp_path), 2, stop)
    begun = (tmp_path / "trial-0" / run.METRICS).read_text()
    assert begun.count("\n") == 2  # the float epoch, and one towards a small file
    study = sweep(plan(tmp_path), store(tmp_path), 2, QUIET)
    assert len(numbers(study)) == 2
    assert (tmp_path / "trial-0" / run.METRICS).read_text().startswith(begun)
    states = [(trial.state, storage.original_number(trial)) for trial in study.trials]
    assert states[:2] == [(TrialState.FAIL, 0), (TrialState.COMPLETE, 0)]
    assert study.trials[0].params == study.trials[1].params


@pytest.mark.slow
def test_a_killed_worker_s_trial_is_gone_on_with_by_another(tmp_path, plan, store, made_up_runs):
    metrics = tmp_path / "trial-0" / run.METRICS
    worker = start_worker(tmp_path, 3, pause_seconds=1000)
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    begun = metrics.read_text()
    assert begun.count("\n") == 1
    study = sweep(plan(tmp_path), store(tmp_path), 3, QUIET)
    assert metrics.read_text().startswith(begun)
    assert metrics.read_text().count("\n") == 2
    assert len(numbers(study)) == 3
    dead, *retried = [trial for trial in study.trials if storage.original_number(trial) == 0]
    assert dead.state == TrialState.FAIL
    assert [trial.params for trial in retried] == [dead.params]
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))


@pytest.mark.slow
def test_two_workers_on_one_new_file_of_sqlite(tmp_path, store):
    workers = [start_worker(tmp_path, 4, pause_seconds=0.2) for _ in range(2)]
    for worker in workers:
        assert worker.communicate(timeout=120) == ("", "")
        assert worker.returncode == 0
    study = storage.existing_study(store(tmp_path), tmp_path)
    assert len(numbers(study)) == 4
    values = [trial.params["method.strength"] for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len(set(values)) == 4  # their random numbers differ
    assert study.user_attrs["workers"] == 2


def test_a_trial_begun_by_another_worker_at_the_same_moment_is_surplus(finished, tmp_path, plan, store):
    shutil.copytree(finished, tmp_path / "copy")
    study = optuna.load_study(study_name="digits", storage=store(tmp_path / "copy").url)
    objective = trials._Objective(plan(tmp_path / "copy"), study, 3, QUIET)
    with pytest.raises(trials._SurplusError):
        objective(study.ask())
    assert not (tmp_path / "copy" / "trial-3").exists()


def test_a_hopeless_trial_is_pruned(finished, tmp_path, plan, store):
    shutil.copytree(finished, tmp_path / "copy")
    study = sweep(plan(tmp_path / "copy", pruning=EAGER), store(tmp_path / "copy"), 4, QUIET)
    assert study.trials[3].state == TrialState.PRUNED
    lines = (tmp_path / "copy" / "trial-3" / run.METRICS).read_text().splitlines()
    assert len(lines) == 2  # the float epoch, and the first of two towards a small file
    row = outcome(study, tmp_path)["trials"][3]
    assert (row["state"], row["is_on_front"], row["epochs"]) == ("pruned", False, 1)
    assert row["file_bytes"] == json.loads(lines[-1])["file_bytes"]


def test_a_trial_that_cannot_be_trained_says_why_and_others_go_on(tmp_path, plan, store):
    ranges = ["training.epochs=1|2", "training.last_phase_epochs=1|2"]
    study = sweep(plan(tmp_path, ranges), store(tmp_path), 1, QUIET)
    study.enqueue_trial({"training.epochs": "1", "training.last_phase_epochs": "2"})
    study.enqueue_trial({"training.epochs": "1", "training.last_phase_epochs": "1"})
    study = sweep(plan(tmp_path, ranges), store(tmp_path), 3, QUIET)
    states = [row["state"] for row in outcome(study, tmp_path)["trials"]]
    assert states == ["finished", "failed", "finished"]
    assert "last_phase_epochs: expected 0 to 1, found 2" in outcome(study, tmp_path)["trials"][1]["reason"]


@pytest.mark.parametrize("kind", [InputError, DataError])
def test_a_sweep_whose_first_trial_cannot_be_trained_ends_and_can_be_gone_on_with(
    tmp_path, plan, store, monkeypatch, made_up_runs, kind
):
    def refuse(*_, **__):
        raise kind("something is wrong with all trials")

    with monkeypatch.context() as patch:
        patch.setattr(trials, "Run", refuse)
        with pytest.raises(kind, match="something is wrong"):
            sweep(plan(tmp_path), store(tmp_path), 2, QUIET)
    study = sweep(plan(tmp_path), store(tmp_path), 2, QUIET)
    assert [row["state"] for row in outcome(study, tmp_path)["trials"]] == ["finished", "finished"]


def test_a_device_that_is_none_begins_no_study(tmp_path, plan, store):
    with pytest.raises(InputError, match="device: expected one that torch can use here"):
        sweep(plan(tmp_path, device="nonsense"), store(tmp_path), 2, QUIET)
    assert not list(tmp_path.iterdir())


def test_a_study_about_something_else(finished, plan, store):
    with pytest.raises(InputError, match="expected the same recipe and ranges as before, found other ranges"):
        sweep(plan(finished, ["method.step=0.1:0.2"]), store(finished), 4, QUIET)
    with pytest.raises(InputError, match="found other recipe"):
        sweep(plan(finished, overrides=["training.epochs=3"]), store(finished), 4, QUIET)


def test_a_folder_with_another_study_s_trials(finished, plan, store):
    with pytest.raises(InputError, match="expected no trials of another study, found trial-0"):
        sweep(plan(finished), store(finished, "another"), 1, QUIET)


def test_an_error_is_what_people_write_for_it():
    assert [trials.error_of(accuracy) for accuracy in (0.97, 0.99, 0.9, 1.0, 0.0)] == [0.03, 0.01, 0.1, 0.0, 1.0]


def test_optuna_is_as_loud_as_before(finished, plan, store, capfd):
    before = optuna.logging.get_verbosity()
    sweep(plan(finished), store(finished), 3, QUIET)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")
