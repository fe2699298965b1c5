"""The tables of docs/results.md are those that `docs/write_results.py` writes."""

import importlib
from pathlib import Path

import pytest

from metaq.report.run_results import RunResult
from metaq.report.tasks import task_rows, tasks_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("write_results")


def test_the_page_has_these_tables_and_no_others(write_results):
    page = write_results.PAGE.read_text()
    assert write_results.written(page, write_results.tables()) == page, "python docs/write_results.py writes the page"


def test_a_table_takes_the_place_of_the_one_before(write_results):
    page = "# A\n\n<!-- table: x -->\n\n| a |\n|---|\n| 1 |\n\nText.\n\n<!-- table: y -->\n\n| z |\n"
    tables = {"x": [{"b": 1234, "c": "5%"}], "y": [{"d": 0.5}, {"d": 0.25}]}
    x = "<!-- table: x -->\n\n| b | c |\n|---|---|\n| 1,234 | 5 % |\n"
    expected = f"# A\n\n{x}\nText.\n\n<!-- table: y -->\n\n| d |\n|---|\n| 0.5 |\n| 0.25 |\n"
    assert write_results.written(page, tables) == expected
    assert write_results.written("<!-- table: x -->\n", {"x": tables["x"]}) == x


@pytest.mark.parametrize("page", ["", "<!-- table: x -->\n\n<!-- table: y -->\n", "<!-- table: x -->\n" * 2])
def test_each_table_has_one_place(write_results, page):
    with pytest.raises(SystemExit, match=r"results\.md: expected one comment for each of \['x'\], found "):
        write_results.written(page, {"x": [{"a": 1}]})


def test_what_is_missing_is_said(write_results):
    path = ROOT / "results" / "nothing.json"
    result = RunResult(path, "lenet5-mnist", "lenet5", "mnist", "metaq", 0, "{}", 177_704, 800, 0.99, 0.98)
    (task,) = tasks_of([result])
    ours, *published = (write_results.page_row(row) for row in task_rows(task))
    assert ours["file or source"] == "not kept"
    assert ours["seconds"] == ours["machine"] == "not recorded"
    assert published
    assert {row[key] for row in published for key in ("seconds", "machine", "command", "run")} == {""}


def test_recipes_are_with_a_result_or_without(write_results):
    tables = write_results.tables()
    commands = [row["command"] for rows in tables.values() for row in rows if row["command"]]
    recipes = {path.stem for path in (ROOT / "python" / "metaq" / "experiments" / "recipes").glob("*.toml")}
    assert {command.split()[-1].rstrip("`") for command in commands} == recipes
    without = [row["command"] for row in tables[write_results.WITHOUT_RESULT]]
    assert all(commands.count(command) == 1 for command in without)
