"""The demo's check of its own file."""

import pytest

from metaq.errors import FormatError
from metaq.experiments import run
from metaq.experiments.recipe import load_recipe
from metaq.report.demo import check_in_new_process, demo_entries, forget_run

SHORT = [
    "threads=1",
    "float_training.epochs=2",
    "training.epochs=2",
    "training.last_phase_epochs=1",
    "method.schedule=[[0, 0.0], [0.1, 1.0]]",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, run.Run(load_recipe("lenet5-digits", SHORT), folder, False, lambda *_: None).train()


def test_a_new_process_finds_the_same_weights(finished):
    folder, result = finished
    check_in_new_process(folder, result)
    entries = demo_entries(folder, result)
    assert entries["file"] == f"{(folder / run.FILE).stat().st_size:,} bytes"
    assert "file with zstd" in entries


@pytest.mark.parametrize("wrong", [{"weights_sha256": "0"}, {"test_after": {"accuracy": 2.0}}])
def test_a_difference_is_an_error(finished, wrong):
    folder, result = finished
    with pytest.raises(FormatError, match="expected"):
        check_in_new_process(folder, result | wrong)


def test_forgetting_removes_the_demos_files_only(tmp_path):
    (tmp_path / run.CHECKPOINT).write_text("x")
    (tmp_path / "mine.txt").write_text("x")
    forget_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
