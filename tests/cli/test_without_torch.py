"""What takes no torch runs where there is none, and says the same as where there is one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

import metaq


def without_torch(*arguments):
    """Standard output of a command that must succeed in a process that cannot import torch."""
    code = "import sys; sys.modules['torch'] = None\nfrom metaq.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout


@pytest.fixture
def compressed(succeeds, folder, tmp_path):
    """A folder of two .mtq shards."""
    succeeds("compress", folder, "-o", tmp_path / "small", "--step", "0.25", "-q")
    return tmp_path / "small"


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_inspect_and_verify(succeeds, file, folder, compressed, verb):
    (folder / "config.json").write_text('{"model_type": "bert"}')
    wrapped = folder.with_name("wrapped")
    succeeds("compress", folder, "-o", wrapped, "--step", "0.25", "--as", "safetensors", "-q")
    for source in (file, compressed, wrapped):
        assert without_torch(verb, source, "--json") == succeeds(verb, source, "--json")


def test_decompress(file, tmp_path):
    expected = metaq.load_file(file)
    assert without_torch("decompress", file, "-o", tmp_path / "x.safetensors") == ""
    found = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert without_torch("decompress", file, "-o", tmp_path / "x.npz") == ""
    with np.load(tmp_path / "x.npz") as arrays:
        assert set(arrays) == set(expected)
        assert all(np.array_equal(arrays[name], tensor.numpy()) for name, tensor in expected.items())


def test_decompress_of_a_folder(compressed, folder, tmp_path):
    assert without_torch("decompress", compressed, "-o", tmp_path / "back") == ""
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == sorted(path.name for path in folder.iterdir())


def test_recipes(succeeds):
    assert json.loads(without_torch("recipes", "--json")) == json.loads(succeeds("recipes", "--json"))
