"""Trains a small network on as many processes as torchrun starts, and notes what each of them has come to.

Usage: on_ranks.py FOLDER SCENARIO ...; each scenario is a name of `SCENARIOS`, and gives FOLDER/SCENARIO-RANK.pt.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed import checkpoint as dcp
from torch.nn import functional

import metaq
from metaq.binding.shards import whole
from metaq.methods.lobster import LOBSTER
from metaq.methods.metaq.config import LevelPlacement
from metaq.methods.sized import Sized

STEPS, FEW_STEPS, BATCH = 200, 20, 32
METHODS = {
    "metaq": metaq.METaQ(strength=1e-3, schedule=((0, 0.0), (0.25, 1.0))),
    "learned": metaq.METaQ(strength=1e-3, levels=LevelPlacement.LEARNED),
    "hemp": metaq.HEMP(order=1, levels=8, strength=0.05, refresh_every=30),
    "target": metaq.METaQ(target_bytes=120),
    "sized": Sized(metaq.HEMP(order=1, levels=8), target_ratio=4),
    "pruned": metaq.Pruned(metaq.METaQ(strength=1e-3), LOBSTER(strength=1e-3, plateau_epochs=1)),
}


RESUMED = "metaq", "pruned"


def network(seed: int = 0) -> nn.Sequential:
    """Seven, five and three rows: on four processes the last has one, none and none of them."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(13, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(640, 13, generator=generator)
    return inputs, (inputs @ torch.randn(13, 3, generator=generator)).argmax(dim=1)


def pieces(step: int, ranks: list[int], count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The parts of a step's batch that some of so many ranks have."""
    inputs, labels = data()
    rows = torch.arange(step * BATCH, (step + 1) * BATCH) % 512
    return [(inputs[part], labels[part]) for part in (rows.chunk(count)[rank] for rank in ranks)]


def held_out_loss(model: nn.Module) -> float:
    inputs, labels = data()
    model.eval()
    with torch.no_grad():
        loss = float(functional.cross_entropy(model(inputs[512:]), labels[512:]))
    model.train()
    return loss


def train_step(model, optimizer, compressor, parts) -> None:
    optimizer.zero_grad()
    for inputs, labels in parts:
        (functional.cross_entropy(model(inputs).float(), labels) / len(parts)).backward()
    compressor.regularize()
    optimizer.step()


def train(model, method, ranks, count, steps=STEPS, first=0, optimizer=None, compressor=None):
    """Train a network, and give the optimizer and the compressor."""
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=3e-3)
    compressor = compressor or metaq.Compressor(model, METHODS[method], optimizer, training_steps=STEPS)
    for step in range(first, first + steps):
        train_step(model, optimizer, compressor, pieces(step, ranks, count))
        if (step + 1) % 50 == 0:
            compressor.end_epoch(lambda: held_out_loss(model))
    return optimizer, compressor


def outcome(model: nn.Module, compressor) -> dict:
    """Whole tensors: the latent weights, those that the network has, and those of the file, with its size."""
    with compressor.latent_weights():
        latent = {name: whole(p.detach()).clone() for name, p in compressor.model.named_parameters()}
    model.eval()
    model(data()[0])
    shown = {name: whole(tensor.detach()).clone() for name, tensor in compressor.model.state_dict().items()}
    file = compressor.compress().decompress()
    return {"latent": latent, "shown": shown, "file": file, "measured": compressor.measure()}


def sharded(seed: int = 0, is_offloaded: bool = False, precision=None, reshard_after_forward=True, has_replicas=False):
    """The network in shards over all processes, or over two, and replicas of those over the others."""
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    count = distributed.get_world_size()
    shape, names = ((count // 2, 2), ("replicas", "shards")) if has_replicas else ((count,), ("shards",))
    mesh = distributed.init_device_mesh("cpu", shape, mesh_dim_names=names)
    options = {
        "mesh": mesh,
        "reshard_after_forward": reshard_after_forward,
        "mp_policy": MixedPrecisionPolicy(precision, torch.float32) if precision else MixedPrecisionPolicy(),
        "offload_policy": CPUOffloadPolicy(pin_memory=False) if is_offloaded else OffloadPolicy(),
    }
    model = network(seed)
    for layer in model[0], model[2]:
        fully_shard(layer, **options)
    return fully_shard(model, **options)


def ours() -> tuple[list[int], int]:
    return [distributed.get_rank()], distributed.get_world_size()


def in_shards(method, folder, steps=STEPS, **options):
    model = sharded(**options)
    return outcome(model, train(model, method, *ours(), steps)[1])


def in_replicas(method, folder, steps=STEPS):
    """Differently seeded: the wrapper makes them equal, and the compressor comes after it."""
    model = nn.parallel.DistributedDataParallel(network(distributed.get_rank()))
    return outcome(model, train(model, method, *ours(), steps)[1])


def bound_before_replicas(method, folder, is_seeded_alike=True):
    model = network(0 if is_seeded_alike else distributed.get_rank())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    compressor = metaq.Compressor(model, METHODS[method], optimizer, training_steps=STEPS)
    wrapped = nn.parallel.DistributedDataParallel(model)
    return outcome(wrapped, train(wrapped, method, *ours(), optimizer=optimizer, compressor=compressor)[1])


def bound_before_shards(method, folder):
    from torch.distributed.fsdp import fully_shard

    model = network()
    compressor = metaq.Compressor(model, METHODS[method], training_steps=STEPS)
    fully_shard(model, mesh=distributed.init_device_mesh("cpu", (distributed.get_world_size(),)))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return outcome(model, train(model, method, *ours(), steps=1, optimizer=optimizer, compressor=compressor)[1])


def flattened(method, folder):
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=True)
    return metaq.Compressor(model, METHODS["metaq"], training_steps=STEPS)


def unshardable(method, folder):
    return metaq.Compressor(sharded(), method, training_steps=STEPS)


def parts_of(model, optimizer, compressor):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    return {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer), "metaq": compressor}


def saved(method, folder):
    """Half of the training, and a checkpoint."""
    model = sharded() if distributed.is_initialized() else network()
    whose = ours() if distributed.is_initialized() else ([0, 1], 2)
    optimizer, compressor = train(model, method, *whose, steps=STEPS // 2)
    dcp.save(parts_of(model, optimizer, compressor), checkpoint_id=folder / f"checkpoint-{method}")
    return outcome(model, compressor)


def resumed(method, folder, model=None, whose=None):
    """The other half, by the checkpoint of any number of processes."""
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    model = model or sharded(seed=7)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    compressor = metaq.Compressor(model, METHODS[method], optimizer, training_steps=STEPS)
    state = parts_of(model, optimizer, compressor)
    dcp.load(state, checkpoint_id=folder / f"checkpoint-{method}")
    model.load_state_dict(state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
    train(model, method, *(whose or ours()), STEPS // 2, STEPS // 2, optimizer, compressor)
    return outcome(model, compressor)


SCENARIOS = {
    **{f"shards-{method}": (in_shards, method, {}) for method in METHODS},
    **{f"replicas-{method}": (in_replicas, method, {}) for method in METHODS},
    "brief-shards": (in_shards, "metaq", {"steps": FEW_STEPS}),
    "brief-replicas": (in_replicas, "metaq", {"steps": FEW_STEPS}),
    "shards-with-replicas": (in_shards, "metaq", {"has_replicas": True}),
    "shards-kept-whole": (in_shards, "metaq", {"reshard_after_forward": False}),
    "shards-offloaded": (in_shards, "metaq", {"is_offloaded": True}),
    "shards-bfloat16": (in_shards, "metaq", {"precision": torch.bfloat16}),
    "shards-seeded": (in_shards, "metaq", {"seed": None}),
    "bound-before-replicas": (bound_before_replicas, "metaq", {}),
    "bound-before-other-replicas": (bound_before_replicas, "metaq", {"is_seeded_alike": False}),
    "bound-before-shards": (bound_before_shards, "metaq", {}),
    "flattened": (flattened, "metaq", {}),
    "lc": (unshardable, metaq.LC(), {}),
    "deep-compression": (unshardable, metaq.DeepCompression(), {}),
    "hemp-2": (unshardable, metaq.HEMP(order=2), {}),
    **{f"saved-{method}": (saved, method, {}) for method in RESUMED},
    **{f"resumed-{method}": (resumed, method, {}) for method in RESUMED},
}


def main() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    folder, rank = Path(sys.argv[1]), distributed.get_rank()
    for name in sys.argv[2:]:
        function, method, options = SCENARIOS[name]
        if options.get("seed", 0) is None:
            options = {**options, "seed": rank}
        try:
            found = function(method, folder, **options)
        except metaq.InputError as error:
            found = str(error)
        torch.save(found, folder / f"{name}-{rank}.pt")
        distributed.barrier()
    with suppress(RuntimeError):
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
