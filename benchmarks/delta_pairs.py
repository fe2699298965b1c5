"""What real fine-tuning costs as a difference without loss, beside what general compressors make of it.

    python benchmarks/delta_pairs.py --folder MINILM [--work FOLDER] [--output delta_pairs.json]

The network of a Hugging Face folder, MiniLM in `delta_pairs.json`, is fine-tuned on SST-2 (`METAQ_DATA`) with AdamW, no
weight decay, a rate of 2e-5 and batches of 16, its weights, moments and steps all in bfloat16 or all in float32. Rows
are the network after some steps from the one before the first, and the last step alone. Peers are those of
`delta.py`, on the bits of all tensors one after the other; ours are the bytes of the file.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from delta import peers
from measuring import machine
from sst2_task import Task
from torch import Tensor

import metaq
from metaq.tensors import words_of

DTYPES = ("bfloat16", "float32")
STEPS = (1, 10, 100, 400)
BATCH, RATE = 16, 2e-5

State = dict[str, Tensor]


def trained(task: Task, dtype: torch.dtype, steps: Sequence[int]) -> dict[int, State]:
    """The network's state after no step, after each of these, and before the last."""
    torch.manual_seed(0)
    model = task.base().to(dtype)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(0)).tolist()
    kept = {}
    for step in range(steps[-1] + 1):
        if step in (0, *steps, steps[-1] - 1):
            kept[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        places = [order[number % len(order)] for number in range(step * BATCH, (step + 1) * BATCH)]
        sentences = [task.train[place] for place in places]
        (batch,) = task.batches(sentences, BATCH)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return kept


def whole(state: State) -> np.ndarray:
    return np.concatenate([words_of(tensor) for tensor in state.values() if tensor.is_floating_point()])


def measure(before: State, after: State, level: int, dtype: str) -> dict[str, Any]:
    start = time.perf_counter()
    data = metaq.delta(before, after)
    middle = time.perf_counter()
    made = metaq.apply(before, data)
    end = time.perf_counter()
    if metaq.checksum(made) != metaq.checksum(after):
        raise RuntimeError("expected the new network, found another")
    old, new = whole(before), whole(after)
    row: dict[str, Any] = {"changed_share": float(np.mean(old != new)), "checkpoint_bytes": new.nbytes}
    row |= {"file_bytes": len(data), "delta_seconds": middle - start, "apply_seconds": end - middle}
    row["peers"] = {name: peer.size for name, peer in peers(old, new, level, dtype).items()}
    if row["peers"]:
        row["of_the_best_peer"] = len(data) / min(row["peers"].values())
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="of the network and its tokenizer")
    parser.add_argument("--work", type=Path, help="where states are kept, to be measured again")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="in increasing order")
    parser.add_argument("--level", type=int, default=19, help="zstd's, beside 3")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    task, rows = None, []
    for name in options.dtypes:
        path = options.work / f"{name}.pt" if options.work else None
        if path is None or not path.exists():
            task = task or Task(options.folder)
            states = trained(task, getattr(torch, name), options.steps)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(states, path)
        else:
            states = torch.load(path)
        for first, last in (*((0, step) for step in options.steps), (options.steps[-1] - 1, options.steps[-1])):
            rows.append(
                {"dtype": name, "from": first, "to": last, **measure(states[first], states[last], options.level, name)}
            )
            row = rows[-1]
            share = f"{100 * row['changed_share']:.2f} % changed"
            of_best = f"{row['of_the_best_peer']:.3f} of the best peer" if row["peers"] else "no peers"
            print(f"{name}, {first} to {last}: {share}, {row['file_bytes']:,} bytes, {of_best}", flush=True)
    places = {str(options.folder): "FOLDER", str(options.work): "WORK", str(options.output): "delta_pairs.json"}
    given = [places.get(text, text) for text in (sys.argv[1:] if arguments is None else arguments)]
    if options.output:
        command = shlex.join(["python", "benchmarks/delta_pairs.py", *given])
        report = {"command": command, "machine": machine(), "rows": rows}
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
