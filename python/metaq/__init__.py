"""metaq: neural networks, small on disk."""

from metaq.api import decode, encode, load_file, load_into, save
from metaq.compressor import Compressor
from metaq.errors import DataError, FormatError, InputError, MetaqError, RecipeError
from metaq.methods import METaQ
from metaq.pipeline import Alias, CodedTensor, CompressedModel, compress

__version__ = "0.1.0"

__all__ = [
    "Alias",
    "CodedTensor",
    "CompressedModel",
    "Compressor",
    "DataError",
    "FormatError",
    "InputError",
    "METaQ",
    "MetaqError",
    "RecipeError",
    "compress",
    "decode",
    "encode",
    "load_file",
    "load_into",
    "save",
]
