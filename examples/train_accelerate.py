"""Train LeNet-5 towards a small file with accelerate: on MNIST if METAQ_DATA is set, else on scikit-learn's digits."""

import os
import sys

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import metaq
from metaq.experiments.data import by_name
from metaq.experiments.models import LeNet5

path = sys.argv[1] if len(sys.argv) > 1 else "classifier.mtq"
epochs = 3 if "METAQ_DATA" in os.environ else 5
set_seed(0)
data = by_name("mnist")(5000) if "METAQ_DATA" in os.environ else by_name("digits")(200)
accelerator = Accelerator(gradient_accumulation_steps=2)
model = LeNet5()
model, optimizer, loader = accelerator.prepare(
    model,
    torch.optim.Adam(model.parameters(), lr=3e-3),
    DataLoader(TensorDataset(data.train.inputs, data.train.labels), 16, shuffle=True),
)
steps = epochs * -(-len(loader) // accelerator.gradient_accumulation_steps)
compressor = metaq.Compressor(model, metaq.METaQ(), optimizer, training_steps=steps)  # new

for epoch in range(epochs):
    for images, labels in loader:
        with accelerator.accumulate(model):
            accelerator.backward(cross_entropy(model(images), labels))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                compressor.regularize()  # new: once for each step, after clipping
            optimizer.step()
            optimizer.zero_grad()
    accelerator.print(f"epoch {epoch}: {compressor.measure()['size_bytes']:,} bytes")

compressed = compressor.compress()
if accelerator.is_main_process:
    size_bytes = metaq.save(compressed, path)
    metaq.load_into(LeNet5(), path)
    model.eval()
    with torch.no_grad():
        images, labels = (tensor.to(accelerator.device) for tensor in (data.validation.inputs, data.validation.labels))
        accuracy = float((model(images).argmax(1) == labels).float().mean())
    print(f"{path}: {size_bytes:,} bytes, held-out accuracy {accuracy:.4f}")
