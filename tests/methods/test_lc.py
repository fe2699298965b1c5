"""LC: its path to the constraint, its multipliers, its groups, its files, and that it resumes anywhere."""

import copy
from itertools import pairwise, product

import pytest
import torch
from torch import nn

import metaq
from metaq.errors import InputError
from metaq.experiments.models.lenet import LeNet300
from metaq.methods.lc import LC, Algorithm


class Quadratic(nn.Module):
    """L(w) = ½ (w - c)ᵀ A (w - c), convex, in as many weights as c has."""

    def __init__(self, matrix, centre):
        super().__init__()
        self.weight = nn.Parameter(centre.clone())
        self.matrix, self.centre = matrix, centre

    def forward(self):
        away = self.weight - self.centre
        return 0.5 * away @ self.matrix @ away


def solve(algorithm, matrix, centre, scheme, mu, growth=1.0, iterations=60, tolerance=0.0):
    """LC with exact L steps, by elimination; returns the model, the compressor and the distances."""
    model = Quadratic(matrix, centre)
    method = LC({"weight": scheme}, algorithm, mu=mu, growth=growth, l_steps=1000, start=0.0, tolerance=tolerance)
    compressor = metaq.Compressor(model, method, training_steps=1000)
    bound, distances = compressor.bound, []
    for _ in range(iterations):
        compressor.regularize()
        if not bound.is_finished:
            weight = 0.0 if algorithm is Algorithm.ITERATED else bound.mu
            target = matrix @ centre + weight * bound.compressed["weight"] + bound.multipliers["weight"]
            with torch.no_grad():
                model.weight.copy_(torch.linalg.solve(matrix + weight * torch.eye(len(centre)), target))
        bound.on_forward(True)
        distances.append(bound.distance)
    return model, compressor, distances


MATRIX = torch.tensor([[2.0, 0.6], [0.6, 1.0]])
CENTRE = torch.tensor([0.9, 0.3])


def test_distance_goes_to_zero_along_mu():
    _, _, distances = solve(Algorithm.PENALTY, MATRIX, CENTRE, "binary", 0.5, growth=1.5, iterations=20)
    assert distances[-1] < 1e-3
    assert all(after < before for before, after in pairwise(distances))
    # For large μ the penalty's path is w - Δ ≈ -∇L(Δ) / μ: proportional to 1 / μ.
    assert distances[-1] / distances[-5] == pytest.approx(1.5**-4, rel=0.05)


def test_multipliers_meet_the_constraint_where_the_penalty_alone_does_not():
    # μ stays: above the curvature that lets {-1, 1}^2's points be minima, far below a hard penalty.
    _, penalty, far = solve(Algorithm.PENALTY, MATRIX, CENTRE, "binary", 2.0, iterations=30)
    _, augmented, near = solve(Algorithm.AUGMENTED, MATRIX, CENTRE, "binary", 2.0, iterations=30)
    assert far[-1] > 0.1
    assert near[-1] < 1e-4
    # The known solution: the best of the four points. There the multipliers are the gradient: ∇L(w) = m.
    best = min(
        (torch.tensor([a, b]) for a in (-1.0, 1.0) for b in (-1.0, 1.0)),
        key=lambda point: float((point - CENTRE) @ MATRIX @ (point - CENTRE)),
    )
    assert torch.equal(augmented.bound.compressed["weight"], best)
    torch.testing.assert_close(augmented.bound.multipliers["weight"], MATRIX @ (best - CENTRE), rtol=1e-3, atol=1e-3)
    assert torch.equal(penalty.bound.multipliers["weight"], torch.zeros(2))


def test_learning_finds_what_direct_compression_does_not():
    lc_losses, iterated_losses, least = [], [], []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        factor, centre = torch.randn(12, 8, generator=generator), 0.8 * torch.randn(8, generator=generator)
        matrix = factor.T @ factor / 12

        def loss(point, centre=centre, matrix=matrix):
            return float((point - centre) @ matrix @ (point - centre)) / 2

        lc = solve(Algorithm.AUGMENTED, matrix, centre, "binary", 0.2, growth=1.1)[1]
        iterated = solve(Algorithm.ITERATED, matrix, centre, "binary", 0.05)[1]
        # Retraining without a penalty, and to the end, always comes back to the same weights.
        assert torch.equal(iterated.bound.compressed["weight"], torch.where(centre < 0, -1.0, 1.0))
        lc_losses.append(loss(lc.bound.compressed["weight"]))
        iterated_losses.append(loss(iterated.bound.compressed["weight"]))
        least.append(min(loss(torch.tensor(signs)) for signs in product((-1.0, 1.0), repeat=8)))
    assert sum(lc <= iterated + 1e-5 for lc, iterated in zip(lc_losses, iterated_losses, strict=True)) >= 17
    excess, iterated_excess = sum(lc_losses) - sum(least), sum(iterated_losses) - sum(least)
    assert excess < 0.25 * iterated_excess


def test_it_stops_at_its_tolerance_and_the_weights_stay():
    model, compressor, _ = solve(Algorithm.AUGMENTED, MATRIX, CENTRE, "binary", 2.0, iterations=30, tolerance=1e-2)
    assert compressor.bound.is_finished
    assert compressor.bound.iterations < 30
    assert compressor.learning_rate_limit == float("inf")
    assert torch.equal(model.weight.detach(), compressor.bound.compressed["weight"])
    model().backward()
    compressor.regularize()
    assert model.weight.grad.tolist() == [0.0, 0.0]


def test_gradient_is_that_of_the_augmented_lagrangian():
    model, compressor, _ = solve(Algorithm.AUGMENTED, MATRIX, CENTRE, "binary", 0.7, iterations=2)
    bound = compressor.bound
    with torch.no_grad():
        model.weight.add_(torch.tensor([0.05, -0.2]))
    weight = model.weight.detach().clone().requires_grad_()
    away = weight - bound.compressed["weight"] - bound.multipliers["weight"] / bound.mu
    (Quadratic.forward(model) * 0 + bound.mu / 2 * away.square().sum()).backward()
    model.weight.grad = None
    compressor.regularize()
    torch.testing.assert_close(model.weight.grad, weight.grad)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(60, 40), nn.Linear(40, 30), nn.Linear(30, 8)

    def forward(self, x):
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


def train_steps(model, compressor, optimizer, first, last):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 60, generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = min(0.05, compressor.learning_rate_limit)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(8)).backward()
        compressor.regularize()
        optimizer.step()


def small(schemes, algorithm=Algorithm.AUGMENTED, kind=Small):
    torch.manual_seed(0)
    model = kind()
    compressor = metaq.Compressor(model, LC(schemes, algorithm, 0.5, 2.0, l_steps=10, start=0.0), training_steps=40)
    return model, compressor, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("evaluated", [False, True])
def test_resuming_in_the_middle_of_an_l_step_changes_nothing(algorithm, evaluated):
    schemes = {"fc1.weight": "lloyd:3", "*.weight": "shared correct:0.01+kmeans:2", "*": "entropy:4:1e-4"}
    model, compressor, optimizer = small(schemes, algorithm)
    train_steps(model, compressor, optimizer, 0, 6)  # one L step and a half
    if evaluated:
        model.eval()(torch.zeros(1, 60))
        model.train()
    saved = copy.deepcopy([model.state_dict(), compressor.state_dict(), optimizer.state_dict()])
    other, resumed, second = small(schemes, algorithm)
    for part, state in zip((other, resumed, second), saved, strict=True):
        part.load_state_dict(state)
    for run in ((model, compressor, optimizer), (other, resumed, second)):
        train_steps(*run, 6, 15)
    assert metaq.compressed_model.encode(compressor.compress(), "stored") == metaq.compressed_model.encode(
        resumed.compress(), "stored"
    )
    for name, weights in model.train().state_dict().items():
        assert torch.equal(weights, other.state_dict()[name])
    for name, multipliers in compressor.bound.multipliers.items():
        assert torch.equal(multipliers, resumed.bound.multipliers[name])


def test_evaluation_sees_what_the_file_holds_and_training_goes_on_with_the_weights(tmp_path):
    model, compressor, optimizer = small({"fc3.*": "float", "*weight": "shared ternary", "fc1.bias": "prune:0.5"})
    train_steps(model, compressor, optimizer, 0, 3)
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(4, 60)
    outputs = model.eval()(images)
    metaq.save(compressor.compress(), tmp_path / "model.mtq")
    other = Small().eval()
    metaq.load_into(other, tmp_path / "model.mtq")
    assert torch.equal(other(images), outputs)
    assert set(torch.unique(other.fc1.weight).tolist()) <= {-1.0, 0.0, 1.0}
    assert int((other.fc1.bias != 0).sum()) == 20
    assert torch.equal(other.fc3.weight, before["fc3.weight"])
    model.train()(images)
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, before[name])


def test_a_shared_codebook_is_one_and_others_are_their_own():
    _, compressor, _ = small({"*.weight": "shared kmeans:2", "fc[12].bias": "kmeans:2"})
    tensors = compressor.compress().tensors
    books = [tensors[f"fc{layer}.weight"].codebook for layer in (1, 2, 3)]
    assert books[0] == books[1] == books[2]
    assert tensors["fc1.bias"].codebook != tensors["fc2.bias"].codebook
    assert isinstance(tensors["fc3.bias"], torch.Tensor)


def test_pruned_weights_of_many_values_are_kept_and_corrections_are_a_table():
    model, compressor, _ = small({"fc1.weight": "prune:0.05", "fc2.weight": "correct:0.01+kmeans:2"}, kind=LeNet300)
    tensors = compressor.compress().tensors
    kept, corrected = tensors["fc1.weight"], tensors["fc2.weight"]
    assert isinstance(kept, torch.Tensor)
    assert int((kept != 0).sum()) == 11760
    assert len(corrected.codebook.levels) == 302
    assert model.fc1.weight.data_ptr() != kept.data_ptr()


def test_a_binarized_lenet_takes_a_bit_a_weight_and_less_where_signs_are_not_uniform():
    model, compressor, _ = small({"*.weight": "binary"}, kind=LeNet300)
    biases = sum(4 * parameter.numel() for name, parameter in model.named_parameters() if "bias" in name)
    assert len(metaq.compressed_model.encode(compressor.compress())) <= 266_200 * 1.02 / 8 + biases
    model = LeNet300()
    with torch.no_grad():
        model.fc1.weight.add_(0.6 * model.fc1.weight.std())
    skewed = metaq.Compressor(model, LC({"*.weight": "binary"}), training_steps=1)
    assert len(metaq.compressed_model.encode(skewed.compress())) < 266_200 * 0.93 / 8 + biases


@pytest.mark.parametrize(
    ("schemes", "message"),
    [
        ({"conv*": "binary"}, "fits 'conv"),
        ({"*": "float"}, "one that compresses"),
        ({"*": "binary", "fc1*": "ternary"}, "fits 'fc1"),
    ],
)
def test_patterns_that_fit_nothing_are_refused(schemes, message):
    with pytest.raises(InputError, match=message):
        metaq.Compressor(LeNet300(), LC(schemes), training_steps=1)


@pytest.mark.parametrize(
    "options",
    [
        {"schemes": {}},
        {"schemes": {"*": "x"}},
        {"mu": -1.0},
        {"growth": 0.9},
        {"l_steps": 0},
        {"start": 1.0},
        {"tolerance": 1.0},
    ],
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(InputError):
        LC(**options)
