"""Train a network towards a small file from your own loop, write it, and load it back."""

import sys

import torch
from torch.nn import functional

import metaq
from metaq.experiments.data import by_name
from metaq.experiments.models import LeNet5

path = sys.argv[1] if len(sys.argv) > 1 else "digits.mtq"
torch.manual_seed(0)
train = by_name("digits")(200).train
model = LeNet5()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
compressor = metaq.Compressor(model, metaq.METaQ(strength=3e-5), optimizer, training_steps=390)
for _epoch in range(10):
    for batch in torch.randperm(len(train)).split(32):
        optimizer.zero_grad()
        functional.cross_entropy(model(train.inputs[batch]), train.labels[batch]).backward()
        compressor.regularize()
        optimizer.step()
size_bytes = metaq.save(compressor.compress(), path)
print(f"{path}: {size_bytes:,} bytes, float32 would be {4 * sum(p.numel() for p in model.parameters()):,}")
metaq.load_into(LeNet5(), path)
