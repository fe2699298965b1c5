"""A whole run of the recipe for text, on a short one: its file is measured on the next characters."""

import hashlib
from importlib import resources

import pytest

from metaq.experiments import run
from metaq.experiments.data import tinyshakespeare
from metaq.experiments.data.files import PublishedFile
from metaq.experiments.evaluation import evaluate_file
from metaq.experiments.models import transformer
from metaq.experiments.recipe import load_recipe


def test_a_transformer_learns_a_short_text_and_so_does_its_file(tmp_path, monkeypatch):
    content = b"abcdefghijklmnopqrst" * 400
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_bytes(content)
    monkeypatch.setenv("METAQ_DATA", str(tmp_path))
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(tinyshakespeare, "_FILE", PublishedFile("input.txt", sha256, len(content)))
    monkeypatch.setattr(transformer, "_WIDTH", 32)
    monkeypatch.setattr(transformer, "_LAYERS", 1)
    packaged = resources.files("metaq.experiments") / "recipes" / "shakespeare-char.toml"
    recipe = tmp_path / "short.toml"
    recipe.write_text(packaged.read_text().replace("held_out = 55770", "held_out = 400"))
    overrides = ["float_training.epochs=4", "training.epochs=6", "training.last_phase_epochs=1"]
    for stage in ("float_training", "training"):
        overrides += [f"{stage}.batch_size=4", f"{stage}.learning_rate=1e-2"]
    overrides += ["method.target_ratio=10"]
    result = run.Run(load_recipe(str(recipe), overrides), tmp_path / "run", False, lambda *_: None).train()
    assert result["test_before"]["accuracy"] > 0.9
    assert result["test_after"]["accuracy"] > 0.9
    assert result["ratio"] == pytest.approx(10, rel=0.05)
    found = evaluate_file(tmp_path / "run" / run.FILE, str(recipe))
    assert found["weights_sha256"] == result["weights_sha256"]
    assert found["test_accuracy"] == result["test_after"]["accuracy"]
    assert found["network"] == "char-transformer"
