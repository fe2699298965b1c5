"""Weights to codebooks and symbols without training."""

from metaq.quantizers.calibration import Calibration, calibrate
from metaq.quantizers.gradients import Loss
from metaq.quantizers.layers import MatrixView
from metaq.quantizers.lossless import compress_losslessly
from metaq.quantizers.refitting import Refit, refit
from metaq.quantizers.sequential import Moments, SequentialOptions, Within, quantize_sequentially
from metaq.quantizers.uniform import compress

__all__ = [
    "Calibration",
    "Loss",
    "MatrixView",
    "Moments",
    "Refit",
    "SequentialOptions",
    "Within",
    "calibrate",
    "compress",
    "compress_losslessly",
    "quantize_sequentially",
    "refit",
]
