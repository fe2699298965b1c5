"""Solvers and quantizers on a CUDA device: integers are the CPU's, numbers as near as sums in another order are."""

import pytest
import torch

from metaq import assign, metrics
from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.methods import hemp
from metaq.methods.metaq.regularized import cheapest
from metaq.quantizers import rdoq, trellis
from metaq.solvers import breakpoints, cutting_plane, dual, kmeans1d, knapsack, lloyd_max, perspective, tuple_entropy
from metaq.solvers.scaled_codebook import best_scale

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DEVICE = torch.device("cuda")
LEVELS = torch.tensor([-1.4, -0.8, -0.4, 0.3, 0.7, 1.3], dtype=torch.float64)
XI = torch.tensor([3.0, 1.5, 2.9, 0.2, 4.0, 2.0], dtype=torch.float64)
WEIGHTS = 0.5 * torch.randn(70, 60, generator=torch.Generator().manual_seed(4))
COSTS = perspective.Costs(0.3, 2.0, 0.05)
BOOKS = UniformCodebook(0.1), TableCodebook(tuple(LEVELS.tolist()), 2), IntegerCodebook()


def climbed(climb):
    def solve(xi, levels, weights):
        found = climb(weights, levels, xi)
        return found.value, found.xi, found.counts, found.multipliers

    return solve


def entropies(order):
    def solve(_, levels, weights):
        found = tuple_entropy.tuples([weights, weights[:9]], [levels, levels[1:]], order)
        explicit = hemp.entropy([weights, weights[:9]], [levels, levels[1:]], order)
        return tuple_entropy.value(found), *tuple_entropy.value_and_gradient(found), *explicit.gradient

    return solve


def priced(_, levels, weights):
    found = perspective.solve(weights, levels, COSTS)
    return found.value, found.counts, perspective.multipliers(found.prices, weights, levels, COSTS)


def measured(_, __, weights):
    symbols = assign.nearest(weights, BOOKS[1])
    error = metrics.relative_squared_error(weights, assign.values(symbols, BOOKS[1]))
    return error, metrics.entropy_bits(symbols), metrics.tuple_entropy([symbols], 2)


# Of multipliers, levels and weights.
SOLVERS = {
    "hulls": lambda _, levels, weights: vars(knapsack.hull(weights[:, :6], levels)),
    "knapsack": lambda *given: vars(knapsack.solve(*given)),
    "knapsack, even": lambda xi, levels, weights: vars(knapsack.solve(xi, 0.4 * levels.argsort() - 1, weights)),
    "knapsack, multipliers": knapsack.multipliers,
    "knapsack, levels on the host": lambda xi, levels, weights: vars(knapsack.solve(xi.cpu(), levels.cpu(), weights)),
    "masses": lambda _, *given: knapsack.masses(*given),
    "cutting plane": lambda *given: vars(cutting_plane.solve(*given).solution),
    "breakpoints": lambda _, levels, weights: breakpoints.count_vertices(weights[:, :6], levels),
    "dual": lambda xi, levels, weights: dual.evaluate(xi, weights, levels),
    **{f.__name__: climbed(f) for f in (dual.diminishing_steps, dual.fista, dual.proximal_bundle, dual.newton)},
    "perspective": priced,
    "k-means": lambda _, __, weights: vars(kmeans1d.kmeans(weights, 5)),
    "Lloyd": lambda _, levels, weights: vars(kmeans1d.lloyd(weights, levels)),
    "Lloyd-Max": lambda _, levels, weights: lloyd_max.lloyd_max(weights, levels),
    "best levels": lambda _, __, weights: [lloyd_max.best_levels(weights, 5, zero) for zero in (None, 2)],
    "scale": lambda _, levels, weights: best_scale(weights.double().flatten(), levels),
    **{f"tuples of {order}": entropies(order) for order in (1, 3, 9)},
    "rdoq": lambda _, __, weights: rdoq.quantize({"": weights}, BOOKS[0], 0.1, {"": weights.abs()})[0],
    "trellis": lambda _, __, weights: trellis.quantize({"": weights}, BOOKS[0]),
    "nearest": lambda _, __, weights: [assign.nearest(weights, book) for book in BOOKS],
    "values": lambda _, __, weights: [assign.values(assign.nearest(weights, book), book) for book in BOOKS],
    "cheapest": lambda xi, _, weights: cheapest(weights, xi[:5], 0.1),
    "measures": measured,
}


def parts(found):
    """The tensors and numbers in it."""
    if isinstance(found, dict | list | tuple):
        entries = found.values() if isinstance(found, dict) else found
        return [part for entry in entries for part in parts(entry)]
    return [found if isinstance(found, torch.Tensor) else torch.tensor(found, dtype=torch.float64)]


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers(name):
    found, expected = (
        parts(SOLVERS[name](XI.to(device), LEVELS.to(device), WEIGHTS.to(device))) for device in (DEVICE, "cpu")
    )
    for ours, theirs in zip(found, expected, strict=True):
        if theirs.dtype.is_floating_point:
            atol = 1e-5 * float(theirs.abs().max())
            torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=atol)
        else:
            assert torch.equal(ours.cpu(), theirs)
