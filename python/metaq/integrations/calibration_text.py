"""Text to batches of tokens: windows for models that generate, sentences for others."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from torch import Tensor

from metaq.errors import InputError, first_line
from metaq.files import refuse_devices

SUFFIXES = (".txt", ".jsonl")
WINDOW_TOKENS, WINDOWS, SENTENCES = 1024, 128, 512

_BATCH_TOKENS = 4096
_BATCH_LOGITS = 1 << 26  # a quarter of a gigabyte of float32; gradients take as much again
_PIECE_CHARACTERS = 1 << 16  # that are tokenized at a time
_UNLIMITED = 1 << 30  # tokens; tokenizers say more where they know no limit

Batch = dict[str, Tensor]
Item = TypeVar("Item")


def batches(model: Any, tokenizer: Any, data: Path, samples: int | None, window: int | None) -> list[Batch]:
    """The batches of `metaq.integrations.calibration_data.load` for text.

    Raises:
        InputError: text that cannot be read, is empty or is shorter than a window; a window that is longer than the
            model takes; or a model of another kind.
    """
    if model.config.is_encoder_decoder:
        expected = "a model that takes one text, and metaq.calibrate with batches for one of encoder and decoder"
        raise InputError(f"{type(model).__name__}: expected {expected}, found one of both")
    most = _most_tokens(model, tokenizer)
    if window is not None and window > most:
        raise InputError(f"window: expected at most the {most} tokens that the model takes, found {window}")
    of_batch = max(1, min(_BATCH_TOKENS, _BATCH_LOGITS // _logits_of_a_token(model)))
    if _generates(model):
        length = window or min(WINDOW_TOKENS, most)
        return _windows(tokenizer, data, samples or WINDOWS, length, of_batch)
    return _sentences(tokenizer, data, samples or SENTENCES, min(window or WINDOW_TOKENS, most), of_batch)


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """So many items from all over a sequence, in order; all, if there are fewer."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _windows(tokenizer: Any, data: Path, samples: int, window: int, of_batch: int) -> list[Batch]:
    """Windows in order, each with the token in front that the tokenizer begins texts with, if it does."""
    start = [token for token in tokenizer("a").input_ids[:1] if token == tokenizer.bos_token_id]
    length = window - len(start)
    if length < 1:
        raise InputError(f"window: expected at least 2 tokens, found {window}")
    tokens: list[int] = []
    for piece in _pieces(tokenizer, data):
        tokens += piece
        if len(tokens) >= samples * length:
            break
    if not tokens:
        raise InputError(f"{data}: expected text, found none")
    count = min(samples, len(tokens) // length)
    if not count:
        found = f"{len(tokens) + len(start)}; a shorter window takes less text"
        raise InputError(f"{data}: expected at least a window of {window} tokens, found {found}")
    rows = torch.tensor(tokens[: count * length]).reshape(count, length)
    rows = torch.cat([torch.tensor(start, dtype=rows.dtype).expand(count, len(start)), rows], 1)
    return [{"input_ids": some} for some in rows.split(max(1, of_batch // window))]


def _pieces(tokenizer: Any, data: Path) -> Iterator[list[int]]:
    """The tokens of a text, some lines at a time, or of one document after the other."""
    end = [] if data.suffix == ".txt" or tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for piece in _joined(_lines(data)) if data.suffix == ".txt" else _documents(tokenizer, data):
        yield [*tokenizer(piece, add_special_tokens=False).input_ids, *end]


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Lines together, about as many characters as are tokenized at a time."""
    piece: list[str] = []
    characters = 0
    for line in lines:
        piece.append(line)
        characters += len(line)
        if characters >= _PIECE_CHARACTERS:
            yield "".join(piece)
            piece, characters = [], 0
    yield "".join(piece)


def _sentences(tokenizer: Any, data: Path, samples: int, longest: int, of_batch: int) -> list[Batch]:
    """Batches of sentences of about the same length, so that little is padding, in an order without meaning."""
    texts = _documents(tokenizer, data) if data.suffix == ".jsonl" else (line.strip() for line in _lines(data))
    chosen = evenly([entry for entry in texts if entry.strip()], samples)
    if not chosen:
        raise InputError(f"{data}: expected text, found none")
    if tokenizer.pad_token is None:
        raise InputError(f"{tokenizer.name_or_path}: expected a tokenizer with a padding token, found none")
    encoded = tokenizer(chosen, truncation=True, max_length=longest)
    lengths = [len(tokens) for tokens in encoded["input_ids"]]
    groups: list[list[int]] = []
    for index in sorted(range(len(chosen)), key=lambda index: lengths[index]):
        if not groups or (len(groups[-1]) + 1) * lengths[index] > of_batch:
            groups.append([])
        groups[-1].append(index)
    random.Random(0).shuffle(groups)
    return [
        dict(tokenizer.pad({key: [encoded[key][i] for i in group] for key in encoded}, return_tensors="pt"))
        for group in groups
    ]


def _lines(path: Path) -> Iterator[str]:
    refuse_devices(path)
    try:
        with open(path, encoding="utf-8") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: expected text in UTF-8, found {reason}") from None


def _documents(tokenizer: Any, path: Path) -> Iterator[str]:
    """The texts of a ``.jsonl`` file; messages as the chat template puts them."""
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: expected a JSON object, found {first_line(error)}") from None
        yield _document(tokenizer, entry, where)


def _document(tokenizer: Any, entry: Any, where: str) -> str:
    if isinstance(entry, dict) and isinstance(entry.get("text"), str):
        text: str = entry["text"]
        return text
    if not isinstance(entry, dict) or not isinstance(entry.get("messages"), list):
        found = ", ".join(map(repr, entry)) or "no field" if isinstance(entry, dict) else type(entry).__name__
        raise InputError(f"{where}: expected an object with a 'text' or a list of 'messages', found {found}")
    try:
        return str(tokenizer.apply_chat_template(entry["messages"], tokenize=False))
    except Exception as error:
        raise InputError(
            f"{where}: expected messages that the chat template takes, found {first_line(error)}"
        ) from error


def _generates(model: Any) -> bool:
    """Whether a model is made to predict the next token, also if its head is not there."""
    kind = type(model.config)
    is_causal = kind in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    return bool(model.can_generate()) or (is_causal and kind not in transformers.MODEL_FOR_MASKED_LM_MAPPING)


def _most_tokens(model: Any, tokenizer: Any) -> int:
    known = (getattr(model.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length)
    return min([int(limit) for limit in known if isinstance(limit, int | float) and limit > 0], default=_UNLIMITED)


def _logits_of_a_token(model: Any) -> int:
    head = model.get_output_embeddings()
    return 1 if head is None else int(model.config.get_text_config().vocab_size)
