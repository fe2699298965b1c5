"""Checkpoints of which data is at hand, quantized by what errors do to the model's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from metaq.checkpoints.calibrated_checkpoint import CalibratedCheckpoint, check_config
from metaq.checkpoints.config import CompressionConfig
from metaq.checkpoints.ways import Ways
from metaq.compressed_model import CompressedModel
from metaq.progress import Progress
from metaq.quantizers.calibration import Calibration, calibrate, check_batches
from metaq.quantizers.refitting import refit

REFIT_EPOCHS = 2


def compress_calibrated(
    model: nn.Module,
    batches: Iterable[Any],
    config: CompressionConfig | None = None,
    *,
    calibration: Calibration | None = None,
    metadata: Mapping[str, str] | None = None,
    refit_epochs: int = REFIT_EPOCHS,
    progress: Progress | None = None,
) -> CompressedModel:
    """Compress a model by what its outputs are on some data, block by block.

    Weights are quantized by `metaq.quantizers.second_order`, at once and block by block on the inputs that come out of
    the blocks before; what brings the outputs nearest to those of the model as it was is kept. Statistics of batch
    normalisation are moved by what quantization moves; norms and biases are then fitted to the outputs.

    Args:
        model: any; it is left as it was.
        batches: of inputs, as for `metaq.calibrate`. A few hundred samples do.
        config: to what size or error; by default 4 bits a weight.
        calibration: what `metaq.calibrate` has found of this model; found on the batches if not given.
        metadata: to be kept with the tensors.
        refit_epochs: how often norms and biases see the data, unless it is a single batch; 0 leaves them as they are.

    Raises:
        InputError: what `metaq.calibrate` and `metaq.compress_state_dict` refuse, or a step or no loss being asked for,
            which takes no data.

    Example:
        >>> import metaq, torch
        >>> model, batches = torch.nn.Linear(64, 32), [torch.randn(16, 64) for _ in range(4)]
        >>> small = metaq.compress_calibrated(model, batches, metaq.CompressionConfig(bits=3))
    """
    check_batches(batches)
    config, progress, kept = config or CompressionConfig(), progress or Progress(), list(batches)
    check_config(config, model.state_dict())
    calibration = calibration or calibrate(model, kept, progress=progress)
    checkpoint = CalibratedCheckpoint(model.state_dict(), calibration, config, metadata, progress)
    quantized, coded = Ways(checkpoint, model, kept, progress).quantize_to_target(checkpoint.find_steps())
    if refit_epochs and len(kept) > 1:
        refit(quantized, model, kept, epochs=refit_epochs, progress=progress)
    return checkpoint.model(coded, quantized.state_dict())


def compress_by_moments(
    state: Mapping[str, Tensor],
    config: CompressionConfig,
    calibration: Calibration,
    metadata: Mapping[str, str] | None = None,
) -> CompressedModel:
    """Compress a state dict by a calibration of the model that it is of, as that was before quantization."""
    checkpoint = CalibratedCheckpoint(state, calibration, config, metadata)
    return checkpoint.model(checkpoint.quantize(checkpoint.find_steps()), state)
