"""The order of hidden neurons: every one makes the same network, and some make a smaller file.

Whoever permutes the outputs of a layer, and the inputs of the next one with them, changes nothing that the network
computes, but for the order in which sums are rounded. A coder that learns as it goes is helped by an order in which
neurons that are alike follow each other: of a network of which few neurons are left, those come first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from metaq.compressed_model import Alias, CodedTensor, CompressedModel, coder_for, encode
from metaq.errors import InputError, nearest_name

Chain = Sequence[str | Sequence[str]]
"""Layers by name, each of whose outputs are the next one's inputs; a layer and normalisations behind it in a tuple."""

Advance = Callable[[int, int], None]
"""Is told how many orders have been tried, and of how many."""

_LAYERS = nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d
_BESIDE = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.PReLU  # what treats neurons apart, with parameters of each
_SHARE_ANYWHERE = 0.2  # of moves, that are to any place


def order_neurons(
    model: CompressedModel,
    network: nn.Module,
    chains: Iterable[Chain],
    moves: int = 1000,
    coder: str | None = None,
    advance: Advance = lambda done, total: None,
) -> CompressedModel:
    """The same network with its hidden neurons in an order that makes its file smaller.

    First come the neurons with the most weights that are not zero; then neurons are moved one at a time, at random, as
    long as whole files become smaller. Only what lies between the layers of a chain is moved, so that the network's
    inputs and outputs stay where they are. Random numbers are the same every time, and so is the result.

    Args:
        network: whose tensors the model has; it stays as it is.
        chains: each the layers of a part of the network, in the order of its forward pass. Between two there must be
            nothing but what treats all neurons alike and apart, such as activations, pooling, flattening, dropout:
            normalisations with parameters are named beside the layer before, as in
            ``[("conv1", "bn1"), "conv2"]``, and nothing else may read the layer's outputs, as a shortcut does.
        moves: how many to try. Each takes as long as writing the file.
        coder: of the file, as of `metaq.save`.
        advance: is told of every move.

    Returns:
        The model, or the one that was given if no order makes it smaller.

    Raises:
        InputError: the network has no such layers, or one that is neither linear nor a convolution without groups; a
            layer's inputs are not as many as the outputs of the one before, or a multiple; a tensor is not the
            network's, is tied to another, or has scales of rows or columns.

    Weights that were quantized in a trellis depend on their order: no other makes them smaller.

    Example:
        >>> import metaq, torch
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 3))
        >>> with torch.no_grad():
        ...     _ = network[0].weight.mul_(torch.rand(40, 1) < 0.2)  # few neurons are left
        >>> compressed = metaq.compress(network.state_dict(), step=0.1)
        >>> ordered = metaq.order_neurons(compressed, network, [["0", "2"]], moves=50)
        >>> images = torch.rand(5, 8)
        >>> before = network.load_state_dict(compressed.decompress()) and network(images)
        >>> after = network.load_state_dict(ordered.decompress()) and network(images)
        >>> torch.allclose(before, after, atol=1e-6)
        True
    """
    if moves < 0:
        raise InputError(f"moves: expected 0 or more, found {moves}")
    name = coder_for(model, coder)
    links = [link for chain in chains for link in _links(model, network, chain)]

    def size(candidate: CompressedModel) -> int:
        return len(encode(candidate, name))

    first_size = size(model)
    best, best_size = model, first_size
    ordered = model
    for link in links:
        ordered = link.permuted(ordered, link.by_weights(ordered))
    if (ordered_size := size(ordered)) < best_size:
        best, best_size = ordered, ordered_size
    drawn = torch.Generator().manual_seed(0)
    for done in range(moves if links else 0):
        link = links[int(torch.randint(len(links), (), generator=drawn))]
        candidate = link.permuted(best, link.with_one_moved(best, drawn))
        candidate_size = size(candidate)
        if candidate_size <= best_size:  # as small a one is a way to others
            best, best_size = candidate, candidate_size
        advance(done + 1, moves)
    return best if best_size < first_size else model


@dataclass(frozen=True)
class _Link:
    """Neurons between two layers.

    Attributes:
        neurons: how many.
        outputs: tensors of which each row is a neuron's.
        inputs: of the next layer, of which every neuron has as many columns, side by side.
    """

    neurons: int
    outputs: list[str]
    inputs: str

    def permuted(self, model: CompressedModel, order: Tensor) -> CompressedModel:
        """The model with the neurons in another order."""
        tensors = dict(model.tensors)
        for name in self.outputs:
            tensors[name] = _with_values(tensors[name], lambda values: values[order])
        tensors[self.inputs] = _with_values(tensors[self.inputs], lambda values: self._columns(values)[:, order])
        return replace(model, tensors=tensors)

    def by_weights(self, model: CompressedModel) -> Tensor:
        """The neurons by how many weights they have, most first."""
        return self._weights(model).argsort(descending=True, stable=True)

    def with_one_moved(self, model: CompressedModel, drawn: torch.Generator) -> Tensor:
        """An order in which a neuron that has weights is elsewhere, mostly at the place of another such."""
        live = self._weights(model).nonzero().flatten()
        if live.numel() == 0:
            return torch.arange(self.neurons)
        moved = int(live[torch.randint(live.numel(), (), generator=drawn)])
        anywhere = float(torch.rand((), generator=drawn)) < _SHARE_ANYWHERE
        places = torch.arange(self.neurons) if anywhere else live
        place = int(places[torch.randint(places.numel(), (), generator=drawn)])
        order = [neuron for neuron in range(self.neurons) if neuron != moved]
        order.insert(place, moved)
        return torch.tensor(order)

    def _weights(self, model: CompressedModel) -> Tensor:
        """How many weights that are not zero each neuron has."""
        rows = [_values(model.tensors[name]) for name in self.outputs if _values(model.tensors[name]).ndim > 1]
        columns = self._columns(_values(model.tensors[self.inputs])).transpose(0, 1)
        return sum((part != 0).flatten(1).sum(1) for part in (*rows, columns))  # type: ignore[return-value]

    def _columns(self, values: Tensor) -> Tensor:
        """(rows, neurons, all that is a neuron's)."""
        return values.reshape(values.shape[0], self.neurons, -1)


def _links(model: CompressedModel, network: nn.Module, chain: Chain) -> list[_Link]:
    if isinstance(chain, str):
        raise InputError(f"chains: expected a sequence of layers for each, found the name {chain!r}")
    parts = [[part] if isinstance(part, str) else list(part) for part in chain]
    if len(parts) < 2 or not all(parts):
        raise InputError(f"chain: expected the names of two layers or more, found {list(chain)}")
    tied = {entry.name for entry in model.tensors.values() if isinstance(entry, Alias)}

    def tensors_of(part: str, kinds: tuple[type[nn.Module], ...]) -> dict[str, Tensor]:
        module = _module(network, part)
        if not isinstance(module, kinds) or getattr(module, "groups", 1) != 1:
            expected = ", ".join(kind.__name__ for kind in kinds)
            raise InputError(f"chain, {part!r}: expected {expected}, without groups, found {module}")
        state = module.state_dict(keep_vars=True, prefix=f"{part}.")
        if kinds is _LAYERS and f"{part}.weight" not in state:
            raise InputError(f"chain, {part!r}: expected a weight of its own, found {', '.join(state) or 'none'}")
        # Counters of batches are no neuron's.
        return {name: _checked(model, name, tensor, tied) for name, tensor in state.items() if tensor.ndim > 0}

    links = []
    for (layer, *beside), (following, *_) in pairwise(parts):
        outputs = tensors_of(layer, _LAYERS)
        for part in beside:
            outputs |= tensors_of(part, _BESIDE)
        inputs = f"{following}.weight"
        neurons = outputs[f"{layer}.weight"].shape[0]
        columns = tensors_of(following, _LAYERS)[inputs].shape[1]
        if columns == 0 or columns % neurons:
            expected = f"as many inputs as {layer!r} has outputs, {neurons}, or a multiple"
            raise InputError(f"chain, {following!r}: expected {expected}, found {columns}")
        for name, tensor in outputs.items():
            if tensor.shape[0] != neurons:
                raise InputError(f"tensor {name!r}: expected {neurons} rows, as {layer!r} has, found {tensor.shape[0]}")
        links.append(_Link(neurons, list(outputs), inputs))
    return links


def _module(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError:
        near = nearest_name(name, dict(network.named_modules()))
        raise InputError(f"chain: expected the name of a layer, found {name!r}{near}") from None


def _checked(model: CompressedModel, name: str, tensor: Tensor, tied: set[str]) -> Tensor:
    """The model's values of a tensor of the network, of which rows and columns may be put in another order."""
    entry = model.tensors.get(name)
    if entry is None:
        raise InputError(f"tensor {name!r}: expected the network's tensors in the model, found no such")
    if isinstance(entry, Alias) or name in tied:
        raise InputError(f"tensor {name!r}: expected one that is not tied to others, found one that is")
    if isinstance(entry, CodedTensor) and entry.matrix is not None:
        raise InputError(f"tensor {name!r}: expected no scales of rows or columns, found some")
    values = _values(entry)
    if values.shape != tensor.shape:
        expected, found = tuple(tensor.shape), tuple(values.shape)
        raise InputError(f"tensor {name!r}: expected the network's shape {expected}, found {found}")
    return values


def _values(entry: CodedTensor | Tensor | Alias) -> Tensor:
    """Symbols of a coded tensor, the tensor itself of a kept one."""
    assert not isinstance(entry, Alias)
    return entry.symbols if isinstance(entry, CodedTensor) else entry


def _with_values(entry: CodedTensor | Tensor | Alias, change: Callable[[Tensor], Tensor]) -> CodedTensor | Tensor:
    """The entry with what a permutation makes of its values."""
    values = _values(entry)
    changed = change(values).reshape(values.shape)
    return replace(entry, symbols=changed) if isinstance(entry, CodedTensor) else changed
