"""METaQ: its gradient by finite differences, its two exact blocks, and its hooks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import metaq
from metaq.errors import InputError
from metaq.experiments.models import LeNet300
from metaq.methods.metaq.config import AroundMean, Counts, Final, LevelPlacement, Objective, Perspective, Slopes, Solver
from metaq.methods.metaq.method import METaQ
from metaq.methods.metaq.objectives import slope_table
from metaq.methods.training import Training
from metaq.solvers import dual, knapsack, perspective


def code_length_objective(xi, levels, weights):
    return float(knapsack.solve(xi, levels, weights).value.sum())


def shannon(found, count):
    """The best code lengths for a relaxed assignment: ``-log2(c_b / n)``, empty levels at a length they never pay."""
    mass = torch.zeros(count, dtype=torch.float64)
    mass.scatter_add_(0, found.left, found.mass).scatter_add_(0, found.right, 1 - found.mass)
    return -(mass.clamp(min=1e-30) / mass.sum()).log2()


@given(seed=st.integers(0, 1000), count=st.integers(2, 20))
@settings(max_examples=40, deadline=None)
def test_alternating_never_raises_the_objective(seed, count):
    generator = torch.Generator().manual_seed(seed)
    levels = torch.linspace(-1, 1, count, dtype=torch.float64)
    weights = torch.randn(200, generator=generator, dtype=torch.float64).clamp(-3, 3) / 3
    xi = -torch.rand(count, generator=generator, dtype=torch.float64).log_softmax(0) / torch.log(torch.tensor(2.0))
    last = code_length_objective(xi, levels, weights)
    for _ in range(8):
        xi = shannon(knapsack.solve(xi, levels, weights), count)
        now = code_length_objective(xi, levels, weights)
        assert now <= last + 1e-9 * abs(last)
        last = now


def bound_linear(training_steps=None, **options):
    torch.manual_seed(0)
    model = nn.Linear(40, 30)
    compressor = metaq.Compressor(model, METaQ(step=0.1, radius=12, **options), training_steps=training_steps)
    return model, compressor


def test_gradient_is_the_derivative_of_the_hull_of_the_code_lengths():
    model, compressor = bound_linear(strength=0.5, slopes=Slopes.HULL)
    bound = compressor.bound
    model.weight.grad, model.bias.grad = torch.zeros_like(model.weight), torch.zeros_like(model.bias)
    weights = model.weight.detach().clone()
    compressor.show(True)
    compressor.regularize()
    step = float(bound.view.steps[0])
    levels = torch.arange(-12, 13, dtype=torch.float64) * step
    symbols = (weights / step).round().clamp(-12, 12).to(torch.int64)
    counts = torch.bincount(symbols.flatten() + 12, minlength=25).double() + 0.1
    xi = -(counts / counts.sum()).log2()
    epsilon = 1e-6
    higher = knapsack.solve(xi, levels, weights.double() + epsilon).value
    lower = knapsack.solve(xi, levels, weights.double() - epsilon).value
    torch.testing.assert_close(model.weight.grad.double(), 0.5 * (higher - lower) / (2 * epsilon), rtol=1e-3, atol=1e-3)


def test_regularize_adds_to_the_loss_gradient_and_gives_the_weights_back():
    model, compressor = bound_linear(strength=0.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss = model(torch.ones(4, 40)).square().sum()
    assert not torch.equal(model.weight, before["weight"])
    loss.backward()
    expected = model.weight.grad.clone()
    compressor.regularize()
    assert torch.equal(model.weight, before["weight"])
    assert torch.equal(model.weight.grad, expected)


def test_forward_passes_see_exactly_what_compress_gives():
    model, compressor = bound_linear(strength=1e-3)
    model(torch.ones(1, 40))
    seen = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    decompressed = compressor.compress().decompress()
    assert metaq.metrics.digest(seen) == metaq.metrics.digest(decompressed)


def test_the_last_phase_pins_the_commonest_level_and_trains_the_rest():
    model, compressor = bound_linear(strength=1e-4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    compressor.begin_last_phase()
    before = compressor.compress().tensors["weight"].symbols
    commonest = int(before.flatten().mode().values)
    pinned = before == commonest
    assert 0 < int(pinned.sum()) < pinned.numel()
    for _ in range(5):
        optimizer.zero_grad()
        (model(torch.ones(4, 40)) - 3).square().sum().backward()
        compressor.regularize()
        optimizer.step()
    after = compressor.compress().tensors["weight"].symbols
    assert bool((after[pinned] == commonest).all())
    assert not torch.equal(before, after)


@pytest.mark.parametrize("slopes", Slopes)
def test_slopes_of_a_table_by_hand(slopes):
    """LevelPlacement -1 ... 2 with code lengths 4, 1, 3, 3.5: the cheapest level is 0."""
    xi, levels = torch.tensor([[4.0, 1.0, 3.0, 3.5]]), torch.tensor([[-1.0, 0.0, 1.0, 2.0]])
    expected = {
        Slopes.HULL: [[-3, -3], [-3, 1.25], [1.25, 1.25], [1.25, 1.25]],
        Slopes.ADJACENT: [[-3, -3], [-3, 2], [2, 0.5], [0.5, 0.5]],
    }
    assert slope_table(slopes, xi, levels)[0].tolist() == expected[slopes]


def test_strength_pulls_weights_together():
    """Without a loss, the regulariser alone makes the symbols cheaper."""
    model, compressor = bound_linear(strength=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sizes = []
    for _ in range(60):
        optimizer.zero_grad()
        compressor.regularize()
        optimizer.step()
        _, symbols = compressor.bound.quantize_parameter("weight", model.weight.detach())
        sizes.append(metaq.metrics.entropy_bits(symbols))
    assert sizes[-1] < 0.7 * sizes[0]


def test_warmup_raises_the_strength_linearly():
    model, compressor = bound_linear(
        training_steps=40, strength=1.0, schedule=((0, 0.0), (0.1, 1.0)), refresh_every=100
    )
    sizes = []
    for _ in range(6):
        model.zero_grad()
        compressor.regularize()
        sizes.append(float(model.weight.grad.abs().sum()))
    assert sizes[0] == 0
    ratios = [size / sizes[-1] for size in sizes]
    assert ratios == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1], rel=1e-4)


def test_steps_are_short_numbers():
    _, compressor = bound_linear()
    for step in compressor.bound.view.steps:
        mantissa, _ = torch.frexp(torch.tensor(step))
        assert float(mantissa * 16) == int(mantissa * 16)


@pytest.mark.parametrize(
    "options",
    [
        {"strength": -1.0},
        {"strength": float("nan")},
        {"step": -0.1},
        {"start_error": 0.0},
        {"radius": -1},
        {"refresh_every": 0},
        {"schedule": ((0.5, 1.0), (0.5, 0.0))},
        {"schedule": ((0.5, 1.0), (5, 0.0))},
        {"schedule": ((0, -1.0),)},
        {"slopes": Slopes.ADJACENT, "objective": Objective.PERSPECTIVE},
        {"levels": LevelPlacement.AROUND_MEAN, "objective": Objective.PERSPECTIVE},
    ],
)
def test_refuses_what_makes_no_sense(options):
    with pytest.raises(InputError, match=next(iter(options))):
        METaQ(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"target_bytes": -1},
        {"target_ratio": -1.0},
        {"target_bytes": 100, "target_ratio": 2.0},
        {"target_bytes": 100, "levels": LevelPlacement.AROUND_MEAN},
    ],
)
def test_refuses_targets_that_make_no_sense(options):
    with pytest.raises(InputError, match="expected"):
        METaQ(**options)


def test_the_default_schedule_is_left_out_where_the_length_is_unknown_and_others_are_refused():
    _, compressor = bound_linear(strength=2.0)
    assert compressor.bound.present_strength() == 2.0
    _, compressor = bound_linear(training_steps=100, strength=2.0)
    assert compressor.bound.present_strength() == 0.0
    with pytest.raises(InputError, match=r"METaQ schedule.*training_steps="):
        bound_linear(schedule=((0, 1.0), (0.5, 2.0)))


def regulariser_gradient(config):
    """(A small linear layer's weights, β as `regularize` adds it, the bound method)."""
    torch.manual_seed(0)
    model = nn.Linear(40, 30, bias=False)
    compressor = metaq.Compressor(model, config)
    weights = model.weight.detach().clone()
    compressor.regularize()
    return weights, model.weight.grad.double(), compressor.bound


@pytest.mark.parametrize("solver", Solver)
def test_gradient_of_the_published_objective(solver):
    counts = Counts(solver=solver, iterations=1 if solver is Solver.NEWTON else 400)
    if solver is Solver.NEWTON:
        counts = Counts(solver=solver, iterations=100)
    config = METaQ(objective=Objective.COUNTS, strength=1.0, step=0.2, radius=5, counts=counts)
    weights, beta, bound = regulariser_gradient(config)
    levels = bound.view.levels()[0]

    def phi(moved):
        return dual.newton(moved, levels, None, dual.Newton(tolerance=1e-13)).primal

    direction = torch.randn(weights.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    epsilon, exact = 1e-5, weights.double()
    derivative = (phi(exact + epsilon * direction) - phi(exact - epsilon * direction)) / (2 * epsilon)
    assert float((beta * direction).sum()) == pytest.approx(derivative, rel=2e-2)


def test_the_share_of_the_squared_weights():
    plain = METaQ(objective=Objective.COUNTS, strength=0.5, step=0.2, radius=5)
    mixed = METaQ(objective=Objective.COUNTS, strength=0.5, step=0.2, radius=5, counts=Counts(alpha=0.25))
    weights, beta, _ = regulariser_gradient(plain)
    _, both, _ = regulariser_gradient(mixed)
    torch.testing.assert_close(both, 0.75 * beta + 0.25 * weights.double(), rtol=1e-4, atol=1e-4)


def test_gradient_of_the_perspective():
    options = Perspective(magnitude=0.3, presence=2.0, spread=0.05, iterations=400)
    config = METaQ(objective=Objective.PERSPECTIVE, strength=1.0, step=0.2, radius=5, perspective=options)
    weights, beta, bound = regulariser_gradient(config)
    levels = torch.tensor([float(b) for b in range(-5, 6) if b])
    scaled = weights / bound.view.steps[0]
    found = perspective.solve(scaled, levels, options.costs(), iterations=400)
    expected = perspective.multipliers(found.prices, scaled, levels, options.costs()) / bound.view.steps[0]
    torch.testing.assert_close(beta, expected.double(), rtol=1e-3, atol=1e-3)
    assert bool((beta * weights >= 0).all())


def train_on_digits(config, epochs=15):
    """(Zero-order entropy in bits of the weights at the end, training loss), from the same start every time."""
    split = metaq.experiments.data.by_name("digits")(200).train
    torch.manual_seed(3)
    model = nn.Sequential(nn.Upsample(28), LeNet300()) if split.inputs.shape[-1] != 28 else LeNet300()
    compressor = metaq.Compressor(model, config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(split), generator=generator).split(100):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(split.inputs[batch]), split.labels[batch])
            loss.backward()
            compressor.regularize()
            optimizer.step()
    coded = [entry for entry in compressor.compress().tensors.values() if isinstance(entry, metaq.CodedTensor)]
    return sum(metaq.metrics.entropy_bits(entry.symbols) for entry in coded), loss.item()


@pytest.mark.slow
def test_in_training_the_published_sign_raises_the_entropy_and_code_lengths_lower_it():
    common = {"radius": 31, "step": 0.04}
    without, _ = train_on_digits(METaQ(strength=0.0, **common))
    lower, loss = train_on_digits(METaQ(strength=1e-5, **common))
    counts = METaQ(strength=1e-5, objective=Objective.COUNTS, refresh_every=10, **common)
    higher, other_loss = train_on_digits(counts)
    assert lower < 0.8 * without
    assert higher > 1.004 * without  # from weights that are nearly evenly spread already
    assert max(loss, other_loss) < 0.5


def test_levels_around_the_mean_show_floats_in_training_and_the_file_in_evaluation():
    torch.manual_seed(0)
    model = nn.Linear(30, 20)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = METaQ(levels=LevelPlacement.AROUND_MEAN, strength=1e-3, around_mean=AroundMean(count=6, buckets=9))
    compressor = metaq.Compressor(model, config)
    model(torch.ones(1, 30)).sum().backward()
    assert torch.equal(model.weight, before["weight"])
    compressor.regularize()
    weights = torch.cat([before["weight"].flatten(), before["bias"]])
    centre = weights.mean()
    reach = (weights - centre).abs().max()
    width = 2 * reach / 9
    bucket = ((before["weight"] - (centre - reach)) / width).floor().clamp(0, 8)
    model.eval()
    model(torch.ones(1, 30))
    torch.testing.assert_close(model.weight.detach(), centre - reach + (bucket + 0.5) * width)
    assert torch.equal(compressor.compress().decompress()["weight"], model.weight.detach())
    model.train()
    model(torch.ones(1, 30))
    assert torch.equal(model.weight, before["weight"])


def test_the_search_takes_the_fewest_buckets_that_the_validation_loss_allows():
    torch.manual_seed(0)
    model = nn.Linear(30, 20)
    exact = model.weight.detach().clone()
    compressor = metaq.Compressor(model, METaQ(levels=LevelPlacement.AROUND_MEAN, tolerance=0.5))
    model.eval()

    def loss():
        model(torch.ones(1, 30))
        return 1.0 + float((model.weight.detach() - exact).square().mean()) / 1e-4

    compressor.begin_last_phase()
    compressor.end_epoch(loss)
    chosen = compressor.bound.buckets
    assert loss() <= 1.51
    compressor.bound.restore_weights()
    compressor.bound.buckets = chosen - max(1, chosen // 8)
    assert loss() > 1.45


def test_rate_aware_quantization_makes_the_file_smaller_as_far_as_validation_allows():
    sizes = {}
    for tolerance in (0.0, 1e9):
        model, compressor = bound_linear(final=Final.RATE, tolerance=tolerance)
        torch.nn.init.normal_(model.weight, std=0.02)
        exact = model.weight.detach().clone()
        model.eval()

        def loss(model=model, exact=exact):
            model(torch.ones(1, 40))
            return 1.0 + float((model.weight.detach() - exact).square().sum())

        compressor.begin_last_phase()
        compressor.end_epoch(loss)
        sizes[tolerance] = metaq.metrics.entropy_bits(compressor.compress().tensors["weight"].symbols)
    model, compressor = bound_linear()
    torch.nn.init.normal_(model.weight, std=0.02)
    nearest = metaq.metrics.entropy_bits(compressor.compress().tensors["weight"].symbols)
    assert sizes[0.0] == pytest.approx(nearest, rel=1e-3)  # the commonest level is pinned before, which moves nothing
    assert sizes[1e9] < 0.99 * nearest


def test_without_strength_and_size_the_length_decides():
    assert METaQ().size_target(Training(100)).ratio == 12
    assert not METaQ().size_target(Training(100, level_distances={"w": 0.1}))
    assert not METaQ().size_target(Training())
    assert not METaQ(strength=1e-5).size_target(Training(100))
    assert METaQ(target_bytes=700).size_target(Training(100)).size_bytes == 700
    assert METaQ().strength_for(10_000) == METaQ().strength_for(44_426) == 3e-5
    assert METaQ().strength_for(22_700_000) == pytest.approx(1.33e-6, rel=0.01)
    assert METaQ(strength=0.0).strength_for(22_700_000) == 0.0
    assert METaQ(levels=LevelPlacement.AROUND_MEAN).size_target(Training(100)).ratio == 0
