"""Every example runs as it stands."""

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from launcher import python_on

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
NEEDED = {
    "flower": "flwr",
    "train_accelerate": "accelerate",
    "train_lightning": "lightning",
    "train_trainer": "transformers",
}
"""The library that an example is for, where it is not one that metaq needs itself."""


def run(example, path, environment):
    if not find_spec(NEEDED.get(example.stem, "torch")):
        pytest.skip(f"{NEEDED[example.stem]} is not installed")
    processes = 2 if "torchrun" in example.read_text() else 1
    finished = subprocess.run(
        [*python_on(processes), str(example), str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=path.parent,
        env=environment,
    )
    assert finished.returncode == 0, finished.stderr
    assert path.stat().st_size > 0
    return finished.stdout


def brief_or_slow(example):
    """The plain loop runs every day; the others load large libraries or start processes."""
    return pytest.param(example, id=example.stem, marks=[] if example.stem == "train_small" else pytest.mark.slow)


@pytest.mark.parametrize("example", [brief_or_slow(example) for example in EXAMPLES])
def test_runs(example, tmp_path):
    run(example, tmp_path / "out.mtq", {name: value for name, value in os.environ.items() if name != "METAQ_DATA"})


# File bytes and accuracy that an example reaches at least on real data.
REACHED = {"train_lightning": (16_000, 0.96), "train_trainer": (136_000, 0.7)}


@pytest.mark.slow
@pytest.mark.skipif("METAQ_DATA" not in os.environ, reason="needs METAQ_DATA")
@pytest.mark.parametrize("name", REACHED)
def test_reaches_on_real_data(name, tmp_path):
    example = next(path for path in EXAMPLES if path.stem == name)
    output = run(example, tmp_path / "out.mtq", dict(os.environ))
    most_bytes, least_accuracy = REACHED[name]
    assert (tmp_path / "out.mtq").stat().st_size <= most_bytes
    assert float(output.split()[-1]) >= least_accuracy
