"""A compressed model from the shards of one, put together on the first process a tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from metaq.binding.selection import Choice
from metaq.binding.shards import gathered, whole
from metaq.codebook import Codebook
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, keep


def gather(
    state: Mapping[str, Tensor],
    choices: Sequence[Choice],
    quantized: Callable[[Choice], tuple[Codebook, Tensor] | None],
    is_first: bool,
) -> CompressedModel:
    """The compressed model on the first process; elsewhere one without tensors, which cannot be saved.

    Args:
        state: of the model, by the names of the file.
        quantized: gives a parameter's codebook and the symbols of this process's shard, or None if it is kept.
        is_first: whether the calling process is the first. All must call this together.
    """
    parameters = {choice.name: choice for choice in choices}
    aliases = {other: choice.name for choice in choices for other in choice.names[1:]}
    tensors: dict[str, CodedTensor | Tensor | Alias] = {}
    for name, tensor in state.items():
        entry: CodedTensor | Tensor | Alias
        if name in aliases:
            entry = Alias(aliases[name])
        elif name in parameters and (found := quantized(choice := parameters[name])) is not None:
            entry = CodedTensor(gathered(found[1], choice.parameter).cpu(), found[0], choice.dtype)
        else:
            entry = keep({name: whole(tensor).cpu().clone()})[name]
        if is_first:
            tensors[name] = entry
    return CompressedModel(tensors, is_elsewhere=not is_first)
