"""A small GPT over characters (nanoGPT's design: Radford et al. 2019, with a tied head and no biases)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_LAYERS, _HEADS, _WIDTH = 4, 4, 128
_CHARACTERS, _CONTEXT = 65, 64
_DEVIATION = 0.02  # of the initial weights


class _Block(nn.Module):
    """Causal self-attention, then two dense layers with GELU; each after normalisation, and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(_WIDTH, bias=False)
        self.attention = nn.Linear(_WIDTH, 3 * _WIDTH, bias=False)
        self.attention_output = nn.Linear(_WIDTH, _WIDTH, bias=False)
        self.norm2 = nn.LayerNorm(_WIDTH, bias=False)
        self.fc1 = nn.Linear(_WIDTH, 4 * _WIDTH, bias=False)
        self.fc2 = nn.Linear(4 * _WIDTH, _WIDTH, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        heads = self.attention(self.norm1(hidden)).unflatten(2, (3, _HEADS, _WIDTH // _HEADS))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (batch, heads, positions, width of a head)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.attention_output(attended.transpose(1, 2).flatten(2))
        added: Tensor = self.fc2(functional.gelu(self.fc1(self.norm2(hidden))))
        return hidden + added


class CharTransformer(nn.Module):
    """Four layers, four heads, 128 wide, a context of 64 of 65 characters: 804,096 parameters.

    The head's weights are the embedding's. There is no dropout.

    Input: int64 characters (batch, up to 64). Output: float32 logits (batch, positions, 65).
    """

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(_CHARACTERS, _WIDTH)
        self.positions = nn.Embedding(_CONTEXT, _WIDTH)
        self.layers = nn.Sequential(*(_Block() for _ in range(_LAYERS)))
        self.norm = nn.LayerNorm(_WIDTH, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                adds_to_stream = name.endswith(("attention_output.weight", "fc2.weight"))
                nn.init.normal_(parameter, std=_DEVIATION / (math.sqrt(2 * _LAYERS) if adds_to_stream else 1))

    def forward(self, characters: Tensor) -> Tensor:
        """Logits of the character after each of a batch of windows."""
        positions = torch.arange(characters.shape[1], device=characters.device)
        hidden = self.norm(self.layers(self.characters(characters) + self.positions(positions)))
        return functional.linear(hidden, self.characters.weight)
