from metaq.api import load_file, load_into, safe_open, save
from metaq.checkpoints import CompressionConfig, compress_calibrated, compress_state_dict, delta
from metaq.compressed_model import Alias, CodedTensor, CompressedModel
from metaq.compressor import Compressor
from metaq.differences import apply, apply_difference, checksum
from metaq.errors import DataError, FormatError, InputError, MetaqError, RecipeError
from metaq.format.limits import Limits
from metaq.integrations.device import c_program
from metaq.integrations.pretrained import from_pretrained, save_pretrained
from metaq.methods import HEMP, LC, LOBSTER, DeepCompression, Difference, METaQ, Pruned, Sized
from metaq.neuron_order import order_neurons
from metaq.numpy import decode, encode
from metaq.quantizers import Calibration, calibrate, compress, compress_losslessly
from metaq.update_log import DeltaReader, DeltaWriter

__version__: str

__all__ = [
    "HEMP",
    "LC",
    "LOBSTER",
    "Alias",
    "Calibration",
    "CodedTensor",
    "CompressedModel",
    "CompressionConfig",
    "Compressor",
    "DataError",
    "DeepCompression",
    "DeltaReader",
    "DeltaWriter",
    "Difference",
    "FormatError",
    "InputError",
    "Limits",
    "METaQ",
    "MetaqError",
    "Pruned",
    "RecipeError",
    "Sized",
    "apply",
    "apply_difference",
    "c_program",
    "calibrate",
    "checksum",
    "compress",
    "compress_calibrated",
    "compress_losslessly",
    "compress_state_dict",
    "decode",
    "delta",
    "encode",
    "from_pretrained",
    "load_file",
    "load_into",
    "order_neurons",
    "safe_open",
    "save",
    "save_pretrained",
]
