"""`benchmarks/sst2.py` on a tiny random BERT: every case makes a file that is read back, and nothing is made twice."""

import importlib
import json
import random
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import hugging_face_folders as folders
from transformers import TrainerCallback

import metaq
from metaq.integrations.transformers import MetaqCallback

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZES = {"metaq": 9000, "hemp": 9000, "post-training": 9000, "calibrated": 9000, "difference": 9000}


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("METAQ_DATA", str(tmp_path))
    folders.bert(tmp_path / "network", "BertModel")
    (tmp_path / "sst2").mkdir()
    words = random.Random(0)
    for name, count in (("train", 150), ("dev", 40), ("test", 40)):
        lines = []
        for number in range(count):
            others = [words.choice(["the", "on", "a", "mat"]) for _ in range(words.randint(1, 8))]
            lines.append(" ".join([*others, ("dog", "cat")[number % 2]]) + f"\t{number % 2}")
        (tmp_path / "sst2" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    paths = ["--folder", tmp_path / "network", "--work", tmp_path / "work", "--output", tmp_path / "found.json"]
    return [*map(str, paths), "--sizes", "9000", "--float-epochs", "6", "--float-learning-rate", "5e-3"]


def rows_of(arguments):
    return json.loads(Path(arguments[5]).read_text())["rows"]


@pytest.mark.slow
def test_every_case_makes_a_file_once_and_the_test_set_is_used_at_the_end(arguments, capsys):
    sst2 = importlib.import_module("sst2")
    more = ["--epochs", "2", "--learning-rate", "5e-3"]
    sst2.main([*arguments, *more])
    rows = {row["case"]: row for row in rows_of(arguments)}
    assert list(rows) == importlib.import_module("sst2_cases").BY_DEFAULT
    assert rows["float"]["dev_accuracy"] == 1.0
    for name in ("narrow", "metaq", "bitdelta"):
        assert rows[name]["dev_accuracy"] > 0.9, name
    for name in SIZES:
        assert rows[name]["bytes"] <= 1.02 * rows[name]["size"], name
    assert rows["lora-4bit"]["bytes"] < rows["lora"]["bytes"] < rows["float"]["bytes"] / 10
    assert rows["bitdelta"]["bytes"] < rows["float"]["bytes"] / 5
    assert rows["float"]["steps"] == 6 * 5
    assert rows["float"]["steps_per_second"] > 0
    assert rows["narrow"]["dropped_embeddings"] > 0.5
    assert not list(Path(arguments[3]).glob("*/checkpoint-*"))
    assert all("test_accuracy" not in row for row in rows.values())

    sst2.main([*arguments, *more, "--cases", "float", "metaq", "--test"])
    again = rows_of(arguments)
    assert [row for row in again if "test_accuracy" not in row] == list(rows.values())[1:2] + list(rows.values())[3:]
    assert again[0]["test_accuracy"] == 1.0
    with pytest.raises(SystemExit, match="expected a row"):
        sst2.main([*arguments, "--cases", "metaq", "--test"])


@pytest.mark.slow
def test_a_difference_with_a_strength_in_place_of_a_size(arguments):
    cases = ["--cases", "difference-strength", "--epochs", "6", "--learning-rate", "5e-3", "--strength", "0"]
    importlib.import_module("sst2").main([*arguments, *cases])
    (row,) = rows_of(arguments)
    assert (row["strength"], row["size"]) == (0, 0)
    assert row["dev_accuracy"] > 0.9


def test_the_head_begins_at_zero_and_unmoved_rows_take_nothing(arguments):
    task_of = importlib.import_module("sst2_task")
    task = task_of.Task(Path(arguments[1]))
    assert (len(task.train), len(task.held_out), len(task.dev), len(task.test)) == (135, 15, 40, 40)
    base, tuned = task.base(), task.base()
    assert not base.classifier.weight.any()
    embeddings = tuned.bert.embeddings.word_embeddings.weight
    with torch.no_grad():
        embeddings[3:5] += 1
    share = task_of.drop_unmoved_embeddings(tuned, base)
    narrow = tuned.bert.embeddings.word_embeddings
    assert torch.equal(narrow.weight, embeddings[3:5])
    found = narrow(torch.tensor([[2, 3, 4], [5, 0, 15]]))
    expected = torch.stack([0 * embeddings[0], embeddings[3], embeddings[4]])
    assert torch.equal(found, torch.stack([expected, torch.zeros_like(expected)]))
    assert share == pytest.approx(1 - 2 / (16 + 64 + 2))


@pytest.mark.slow
def test_training_that_was_stopped_goes_on_to_the_same_file(arguments, tmp_path):
    task_of = importlib.import_module("sst2_task")
    task = task_of.Task(Path(arguments[1]))
    schedule = task_of.Schedule(epochs=2, learning_rate=5e-3)

    def train(folder, *more):
        callbacks = [MetaqCallback(metaq.METaQ(target_bytes=9000)), *more]
        found = task_of.fine_tune(task, task.base(), schedule, folder, callbacks)
        return found, (folder / "model.mtq").read_bytes()

    class Stop(TrainerCallback):
        def on_step_end(self, arguments, state, *_, **__):
            if state.global_step == 7:
                raise KeyboardInterrupt

    whole, expected = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", Stop())
    rest, found = train(tmp_path / "stopped")
    assert whole["steps"] == rest["steps"] == 10
    assert found == expected
    task_of.forget_checkpoints(tmp_path / "stopped")
    assert not list((tmp_path / "stopped").glob("checkpoint-*"))


def test_lora_and_one_bit_files_give_the_networks_back(arguments, tmp_path):
    task = importlib.import_module("sst2_task").Task(Path(arguments[1]))
    updates = importlib.import_module("sst2_updates")
    model = task.base().eval()
    updates.add_lora(model, ["query", "value"], 0)
    with torch.no_grad():
        for parameter in updates.trained_tensors(model).values():
            assert parameter.shape
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not name.endswith("down"):
                parameter.normal_(std=0.1)
    (batch,) = task.batches(task.dev, 40)
    del batch["labels"]
    merged = updates.merge(task.base().eval(), updates.trained_tensors(model))
    torch.testing.assert_close(merged(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-4)

    tuned = task.base()
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.01 * torch.where(torch.rand_like(parameter) < 0.5, 1.0, -1.0)
    updates.save_one_bit(task, tuned, tmp_path / "bits.safetensors")
    found = updates.read_one_bit(task.base(), tmp_path / "bits.safetensors")
    for (name, parameter), expected in zip(found.named_parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, atol=3e-4, rtol=1e-3, msg=name)
