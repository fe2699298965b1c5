"""Folders of tiny random models, as `transformers` writes them, with tokenizers and image processors; and data."""

import json
import random

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from metaq.integrations.folder_models import quiet

WORDS = ["the", "cat", "dog", "sat", "on", "a", "mat", "ran", "to", "house", "."]
VOCABULARY = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
CHAT = "{% for message in messages %}{{ message.content }} {% endfor %}"
SIZES = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64}
TEXT_SIZES = SIZES | {"vocab_size": len(VOCABULARY), "max_position_embeddings": 64}


def tokenizer(template, **options):
    """A WordPiece tokenizer of a few words, which puts special tokens around a text as the template says."""
    found = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [(token, VOCABULARY[token]) for token in ("[CLS]", "[SEP]")]
    found.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found, unk_token="[UNK]", **options)


def of_sentences():
    return tokenizer("[CLS] $A [SEP]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=32)


def of_windows():
    return tokenizer("[CLS] $A", bos_token="[CLS]", eos_token="[SEP]", chat_template=CHAT)


def save(folder, model, *others, **options):
    """A model and what belongs to it, in a folder."""
    with quiet():
        for entry in (model.eval(), *others):
            entry.save_pretrained(folder, **(options if entry is model else {}))
    return folder


def bert(folder, kind="BertForMaskedLM", dtype=torch.float32):
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.BertConfig(**TEXT_SIZES)).to(dtype)
    return save(folder, model, of_sentences())


def gpt2(folder, is_base=False):
    """GPT-2; with ``is_base``, without the prefix of its tensors, as old checkpoints are."""
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_head": 2, "n_layer": 2, "n_positions": 64, "vocab_size": len(VOCABULARY)}
    config = transformers.GPT2Config(**sizes, bos_token_id=2, eos_token_id=3)
    model = transformers.GPT2LMHeadModel(config)
    save(folder, model.transformer if is_base else model, of_windows())
    if is_base:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | {"architectures": ["GPT2LMHeadModel"]}))
    return folder


def llama(folder):
    """In float16, in shards."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT_SIZES)).to(torch.float16)
    return save(folder, model, of_windows(), max_shard_size="16kB")


def mixtral(folder):
    """With experts that the model's code has in one tensor, and its files do not."""
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**TEXT_SIZES, num_key_value_heads=2, num_local_experts=4)
    return save(folder, transformers.MixtralForCausalLM(config), of_windows())


def vit(folder):
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, image_size=16, patch_size=8))
    folder.mkdir()
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return save(folder, model)


def texts(count):
    """Sentences."""
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.randint(3, 9))) for _ in range(count)]


def images(folder, count):
    """Images of several sizes, in folders of a class each, and a file that is none."""
    generator = np.random.default_rng(0)
    for index in range(count):
        place = folder / "ab"[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 255, (20 + index, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{index:02}.png")
    (folder / "README").write_text("no image")
    return folder
