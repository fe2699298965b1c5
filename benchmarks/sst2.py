"""What a BERT that is fine-tuned on SST-2 takes on disk, and how good it is: METaQ from `Trainer` beside other ways.

    python benchmarks/sst2.py --folder MINILM --work runs/sst2 --output sst2.json [--cases float metaq] [--sizes 900000]
    python benchmarks/sst2.py ... --test

Cases, of which "bytes" counts the whole file, the classification head included:

float: AdamW, as a `.safetensors` file of float32.
narrow: the same without the embeddings of unused tokens, without loss: what those up to "calibrated" begin with.
metaq, hemp: trained towards each of `--sizes` by `MetaqCallback`; metaq-strength: with a `--strength` instead.
post-training, calibrated: quantized to each of the sizes without training, without and with data.
difference, difference-strength: the same of METaQ on the difference from the network before fine-tuning, which the
    reader has.
lora, lora-4bit: LoRA of rank 8 beside queries and values (`--lora-layers`), in float16 and at 4 bits a weight.
bitfit: biases alone, in float16. bitdelta: one bit for the difference of each weight of "float".

Accuracies are those of the files, read back: on a tenth of the training sentences, held out for every choice, and on
the development set. `--test` measures the rows on the test set instead, each once. Rows that the output has are not
made again; training that was stopped goes on after its last epoch. Several processes may share a work folder once
"float" is in it, and need an output each. Without `--cases` all are made but those with a strength.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from measuring import machine
from sst2_cases import BY_DEFAULT, CASES, Job, Row, Workbench


class Report:
    """Rows that are written as soon as they are there."""

    def __init__(self, path: Path, command: str) -> None:
        self.path = path
        found = json.loads(path.read_text()) if path.exists() else {}
        self.rows: list[Row] = found.get("rows", [])
        self.fields = {"command": command, "machine": machine()}

    def row(self, job: Job) -> Row | None:
        """The row of a job, if it is there."""
        return next((row for row in self.rows if job.key.items() <= row.items()), None)

    def write(self) -> None:
        """Write all of them."""
        self.path.write_text(json.dumps(self.fields | {"rows": self.rows}, indent=1) + "\n")


def measure(job: Job) -> Row:
    """The row of a job, whose file is made."""
    found = {} if job.file.exists() else job.make()  # without times, where a case before had to make it
    model, task = job.model(), job.bench.task
    accuracies = {"held_out_accuracy": task.held_out, "dev_accuracy": task.dev}
    found |= {name: task.accuracy(model, sentences) for name, sentences in accuracies.items()}
    return job.key | {"bytes": job.file.stat().st_size} | found


def show(row: Row) -> None:
    accuracies = (row.get(f"{name}_accuracy") for name in ("held_out", "dev", "test"))
    shown = " | ".join("" if accuracy is None else f"{accuracy:.2%}" for accuracy in accuracies)
    print(f"| {row['case']} | {row['bytes']:,} | {shown} | {row.get('seconds', 0):.0f} |", flush=True)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="the network and its tokenizer")
    parser.add_argument("--work", type=Path, required=True, help="folder for files, and for training to go on from")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write, and to go on from")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=BY_DEFAULT)
    parser.add_argument("--sizes", type=int, nargs="+", default=[900_000], help="bytes, for cases that aim at a size")
    parser.add_argument("--float-epochs", type=int, default=2, help='epochs of the case "float"')
    parser.add_argument("--float-learning-rate", type=float, default=1e-4)
    parser.add_argument("--epochs", type=int, help="epochs of the other cases, instead of those that each has")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--strength", type=float, default=1e-6, help="of METaQ, where no size is asked for")
    parser.add_argument("--lora-layers", nargs="+", default=["query", "value"], help="ends of linear layers' names")
    parser.add_argument("--seed", type=int, default=0)
    precisions = ["float32", "bfloat16"]
    parser.add_argument("--precision", choices=precisions, default=precisions[0], help="of layers in training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--test", action="store_true", help="measure the rows on the test set, each once")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(arguments)
    torch.set_num_threads(options.threads)
    given = sys.argv[1:] if arguments is None else arguments
    named = {str(options.folder): "FOLDER", str(options.work): "WORK", str(options.output): "OUTPUT"}
    report = Report(options.output, shlex.join(["python", "benchmarks/sst2.py", *(named.get(t, t) for t in given)]))
    bench = Workbench(options)
    print("| case | bytes | held out | dev | test | s |\n|---|---|---|---|---|---|")
    for name in options.cases:
        for size in options.sizes if CASES[name].has_size else [0]:
            job = bench.job(name, size)
            row = report.row(job)
            if options.test:
                if row is None:
                    raise SystemExit(f"{name}: expected a row in {options.output}, found none; make it without --test")
                if "test_accuracy" not in row:
                    row["test_accuracy"] = bench.task.accuracy(job.model(), bench.task.test)
            elif row is None:
                row = measure(job)
                report.rows.append(row)
            report.write()
            show(row)


if __name__ == "__main__":
    main()
