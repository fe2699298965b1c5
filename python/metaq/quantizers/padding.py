"""Which positions of a batch of sequences are tokens, so that padding does not count in what data says of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metaq.errors import InputError

_MASK = "attention_mask"
_OF_A_DECODER = "decoder_"  # what its keyword arguments begin with, in models that have an encoder, too


def token_mask(batch: Any, index: int) -> Tensor | None:
    """Where a batch has tokens, as its keyword argument ``attention_mask`` says, zero at padding.

    Args:
        index: of the batch among others, for errors.

    Returns:
        Bools, of shape (samples, positions). None if all are tokens, if there is no mask of that shape, or if a decoder
        has inputs of the same shape, which the encoder's mask does not fit.

    Raises:
        InputError: all is padding.

    Example:
        >>> import torch
        >>> token_mask({"attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}, 0)
        tensor([[ True,  True,  True],
                [ True, False, False]])
    """
    mask = batch.get(_MASK) if isinstance(batch, Mapping) else None
    if not isinstance(mask, Tensor) or mask.ndim != 2 or bool(mask.all()):
        return None
    of_decoder = (value for key, value in batch.items() if str(key).startswith(_OF_A_DECODER))
    if any(isinstance(value, Tensor) and value.shape[:2] == mask.shape for value in of_decoder):
        return None
    if not bool(mask.any()):
        raise InputError(f"batch {index}: expected tokens, found an {_MASK} that is zero everywhere; leave it out")
    return mask != 0


def at_tokens(values: Tensor, is_token: Tensor | None, inner: int = 1) -> Tensor:
    """Values without those at padding; all of them, if they are not ordered by samples and positions.

    Args:
        values: of shape (samples, positions, ...) or (samples * positions, ...).
        is_token: as `token_mask` gives it.
        inner: how many dimensions there are at least of each position.

    Example:
        >>> import torch
        >>> at_tokens(torch.arange(3.0).reshape(1, 3, 1), torch.tensor([[True, True, False]]))
        tensor([[0.],
                [1.]])
    """
    if is_token is None:
        return values
    for mask in (is_token, is_token.flatten()):
        if values.ndim >= mask.ndim + inner and values.shape[: mask.ndim] == mask.shape:
            return values[mask.to(values.device)]
    return values
