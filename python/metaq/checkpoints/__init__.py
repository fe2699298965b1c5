"""A checkpoint, without training, to a size or an error."""

from metaq.checkpoints.in_memory import CompressionConfig, compress_state_dict

__all__ = ["CompressionConfig", "compress_state_dict"]
