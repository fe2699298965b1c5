"""Small updates to a network that the reader has: LoRA (Hu et al. 2021), BitFit (Ben Zaken et al. 2021) and BitDelta
(Liu et al. 2024), written anew in a few lines each, and their files.

All files have the whole classification head, in float16 unless the method says otherwise.
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sst2_task import HEAD, Task, packed, unpacked
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

RANK = 8
SCALE = 2.0  # of the product of both matrices: alpha = 16
_DISTILLATION_STEPS, _DISTILLATION_BATCH, _DISTILLATION_RATE = 200, 16, 1e-4  # of BitDelta's scales


class LoraLinear(nn.Module):
    """A linear layer and the product of two thin matrices beside it, which alone are trained."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.empty(RANK, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, RANK))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's outputs."""
        added = functional.linear(functional.linear(inputs, self.down), self.up)
        outputs: Tensor = self.linear(inputs) + SCALE * added
        return outputs


def add_lora(model: nn.Module, layers: Sequence[str], seed: int) -> None:
    """Put thin matrices beside the linear layers whose names end so, and train nothing else but the head."""
    _freeze(model, lambda name: name.startswith(HEAD))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and name.endswith(tuple(layers)):
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, LoraLinear(module))


def train_biases_alone(model: nn.Module) -> None:
    """BitFit: biases, those of norms among them, and the head."""
    _freeze(model, lambda name: name.endswith("bias") or name.startswith(HEAD))


def _freeze(model: nn.Module, is_trained) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trained(name))


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def save_float16(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a `.safetensors` file."""
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, path)


@torch.no_grad()
def merge(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """Put what LoRA or BitFit has trained into the network that it was trained from."""
    for name, parameter in model.named_parameters():
        if name in tensors:
            parameter.copy_(tensors[name])
    for name in tensors:
        if name.endswith(".down"):
            layer = name.removesuffix(".down")
            weight = model.get_parameter(f"{layer}.weight")
            weight += SCALE * tensors[f"{layer}.up"].float() @ tensors[name].float()
    return model


def save_one_bit(task: Task, tuned: nn.Module, path: Path) -> None:
    """BitDelta: of each matrix' difference from the base its signs and a scale, of all else the difference in float16.

    Scales begin at the mean magnitude; then they are trained until the outputs are those of the tuned network. Rows of
    embeddings that training has not moved take one bit.
    """
    base = task.base()
    originals = dict(base.named_parameters())
    differences = {name: p.detach() - originals[name].detach() for name, p in tuned.named_parameters()}
    matrices = {name: d for name, d in differences.items() if d.ndim == 2 and not name.startswith(HEAD)}
    moved = {name: difference.any(dim=1) for name, difference in matrices.items()}
    signs = {name: torch.where(d >= 0, 1.0, -1.0) * moved[name][:, None] for name, d in matrices.items()}
    scales = {name: d[moved[name]].abs().mean().nan_to_num() for name, d in matrices.items()}
    rest = {name: difference for name, difference in differences.items() if name not in matrices}
    scales = _distilled(task, tuned, signs, scales, {name: originals[name] for name in matrices})
    tensors = {name: difference.half() for name, difference in rest.items()}
    for name, sign in signs.items():
        tensors[f"{name}.scale"] = scales[name].half()
        tensors[f"{name}.moved"] = packed(moved[name])
        tensors[f"{name}.signs"] = packed(sign[moved[name]] > 0)
    save_file(tensors, path)


def _distilled(
    task: Task, tuned: nn.Module, signs: dict[str, Tensor], scales: dict[str, Tensor], base: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Scales with which the outputs are nearest to those of the tuned network, on training sentences."""
    logarithms = {name: scale.clamp(min=1e-12).log().requires_grad_() for name, scale in scales.items()}
    optimizer = torch.optim.Adam(logarithms.values(), lr=100 * _DISTILLATION_RATE)  # of relative changes
    count = _DISTILLATION_STEPS * _DISTILLATION_BATCH
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(0)).tolist()[:count]
    student = copy.deepcopy(tuned).eval()
    tuned.eval()
    for batch in task.batches([task.train[number] for number in order], _DISTILLATION_BATCH):
        del batch["labels"]
        with torch.no_grad():
            expected = tuned(**batch).logits
        weights = {name: base[name].detach() + logarithms[name].exp() * sign for name, sign in signs.items()}
        optimizer.zero_grad()
        functional.mse_loss(functional_call(student, weights, kwargs=batch).logits, expected).backward()
        optimizer.step()
    return {name: logarithm.detach().exp() for name, logarithm in logarithms.items()}


@torch.no_grad()
def read_one_bit(base: nn.Module, path: Path) -> nn.Module:
    """The network that `save_one_bit` has written."""
    tensors = load_file(path)
    for name, parameter in base.named_parameters():
        if name in tensors:
            parameter += tensors[name].float()
            continue
        rows = unpacked(tensors[f"{name}.moved"], len(parameter)).bool()
        signs = 2 * unpacked(tensors[f"{name}.signs"], int(rows.sum()) * parameter.shape[1]).float() - 1
        parameter[rows] += tensors[f"{name}.scale"].float() * signs.reshape(-1, parameter.shape[1])
    return base
