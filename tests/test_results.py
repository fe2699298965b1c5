"""The committed results: every file is whole, and measures what the JSON beside it says."""

import json
import os
from pathlib import Path

import pytest

from metaq.experiments.evaluation import evaluate_file

RESULTS = sorted((Path(__file__).parents[1] / "results").glob("*.mtq"))


@pytest.mark.skipif(
    "METAQ_DATA" not in os.environ, reason="needs MNIST: set METAQ_DATA to the folder that holds mnist/"
)
@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_file_is_what_its_json_says(path):
    said = json.loads(path.with_suffix(".json").read_text())
    found = evaluate_file(path)
    assert found["file_bytes"] == said["file_bytes"]
    assert found["weights_sha256"] == said["weights_sha256"]
    assert found["test_accuracy"] == said["test_after"]["accuracy"]
