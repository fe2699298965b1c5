"""Results by task: order, seeds, rows and JSON."""

import json
import statistics
from pathlib import Path

import pytest

from metaq.report.run_results import read_results
from metaq.report.tasks import TEXT_COLUMNS, task_entries, task_rows, tasks_of

RESULTS = Path(__file__).parents[2] / "results"
SEEDS = [(0, 1000, 0.99), (1, 1200, 0.988), (2, 1280, 0.99)]


@pytest.fixture
def tasks(tmp_path, made_result, write):
    """A function from contents of results to their tasks."""

    def make(*contents):
        for number, content in enumerate(contents):
            write(tmp_path / f"{number}.json", content)
        return tasks_of(read_results([tmp_path]))

    return make


def test_the_results_of_the_repository():
    found = {task.title: task for task in tasks_of(read_results([RESULTS]))}
    networks = ["lenet300 on mnist", "lenet5 on digits", "lenet5 on mnist", "lenet5-caffe on mnist"]
    assert list(found) == ["char-transformer on tinyshakespeare", *networks, "resnet20 on cifar10-jpeg"]
    caffe = found["lenet5-caffe on mnist"]
    assert (len(caffe.results), len(caffe.published), caffe.groups) == (7, 6, [])
    rows = task_rows(caffe)
    assert [row["bytes"] for row in rows[:4]] == [1150, 1343, 1520, 2000]
    assert rows[1]["top-1, test"] == "99.08%"
    assert rows[1]["float network"] == "99.36%"
    assert rows[1]["ratio"] == pytest.approx(1_724_320 / 1343)
    assert rows[2]["recipe or source"] == "MIRACLE, 2019"
    assert rows[2]["ratio"] == pytest.approx(1_724_320 / 1520)
    assert rows[0]["remark"] == "published; about this size"
    assert {tuple(row) for row in rows} == {tuple(rows[0])}  # so that all tables have the same columns
    assert set(TEXT_COLUMNS) < set(rows[0])


def test_seeds_have_a_mean_and_a_deviation(tasks, made_result):
    other = made_result(file_bytes=5000)
    other["config"]["method"]["strength"] = 1.0
    seeds = [made_result(seed=seed, file_bytes=size, accuracy=accuracy) for seed, size, accuracy in SEEDS]
    (task,) = tasks(*seeds, other)
    (group,) = task.groups
    assert [result.seed for result in group.results] == [0, 1, 2]
    assert group.file_bytes.mean == pytest.approx(1160)
    assert group.file_bytes.deviation == pytest.approx(statistics.stdev(size for _, size, _ in SEEDS))
    rows = [row for row in task_rows(task) if row["recipe or source"] == "lenet5-mnist"]
    assert [row["bytes"] for row in rows] == [1000, "1,160 ± 144", 1200, 1280, 5000]
    assert rows[1]["top-1, test"] == "98.93% ± 0.12"
    assert rows[1]["seed"] == "mean of 3"
    assert (rows[0]["seed"], rows[1]["seconds"]) == ("0", "")


def test_the_same_seed_on_two_machines_is_no_group(tasks, made_result):
    (task,) = tasks(made_result(file_bytes=1000), made_result(file_bytes=1001))
    assert (len(task.results), task.groups) == (2, [])


def test_another_network_has_no_ratio(tasks, made_result):
    content = made_result()
    content["config"]["network"]["name"], content["config"]["data"]["name"] = "resnet20", "cifar10-jpeg"
    (task,) = tasks(content)
    published = task_rows(task)[-1]
    assert published["ratio"] == ""
    assert published["remark"] == "published; ResNet-20-4, wider than resnet20; on the original cifar10"


def test_a_text_is_shown_by_its_loss(tasks, made_result):
    (task,) = tasks(made_result("shakespeare-char", loss=1.4567))
    assert task.published == []
    (row,) = task_rows(task)
    assert row["loss, test"] == "1.4567"
    assert "top-1, test" not in row
    assert "remark" not in row


def test_entries_are_json(tasks, made_result):
    (task,) = tasks(*(made_result(seed=seed, file_bytes=size, accuracy=a) for seed, size, a in SEEDS))
    found = json.loads(json.dumps(task_entries(task)))
    assert (found["network"], found["data"], found["measure"]) == ("lenet5", "mnist", "accuracy")
    first = found["results"][0]
    assert (first["recipe"], first["seed"], first["file_bytes"], first["after"]) == ("lenet5-mnist", 0, 1000, 0.99)
    assert Path(first["path"]).name == "0.json"
    (group,) = found["seeds"]
    assert group["seeds"] == [0, 1, 2]
    assert group["file_bytes"]["mean"] == pytest.approx(1160)
    assert group["after"]["deviation"] == pytest.approx(statistics.stdev([0.99, 0.988, 0.99]))
    assert [point["size_bytes"] for point in found["published"]] == [2559, 3732, 6103]
