"""State dicts in memory to compressed models."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from metaq.checkpoints.calibrated import compress_by_moments
from metaq.checkpoints.checkpoint import Checkpoint
from metaq.checkpoints.config import CompressionConfig
from metaq.checkpoints.tensor_plan import Storage
from metaq.compressed_model import Alias, CodedTensor, CompressedModel
from metaq.floats import default_floats
from metaq.io.source import StateSource
from metaq.progress import Progress
from metaq.quantizers.calibration import Calibration
from metaq.quantizers.rounding import round_as_float16
from metaq.tensors import DTYPES


@default_floats()
def compress_state_dict(
    state: Mapping[str, Tensor],
    config: CompressionConfig | None = None,
    metadata: Mapping[str, str] | None = None,
    calibration: Calibration | None = None,
) -> CompressedModel:
    """A state dict quantized to a chosen error or size, which is met from below, within 1 % where the steps allow it.

    Tensors of floating point (float32, float16, bfloat16, float64) of two dimensions and more are quantized. Those of
    fewer dimensions, biases and norms, are rounded to eleven significant bits if they are float32 or float64: no less
    exact than float16, in the range of their own dtype (`metaq.quantizers.rounding`). All else stays as it is, and all
    keep their dtypes. Tensors with NaN or infinities stay as they are too, and a warning is logged for each.

    Args:
        state: named dense tensors.
        config: to what error or size; by default 4 bits a weight.
        metadata: to be kept with the tensors.
        calibration: of the model that the state is of (`metaq.calibrate`). Steps then follow from what errors do to the
            predictions, and weights make up for each other's errors: at the same size the error is larger, and the
            predictions are better. `metaq.compress_calibrated`, which takes the model and the data, does better still.

    Returns:
        The model, made for ``config.coder`` or, without one, for the coder that suits its size: `metaq.save` uses it.

    Raises:
        InputError: an empty state, a tensor that a file cannot hold, a pattern that matches no tensor, or an error or
            size that no step leads to.

    Example:
        >>> import metaq, torch
        >>> model = metaq.compress_state_dict({"w": torch.randn(64, 64)}, metaq.CompressionConfig(bits=3))
        >>> model.coder
        'mixing'
    """
    config = config or CompressionConfig()
    if calibration is not None:
        return compress_by_moments(state, config, calibration, metadata)
    progress, source = Progress(), StateSource(state, metadata)
    checkpoint = Checkpoint({"": source}, config, progress)
    codebooks = checkpoint.codebooks(checkpoint.find_step())
    coded = checkpoint.parts.encoders[""].symbols(codebooks, checkpoint.parts.inner, progress)
    tensors: dict[str, CodedTensor | Tensor | Alias] = {}
    for name, (dtype, shape) in source.layouts.items():
        if name in source.aliases:
            tensors[name] = Alias(source.aliases[name])
        elif name in coded:
            symbols, codebook = coded[name]
            tensors[name] = CodedTensor(symbols, codebook, DTYPES[dtype])
        else:
            whole = source.read(name, range(source.layouts[name].size)).reshape(shape)
            is_rounded = checkpoint.plans[name].storage is Storage.ROUNDED
            tensors[name] = round_as_float16(whole) if is_rounded else whole
    return CompressedModel(tensors, dict(source.metadata), checkpoint.coder)
