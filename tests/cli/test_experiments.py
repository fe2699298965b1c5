"""Commands that train and measure networks."""

import json

from metaq.experiments.recipe import known_recipes, load_recipe

SHORT = ["threads=1", "float_training.epochs=1", "training.epochs=1", "training.last_phase_epochs=1"]


def test_ctrl_c_and_resume(tmp_path, names_in, start, interrupted):
    folder = tmp_path / "run"
    options = [f"--set={entry}" for entry in [*SHORT, "method.schedule=[[0, 0.0], [0.1, 1.0]]"]]
    arguments = ["train", "lenet5-digits", "--folder", folder, *options]
    code, output, errors = interrupted(start(*arguments), folder / "checkpoint.pt")
    assert (code, output) == (130, ""), errors
    assert errors.count("\n") == 1
    assert errors.startswith("metaq: stopped; ")
    assert "--resume" in errors
    known = {"config.json", "metrics.jsonl", "checkpoint.pt", "float.safetensors"}
    assert set(names_in(folder)) <= known
    resumed = start(*arguments, "--resume", "--json")
    output, errors = resumed.communicate(timeout=120)
    assert (resumed.returncode, errors) == (0, "")
    assert json.loads(output)["file_bytes"] == (folder / "model.mtq").stat().st_size


def test_ctrl_c_in_the_demo(tmp_path, names_in, start, interrupted):
    folder = tmp_path / "demo"
    code, output, errors = interrupted(start("demo", "--folder", folder), folder / "metrics.jsonl")
    assert (code, output) == (130, ""), errors
    assert errors.count("\n") == 1
    assert f"metaq train lenet5-digits --folder {folder} --resume" in errors
    assert set(names_in(folder)) <= {"config.json", "metrics.jsonl", "checkpoint.pt"}


def test_complexity(succeeds, tmp_path):
    plot = tmp_path / "plot.svg"
    printed = succeeds("complexity", "--levels", 32, "--draws", 200, "--plot", plot)
    assert "largest" in printed
    assert plot.read_text().startswith("<?xml")
    result = json.loads(succeeds("complexity", "--levels", 32, "--draws", 200, "--plot", plot, "-f", "--json"))
    assert sum(result["counts"]) == 200
    assert result["largest"] < 32


def test_recipes(succeeds, fails):
    rows = {row["recipe"]: row for row in json.loads(succeeds("recipes", "--json"))}
    assert set(rows) == set(known_recipes())
    for name, row in rows.items():
        recipe = load_recipe(name)
        assert (row["network"], row["data"]) == (recipe.network.name, recipe.data.name)
        assert recipe.method.name in row["method"]
        assert row["description"][0].isupper()
        assert row["description"].endswith(".")
    assert rows["lenet5-caffe-hemp-lobster"]["method"] == "hemp + lobster"
    assert "lenet5-digits" in succeeds("recipes")
    fails("recipes", "nonsense")


def test_of_overrides_of_an_entry_the_later_wins(fails):
    options = ["--set", "threads=1", "--set", "training.epochs=0", "--folder", "nowhere"]
    assert "epochs: expected 1 to 1000000000, found 0" in fails("train", "lenet5-digits", *options)
    options += ["--set", "training.epochs=-3"]
    assert "epochs: expected 1 to 1000000000, found -3" in fails("train", "lenet5-digits", *options)


def test_a_run_does_not_write_over_files(fails, tmp_path):
    for name in ("config.json", "model.mtq"):
        (tmp_path / name).write_text("mine")
    message = fails("train", "lenet5-digits", "--folder", tmp_path)
    assert "expected no file of a run, found config.json, model.mtq; add --resume" in message
    assert (tmp_path / "config.json").read_text() == "mine"
    assert "found both" in fails("train", "lenet5-digits", "--folder", tmp_path, "--resume", "--force")
    fails("train", "lenet5-digits", "--folder", tmp_path, "--device", "nonsense", "--set", "nonsense=1", "--force")
    assert (tmp_path / "config.json").read_text() == "mine"


def test_force_begins_a_run_anew(succeeds, tmp_path):
    (tmp_path / "config.json").write_text("mine")
    options = [f"--set={entry}" for entry in [*SHORT, "method.schedule=[[0, 0.0], [0.1, 1.0]]"]]
    assert succeeds("train", "lenet5-digits", "--folder", tmp_path, *options, "--force", "--quiet") == ""
    assert json.loads((tmp_path / "config.json").read_text())["recipe"] == "lenet5-digits"


def test_complexity_does_not_write_over_files(fails, tmp_path):
    plot = tmp_path / "plot.svg"
    plot.write_text("mine")
    assert "--force" in fails("complexity", "--levels", 32, "--draws", 200, "--plot", plot)
    assert plot.read_text() == "mine"
