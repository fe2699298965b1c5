"""The page of all tasks."""

import re
from pathlib import Path

from metaq.report.run_results import read_results
from metaq.report.tasks import tasks_of
from metaq.report.tasks_page import write_page

RESULTS = Path(__file__).parents[2] / "results"


def test_the_page_needs_nothing_else(tmp_path):
    names = "lenet5-mnist", "lenet5-caffe-mnist", "lenet5-caffe-hemp1"
    results = read_results([RESULTS / f"{name}.json" for name in names])
    write_page(tasks_of(results), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == page.count("<table>") == 2
    assert "{{" not in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "2 runs, 6 published points." in page
    assert "MIRACLE, 2019" in page
    assert '<td class="number">99.08%</td>' in page
    assert "ratios are to the float32 network" in page


def test_texts_of_results_are_texts(tmp_path, made_result, write):
    content = made_result("lenet5-digits") | {"recipe": "<b>\x1b[31m", "machine": "&<i>"}
    content["config"]["network"]["name"] = "n<u>\u202e"
    write_page(tasks_of(read_results([write(tmp_path / "x.json", content)])), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert not re.search(r"<b>|<i>|<u>|\x1b|\u202e", page)
    assert "&lt;b&gt;\\x1b[31m" in page
    assert "n&lt;u&gt;\\u202e on digits" in page
    assert "1 run." in page
    assert "others have published" not in page
    assert "Published sizes" not in page
