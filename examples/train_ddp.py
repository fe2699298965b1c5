"""Train on several processes, each with all of the network: DistributedDataParallel.

torchrun --nproc-per-node 2 examples/train_ddp.py digits.mtq
"""

import sys

import torch
from torch import distributed
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import metaq
from metaq.experiments.data import by_name
from metaq.experiments.models import LeNet5

EPOCHS, BATCH = 10, 32


def main(path: str) -> None:
    distributed.init_process_group("gloo")  # "nccl" for GPUs
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    train = by_name("digits")(200).train
    model = DistributedDataParallel(LeNet5())  # gives all processes the first one's weights
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    steps = EPOCHS * (len(train) // BATCH)
    compressor = metaq.Compressor(model, metaq.METaQ(), optimizer, training_steps=steps)
    order = torch.Generator().manual_seed(0)  # the same on all processes
    for epoch in range(EPOCHS):
        for batch in torch.randperm(len(train), generator=order).split(BATCH)[: steps // EPOCHS]:
            part = batch.chunk(ranks)[rank]
            optimizer.zero_grad()
            functional.cross_entropy(model(train.inputs[part]), train.labels[part]).backward()
            compressor.regularize()
            optimizer.step()
        if rank == 0:
            print(f"epoch {epoch}: {compressor.measure()['size_bytes']:,} bytes", flush=True)
    if rank == 0:  # all have the same
        print(f"{path}: {metaq.save(compressor.compress(), path):,} bytes")
    distributed.barrier()  # until the file is there, and gloo's threads have let go of what they sent
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "digits.mtq")
