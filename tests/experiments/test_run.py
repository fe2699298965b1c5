"""Whole runs, short ones: what they leave, that they can be killed, and that real training makes files small."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import metaq
from metaq.errors import FormatError, InputError
from metaq.experiments import run
from metaq.experiments.evaluation import evaluate_file
from metaq.experiments.recipe import load_recipe
from metaq.format.reader import Reader

SHORT = [
    "threads=1",
    "float_training.epochs=2",
    "training.epochs=4",
    "training.last_phase_epochs=2",
    "method.schedule=[[0, 0.0], [0.1, 1.0]]",
    "method.strength=1e-3",
]


def short_run(folder, resume=False, advance=lambda *_: None, overrides=(), device="cpu"):
    return run.Run(load_recipe("lenet5-digits", [*SHORT, *overrides]), folder, resume, advance, device).train()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, short_run(folder)


def test_a_run_leaves_everything_behind(finished):
    folder, result = finished
    names = {run.CONFIG, run.METRICS, run.CHECKPOINT, run.FLOAT_NETWORK, run.FILE, run.RESULT}
    assert {path.name for path in folder.iterdir()} == names
    lines = [json.loads(line) for line in (folder / run.METRICS).read_text().splitlines()]
    assert [(line["stage"], line["epoch"]) for line in lines] == [("float", 0), ("float", 1)] + [
        ("compress", e) for e in range(4)
    ]
    assert json.loads((folder / run.RESULT).read_text()) == result
    assert result["file_bytes"] == (folder / run.FILE).stat().st_size
    assert result["epoch"] in (2, 3)


def test_neurons_in_another_order_make_the_file_smaller(finished, tmp_path):
    told = set()

    def advance(what, done, total):
        told.add((what, total))

    result = short_run(tmp_path, advance=advance, overrides=["file.neuron_moves=10"])
    assert ("order of neurons", 10) in told
    assert result["file_bytes"] < finished[1]["file_bytes"]
    assert result["test_after"]["loss"] == pytest.approx(finished[1]["test_after"]["loss"], rel=1e-4)
    assert evaluate_file(tmp_path / run.FILE)["weights_sha256"] == result["weights_sha256"]
    recipe = load_recipe("lenet5-digits", [*SHORT, "file.neuron_moves=10"])
    again = run.Run(recipe, tmp_path, True, advance).train()
    assert again | {"seconds": 0} == result | {"seconds": 0}
    of_epochs = sum(json.loads(line)["seconds"] for line in (tmp_path / run.METRICS).read_text().splitlines())
    assert result["seconds"] > of_epochs


def test_the_file_holds_the_trained_network(finished):
    folder, result = finished
    found = evaluate_file(folder / run.FILE)
    assert found["weights_sha256"] == result["weights_sha256"]
    assert found["test_accuracy"] == result["test_after"]["accuracy"]
    assert Reader((folder / run.FILE).read_bytes()).header.metadata == {"recipe": "lenet5-digits"}


class KilledError(Exception):
    pass


@pytest.mark.parametrize("at_step", [50, 76, 100, 200])
def test_a_run_killed_anywhere_resumes_to_the_same_bytes(finished, tmp_path, at_step):
    steps = 0

    def kill(*_):
        nonlocal steps
        steps += 1
        if steps == at_step:
            raise KilledError

    with pytest.raises(KilledError):
        short_run(tmp_path, advance=kill)
    assert not (tmp_path / run.FILE).exists()
    resumed = short_run(tmp_path, resume=True)
    assert (tmp_path / run.FILE).read_bytes() == (finished[0] / run.FILE).read_bytes()
    assert resumed["weights_sha256"] == finished[1]["weights_sha256"]
    lines = (tmp_path / run.METRICS).read_text().splitlines()
    assert len(lines) == 6


def test_a_run_with_an_average_resumes_to_the_same_bytes(tmp_path):
    def kill(stage, done, _):
        if (stage, done) == ("compress", 70):
            raise KilledError

    overrides = ["training.average_decay=0.95"]
    whole = short_run(tmp_path / "whole", overrides=overrides)
    with pytest.raises(KilledError):
        short_run(tmp_path / "killed", advance=kill, overrides=overrides)
    assert short_run(tmp_path / "killed", resume=True, overrides=overrides)["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("at_step", [1, 100])
def test_a_run_on_a_gpu_resumes(tmp_path, at_step):
    steps = iter(range(at_step))

    def kill(*_):
        if next(steps, None) is None:
            raise KilledError

    with pytest.raises(KilledError):
        short_run(tmp_path, advance=kill, device="cuda")
    result = short_run(tmp_path, resume=True, device="cuda")
    found = evaluate_file(tmp_path / run.FILE)
    assert found["weights_sha256"] == result["weights_sha256"]
    assert found["test_accuracy"] == pytest.approx(result["test_after"]["accuracy"], abs=0.01)


@pytest.mark.parametrize("device", ["gpu", "", "meta", "hpu", "cuda:99"])
def test_a_device_that_is_none(tmp_path, device):
    with pytest.raises(InputError, match=rf"^device: expected one that torch can use here, found '{device}' \(.+\)$"):
        short_run(tmp_path, device=device)
    assert not list(tmp_path.iterdir())


def test_resuming_a_finished_run_changes_nothing(finished):
    folder, _ = finished
    before = (folder / run.FILE).read_bytes()
    short_run(folder, resume=True)
    assert (folder / run.FILE).read_bytes() == before


def test_a_run_is_not_overwritten_nor_mixed_with_another(finished):
    folder, _ = finished
    with pytest.raises(InputError, match="--resume"):
        short_run(folder)
    with pytest.raises(InputError, match="another method"):
        short_run(folder, resume=True, overrides=["method.strength=1"])


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    (tmp_path / run.CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(FormatError, match="expected a checkpoint"):
        short_run(tmp_path, resume=True)


def test_evaluate_names_what_is_missing(finished, tmp_path):
    path = tmp_path / "bare.mtq"
    metaq.save(metaq.compress(metaq.load_file(finished[0] / run.FILE), step=0.01), path)
    with pytest.raises(InputError, match="--recipe"):
        evaluate_file(path)
    assert evaluate_file(path, "lenet5-digits")["network"] == "lenet5"
    (tmp_path / "other.mtq").write_bytes(metaq.encode({}))
    with pytest.raises(InputError, match="tensors of lenet5"):
        evaluate_file(tmp_path / "other.mtq", "lenet5-digits")


def test_ctrl_c_exits_with_130_and_the_run_goes_on(tmp_path, finished):
    overrides = [part for override in SHORT for part in ("--set", override)]
    command = [sys.executable, "-m", "metaq", "train", "lenet5-digits", "--folder", str(tmp_path / "run"), *overrides]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / run.METRICS
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") >= 1) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "--resume" in errors
    assert not list((tmp_path / "run").glob(".*"))
    finished_process = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert finished_process.returncode == 0, finished_process.stderr
    assert (tmp_path / "run" / run.FILE).read_bytes() == (finished[0] / run.FILE).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(
    "METAQ_DATA" not in os.environ, reason="needs MNIST: set METAQ_DATA to the folder that holds mnist/"
)
def test_two_epochs_on_mnist_shrink_the_file_and_keep_the_accuracy(tmp_path):
    overrides = [
        "float_training.epochs=1",
        "training.epochs=2",
        "training.last_phase_epochs=1",
        "training.batch_size=64",
        "method.schedule=[[0, 0.0], [0.1, 1.0]]",
    ]
    result = run.Run(load_recipe("lenet5-mnist", overrides), tmp_path, False, lambda *_: None).train()
    sizes = [json.loads(line).get("file_bytes") for line in (tmp_path / run.METRICS).read_text().splitlines()]
    assert sizes[2] < sizes[1] < 177_704 / 15
    assert result["file_bytes"] < 177_704 / 25
    assert result["test_after"]["accuracy"] > result["test_before"]["accuracy"] - 0.02 > 0.94


@pytest.mark.parametrize("multiplies", [True, False])
def test_bfloat16_on_a_processor_without_it_is_warned_of(tmp_path, monkeypatch, caplog, multiplies):
    capabilities = {"avx512_bf16": multiplies, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    short_run(tmp_path, overrides=["training.precision=bfloat16"])
    warning = "recipe lenet5-digits: bfloat16 is slow on this processor; faster is --set training.precision=float32"
    assert [record.message for record in caplog.records] == ([] if multiplies else [warning])
