"""The compressor in loops of every kind: right, or an error at the first step; never a worse network."""

import copy
import io
import pickle

import pytest
import torch
from small_training import METHODS, adam, assert_shows_the_file, digest, loss, network, train, trained
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import metaq
from metaq.errors import InputError

METAQ = METHODS["metaq"]
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def reference(method=METAQ, steps=6):
    return digest_of_latents(*trained(method, steps)[:2])


def digest_of_latents(model, compressor):
    with compressor.latent_weights():
        return digest(model)


# The order of calls.


@each_method
def test_the_optimizer_and_the_forward_pass_are_two_ways_to_the_same_network(method):
    model = network()
    compressor, optimizer = metaq.Compressor(model, method), adam(model)
    train(model, compressor, optimizer)
    loss(model)
    assert digest_of_latents(model, compressor) == reference(method)


def test_parameters_hold_the_file_after_every_step_and_from_the_start():
    model = network()
    optimizer = adam(model)
    compressor = metaq.Compressor(model, METAQ, optimizer)
    assert_shows_the_file(model, compressor)
    for _ in range(3):
        train(model, compressor, optimizer, 1)
        assert_shows_the_file(model, compressor)


@each_method
def test_a_step_without_regularize_is_refused_and_changes_nothing(method):
    model = network()
    optimizer = adam(model)
    metaq.Compressor(model, method, optimizer)
    before = digest(model)
    loss(model).backward()
    with pytest.raises(InputError, match=r"optimizer.step\(\): expected regularize\(\)"):
        optimizer.step()
    assert digest(model) == before


def test_regularize_after_step_is_refused_at_the_first_step():
    model = network()
    optimizer = adam(model)
    compressor = metaq.Compressor(model, METAQ, optimizer)
    loss(model).backward()
    with pytest.raises(InputError, match="would be lost"):
        optimizer.step()
    compressor.regularize()
    optimizer.step()
    assert_shows_the_file(model, compressor)


def test_regularize_left_out_for_a_while_is_refused():
    model, _, optimizer = trained(METAQ)
    optimizer.zero_grad()
    loss(model).backward()
    with pytest.raises(InputError, match="would be lost"):
        optimizer.step()


def test_without_an_optimizer_a_lost_step_is_refused_at_the_next_forward_pass():
    model = network()
    optimizer = adam(model)
    metaq.Compressor(model, METAQ)
    loss(model).backward()
    optimizer.step()
    with pytest.raises(InputError, match=r"parameter '0.weight'.*call regularize"):
        loss(model)


def test_loops_that_call_no_module():
    """They compute with parameters: nothing tells the compressor but the optimizer."""

    class Weights(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.weight = nn.Parameter(torch.randn(12, 4))

    model = Weights()
    compressor = metaq.Compressor(model, METAQ)
    model.weight.square().sum().backward()
    with pytest.raises(InputError, match=r"regularize\(\): expected a forward pass.*give the Compressor the optimizer"):
        compressor.regularize()
    compressor.show(True)
    model.weight.square().sum().backward()
    compressor.regularize()
    compressor.detach()
    optimizer = adam(model)
    compressor = metaq.Compressor(model, METAQ, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model.weight.square().sum().backward()
        compressor.regularize()
        optimizer.step()
        assert_shows_the_file(model, compressor)


def test_regularize_for_every_part_of_a_gradient_is_refused():
    model, compressor, optimizer = trained(METAQ)
    optimizer.zero_grad()
    loss(model, slice(0, 32)).backward()
    compressor.regularize()
    loss(model, slice(32, 64)).backward()
    with pytest.raises(InputError, match=r"regularize\(\): expected a step of the optimizer since the last call"):
        compressor.regularize()


@each_method
def test_evaluation_anywhere_changes_no_training(method):
    model = network()
    optimizer = adam(model)
    compressor = metaq.Compressor(model, method, optimizer)

    def evaluate():
        model.eval()
        with torch.no_grad():
            loss(model)
        assert_shows_the_file(model, compressor)
        model[0](torch.ones(1, 12))
        compressor.compress()
        model.train()

    for _ in range(6):
        evaluate()
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        evaluate()
        compressor.regularize()
        evaluate()
        optimizer.step()
    assert digest_of_latents(model, compressor) == reference(method)


@each_method
def test_only_submodules_are_called(method):
    """As Lightning does: nobody calls the model itself."""

    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def compute(self, rows=slice(None)):
            return loss(self.network, rows)

    for has_optimizer in (True, False):
        model = Parts()
        optimizer = adam(model)
        compressor = metaq.Compressor(model, method, optimizer if has_optimizer else None)
        for _ in range(6):
            optimizer.zero_grad()
            model.compute().backward()
            compressor.regularize()
            optimizer.step()
        model.compute()
        assert digest_of_latents(model.network, compressor) == reference(method)
        model.eval()
        model.compute()
        assert_shows_the_file(model, compressor)


def test_accumulated_gradients_several_passes_and_clipping():
    model = network()
    optimizer = adam(model)
    compressor = metaq.Compressor(model, METAQ, optimizer)
    plain = network()
    plain_optimizer = adam(plain)
    plain_compressor = metaq.Compressor(plain, METAQ, plain_optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        for rows in (slice(0, 16), slice(16, 64)):
            (loss(model, rows) * (16 if rows.start == 0 else 48) / 64).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        compressor.regularize()
        optimizer.step()
        train(plain, plain_compressor, plain_optimizer, 1)
    for ours, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert_shows_the_file(model, compressor)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_step_that_a_grad_scaler_leaves_out(set_to_none):
    model, compressor, optimizer = trained(METAQ)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for poison in (1.0, float("inf"), 1.0):
        optimizer.zero_grad(set_to_none=set_to_none)
        scaler.scale(loss(model) * poison).backward()
        scaler.unscale_(optimizer)
        compressor.regularize()
        before = digest_of_latents(model, compressor)
        scaler.step(optimizer)
        scaler.update()
        assert (digest_of_latents(model, compressor) == before) == (poison == float("inf"))
        loss(model)
        assert_shows_the_file(model, compressor)


def test_closures_of_lbfgs_and_of_adam():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4, line_search_fn="strong_wolfe")
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
    assert float(loss(model).detach()) < 0.8 * first

    model = network()
    optimizer = adam(model)
    compressor = metaq.Compressor(model, METAQ, optimizer)
    for _ in range(6):
        optimizer.step(closure)
    assert digest_of_latents(model, compressor) == reference()
    with pytest.raises(InputError, match="would be lost"):
        optimizer.step(lambda: loss(model))


def test_two_optimizers_that_take_turns():
    model = network()
    optimizers = [torch.optim.Adam(part.parameters(), lr=1e-2) for part in (model[:2], model[3])]
    compressor = metaq.Compressor(model, METAQ, optimizers)
    for turn in range(6):
        optimizers[turn % 2].zero_grad()
        loss(model).backward()
        compressor.regularize()
        optimizers[turn % 2].step()
        assert_shows_the_file(model, compressor)
        with pytest.raises(InputError, match="would be lost"):
            optimizers[turn % 2].step()
    compressor.regularize()
    for optimizer in optimizers:
        optimizer.step()
    assert_shows_the_file(model, compressor)


def test_the_learning_rate_is_held_within_the_methods_limit():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    compressor = metaq.Compressor(model, METAQ, optimizer)
    compressor.bound.learning_rate_limit = 0.1
    rates = []
    optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
    train(model, compressor, optimizer, 1)
    assert rates == [0.1]
    assert optimizer.param_groups[0]["lr"] == 0.5


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


# Dtypes and layouts.


@pytest.mark.parametrize("method", [METAQ, METHODS["hemp"]], ids=["metaq", "hemp"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_train_float32_weights(method, dtype):
    model = network().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    compressor = metaq.Compressor(model, method, optimizer)
    with compressor.latent_weights():
        before = model[0].weight.detach().clone()
    assert before.dtype == torch.float32
    train(model, compressor, optimizer, 3)
    with compressor.latent_weights():
        moved = (model[0].weight.detach() - before).abs()
    assert 0 < float(moved.max()) < 1e-3  # updates that bfloat16 would lose
    assert model[0].weight.dtype == dtype
    model.eval()
    loss(model)
    assert_shows_the_file(model, compressor)


def test_autocast_trains_as_the_loop_does():
    model = network()
    optimizer = adam(model)
    compressor = metaq.Compressor(model, METAQ, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(model)
        value.backward()
        compressor.regularize()
        optimizer.step()
    assert_shows_the_file(model, compressor)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.SparseAdam])
def test_sparse_gradients_regularize_all_rows(kind):
    def build(sparse):
        torch.manual_seed(0)
        return nn.EmbeddingBag(50, 8, mode="sum", sparse=sparse)

    weights = []
    for sparse in (True, False):
        model = build(sparse)
        optimizer = (kind if sparse else torch.optim.Adam if kind is torch.optim.SparseAdam else kind)(
            model.parameters(), lr=1e-2
        )
        compressor = metaq.Compressor(model, metaq.METaQ(strength=1e-2, step=0.1), optimizer)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.tensor([[1, 2, 3]])).square().sum().backward()
            compressor.regularize()
            optimizer.step()
        with compressor.latent_weights():
            weights.append(model.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1])


# The last phase.


def test_the_last_phase_begins_by_itself_once():
    begun = []
    model = network()
    optimizer = adam(model)
    compressor = metaq.Compressor(model, METAQ, optimizer, training_steps=10)
    compressor.bound.on_last_phase = lambda: begun.append(compressor.training_step)
    train(model, compressor, optimizer, 10)
    compressor.begin_last_phase()
    assert begun == [8]
    model, compressor, _ = trained(METAQ, steps=4)
    assert not compressor.is_last_phase


def test_training_beyond_its_length_is_logged(caplog):
    trained(METAQ, steps=5, training_steps=4)
    assert "was to take 4 steps" in caplog.text
