"""Saves and loads checkpoints in `.mtq` pieces on as many processes as torchrun starts, or alone.

Usage: checkpoints_on_ranks.py FOLDER ACTION ...; an action is save:NAME, async:NAME or save:NAME:BASE, which trains one
step before, or check:NAME.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import fully_shard

from metaq.binding.shards import whole
from metaq.integrations.distributed_checkpoint import MtqStorageReader, MtqStorageWriter


def network(seed: int):
    """Seven, five and three rows, on several processes in uneven shards; and its optimizer."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(300, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)).bfloat16()
    if distributed.is_initialized():
        fully_shard(model, mesh=distributed.init_device_mesh("cpu", (distributed.get_world_size(),)))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-4)


def state_of(model, optimizer, step: int):
    of_model, of_optimizer = get_state_dict(model, optimizer)
    return {"model": of_model, "optimizer": of_optimizer, "step": step}


def flat(state, prefix=""):
    """Every whole tensor and value by its path."""
    found = {}
    for key, value in state.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = whole(value).clone() if isinstance(value, torch.Tensor) else value
    return found


def save(folder: Path, name: str, base: str | None, model, optimizer, is_asynchronous: bool) -> None:
    generator = torch.Generator().manual_seed(int(os.environ.get("RANK", "0")))
    model(torch.randn(16, 300, generator=generator).bfloat16()).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    state = state_of(model, optimizer, step=int(name))
    writer = MtqStorageWriter(folder / name, base=folder / base if base else None)
    if is_asynchronous:
        dcp.async_save(state, storage_writer=writer).result()
    else:
        dcp.save(state, storage_writer=writer)
    torch.save(flat(state), folder / f"{name}.pt")


def check(folder: Path, name: str) -> None:
    """That what is loaded into another network is what was saved, bit for bit."""
    model, optimizer = network(seed=7)
    state = state_of(model, optimizer, step=0)
    dcp.load(state, storage_reader=MtqStorageReader(folder / name))
    found, expected = flat(state), torch.load(folder / f"{name}.pt")
    assert found.keys() == expected.keys()
    assert sum(isinstance(value, torch.Tensor) for value in expected.values()) > 20
    for key, value in expected.items():
        assert torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value, key


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    model, optimizer = network(seed=0)
    for action in sys.argv[2:]:
        kind, name, *base = action.split(":")
        if kind == "check":
            check(Path(sys.argv[1]), name)
        else:
            save(Path(sys.argv[1]), name, base[0] if base else None, model, optimizer, kind == "async")
    if distributed.is_initialized():
        distributed.barrier()
        with suppress(RuntimeError):
            distributed.destroy_process_group()


if __name__ == "__main__":
    main()
