"""`metaq sweep`, and several seeds of `metaq train`."""

import json
import subprocess
import sys

import pytest

SHORT = ["threads=1", "data.held_out=1200", "float_training.epochs=1", "training.epochs=1"]
SHORT += ["training.last_phase_epochs=1", "method.schedule=[]"]
OPTIONS = ["lenet5-digits", *(f"--set={entry}" for entry in SHORT)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a study of two trials, the command that goes on with it, and what the first call printed."""
    folder = tmp_path_factory.mktemp("sweep")
    command = ["sweep", *OPTIONS, "--folder", folder / "runs", "--storage", f"sqlite:///{folder}/sweep.db"]
    command += ["--trials", 2]
    ended = subprocess.run([sys.executable, "-m", "metaq", *map(str, command)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return folder, command, ended.stdout


def test_a_sweep_as_a_table_a_page_and_json(place, succeeds, names_in):
    folder, command, printed = place
    assert "2 finished" in printed
    assert "method.strength" in printed
    assert "method.step" in printed
    found = json.loads(succeeds(*command, "--json"))
    assert found == json.loads((folder / "runs" / "sweep.json").read_text())
    assert len(found["trials"]) == 2
    assert names_in(folder) == ["runs", "sweep.db"]
    assert {"sweep.html", "sweep.json", "trial-0", "trial-1"} < set(names_in(folder / "runs"))
    assert succeeds(*command, "--quiet") == ""


@pytest.mark.slow
def test_one_trial_is_chosen_with_several_seeds(place, succeeds, fails, names_in):
    folder, command, _ = place
    rows = json.loads((folder / "runs" / "sweep.json").read_text())["trials"]
    errors = [row["held_out_error"] for row in rows]
    assert "finished trial (0, 1), found 5" in fails(*command, "--choose", 5)
    printed = succeeds(*command, "--max-error", max(errors))
    assert "top-1 after, test" in printed
    chosen = folder / "runs" / "chosen"
    assert {"result.json", "model.mtq", "report.html"} < set(names_in(chosen))
    number = json.loads((folder / "runs" / "sweep.json").read_text())["chosen"]["trial"]
    assert "the test set has been used" in fails(*command, "--choose", 1 - number)
    result = json.loads(succeeds(*command, "--choose", number, "--json"))
    assert result["trial"] == number
    found = json.loads(succeeds(*command, "--choose", number, "--seeds", 2, "--json"))
    assert [one["seed"] for one in found["runs"]] == [0, 1]
    assert found["runs"][0]["file_bytes"] == result["file_bytes"]
    assert found["deviation"]["file_bytes"] > 0
    assert json.loads((chosen / "seeds.json").read_text()) == found
    assert "deviation" in succeeds(*command, "--choose", number, "--seeds", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--choose", 1, "--max-error", 0.1], "expected --choose or --max-error, found both"),
        (["--seeds", 5], "expected --choose or --max-error with --seeds, found neither"),
        (["--trials", 0], "trials: expected at least 1, found 0"),
        (["--range", "method.nonsense=1:2"], "expected KEY=LOW:HIGH with an entry of recipe lenet5-digits"),
        (["--choose", 0], "expected the database of a sweep, found no file"),
        (["--storage", "nonsense"], "storage: expected the URL of a database"),
    ],
)
def test_options_that_make_no_sense(fails, tmp_path, options, message):
    assert message in fails("sweep", *OPTIONS, "--folder", tmp_path / "runs", *options)


def test_without_optuna(fails, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("optuna", "metaq.experiments.sweeps"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert fails("sweep", *OPTIONS) == "metaq: metaq sweep needs optuna: pip install 'metaq-nn[sweep]'\n"


@pytest.mark.slow
def test_seeds_of_a_recipe(succeeds, fails, tmp_path, names_in):
    command = ["train", *OPTIONS, "--folder", tmp_path / "run"]
    found = json.loads(succeeds(*command, "--seeds", 2, "--json"))
    assert names_in(tmp_path / "run") == ["seed-0", "seed-1", "seeds.json"]
    assert (tmp_path / "run" / "seed-1" / "report.html").exists()
    assert found["mean"]["file_bytes"] == sum(one["file_bytes"] for one in found["runs"]) / 2
    assert "seed-0: expected no file of a run" in fails(*command, "--seeds", 2)
    assert "mean" in succeeds(*command, "--seeds", 2, "--resume")
    assert "seeds: expected 2 to 1000, found 1" in fails(*command, "--seeds", 1)
