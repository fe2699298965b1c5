"""Stopped or failing at any call that changes a file: outputs are whole or as before, and resumed runs end well."""

import os
import shutil
from contextlib import suppress
from functools import partial

import pytest
import torch
from faulty_files import Fault, KilledError, faulty

from metaq.checkpoints import (
    CompressionConfig,
    apply_differences,
    compress_path,
    decompress_path,
    work_folder,
    write_difference,
)
from metaq.errors import InputError

NAMES = ["a.safetensors", "b.safetensors"]
LOSSLESS = CompressionConfig(lossless=True)


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(12, 9, generator=generator) for name in (f"{name[0]}.weight" for name in NAMES)}


def everything(path):
    """The content of a file, or of all files of a folder; None where nothing is."""
    if path.is_dir():
        return {str(found.relative_to(path)): found.read_bytes() for found in path.rglob("*") if found.is_file()}
    return path.read_bytes() if path.exists() else None


@pytest.fixture
def folder(write_folder):
    folder = write_folder({name: {f"{name[0]}.weight": tensors(0)[f"{name[0]}.weight"]} for name in NAMES})
    (folder / "sub").mkdir()
    (folder / "sub" / "metaq-state.json").write_text("{}")
    return folder


def compression(tmp_path, folder):
    return partial(compress_path, folder, tmp_path / "out", LOSSLESS)


def replacement(tmp_path, folder):
    compress_path(folder, tmp_path / "out", CompressionConfig(step=1.0))
    return partial(compress_path, folder, tmp_path / "out", LOSSLESS, force=True)


def single_file(tmp_path, folder):
    (tmp_path / "out").write_bytes(b"old")
    return partial(compress_path, folder / NAMES[0], tmp_path / "out", CompressionConfig(step=0.5), force=True)


def decompression(tmp_path, folder):
    compress_path(folder, tmp_path / "small", LOSSLESS)
    return partial(decompress_path, tmp_path / "small", tmp_path / "out")


def single_decompression(tmp_path, folder):
    compress_path(folder / NAMES[0], tmp_path / "x.mtq", LOSSLESS)
    (tmp_path / "out.safetensors").write_bytes(b"old")
    return partial(decompress_path, tmp_path / "x.mtq", tmp_path / "out.safetensors", force=True)


def difference(tmp_path, folder, output="out", **dial):
    new = tmp_path / "new"
    if not new.exists():
        shutil.copytree(folder, new)
        import safetensors.torch

        for name in NAMES:
            safetensors.torch.save_file({f"{name[0]}.weight": tensors(1)[f"{name[0]}.weight"]}, new / name)
    return partial(write_difference, folder, new, tmp_path / output, CompressionConfig(**dial))


def lossy_difference(tmp_path, folder):
    return difference(tmp_path, folder, step=0.5)


def application(tmp_path, folder):
    difference(tmp_path, folder, "update.mtq", lossless=True)()
    return partial(apply_differences, folder, [tmp_path / "update.mtq"], tmp_path / "out")


def application_in_place(tmp_path, folder):
    difference(tmp_path, folder, "update.mtq", lossless=True)()
    shutil.copytree(folder, tmp_path / "out")
    return partial(apply_differences, tmp_path / "out", [tmp_path / "update.mtq"], tmp_path / "out")


WORK = [
    compression,
    replacement,
    single_file,
    decompression,
    single_decompression,
    lossy_difference,
    application,
    application_in_place,
]


QUICK = [(replacement, Fault.DEATH), (single_file, Fault.FAILURES)]
CASES = [
    pytest.param(
        work, fault, marks=[] if (work, fault) in QUICK else pytest.mark.slow, id=f"{work.__name__}-{fault.value}"
    )
    for work in WORK
    for fault in Fault
]


@pytest.mark.parametrize(("work", "fault"), CASES)
def test_outputs_are_whole_or_as_before_and_resumed_runs_end_well(tmp_path, folder, monkeypatch, work, fault):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    run = work(tmp_path, folder)
    output = next(place for place in (tmp_path / "out", tmp_path / "out.safetensors") if place in _places(run))
    start, known = tmp_path / "start", {path.name for path in tmp_path.iterdir()}
    before = everything(output)
    if before is not None:
        shutil.copytree(output, start) if output.is_dir() else shutil.copy2(output, start)
    with faulty(monkeypatch) as files:
        run()
    after = everything(output)
    assert after not in (None, before)
    for at in range(1, files.calls + 1):
        _reset(output, start)
        with faulty(monkeypatch, at, fault), suppress(KilledError, InputError):
            run()
        found = everything(output)
        if found is None and before is not None:  # between two renames
            assert everything(work_folder(output) / "replaced") == before
        else:
            assert found in (before, after)
        with suppress(InputError):  # that it exists, if the run was stopped at its very end
            run(resume=at % 2 == 0)
        assert everything(output) == after
        left = {path.name for path in tmp_path.iterdir()} - known - {output.name, "start"}
        assert all(name.startswith(".metaq-") or name == work_folder(output).name for name in left)
        for name in left:
            path = tmp_path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _places(run):
    return [argument for argument in run.args if not isinstance(argument, CompressionConfig | list)]


def _reset(output, start):
    if output.is_dir():
        shutil.rmtree(output)
    elif output.exists():
        output.unlink()
    if start.exists():
        shutil.copytree(start, output) if start.is_dir() else shutil.copy2(start, output)
