"""Databases and studies that are not there, and workers that die early."""

from datetime import datetime, timedelta

import optuna
import pytest
from optuna.trial import TrialState

from metaq.errors import InputError
from metaq.experiments.locking import locked
from metaq.experiments.sweeps import storage
from metaq.experiments.sweeps.storage import Heartbeat, Store


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite:////nowhere/sweep.db", "nosuchdatabase://host/name", "postgresql+nodriver://host/name"]
)
def test_a_storage_that_cannot_be_opened(url, tmp_path):
    with pytest.raises(InputError, match=r"^storage: expected the URL of a database") as raised:
        storage.open_study(Store(url, "x"), {"recipe": {"seed": 0}}, {}, tmp_path)
    assert "\n" not in str(raised.value)


def test_a_password_stays_out_of_messages(tmp_path):
    with pytest.raises(InputError) as raised:
        storage.open_storage(Store("nosuchdatabase://me:secret@host/name", "x"), tmp_path)
    assert "secret" not in str(raised.value)


def test_a_study_that_is_not_there(tmp_path):
    url = f"sqlite:///{tmp_path}/sweep.db"
    with pytest.raises(InputError, match=r"expected the database of a sweep, found no file .*sweep\.db"):
        storage.existing_study(Store(url, "digits"), tmp_path)
    assert not (tmp_path / "sweep.db").exists()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.create_study(storage=url, study_name="mine")
    with pytest.raises(InputError, match=r"expected one that the storage holds \(mine\), found 'digits'"):
        storage.existing_study(Store(url, "digits"), tmp_path)
    with pytest.raises(InputError, match="study 'mine': expected one of metaq sweep"):
        storage.existing_study(Store(url, "mine"), tmp_path)


def test_a_worker_that_died_before_its_first_sign(tmp_path):
    """It has asked for a trial and nothing else; Optuna alone would count it as running for ever."""
    study = storage.open_study(Store(f"sqlite:///{tmp_path}/sweep.db", "x"), {"recipe": {"seed": 0}}, {}, tmp_path)
    started = datetime.now() - timedelta(seconds=100)
    study.add_trial(optuna.trial.FrozenTrial(1, TrialState.RUNNING, None, started, None, {}, {}, {}, {}, {}, 1))
    storage.retry_dead_trials(study, Heartbeat(grace_seconds=1000))
    assert study.trials[1].state == TrialState.RUNNING
    storage.retry_dead_trials(study, Heartbeat(grace_seconds=10))
    assert study.trials[1].state == TrialState.FAIL


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder to write to"), locked(tmp_path / "file"):
        pass
