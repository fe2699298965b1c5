"""The card, `README.md`, of a folder for `AutoModel.from_pretrained`: how small, how exact, and how to load it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaq.errors import InputError
from metaq.files import write_atomically

CARD = "README.md"
_TAG = "metaq"

_CARD = """\
# {name}, compressed by metaq

| | |
|---|---|
{rows}

## Load it

```text
pip install 'metaq-nn[transformers]'
```

```python
import metaq.integrations.transformers  # tells transformers how to read these files
from transformers import {model_class}

model = {model_class}.from_pretrained("{name}")
```

The weights are ordinary tensors then. Without that import `transformers` warns of an `Unknown quantization type, got
metaq` and then fails with a report of `size mismatch`: add the import. `metaq.from_pretrained("{name}")` gives the
tensors by name, without `transformers`.
"""


@dataclass(frozen=True)
class Facts:
    """What a card says of a compressed model.

    Attributes:
        file_bytes: of the files with the weights.
        source_bytes: of the weights before, in their dtypes.
        weights: how many there are.
        relative_squared_error: of the quantized ones, ``Σ‖w - ŵ‖² / Σ‖w‖²``; None if it is not known.
        coder: that they are coded by; None if it is not known.
    """

    file_bytes: int
    source_bytes: int
    weights: int
    relative_squared_error: float | None = None
    coder: str | None = None

    def rows(self) -> dict[str, str]:
        """The table's rows, by their heads."""
        before = (
            f"{self.source_bytes:,} bytes of weights before, {self.source_bytes / self.file_bytes:.1f} times as many"
        )
        rows = {
            "size": f"{self.file_bytes:,} bytes; {before}",
            "bits per weight": f"{8 * self.file_bytes / max(1, self.weights):.2f}, everything in the files counted",
        }
        if self.relative_squared_error is not None:
            rows["relative squared error"] = f"{self.relative_squared_error:.2e} of the quantized weights"
        return rows | ({} if self.coder is None else {"coder": self.coder})


def write_card(folder: Path, facts: Facts, config: dict[str, Any], name: str, source: str | None) -> None:
    """Write the card of a folder, in front of what the uncompressed model's card says.

    Args:
        config: the content of the folder's `config.json`.
        name: what the model is called.
        source: the text of the uncompressed model's card, whose metadata, such as license and base model, are kept.

    Raises:
        InputError: the place cannot be written.
    """
    metadata, body = _split(source or "")
    classes = config.get("architectures") or ["AutoModel"]
    rows = "\n".join(f"| {head} | {text} |" for head, text in facts.rows().items())
    card = _CARD.format(name=name, rows=rows, model_class=classes[0])
    text = f"---\n{_completed(metadata)}---\n\n{card}" + (f"\n{body.lstrip()}" if body.strip() else "")
    write_atomically(folder / CARD, text.encode())


def read_card(folder: Path) -> str | None:
    """The text of a folder's card, if it has one.

    Raises:
        InputError: it cannot be read as UTF-8.
    """
    path = folder / CARD
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a model card in UTF-8, found something else ({error})") from None


def _split(card: str) -> tuple[str, str]:
    """A card's metadata, YAML, and the text behind it."""
    found = re.match(r"---[ \t]*\r?\n(.*?\n|)---[ \t]*(?:\r?\n|$)", card, re.DOTALL)
    return (found[1].replace("\r\n", "\n"), card[found.end() :]) if found else ("", card)


def _completed(metadata: str) -> str:
    """Metadata with the entries by which the hub knows a model of metaq; what is there is left as it is."""
    if not re.search(r"^library_name:", metadata, re.MULTILINE):
        metadata += "library_name: transformers\n"
    if re.search(r"^base_model:", metadata, re.MULTILINE) and "base_model_relation:" not in metadata:
        metadata += "base_model_relation: quantized\n"
    if not re.search(r"^tags:", metadata, re.MULTILINE):
        return f"{metadata}tags:\n- {_TAG}\n"
    tags = re.search(r"^tags:[ \t]*\n(?=([ \t]*)- )", metadata, re.MULTILINE)
    if tags and not re.search(rf"^\s*- {_TAG}$", metadata, re.MULTILINE):
        return f"{metadata[: tags.end()]}{tags[1]}- {_TAG}\n{metadata[tags.end() :]}"
    return metadata
