"""`MetaqCallback` under `transformers.Trainer`: the training, its checkpoints and its end."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from small_trainer import (
    METHOD,
    SAMPLES,
    Beginning,
    InOrder,
    Watcher,
    assert_same,
    classifier,
    ignore_pinning,
    samples,
    trainer,
    weights_of,
)
from torch import nn

import metaq
from metaq.errors import InputError
from metaq.integrations.transformers import MetaqCallback

pytestmark = ignore_pinning


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (METHOD, {"max_grad_norm": 0.05}),
        (METHOD, {"max_grad_norm": 0.0, "gradient_accumulation_steps": 3}),
        (metaq.HEMP(strength=1e-3), {"max_grad_norm": 0.05, "gradient_accumulation_steps": 2}),
    ],
    ids=["clipped", "accumulated", "hemp"],
)
def test_is_the_plain_loop_bit_for_bit(tmp_path, method, options):
    model = classifier()
    run = trainer(tmp_path, model, MetaqCallback(method), InOrder, lr_scheduler_type="constant", optim="sgd", **options)
    run.train()

    other = classifier()
    parts = options.get("gradient_accumulation_steps", 1)
    optimizer = torch.optim.SGD(other.parameters(), lr=1e-2)
    steps = 2 * SAMPLES // 8 // parts
    compressor = metaq.Compressor(other, method, optimizer, training_steps=steps)
    rows = 2 * samples()
    for step in range(steps):
        optimizer.zero_grad()
        for part in range(parts):
            start = 8 * (step * parts + part)
            batch = torch.utils.data.default_collate(rows[start : start + 8])
            (other(**batch)["loss"] / parts).backward()
        if options["max_grad_norm"]:
            nn.utils.clip_grad_norm_(other.parameters(), options["max_grad_norm"])
        compressor.regularize()
        optimizer.step()
        if (step + 1) % (steps // 2) == 0:
            compressor.end_epoch(lambda: 0.0)
    compressor.detach()
    assert_same(weights_of(model), weights_of(other))


def test_every_checkpoint_has_a_file_and_the_model_keeps_the_last(tmp_path):
    model = classifier()
    trainer(tmp_path, model, MetaqCallback(METHOD), save_total_limit=2, num_train_epochs=3).train()
    folders = sorted(tmp_path.glob("checkpoint-*"))
    assert [folder.name for folder in folders] == ["checkpoint-24", "checkpoint-36"]
    for folder in folders:
        stored = classifier(1)
        metaq.load_into(stored, folder / "model.mtq")
        expected = classifier(2)
        expected.load_state_dict(load_safetensors(folder / "model.safetensors"))
        assert_same(weights_of(stored), weights_of(expected))
        torch.load(folder / "metaq_state.pt", weights_only=True)
    assert_same(weights_of(model), metaq.load_file(tmp_path / "model.mtq"))


def load_safetensors(path):
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.slow
@pytest.mark.parametrize("method", [METHOD, metaq.HEMP(strength=1e-3)], ids=["metaq", "hemp"])
@pytest.mark.parametrize(
    "options",
    [
        {"save_strategy": "epoch"},
        {"save_strategy": "steps", "save_steps": 6},  # at the end of an epoch, before `on_epoch_end`
        {"save_strategy": "steps", "save_steps": 4, "bf16": True, "gradient_accumulation_steps": 2},
    ],
    ids=["epoch", "steps", "bf16"],
)
def test_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, method, options):
    whole = classifier()
    trainer(tmp_path / "whole", whole, MetaqCallback(method), eval_strategy="epoch", **options).train()
    first = sorted((tmp_path / "whole").glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))[0]
    resumed = classifier(5)
    run = trainer(
        tmp_path / "resumed",
        resumed,
        MetaqCallback(method),
        eval_strategy="epoch",
        resume_from_checkpoint=str(first),
        **options,
    )
    run.train(resume_from_checkpoint=str(first))
    assert_same(weights_of(resumed), weights_of(whole))
    assert (tmp_path / "resumed/model.mtq").read_bytes() == (tmp_path / "whole/model.mtq").read_bytes()


def test_ends_with_the_best_weights(tmp_path):
    model = classifier()
    run = trainer(
        tmp_path,
        model,
        MetaqCallback(METHOD),
        num_train_epochs=4,
        eval_strategy="epoch",
        load_best_model_at_end=True,
        learning_rate=0.3,  # so that the last epoch is not the best
    )
    run.train()
    best = run.state.best_model_checkpoint
    assert best is not None
    assert not best.endswith("-48"), "the last checkpoint is the best: the test tells nothing"
    assert (tmp_path / "model.mtq").read_bytes() == (tmp_path / best / "model.mtq").read_bytes()
    assert_same(weights_of(model), metaq.load_file(tmp_path / "model.mtq"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "given"),
    [(metaq.LOBSTER(strength=1e-3, plateau_epochs=1), True), (metaq.Pruned(METHOD, metaq.LOBSTER()), False)],
)
def test_methods_that_prune_by_a_validation_loss(tmp_path, method, given):
    calls = []

    def loss(model):
        calls.append(model.training)
        return float(model(**torch.utils.data.default_collate(samples(32)))["loss"])

    run = trainer(
        tmp_path, classifier(), MetaqCallback(method, validation_loss=loss if given else None), num_train_epochs=5
    )
    if given:
        run.train()
        assert len(calls) >= 2
        assert not any(calls)
    else:
        with pytest.raises(InputError, match=r"method: .*found Pruned.*validation_loss="):
            run.train()


def test_a_stream_of_unknown_length(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(samples())

    callback = MetaqCallback(METHOD)
    run = trainer(tmp_path, classifier(), callback, max_steps=20, save_strategy="no")
    run.train_dataset = Stream()
    seen = []
    run.add_callback(Watcher(lambda: seen.append(callback.compressor.training_steps)))
    run.train()
    assert set(seen) == {20}
    assert (tmp_path / "model.mtq").exists()


@pytest.mark.slow
def test_trains_again_after_its_end_and_after_an_interruption(tmp_path):
    def interrupt():
        if callback.compressor.training_step == 5 and interrupting:
            raise KeyboardInterrupt

    callback, model, interrupting = MetaqCallback(METHOD), classifier(), True
    run = trainer(tmp_path, model, callback, save_strategy="no")
    run.add_callback(Watcher(interrupt))
    with pytest.raises(KeyboardInterrupt):
        run.train()
    interrupting = False
    for _ in range(2):
        run.train()
        assert_same(weights_of(model), metaq.load_file(tmp_path / "model.mtq"))


@pytest.mark.slow
def test_the_state_must_belong_to_the_weights(tmp_path):
    trainer(tmp_path / "a", classifier(), MetaqCallback(METHOD), save_steps=4, save_strategy="steps").train()
    trainer(tmp_path / "b", classifier(3), MetaqCallback(METHOD), save_steps=4, save_strategy="steps").train()
    elsewhere = str(tmp_path / "a/checkpoint-4")
    for folder, found in (("b", "found another"), ("c", "found no file")):
        run = trainer(tmp_path / folder, classifier(), MetaqCallback(METHOD))
        with pytest.raises(InputError, match=rf"metaq_state.pt: expected the state.*{found}"):
            run.train(resume_from_checkpoint=elsewhere)


def test_what_is_not_supported_is_refused_in_one_line(tmp_path):
    from torch.distributed.fsdp import FullyShardedDataParallel

    sharded = nn.Sequential(FullyShardedDataParallel.__new__(FullyShardedDataParallel))
    model, arguments = nn.Linear(2, 2), {"deepspeed_plugin": None, "deepspeed": None, "n_gpu": 1}
    for network, changes, found in (
        (model, {"deepspeed": "ds.json"}, "found DeepSpeed"),
        (model, {"deepspeed_plugin": object()}, "found DeepSpeed"),
        (model, {"n_gpu": 2}, "found 2; start it with torchrun"),
        (sharded, {}, "found FSDP1"),
    ):
        with pytest.raises(InputError, match=rf"^Trainer: expected [^\n]*{found}"):
            MetaqCallback(METHOD).on_train_begin(SimpleNamespace(**(arguments | changes)), None, None, model=network)


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.05])
def test_gradients_are_unscaled_under_float16(tmp_path, max_grad_norm):
    """With a scaler that works on the CPU, for accelerate has none there. A scale of a power of two changes no bit."""
    plain, scaled = classifier(), classifier()
    options = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": max_grad_norm, "num_train_epochs": 1}
    trainer(tmp_path / "plain", plain, MetaqCallback(METHOD), InOrder, **options).train()
    run = trainer(tmp_path / "scaled", scaled, MetaqCallback(METHOD), InOrder, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    run.accelerator.scaler = scaler
    run.accelerator.unscale_gradients = lambda *_: scaler.unscale_(run.optimizer.optimizer)
    run.train()
    assert_same(weights_of(scaled), weights_of(plain))


def test_a_step_that_the_scaler_leaves_out_changes_nothing(tmp_path):
    model, callback, before, seen = classifier(), MetaqCallback(METHOD), {}, []
    run = trainer(tmp_path, model, callback, optim="sgd", max_grad_norm=0.0, save_strategy="no")
    # Its first gradients are infinite, the others not.
    run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-110)
    run.add_callback(Beginning(lambda: before.update(weights_of(model))))
    run.add_callback(Watcher(lambda: seen.append(weights_of(model))))
    run.train()


RANKS = """
import sys
import torch
from small_trainer import METHOD, classifier, trainer
from metaq.integrations.transformers import MetaqCallback
model = classifier()
run = trainer(sys.argv[1], model, MetaqCallback(METHOD), eval_strategy="epoch", load_best_model_at_end=True)
run.train()
torch.save(model.state_dict(), f"{sys.argv[1]}/rank{run.args.process_index}.pt")
"""


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights(tmp_path, run_program):
    run_program(RANKS, processes=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(first, second)
    assert_same(first, metaq.load_file(tmp_path / "model.mtq"))


def test_transformers_is_loaded_by_its_own_module_alone():
    code = "import sys, metaq; metaq.save_pretrained; print('transformers' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "False"
