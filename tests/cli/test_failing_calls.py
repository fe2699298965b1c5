"""Calls of the C library that fail, in other processes: outputs are whole or as before, and the next run ends well.

`tests/checkpoints/test_faults.py` has Python's calls fail; here are also those below it: buffers that are flushed late,
writes of which half is done, and libraries that write by themselves.
"""

import itertools
import shutil

import pytest
import safetensors.torch
import torch
from failing_calls import COMPILER, Commands, Failure, state_of

import metaq
from metaq.checkpoints import work_folder, write_difference

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")

FAILURES = (Failure.ONCE, Failure.FROM_THEN_ON, Failure.DISK_FULL)
SAMPLED = 4  # failing calls of a work by default
# Where these fail, something is left behind that no output is made of, or a file without a name gets one.
HARMLESS = ("unlink", "unlinkat", "rmdir", "open of no name", "")
APPENDED, KEPT = 5, 3  # steps of an update log


def arguments(work, place):
    """What a work is done by, and its output."""
    checkpoint, model, out = place / "model.safetensors", place / "model", place / "out"
    return {
        "file": (("metaq", "compress", checkpoint, "-o", out, "--bits", 4), out),
        "file-replaced": (("metaq", "compress", checkpoint, "-o", place / "old.mtq", "--bits", 4), place / "old.mtq"),
        "folder": (("metaq", "compress", model, "-o", out, "--bits", 4), out),
        "decompressed": (("metaq", "decompress", place / "old.mtq", "-o", place / "out.pt"), place / "out.pt"),
        "delta": (("metaq", "delta", checkpoint, place / "new.safetensors", "-o", out), out),
        "delta-with-loss": (("metaq", "delta", model, place / "new", "-o", out, "--bits", 3), out),
        "applied": (("metaq", "apply", model, place / "folder.mtq", "-o", out), out),
        "applied-in-place": (("metaq", "apply", model, place / "folder.mtq", "--in-place"), model),
        "file-in-place": (("metaq", "apply", checkpoint, place / "update.mtq", "--in-place"), checkpoint),
    }[work]


WORKS = (
    *("file", "file-replaced", "folder", "decompressed", "delta", "delta-with-loss"),
    *("applied", "applied-in-place", "file-in-place"),
)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A place with what works begin with, which is copied for each, and the place to work in."""
    start = tmp_path_factory.mktemp("start")
    for name, seed in (("model", 0), ("new", 1)):
        generator = torch.Generator().manual_seed(seed)
        tensors = {key: torch.randn(20, 30, generator=generator) for key in ("a.weight", "b.weight")}
        safetensors.torch.save_file(tensors, start / f"{name}.safetensors")
        (start / name / "sub").mkdir(parents=True)
        for key, tensor in tensors.items():
            safetensors.torch.save_file({key: tensor}, start / name / f"{key[0]}.safetensors")
        index = '{"weight_map": {"a.weight": "a.safetensors", "b.weight": "b.safetensors"}}'
        (start / name / "model.safetensors.index.json").write_text(index)
        (start / name / "sub" / "config.json").write_text("{}")
    write_difference(start / "model", start / "new", start / "folder.mtq")
    write_difference(start / "model.safetensors", start / "new.safetensors", start / "update.mtq")
    metaq.save(metaq.compress(safetensors.torch.load_file(start / "model.safetensors"), step=0.5), start / "old.mtq")
    return start, tmp_path_factory.mktemp("work") / "place"


@pytest.fixture(scope="module")
def commands(places, tmp_path_factory):
    commands = Commands(places[1], tmp_path_factory.mktemp("library"))
    yield commands
    commands.close()


def everything(path):
    """The content of a file, or of all files of a folder; None where nothing is."""
    if path.is_dir():
        return {str(found.relative_to(path)): found.read_bytes() for found in path.rglob("*") if found.is_file()}
    return path.read_bytes() if path.exists() else None


def others(place, output):
    """Whatever is in a place, but for an output and what is left of it."""
    left = (output.name, work_folder(output).name)
    return {p.name: everything(p) for p in place.iterdir() if p.name not in left and not p.name.startswith(".metaq-")}


def check(outcome, is_done):
    """Exit code 0 stands for an output that is there, any other for a failure that is told in one line."""
    if outcome.code == 0:
        assert is_done
        assert outcome.failed in HARMLESS
        assert outcome.errors == ""
    else:
        assert outcome.code == 2
        assert outcome.failed
        assert outcome.errors.startswith("metaq: ")
        assert outcome.errors.count("\n") == 1
        assert "expected" in outcome.errors


def begun(places):
    start, place = places
    if place.exists():
        shutil.rmtree(place)
    shutil.copytree(start, place)
    return place


def cases(calls, is_all):
    """Which calls fail, and how."""
    step = 1 if is_all else max(1, calls // SAMPLED)
    return zip(range(1, calls + 1, step), itertools.cycle(FAILURES), strict=False)


every = pytest.mark.parametrize("is_all", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])


@every
@pytest.mark.parametrize("work", WORKS)
def test_commands(places, commands, work, is_all):
    place = begun(places)
    command, output = arguments(work, place)
    again = [] if "--in-place" in command else ["--force"]
    before, sources = everything(output), others(place, output)
    whole = commands.run(*command, *again)
    assert (whole.code, whole.errors, whole.failed) == (0, "", "")
    after = everything(output)
    assert after not in (None, before)
    for at, failure in cases(whole.calls, is_all):
        begun(places)
        outcome = commands.run(*command, *again, failure=failure, at=at)
        found = everything(output)
        if found is None and before is not None:  # between two renames
            assert everything(work_folder(output) / "replaced") == before
        else:
            assert found in (before, after)
        check(outcome, found == after)
        assert others(place, output) == sources
        repeated = commands.run(*command, *again, *(["--resume"] if at % 2 else []))
        assert everything(output) == after
        assert repeated.code == 0 or (found == after and "--in-place" in command)
        assert others(place, output) == sources


@every
def test_update_logs(places, commands, is_all):
    place = begun(places)
    path = place / "x.mtql"
    whole = commands.run("append", path, APPENDED, KEPT)
    assert (whole.code, whole.errors) == (0, "")
    after = path.read_bytes()
    for at, failure in cases(whole.calls, is_all):
        begun(places)
        outcome = commands.run("append", path, APPENDED, KEPT, failure=failure, at=at)
        check(outcome, path.exists() and path.read_bytes() == after)
        if path.exists():
            with metaq.DeltaReader(path) as log:
                assert log.steps in (*(list(range(count)) for count in range(APPENDED + 1)), [2, 3, 4])
                for step in log.steps:
                    assert all(torch.equal(tensor, state_of(step)[name]) for name, tensor in log.read(step).items())
        assert commands.run("append", path, APPENDED, KEPT).code == 0
        assert path.read_bytes() == after


@pytest.mark.parametrize("work", [*WORKS, "append"])
def test_short_writes(places, commands, work):
    """Whoever writes goes on where the system stopped."""
    found = []
    for failure in (Failure.NONE, Failure.SHORT_WRITES):
        place = begun(places)
        if work == "append":
            command, output = ("append", place / "x.mtql", APPENDED, KEPT), place / "x.mtql"
        else:
            command, output = arguments(work, place)
            command = (*command, *([] if "--in-place" in command else ["--force"]))
        outcome = commands.run(*command, failure=failure)
        assert (outcome.code, outcome.errors) == (0, "")
        found.append((everything(output), outcome.calls))
    assert found[0][0] == found[1][0]
    assert found[0][1] < found[1][1]
