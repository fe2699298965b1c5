"""The compressor with parameters and gradients of other dtypes and layouts."""

import pytest
import torch
from small_training import METAQ, METHODS, adam, assert_shows_the_file, loss, network, train
from torch import nn

import metaq


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
