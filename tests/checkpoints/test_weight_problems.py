"""What errors of weights are taken to cost."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import metaq
from metaq.checkpoints.weight_problems import PlainProblem, weight_problems
from metaq.quantizers.second_order import Scaling, States, feedback


class Tied(nn.Module):
    def __init__(self, is_tied=True):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(100, 16)
        self.first = nn.Embedding(100, 16)
        self.head = nn.Linear(16, 100, bias=False)
        if is_tied:
            self.head.weight = self.table.weight
        else:
            self.head.weight.data.copy_(self.table.weight)

    def forward(self, tokens):
        return self.head(torch.tanh(self.table(tokens) + self.first(tokens)))


TOKENS = torch.cat([torch.zeros(64, 8, dtype=torch.int64), torch.arange(64 * 8).reshape(64, 8) * 7 % 50], 1)


@pytest.fixture(scope="module")
def problems():
    model = Tied()
    calibration = metaq.calibrate(model, TOKENS.split(16))
    weights = {"table.weight": model.table.weight.detach(), "first.weight": model.first.weight.detach()}
    return weights, weight_problems(weights, calibration, States.DEPENDENT)


def test_rows_of_tables_cost_by_how_often_they_occur(problems):
    weights, found = problems
    tied, looked_up = found["table.weight"], found["first.weight"]
    seen, rare, never = (looked_up.output_cost[part].mean() for part in (slice(1), slice(1, 50), slice(50, 100)))
    assert seen > 5 * rare > 15 * never
    assert tied.output_cost.sum() == pytest.approx(1)
    weight, sigma = weights["table.weight"], 0.3 * float(tied.costs.mean().sqrt())
    scaled = replace(tied, scaling=Scaling(rows=True, columns=False))
    missed = (scaled.quantize(weight, sigma).decompress() - weight).square().mean(1)
    assert missed[0] < 0.5 * missed[50:].mean()


def test_costs_of_many_rows_are_told_by_some(problems):
    tied = problems[1]["table.weight"]
    every = torch.outer(tied.output_cost, tied.feedback.costs.flatten()).log()
    assert tied.costs.numel() < every.numel()
    assert float(tied.costs.log().mean()) == pytest.approx(float(every.mean()), abs=0.05)


def test_a_tied_table_costs_what_its_two_uses_do():
    tied, parted = (metaq.calibrate(Tied(is_tied), TOKENS.split(16)) for is_tied in (True, False))
    name = "table.weight"
    assert torch.allclose(tied.lookups[name], parted.lookups[name], rtol=1e-4)
    assert torch.allclose(tied.rows[name], parted.rows["head.weight"], rtol=1e-3)
    assert torch.equal(tied.counts[name], parted.counts[name])
    model = Tied()
    with torch.no_grad():
        predicted = model(TOKENS).softmax(-1).sum((0, 1))
    assert torch.allclose(tied.expected[name], predicted, rtol=1e-4)
    assert not parted.expected
    shares = tied.counts[name] / tied.counts[name].sum()
    both = parted.importance("head.weight") + shares[:, None] * parted.lookups[name][0].diagonal()
    assert torch.allclose(tied.importance(name), both, rtol=1e-3)
    problem = weight_problems({name: model.table.weight.detach()}, tied, States.DEPENDENT)[name]
    often = ((tied.counts[name] + predicted) / 2).double() ** (2 / 3)
    assert torch.allclose(problem.output_cost, often / often.sum(), rtol=1e-4)
    hessian = parted.lookups[name] + parted.rows["head.weight"].sum() * parted.inputs["head.weight"]
    expected = feedback(hessian, parted.positions["head.weight"])
    assert torch.allclose(problem.feedback.costs, expected.costs, rtol=1e-3)
    again = problem.on(tied.inputs[name], tied.positions[name])
    assert torch.allclose(again.feedback.costs, expected.costs, rtol=1e-3)


def test_without_gradients_every_lookup_costs_alike():
    model = Tied()
    calibration = metaq.calibrate(model, TOKENS.split(16), gradients=False)
    assert torch.equal(calibration.lookups["first.weight"][0], 16 * torch.eye(16))
    problem = weight_problems({"first.weight": model.first.weight.detach()}, calibration, States.DEPENDENT)
    costs = problem["first.weight"].feedback.costs
    assert torch.allclose(costs, costs.mean().expand_as(costs))


class Idle(Tied):
    """Looks up in a table of which nothing reaches the output."""

    def forward(self, tokens):
        self.first(tokens)
        return self.head(torch.tanh(self.table(tokens)))


def test_a_table_that_does_not_matter_costs_what_others_do():
    model = Idle()
    calibration = metaq.calibrate(model, TOKENS.split(16))
    assert not calibration.lookups["first.weight"].any()
    weights = {name: getattr(model, name).weight.detach() for name in ("table", "first")}
    found = weight_problems({f"{name}.weight": weight for name, weight in weights.items()}, calibration, States.FREE)
    assert isinstance(found["first.weight"], PlainProblem)
    assert found["first.weight"].cost == pytest.approx(float(found["table.weight"].costs.log().mean().exp()))
