"""Weights to codebooks and symbols without training."""

from metaq.quantizers.calibration import Calibration, calibrate
from metaq.quantizers.lossless import compress_losslessly
from metaq.quantizers.uniform import compress

__all__ = ["Calibration", "calibrate", "compress", "compress_losslessly"]
