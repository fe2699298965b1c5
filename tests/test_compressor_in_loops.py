"""The compressor in loops of every kind: right, or an error at the first step; never a worse network."""

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

import metaq
from metaq.errors import InputError


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
