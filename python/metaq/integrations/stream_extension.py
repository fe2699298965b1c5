"""A stream transform for torch's own `FileSystemWriter`: every item of a checkpoint as a `.mtq` file in its files.

torch calls these extensions experimental. `metaq.integrations.distributed_checkpoint` needs none, and does more.
"""

from __future__ import annotations

import io
import pickle
from typing import IO, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint._extension import ExtensionRegistry, StreamTransformExtension

from metaq.differences import StateNetwork
from metaq.errors import InputError
from metaq.format.reader import Reader
from metaq.format.whole_network import encode_network
from metaq.tensors import FORMAT_DTYPES, load_tensors

_TENSOR, _OCTETS = "tensor", "bytes"


class MtqStream(StreamTransformExtension):
    """Items as `.mtq` files, tensors without loss. An item is in memory as a whole.

    Args:
        coder: name of the coder.

    Example:
        >>> import torch.distributed.checkpoint as dcp
        >>> state = {"weight": torch.arange(600.0)}
        >>> writer = dcp.FileSystemWriter("checkpoint", _extensions=[MtqStream()])
        >>> _ = dcp.save(state, storage_writer=writer)
        >>> loaded = {"weight": torch.zeros(600)}
        >>> reader = dcp.FileSystemReader("checkpoint", _extension_registry=registry())
        >>> dcp.load(loaded, storage_reader=reader)
        >>> torch.equal(loaded["weight"], state["weight"])
        True
    """

    def __init__(self, coder: str = "rans") -> None:
        self.coder = coder

    @staticmethod
    def registry_name() -> str:
        """By which a checkpoint names the transform."""
        return "stream.mtq"

    @staticmethod
    def from_descriptor(version: str) -> MtqStream:
        """The transform of a version.

        Raises:
            InputError: the version is not known.
        """
        if version != "1":
            raise InputError(f"{MtqStream.registry_name()}: expected version 1, found {version}")
        return MtqStream()

    def get_descriptor(self) -> str:
        """What a checkpoint says of the transform."""
        return f"{self.registry_name()}/1"

    def transform_to(self, output: IO[bytes]) -> IO[bytes]:
        """A stream that takes an item, as `torch.save` writes it or any bytes, and writes it to another when closed."""
        return _Writer(output, self.coder)

    def transform_from(self, input: IO[bytes]) -> IO[bytes]:
        """What `transform_to` took, tensors written anew by `torch.save`."""
        tensors = load_tensors(Reader(input.read(), self.registry_name()))
        if _OCTETS in tensors:
            return io.BytesIO(tensors[_OCTETS].numpy().tobytes())
        stream = io.BytesIO()
        torch.save(tensors[_TENSOR], stream)
        stream.seek(0)
        return stream


def registry() -> ExtensionRegistry:
    """Torch's extensions, and this one, for `FileSystemReader`."""
    found = ExtensionRegistry()
    found.register(MtqStream)
    return found


class _Writer(io.BytesIO):
    def __init__(self, output: IO[bytes], coder: str) -> None:
        super().__init__()
        self._output, self._coder = output, coder

    def close(self) -> None:
        if not self.closed:
            self._output.write(encode_network(StateNetwork(_stored(self.getvalue())), coder=self._coder))
            super().close()
            self._output.close()


def _stored(data: bytes) -> dict[str, Tensor]:
    """A tensor that is saved in these bytes, if that is what they are and a file can hold it; otherwise the bytes."""
    try:
        found: Any = torch.load(io.BytesIO(data), weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
        found = None
    if type(found) is Tensor and found.layout == torch.strided and found.dtype in FORMAT_DTYPES:
        return {_TENSOR: found}
    return {
        _OCTETS: torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    }
