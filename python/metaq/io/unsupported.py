"""Files that people have and metaq does not read, each with what to do instead."""

from __future__ import annotations

from pathlib import Path

from metaq.errors import InputError
from metaq.format.header import MAGIC

_AS_NPZ = "write its weights with numpy.savez and compress the .npz file"
_MTQ = "which is compressed already; metaq decompress gives its tensors back"
_GGUF = "which is quantized already; compress the .safetensors or .pt file that it was made of"

# By suffix.
_KINDS = {
    ".mtq": f"a .mtq file, {_MTQ}",
    ".gguf": f"a GGUF file, {_GGUF}",
    ".h5": f"an HDF5 file; {_AS_NPZ}",
    ".hdf5": f"an HDF5 file; {_AS_NPZ}",
    ".keras": f"a Keras model; {_AS_NPZ}",
    ".pb": f"a TensorFlow graph; {_AS_NPZ}",
    ".index": f"a TensorFlow checkpoint; {_AS_NPZ}",
    ".tflite": f"a TensorFlow Lite model, which cannot be taken apart; {_AS_NPZ}",
    ".msgpack": f"a Flax checkpoint; {_AS_NPZ}",
    ".npy": f"one array without a name; {_AS_NPZ}",
    ".pkl": "a pickle, which is not run; save tensors with torch.save(state_dict, 'model.pt') or numpy.savez",
    ".pickle": "a pickle, which is not run; save tensors with torch.save(state_dict, 'model.pt') or numpy.savez",
}
# By first bytes, whatever the suffix says.
_STARTS = {MAGIC: ".mtq", b"GGUF": ".gguf", b"\x89HDF\r\n\x1a\n": ".h5"}


def refuse_unsupported(path: Path, start: bytes) -> None:
    """Raise an InputError that says what to do, if a file is of a kind that is known and not read."""
    suffix = next((kind for magic, kind in _STARTS.items() if start.startswith(magic)), path.suffix.lower())
    if suffix in _KINDS:
        raise InputError(f"{path}: expected a checkpoint, found {_KINDS[suffix]}")
