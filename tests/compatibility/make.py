"""`python tests/compatibility/make.py NAME` writes the folder NAME: a file of every kind and coder of this release.

Files here never change, since every later release reads them; those of tests/golden, whose models most of these are,
hold what today's encoders write, and change when encoders do. A folder that exists is therefore refused: a release
that writes something new gets a folder of its own beside the older ones.

`expected.json` says what each file decodes to: names in order, metadata, and the checksum of all names, dtypes, shapes
and bytes that docs/format.md has under "Differences".
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import metaq

FOLDER = Path(__file__).parent
LEFT_OUT = ("lossless-rans.mtq", "nothing.mtq")  # large, and like smaller ones; and without a tensor to have a checksum

_spec = importlib.util.spec_from_file_location("golden_make", FOLDER.parent / "golden" / "make.py")
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)


def before() -> dict[str, torch.Tensor]:
    """A base of every dtype, one tensor of which will be gone and another moved."""
    noise = golden.hashed(5, 8, seed=1)
    floats = noise.double() / 2.0**31 - 1
    state = {str(dtype): floats.to(dtype) for dtype in golden.KEPT_DTYPES}
    state |= {str(dtype): noise.to(dtype) for dtype in golden.INTEGER_DTYPES}
    return state | {"flag": torch.tensor([True, False]), "gone": torch.ones(3), "moved": floats.float() * 3}


def after() -> dict[str, torch.Tensor]:
    """What becomes of it: every kind of change without loss."""
    base = before()
    changes = (torch.arange(40) % 7 == 0).reshape(5, 8)
    state = {}
    for dtype in golden.KEPT_DTYPES:
        values = base[str(dtype)]
        state[str(dtype)] = torch.where(changes, values.double() * 1.5, values.double()).to(dtype)
    for dtype in golden.INTEGER_DTYPES:
        state[str(dtype)] = base[str(dtype)] + changes.to(dtype)
    state["torch.uint8"] = torch.cat([state["torch.uint8"], state["torch.uint8"][:2]])
    moved = {"moved here": base["moved"].reshape(4, 10), "tied": state["torch.float32"]}
    return state | moved | {"flag": ~base["flag"], "new": torch.tensor([1.5, -0.0, float("nan")])}


def write(folder: Path) -> dict[str, Any]:
    """Write the files; gives what they decode to."""
    (folder / "differences").mkdir(parents=True)
    expected: dict[str, Any] = {}

    def whole(name: str, model: metaq.CompressedModel, coder: str) -> None:
        metaq.save(model, folder / name, coder)
        state = model.decompress()
        expected[name] = {"names": list(state), "metadata": model.metadata, "checksum": metaq.checksum(state)}

    def difference(name: str, base: str, checksum: str) -> None:
        expected[name] = {"base": base, "checksum": checksum}

    for name, (model, coder) in golden.files().items():
        if model.base is None and name not in LEFT_OUT:
            whole(name, model, coder)
    whole("base-of-task.mtq", metaq.compress_losslessly(golden.base()), "rans")
    whole("before.mtq", metaq.compress_losslessly(before()), "rans")

    metaq.save(golden.task(), folder / "differences" / "task.mtq", "mixing")
    made = metaq.apply(golden.base(), folder / "differences" / "task.mtq")
    difference("differences/task.mtq", "base-of-task.mtq", metaq.checksum(made))
    (folder / "differences" / "lossless.mtq").write_bytes(metaq.delta(before(), after()))
    difference("differences/lossless.mtq", "before.mtq", metaq.checksum(after()))
    steps = {0: before(), 1: after(), 2**40: before()}
    with metaq.DeltaWriter(folder / "differences" / "steps.mtql", keyframe_every=2) as log:
        for step, state in steps.items():
            log.append(state, step)
    expected["differences/steps.mtql"] = {"steps": {str(step): metaq.checksum(state) for step, state in steps.items()}}

    with tempfile.TemporaryDirectory() as source:
        (Path(source) / "config.json").write_text('{"model_type": "bert"}')
        metaq.save_pretrained(golden.network(), folder / "pretrained", source=source)
    expected["pretrained"] = {"checksum": metaq.checksum(golden.network().decompress())}
    return expected


def main() -> None:
    """Write a new folder."""
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/compatibility/make.py NAME")
    folder = FOLDER / sys.argv[1]
    if folder.exists():
        sys.exit(f"{folder}: expected a folder that is not there yet, since files of a release never change, found one")
    expected = write(folder)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
