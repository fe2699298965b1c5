"""How near a training comes to the size that it was asked for, and what accuracy the network then has.

    python benchmarks/targets.py --output benchmarks/results/targets.json [--minilm FOLDER] [--only lenet5-digits ...]

LeNet-5 on digits and MNIST from a random start; MiniLM (a folder of `transformers`) on SST-2 from its pretrained
weights, in `MINILM_STEPS` steps. Data is where METAQ_DATA says. Rows that the output has already are not run again.
"""

import argparse
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from torch import Tensor, nn
from torch.nn import functional

import metaq
from metaq.compressed_model import CompressedModel, encode
from metaq.experiments import data
from metaq.experiments.loop import evaluate
from metaq.experiments.models import LeNet5
from metaq.methods.base import Method

MINILM_STEPS, LENGTH = 216, 32
SMALL, LARGE = (1000, 3000, 10_000), (1_500_000, 3_000_000)


def wrapped(name: str, size_bytes: int) -> Method:
    """A method that is told nothing but a size."""
    if name == "metaq":
        return metaq.METaQ(target_bytes=size_bytes)
    return metaq.Sized({"hemp": metaq.HEMP, "lc": metaq.LC}[name](), target_bytes=size_bytes)


def jobs() -> Iterator[tuple[str, str, int]]:
    """Experiment, method, and bytes, 0 for the float network; those that take longest come last."""
    for size_bytes in (0, *SMALL):
        for name in ("metaq", "hemp", "lc") if size_bytes else ("float",):
            yield "lenet5-digits", name, size_bytes
    for size_bytes in (0, 1500, 5000):
        yield "lenet5-mnist", "metaq" if size_bytes else "float", size_bytes
    for size_bytes in (0, *LARGE):
        yield "minilm-sst2", "metaq" if size_bytes else "float", size_bytes


def train(
    model: nn.Module, method: Method | None, loss_of: Callable[[Tensor], Tensor], batches: list[Tensor], **options: Any
) -> tuple[int, float]:
    """Adam, its rate falling along half a cosine; the file's bytes, 0 without a method, and seconds."""
    coder = options.get("coder", "mixing")
    optimizer = torch.optim.Adam(model.parameters(), lr=options["learning_rate"])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))

    def write(compressed: CompressedModel) -> bytes:
        return encode(compressed, coder)

    compressor = None if method is None else metaq.Compressor(model, method, optimizer, len(batches), write)
    started = time.perf_counter()
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        loss_of(batch).backward()
        if compressor is not None:
            compressor.regularize()
        optimizer.step()
        scheduler.step()
    seconds = time.perf_counter() - started
    model.eval()
    return 0 if compressor is None else len(write(compressor.compress())), seconds


def run_lenet(name: str, method: Method | None) -> dict[str, Any]:
    dataset = data.by_name(name)(200 if name == "digits" else 5000)
    epochs = 10 if name == "digits" else 3
    torch.manual_seed(0)
    model, split = LeNet5(), dataset.train
    batches = [batch for _ in range(epochs) for batch in torch.randperm(len(split)).split(32)]

    def loss_of(batch: Tensor) -> Tensor:
        return functional.cross_entropy(model(split.inputs[batch]), split.labels[batch])

    size_bytes, seconds = train(model, method, loss_of, batches, learning_rate=3e-3)
    accuracy = evaluate(model, dataset.test).accuracy
    return {"size_bytes": size_bytes, "accuracy": accuracy, "steps": len(batches), "seconds": seconds}


def run_minilm(folder: Path, method: Method | None) -> dict[str, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    train_rows, test_rows = rows_of("train", tokenizer), rows_of("dev", tokenizer)
    order = torch.randperm(len(train_rows[1])).split(32)
    batches = [order[step % len(order)] for step in range(MINILM_STEPS)]

    def loss_of(batch: Tensor) -> Tensor:
        loss: Tensor = model(
            **{key: rows[batch] for key, rows in train_rows[0].items()}, labels=train_rows[1][batch]
        ).loss
        return loss

    size_bytes, seconds = train(model, method, loss_of, batches, learning_rate=2e-4, coder="rans")
    with torch.no_grad():
        hits = [
            model(**{key: rows[batch] for key, rows in test_rows[0].items()}).logits.argmax(1) == test_rows[1][batch]
            for batch in torch.arange(len(test_rows[1])).split(64)
        ]
    accuracy = float(torch.cat(hits).float().mean())
    return {"size_bytes": size_bytes, "accuracy": accuracy, "steps": len(batches), "seconds": seconds}


def rows_of(part: str, tokenizer: Any) -> tuple[dict[str, Tensor], Tensor]:
    """What the network takes of a part of SST-2, and its labels."""
    lines = (Path(os.environ["METAQ_DATA"]) / "sst2" / f"{part}.tsv").read_text().splitlines()
    texts, labels = zip(*(line.split("\t") for line in lines), strict=True)
    found = tokenizer(list(texts), truncation=True, max_length=LENGTH, padding="max_length", return_tensors="pt")
    return {key: found[key] for key in ("input_ids", "attention_mask")}, torch.tensor([int(label) for label in labels])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, help="without it the rows of MiniLM are left out")
    parser.add_argument("--only", nargs="*", help="names of experiments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = json.loads(options.output.read_text()) if options.output.exists() else {"rows": []}
    report |= {"command": shlex.join(sys.argv), "machine": machine()}
    for experiment, name, target in jobs():
        key = {"experiment": experiment, "method": name, "target_bytes": target}
        is_known = any(key.items() <= row.items() for row in report["rows"])
        if is_known or (options.only and experiment not in options.only):
            continue
        method = wrapped(name, target) if target else None
        if experiment != "minilm-sst2":
            row = run_lenet(experiment.removeprefix("lenet5-"), method)
        elif options.minilm:
            row = run_minilm(options.minilm, method)
        else:
            continue
        ratio = row["size_bytes"] / target if target else math.nan
        report["rows"].append(key | row | ({"size_over_target": ratio} if target else {}))
        options.output.write_text(json.dumps(report, indent=1) + "\n")
        print(json.dumps(report["rows"][-1]), flush=True)


if __name__ == "__main__":
    main()
