"""The examples of docs/cli.md, run in order in one folder, and that it leaves no command out."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper

from metaq.cli.app import app

TEXT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
EXAMPLES = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
SLOW = ("metaq demo", "metaq curve")  # more than ten seconds


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """What the examples work on: a small network as a file, as a folder of one shard, and as an ONNX model."""
    path = tmp_path_factory.mktemp("examples")
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "body.head.weight": torch.randn(40, 30, generator=generator),
        "body.weight": torch.randn(60, 30, generator=generator),
        "norm.weight": torch.ones(30),
    }
    (path / "folder").mkdir()
    for name in ("model.safetensors", "folder/model.safetensors"):
        safetensors.torch.save_file(tensors, path / name)
    initialisers = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in tensors.items()]
    nodes = [helper.make_node("Sum", ["body.weight", "norm.weight"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [60, 30])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "main", [], outputs, initialisers)), path / "model.onnx")
    return path


@pytest.mark.parametrize(
    "example", [pytest.param(line, marks=pytest.mark.slow) if line.startswith(SLOW) else line for line in EXAMPLES]
)
def test_example(place, example):
    name, *arguments = shlex.split(example)
    assert name == "metaq"
    command = [sys.executable, "-m", "metaq", *arguments]
    finished = subprocess.run(command, cwd=place, capture_output=True, text=True, env=os.environ, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert bool(finished.stdout) == (arguments[0] not in ("decompress", "apply") and "-q" not in arguments)


def test_every_command_has_its_section():
    sections = re.findall(r"^## (\w+)$", TEXT, re.M)
    commands = [command.callback.__name__ for command in app.registered_commands]
    assert sorted(sections) == sorted(commands)
    for command in commands:
        assert any(example.startswith(f"metaq {command}") for example in EXAMPLES)
