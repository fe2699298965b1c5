"""The compressor where the model is on a device: on the CPU, and on a CUDA device where there is one."""

import io
from functools import partial

import pytest
import torch
from small_training import METAQ, METHODS, assert_shows_the_file, digest_of_latents, each_method, loss, network, train
from torch import nn

import metaq
from metaq.compressed_model import encode
from metaq.errors import InputError

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
descent = partial(torch.optim.SGD, lr=0.1)  # which does not magnify, as Adam does, what sums round to


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_CUDA)])
def device(request):
    return torch.device(request.param)


def started(device, method=METAQ, seed=0, dtype=torch.float32, **options):
    """Model, compressor and optimizer."""
    model = network(seed).to(device, dtype)
    optimizer = descent(model.parameters())
    return model, metaq.Compressor(model, method, optimizer, **options), optimizer


def latents(model, compressor):
    with compressor.latent_weights():
        return [parameter.detach().to("cpu", copy=True) for parameter in model.parameters()]


def assert_near(found, expected, tolerance=1e-4):
    for ours, others in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, others, rtol=0, atol=tolerance)


def assert_evaluates_as_the_file(model, compressor):
    model.eval()
    with torch.no_grad():
        loss(model)
    assert_shows_the_file(model, compressor)
    model.train()


def assert_there(model, device):
    assert {tensor.device.type for tensor in model.state_dict().values()} == {device.type}


@each_method
def test_parameters_hold_the_file_and_latent_weights_are_given_for_steps(device, method):
    model, compressor, optimizer = started(device, method)
    other, expected, reference = started(torch.device("cpu"), method)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(model[0].weight.detach().clone()))
    for _ in range(4):
        before = latents(model, compressor)
        train(model, compressor, optimizer, 1)
        assert torch.equal(seen[-1].cpu(), before[0])
        assert_evaluates_as_the_file(model, compressor)
        assert not torch.equal(model[0].weight.cpu(), seen[-1].cpu())
        assert_there(model, device)
    train(other, expected, reference, 4)
    assert_near(latents(model, compressor), latents(other, expected))


@each_method
def test_a_lost_step_is_refused(device, method):
    model, _, optimizer = started(device, method)
    loss(model).backward()
    with pytest.raises(InputError, match="would be lost"):
        optimizer.step()


@pytest.mark.parametrize("method", [METAQ, METHODS["hemp"]], ids=["metaq", "hemp"])
@pytest.mark.parametrize(
    ("parameters", "computed", "is_scaled"),
    [
        (torch.float32, torch.float16, True),
        (torch.float32, torch.bfloat16, True),
        (torch.bfloat16, torch.bfloat16, True),
        (torch.float16, torch.float16, False),  # torch refuses to unscale gradients in float16
    ],
    ids=str,
)
def test_autocast_and_a_scaler(device, method, parameters, computed, is_scaled):
    model, compressor, optimizer = started(device, method, dtype=parameters)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10, enabled=is_scaled)
    for poison in (1.0, float("inf"), 1.0) if is_scaled else (1.0, 1.0):
        optimizer.zero_grad()
        with torch.autocast(device.type, computed):
            value = loss(model)
        scaler.scale(value * poison).backward()
        scaler.unscale_(optimizer)
        compressor.regularize()
        before = digest_of_latents(model, compressor)
        scaler.step(optimizer)
        scaler.update()
        assert (digest_of_latents(model, compressor) == before) == (poison == float("inf"))
        with torch.autocast(device.type, computed):
            assert_evaluates_as_the_file(model, compressor)
    assert model[0].weight.dtype == parameters
    assert latents(model, compressor)[0].dtype == torch.float32
    assert_there(model, device)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.SparseAdam])
def test_sparse_gradients_regularize_all_rows(device, kind):
    weights = []
    for is_sparse in (True, False):
        torch.manual_seed(0)
        model = nn.EmbeddingBag(50, 8, mode="sum", sparse=is_sparse).to(device)
        is_adam = kind is torch.optim.SparseAdam and not is_sparse
        optimizer = (torch.optim.Adam if is_adam else kind)(model.parameters(), lr=1e-2)
        compressor = metaq.Compressor(model, metaq.METaQ(strength=1e-2, step=0.1), optimizer)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.tensor([[1, 2, 3]], device=device)).square().sum().backward()
            compressor.regularize()
            optimizer.step()
        assert_shows_the_file(model, compressor)
        weights.append(latents(model, compressor))
    assert_near(*weights)


@pytest.mark.parametrize(
    "kind",
    [partial(torch.optim.LBFGS, lr=0.1, max_iter=4, line_search_fn="strong_wolfe"), descent],
    ids=["lbfgs", "sgd"],
)
def test_closures(device, kind):
    model = network().to(device)
    optimizer = kind(model.parameters())
    compressor = metaq.Compressor(model, METAQ, optimizer)

    def closure():
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        compressor.regularize()
        return value

    first = float(optimizer.step(closure).detach())
    for _ in range(8):
        optimizer.step(closure)
        assert_shows_the_file(model, compressor)
    assert float(loss(model).detach()) < first


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, within torch.compile
@each_method
def test_compiled_models_train_alike(device, method):
    model, compressor, optimizer = started(device, method)
    train(torch.compile(model), compressor, optimizer)
    other, expected, plain = started(device, method)
    train(other, expected, plain)
    assert_near(latents(model, compressor), latents(other, expected), 1e-3)
    assert_evaluates_as_the_file(model, compressor)
    assert list(compressor.compress().tensors) == list(network().state_dict())


@each_method
def test_the_file_is_that_of_the_same_training_on_the_cpu(device, method):
    """Of the state that training on the device has come to, loaded to the CPU."""
    run = started(device, method)
    train(*run)
    other = started(torch.device("cpu"), method, seed=1)
    for part, state in zip(other, carried(run, "cpu"), strict=True):
        part.load_state_dict(state)
    assert encode(run[1].compress()) == encode(other[1].compress())


def carried(parts, place):
    """The states of model, compressor and optimizer, saved and loaded to a place."""
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in parts], buffer)
    buffer.seek(0)
    return torch.load(buffer, map_location=place, weights_only=True)


@each_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_training_resumes(device, method, dtype):
    run = started(device, method, dtype=dtype, training_steps=9)
    train(*run, 5)
    states = carried(run, device)
    train(*run, 4)
    resumed = started(device, method, 1, dtype, training_steps=9)
    for part, state in zip(resumed, states, strict=True):
        part.load_state_dict(state)
    train(*resumed, 4)
    assert_near(latents(*resumed[:2]), latents(*run[:2]))
    assert resumed[1].is_last_phase
    assert_there(resumed[0], device)
