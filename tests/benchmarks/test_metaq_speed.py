"""The benchmark of METaQ's speed runs: what it measures in a process of its own, and in training steps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "metaq_speed.py"

pytestmark = pytest.mark.slow


def test_memory():
    command = [sys.executable, str(SCRIPT), "--memory-of", "25000000", "--levels", "16"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (found["weights"], found["levels"]) == (25_000_000, 16)
    assert 1 <= found["training_floats_per_weight"] <= 3  # a copy of the weights at least; 3 is what the benchmark asks


def test_training(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import metaq_speed

    rows = metaq_speed.compare_training(1)
    assert [row["levels"] for row in rows] == [7, 15, 63, 257, 31]
    assert all(0 < row["metaq_milliseconds"] < row["plain_step_milliseconds"] for row in rows)
