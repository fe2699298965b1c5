"""Train LeNet-5 towards a small file under Lightning: on MNIST if METAQ_DATA is set, else on scikit-learn's digits."""

import os
import sys

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import metaq
from metaq.experiments.data import by_name
from metaq.experiments.models import LeNet5
from metaq.integrations.lightning import MetaqCallback


class Classifier(LightningModule):
    def __init__(self):
        super().__init__()
        self.network = LeNet5()

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return cross_entropy(self.network(images), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("accuracy", (self.network(images).argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


path = sys.argv[1] if len(sys.argv) > 1 else "classifier.mtq"
seed_everything(0)
data = by_name("mnist")(5000) if "METAQ_DATA" in os.environ else by_name("digits")(200)
train, held_out = (TensorDataset(part.inputs, part.labels) for part in (data.train, data.validation))
trainer = Trainer(
    max_epochs=3 if "METAQ_DATA" in os.environ else 5,
    callbacks=[MetaqCallback(metaq.METaQ(), path)],  # new
    enable_checkpointing=False,
    logger=False,
)
module = Classifier()
trainer.fit(module, DataLoader(train, 32, shuffle=True), DataLoader(held_out, 500))
found = trainer.validate(module, DataLoader(held_out, 500), verbose=False)[0]
print(f"{path}: {os.path.getsize(path):,} bytes, held-out accuracy {found['accuracy']:.4f}")
metaq.load_into(Classifier(), path)
