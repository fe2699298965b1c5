"""Models and tensors on a CUDA device: what comes out is what comes out on the CPU, files to the byte."""

import copy
import io
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

import metaq
from metaq import metrics
from metaq.experiments import checkpoint
from metaq.experiments.data import Split
from metaq.experiments.loop import Stage, evaluate
from metaq.experiments.recipe import StageSection
from metaq.integrations import FILE
from metaq.io import read_state, write_state
from metaq.io.safetensors import read_safetensors, write_safetensors
from metaq.methods.hemp import Gradient, Quantizer
from metaq.methods.lc import Algorithm
from metaq.methods.metaq.config import AroundMean, Counts, Final, LevelPlacement, Objective, Slopes, Solver

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DEVICE = torch.device("cuda")
IMAGES = torch.randn(32, 1, 12, 12, generator=torch.Generator().manual_seed(9))
LOBSTER = metaq.LOBSTER(strength=1e-2, plateau_epochs=1, tolerated_worsening=0.01)
WIDE = AroundMean(reach=4.0)  # no weight is so near the end that rounding puts it beyond
# Strengths at which the regulariser's gradient is no less than the loss's, so that it is what is seen.
METHODS = {
    "code lengths": metaq.METaQ(strength=1.0, refresh_every=2),
    "adjacent slopes": metaq.METaQ(strength=1.0, slopes=Slopes.ADJACENT),
    "learned steps": metaq.METaQ(strength=1.0, levels=LevelPlacement.LEARNED),
    "around the mean": metaq.METaQ(strength=1.0, levels=LevelPlacement.AROUND_MEAN, around_mean=WIDE),
    "rate": metaq.METaQ(strength=1.0, final=Final.RATE, tolerance=1e9),
    "target size": metaq.METaQ(target_bytes=1500),
    **{
        f"counts, {solver.value}": metaq.METaQ(Objective.COUNTS, strength=1.0, counts=Counts(0.25, solver))
        for solver in Solver
    },
    "counts around the mean": metaq.METaQ(Objective.COUNTS, 1.0, levels=LevelPlacement.AROUND_MEAN, around_mean=WIDE),
    "perspective": metaq.METaQ(Objective.PERSPECTIVE, strength=1.0, refresh_every=2, step=0.4, radius=3),
    **{f"HEMP, order {order}": metaq.HEMP(order=order, levels=6, refresh_every=2) for order in (1, 2, 6)},
    "HEMP as printed": metaq.HEMP(gradient=Gradient.PRINTED, insensitivity=False, levels=40),
    "HEMP straight through": metaq.HEMP(straight_through=True, error_strength=10.0),
    **{
        f"HEMP, {quantizer.value}, {zero}": metaq.HEMP(levels=5, quantizer=quantizer, zero_level=zero, refresh_every=2)
        for quantizer in Quantizer
        for zero in (False, True)
    },
    **{
        f"LC, {scheme}": metaq.LC({"*weight": scheme}, mu=0.5, l_steps=4, start=0.0)
        for scheme in ("kmeans:4", "shared lloyd:3", "entropy:4:1e-4", "ternary", "scaled-powers:3", "prune:0.1")
    },
    "LC, corrected": metaq.LC({"*": "correct:0.01+lloyd:2"}, Algorithm.PENALTY, mu=0.5, l_steps=4, start=0.0),
    "LC, iterated": metaq.LC({"*": "scaled-ternary"}, Algorithm.ITERATED, l_steps=4, start=0.0),
    "LOBSTER": LOBSTER,
    "Deep Compression": metaq.DeepCompression({"*weight": 0.3}, {"*": 5}, rounds=2, start=0.0, round_share=0.25),
    "METaQ, pruned": metaq.Pruned(metaq.METaQ(strength=1.0), LOBSTER),
    "HEMP, pruned": metaq.Pruned(metaq.HEMP(levels=5, zero_level=True), LOBSTER),
}
methods = pytest.mark.parametrize("name", METHODS)
OPTIONS = ("counts, ", "HEMP, ", "LC, k", "LC, t")  # begin the names of methods whose state others have too


def network(seed=0):
    torch.manual_seed(seed)
    head = nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()
    model = nn.Sequential(*head, nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    nn.init.uniform_(model[1].weight, 0.5, 1.5)
    nn.init.normal_(model[1].bias)
    return model


LABELS = network().eval()(IMAGES).argmax(1)  # which network() knows something of, so that not all of it can be pruned


def start(name, device=DEVICE, seed=0):
    model = network(seed).to(device)
    return (
        model,
        metaq.Compressor(model, METHODS[name], training_steps=8),
        torch.optim.Adam(model.parameters(), lr=1e-3),
    )


def loss_of(model):
    return functional.cross_entropy(model(IMAGES.to(DEVICE)), LABELS.to(DEVICE))


def train(model, compressor, optimizer, steps):
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        compressor.regularize()
        optimizer.step()
    model.eval()
    for _ in range(2):  # the second time it is no better, which makes LOBSTER prune
        compressor.end_epoch(lambda: float(loss_of(model).detach()))


def are_there(tensors):
    return all(tensor.device.type == DEVICE.type for tensor in tensors)


def assert_near(found, expected, share=1e-4):
    """As near as float32 sums in another order are."""
    torch.testing.assert_close(found.cpu(), expected, rtol=share, atol=share * float(expected.abs().max()))


@methods
def test_the_file_holds_what_the_model_shows(name, tmp_path):
    model, compressor, optimizer = start(name)
    train(model, compressor, optimizer, 5)
    compressor.begin_last_phase()
    train(model, compressor, optimizer, 2)
    loss_of(model)
    shown = metrics.digest(model.state_dict())
    compressed = compressor.compress()
    metaq.save(compressed, tmp_path / "model.mtq")
    loaded = metaq.load_file(tmp_path / "model.mtq")
    assert metrics.digest(loaded) == metrics.digest(compressed.decompress()) == shown
    there = metaq.load_file(tmp_path / "model.mtq", device=DEVICE)
    assert metrics.digest(there) == shown
    assert are_there(there.values())
    assert all(tensor.is_cpu for tensor in compressed.decompress().values())
    other = network(1).to(DEVICE)
    metaq.load_into(other, tmp_path / "model.mtq")
    assert metrics.digest(other.state_dict()) == shown
    assert are_there([*model.state_dict().values(), *other.state_dict().values()])


@methods
def test_regularisers_and_their_gradients(name):
    added, measures = [], []
    for device in ("cpu", DEVICE):
        model, compressor, _ = start(name, device)
        generator = torch.Generator().manual_seed(1)
        of_loss = [1e-3 * torch.randn(parameter.shape, generator=generator) for parameter in model.parameters()]
        for parameter, gradient in zip(model.parameters(), of_loss, strict=True):
            parameter.grad = gradient.clone().to(device)
        compressor.regularize()
        added.append([p.grad.cpu() - gradient for p, gradient in zip(model.parameters(), of_loss, strict=True)])
        measures.append(compressor.bound.measures())
    assert measures[1] == pytest.approx(measures[0], rel=1e-5)
    for found, expected in zip(*reversed(added), strict=True):
        assert_near(found, expected, 1e-3)


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith(OPTIONS)])
@pytest.mark.parametrize("is_last_phase", [False, True])
@pytest.mark.parametrize("place", ["cpu", DEVICE], ids=str)
def test_a_checkpoint_goes_on_wherever_it_was_loaded_to(name, is_last_phase, place):
    run, other = start(name), start(name, seed=1)
    train(*run, 3)
    if is_last_phase:
        run[1].begin_last_phase()
    train(*run, 2)
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in run], buffer)
    buffer.seek(0)
    for part, state in zip(other, torch.load(buffer, map_location=place, weights_only=True), strict=True):
        part.load_state_dict(state)
    files = [metaq.compressed_model.encode(compressor.compress()) for _, compressor, _ in (run, other)]
    assert files[0] == files[1]
    train(*other, 3)


def test_mixed_precision():
    """Scaled gradients are to be unscaled before the regulariser's are added."""
    model, compressor, _ = start("code lengths")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler(DEVICE.type)
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = loss_of(model)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        compressor.regularize()
        scaler.step(optimizer)
        scaler.update()
    loss_of(model)
    assert metrics.digest(compressor.compress().decompress()) == metrics.digest(model.state_dict())


def test_the_training_loop(tmp_path):
    split = Split(IMAGES.to(DEVICE), LABELS.to(DEVICE))
    options = {"last_phase_epochs": 1, "shift_pixels": 1, "flip": True, "recalibration_batches": 2}
    section = StageSection(epochs=2, batch_size=8, learning_rate=1e-3, distillation=0.5, **options)
    model, method = network(0).to(DEVICE), METHODS["code lengths"]
    stage = Stage(model, section, split, 0, method, teacher=network(1).to(DEVICE))
    compressor = stage.compressor
    for epoch in range(section.epochs):
        stage.run_epoch(epoch, lambda: None)
        result = stage.end_epoch(split)
    checkpoint.save(tmp_path / "checkpoint.pt", checkpoint.RunProgress(), stage, {})
    other = network(1).to(DEVICE)
    checkpoint.restore(checkpoint.load(tmp_path / "checkpoint.pt"), Stage(other, section, split, 0, method))
    assert evaluate(other, split).loss == pytest.approx(result.loss, rel=1e-5)
    loaded = network(1).to(DEVICE)
    loaded.load_state_dict(compressor.compress().decompress())
    assert evaluate(loaded, split).loss == pytest.approx(result.loss, rel=1e-5)


def state():
    normal = partial(torch.randn, generator=torch.Generator().manual_seed(3))
    matrix, hurt = normal(40, 30), normal(6, 6)
    hurt[0, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    return {
        "matrix": matrix,
        "filter": normal(8, 4, 3, 3),
        "half": normal(24, 16).half(),
        "bfloat16": normal(24, 16).bfloat16(),
        "double": normal(9, 7).double(),
        "float8": normal(5, 5).to(torch.float8_e4m3fn),
        "transposed": normal(20, 30).T,
        "few": normal(30, 30).sign(),
        "vector": normal(30),
        "scalar": torch.tensor(-0.0),
        "empty": torch.zeros(0, 3),
        "hurt": hurt,
        "mask": normal(12) > 0,
        "steps": torch.tensor(7),
        "large": torch.tensor([1 << 40, -3]),
        "tied": matrix,
    }


def moved(tensors):
    """Copies on the device, one of those that are the same."""
    copies = {id(tensor): tensor.to(DEVICE) for tensor in tensors.values()}
    return {name: copies[id(tensor)] for name, tensor in tensors.items()}


CONFIGS = {
    "default": {},
    "error": {"max_error": 1e-2, "coder": "adaptive"},
    "size": {"size_bytes": 3000, "coder": "rans"},
    "quality": {"quality": "low", "keep": ("fil*", "ve*"), "tensor_bits": {"half": 6.0}},
}
COMPRESSIONS = {
    **{
        name: lambda tensors, options=options: metaq.compress_state_dict(tensors, metaq.CompressionConfig(**options))
        for name, options in CONFIGS.items()
    },
    "step": lambda tensors: metaq.compress(tensors, step=0.1),
    "lossless": metaq.compress_losslessly,
}


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_state_dicts_become_the_same_bytes(name, tmp_path):
    tensors = state()
    found, expected = COMPRESSIONS[name](moved(tensors)), COMPRESSIONS[name](tensors)
    assert found.tensors["tied"] == metaq.Alias("matrix")
    assert all(tensor.is_cpu for tensor in found.decompress().values())
    for coder in ("mixing", "adaptive"):
        metaq.save(found, tmp_path / "found.mtq", coder)
        metaq.save(expected, tmp_path / "expected.mtq", coder)
        assert (tmp_path / "found.mtq").read_bytes() == (tmp_path / "expected.mtq").read_bytes()
    loaded = metaq.load_file(tmp_path / "found.mtq")
    exact = tensors if name == "lossless" else {key: tensors[key] for key in ("hurt", "mask", "large") if key in loaded}
    assert metrics.digest({key: loaded[key] for key in exact}) == metrics.digest(exact)


def test_other_files(tmp_path):
    tensors = state()
    assert metrics.digest(moved(tensors)) == metrics.digest(tensors)
    write_safetensors(tmp_path / "model.safetensors", moved(tensors), {})
    read, _ = read_safetensors(tmp_path / "model.safetensors")
    assert metrics.digest({name: read[name] for name in tensors}) == metrics.digest(tensors)
    write_state(tmp_path / "model.pt", moved(tensors), {})
    assert metrics.digest(read_state(tmp_path / "model.pt")[0]) == metrics.digest(tensors)


def test_pretrained(tmp_path):
    model, other = network().to(DEVICE), network(1).to(DEVICE)
    size = metaq.save_pretrained(model, tmp_path)
    assert metaq.from_pretrained(tmp_path, other) is other
    assert are_there(other.state_dict().values())
    assert metrics.digest(other.state_dict()) == metrics.digest(metaq.load_file(tmp_path / FILE))
    assert metaq.save_pretrained(model.cpu(), tmp_path) == size


def test_calibration(tmp_path):
    model = nn.Sequential(nn.Linear(144, 40), nn.ReLU(), nn.Linear(40, 10))
    batches = IMAGES.flatten(1).split(8)
    expected = metaq.calibrate(model, batches)
    found = metaq.calibrate(copy.deepcopy(model).to(DEVICE), [batch.to(DEVICE) for batch in batches])
    for name in ("0.weight", "2.weight"):
        assert_near(found.inputs[name], expected.inputs[name])
        assert_near(found.rows[name], expected.rows[name])
    filters = network().to(DEVICE)
    known = metaq.calibrate(filters, [{"input": IMAGES.to(DEVICE)}])
    config = metaq.CompressionConfig(bits=3)
    compressed = metaq.compress_state_dict(filters.state_dict(), config, calibration=known)
    filters.load_state_dict(compressed.decompress())
    metaq.save(compressed, tmp_path / "model.mtq")
    assert metrics.digest(metaq.load_file(tmp_path / "model.mtq")) == metrics.digest(filters.state_dict())
