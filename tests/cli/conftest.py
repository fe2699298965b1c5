"""Commands in this process and in one of their own, and a small checkpoint to work on."""

import json
import signal
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch

import metaq
from metaq.cli import app

METADATA = {"format": "pt", "note": "ü [bold]x[/i]"}


@pytest.fixture
def command(monkeypatch, capsys):
    """A function from a command's arguments to its exit code, standard output and standard error, in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["metaq", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            app.main()
        return exited.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def succeeds(command):
    """Standard output of a command that must succeed in silence otherwise."""

    def check(*arguments):
        code, output, errors = command(*arguments)
        assert (code, errors) == (0, "")
        return output

    return check


@pytest.fixture
def fails(command):
    """The one line of a command that must fail."""

    def check(*arguments):
        code, output, errors = command(*arguments)
        assert (code, output) == (2, "")
        assert errors.startswith("metaq: ")
        assert errors.count("\n") == 1
        assert errors.endswith("\n")
        return errors

    return check


@pytest.fixture
def network():
    """A state dict with a matrix twice, a vector and a scalar."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(20, 30, generator=generator)
    return {"z.weight": base, "a.bias": torch.randn(20, generator=generator), "steps": torch.tensor(7), "tied": base}


@pytest.fixture
def checkpoint(tmp_path, network):
    """The network as a .safetensors file."""
    path = tmp_path / "model.safetensors"
    separate = {name: tensor.clone() for name, tensor in network.items()}
    safetensors.torch.save_file(separate, path, METADATA)
    return path


@pytest.fixture
def file(tmp_path, network):
    """The network as a .mtq file."""
    path = tmp_path / "model.mtq"
    metaq.save(metaq.compress(network, step=0.5), path)
    return path


@pytest.fixture
def folder(tmp_path):
    """A folder of two shards, an index and another file."""
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "model"
    path.mkdir()
    places = {}
    for shard in ("1.safetensors", "2.safetensors"):
        tensors = {f"{shard[0]}.weight": torch.randn(40, 50, generator=generator), f"{shard[0]}.bias": torch.ones(3)}
        # safetensors writes metadata of several entries in an order that changes from call to call.
        safetensors.torch.save_file(tensors, path / shard, {"format": "pt"})
        places |= dict.fromkeys(tensors, shard)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (path / "config.json").write_text("{}")
    return path


@pytest.fixture
def names_in():
    """A function from a folder to the sorted names in it."""
    return lambda folder: sorted(path.name for path in folder.iterdir())


@pytest.fixture
def start():
    """A function that starts a command in a process of its own."""

    def begin(*arguments):
        command = [sys.executable, "-m", "metaq", *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return begin


@pytest.fixture
def interrupted():
    """A function to the outcome of a process that gets Ctrl-C, or another signal, as soon as a path exists."""

    def interrupt(process, path, number=signal.SIGINT):
        deadline = time.monotonic() + 180
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    return interrupt
