"""What a model may be, or be made of: other parameters, copies, checkpoints, averages, exports and wrappers."""

import copy
import io
import pickle

import pytest
import torch
from small_training import (
    METAQ,
    adam,
    assert_shows_the_file,
    digest,
    digest_of_latents,
    each_method,
    loss,
    network,
    reference,
    train,
    trained,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import metaq
from metaq.errors import InputError

# Parameters that are not the ones that were bound.


def test_a_replaced_and_a_resized_parameter_are_named():
    model, compressor, _ = trained(METAQ)
    model[3].weight = nn.Parameter(torch.zeros(4, 16))
    with pytest.raises(InputError, match=r"parameter '3.weight': expected the one that was bound, found another"):
        compressor.regularize()
    model, compressor, _ = trained(METAQ)
    model[3] = nn.Linear(16, 5)
    with pytest.raises(InputError, match=r"parameter '3.weight'.*shape \(5, 16\)"):
        compressor.regularize()
    model, compressor, _ = trained(METAQ)
    model[3].weight.data = torch.zeros(5, 16)
    with pytest.raises(InputError, match=r"parameter '3.weight': expected shape \(4, 16\), found \(5, 16\)"):
        compressor.regularize()


def test_two_compressors_on_one_model_are_refused():
    model, compressor, _ = trained(METAQ)
    with pytest.raises(InputError, match=r"found one; call detach"):
        metaq.Compressor(model, METAQ)
    with pytest.raises(InputError, match=r"found one; call detach"):
        metaq.Compressor(nn.Sequential(model, nn.Linear(4, 4)), METAQ)
    compressor.detach()
    metaq.Compressor(model, METAQ)


def test_a_refused_compressor_leaves_no_hooks():
    model = network()
    model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        metaq.Compressor(model, METAQ, adam(model))
    model[0].weight.data[0, 0] = 0.0
    metaq.Compressor(model, METAQ, adam(model))


@each_method
def test_loaded_weights_are_adopted_or_refused(method):
    model, compressor, _ = trained(method)
    state = network(seed=7).state_dict()
    if METAQ is method:
        model.load_state_dict(state)
        with pytest.raises(InputError, match=r"adopt_weights\(\)"):
            loss(model)
    model.load_state_dict(state)
    compressor.adopt_weights()
    with compressor.latent_weights():
        assert torch.equal(model[0].weight, state["0.weight"])


def test_the_same_weights_written_again_are_no_change():
    model, compressor, optimizer = trained(METAQ)
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    train(model, compressor, optimizer, 2)
    assert digest_of_latents(model, compressor) == reference(steps=8)


# Copies and checkpoints.


@each_method
def test_copies_of_a_model_are_plain_models_with_the_weights_of_the_file(method):
    model, compressor, optimizer = trained(method)
    model.eval()
    outputs = model(torch.ones(1, 12))
    for plain in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(plain(torch.ones(1, 12)), outputs)
        plain[0].weight.data.fill_(0.123)
        assert float(plain.train()[0].weight.detach()[0, 0]) == pytest.approx(0.123)
        plain(torch.ones(1, 12))
        assert float(plain[0].weight.detach()[0, 0]) == pytest.approx(0.123)
    copy.deepcopy(optimizer), pickle.dumps(optimizer)
    with pytest.raises(InputError, match=r"state_dict\(\)"):
        copy.deepcopy(compressor)
    with pytest.raises(InputError, match=r"state_dict\(\)"):
        pickle.dumps(compressor)
    model.train()
    train(model, compressor, optimizer, 2)
    assert digest_of_latents(model, compressor) == reference(method, 8)


@each_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_resumes_bit_for_bit(method, dtype):
    def parts(seed):
        model = network(seed).to(dtype)
        optimizer = adam(model)
        return model, optimizer, metaq.Compressor(model, method, optimizer, training_steps=9)

    model, optimizer, compressor = parts(0)
    train(model, compressor, optimizer, 5)
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in (model, optimizer, compressor)], buffer)
    train(model, compressor, optimizer, 4)
    buffer.seek(0)
    resumed = parts(1)
    for part, state in zip(resumed, torch.load(buffer, weights_only=True), strict=True):
        part.load_state_dict(state)
    train(resumed[0], resumed[2], resumed[1], 4)
    assert digest(resumed[0]) == digest(model)
    assert resumed[2].is_last_phase


def test_a_moving_average_of_latent_weights_is_compressed():
    model, compressor, optimizer = trained(METAQ, steps=0)
    with compressor.latent_weights():
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    expected = {name: parameter.detach().clone() for name, parameter in average.module.named_parameters()}
    for step in range(4):
        train(model, compressor, optimizer, 1)
        with compressor.latent_weights():
            average.update_parameters(model)
            for name, parameter in model.named_parameters():
                expected[name].lerp_(parameter.detach(), 0.5 if step else 1.0)
        assert_shows_the_file(model, compressor)
    for name, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter, expected[name])
    decoded = compressor.compress(average).decompress()
    for name, tensor in decoded.items():
        codebook, _ = compressor.bound.quantize_parameter(name, expected[name])
        assert float((tensor - expected[name]).abs().max()) <= codebook.step / 2 * 1.001, name
    model = network()
    compressor = metaq.Compressor(model, metaq.LC(), adam(model), training_steps=10)
    with pytest.raises(InputError, match="found one that has its own"):
        compressor.compress(average)


# Exports and wrappers.


def test_export_after_detach_and_no_hook_is_left():
    model, compressor, optimizer = trained(METAQ)
    compressor.detach()
    assert not any(module._forward_pre_hooks for module in model.modules())
    exported = torch.export.export(model.eval(), (torch.ones(1, 12),)).module()
    torch.testing.assert_close(exported(torch.ones(1, 12)), model(torch.ones(1, 12)))
    optimizer.step()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, within torch.compile
@each_method
@pytest.mark.parametrize("is_compiled_before", [True, False])
def test_compiled_models_train_alike_and_keep_their_names(method, is_compiled_before):
    model = network()
    optimizer = adam(model)
    if is_compiled_before:
        compiled = torch.compile(model)
        compressor = metaq.Compressor(compiled, method, optimizer)
    else:
        compressor = metaq.Compressor(model, method, optimizer)
        compiled = torch.compile(model)
    train(compiled, compressor, optimizer)
    expected = trained(method)[0]
    with torch.no_grad():
        compiled.eval(), expected.eval()
        torch.testing.assert_close(compiled(torch.ones(1, 12)), expected(torch.ones(1, 12)), rtol=0, atol=1e-3)
    assert_shows_the_file(model, compressor)
    assert list(compressor.compress().tensors) == list(network().state_dict())


def test_wrappers_stay_out_of_names():
    wrapped = nn.DataParallel(network())
    compressor = metaq.Compressor(wrapped, METAQ, adam(wrapped))
    assert list(compressor.compress().tensors) == list(network().state_dict())
    assert [row.name for row in compressor.report().rows] == list(network().state_dict())
