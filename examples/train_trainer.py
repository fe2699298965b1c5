"""Train a small BERT towards a small file under transformers.Trainer: on SST-2 if METAQ_DATA is set, else toy text."""

import collections
import os
import random
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

import metaq
from metaq.integrations.transformers import MetaqCallback

LENGTH = 32


def sentences(part):
    """Words of sentences, each with 1 if its author liked the film and 0 if not."""
    if "METAQ_DATA" in os.environ:
        lines = (Path(os.environ["METAQ_DATA"]) / "sst2" / f"{part}.tsv").read_text().splitlines()
        return [(text.split(), int(label)) for text, label in (line.split("\t") for line in lines)]
    chance = random.Random(part)
    opinions = [["dull", "bad", "a", "mess"], ["good", "fun", "a", "joy"]]
    return [
        ([*chance.choices(["the", "film", "is", "so", "very"], k=4), *chance.choices(opinions[label], k=3)], label)
        for label in chance.choices([0, 1], k=480 if part == "train" else 120)
    ]


def encoded(rows, vocabulary):
    """What the network takes; 0 is padding and 1 a word that it does not know."""
    inputs = torch.zeros(len(rows), LENGTH, dtype=torch.int64)
    for row, (words, _) in zip(inputs, rows, strict=True):
        known = [vocabulary.get(word, 1) for word in words[:LENGTH]]
        row[: len(known)] = torch.tensor(known)
    return [
        {"input_ids": row, "attention_mask": (row > 0).long(), "labels": label}
        for row, (_, label) in zip(inputs, rows, strict=True)
    ]


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


path = Path(sys.argv[1] if len(sys.argv) > 1 else "sentiment.mtq")
set_seed(0)
counts = collections.Counter(word for words, _ in sentences("train") for word in words)
vocabulary = {word: place for place, (word, _) in enumerate(counts.most_common(5000), start=2)}
sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
model = BertForSequenceClassification(
    BertConfig(vocab_size=len(vocabulary) + 2, max_position_embeddings=LENGTH, **sizes)
)
arguments = TrainingArguments(
    output_dir=str(path.with_suffix("")),
    learning_rate=1e-3,
    num_train_epochs=3,
    per_device_train_batch_size=32,
    eval_strategy="epoch",
    save_strategy="epoch",
    load_best_model_at_end=True,
    metric_for_best_model="accuracy",
    logging_steps=15,
    use_cpu=not torch.cuda.is_available(),
)
trainer = Trainer(
    model,
    arguments,
    train_dataset=encoded(sentences("train"), vocabulary),
    eval_dataset=encoded(sentences("dev"), vocabulary),
    compute_metrics=accuracy,
    callbacks=[MetaqCallback(metaq.METaQ(target_ratio=12))],  # new
)
trainer.train()
(Path(arguments.output_dir) / "model.mtq").replace(path)
print(f"{path}: {path.stat().st_size:,} bytes, accuracy {trainer.evaluate()['eval_accuracy']:.4f}")
