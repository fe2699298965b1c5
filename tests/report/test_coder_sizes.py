"""Sizes under every coder."""

import torch

import metaq
from metaq import coding
from metaq.compressed_model import encode
from metaq.report.coder_sizes import coder_rows


def test_coder_rows_are_whole_files():
    weight = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    model = metaq.compress({"a.weight": weight, "a.bias": weight[0].clone(), "tied": weight}, step=0.5)
    rows = coder_rows(model)
    sizes = {row["coder"]: row["bytes"] for row in rows}
    for coder in coding.coders:
        assert sizes[coder] == len(encode(model, coder))
    assert len(rows) == len(coding.coders) + 1
    assert [row["bytes"] for row in rows] == sorted(sizes.values(), reverse=True)
