"""`MetaqCallback` under Lightning's Trainer, as it comes from the package index."""

import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.data import DataLoader, TensorDataset

import metaq
from metaq.errors import InputError

lightning = pytest.importorskip("lightning")

from lightning.pytorch import LightningModule, Trainer  # noqa: E402
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402

from metaq.integrations.lightning import MetaqCallback, extract  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
FEATURES, CLASSES, SAMPLES = 12, 3, 96
METHOD = metaq.METaQ(strength=1e-3)


class Module(LightningModule):
    """Its own forward pass is never called: the steps use the weights themselves."""

    def __init__(self, optimizer="sgd"):
        super().__init__()
        self.body = nn.Linear(FEATURES, 24)
        self.head = nn.Linear(24, CLASSES)
        self.optimizer = optimizer
        self.seen = []  # the weights that steps have seen, by stage

    def loss(self, batch, stage):
        features, labels = batch
        self.seen.append((stage, self.body.weight.detach().clone()))
        hidden = torch.relu(linear(features, self.body.weight, self.body.bias))
        return cross_entropy(linear(hidden, self.head.weight, self.head.bias), labels)

    def training_step(self, batch, batch_idx):
        return self.loss(batch, "train")

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch, "validate"))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch, "test"))

    def configure_optimizers(self):
        if self.optimizer == "lbfgs":
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)
        return torch.optim.SGD(self.parameters(), lr=1e-2)


class ManualModule(Module):
    """One optimizer for each layer, in a step of its own each, by gradients of its own or by those of one pass."""

    automatic_optimization = False

    def __init__(self, share_gradients=False):
        super().__init__()
        self.share_gradients = share_gradients

    def training_step(self, batch, batch_idx):
        for place, optimizer in enumerate(self.optimizers()):
            if place == 0 or not self.share_gradients:
                self.zero_grad()
                self.manual_backward(self.loss(batch, "train"))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(layer.parameters(), lr=1e-2) for layer in (self.body, self.head)]


def module(kind=Module, seed=0, **options):
    torch.manual_seed(seed)
    return kind(**options)


def loader(count=SAMPLES):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(count, FEATURES, generator=generator)
    labels = (features @ torch.randn(FEATURES, CLASSES, generator=generator)).argmax(1)
    return DataLoader(TensorDataset(features, labels), batch_size=8)


def trainer(folder, *callbacks, **options):
    defaults = {
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **(defaults | options))


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def plain_loop(model, method, clip=0.0, parts=1, epochs=2):
    """What the callback is to do, in a loop of one's own."""
    batches = list(loader())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    steps = epochs * len(batches) // parts
    compressor = metaq.Compressor(model, method, optimizer, training_steps=steps)
    for _ in range(epochs):
        for first in range(0, len(batches), parts):
            optimizer.zero_grad()
            compressor.show(is_training=True)
            for batch in batches[first : first + parts]:
                (model.loss(batch, "train") / parts).backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            compressor.regularize()
            optimizer.step()
        compressor.end_epoch(lambda: 0.0)
    compressor.detach()
    return weights_of(model)


@pytest.mark.parametrize(
    ("method", "clip", "parts"),
    [(METHOD, 0.05, 1), (METHOD, 0.05, 3), (metaq.HEMP(strength=1e-3), 0.05, 1)],
    ids=["clipped", "accumulated", "hemp"],
)
def test_is_the_plain_loop_bit_for_bit(tmp_path, method, clip, parts):
    model = module()
    trainer(tmp_path, MetaqCallback(method), gradient_clip_val=clip, accumulate_grad_batches=parts).fit(model, loader())
    assert_same(weights_of(model), plain_loop(module(), method, clip, parts))
    assert_same(weights_of(model), metaq.load_file(tmp_path / "model.mtq"))


def test_a_step_sees_quantized_weights_though_nobody_calls_the_forward_pass(tmp_path):
    model = module()
    trainer(tmp_path, MetaqCallback(METHOD)).fit(model, loader(), loader(16))
    stages = {stage for stage, _ in model.seen}
    assert stages == {"train", "validate"}
    for stage, weights in model.seen:
        assert len(weights.unique()) < weights.numel() / 3, stage


def test_validation_sees_the_weights_of_the_file(tmp_path):
    """Training sees the latent ones with this method."""
    model = module()
    trainer(tmp_path, MetaqCallback(metaq.HEMP(strength=1e-3))).fit(model, loader(), loader(16))
    levels = {stage: [len(weights.unique()) for at, weights in model.seen if at == stage] for stage, _ in model.seen}
    assert max(levels["validate"]) < 40 < min(levels["train"])
    model.seen.clear()
    trainer(tmp_path).test(model, loader(16), verbose=False)
    assert len(model.seen[0][1].unique()) < 40


@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs"])
def test_optimizers_with_closures(tmp_path, optimizer):
    model, callback = module(optimizer=optimizer), MetaqCallback(METHOD, tmp_path / "deep/er/file.mtq")
    trainer(tmp_path, callback, max_epochs=1).fit(model, loader())
    assert_same(weights_of(model), metaq.load_file(tmp_path / "deep/er/file.mtq"))


@pytest.mark.parametrize("share_gradients", [False, True])
def test_manual_optimization_with_several_optimizers(tmp_path, share_gradients):
    steps = 2 * len(loader()) * (1 if share_gradients else 2)
    model, callback = module(ManualModule, share_gradients=share_gradients), MetaqCallback(METHOD, training_steps=steps)
    trainer(tmp_path, callback).fit(model, loader())

    other = module(ManualModule, share_gradients=share_gradients)
    optimizers = other.configure_optimizers()
    compressor = metaq.Compressor(other, METHOD, optimizers, training_steps=steps)
    for _ in range(2):
        for batch in loader():
            for place, optimizer in enumerate(optimizers):
                if place == 0 or not share_gradients:
                    other.zero_grad()
                    other.loss(batch, "train").backward()
                    compressor.regularize()
                optimizer.step()
        compressor.end_epoch(lambda: 0.0)
    assert compressor.training_step == steps
    compressor.detach()
    assert_same(weights_of(model), weights_of(other))
    assert_same(weights_of(model), metaq.load_file(tmp_path / "model.mtq"))


class Watcher(lightning.pytorch.Callback):
    """Calls a function at the end of every batch."""

    def __init__(self, call):
        self.call = call

    def on_train_batch_end(self, *_):
        self.call()


@pytest.mark.parametrize("method", [METHOD, metaq.HEMP(strength=1e-3)], ids=["metaq", "hemp"])
@pytest.mark.parametrize("every_steps", [None, 4], ids=["epoch", "step"])
def test_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, method, every_steps):
    def checkpoints():
        return ModelCheckpoint(tmp_path / "checkpoints", save_top_k=-1, every_n_train_steps=every_steps)

    whole, resumed = module(), module(seed=5)
    # One batch for ever, so that it does not matter that the loader cannot go on within an epoch.
    trainer(tmp_path, MetaqCallback(method), checkpoints(), overfit_batches=1, max_epochs=8).fit(whole, loader())
    first = next(path for path in (tmp_path / "checkpoints").glob("*.ckpt") if f"step={every_steps or 3}." in path.name)
    run = trainer(tmp_path, MetaqCallback(method), checkpoints(), overfit_batches=1, max_epochs=8)
    run.fit(resumed, loader(), ckpt_path=first)
    assert_same(weights_of(resumed), weights_of(whole))


@pytest.mark.parametrize("method", [METHOD, metaq.HEMP(strength=1e-3)], ids=["metaq", "hemp"])
def test_checkpoints_hold_the_file_and_its_weights(tmp_path, method):
    checkpoints = ModelCheckpoint(tmp_path, save_top_k=-1, save_on_train_epoch_end=True, save_last=True)
    trainer(tmp_path, MetaqCallback(method), checkpoints).fit(module(), loader())
    found = sorted(tmp_path.glob("*.ckpt"))
    assert len(found) == 3
    for path in found:
        size_bytes = extract(path, path.with_suffix(".mtq"))
        assert size_bytes == path.with_suffix(".mtq").stat().st_size
        stored = torch.load(path, weights_only=True)["state_dict"]
        assert_same(stored, metaq.load_file(path.with_suffix(".mtq")))
    assert (tmp_path / "last.mtq").read_bytes() == (tmp_path / "model.mtq").read_bytes()


def test_a_checkpoint_without_a_file(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"a.ckpt: expected 'model.mtq' in it, found 'state_dict'"):
        extract(tmp_path / "a.ckpt", tmp_path / "a.mtq")


def test_loggers_and_the_progress_bar_get_the_size(tmp_path):
    bars, logged = [], []

    class Logger(lightning.pytorch.loggers.logger.DummyLogger):
        def log_metrics(self, metrics, step):
            logged.append(metrics)

    run = trainer(tmp_path, MetaqCallback(METHOD, measure_every=1), logger=Logger(), log_every_n_steps=4)
    run.callbacks.append(Watcher(lambda: bars.append(dict(run.progress_bar_metrics))))
    run.fit(module(), loader())
    names = {"size_bytes", "bits_per_weight", "entropy"}
    assert names <= bars[-1].keys()
    found = [row for row in logged if names <= row.keys()]
    assert len(found) == 6
    assert all(row["size_bytes"] > 100 and 0 < row["entropy"] < row["bits_per_weight"] < 32 for row in found)
    assert found[-1]["size_bytes"] == (tmp_path / "model.mtq").stat().st_size


@pytest.mark.slow
def test_bfloat16_and_a_scaler(tmp_path):
    from lightning.pytorch.plugins import MixedPrecision

    model = module()
    trainer(tmp_path, MetaqCallback(METHOD), precision="bf16-mixed").fit(model, loader())
    assert_same(weights_of(model), metaq.load_file(tmp_path / "model.mtq"))

    plain, scaled = module(), module()
    trainer(tmp_path, MetaqCallback(METHOD), gradient_clip_val=0.05).fit(plain, loader())
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
    precision.autocast_context_manager = lambda: torch.autocast("cpu", enabled=False)
    trainer(tmp_path, MetaqCallback(METHOD), gradient_clip_val=0.05, plugins=[precision]).fit(scaled, loader())
    assert_same(weights_of(scaled), weights_of(plain))


@pytest.mark.slow
def test_methods_that_prune_by_a_validation_loss(tmp_path):
    calls, method = [], metaq.LOBSTER(strength=1e-3, plateau_epochs=1)

    def loss(model):
        calls.append(model.training)
        return float(model.loss(next(iter(loader())), "held out"))

    trainer(tmp_path, MetaqCallback(method, validation_loss=loss), max_epochs=5).fit(module(), loader())
    assert len(calls) >= 2
    assert not any(calls)
    with pytest.raises(InputError, match=r"method: .*found LOBSTER.*validation_loss="):
        trainer(tmp_path, MetaqCallback(method)).fit(module(), loader())


@pytest.mark.slow
def test_fits_again_after_its_end_and_after_an_interruption(tmp_path):
    callback, model = MetaqCallback(METHOD), module()

    def interrupt():
        if callback.compressor.training_step == 5:
            raise ValueError("stop here")

    with pytest.raises(ValueError, match="stop here"):
        trainer(tmp_path, callback, Watcher(interrupt)).fit(model, loader())
    for _ in range(2):
        trainer(tmp_path, callback).fit(model, loader(), loader(16))
        assert_same(weights_of(model), metaq.load_file(tmp_path / "model.mtq"))


def test_strategies_that_take_the_parameters_away_are_refused_in_one_line(tmp_path):
    from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

    for kind in (FSDPStrategy, DeepSpeedStrategy):
        run = trainer(tmp_path)
        run._accelerator_connector.strategy = kind.__new__(kind)
        with pytest.raises(InputError, match=rf"^strategy: expected DDP or [^\n]*, found {kind.__name__}$"):
            MetaqCallback(METHOD).setup(run, module(), "fit")


def test_lightning_cli(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of what Lightning itself calls
    pytest.importorskip("jsonargparse")
    from lightning.pytorch.cli import LightningCLI

    class Data(lightning.pytorch.LightningDataModule):
        def train_dataloader(self):
            return loader()

    options = [
        *("--trainer.callbacks+=metaq.integrations.lightning.MetaqCallback", "--trainer.callbacks.method=metaq.METaQ"),
        *("--trainer.callbacks.method.strength=0.001", f"--trainer.callbacks.path={tmp_path}/cli.mtq"),
        *("--trainer.max_epochs=2", "--trainer.logger=false", "--trainer.accelerator=cpu"),
        *("--trainer.enable_progress_bar=false", "--trainer.enable_checkpointing=false"),
        *("--trainer.enable_model_summary=false", "--seed_everything=0"),
    ]
    run = LightningCLI(Module, Data, args=["fit", *options], save_config_callback=None)
    assert_same(weights_of(run.model), metaq.load_file(tmp_path / "cli.mtq"))
    torch.manual_seed(0)
    assert_same(weights_of(run.model), plain_loop(Module(), METHOD))


RANKS = """
import sys
from pathlib import Path
from test_lightning import *
from torch.distributed.fsdp import fully_shard
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy


class Sharded(Module):
    def configure_model(self):
        for part in (self.body, self.head, self):
            fully_shard(part, mesh=self.device_mesh["data_parallel"])

    def loss(self, batch, stage):
        features, labels = batch
        return cross_entropy(self.head(torch.relu(self.body(features))), labels)


def fit(name, strategy, seed=0, kind=Module, checkpoint=None):
    model, path = module(kind, seed), folder / f"{name}.mtq"
    checkpoints = ModelCheckpoint(folder / name, filename="{step}", save_top_k=-1)
    run = trainer(folder, MetaqCallback(METHOD, path), checkpoints, devices=2, strategy=strategy)
    run.fit(model, loader(), ckpt_path=checkpoint)
    run.strategy.barrier()
    return model


def sharded():
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")


folder = Path(sys.argv[1])
model = fit("replicas", DDPStrategy(process_group_backend="gloo"))
torch.save(model.state_dict(), folder / f"rank{torch.distributed.get_rank()}.pt")
fit("shards", sharded(), kind=Sharded)
fit("resumed", sharded(), 5, Sharded, folder / "shards" / "step=6.ckpt")
"""


@pytest.mark.slow
def test_two_processes_with_replicas_and_with_shards(tmp_path, run_program):
    run_program(RANKS, processes=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(first, second)
    assert_same(first, metaq.load_file(tmp_path / "replicas.mtq"))
    for name, weights in metaq.load_file(tmp_path / "shards.mtq").items():
        torch.testing.assert_close(weights, first[name], rtol=0, atol=1e-6)
    assert (tmp_path / "resumed.mtq").read_bytes() == (tmp_path / "shards.mtq").read_bytes()
    extract(tmp_path / "shards" / "step=12.ckpt", tmp_path / "extracted.mtq")
    assert (tmp_path / "extracted.mtq").read_bytes() == (tmp_path / "shards.mtq").read_bytes()
