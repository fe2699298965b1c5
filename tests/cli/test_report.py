"""`metaq report`."""

import json
import shutil
import sys
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def copied(here):
    """A function that copies a result of the repository to a path."""

    def copy(name, path, **entries):
        content = json.loads((RESULTS / f"{name}.json").read_text())
        content["config"]["seed"] = entries.pop("seed", content["config"]["seed"])
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (here / path).write_text(json.dumps(content | entries))
        return here / path

    return copy


def test_a_page_a_table_and_json(here, succeeds):
    paths = [RESULTS / f"{name}.json" for name in ("lenet300-mnist", "lenet300-deep-compression")]
    printed = succeeds("report", *paths)
    assert "lenet300 on mnist" in printed
    assert "EPR, 2020" in printed
    assert "Look at report.html." in printed
    page = (here / "report.html").read_text()
    assert page.count("<svg") == 1
    (found,) = json.loads(succeeds("report", *paths, "-o", "other.html", "--json"))
    assert [result["recipe"] for result in found["results"]] == ["lenet300-mnist", "lenet300-deep-compression"]
    assert (here / "other.html").read_text() == page
    assert succeeds("report", *paths, "-f", "--quiet") == ""


def test_own_folders(copied, succeeds, fails):
    message = fails("report")
    assert "expected a folder results or runs here, found neither; train a recipe with metaq train" in message
    copied("lenet5-digits", "runs/lenet5-digits/result.json")
    assert [len(task["results"]) for task in json.loads(succeeds("report", "--json"))] == [1]
    copied("lenet5-mnist", "results/lenet5-mnist.json")
    copied("lenet5-digits", "results/lenet5-digits.json")
    titles = [task["data"] for task in json.loads(succeeds("report", "--json", "-f"))]
    assert titles == ["digits", "mnist"]


def test_two_seeds(copied, succeeds):
    copied("lenet5-digits", "runs/d/seed-0/result.json", file_bytes=800)
    copied("lenet5-digits", "runs/d/seed-1/result.json", file_bytes=900, seed=1)
    printed = succeeds("report", "runs/d")
    assert "850 ± 71" in printed
    assert "mean of 2" in printed
    (task,) = json.loads(succeeds("report", "runs/d", "--json", "-f"))
    assert task["seeds"][0]["file_bytes"]["mean"] == 850


def test_outputs_are_not_written_over(here, copied, succeeds, fails):
    path = copied("lenet5-digits", "result.json")
    content = path.read_text()
    (here / "report.html").write_text("mine")
    assert "expected no such file yet, found one; --force replaces it" in fails("report", "result.json")
    assert (here / "report.html").read_text() == "mine"
    succeeds("report", "result.json", "--force", "-q")
    assert (here / "report.html").read_text() != "mine"
    assert "found the source itself" in fails("report", "result.json", "-o", "result.json", "-f")
    assert "found the source itself" in fails("report", here, "-o", "result.json", "-f")
    assert path.read_text() == content
    assert "expected a file to write, found a directory" in fails("report", "result.json", "-o", here)
    assert "nowhere/x.html: expected a writable place" in fails("report", "result.json", "-o", "nowhere/x.html")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"file_bytes": "800"}, "result.json, file_bytes: expected a whole number from 1 to 2^63, found str"),
        ({"test_after": {"accuracy": float("nan")}}, "expected a number from 0 to 1, found nan"),
        ({"config": []}, "result.json, config: expected a JSON object, found list"),
    ],
)
def test_bad_results(here, copied, fails, entries, message):
    path = copied("lenet5-digits", "run/result.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    assert message in fails("report", path)
    assert not (here / "report.html").exists()


def test_what_is_damaged_in_a_folder_is_named_and_passed_over(here, copied, command):
    """One line for each such file and the exit code of success, as where `compress` leaves something as it was."""
    copied("lenet5-digits", "run/whole.json")
    copied("lenet5-mnist", "run/wrong.json", file_bytes="800")
    (here / "run" / "cut.json").write_text("{")
    code, output, errors = command("report", "run", "--json")
    assert code == 0
    assert [task["data"] for task in json.loads(output)] == ["digits"]
    first, second = errors.splitlines()
    assert first.startswith("metaq: run/cut.json: expected JSON, found something else")
    assert second.startswith("metaq: run/wrong.json, file_bytes: expected a whole number from 1 to 2^63, found str")
    assert first.endswith("; passed over")
    assert second.endswith("; passed over")
    (here / "run" / "whole.json").unlink()
    code, output, errors = command("report", "run", "-f")
    assert (code, output) == (2, "")
    assert errors.splitlines()[:2] == [first, second]
    assert "run: expected results of metaq train, found none" in errors.splitlines()[2]


def test_files_that_are_no_results(here, copied, fails, succeeds):
    copied("lenet5-digits", "run/result.json")
    shutil.copy(RESULTS / "lenet5-digits.mtq", here / "x.mtq")
    (here / "run" / "other.json").write_text("[]")
    succeeds("report", "run")
    assert "other.json: expected a result.json or seeds.json of metaq train, found other JSON" in fails(
        "report", "run/other.json", "-f"
    )
    assert "x.mtq: expected JSON, found something else" in fails("report", "x.mtq", "-f")
    assert "nowhere: expected a readable file" in fails("report", "nowhere", "-f")
    (here / "run" / "other.json").write_text("{")
    assert "other.json: expected JSON, found something else" in fails("report", "run/other.json", "-f")


def test_without_matplotlib(copied, fails, monkeypatch):
    copied("lenet5-digits", "result.json")
    for name in ("tasks_page", "task_plot", "labels", "drawing"):
        monkeypatch.delitem(sys.modules, f"metaq.report.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = fails("report", "result.json")
    assert message == "metaq: metaq report needs matplotlib: pip install 'metaq-nn[train]'\n"
