"""Train on several processes, each with a part of every parameter: FSDP2, and checkpoints that any number can resume.

torchrun --nproc-per-node 2 examples/train_fsdp2.py digits.mtq [CHECKPOINT_FOLDER]
"""

import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

import metaq
from metaq.experiments.data import by_name
from metaq.experiments.models import LeNet5

EPOCHS, BATCH = 10, 32


def main(path: str, folder: Path | None) -> None:
    distributed.init_process_group("gloo")  # "nccl" for GPUs
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    mesh = init_device_mesh("cpu", (ranks,))  # "cuda" for GPUs
    train = by_name("digits")(200).train
    torch.manual_seed(0)
    model = fully_shard(LeNet5(), mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    steps = EPOCHS * (len(train) // BATCH)
    compressor = metaq.Compressor(model, metaq.METaQ(), optimizer, training_steps=steps)  # after fully_shard
    first = 0
    if folder is not None and (saved := sorted(folder.glob("*"))):
        state = parts(model, optimizer, compressor)
        checkpoint.load(state, checkpoint_id=saved[-1])
        model.load_state_dict(state["model"])
        set_optimizer_state_dict(model, optimizer, state["optimizer"])
        first = compressor.training_step * EPOCHS // steps
    for epoch in range(first, EPOCHS):
        order = torch.Generator().manual_seed(epoch)  # the same on all processes
        for batch in torch.randperm(len(train), generator=order).split(BATCH)[: steps // EPOCHS]:
            part = batch.chunk(ranks)[rank]
            optimizer.zero_grad()
            functional.cross_entropy(model(train.inputs[part]), train.labels[part]).backward()
            compressor.regularize()
            optimizer.step()
        size_bytes = compressor.measure()["size_bytes"]  # all take part
        if rank == 0:
            print(f"epoch {epoch}: {size_bytes:,} bytes", flush=True)
        if folder is not None:
            checkpoint.save(parts(model, optimizer, compressor), checkpoint_id=folder / str(epoch))
    compressed = compressor.compress()  # all take part; only the first gets it
    if rank == 0:
        print(f"{path}: {metaq.save(compressed, path):,} bytes")
    distributed.barrier()  # until the file is there, and gloo's threads have let go of what they sent
    distributed.destroy_process_group()


def parts(model, optimizer, compressor):
    """What a checkpoint is made of."""
    return {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer), "metaq": compressor}


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "digits.mtq", Path(sys.argv[2]) if len(sys.argv) > 2 else None)
