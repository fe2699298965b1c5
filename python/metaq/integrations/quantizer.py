"""The quantizer by which `AutoModel.from_pretrained` loads folders that have `.mtq` files in their safetensors files.

`metaq.io.payload` says what is in such files. The library walks their names as it always does: it renames them, looks
for those that are missing, and places and ties tensors. Only what it collects for a parameter is decoded before it goes
on, in the class that `_decoding` makes. So merged experts, renamed parameters and other prefixes work as in folders of
floats, and parameters are decoded one or, if they are small, a few at a time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from metaq.errors import InputError
from metaq.io.payload import METADATA, PAYLOAD, QUANT_METHOD, VERSION, Reference, WrappedTensors
from metaq.tensors import octets_of

_log = logging.getLogger(__name__)


@register_quantization_config(QUANT_METHOD)
class MetaqConfig(QuantizationConfigMixin):
    """What ``quantization_config`` in a folder's `config.json` says.

    Args:
        version: of the way in which `.mtq` files are in the folder's safetensors files.

    Raises:
        InputError: another version.
    """

    def __init__(self, version: int = VERSION, **others: Any) -> None:
        if version != VERSION or isinstance(version, bool):
            found = f"{version!r}; a newer metaq may read it"
            raise InputError(f"config.json: expected quantization_config version {VERSION}, found {found}")
        self.quant_method = QUANT_METHOD  # type: ignore[assignment]  # the enumeration has the library's own
        self.version = version


@register_quantizer(QUANT_METHOD)
class MetaqQuantizer(HfQuantizer):
    """Gives a model the weights of the `.mtq` files, in the dtype that it is loaded in.

    The model's modules are the ordinary ones. So it can be trained, compiled and moved like any other.
    """

    def __init__(self, quantization_config: MetaqConfig, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        self._files: list[Path] = []
        self._tensors: WrappedTensors | None = None  # while weights are loaded
        self._decoding: dict[tuple[type, torch.dtype | None], type] = {}  # as long
        self._conversions: Any = None  # between the names and shapes of files and those of the model

    def validate_environment(self, *args: Any, device_map: Any = None, **options: Any) -> None:
        """Refuse what this cannot do.

        Raises:
            InputError: weights that are not compressed, offloading to a disk, or a release of `transformers` that does
                not ask a quantizer what becomes of a tensor.
        """
        if not self.pre_quantized:
            remedy = "compress it by `metaq compress FOLDER -o OUTPUT --as safetensors`, then load OUTPUT"
            raise InputError(f"from_pretrained: expected a folder that metaq made, found float weights; {remedy}")
        if not hasattr(HfQuantizer, "get_new_dtype"):
            found = f"{transformers.__version__}; `metaq decompress` makes a folder that it reads"
            raise InputError(f"transformers: expected a release from 5.24 on, found {found}")
        places = device_map.values() if isinstance(device_map, Mapping) else [device_map]
        if "disk" in map(str, places):
            raise InputError("device_map: expected devices that hold all weights, found a disk to offload some to")

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Sequence[str] | None = None, **options: Any
    ) -> None:
        self._files = [Path(file) for file in checkpoint_files or []]
        if any(file.suffix != ".safetensors" for file in self._files) or not self._files:
            found = ", ".join(file.name for file in self._files) or "none"
            raise InputError(f"from_pretrained: expected .safetensors files, found {found}")
        self._tensors = WrappedTensors(self._files)
        ignored = set(model._keys_to_ignore_on_load_unexpected or ())
        model._keys_to_ignore_on_load_unexpected = ignored | {re.escape(PAYLOAD) + r"\d+$"}

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> torch.dtype | None:
        """Have ``converter`` decode what it collects; references, being integers, are not cast before."""
        kind = type(converter)
        if self._tensors is not None and kind not in self._decoding.values():
            if (kind, dtype) not in self._decoding:
                self._decoding[kind, dtype] = _decoding(kind, self._tensors, dtype)
            converter.__class__ = self._decoding[kind, dtype]
        return super().get_new_dtype(converter, param, dtype)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **options: Any) -> PreTrainedModel:
        if self._tensors is not None:
            self._tensors.close()
        self._tensors, self._decoding = None, {}
        # What is saved has the names of files already.
        self._conversions = model._weight_conversions
        # Else the library would refuse to cast the model; it sets what follows without declaring it.
        model.is_quantized = False  # type: ignore[assignment]
        model._weight_conversions = []  # type: ignore[assignment]
        return model

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors of the files that `save_pretrained` is to write.

        A tensor that is as it was loaded is written as the reference that it came from; others are written as they are.
        """
        state = self._state(model)
        with self._opened() as tensors:
            references = _unchanged(state, tensors, str(getattr(model, "base_model_prefix", "")))
            used = {reference.payload for reference in references.values()}
            payloads = {
                f"{PAYLOAD}{number}": torch.from_numpy(entry.octets())  # the file may be written over
                for number, entry in tensors.payloads().items()
                if number in used
            }
        if len(references) < len(state):
            others = ", ".join(sorted(state.keys() - references.keys()))
            _log.warning("save_pretrained: these tensors have changed, and are written without compression: %s", others)
        kept = {name: torch.from_numpy(reference.octets().copy()) for name, reference in references.items()}
        return {**state, **kept, **payloads}, dict(METADATA)

    @contextmanager
    def _opened(self) -> Iterator[WrappedTensors]:
        """The files that the model was loaded from.

        Raises:
            InputError: they are gone.
        """
        try:
            tensors = WrappedTensors(self._files)
        except InputError as error:
            remedy = "keep them until the model is saved, or save model.dequantize()"
            raise InputError(f"save_pretrained, files that the model was loaded from: {error}; {remedy}") from None
        with closing(tensors):
            yield tensors

    def _state(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """The model's tensors by the names and in the shapes that its files have, each once."""
        from transformers.core_model_loading import revert_weight_conversion
        from transformers.integrations.accelerate import load_offloaded_parameter
        from transformers.modeling_utils import remove_tied_weights_from_state_dict

        state = {
            name: load_offloaded_parameter(model, name) if tensor.is_meta else tensor
            for name, tensor in model.state_dict().items()
        }
        state = remove_tied_weights_from_state_dict(state, model)
        own, model._weight_conversions = model._weight_conversions, self._conversions
        try:
            return dict(revert_weight_conversion(model, state))
        finally:
            model._weight_conversions = own

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """The weights are floats already. Without a quantizer the model is saved as floats."""
        return model

    @property
    def is_trainable(self) -> bool:
        """True: the weights are ordinary ones."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """True: all of the model can be trained, not adapters alone."""
        return True

    @property
    def is_compileable(self) -> bool:
        """True: the modules are ordinary ones."""
        return True

    def is_serializable(self, **options: Any) -> bool:
        """True: `get_state_dict_and_metadata` says how."""
        return True


def _decoding(kind: type, tensors: WrappedTensors, dtype: torch.dtype | None) -> type:
    """A class of the library's converters that decodes what it has collected before it does anything with it.

    The library catches what goes wrong in its operations, and reports it for each parameter with a trace of calls. What
    goes wrong here comes out as the one line that it is.

    Args:
        dtype: of the parameters of floating point that come of it.
    """

    def materialize_tensors(converter: Any) -> dict[str, list[Tensor]]:
        collected: dict[str, list[Tensor]] = kind.materialize_tensors(converter)  # type: ignore[attr-defined]
        name = next(iter(converter.layer_targets), "")
        return {
            pattern: [_decoded(tensors, tensor, name, dtype) for tensor in found]
            for pattern, found in collected.items()
        }

    return type(kind.__name__, (kind,), {"__slots__": (), "materialize_tensors": materialize_tensors})


def _decoded(tensors: WrappedTensors, tensor: Tensor, name: str, dtype: torch.dtype | None) -> Tensor:
    reference = tensors.reference(tensor)
    if reference is None:
        return tensor
    found = tensors.tensor_at(reference, name)
    return found.to(tensor.device, dtype if found.is_floating_point() else None)


def _unchanged(state: Mapping[str, Tensor], tensors: WrappedTensors, prefix: str) -> dict[str, Reference]:
    """The references of those tensors of a state that are, bit for bit, what they refer to.

    Args:
        prefix: by which names in files may differ from those of a model that was loaded as a part or as more of it.
    """
    found: dict[str, Reference] = {}
    for name, reference, tensor in tensors.items():
        if reference is None:
            continue
        for own in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")):
            if own in state and own not in found and _is_same(tensor, state[own]):
                found[own] = reference
    return found


def _is_same(stored: Tensor, own: Tensor) -> bool:
    """Whether a tensor of a file is, bit for bit, a model's in the dtype of that."""
    if stored.shape != own.shape or stored.is_floating_point() != own.is_floating_point():
        return False
    if stored.is_floating_point():
        stored = stored.to(own.dtype)
    return stored.dtype == own.dtype and np.array_equal(octets_of(stored), octets_of(own))
