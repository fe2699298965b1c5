"""The compressor with parameters and gradients of other dtypes and layouts."""

import pytest
import torch
from small_training import METAQ, METHODS, adam, assert_shows_the_file, loss, network, train
from torch import nn

import metaq
from metaq.errors import InputError
from metaq.methods.metaq.config import Final


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


def test_losses_of_weights_that_a_method_tries_are_theirs():
    """In narrow dtypes too, where the model's parameters are a copy of what the method moves."""
    model = network().bfloat16()
    optimizer = adam(model)
    compressor = metaq.Compressor(model, metaq.METaQ(strength=1e-3, final=Final.RATE, tolerance=0.0), optimizer)
    train(model, compressor, optimizer, 3)
    compressor.begin_last_phase()
    seen = []

    def validation_loss():
        value = float(loss(model.eval()).detach())
        seen.append(model[0].weight.detach().clone())
        return value

    compressor.end_epoch(validation_loss)
    assert any(not torch.equal(seen[0], tried) for tried in seen[1:])


def test_a_lost_step_is_found_where_training_sees_latent_weights():
    model = network().bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    metaq.Compressor(model, METHODS["hemp"])
    loss(model).backward()
    loss(model.eval())
    optimizer.step()
    with pytest.raises(InputError, match=r"expected the weights that the last forward pass saw.*call regularize"):
        loss(model.train())
