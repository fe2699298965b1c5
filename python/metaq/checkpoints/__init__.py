"""A checkpoint, without training, to a size or an error."""

from metaq.checkpoints.config import CompressionConfig, CompressionReport
from metaq.checkpoints.paths import compress_path, decompress_path
from metaq.checkpoints.places import work_folder
from metaq.checkpoints.state_dict import compress_state_dict

__all__ = [
    "CompressionConfig",
    "CompressionReport",
    "compress_path",
    "compress_state_dict",
    "decompress_path",
    "work_folder",
]
