"""What errors of weights are taken to cost."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import metaq
from metaq.checkpoints.weight_problems import MatrixProblem, RowProblem, weight_problems
from metaq.quantizers.second_order import Scaling, States


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(100, 16)
        self.first = nn.Embedding(100, 16)
        self.head = nn.Linear(16, 100, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.table(tokens) + self.first(tokens)))


@pytest.fixture(scope="module")
def problems():
    model = Tied()
    tokens = torch.cat([torch.zeros(64, 8, dtype=torch.int64), torch.randint(0, 50, (64, 8))], 1)
    calibration = metaq.calibrate(model, tokens.split(16))
    weights = {"table.weight": model.table.weight.detach(), "first.weight": model.first.weight.detach()}
    return weights, weight_problems(weights, calibration, States.DEPENDENT)


def test_rows_of_tables_cost_by_how_often_they_occur(problems):
    weights, found = problems
    tied, looked_up = found["table.weight"], found["first.weight"]
    assert isinstance(tied, MatrixProblem)
    assert isinstance(looked_up, RowProblem)
    assert looked_up.row_costs[0] > 5 * looked_up.row_costs[1:50].mean() > 15 * looked_up.row_costs[50:].mean()
    assert tied.output_cost[0] > 5 * tied.output_cost[1:50].mean() > 15 * tied.output_cost[50:].mean()
    weight, sigma = weights["table.weight"], 0.3 * float(tied.costs.mean().sqrt())
    scaled = replace(tied, scaling=Scaling(rows=True, columns=False))
    missed = (scaled.quantize(weight, sigma).decompress() - weight).square().mean(1)
    assert missed[0] < 0.5 * missed[50:].mean()


def test_costs_of_many_rows_are_told_by_some(problems):
    tied = problems[1]["table.weight"]
    every = torch.outer(tied.output_cost, tied.feedback.costs.flatten()).log()
    assert tied.costs.numel() < every.numel()
    assert float(tied.costs.log().mean()) == pytest.approx(float(every.mean()), abs=0.05)
