"""A checkpoint, without training, to a size or an error."""

from metaq.checkpoints.config import CompressionConfig, CompressionReport
from metaq.checkpoints.in_memory import compress_state_dict
from metaq.checkpoints.paths import compress_path, decompress_path, work_folder

__all__ = [
    "CompressionConfig",
    "CompressionReport",
    "compress_path",
    "compress_state_dict",
    "decompress_path",
    "work_folder",
]
