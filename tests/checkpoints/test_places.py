"""Where outputs may go, and folders of runs that were killed before they had finished anything."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from metaq import api
from metaq.checkpoints import CompressionConfig, compress_path, decompress_path, work_folder
from metaq.checkpoints.resumable import LOCK, STATE
from metaq.errors import InputError

NAMES = ["a.safetensors", "b.safetensors"]


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{seed}.weight": torch.randn(90, 70, generator=generator),
        f"{seed}.half": torch.randn(12, 50, generator=generator).bfloat16(),
    }


@pytest.fixture
def folder(write_folder):
    return write_folder({name: tensors(seed) for seed, name in enumerate(NAMES)})


def everything(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


OUTPUTS = {
    "itself": lambda path: path,
    "a link to it": lambda path: linked(path, os.symlink),
    "a hard link to it": lambda path: linked(path, os.link),
    "by another way": lambda path: path.parent / ".." / path.parent.name / path.name,
}


def linked(path, link):
    link(path, path.with_name("link"))
    return path.with_name("link")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("place", OUTPUTS.values(), ids=OUTPUTS.keys())
def test_the_source_is_never_replaced(folder, place, force):
    path = folder / NAMES[0]
    output, before = place(path), path.read_bytes()
    with pytest.raises(InputError, match="expected another place than the source, found the source itself"):
        compress_path(path, output, CompressionConfig(), force=force)
    assert path.read_bytes() == before


@pytest.mark.parametrize("force", [False, True])
def test_neither_is_a_compressed_file_that_is_decompressed(tmp_path, folder, force):
    compress_path(folder / NAMES[0], tmp_path / "x.mtq", CompressionConfig())
    os.symlink(tmp_path / "x.mtq", tmp_path / "y.pt")
    with pytest.raises(InputError, match="found the source itself"):
        decompress_path(tmp_path / "x.mtq", tmp_path / "y.pt", force=force)


def test_an_output_that_exists_is_replaced_only_by_force(tmp_path, folder):
    source, path, back = folder / NAMES[0], tmp_path / "x.mtq", tmp_path / "y.npz"
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"x.mtq: expected no such file yet, found one; --force replaces it"):
        compress_path(source, path, CompressionConfig(keep=("0.half",)))
    assert path.read_bytes() == b"mine"
    compress_path(source, path, CompressionConfig(keep=("0.half",), bits=3), force=True)
    back.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"y.npz: expected no such file yet, found one"):
        decompress_path(path, back)
    with pytest.raises(InputError, match=r"y.npz, tensor '0.half': expected a dtype of NumPy's .*, found bfloat16"):
        decompress_path(path, back, force=True)
    assert back.read_bytes() == b"mine"
    decompress_path(path, tmp_path / "y.safetensors")


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path, folder):
    (tmp_path / "there").mkdir()
    os.symlink(tmp_path / "there" / "x.mtq", tmp_path / "x.mtq")
    compress_path(folder / NAMES[0], tmp_path / "x.mtq", CompressionConfig())
    assert (tmp_path / "x.mtq").is_symlink()
    assert api.load_file(tmp_path / "there" / "x.mtq").keys() == tensors(0).keys()


def test_folders_are_replaced_only_by_force_and_only_by_their_like(tmp_path, folder):
    out = tmp_path / "out"
    compress_path(folder, out, CompressionConfig(lossless=True))
    before = everything(out)
    with pytest.raises(
        InputError, match="expected no such folder or an empty one, found one with files in it; --force"
    ):
        compress_path(folder, out, CompressionConfig(bits=3))
    assert everything(out) == before
    compress_path(folder, out, CompressionConfig(bits=3), force=True)
    assert everything(out).keys() == before.keys()
    assert sum(map(len, everything(out).values())) < 0.5 * sum(map(len, before.values()))
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_bytes(b"x")
    with pytest.raises(InputError, match=r"found one with files in it that are no \*.mtq shards"):
        compress_path(folder, tmp_path / "mine", CompressionConfig(), force=True)
    for force in (False, True):
        with pytest.raises(InputError, match="expected a place that is not around"):
            compress_path(folder, tmp_path, CompressionConfig(), force=force)


KILLED = """
import os, sys
from pathlib import Path
from metaq.checkpoints import CompressionConfig, compress_path
from metaq.checkpoints.chunk_encoder import ChunkEncoder
ChunkEncoder.write = lambda *_: os.kill(os.getpid(), 9)
compress_path(Path(sys.argv[1]), Path(sys.argv[2]), CompressionConfig(lossless=True))
"""


@pytest.mark.parametrize("name", ["", NAMES[0]], ids=["folder", "file"])
def test_a_run_that_was_killed_before_its_first_shard(tmp_path, folder, name):
    source, output = (folder / name if name else folder), tmp_path / "out.mtq"
    killed = subprocess.run([sys.executable, "-c", KILLED, source, output], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {path.name for path in work_folder(output).iterdir()} == {LOCK, STATE, "files"}
    shutil.copytree(work_folder(output), tmp_path / "left")
    for resume in (False, True):
        compress_path(source, output, CompressionConfig(lossless=True), resume=resume, force=True)
        assert not work_folder(output).exists()
        assert output.exists()
        shutil.copytree(tmp_path / "left", work_folder(output))


@pytest.mark.parametrize("left", [[], [LOCK], [LOCK, ".metaq-x.tmp"]], ids=["empty", "no state", "half a state file"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_was_killed_before_its_state_was_whole(tmp_path, folder, left, resume):
    path = work_folder(tmp_path / "out")
    path.mkdir()
    for name in left:
        (path / name).write_bytes(b"{")
    compress_path(folder, tmp_path / "out", CompressionConfig(lossless=True), resume=resume)
    assert {found.name for found in tmp_path.iterdir()} == {"model", "out"}


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path, folder):
    for source, name in ((folder / NAMES[0], "x.mtq"), (tmp_path / "x.mtq", "y.safetensors")):
        output = tmp_path / name
        output.touch(mode=0o600)
        work = compress_path if name == "x.mtq" else decompress_path
        work(source, output, *([CompressionConfig(lossless=True)] if name == "x.mtq" else []), force=True)
        assert output.stat().st_size > 0
        assert output.stat().st_mode & 0o777 == 0o600
