"""The page of a sweep, and its rows."""

import re

import pytest

from metaq.report.sweep import summary, trial_rows, write_page


def trial(number, state="finished", size=None, error=None, is_on_front=False, **more):
    row = {"trial": number, "state": state, "is_on_front": is_on_front, "file_bytes": size, "held_out_error": error}
    return row | {"epochs": 1, "values": {"method.strength": 1e-5, "training.optimizer": "adam"}} | more


TRIALS = [
    trial(0, size=5000, error=0.02, is_on_front=True),
    trial(1, size=2000, error=0.05, is_on_front=True),
    trial(2, "pruned", 9000, 0.5),
    trial(3, "failed", reason="step: expected <b>less</b>"),
    trial(4, "running"),
]
RESULT = {"file_bytes": 5000, "ratio": 35.5, "test_before": {"accuracy": 0.99}, "test_after": {"accuracy": 0.9876}}


@pytest.fixture
def sweep():
    return {"study": "s<1>", "recipe": "r", "ranges": ["a.b=1:2"], "trials": TRIALS, "front": [1, 0], "chosen": None}


def test_rows_come_by_size(sweep):
    rows = trial_rows(sweep)
    assert [row["trial"] for row in rows] == [1, 0, 2, 3, 4]
    assert [row.get("front", "") for row in rows] == ["*", "*", "", "", ""]
    assert rows[0]["held_out_error"] == "5.00%"
    assert rows[3]["remark"] == "step: expected <b>less</b>"
    assert summary(sweep) == "2 finished, 1 pruned, 1 failed, 1 running"


def test_the_page_needs_nothing_else(sweep, tmp_path):
    page = write_page(sweep, tmp_path).read_text()
    assert "<svg" in page
    assert "{{" not in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "s&lt;1&gt;" in page
    assert "&lt;b&gt;less" in page
    assert "the only one" not in page
    assert page.count('class="chosen"') == 2


def test_the_page_shows_the_chosen_trial(sweep, tmp_path):
    page = write_page(sweep | {"chosen": {"trial": 0, "result": RESULT}}, tmp_path).read_text()
    assert "98.76%" in page
    assert "trial 0" in page
    assert "chosen</text>" in page  # the ring's name in the plot


def test_the_same_page_for_the_same_sweep(sweep, tmp_path):
    first = write_page(sweep, tmp_path).read_bytes()
    assert write_page(sweep, tmp_path).read_bytes() == first


@pytest.mark.parametrize(
    "trials", [[], [trial(0, "failed", reason="x")], [trial(0, size=10, error=0.0, is_on_front=True)]]
)
def test_a_sweep_with_few_trials(sweep, tmp_path, trials):
    assert write_page(sweep | {"trials": trials}, tmp_path).exists()
