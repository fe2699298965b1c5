"""Fine-tune a network, and store what the task has changed of it alone: a kilobyte beside the base."""

import copy
import sys

import torch
from torch.nn import functional

import metaq
from metaq.experiments.data import by_name
from metaq.experiments.models import LeNet5

path = sys.argv[1] if len(sys.argv) > 1 else "task.mtq"
EPOCHS, BATCH = 20, 32
torch.manual_seed(0)
data = by_name("digits")(200)
moved = [functional.pad(split.inputs, (4, 0, 3, 0))[..., :-3, :-4] for split in (data.train, data.validation)]


def train(model, images, labels, learning_rate, method=None):
    """The usual loop; returns the compressor where there is a method."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    steps = EPOCHS * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
    compressor = method and metaq.Compressor(model, method, optimizer, training_steps=steps)
    for _epoch in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            if compressor:
                compressor.regularize()
            optimizer.step()
            schedule.step()
    return compressor


@torch.no_grad()
def accuracy(model, images):
    return float((model(images).argmax(1) == data.validation.labels).float().mean())


base = LeNet5()
train(base, data.train.inputs, data.train.labels, 3e-3)
print(f"base: {accuracy(base, data.validation.inputs):.3f} of the digits, {accuracy(base, moved[1]):.3f} of moved ones")

methods = {"whole": metaq.METaQ(strength=3e-5), "difference": metaq.Difference(metaq.METaQ(strength=3e-5))}
for name, method in methods.items():
    model = copy.deepcopy(base)
    compressed = train(model, moved[0], data.train.labels, 3e-3, method).compress()
    size_bytes = metaq.save(compressed, path)
    print(f"{name}: {size_bytes:,} bytes, {accuracy(model, moved[1]):.3f} of moved digits")

metaq.load_into(base, path)  # the base becomes the model, bit for bit; any other network is refused
assert all(torch.equal(tensor, base.state_dict()[key]) for key, tensor in model.state_dict().items())
