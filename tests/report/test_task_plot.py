"""The plot of a task."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from metaq.report.measures import LOSS
from metaq.report.run_results import RunResult, read_results
from metaq.report.task_plot import size_plot
from metaq.report.tasks import tasks_of

RESULTS = Path(__file__).parents[2] / "results"


def result(**entries):
    default = {"recipe": "r", "network": "resnet32", "data": "cifar10-jpeg", "method": "metaq", "seed": 0}
    sizes = {"float32_bytes": 10_000, "file_bytes": 100, "before": 0.9, "after": 0.8}
    return RunResult(**{"path": Path("x.json"), "setting": "{}"} | default | sizes | entries)


def texts_of(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_runs_stand_beside_published_points():
    (task,) = (task for task in tasks_of(read_results([RESULTS])) if task.network == "lenet5-caffe")
    svg = size_plot(task)
    texts = texts_of(svg)
    for label in ("lenet5-caffe-hemp2", "lenet5-caffe-mnist", "MIRACLE", "Deep Compression", "published", "1,000"):
        assert texts.count(label) == 1
    assert "float32, 1,724,320 bytes: 99.36% to 99.59%" in texts
    assert "7 runs and 6 published points" in svg
    assert "var(--after)" in svg
    assert "var(--second)" in svg
    assert size_plot(task) == svg


def test_one_label_for_the_seeds_of_a_recipe():
    (task,) = tasks_of([result(seed=seed, file_bytes=100 + seed, after=0.8 + seed / 100) for seed in range(3)])
    texts = texts_of(size_plot(task))
    assert texts.count("r") == 1
    assert "mean of seeds and one deviation" in texts
    assert "published, on the original cifar10" in texts
    assert "float32, 10,000 bytes: 90.00%" in texts


def test_a_loss_is_best_where_it_is_least():
    results = [result(data="tinyshakespeare", before=before, after=2.0) for before in (1.5, 1.4)]
    (task,) = tasks_of(results)
    assert task.measure is LOSS
    texts = texts_of(size_plot(task))
    assert "float32, 10,000 bytes: 1.5000 to 1.4000" in texts
    assert "loss, test" in texts
    assert "published" not in texts


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "entries",
    [
        {"file_bytes": 1, "before": 0.0, "after": 0.0},
        {"file_bytes": (1 << 63) - 1, "before": 1.0, "after": 1.0},
        {"data": "tinyshakespeare", "before": 1e9, "after": 0.0},
        {"recipe": "$x^{$ <b>\x1b[31m\N{CJK UNIFIED IDEOGRAPH-4E2D}\0", "network": "n\n<\x1b", "data": "d"},
    ],
)
def test_odd_values(entries):
    tasks = tasks_of([result(**entries), replace(result(**entries), seed=1)])
    svg = size_plot(tasks[0])
    assert svg.startswith("<svg")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]|<b>|nan", svg)
