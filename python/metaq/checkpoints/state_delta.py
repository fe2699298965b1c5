"""What makes one state dict of another, without loss or to an error or a size, as the bytes of a `.mtq` file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from metaq.checkpoints.config import CompressionConfig
from metaq.checkpoints.lossy_updates import DIFFERENCE, write_lossy_difference
from metaq.checkpoints.resumable import WorkFolder
from metaq.differences import StateNetwork
from metaq.files import read_bytes
from metaq.format.changes import encode_difference
from metaq.progress import Progress


def delta(
    base: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    config: CompressionConfig | None = None,
) -> bytes:
    """What makes one network of another, by default without loss, as the bytes of a `.mtq` file.

    Tensors that are equal take nothing, also under new names. Others of the same name and dtype, rows being added or
    not, are coded as changes of the base's: by how many floats of its dtype an element has moved, given its
    exponent in the base and whether its neighbours have changed. What is left is held as it is.

    With a ``config`` changes of matrices and filters are quantized, unless it takes no more bytes to lose nothing; all
    other tensors come out bit for bit.

    Args:
        base: all tensors of the network that the receiver has, by name, on any device.
        new: all tensors of the network to come.
        metadata: any texts, which the file holds.
        config: to what error, ``Σ‖d - d̂‖² / Σ‖d‖²`` of the changes d = w - w_base that become d̂, or to what bits or
            size. The sum of w_base and d̂ is rounded to the tensor's dtype, as `metaq.apply_difference` has it.

    Raises:
        InputError: a tensor, a name or metadata that no file can hold; or no step that leads to what is asked for.

    Example:
        >>> base = {"w": torch.arange(2000.0)}
        >>> new = {"w": base["w"] + torch.arange(2000) % 50 // 49}
        >>> update = metaq.delta(base, new)
        >>> torch.equal(metaq.apply(base, update)["w"], new["w"]), len(update) < 400
        (True, True)
        >>> new = {"w": torch.randn(64, 64)}
        >>> update = metaq.delta({"w": torch.zeros(64, 64)}, new, config=metaq.CompressionConfig(bits=2))
        >>> 900 < len(update) < 1200
        True
    """
    old, other = StateNetwork(base), StateNetwork(new, metadata)
    if config is None or config.lossless:
        return encode_difference(old, other, coder=None if config is None else config.coder)
    with tempfile.TemporaryDirectory(prefix="metaq-") as name:
        folder = WorkFolder(Path(name, "update"), {}, resumes=False)
        write_lossy_difference(old, other, config, folder, Progress())
        return read_bytes(folder.path / DIFFERENCE)
